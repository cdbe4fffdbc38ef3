"""``gluon-convpool model``: what it shows, what it writes, and what it refuses."""

from __future__ import annotations

import json
import os

import isolated
import mxnet as mx
import pytest
from models_common import data, flat, started
from mxnet import gluon
from mxnet.gluon import nn as builtin

from gluon_convpool import cli
from gluon_convpool.testing import array_semantics, assert_close

SHAPE = (2, 3, 13, 12)
SIZES = '2,3,13,12'
pytestmark = pytest.mark.usefixtures('native')


@pytest.fixture(params=['nd', 'np'])
def stored(request, tmp_path, monkeypatch):
    """The folder with a stored model of each world, and what the model gives."""
    monkeypatch.chdir(tmp_path)
    with array_semantics(request.param):
        net = builtin.HybridSequential(prefix='')
        net.add(
            builtin.Conv2D(8, 3, use_bias=False, prefix='conv_'),
            builtin.BatchNorm(prefix='norm_'),
            builtin.Activation('relu', prefix='act_'),
            builtin.MaxPool2D(prefix='pool_'),
            builtin.Dense(5, prefix='dense_'),
        )
        started(net, data(*SHAPE))
        net.hybridize()
        expected = flat(net(data(*SHAPE)))[0]
        net.export('net')
    return tmp_path, expected, request.param


def command(*words):
    return cli.main(['model', 'net-symbol.json', 'net-0000.params', *map(str, words)])


def refused(capsys, *words, status=2):
    """The sentence with which the program ends."""
    assert cli.main(['model', *map(str, words)]) == status
    printed = capsys.readouterr()
    assert printed.out == '' and printed.err.count('\n') == 1
    assert printed.err.startswith('gluon-convpool model: ')
    return printed.err


def test_each_layer_has_its_line_with_times(stored, capsys):
    assert command('--input', SIZES, '--seconds', 0.01) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = {line[0]: line for line in lines if line}
    assert rows['conv_fwd'][1:6] == ['Convolution', '2x8x11x10', 'replaced', 'by', 'ours']
    assert rows['norm_fwd'][1:6] == ['BatchNorm', '2x8x11x10', 'folded', 'into', 'conv_fwd']
    assert rows['act_fwd'][1:6] == ['Activation', '2x8x11x10', 'fused', 'into', 'conv_fwd']
    assert rows['dense_fwd'][1:3] == ['FullyConnected', '2x5']
    for name in ('conv_fwd', 'pool_fwd', 'dense_fwd'):
        assert all(float(value) > 0 for value in rows[name][-2:])
    for name in ('norm_fwd', 'act_fwd'):
        assert float(rows[name][-2]) > 0 and rows[name][-1] == '-'
    assert any(line[:3] == ['the', 'whole', 'model'] for line in lines)
    assert any(line[:2] == ['largest', 'difference'] for line in lines)


def test_the_results_as_json(stored, capsys):
    assert command('--input', SIZES, '--seconds', 0.01, '--json', '-') == 0
    results = json.loads(capsys.readouterr().out)
    assert results['inputs'] == {'data': list(SHAPE)}
    assert results['agreement']['agrees'] and results['agreement']['same_ranking']
    assert results['agreement']['difference'] <= 1e-5 * results['agreement']['scale']
    layers = {layer['layer']: layer for layer in results['layers']}
    assert list(layers) == ['conv_fwd', 'norm_fwd', 'act_fwd', 'pool_fwd', 'dense_fwd']
    assert layers['pool_fwd']['shape'] == [2, 8, 5, 5] and layers['norm_fwd']['after'] is None
    assert set(results['whole']) == {'before', 'after'}


@pytest.mark.parametrize('more', [(), ('--prepack',)], ids=['plain', 'prepacked'])
def test_the_optimized_model_is_written_and_computes_the_same(more, stored, capsys):
    folder, expected, world = stored
    assert command('--input', f'data={SIZES}', '--seconds', 0, '--save', 'fast', *more) == 0
    assert 'wrote' in capsys.readouterr().out
    assert sorted(os.listdir(folder)) == [
        'fast-0000.params',
        'fast-symbol.json',
        'net-0000.params',
        'net-symbol.json',
    ]
    with array_semantics(world):
        block = gluon.SymbolBlock.imports('fast-symbol.json', ['data'], 'fast-0000.params')
        assert_close('output', flat(block(data(*SHAPE)))[0], expected)


def test_nothing_is_overwritten_unless_that_is_asked_for(stored, capsys):
    folder, _, _ = stored
    (folder / 'fast-0000.params').write_text('mine')
    words = ['net-symbol.json', 'net-0000.params', '--input', SIZES, '--seconds', '0']
    assert '--force overwrites' in refused(capsys, *words, '--save', 'fast')
    assert (folder / 'fast-0000.params').read_text() == 'mine'
    assert not (folder / 'fast-symbol.json').exists()
    assert command('--input', SIZES, '--seconds', 0, '--save', 'fast', '--force') == 0
    assert (folder / 'fast-0000.params').read_bytes() != b'mine'
    capsys.readouterr()
    (folder / 'results.json').write_text('mine')
    assert '--force overwrites' in refused(capsys, *words, '--json', 'results.json')
    assert (folder / 'results.json').read_text() == 'mine'
    assert command('--input', SIZES, '--seconds', 0, '--json', 'results.json', '--force') == 0
    assert 'agreement' in json.loads((folder / 'results.json').read_text())


def test_no_file_is_written_twice(stored, capsys):
    words = ['net-symbol.json', 'net-0000.params', '--input', SIZES, '--save', 'fast', '--force']
    sentence = '--json=./fast-symbol.json: is a file that --save=fast writes'
    assert sentence in refused(capsys, *words, '--json', './fast-symbol.json')


@pytest.mark.parametrize(
    'shape, sentence',
    [
        (
            '1,3,20000,20000',  # the data
            'net-symbol.json: cannot be run with --input=1,3,20000,20000: Unable to allocate ',
        ),
        (
            '1,3,900,900',  # what a layer gives
            'OptimizedModel.verify: cannot be done with data of shape (1, 3, 900, 900):'
            ' Failed to allocate CPU Memory',
        ),
    ],
    ids=['data', 'layer'],
)
def test_too_little_memory_is_said(shape, sentence, tmp_path, nd_arrays):
    net = builtin.HybridSequential(prefix='')
    net.add(builtin.Conv2D(256, 3, prefix='conv_'), builtin.GlobalAvgPool2D(prefix='pool_'))
    started(net, data(1, 3, 9, 9))
    net.hybridize()
    net(data(1, 3, 9, 9))
    net.export(str(tmp_path / 'net'))
    outcome = isolated.attempt(
        f"""
        import os, resource, sys
        from gluon_convpool import backends, cli

        os.chdir({str(tmp_path)!r})
        backends.info()
        pages = int(open('/proc/self/statm').read().split()[0])
        limit = pages * resource.getpagesize() + 2**29
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        words = ['net-symbol.json', 'net-0000.params', '--input', '{shape}', '--seconds', '0']
        sys.exit(cli.main(['model', *words]))
        """
    )
    assert outcome.returncode == 2 and outcome.stdout == ''
    assert outcome.stderr.startswith('gluon-convpool model: ' + sentence)
    assert outcome.stderr.count('\n') == 1


def test_a_full_disk_is_said(stored):
    outcome = isolated.attempt(
        f"""
        import os, resource, signal, sys
        from gluon_convpool import cli

        os.chdir({str(stored[0])!r})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        words = ['net-symbol.json', 'net-0000.params', '--input', '{SIZES}', '--seconds', '0']
        print(cli.main(['model', *words, '--save', 'fast']))
        print(cli.main(['model', *words, '--json', 'results.json']))
        """
    )
    assert outcome.stdout.split() == ['2', '2']
    assert outcome.stderr.splitlines() == [
        'gluon-convpool model: --save=fast: File too large',
        'gluon-convpool model: --json=results.json: File too large',
    ]
    assert sorted(os.listdir(stored[0])) == ['net-0000.params', 'net-symbol.json']


def test_a_model_of_two_inputs(tmp_path, monkeypatch, capsys, nd_arrays):
    monkeypatch.chdir(tmp_path)

    class Two(gluon.HybridBlock):
        def hybrid_forward(self, F, x, y):
            return F.broadcast_sub(F.sin(x), F.sum(y, axis=1, keepdims=True))

    net = Two()
    net.hybridize()
    net(data(2, 4), data(2, 3))
    net.export('net')
    assert command('--input', '2,4', '--input', '2,3', '--seconds', 0) == 0
    assert command('--input', 'data1=2,3', '--input', 'data0=2,4', '--seconds', 0.01) == 0
    capsys.readouterr()
    words = ['net-symbol.json', 'net-0000.params']
    assert 'given 1 times, but the graph has 2 inputs: data0, data1' in refused(
        capsys, *words, '--input', '2,4'
    )
    assert 'the inputs of the graph are data0, data1' in refused(
        capsys, *words, '--input', 'x=2,4', '--input', '2,3'
    )


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_inputs_have_the_type_of_the_parameters(dtype, tmp_path, monkeypatch, capsys, nd_arrays):
    monkeypatch.chdir(tmp_path)
    net = builtin.HybridSequential(prefix='')
    net.add(builtin.Conv2D(8, 3, prefix='conv_'), builtin.BatchNorm(prefix='norm_'))
    net.cast(dtype)
    net.initialize()
    net.hybridize()
    net(data(*SHAPE).astype(dtype))
    net.export('net')
    words = ['--seconds', 0.01, '--json', '-', '--save', 'fast']
    assert command('--input', SIZES, *words) == 0
    agreement = json.loads(capsys.readouterr().out)['agreement']
    # Folding rounds, in float64 by far less.
    assert 0 < agreement['difference'] < {'float32': 1e-5, 'float64': 1e-14}[dtype]
    assert mx.nd.load('fast-0000.params')['arg:conv_fwd_weight'].dtype.__name__ == dtype


def test_an_unknown_operator_is_run_as_it_is(tmp_path, monkeypatch, capsys, nd_arrays):
    monkeypatch.chdir(tmp_path)
    symbol = mx.sym.broadcast_add(mx.sym.arccosh(mx.sym.var('data') + 3), mx.sym.ones((1, 4)))
    symbol.save('net-symbol.json')
    mx.nd.save('net-0000.params', {})
    assert command('--input', '2,4', '--seconds', 0.01) == 0
    assert 'arccosh' in capsys.readouterr().out


@pytest.mark.parametrize(
    'words, sentence',
    [
        (['none.json', 'net-0000.params'], 'none.json: there is no such file'),
        (['net-symbol.json', 'none.params'], 'none.params: there is no such file'),
        (['net-0000.params', 'net-0000.params'], 'net-0000.params: is no JSON file'),
        (['net-symbol.json', 'net-symbol.json'], 'net-symbol.json: is no parameter file'),
    ],
    ids=str,
)
def test_files_that_cannot_be_used_are_named(words, sentence, stored, capsys):
    assert sentence in refused(capsys, *words, '--input', SIZES)


@pytest.mark.parametrize(
    'words, sentence',
    [
        (['--input', '1,3,x'], '--input=1,3,x: must be whole numbers with commas between'),
        (['--input', '0,3,8,8'], '--input=0,3,8,8: every size must be at least 1'),
        (['--input', '2,4,13,12'], 'refuses data of shape (2, 4, 13, 12): layer conv_fwd: '),
        (['--input', '2,3,2,2'], 'refuses data of shape (2, 3, 2, 2): layer conv_fwd: '),
        (['--input', SIZES, '--save', '/nowhere/fast'], 'there is no folder /nowhere'),
        (['--input', SIZES, '--threads', '0'], '--threads=0: must be at least 1'),
        (['--input', SIZES, '--seconds', '-1'], '--seconds=-1: must be at least 0, and finite'),
        (['--input', SIZES, '--seconds', 'nan'], '--seconds=nan: must be at least 0, and finite'),
        (['--input', SIZES, '--seconds', 'inf'], '--seconds=inf: must be at least 0, and finite'),
        (['--input', '1,3,99999999999,10'], '(1, 3, 99999999999, 10) is more than the 2147483647'),
        (['--input', SIZES, '--save', ''], "--save='' ends in no name for the files"),
        (['--input', SIZES, '--json', '/nowhere/x.json'], 'there is no folder /nowhere'),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(words, sentence, stored, capsys):
    assert sentence in refused(capsys, 'net-symbol.json', 'net-0000.params', *words)


def test_a_model_that_differs_ends_in_another_status(stored, capsys, monkeypatch):
    from gluon_convpool.models import optimization

    monkeypatch.setattr(optimization, 'TOLERANCE', 0)
    monkeypatch.setattr(
        optimization,
        'compare',
        lambda actual, expected: optimization.Agreement(0.5, 1.0, False),
    )
    assert command('--input', SIZES, '--seconds', 0) == 1
    assert 'largest difference of the outputs: 0.5' in capsys.readouterr().out
