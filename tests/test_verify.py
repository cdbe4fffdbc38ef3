"""The command verify: what it runs, what it says of wrong layers, and that its programs are right.

Most tests run a grid of a few cases; the grid itself is what test_convolution.py and
test_pooling.py run.
"""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest
from isolated import attempt

import gluon_convpool
from gluon_convpool import _mxnet, _program, backends, nn
from gluon_convpool import cli as program
from gluon_convpool.testing import ConvolutionCase, PoolingCase, verification

CASES = {
    'conv': [ConvolutionCase(padding=1), ConvolutionCase(batch=0)],
    'pool': [PoolingCase('max'), PoolingCase('avg', size=(7, 7), ceil_mode=True)],
}
# Each with both kinds of arrays and in two modes.
RUNS = 4


def cases_of(kind, dims, grid):
    return CASES.get(kind, []) if dims == 2 else []


@pytest.fixture
def few_cases(monkeypatch):
    monkeypatch.setattr(verification, 'cases_of', cases_of)


@pytest.fixture
def shifted_maximum(monkeypatch):
    """A planted mistake: the portable backend's maxima are too large in one place."""
    right = backends.portable.pooling

    def pooling(x, arguments, *others, **options):
        y = right(x, arguments, *others, **options)
        return y + 1e-3 if arguments.mode == 'max' else y

    monkeypatch.setattr(backends.portable, 'pooling', pooling)


def verify(*options):
    return program.main(['verify', '--backend', 'portable', *options])


def test_right_layers_are_verified(few_cases, native, capsys):
    assert program.main(['verify']) == 0
    printed = capsys.readouterr().out
    for backend in ('native', 'portable'):
        for kind, cases in (('convolution', 2), ('max pooling', 1), ('avg pooling', 1)):
            assert [backend, *kind.split(), str(cases), '0'] in [
                line.split()[: 3 + len(kind.split())] for line in printed.splitlines()
            ]
    assert f'all {2 * RUNS * 4} runs agree' in printed
    assert 'Loops in float64 decided 4 of 8' in ' '.join(printed.split())


def test_every_array_of_every_run_is_compared(few_cases):
    found = verification.verify('quick')
    assert found.good and found.complete
    for line in found.lines:
        assert line.runs == RUNS * line.cases and line.failed == 0
        gradients = {'weight', 'bias'} if line.kind == 'convolution' else set()
        assert set(line.worst) == {'output', 'x'} | gradients
        assert all(difference <= found.rtol for difference in line.worst.values())
    assert {(line.backend, line.kind) for line in found.lines} == {
        (backend, kind)
        for backend in ('native', 'portable')
        if not found.backends[backend]
        for kind in ('convolution', 'max pooling', 'avg pooling')
    }


def test_the_quick_grid_has_every_kind_of_layer():
    runs = list(verification._runs(['portable'], 'quick'))
    kinds = {run.case.kind for run in runs}
    assert {run.case.ndim for run in runs} == {1, 2, 3}
    assert kinds == {'convolution', 'transposed convolution'} | {
        f'{mode} pooling' for mode in ('max', 'avg', 'sum', 'lp')
    }
    assert len(runs) < len(list(verification._runs(['portable'], 'full'))) / 3


def test_wrong_layers_are_reported_and_nothing_else(few_cases, shifted_maximum, tmp_path, capsys):
    path = tmp_path / 'found.json'
    assert verify('--json', str(path)) == 1
    printed = capsys.readouterr().out
    assert f'{RUNS} of {4 * RUNS} runs failed' in printed
    found = json.loads(path.read_text())
    assert not found['good'] and found['complete']
    assert {line['kind']: line['failed'] for line in found['lines']} == {
        'convolution': 0,
        'max pooling': RUNS,
        'avg pooling': 0,
    }
    where = {(one['backend'], one['arrays'], one['mode']) for one in found['failures']}
    assert len(where) == RUNS
    for one in found['failures']:
        assert one['case'] == str(PoolingCase('max'))
        assert one['explanation'].startswith('output: 144 of 144 values differ\n  first at [0, 0, ')
        assert one['explanation'] in printed and one['reproducer'] in printed
    worst = next(line for line in found['lines'] if line['kind'] == 'max pooling')['worst']
    largest = np.abs(PoolingCase('max').expected()[1]['output']).max()
    assert worst['output'] == pytest.approx(1e-3 / largest, rel=1e-3)


PLANT = """
    from gluon_convpool import backends
    from gluon_convpool.testing import PoolingCase, verification

    right = backends.portable.pooling

    def plant():
        def pooling(*arguments, **options):
            return right(*arguments, **options) + 1e-3
        backends.portable.pooling = pooling

    def pull_out():
        backends.portable.pooling = right
"""


def test_the_printed_program_reproduces_the_failure_and_no_other(tmp_path):
    """As a person does it: verify prints, the program is pasted into a file and run elsewhere."""
    outcome = attempt(
        PLANT
        + """
    from gluon_convpool.cli import main
    verification.cases_of = lambda *which: [PoolingCase("sum")] * (which[:2] == ("pool", 2))
    plant()
    raise SystemExit(main(["verify", "--backend", "portable"]))
    """
    )
    assert outcome.returncode == 1, outcome.stderr
    shown = outcome.stdout.split('To reproduce it, run this program:\n\n')[1]
    lines = shown.splitlines()
    end = next(i for i, line in enumerate(lines) if line.startswith('    testing.assert')) + 1
    (tmp_path / 'pasted.py').write_text('\n'.join(lines[:end]))
    again = attempt(
        PLANT
        + f"""
    import os, runpy
    os.chdir({str(tmp_path)!r})
    runpy.run_path("pasted.py")
    print("the right layer passes")
    plant()
    runpy.run_path("pasted.py")
    """
    )
    assert 'the right layer passes' in again.stdout
    assert again.returncode == 1
    explanation = next(line for line in outcome.stdout.splitlines() if 'first at' in line)
    assert 'ParityError' in again.stderr and explanation.strip() in again.stderr


def test_a_layer_that_raises_an_error_is_a_failure(few_cases, monkeypatch, capsys):
    class Broken(nn.MaxPool2D):
        def forward(self, x):
            raise RuntimeError('out of order\nat line 1')

    monkeypatch.setattr(nn, 'MaxPool2D', Broken)
    found = verification.verify('quick', 'portable')
    assert [one.explanation for one in found.failures] == ['RuntimeError: out of order'] * RUNS


def test_an_output_of_another_shape_has_no_difference(few_cases, monkeypatch, capsys):
    right = backends.portable.pooling
    shape = (1, 1, 2, -1)
    monkeypatch.setattr(backends.portable, 'pooling', lambda *a, **o: right(*a, **o).reshape(shape))
    assert verify('--json', '-') == 1
    found = json.loads(capsys.readouterr().out)
    assert found['failures'][0]['explanation'] == (
        'output: has shape (1, 1, 2, 72), expected (2, 3, 4, 6)'
    )
    assert 'max pooling' not in {line['kind'] for line in found['lines'] if line['worst']}


def test_a_nan_is_an_infinite_difference(few_cases, monkeypatch, capsys):
    right = backends.portable.pooling
    monkeypatch.setattr(backends.portable, 'pooling', lambda *a, **o: right(*a, **o) * float('nan'))
    assert verify('--json', '-') == 1
    captured = capsys.readouterr()
    lines = json.loads(captured.out)['lines']
    assert next(line for line in lines if line['kind'] == 'max pooling')['worst']['output'] is None
    assert 'infinite' in captured.err


def test_only_some_of_many_failures_are_shown(few_cases, monkeypatch, capsys):
    right = backends.portable.pooling
    monkeypatch.setattr(backends.portable, 'pooling', lambda *a, **o: right(*a, **o) + 1)
    assert verify() == 1
    printed = capsys.readouterr().out
    assert printed.count('To reproduce it') == 5
    assert '3 more failures; --json FILE writes them all' in printed


def test_what_was_found_before_ctrl_c_is_shown(few_cases, monkeypatch, capsys):
    monkeypatch.setattr(
        verification, '_verify_one', interrupted_at_the_third(verification._verify_one)
    )
    assert verify() == 130
    printed = capsys.readouterr().out
    assert 'stopped' in printed and 'convolution' in printed and 'pooling' not in printed


def interrupted_at_the_third(function):
    calls = []

    def call(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return function(*arguments)

    return call


def test_mistakes_in_a_call_are_exit_status_2(few_cases, monkeypatch, tmp_path, capsys):
    assert verify('--json', str(tmp_path / 'no' / 'file.json')) == 2
    assert 'there is no folder' in capsys.readouterr().err
    assert verify('--threads', '0') == 2
    assert '--threads=0: must be at least 1' in capsys.readouterr().err
    monkeypatch.setattr(_mxnet, '_status', _mxnet.NativeStatus(False, 'no C++ compiler was found'))
    assert program.main(['verify', '--backend', 'native']) == 2
    assert '--backend=native: ' in capsys.readouterr().err
    monkeypatch.setattr(_program, 'find_spec', lambda name: None)
    assert verify() == 2
    assert 'verify needs rich: pip install "gluon_convpool[cli]"' in capsys.readouterr().err


def test_without_the_native_library_the_rest_is_verified(few_cases, monkeypatch, capsys):
    reason = 'no C++ compiler was found'
    monkeypatch.setattr(_mxnet, '_status', _mxnet.NativeStatus(False, reason))
    assert program.main(['verify']) == 0
    printed = capsys.readouterr().out
    assert f"native was not verified: use_backend('native'): {reason}" in printed
    assert f'all {4 * RUNS} runs agree' in printed


def test_the_number_of_threads_is_put_back(few_cases, thread_count, capsys):
    thread_count(2)
    assert verify('--threads', '3') == 0
    assert gluon_convpool.get_num_threads() == 2
    assert not mx.util.is_np_array()
