"""Networks of MXNet's model zoo: its own, its fused form, with our layers, optimized, and peers.

=========  =====================================================================
builtin    MXNet's network, hybridized with static memory
fused      the same after ``optimize_for('MKLDNN')``, MXNet's own fusion
swapped    the same after `gluon_convpool.swap`
ours       what `gluon_convpool.optimize` makes of it, weights packed
peers      the same exported as an ONNX file, in the peers' processes
=========  =====================================================================
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import numpy

from .measure import Run, alternate
from .peers import PeerError, Process
from .sides import BUILTIN, OURS, Side, cannot, difference_of, disagreement
from .suites import PASSES
from .workers.protocol import timed

FUSED, SWAPPED = 'fused', 'swapped'
INFERENCE, TRAINING = 'inference', 'training step'
# What is measured without --batch.
BATCHES = {INFERENCE: 1, TRAINING: 8}
CLASSES = 1000
# Height and width of the images by network.
NETWORKS: Dict[str, int] = {
    'alexnet': 224,
    'vgg16': 224,
    'resnet18_v1': 224,
    'resnet50_v1': 224,
    'mobilenet1.0': 224,
    'mobilenetv2_1.0': 224,
    'squeezenet1.0': 224,
    'densenet121': 224,
    'inceptionv3': 299,
}


class Task(NamedTuple):
    """A network on a batch of images."""

    network: str
    batch: int
    which: str

    @property
    def title(self) -> str:
        return f'{self.network}, batch {self.batch}, {self.which}'


def select(
    names: Sequence[str],
    batches: Optional[Sequence[int]] = None,
    forward_only: bool = False,
    text: str = '',
) -> List[Task]:
    """List what to measure.

    Parameters
    ----------
    names : sequence of str
        Of `NETWORKS`; none stands for all.
    batches : sequence of int, optional
        Instead of `BATCHES`.
    forward_only : bool
        No training.
    text : str
        Keep only networks with this in their name.

    Raises
    ------
    ValueError
        If nothing is left.

    Examples
    --------
    >>> from gluon_convpool.bench import networks
    >>> [task.title for task in networks.select(['vgg16'])]
    ['vgg16, batch 1, inference', 'vgg16, batch 8, training step']
    """
    tasks = [
        Task(name, batch, which)
        for name in NETWORKS
        if (not names or name in names) and text.lower() in name.lower()
        for which in ([INFERENCE] if forward_only else BATCHES)
        for batch in (batches or [BATCHES[which]])
    ]
    if not tasks:
        raise ValueError('no network is left by --filter')
    return tasks


# --------------------------------------------------------------------------- networks


FEWEST_FOR_STATISTICS = 8


def take_statistics(net: Any, images: Any) -> None:
    """Give the batch norms of a network the statistics of `images`.

    It must be initialised and not hybridized.
    """

    def take(norm: Any, inputs: Sequence[Any]) -> None:
        x = inputs[0].asnumpy()
        axes = tuple(set(range(x.ndim)) - {norm._kwargs['axis'] % x.ndim})
        norm.running_mean.set_data(x.mean(axes))
        norm.running_var.set_data(x.var(axes))

    hooks: List[Any] = []
    net.apply(
        lambda block: (
            hooks.append(block.register_forward_pre_hook(take))
            if type(block).__name__ == 'BatchNorm'
            else None
        )
    )
    net(images)
    for hook in hooks:
        hook.detach()


def make_network(name: str, images: Any, values: Optional[Sequence[Any]] = None) -> Any:
    """Return a network with weights drawn at random and statistics of images, or with `values`.

    With MXNet's first statistics, activations would die away from layer to layer, and numbers too
    small for the processor's normal arithmetic would be timed.
    """
    from .._mxnet import mx

    net = mx.gluon.model_zoo.vision.get_model(name, classes=CLASSES)
    net.initialize(mx.init.MSRAPrelu())
    net(images)
    if values is None:
        # With few values in a channel, some would hardly vary, and dividing by that makes noise.
        batch = max(len(images), FEWEST_FOR_STATISTICS)
        take_statistics(net, mx.nd.random.normal(shape=(batch, *images.shape[1:])))
    else:
        for parameter, value in zip(net.collect_params().values(), values):
            parameter.set_data(value)
    return net


def make_images(task: Task) -> Any:
    """Return the images of a task, the same in each run."""
    from .._mxnet import mx

    size = NETWORKS[task.network]
    random = numpy.random.RandomState(0)
    return mx.nd.array(random.standard_normal((task.batch, 3, size, size)).astype('float32'))


def make_models(task: Task, images: Any) -> Dict[str, Any]:
    """Return the models that are compared, each with arrays of its own, ready to run.

    MXNet's convolution rearranges its weights in place: whoever shared them would pay for that.
    """
    import gluon_convpool

    from .._mxnet import mx

    mx.random.seed(0)
    static = {'static_alloc': True, 'static_shape': True}
    builtin = make_network(task.network, images)
    values = [parameter.data().copy() for parameter in builtin.collect_params().values()]
    swapped = gluon_convpool.swap(make_network(task.network, images, values)).net
    models = {BUILTIN: builtin, SWAPPED: swapped}
    for model in models.values():
        model.hybridize(**static)
    if task.which == INFERENCE:
        models[FUSED] = make_network(task.network, images, values)
        models[FUSED].optimize_for(images, backend='MKLDNN', **static)
        net = make_network(task.network, images, values)
        models[OURS] = gluon_convpool.optimize(net, prepack=images.shape)
    return models


def export_onnx(net: Any, images: Any, folder: Path) -> Path:
    """Write a hybridized network of MXNet's own layers, which has run, as an ONNX file."""
    from .._mxnet import mx

    prefix, path = str(folder / 'network'), folder / 'network.onnx'
    net.export(prefix)
    mx.onnx.export_model(
        f'{prefix}-symbol.json', f'{prefix}-0000.params', [images.shape], numpy.float32, str(path)
    )
    return path


# --------------------------------------------------------------------------- measuring


def peer_sides(
    net: Any, images: Any, out: numpy.ndarray, processes: Sequence[Process]
) -> List[Side]:
    """Return the peers as sides of a network, whose output on the images is `out`."""
    if not processes:
        return []
    sides = []
    with tempfile.TemporaryDirectory(prefix='convpool-bench-') as folder:
        file = export_onnx(net, images, Path(folder))
        description = {'op': 'network', 'file': str(file), 'out': list(out.shape)}
        for process in processes:
            try:
                sides.append(process.side(description, {'x': images.asnumpy()}))
            except PeerError as error:
                sides.append(cannot(process.name, str(error)))
    return sides


def inference_of(model: Any, images: Any) -> Callable[[], Any]:
    """Return a call of a model that waits for its output."""

    def call() -> Any:
        out = model(images)
        out.wait_to_read()
        return out

    return call


def training_step_of(model: Any, images: Any) -> Callable[[], Any]:
    """Return a step of stochastic gradient descent that waits for its end, and gives the loss.

    The learning rate is 0, so that each step computes the same.
    """
    from .._mxnet import mx

    labels = mx.nd.arange(len(images))
    loss_function = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    rule = {'learning_rate': 0.0, 'momentum': 0.9}
    trainer = mx.gluon.Trainer(model.collect_params(), 'sgd', rule)

    def call() -> Any:
        with mx.autograd.record():
            loss = loss_function(model(images), labels)
        loss.backward()
        trainer.step(len(images))
        mx.nd.waitall()
        return loss

    return call


def measure_task(task: Task, seconds: float, processes: Sequence[Process] = ()) -> Dict[str, Any]:
    """Measure one network: who gives the same as MXNet's own is timed, in turns.

    Parameters
    ----------
    task : Task
    seconds : float
        For all sides together.
    processes : sequence of Process
        Peers that read networks; they take part in inference.

    Returns
    -------
    dict
        'network', 'batch', 'which', 'size', and 'sides': for each its times (see
        `measure.summary`) and the 'difference' of its outputs as a share of the largest one, or a
        'reason', with 'wrong' where that is the numbers.
    """
    from .._mxnet import mx

    images = make_images(task)
    make_call = inference_of if task.which == INFERENCE else training_step_of
    models = make_models(task, images)
    outputs: Dict[str, numpy.ndarray] = {}
    runs: Dict[str, Run] = {}
    for name, model in models.items():
        call = make_call(model, images)
        mx.random.seed(0)  # for the masks of dropout
        outputs[name] = call().asnumpy()
        runs[name] = functools.partial(timed, call)
    expected = outputs[BUILTIN]
    sides: Dict[str, Dict[str, Any]] = {}
    if task.which == INFERENCE:
        for side in peer_sides(models[BUILTIN], images, expected, processes):
            if side.obstacle:
                sides[side.name] = {'reason': side.obstacle}
                continue
            outputs[side.name] = side.results[PASSES[0]]['output']
            runs[side.name] = functools.partial(side.run, PASSES[0])
    for name, output in outputs.items():
        wrong = disagreement({'output': output}, {'output': expected})
        if wrong:
            sides[name] = {'reason': wrong, 'wrong': name in (OURS, SWAPPED)}
            del runs[name]
            continue
        largest = float(numpy.abs(expected).max())
        sides[name] = {'difference': difference_of(output, expected) / largest}
    for name, outcome in alternate(runs, seconds).items():
        sides[name].update(outcome)
    return {**task._asdict(), 'size': NETWORKS[task.network], 'sides': sides}


def ours_is_wrong(record: Dict[str, Any]) -> bool:
    """Say whether ours gave other numbers than MXNet's network."""
    return any(entry.get('wrong') for entry in record['sides'].values())
