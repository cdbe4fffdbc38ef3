"""Models in files: written whole, read in both worlds, refused in a sentence that names them."""

from __future__ import annotations

import json
import os
import re
import struct

import isolated
import mxnet as mx
import pytest
from models_common import data, flat, graph_of, operators, started
from mxnet import gluon
from mxnet.gluon import nn as builtin

from gluon_convpool import optimize
from gluon_convpool.models import ModelError, files
from gluon_convpool.testing import array_semantics, assert_close

SHAPE = (2, 3, 13, 12)


def network():
    net = builtin.HybridSequential(prefix='')
    net.add(
        builtin.Conv2D(8, 3, use_bias=False, prefix='conv_'),
        builtin.BatchNorm(prefix='norm_'),
        builtin.Activation('relu'),
        builtin.MaxPool2D(prefix='pool_'),
        builtin.Dense(5, prefix='dense_'),
    )
    return started(net, data(*SHAPE))


def exported(folder, name='net'):
    """The names of the two files of a network, and what it gives."""
    net = network()
    net.hybridize()
    expected = flat(net(data(*SHAPE)))[0]
    net.export(str(folder / name))
    return (folder / f'{name}-symbol.json', folder / f'{name}-0000.params'), expected


# --------------------------------------------------------------------------- in and out


def test_an_export_is_optimized_and_exported_again(native, np_or_nd, tmp_path):
    paths, expected = exported(tmp_path)
    model = optimize(paths)
    assert operators(graph_of(model)) == [
        'convpool_convolution',
        'convpool_pooling',
        'FullyConnected',
    ]
    assert_close('files', flat(model(data(*SHAPE)))[0], expected)
    assert model.verify(data(*SHAPE)).agrees
    model.export(tmp_path / 'fast', epoch=3)
    again = [str(tmp_path / name) for name in ('fast-symbol.json', 'fast-0003.params')]
    block = gluon.SymbolBlock.imports(again[0], ['data'], again[1])
    assert_close('SymbolBlock', flat(block(data(*SHAPE)))[0], expected)
    assert_close('optimized again', flat(optimize(again)(data(*SHAPE)))[0], expected)
    assert sorted(os.listdir(tmp_path)) == sorted(
        ['fast-symbol.json', 'fast-0003.params', *(path.name for path in paths)]
    )


def test_an_optimized_model_runs_in_a_module(native, nd_arrays, tmp_path):
    paths, expected = exported(tmp_path)
    optimize(paths).export(tmp_path / 'fast')
    module = mx.mod.Module.load(str(tmp_path / 'fast'), 0, label_names=None)
    for shape in (SHAPE, (1, *SHAPE[1:])):
        module.bind([('data', shape)], for_training=False, force_rebind=True)
        x = data(*SHAPE)[: shape[0]]
        module.forward(mx.io.DataBatch([x]), is_train=False)
        assert_close('Module', flat(module.get_outputs())[0], expected[: shape[0]])


def test_what_a_module_saved_while_it_was_trained_is_optimized(native, nd_arrays, tmp_path):
    x = mx.sym.var('data')
    y = mx.sym.Convolution(x, kernel=(3, 3), num_filter=4, name='conv')
    y = mx.sym.FullyConnected(mx.sym.BatchNorm(y, name='norm'), num_hidden=5, name='dense')
    module = mx.mod.Module(mx.sym.SoftmaxOutput(y, name='softmax'))
    module.bind([('data', SHAPE)], [('softmax_label', SHAPE[:1])])
    module.init_params(mx.init.Xavier())
    module.init_optimizer()
    batch = mx.io.DataBatch([data(*SHAPE)], [mx.nd.array([1, 3])])
    for _ in range(3):
        module.forward_backward(batch)
        module.update()
    module.forward(batch, is_train=False)
    expected = flat(module.get_outputs())[0]
    module.save_checkpoint(str(tmp_path / 'trained'), 7)
    model = optimize((tmp_path / 'trained-symbol.json', tmp_path / 'trained-0007.params'))
    assert_close('output', flat(model(data(*SHAPE)))[0], expected)
    assert graph_of(model).list_inputs()[0] == 'data'


@pytest.mark.parametrize('written, read', [('np', 'nd'), ('nd', 'np')])
def test_a_model_written_in_one_world_runs_in_the_other(written, read, native, tmp_path):
    with array_semantics(written):
        paths, expected = exported(tmp_path)
    with array_semantics(read):
        actual = optimize(paths)(data(*SHAPE))
        assert_close('output', flat(actual)[0], expected)


def test_a_symbol_and_its_arrays_need_no_files(native, nd_arrays, tmp_path):
    paths, expected = exported(tmp_path)
    symbol, values = mx.sym.load(str(paths[0])), mx.nd.load(str(paths[1]))
    for model in ((symbol, values), (symbol, str(paths[1])), (str(paths[0]), values)):
        assert_close('output', flat(optimize(model)(data(*SHAPE)))[0], expected)


def test_a_graph_of_several_inputs_takes_them_as_the_network_did(native, nd_arrays, tmp_path):
    class Difference(gluon.HybridBlock):
        def hybrid_forward(self, F, x, y):
            return F.sin(y) - x

    net = Difference()
    net.hybridize()
    inputs = [data(2, 3), data(2, 3, seed=1)]
    expected = flat(net(*inputs))[0]
    net.export(str(tmp_path / 'net'))
    paths = tmp_path / 'net-symbol.json', tmp_path / 'net-0000.params'
    assert_close('output', flat(optimize(paths)(*inputs))[0], expected)
    swapped = optimize(paths, inputs=['data1', 'data0'])
    assert_close('output', flat(swapped(*inputs[::-1]))[0], expected)


@pytest.mark.parametrize('missing', [10, 100_000], ids=['the end', 'most of it'])
def test_files_are_written_whole_or_not_at_all(missing, native, tmp_path):
    """MXNet keeps the end of a file until it closes it, and does not look whether that worked."""
    printed = isolated.run(
        f"""
        import os, resource, signal
        from gluon_convpool import optimize
        from mxnet.gluon import nn

        net = nn.Dense(100, in_units=1000)
        net.initialize()
        model = optimize(net)
        os.chdir({str(tmp_path)!r})
        model.export('net')
        before = {{name: open(name, 'rb').read() for name in os.listdir()}}
        size = os.path.getsize('net-0000.params')
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - {missing}, size))
        try:
            model.export('net')
        except OSError as error:
            print(error.strerror)
        print(before == {{name: open(name, 'rb').read() for name in os.listdir()}}, len(before))
        """
    )
    words = 'the arrays cannot be written whole; there may be no space left'
    assert printed.splitlines() == [words, 'True 2']


def test_a_name_of_no_file_is_refused(native, nd_arrays, tmp_path):
    model = optimize(network())
    for prefix in ('', '.', '..', '/'):
        with pytest.raises(ModelError, match=f'^{re.escape(repr(prefix))} ends in no name for'):
            model.export(prefix)


# --------------------------------------------------------------------------- bad files


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def edited(change):
    """Change the stored graph."""

    def edit(symbol, parameters):
        stored = json.loads(symbol.read_text())
        change(stored)
        symbol.write_text(json.dumps(stored))

    return edit


def without(name):
    def edit(symbol, parameters):
        stored = mx.nd.load(str(parameters))
        mx.nd.save(str(parameters), {k: v for k, v in stored.items() if not k.endswith(name)})

    return edit


def reshaped(name, shape):
    def edit(symbol, parameters):
        stored = mx.nd.load(str(parameters))
        stored[name] = mx.nd.zeros(shape)
        mx.nd.save(str(parameters), stored)

    return edit


def set_node(name, **values):
    def change(stored):
        next(node for node in stored['nodes'] if node['name'] == name).update(values)

    return edited(change)


def with_inputs(name, count):
    """Give a layer so many inputs: fewer than it has, or its first one again."""

    def change(stored):
        node = next(node for node in stored['nodes'] if node['name'] == name)
        node['inputs'] = (node['inputs'] + node['inputs'][:1])[:count]

    return edited(change)


def patched(path, old, new):
    """Change the first place where these bytes stand."""
    stored = path.read_bytes()
    assert old in stored
    path.write_bytes(stored.replace(old, new, 1))


BAD = {
    'no symbol': (lambda s, p: s.unlink(), r'net-symbol\.json: there is no such file'),
    'no parameters': (lambda s, p: p.unlink(), r'net-0000\.params: there is no such file'),
    'a folder': (lambda s, p: (s.unlink(), s.mkdir()), r'net-symbol\.json: cannot be read: Is a'),
    'text': (lambda s, p: s.write_text('graph'), r'net-symbol\.json: is no JSON file'),
    'bytes': (lambda s, p: s.write_bytes(b'\xff\xfe{'), r'net-symbol\.json: is no JSON file'),
    'half a symbol': (lambda s, p: cut(s, 900), r'json: is no JSON file, or is cut short'),
    'another JSON': (lambda s, p: s.write_text('{"a": 1}'), r"no graph of MXNet: .* list 'nodes'"),
    'a list': (lambda s, p: s.write_text('[1]'), r'no graph of MXNet: it is not an object'),
    'no output': (edited(lambda g: g.update(heads=[])), 'no graph of MXNet: it has no output'),
    'an output too far': (
        edited(lambda g: g.update(heads=[[999, 0, 0]])),
        'an output names a node that does not come before it',
    ),
    'an output of a node too far': (
        edited(lambda g: g['heads'][0].__setitem__(1, 4)),
        'an output names an output that its node does not have',
    ),
    'a circle': (
        set_node('conv_fwd', inputs=[[7, 0, 0], [1, 0, 0]]),
        'an input of layer conv_fwd names a node that does not come before it',
    ),
    'an entry of words': (
        set_node('conv_fwd', inputs=['data']),
        'an input of layer conv_fwd names no output of a node',
    ),
    'inputs that are no list': (
        set_node('conv_fwd', inputs=None),
        'node 2 has no op, name and inputs',
    ),
    'a number of inputs': (set_node('conv_fwd', inputs=3), 'node 2 has no op, name and inputs'),
    'an input by words': (
        set_node('conv_fwd', inputs=[['data', 0, 0]]),
        'an input of layer conv_fwd names no output of a node',
    ),
    'starts that are no numbers': (
        edited(lambda g: g['node_row_ptr'].__setitem__(2, 'x')),
        "its 'node_row_ptr' has not one number for each node and one more",
    ),
    'nested too deep': (
        lambda s, p: s.write_text('[' * 100_000),
        r'net-symbol\.json: holds no graph of MXNet: it is nested too deep',
    ),
    'a convolution without weight': (
        with_inputs('conv_fwd', 1),
        r'net-symbol\.json: layer conv_fwd has 1 inputs, but a Convolution needs 2',
    ),
    'a batch norm of nothing': (
        with_inputs('norm_fwd', 0),
        r'net-symbol\.json: layer norm_fwd has 0 inputs, but a BatchNorm needs 5',
    ),
    'a batch norm without variance': (
        with_inputs('norm_fwd', 4),
        r'net-symbol\.json: layer norm_fwd has 4 inputs, but a BatchNorm needs 5',
    ),
    'a pooling of nothing': (
        with_inputs('pool_fwd', 0),
        r'net-symbol\.json: layer pool_fwd has 0 inputs, but a Pooling needs 1',
    ),
    'a pooling of two': (
        with_inputs('pool_fwd', 2),
        r'layer pool_fwd cannot have 2 inputs as a Pooling: Incorrect number of arguments',
    ),
    'half a node': (
        edited(lambda g: g['nodes'][0].pop('op')),
        'node 0 has no op, name and inputs',
    ),
    'an unknown operator': (
        set_node('conv_fwd', op='Foo'),
        r'net-symbol\.json: MXNet knows no operator Foo; load the library',
    ),
    'an unknown attribute': (
        set_node('conv_fwd', attrs={'kernel_size': '(3, 3)'}),
        r"net-symbol\.json: MXNet cannot load the graph: Cannot find argument 'kernel_size'",
    ),
    'parameters cut early': (
        lambda s, p: cut(p, 200),
        r'params: is no parameter file, or is damaged: it is cut',
    ),
    'parameters cut late': (
        lambda s, p: cut(p, -9),
        r'params: is no parameter file, or is damaged: it is cut',
    ),
    'empty parameters': (lambda s, p: p.write_bytes(b''), r'params: is no parameter file, .* cut'),
    'parameters of words': (
        lambda s, p: p.write_text('w' * 99),
        r'params: is no parameter file, or is damaged: it does not begin like one',
    ),
    'a folder of parameters': (
        lambda s, p: (p.unlink(), p.mkdir()),
        r'net-0000\.params: cannot be read: Is a directory',
    ),
    'a size of terabytes': (
        lambda s, p: patched(p, struct.pack('<q', 8), struct.pack('<q', 2**40)),
        r'0000\.params: is no parameter file, or is damaged: it is cut short, or a size in it is',
    ),
    'more axes than bytes': (
        lambda s, p: patched(p, struct.pack('<iq', 4, 8), struct.pack('<iq', 2**30, 8)),
        r'0000\.params: is no parameter file, or is damaged: it is cut short, or a size in it is',
    ),
    'a negative size': (
        lambda s, p: patched(p, struct.pack('<q', 8), struct.pack('<q', -8)),
        r'0000\.params: is no parameter file, or is damaged: an array in it has no type or no sh',
    ),
    'a name of no letters': (
        lambda s, p: patched(p, b'arg:conv_weight', b'arg:conv_weigh\xff'),
        r'0000\.params: is no parameter file, or is damaged: a name in it is no text',
    ),
    'parameters without names': (
        lambda s, p: mx.nd.save(str(p), [mx.nd.zeros(3)]),
        r'net-0000\.params: holds arrays without names',
    ),
    'a missing weight': (
        without('conv_weight'),
        r'0000\.params: does not fit .*net-symbol\.json: it has no conv_weight$',
    ),
    'missing statistics': (
        without('running_mean'),
        r'0000\.params: does not fit .*net-symbol\.json: it has no norm_running_mean$',
    ),
    'nothing that fits': (
        lambda s, p: mx.nd.save(str(p), {'arg:other': mx.nd.zeros(3)}),
        r'does not fit .*: it has no conv_weight and 6 more$',
    ),
    'another kernel': (
        reshaped('arg:conv_weight', (8, 3, 5, 5)),
        r'layer conv_fwd needs a weight of shape \(8, 3, 3, 3\), but conv_weight has '
        r'\(8, 3, 5, 5\)',
    ),
    'another number of channels': (
        reshaped('arg:norm_gamma', (9,)),
        r'layer norm_fwd needs a gamma of shape \(8\), but norm_gamma has \(9,\)',
    ),
    'another number of outputs': (
        reshaped('arg:dense_bias', (6,)),
        r'layer dense_fwd needs a bias of shape \(5\), but dense_bias has \(6,\)',
    ),
}


@pytest.mark.parametrize('name', BAD)
def test_a_file_that_cannot_be_used_is_named(name, native, nd_arrays, tmp_path):
    spoil, sentence = BAD[name]
    paths, _ = exported(tmp_path)
    spoil(*paths)
    with pytest.raises(ModelError, match=sentence) as caught:
        optimize(paths)
    assert '\n' not in str(caught.value) and '.cc' not in str(caught.value)


def test_a_weight_of_another_transposed_convolution_is_named(nd_arrays, tmp_path):
    x = mx.sym.Convolution(mx.sym.var('x'), kernel=(1, 1), num_filter=4, no_bias=True, name='point')
    up = mx.sym.Deconvolution(x, kernel=(2, 2), num_filter=6, num_group=2, name='up')
    point = mx.nd.zeros((4, 3, 1, 1))
    for shape in ((4, 6, 2, 2), (2, 3, 2, 2), (4, 3, 3, 3)):
        with pytest.raises(ModelError, match=r'layer up needs a weight of shape \(4, 3, 2, 2\)'):
            optimize((up, {'point_weight': point, 'up_weight': mx.nd.zeros(shape)}))
    model = optimize((up, {'point_weight': point, 'up_weight': mx.nd.zeros((4, 3, 2, 2))}))
    assert model(data(1, 3, 5, 5)).shape == (1, 6, 6, 6)


def test_layers_that_only_mxnet_knows_need_their_inputs_too(nd_arrays, tmp_path):
    x, y = mx.sym.var('x'), mx.sym.var('y')
    product = mx.sym.dot(x, y, name='product')
    up = mx.sym.Deconvolution(product, kernel=(2,), num_filter=3, no_bias=False, name='up')
    paths = tmp_path / 'net-symbol.json', tmp_path / 'net-0000.params'
    mx.nd.save(str(paths[1]), {'up_weight': mx.nd.zeros((3, 3, 2)), 'up_bias': mx.nd.zeros(3)})
    for name, given, words in (
        ('up', 2, 'layer up has 2 inputs, but a Deconvolution needs 3'),
        ('product', 1, 'layer product has 1 inputs, but a dot needs 2'),
    ):
        up.save(str(paths[0]))
        with_inputs(name, given)(*paths)
        with pytest.raises(ModelError, match=words):
            optimize(paths)


def test_layers_with_graphs_of_their_own_and_any_number_of_inputs_are_read(nd_arrays, tmp_path):
    x = mx.sym.var('x')
    y, _ = mx.sym.contrib.foreach(lambda a, b: (a + b, a + b), x, mx.sym.var('start'))
    mx.sym.concat(y, x, y, x, dim=0).save(str(tmp_path / 'net-symbol.json'))
    assert files.read_symbol(tmp_path / 'net-symbol.json').list_inputs() == ['x', 'start']


@pytest.mark.skipif(os.geteuid() == 0, reason='root may read everything')
def test_a_file_that_may_not_be_read_is_named(nd_arrays, tmp_path):
    paths, _ = exported(tmp_path)
    paths[1].chmod(0)
    with pytest.raises(ModelError, match='cannot be read: Permission denied'):
        optimize(paths)


# --------------------------------------------------------------------------- bad models and calls


def test_a_network_without_values_is_named(native, np_or_nd):
    net = builtin.Conv2D(4, 3, in_channels=2, prefix='mine_')
    with pytest.raises(ModelError, match=r'^mine: parameter mine_weight .* call initialize\(\)'):
        optimize(net)
    net = builtin.Conv2D(4, 3, prefix='mine_')
    net.initialize()
    with pytest.raises(ModelError, match=r'^mine: parameter mine_weight .* call the network'):
        optimize(net)


def test_a_network_that_needs_arrays_is_named(native, nd_arrays):
    class Eager(gluon.Block):
        def forward(self, x):
            return x * float(x.asnumpy().max())

    class Strange(gluon.HybridBlock):
        def hybrid_forward(self, F, x):
            return 'nothing'

    with pytest.raises(ModelError, match='a graph cannot be traced of this Eager with 1 inputs: '):
        optimize(Eager(prefix='eager_'))
    with pytest.raises(ModelError, match='cannot be traced of this Strange'):
        optimize(Strange())


@pytest.mark.parametrize(
    'model',
    [3, ('a', 'b', 'c'), (mx.nd.zeros(3), {}), (mx.sym.var('x'), 3)],
    ids=['number', 'three', 'array', 'no arrays'],
)
def test_what_is_no_model_is_refused(model):
    with pytest.raises(TypeError, match='optimize: model must be'):
        optimize(model)


def test_inputs_that_the_graph_does_not_have_are_refused(nd_arrays, tmp_path):
    paths, _ = exported(tmp_path)
    with pytest.raises(ModelError, match=r'net-symbol\.json: has no input image; it has data'):
        optimize(paths, inputs=['image'])


def test_a_call_that_the_graph_refuses_names_the_layer(native, np_or_nd):
    model = optimize(network())
    for shape, words in (
        ((1, 4, 13, 12), 'layer conv_fwd: '),
        ((1, 3, 2, 12), r'layer conv_fwd: convolution: a window of size .*; the window must fit$'),
        ((1, 3), 'layer conv_fwd: '),
    ):
        with pytest.raises(ModelError, match='^OptimizedModel: ' + words) as caught:
            model(data(*shape))
        assert '\n' not in str(caught.value) and '.cc' not in str(caught.value)
    model(data(*SHAPE))


@pytest.mark.parametrize(
    'text, sentence',
    [
        (
            'MXNetError: Error in operator conv0_fwd: Shape inconsistent, Provided = [64,3,7,7],'
            ' inferred shape=(64,4,7,7)',
            'layer conv0_fwd: Shape inconsistent, Provided = [64,3,7,7], inferred shape=(64,4,7,7)',
        ),
        (
            'MXNetError: Error in operator c: [02:34:58] ../src/operator/nn/convolution.cc:151:'
            ' Check failed: dshp.ndim() == 4U (3 vs. 4) : Input data should be 4D',
            'layer c: Input data should be 4D (3 vs. 4)',
        ),
        (
            'Traceback (most recent call last):\n  File "../src/ndarray/ndarray.cc", line 1860\n'
            'MXNetError: Check failed: fi->Read(data): Invalid NDArray file format',
            'Invalid NDArray file format',
        ),
        (
            'MXNetError: Error in operator c: Error calling InferShape for custom operator'
            " 'convpool_pooling'\nExtension Traceback:\n\t[0] pooling: the data has no axes",
            'layer c: pooling: the data has no axes',
        ),
        ('a plain sentence.', 'a plain sentence'),
    ],
)
def test_what_mxnet_says_without_its_places(text, sentence):
    assert files.reason_of(mx.MXNetError(text)) == sentence


def test_shapes_are_checked_without_running(nd_arrays, tmp_path, capsys):
    paths, _ = exported(tmp_path)
    graph = files.read_model(*paths)
    files.check_input_shapes(graph, {'data': SHAPE})
    with pytest.raises(ModelError, match=r'refuses data of shape \(1, 4, 13, 12\): layer conv_fwd'):
        files.check_input_shapes(graph, {'data': (1, 4, 13, 12)})
    with pytest.raises(ModelError, match=r'^data of shape .* is more than the 2147483647 elements'):
        files.check_input_shapes(graph, {'data': (1, 3, 99999999999, 10)})
    assert capsys.readouterr().out == ''


def test_unknown_operators_of_a_library_that_was_not_loaded_are_named(tmp_path, native, nd_arrays):
    optimize(network()).export(tmp_path / 'fast')
    text = (tmp_path / 'fast-symbol.json').read_text()
    (tmp_path / 'fast-symbol.json').write_text(re.sub('convpool_pooling', 'convpool_new', text))
    with pytest.raises(ModelError, match='MXNet knows no operator convpool_new'):
        optimize((tmp_path / 'fast-symbol.json', tmp_path / 'fast-0000.params'))


def test_a_model_error_is_a_value_error():
    assert issubclass(ModelError, ValueError)


def test_a_call_with_other_inputs_is_refused(native, np_or_nd):
    model = optimize(network())
    for inputs in ((), (data(*SHAPE), data(*SHAPE))):
        with pytest.raises(ModelError, match=rf'takes 1 inputs \(data\), not {len(inputs)}'):
            model(*inputs)
