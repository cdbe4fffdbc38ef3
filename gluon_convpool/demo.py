"""LeNet on handwritten digits, with our layers and with MXNet's own.

``python -m gluon_convpool demo`` runs it. The network is defined once, in `build_lenet`, and built
twice: from `gluon_convpool.nn` and from `mxnet.gluon.nn`. Both start from the same weights, see the
same batches in the same order, and take turns epoch by epoch, so that whatever else the machine
does slows both down alike.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Iterator, List, NamedTuple, Optional, Tuple

import numpy

import gluon_convpool

from ._mxnet import mx
from ._program import CommandError, choose_threads, picture_path, replacing, require_extra

REQUIRED_ACCURACY = 0.97
BATCH_SIZE = 32
LEARNING_RATE = 3e-3
# What the pictures need beside the package: import name and the name that pip knows.
EXTRAS = {'matplotlib': 'matplotlib', 'sklearn': 'scikit-learn', 'tqdm': 'tqdm'}


# --------------------------------------------------------------------------- data and network


class Digits(NamedTuple):
    """Images as float32 arrays of shape (n, 1, 8, 8) with values from 0 to 1, labels as int64."""

    train_images: numpy.ndarray
    train_labels: numpy.ndarray
    test_images: numpy.ndarray
    test_labels: numpy.ndarray


def load_digits(seed: int) -> Digits:
    """Return scikit-learn's 1,797 digits, a fifth of the images of each digit held out."""
    from sklearn import datasets, model_selection

    loaded = datasets.load_digits()
    images = (loaded.images[:, None] / 16).astype('float32')
    split = model_selection.train_test_split(
        images, loaded.target, test_size=0.2, stratify=loaded.target, random_state=seed
    )
    train_images, test_images, train_labels, test_labels = split
    return Digits(train_images, train_labels, test_images, test_labels)


def build_lenet(nn: ModuleType) -> Any:
    """Return LeNet for 8x8 images, its layers taken from the module `nn`.

    Parameters
    ----------
    nn : module
        ``gluon_convpool.nn`` or ``mxnet.gluon.nn``.

    Returns
    -------
    mxnet.gluon.nn.HybridSequential
        Takes (n, 1, 8, 8), gives the (n, 10) logits. Not initialised.

    Examples
    --------
    >>> from gluon_convpool import nn
    >>> from gluon_convpool.demo import build_lenet
    >>> len(build_lenet(nn))
    7
    """
    net = nn.HybridSequential()
    net.add(
        nn.Conv2D(20, kernel_size=5, padding=2, activation='relu'),
        nn.MaxPool2D(pool_size=2, strides=2),
        nn.Conv2D(50, kernel_size=3, padding=1, activation='relu'),
        nn.MaxPool2D(pool_size=2, strides=2),
        nn.Dense(120, activation='relu'),
        nn.Dense(84, activation='relu'),
        nn.Dense(10),
    )
    return net


def shift(images: numpy.ndarray, random: numpy.random.RandomState) -> numpy.ndarray:
    """Move every image by at most one pixel up or down and left or right.

    A network that sees only 1,437 images learns them by heart; moved ones keep it honest.
    """
    count, _, height, width = images.shape
    padded = numpy.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows = random.randint(0, 3, count)[:, None, None] + numpy.arange(height)[:, None]
    columns = random.randint(0, 3, count)[:, None, None] + numpy.arange(width)
    return padded[numpy.arange(count)[:, None, None], 0, rows, columns][:, None]


def make_batches(
    images: numpy.ndarray, labels: numpy.ndarray, random: numpy.random.RandomState
) -> List[Tuple[Any, Any]]:
    """Return one epoch's shuffled and shifted batches as MXNet arrays."""
    order = random.permutation(len(images))
    shifted = shift(images, random)
    parts = [order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE)]
    return [(mx.np.array(shifted[part]), mx.np.array(labels[part])) for part in parts]


# --------------------------------------------------------------------------- training


class Side:
    """One of the two networks with its trainer and what was measured on it."""

    def __init__(self, title: str, nn: ModuleType) -> None:
        self.title = title
        self.net = build_lenet(nn)
        self.loss_function = mx.gluon.loss.SoftmaxCrossEntropyLoss()
        self.losses: List[float] = []
        self.accuracies: List[float] = []
        self.seconds: List[float] = []

    def prepare(self) -> None:
        self.net.hybridize()
        self.trainer = mx.gluon.Trainer(
            self.net.collect_params(), 'adam', {'learning_rate': LEARNING_RATE}
        )

    def backward(self, images: Any, labels: Any) -> Any:
        with mx.autograd.record():
            loss = self.loss_function(self.net(images), labels)
        loss.backward()
        return loss

    def train(self, batches: List[Tuple[Any, Any]], learning_rate: float, progress: Any) -> None:
        """Train one epoch; add its mean loss and its time to the record."""
        self.trainer.set_learning_rate(learning_rate)
        mx.npx.waitall()
        begin = time.perf_counter()
        losses = []
        for images, labels in batches:
            losses.append(self.backward(images, labels).sum())
            self.trainer.step(len(images))
            progress.update()
        mx.npx.waitall()
        self.seconds.append(time.perf_counter() - begin)
        count = sum(len(images) for images, _ in batches)
        self.losses.append(sum(float(loss) for loss in losses) / count)

    def predict(self, images: numpy.ndarray) -> numpy.ndarray:
        return self.net(mx.np.array(images)).asnumpy().argmax(axis=1)


class Difference(NamedTuple):
    """The largest absolute difference of two sets of numbers, and the largest number in them."""

    largest: float
    scale: float

    def __str__(self) -> str:
        return f'{self.largest:.1e} (the largest is {self.scale:.3g})'


def difference(pairs: List[Tuple[Any, Any]]) -> Difference:
    """Compare arrays pairwise."""
    largest = scale = 0.0
    for one, other in pairs:
        a, b = one.asnumpy().astype('float64'), other.asnumpy().astype('float64')
        largest = max(largest, float(abs(a - b).max()))
        scale = max(scale, float(abs(b).max()))
    return Difference(largest, scale)


def same_weights(ours: Side, builtin: Side, example: Any) -> None:
    """Initialise our network and load its weights, through a file, into MXNet's."""
    ours.net.initialize(mx.init.Xavier())
    ours.net(example)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'lenet.params')
        ours.net.save_parameters(path)
        builtin.net.load_parameters(path)


def compare(ours: Side, builtin: Side, images: Any, labels: Any) -> Tuple[Difference, Difference]:
    """Return how far outputs and gradients of the two networks are apart."""
    outputs = difference([(ours.net(images), builtin.net(images))])
    for side in (ours, builtin):
        side.backward(images, labels)
    gradients = [
        (one.grad(), other.grad())
        for one, other in zip(
            ours.net.collect_params().values(), builtin.net.collect_params().values()
        )
    ]
    return outputs, difference(gradients)


# --------------------------------------------------------------------------- the picture


def draw(ours: Side, builtin: Side, digits: Digits, path: Path) -> None:
    """Write the picture: curves, first-layer filters, confusion matrix, misread digits."""
    from matplotlib.figure import Figure

    from . import viz

    figure: Any = Figure(figsize=(15, 9), layout='constrained')
    figure.suptitle('LeNet on handwritten digits, with gluon_convpool', fontsize=16)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.1, 1))
    loss, accuracy, confusion = top.subplots(1, 3)
    sides = (builtin, ours)
    viz.draw_curves(
        {side.title: side.losses for side in sides}, 'training loss (mean cross-entropy)', loss
    )
    loss.set_yscale('log')
    percent = {side.title: [100 * value for value in side.accuracies] for side in sides}
    viz.draw_curves(percent, 'accuracy on held-out digits (%)', accuracy)
    predictions = ours.predict(digits.test_images)
    viz.draw_confusion(digits.test_labels, predictions, ax=confusion)
    confusion.set_title('Held-out digits (number of images)')
    left, right = bottom.subfigures(1, 2)
    filters = left.subplots()
    viz.draw_filters(ours.net[0], ax=filters)
    filters.set_title(f'First layer: {filters.get_title()}')
    viz.draw_misread(digits.test_images, digits.test_labels, predictions, ax=right.subplots())
    with replacing(path) as new:
        figure.savefig(new, dpi=110)


# --------------------------------------------------------------------------- the whole


class Result(NamedTuple):
    """What `run` found; index 0 of a pair is our network, index 1 MXNet's.

    Lists have one entry for each epoch; `accuracy` is that on the held-out digits at the end.
    """

    accuracy: Tuple[float, float]
    losses: Tuple[List[float], List[float]]
    accuracies: Tuple[List[float], List[float]]
    seconds: Tuple[float, float]
    outputs: Difference
    gradients: Difference
    threads: int
    picture: Path


def take_turns(ours: Side, builtin: Side) -> Iterator[Tuple[Side, Side]]:
    """Yield the two sides for ever; each begins every other epoch."""
    while True:
        yield ours, builtin
        yield builtin, ours


def run(
    epochs: int = 20,
    seed: int = 0,
    output: str = 'demo.png',
    threads: Optional[int] = None,
    backend: str = 'auto',
) -> Result:
    """Train both networks, print what happens and write the picture.

    Parameters
    ----------
    epochs : int
        How often each network sees all 1,437 training images.
    seed : int
        Seed of the split, the initial weights, the order and the shifts of the images.
    output : str
        Where to write the picture; the ending decides about the format.
    threads : int, optional
        Threads for our kernels; ``OMP_NUM_THREADS``, or else all that the process may use, by
        default. MXNet's own layers use ``OMP_NUM_THREADS`` as it was when MXNet was imported.
    backend : {'auto', 'native', 'portable'}
        The backend of our layers.

    Returns
    -------
    Result
        Losses, accuracies, times and differences.

    Raises
    ------
    CommandError
        If an argument is not allowed, or a package of the extra ``demo`` is missing.

    Examples
    --------
    >>> from gluon_convpool import demo
    >>> result = demo.run(epochs=20, output='digits.png')  # doctest: +SKIP
    >>> result.accuracy[0] >= 0.97  # doctest: +SKIP
    True
    """
    if epochs < 1:
        raise CommandError(f'--epochs={epochs}: must be at least 1')
    if not 0 <= seed < 2**31:
        raise CommandError(f'--seed={seed}: must be from 0 to {2**31 - 1}')
    require_extra('the demo', 'demo', EXTRAS)
    path = picture_path('--output', output)
    threads = choose_threads(threads)
    previous_threads = gluon_convpool.get_num_threads()
    try:
        # Entered as a block, so that the caller's choice is in force again afterwards.
        with gluon_convpool.use_backend(backend), mx.util.np_shape(True), mx.util.np_array(True):
            gluon_convpool.set_num_threads(threads)
            return _run(epochs, seed, path, threads)
    except ValueError as error:
        if backend == 'native' and 'use_backend' in str(error):
            raise CommandError(f'--backend=native: {error}') from None
        raise
    finally:
        gluon_convpool.set_num_threads(previous_threads)


def _run(epochs: int, seed: int, path: Path, threads: int) -> Result:
    from tqdm import tqdm

    digits = load_digits(seed)
    print(
        f'{len(digits.train_images) + len(digits.test_images):,} handwritten digits of 8x8 pixels:'
        f' {len(digits.train_images):,} to learn from, {len(digits.test_images)} held out\n'
    )
    print(gluon_convpool.info())
    if os.environ.get('OMP_NUM_THREADS') != str(threads):
        print(
            f'\nOMP_NUM_THREADS was not {threads} when MXNet was imported, so that its layers may'
            ' use another number of threads than ours.'
        )

    mx.random.seed(seed)
    random = numpy.random.RandomState(seed)
    ours = Side('ours', gluon_convpool.nn)
    builtin = Side("MXNet's layers", mx.gluon.nn)
    images, labels = mx.np.array(digits.train_images), mx.np.array(digits.train_labels)
    same_weights(ours, builtin, images[:1])
    for side in (ours, builtin):
        side.prepare()
    outputs, gradients = compare(ours, builtin, images, labels)
    print(f'\nBefore training, with the same weights, over all {len(images):,} images:')
    print(f'  outputs differ by at most   {outputs}')
    print(f'  gradients differ by at most {gradients}\n')

    print('            training loss       accuracy (held out)      seconds')
    print("  epoch     ours   MXNet's      ours     MXNet's     ours   MXNet's")
    batches = make_batches(digits.train_images, digits.train_labels, random)
    turns = take_turns(ours, builtin)
    with tqdm(total=2 * epochs * len(batches), unit='batch', leave=False, disable=None) as progress:
        for epoch, order in zip(range(epochs), turns):
            for side in order:
                side.train(batches, LEARNING_RATE * (1 - epoch / epochs), progress)
                right = side.predict(digits.test_images) == digits.test_labels
                side.accuracies.append(float(right.mean()))
            tqdm.write(
                f'  {epoch + 1:5d} {ours.losses[-1]:8.4f} {builtin.losses[-1]:8.4f}'
                f'   {ours.accuracies[-1]:9.2%} {builtin.accuracies[-1]:10.2%}'
                f'   {ours.seconds[-1]:8.3f} {builtin.seconds[-1]:8.3f}',
                file=sys.stdout,
            )
            batches = make_batches(digits.train_images, digits.train_labels, random)

    draw(ours, builtin, digits, path)
    seconds = statistics.median(ours.seconds), statistics.median(builtin.seconds)
    accuracy = ours.accuracies[-1], builtin.accuracies[-1]
    print(f"\nAccuracy on held-out digits: {accuracy[0]:.2%}, MXNet's layers {accuracy[1]:.2%}")
    print(
        f"Time of an epoch (median of {epochs}, threads: {threads}): {seconds[0]:.3f} s, MXNet's"
        f' layers {seconds[1]:.3f} s: ours take {seconds[0] / seconds[1]:.2f} of the time'
    )
    print(f'Picture: {path}')
    return Result(
        accuracy,
        (ours.losses, builtin.losses),
        (ours.accuracies, builtin.accuracies),
        seconds,
        outputs,
        gradients,
        threads,
        path,
    )
