"""Train the demo's LeNet on handwritten digits in several processes at once.

``python examples/train_distributed.py --workers 2`` starts MXNet's parameter server on this machine
(a scheduler and a server) and the workers. A batch is that of the demo; every worker computes the
gradients of its part of it, the server adds them up (``kvstore='dist_sync'``), and every worker
makes the same step of gradient descent with the sum. So the weights are those of one process that
trains on the whole batches, up to rounding. README.md beside this file says more.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import queue
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple
from zipfile import BadZipFile

import numpy

SEED = 0
LEARNING_RATE = 0.05
MOMENTUM = 0.9
# Steps between two checkpoints; an epoch has 45.
SAVE_EVERY = 15
# The smallest batch of an epoch has 29 images, and every worker needs one.
MAXIMAL_WORKERS = 16
# What this program needs beside the package: import name and the name that pip knows.
EXTRAS = {'sklearn': 'scikit-learn', 'tqdm': 'tqdm'}


# --------------------------------------------------------------------------- checkpoint


class Checkpoint(NamedTuple):
    """Everything that the next step depends on: the order of the images follows from `step`.

    `parameters` and `momenta` hold one float32 array for each parameter, in the network's order.
    """

    step: int
    parameters: List[numpy.ndarray]
    momenta: List[numpy.ndarray]


def partial_path(path: Path) -> Path:
    """Return where a checkpoint is written before it is moved to `path`."""
    return path.with_name(path.name + '.part')


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` so that `path` holds the old one or the new one, but never a piece."""
    arrays = {f'parameter{number}': array for number, array in enumerate(checkpoint.parameters)}
    arrays.update({f'momentum{number}': array for number, array in enumerate(checkpoint.momenta)})
    with open(partial_path(path), 'wb') as file:
        numpy.savez(file, step=numpy.array(checkpoint.step), **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial_path(path), path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is something else.
    """
    try:
        with numpy.load(path, allow_pickle=False) as arrays:
            count = (len(arrays.files) - 1) // 2
            return Checkpoint(
                int(arrays['step']),
                [arrays[f'parameter{number}'] for number in range(count)],
                [arrays[f'momentum{number}'] for number in range(count)],
            )
    except (AttributeError, BadZipFile, EOFError, KeyError, TypeError, ValueError):
        raise ValueError(f'{path} is no checkpoint of this program') from None


# --------------------------------------------------------------------------- worker


def part_of(length: int, index: int, workers: int) -> slice:
    """Return worker `index`'s part of a batch of `length` images; the parts differ by at most one.

    Examples
    --------
    >>> [part_of(29, index, 2) for index in range(2)]
    [slice(0, 14, None), slice(14, 29, None)]
    """
    return slice(length * index // workers, length * (index + 1) // workers)


def epoch_batches(digits: Any, epoch: int) -> List[Tuple[Any, Any]]:
    """Return the joint batches of an epoch, which are the same in every process and every run.

    Parameters
    ----------
    digits : gluon_convpool.demo.Digits
    epoch : int
        Counted from 0.

    Returns
    -------
    list of (mxnet.np.ndarray, mxnet.np.ndarray)
        Images of shape (n, 1, 8, 8), float32, and labels of shape (n,), int64.
    """
    from gluon_convpool import demo

    random = numpy.random.RandomState([SEED, epoch])
    return demo.make_batches(digits.train_images, digits.train_labels, random)


def new_network(digits: Any) -> Any:
    """Return the demo's network with its loss, initialised from `SEED`; takes mx.np arrays."""
    # isort: off
    import gluon_convpool  # before mxnet, which needs the NumPy names that it puts back
    from gluon_convpool import demo
    import mxnet as mx
    # isort: on

    mx.random.seed(SEED)
    side = demo.Side('distributed', gluon_convpool.nn)
    side.net.initialize(mx.init.Xavier())
    side.net(mx.np.array(digits.train_images[:1]))
    side.net.hybridize()
    return side


def report(**values: Any) -> None:
    """Tell the launcher."""
    print(json.dumps(values), flush=True)


def work(index: int, workers: int, epochs: int, path: Path, resume: bool) -> None:
    """Train as worker `index`; the first one also writes the checkpoints and tests the network."""
    # isort: off
    import gluon_convpool
    from gluon_convpool import demo
    import mxnet as mx
    # isort: on

    mx.npx.set_np()
    gluon_convpool.set_num_threads(1)
    digits = demo.load_digits(SEED)
    side = new_network(digits)
    weights = [parameter.data() for parameter in side.net.collect_params().values()]
    gradients = [parameter.grad() for parameter in side.net.collect_params().values()]
    momenta = [mx.np.zeros_like(weight) for weight in weights]
    step = 0
    if resume:
        step, *saved = load_checkpoint(path)
        for arrays, values in zip((weights, momenta), saved):
            for array, value in zip(arrays, values):
                array[:] = value

    def save() -> None:
        if index == 0:
            arrays = [[array.asnumpy() for array in list_] for list_ in (weights, momenta)]
            save_checkpoint(path, Checkpoint(step, *arrays))

    server = mx.kv.create('dist_sync')
    # All begin with the weights that the server has, whoever it got them from. This also waits for
    # every worker to be here, so that none writes a checkpoint that another is still reading.
    for key, weight in enumerate(weights):
        server.init(key, weight)
        server.pull(key, out=weight)
    if step == 0:
        save()

    epoch_steps = len(range(0, len(digits.train_images), demo.BATCH_SIZE))
    report(step=step, total=epochs * epoch_steps)
    for epoch in range(step // epoch_steps, epochs):
        begin, images_seen, losses = time.perf_counter(), 0, 0.0
        for images, labels in epoch_batches(digits, epoch)[step - epoch * epoch_steps :]:
            part = part_of(len(images), index, workers)
            loss = side.backward(images[part], labels[part])
            for key, gradient in enumerate(gradients):
                server.push(key, gradient, priority=-key)
                # The server has no optimizer, so that what comes back is the sum.
                server.pull(key, out=gradient, priority=-key)
            for weight, gradient, momentum in zip(weights, gradients, momenta):
                momentum *= MOMENTUM
                momentum -= (LEARNING_RATE / len(images)) * gradient
                weight += momentum
            step += 1
            losses += float(loss.sum())
            images_seen += len(loss)
            report(step=step)
            if step % SAVE_EVERY == 0:
                save()
        seconds = time.perf_counter() - begin
        results: Dict[str, Any] = {'loss': losses / images_seen, 'rate': images_seen / seconds}
        if index == 0:
            right = side.predict(digits.test_images) == digits.test_labels
            results['accuracy'] = float(right.mean())
        report(epoch=epoch + 1, **results)
    save()


# --------------------------------------------------------------------------- scheduler and server


def serve() -> None:
    """Run the scheduler or the server, whichever ``DMLC_ROLE`` says, until the workers are done.

    ``import mxnet`` does the same, after several seconds. The library alone is enough here, because
    this server runs no Python: its optimizer would.
    """
    specification = find_spec('mxnet')
    assert specification is not None and specification.origin is not None
    library = ctypes.CDLL(str(Path(specification.origin).with_name('libmxnet.so')))
    library.MXGetLastError.restype = ctypes.c_char_p
    store = ctypes.c_void_p()
    controller = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    ignore = controller(lambda *_: None)
    if library.MXKVStoreCreate(b'dist', ctypes.byref(store)) or library.MXKVStoreRunServer(
        store, ignore, None
    ):
        raise SystemExit(library.MXGetLastError().decode())
    library.MXKVStoreFree(store)


# --------------------------------------------------------------------------- launcher


class Failure(Exception):
    """Why the training ended early, in a sentence for the person who started it."""


class Interrupted(Exception):
    """A signal asked the launcher to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f'stopped by {signal.Signals(number).name}')
        self.number = number


def interrupt(number: int, _: Any) -> None:
    raise Interrupted(number)


class Child(NamedTuple):
    name: str
    process: subprocess.Popen[str]

    def ending(self) -> str:
        """Return how the process ended."""
        status = self.process.returncode
        how = f'by {signal.Signals(-status).name}' if status < 0 else f'with exit status {status}'
        return f'{self.name} (process {self.process.pid}) ended {how}'


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return int(listener.getsockname()[1])


def end_with_launcher() -> None:
    """End this child once the launcher is gone, however it went: its end of the pipe closes."""
    os.read(0, 1)
    os._exit(1)


def start(role: str, index: int, port: int, workers: int, arguments: Sequence[str]) -> Child:
    """Start one of the processes.

    Each in a session of its own: Ctrl-C is for the launcher, which then ends the others.
    """
    environment = dict(
        os.environ,
        DMLC_ROLE=role,
        DMLC_PS_ROOT_URI='127.0.0.1',
        DMLC_PS_ROOT_PORT=str(port),
        DMLC_NUM_SERVER='1',
        DMLC_NUM_WORKER=str(workers),
        DMLC_INTERFACE='lo',
        DMLC_NODE_HOST='127.0.0.1',
        OMP_NUM_THREADS='1',
    )
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments, '--role', role, '--index', str(index)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if role == 'worker' else None,
        text=True,
        env=environment,
        start_new_session=True,
    )
    return Child(f'worker {index}' if role == 'worker' else f'the {role}', process)


def end(children: Sequence[Child]) -> None:
    """End those that still run; none of them has anything to finish."""
    for child in children:
        child.process.kill()
    for child in children:
        child.process.wait()


class Progress:
    """What the workers report, as bars on a terminal, and as a line for each epoch anywhere."""

    def __init__(self, workers: Sequence[Child]) -> None:
        from tqdm import tqdm

        self.names = [worker.name for worker in workers]
        self.bars = [
            tqdm(desc=name, position=index, unit='step', leave=False, disable=None)
            for index, name in enumerate(self.names)
        ]

    def show(self, index: int, line: str) -> None:
        """Show a line that worker `index` printed."""
        bar = self.bars[index]
        if not line.startswith('{'):
            self.print(f'{self.names[index]}: {line.rstrip()}')
            return
        values = json.loads(line)
        if 'total' in values:
            bar.reset(values['total'])
            bar.initial = values['step']
        if 'step' in values:
            bar.update(values['step'] - bar.n)
        if 'epoch' in values:
            text = 'epoch {epoch:3d}   loss {loss:.4f}   {rate:6.0f} images/s'.format(**values)
            if 'accuracy' in values:
                text += f'   accuracy on held-out digits {values["accuracy"]:.2%}'
            self.print(f'{self.names[index]}   {text}')

    def print(self, text: str) -> None:
        self.bars[0].write(text, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        for bar in self.bars:
            bar.close()


def follow(workers: Sequence[Child], others: Sequence[Child], progress: Progress) -> None:
    """Show what the workers report until all are done.

    Raises
    ------
    Failure
        If one of the processes ends early. The others would wait for it forever: MXNet's parameter
        server does not notice.
    """
    lines: queue.Queue[Tuple[int, str]] = queue.Queue()

    def read(index: int, file: Any) -> None:
        for line in file:
            lines.put((index, line))

    readers = [
        threading.Thread(target=read, args=(index, worker.process.stdout), daemon=True)
        for index, worker in enumerate(workers)
    ]
    for reader in readers:
        reader.start()
    working = True
    while working:
        working = any(worker.process.poll() is None for worker in workers)
        for child in [*workers, *others]:
            # 0 is no failure: the server ends as soon as the last worker has signed off.
            if child.process.poll():
                raise Failure(child.ending())
        try:
            progress.show(*lines.get(timeout=0.1))
        except queue.Empty:
            continue
    for reader in readers:
        reader.join()
    while not lines.empty():
        progress.show(*lines.get())


def train(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Start the processes, follow them, and leave none of them behind."""
    port = free_port()
    children: List[Child] = []

    def add(role: str, index: int = 0) -> Child:
        children.append(start(role, index, port, options.workers, arguments))
        return children[-1]

    try:
        others = [add('scheduler'), add('server')]
        workers = [add('worker', index) for index in range(options.workers)]
        for worker in workers:
            print(f'{worker.name}: process {worker.process.pid}', flush=True)
        progress = Progress(workers)
        try:
            follow(workers, others, progress)
        finally:
            progress.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            for child in others:
                child.process.wait(10)
    finally:
        end(children)
        # From a worker that was writing when it was ended.
        if partial_path(options.checkpoint).exists():
            partial_path(options.checkpoint).unlink()


def what_is_left(options: argparse.Namespace) -> str:
    """Return what the checkpoint holds and how to go on from it."""
    path = options.checkpoint
    if not path.exists():
        return 'There is no checkpoint yet: it was too early.'
    command = ['python', sys.argv[0], '--workers', str(options.workers)]
    command += ['--epochs', str(options.epochs), '--checkpoint', str(path), '--resume']
    step = load_checkpoint(path).step
    return (
        f'{path} holds the training up to step {step}. Go on from there:\n  {shlex.join(command)}'
    )


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot work, before anything is started."""
    if not 1 <= options.workers <= MAXIMAL_WORKERS:
        raise Failure(f'--workers={options.workers}: must be from 1 to {MAXIMAL_WORKERS}')
    if options.epochs < 1:
        raise Failure(f'--epochs={options.epochs}: must be at least 1')
    missing = [package for module, package in EXTRAS.items() if find_spec(module) is None]
    if missing:
        raise Failure(f'this needs {", ".join(missing)}: pip install gluon_convpool[demo]')
    path = options.checkpoint
    if options.resume:
        try:
            load_checkpoint(path)
        except (OSError, ValueError) as error:
            raise Failure(f'--resume: {error}') from None
    elif path.exists():
        raise Failure(
            f'--checkpoint={path}: the file exists; --resume goes on from it, or name another'
        )
    if not os.access(path.parent, os.W_OK):
        raise Failure(f'--checkpoint={path}: the folder {path.parent} cannot be written to')


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train the demo's LeNet in several processes with MXNet's parameter server."
    )
    parser.add_argument('--workers', type=int, default=2, help='processes that train (2)')
    parser.add_argument('--epochs', type=int, default=10, help='at which epoch to end (10)')
    parser.add_argument(
        '--checkpoint',
        type=Path,
        default=Path('distributed.npz'),
        help='where the weights and all else that goes on are written (distributed.npz)',
    )
    parser.add_argument('--resume', action='store_true', help='go on from the checkpoint')
    # How the launcher starts its children.
    parser.add_argument('--role', default='launcher', help=argparse.SUPPRESS)
    parser.add_argument('--index', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run the program.

    Returns
    -------
    int
        The exit status: 0, or 1 after a failure, or 128 and the signal's number.
    """
    options = parse(arguments)
    if options.role != 'launcher':
        threading.Thread(target=end_with_launcher, daemon=True).start()
        if options.role == 'worker':
            work(options.index, options.workers, options.epochs, options.checkpoint, options.resume)
        else:
            serve()
        return 0
    started = False
    try:
        check(options)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, interrupt)
        started = True
        train(options, arguments)
    except (Failure, Interrupted) as error:
        print(f'train_distributed: {error}', file=sys.stderr)
        if started:
            print(f'The other processes were stopped. {what_is_left(options)}', file=sys.stderr)
        return 128 + error.number if isinstance(error, Interrupted) else 1
    print(f'{options.checkpoint} holds the weights.')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
