"""examples/train_distributed.py: right weights, and no process or piece of a file left behind."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import time

import mxnet as mx
import numpy as np
import pytest
from isolated import PATHS

from gluon_convpool import demo

for needed in ('sklearn', 'tqdm'):
    pytest.importorskip(needed, reason=f'training needs {needed}, from the extra demo')

PROGRAM = pathlib.Path(__file__).parents[1] / 'examples' / 'train_distributed.py'
if not PROGRAM.exists():
    pytest.skip('the examples are not beside the tests', allow_module_level=True)
specification = importlib.util.spec_from_file_location('train_distributed', PROGRAM)
program = importlib.util.module_from_spec(specification)
specification.loader.exec_module(program)

EPOCHS = 2
STEPS = 45 * EPOCHS


class Training:
    """The program as a person starts it: the launcher in a process group of its own."""

    def __init__(self, checkpoint, *arguments):
        self.checkpoint = checkpoint
        self.launcher = subprocess.Popen(
            [sys.executable, str(PROGRAM), '--epochs', str(EPOCHS)]
            + ['--checkpoint', str(checkpoint), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(PATHS)),
            start_new_session=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.launcher.kill()
        self.launcher.wait()
        self.launcher.stdout.close()

    def processes(self):
        """Process ids of the launcher and its children by role; all have the checkpoint's name."""
        found = {}
        for folder in pathlib.Path('/proc').glob('[0-9]*'):
            try:
                words = (folder / 'cmdline').read_text().split('\0')
            except OSError:
                continue
            if str(self.checkpoint) in words:
                role = words[words.index('--role') + 1] if '--role' in words else 'launcher'
                index = words[words.index('--index') + 1] if role == 'worker' else ''
                found[role + index] = int(folder.name)
        return found

    def wait_for_children(self):
        wait_until(lambda: len(self.processes()) == 5, self)
        return self.processes()

    def wait_for_step(self, step):
        wait_until(lambda: self.checkpoint.exists() and self.step() >= step, self)

    def step(self):
        return program.load_checkpoint(self.checkpoint).step

    def finish(self):
        """Exit status and output of the launcher; nothing is left of the training but the file."""
        output = self.launcher.communicate(timeout=60)[0]
        wait_until(lambda: not self.processes(), seconds=10)
        assert not program.partial_path(self.checkpoint).exists()
        return self.launcher.returncode, output


def wait_until(condition, training=None, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, 'nothing happened'
        if training is not None and training.launcher.poll() is not None:
            pytest.fail(training.launcher.communicate()[0])
        time.sleep(0.01)


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    """The checkpoint at the end of a training with two workers that nothing happened to."""
    with Training(tmp_path_factory.mktemp('uninterrupted') / 'weights.npz') as training:
        status, output = training.finish()
    assert status == 0, output
    for line in (f'worker {index}   epoch   {EPOCHS}' for index in range(2)):
        assert line in output
    assert 'accuracy on held-out digits' in output
    return program.load_checkpoint(training.checkpoint)


@pytest.fixture(scope='module')
def killed(tmp_path_factory):
    """A checkpoint of some early step, and the path of the last one before a worker was killed."""
    with Training(tmp_path_factory.mktemp('killed') / 'weights.npz') as training:
        worker = training.wait_for_children()['worker1']
        training.wait_for_step(15)
        early = program.load_checkpoint(training.checkpoint)
        os.kill(worker, signal.SIGKILL)
        status, output = training.finish()
    assert status == 1
    assert training.step() < STEPS
    assert f'worker 1 (process {worker}) ended by SIGKILL' in output
    assert f'{training.checkpoint} holds the training up to step {training.step()}' in output
    assert '--resume' in output
    return early, training.checkpoint


def largest_difference(arrays, expected):
    """The largest difference, relative to the largest expected number."""
    scale = max(abs(array).max() for array in expected)
    return max(abs(a - b).max() for a, b in zip(arrays, expected)) / scale


def test_weights_are_those_of_one_process_that_trains_on_the_joint_batches(killed, np_arrays):
    # After a few steps, not at the end: one process that begins with weights off by the last bit
    # is 4e-7 away from itself after 60 steps, 8e-4 after 75 and 3e-2 after 90.
    saved, _ = killed
    digits = demo.load_digits(program.SEED)
    side = program.new_network(digits)
    parameters = side.net.collect_params()
    before = [parameter.data().asnumpy() for parameter in parameters.values()]
    optimizer = {'learning_rate': program.LEARNING_RATE, 'momentum': program.MOMENTUM}
    trainer = mx.gluon.Trainer(parameters, 'sgd', optimizer, kvstore=None)
    batches = [batch for epoch in range(EPOCHS) for batch in program.epoch_batches(digits, epoch)]
    for images, labels in batches[: saved.step]:
        side.backward(images, labels)
        trainer.step(len(images))
    expected = [parameter.data().asnumpy() for parameter in parameters.values()]
    assert saved.step >= 15
    assert largest_difference(before, expected) > 1e-3
    assert largest_difference(saved.parameters, expected) <= 1e-5


def test_training_goes_on_after_a_killed_worker(killed, uninterrupted):
    _, checkpoint = killed
    with Training(checkpoint, '--resume') as training:
        status, output = training.finish()
    assert status == 0, output
    resumed = program.load_checkpoint(checkpoint)
    assert resumed.step == STEPS
    # Two addends have one sum, in whichever order they come, so that not a bit may differ.
    for arrays, expected in zip(resumed[1:], uninterrupted[1:]):
        assert all(np.array_equal(a, b) for a, b in zip(arrays, expected))


def test_control_c_in_the_middle(tmp_path):
    # One worker makes a step in less than 2 ms, and a few of them could be over before one is seen.
    arguments = ('--workers', '1', '--epochs', '50')
    with Training(tmp_path / 'weights.npz', *arguments) as training:
        training.wait_for_step(15)
        os.killpg(training.launcher.pid, signal.SIGINT)
        status, output = training.finish()
    assert status == 130
    assert training.step() < STEPS // EPOCHS * 50
    assert 'stopped by SIGINT' in output
    assert f'{training.checkpoint} holds the training up to step {training.step()}' in output
    assert 'Traceback' not in output


@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM', 'SIGKILL'])
def test_nothing_is_left_when_the_launcher_is_ended_early(name, tmp_path):
    with Training(tmp_path / 'weights.npz') as training:
        training.wait_for_children()
        os.killpg(training.launcher.pid, getattr(signal, name))
        status, output = training.finish()
    number = int(getattr(signal, name))
    assert status == (-number if name == 'SIGKILL' else 128 + number)
    assert 'Traceback' not in output


@pytest.mark.parametrize('role', ['scheduler', 'server'])
def test_the_end_of_any_process_ends_all_with_a_message(role, tmp_path):
    with Training(tmp_path / 'weights.npz') as training:
        os.kill(training.wait_for_children()[role], signal.SIGKILL)
        status, output = training.finish()
    assert status == 1
    assert 'ended by SIGKILL' in output
    assert 'There is no checkpoint yet' in output


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--workers', '0'], '--workers=0: must be from 1 to 16'),
        (['--epochs', '0'], '--epochs=0: must be at least 1'),
        (['--checkpoint', 'there/is/none.npz'], 'the folder there/is cannot be written to'),
        (['--checkpoint', str(PROGRAM)], 'the file exists'),
        (['--checkpoint', str(PROGRAM), '--resume'], 'is no checkpoint of this program'),
        (['--checkpoint', 'none.npz', '--resume'], 'No such file'),
    ],
)
def test_what_cannot_work_is_refused(arguments, message, capsys):
    assert program.main(arguments) == 1
    assert message in capsys.readouterr().err
