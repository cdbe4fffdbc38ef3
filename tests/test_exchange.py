"""Our layers stand where the built-in ones stood: files, graphs, names, signatures, prints."""

from __future__ import annotations

import copy
import inspect
import json
import pickle

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon
from mxnet.gluon import nn as builtin

from gluon_convpool import functional, nn
from gluon_convpool.testing import (
    array_kind,
    array_semantics,
    assert_close,
    assert_layers_match,
    copy_parameters,
    draw,
    parameters,
)

LAYERS = ('Conv2D', 'MaxPool2D', 'AvgPool2D', 'GlobalMaxPool2D', 'GlobalAvgPool2D')


def network(module, **arguments):
    net = module.HybridSequential(**arguments)
    with net.name_scope():
        net.add(
            module.Conv2D(6, 3, padding=1, activation='relu'),
            module.MaxPool2D(2),
            module.Conv2D(8, (3, 2), strides=(1, 2), groups=2, use_bias=False),
            module.AvgPool2D(2, strides=1, padding=1),
            module.GlobalMaxPool2D(),
            module.Dense(5),
        )
    return net


def started(module, **arguments):
    net = network(module, **arguments)
    net.initialize(mx.init.Normal(0.5))
    net(image())
    return net


def image():
    return array_kind().array(draw('exchange', (2, 3, 12, 14))[0])


def assert_equal_outputs(one, other):
    assert_close('output', one(image()).asnumpy(), other(image()).asnumpy())


# ----------------------------------------------------------------------------- parameter files


@pytest.mark.parametrize('save, load', [(nn, builtin), (builtin, nn), (nn, nn)])
@pytest.mark.parametrize('deferred', [True, False])
def test_a_file_saved_by_either_loads_into_the_other(
    save, load, deferred, any_backend, np_or_nd, tmp_path
):
    path = str(tmp_path / 'net.params')
    source = started(save)
    source.save_parameters(path)
    target = network(load) if deferred else started(load)
    target.load_parameters(path)
    assert_equal_outputs(target, source)
    for name, parameter in parameters(source).items():
        np.testing.assert_array_equal(
            parameters(target)[name].data().asnumpy(), parameter.data().asnumpy()
        )


def test_a_file_of_legacy_arrays_loads_into_np_arrays(any_backend, tmp_path):
    for save, load in (('nd', 'np'), ('nd', 'nd'), ('np', 'np')):
        path = str(tmp_path / save)
        with array_semantics(save):
            source = started(nn)
            source.save_parameters(path)
            expected = source(image()).asnumpy()
        with array_semantics(load):
            target = network(nn)
            target.load_parameters(path)
            assert_close('output', target(image()).asnumpy(), expected)


def test_pickled_parameters_come_back(any_backend, np_or_nd):
    source = started(nn)
    values = {name: parameter.data() for name, parameter in parameters(source).items()}
    target = started(nn)
    for name, value in pickle.loads(pickle.dumps(values)).items():
        parameters(target)[name].set_data(value)
    assert_equal_outputs(target, source)


def test_a_pickled_layer_comes_back(any_backend, np_or_nd):
    layers = [nn.Conv2D(4, 3, activation='relu'), nn.MaxPool2D(3, 2)]
    if any_backend == 'native':
        layers.append(nn.Conv2D(4, 3, algorithm='implicit_gemm'))
    for layer in layers:
        layer.initialize(mx.init.Normal(1))
        expected = layer(image())
        again = pickle.loads(pickle.dumps(layer))
        assert repr(again) == repr(layer)
        assert_close('output', again(image()).asnumpy(), expected.asnumpy())
        assert_close('output', copy.deepcopy(layer)(image()).asnumpy(), expected.asnumpy())


# -------------------------------------------------------------------------------------- graphs


@pytest.mark.parametrize('static', [True, False])
def test_an_exported_network_is_imported_again(static, any_backend, np_or_nd, tmp_path):
    net = started(nn)
    net.hybridize(static_alloc=static, static_shape=static)
    expected = net(image()).asnumpy()
    net.export(str(tmp_path / 'net'), epoch=3)
    again = gluon.SymbolBlock.imports(
        str(tmp_path / 'net-symbol.json'), ['data'], str(tmp_path / 'net-0003.params')
    )
    assert_close('output', again(image()).asnumpy(), expected)


def test_an_imported_network_is_trained_further(any_backend, np_or_nd, tmp_path):
    net = started(nn)
    net.hybridize()
    net(image())
    net.export(str(tmp_path / 'net'))
    again = gluon.SymbolBlock.imports(
        str(tmp_path / 'net-symbol.json'), ['data'], str(tmp_path / 'net-0000.params')
    )
    named = {parameter.name: parameter for parameter in net.collect_params().values()}
    for _ in range(2):
        gradients = []
        for block in (net, again):
            x = image()
            x.attach_grad()
            with mx.autograd.record():
                loss = (block(x) ** 2).sum()
            loss.backward()
            gradients.append(x.grad.asnumpy())
        assert_close('x', gradients[1], gradients[0])
        for name, parameter in again.collect_params().items():
            assert_close(name, parameter.grad().asnumpy(), named[name].grad().asnumpy())


def test_a_network_exported_after_recording_adds_up_gradients(any_backend, np_or_nd, tmp_path):
    net = started(nn)
    net.hybridize()
    with mx.autograd.record():
        net(image())
    net.export(str(tmp_path / 'net'))
    again = gluon.SymbolBlock.imports(
        str(tmp_path / 'net-symbol.json'), ['data'], str(tmp_path / 'net-0000.params')
    )
    with mx.autograd.record():
        loss = (again(image()) ** 2).sum()
    loss.backward()
    once = {name: p.grad().asnumpy() for name, p in again.collect_params().items()}
    again.collect_params().setattr('grad_req', 'add')
    again.collect_params().zero_grad()
    for _ in range(3):
        with mx.autograd.record():
            loss = (again(image()) ** 2).sum()
        loss.backward()
    for name, parameter in again.collect_params().items():
        assert_close(name, parameter.grad().asnumpy(), 3 * once[name])


DEFAULTS = {'no_bias': 'False', 'layout': 'NCHW', 'pool_type': 'max', 'global_pool': 'False'}


def test_an_exported_graph_names_our_operators_with_their_attributes(native, np_or_nd, tmp_path):
    net = nn.HybridSequential()
    net.add(
        nn.Conv2D(4, (3, 2), strides=2, padding=(1, 0), dilation=(1, 2), groups=2, in_channels=4),
        nn.AvgPool2D((3, 2), strides=2, padding=1, ceil_mode=True, count_include_pad=False),
        nn.GlobalMaxPool2D(),
    )
    net.initialize()
    net.hybridize()
    net(array_kind().array(np.ones((1, 4, 13, 14), 'float32')))
    net.export(str(tmp_path / 'net'))
    nodes = json.loads((tmp_path / 'net-symbol.json').read_text())['nodes']
    prefix = '_npx_' if np_or_nd == 'np' else ''
    ours = {}
    for node in nodes:
        if node['op'].startswith(prefix + 'convpool_'):
            attributes = {**DEFAULTS, **node['attrs']}
            ours.setdefault(node['op'], []).append(attributes)
    assert set(ours) == {prefix + 'convpool_convolution', prefix + 'convpool_pooling'}
    (convolution,) = ours[prefix + 'convpool_convolution']
    for name, value in {
        'kernel': '(3, 2)',
        'stride': '(2, 2)',
        'dilate': '(1, 2)',
        'pad': '(1, 0)',
        'num_filter': '4',
        'num_group': '2',
        'no_bias': 'False',
        'layout': 'NCHW',
    }.items():
        assert convolution[name].lower() == value.lower(), name
    average, maximum = ours[prefix + 'convpool_pooling']
    for name, value in {
        'kernel': '(3, 2)',
        'stride': '(2, 2)',
        'pad': '(1, 1)',
        'pool_type': 'avg',
        'pooling_convention': 'full',
        'count_include_pad': 'False',
        'layout': 'NCHW',
    }.items():
        assert average[name].lower() == value.lower(), name
    assert maximum['pool_type'] == 'max' and maximum['global_pool'].lower() == 'true'


@pytest.mark.parametrize('algorithm', ['auto', 'implicit_gemm'])
def test_an_exported_graph_names_only_a_forced_algorithm(algorithm, native, np_or_nd, tmp_path):
    layer = nn.Conv2D(4, 3, algorithm=algorithm)
    layer.initialize()
    layer.hybridize()
    layer(image())
    layer.export(str(tmp_path / 'layer'))
    nodes = json.loads((tmp_path / 'layer-symbol.json').read_text())['nodes']
    (ours,) = [node for node in nodes if 'convpool_convolution' in node['op']]
    assert ours['attrs'].get('algorithm', 'auto') == algorithm
    assert ('algorithm' in ours['attrs']) == (algorithm != 'auto')


def test_module_api_runs_an_exported_graph(any_backend, nd_arrays, tmp_path):
    net = started(nn)
    net.hybridize()
    x = image()
    x.attach_grad()
    with mx.autograd.record():
        y = net(x)
    y.backward()
    net.export(str(tmp_path / 'net'))

    symbol, arguments, auxiliary = mx.model.load_checkpoint(str(tmp_path / 'net'), 0)
    module = mx.mod.Module(symbol, data_names=['data'], label_names=None)
    module.bind([('data', x.shape)], for_training=True, inputs_need_grad=True)
    module.set_params(arguments, auxiliary)
    module.forward(mx.io.DataBatch([x]), is_train=True)
    module.backward([mx.nd.ones(y.shape)])
    assert_close('output', module.get_outputs()[0].asnumpy(), y.asnumpy())
    assert_close('x', module.get_input_grads()[0].asnumpy(), x.grad.asnumpy())


@pytest.mark.parametrize('kind', ['np', 'nd'])
def test_functions_build_symbols(kind, any_backend):
    with array_semantics(kind):
        variable = mx.sym.var if kind == 'nd' else lambda name: mx.sym.var(name).as_np_ndarray()
        data, weight, bias = map(variable, ('data', 'weight', 'bias'))
        y = functional.convolution(
            data, weight, bias, padding=1, kernel_size=3, channels=5, name='first'
        )
        y = functional.pooling(y, 2, mode='avg', name='second')
        assert type(y) is type(data)
        assert set(y.list_arguments()) == {'data', 'weight', 'bias'}
        arguments, outputs, _ = y.infer_shape(data=(2, 3, 8, 8))
        assert dict(zip(y.list_arguments(), arguments)) == {
            'data': (2, 3, 8, 8),
            'weight': (5, 3, 3, 3),
            'bias': (5,),
        }
        assert outputs == [(2, 5, 4, 4)]
        assert {'first_output', 'second_output'} <= set(y.get_internals().list_outputs())


@pytest.mark.parametrize('kind', ['np', 'nd'])
def test_nodes_of_a_graph_have_the_builtin_names(kind, any_backend):
    """Features are fetched by these names: `symbol.get_internals()['net_conv0_fwd_output']`."""
    with array_semantics(kind):
        outputs = []
        for module in (nn, builtin):
            data = mx.sym.var('data')
            symbol = network(module, prefix='net_')(data.as_np_ndarray() if kind == 'np' else data)
            named = symbol.get_internals().list_outputs()
            outputs.append({name for name in named if name.endswith('_fwd_output')})
        assert outputs[1] <= outputs[0]
        assert len(outputs[1]) == 7


# -------------------------------------------------------------------- names, prints, signatures


@pytest.mark.parametrize('layer', LAYERS)
def test_constructors_have_the_builtin_signature(layer):
    ours = inspect.signature(getattr(nn, layer)).parameters
    theirs = inspect.signature(getattr(builtin, layer)).parameters
    added = [p for p in ours.values() if p.kind is p.KEYWORD_ONLY]
    assert [(p.name, p.kind, p.default) for p in ours.values() if p not in added] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]
    assert {p.name: p.default for p in added} == (
        {'algorithm': 'auto', 'padding_mode': 'zeros'} if layer == 'Conv2D' else {}
    )


@pytest.mark.parametrize(
    'layer, arguments',
    [
        ('Conv2D', ((4, 3), {})),
        ('Conv2D', ((4, (3, 2)), {'strides': 2, 'padding': (1, 0), 'dilation': 2})),
        ('Conv2D', ((6, 1), {'groups': 3, 'use_bias': False, 'activation': 'relu'})),
        ('MaxPool2D', ((), {})),
        ('MaxPool2D', ((3,), {'strides': (1, 2), 'padding': 1, 'ceil_mode': True})),
        ('AvgPool2D', (((2, 3),), {'count_include_pad': False, 'layout': 'NHWC'})),
        ('GlobalMaxPool2D', ((), {})),
        ('GlobalAvgPool2D', ((), {'layout': 'NHWC'})),
    ],
    ids=str,
)
def test_layers_print_as_the_builtin_ones(layer, arguments, np_or_nd):
    ours, theirs = (getattr(m, layer)(*arguments[0], **arguments[1]) for m in (nn, builtin))
    assert repr(ours) == repr(theirs)
    if layer == 'Conv2D':
        for block in (ours, theirs):
            block.initialize()
            block(image())
        assert repr(ours) == repr(theirs)


def test_a_forced_algorithm_is_printed(native, np_or_nd):
    layer = nn.Conv2D(4, 3, algorithm='implicit_gemm')
    assert repr(layer) == repr(builtin.Conv2D(4, 3))[:-1] + ', algorithm=implicit_gemm)'
    assert repr(nn.Conv2D(4, 3, algorithm='auto')) == repr(builtin.Conv2D(4, 3))
    assert repr(nn.Pool2D(mode='lp', p=3)).endswith('pool_type=lp, layout=NCHW, p=3)')
    assert repr(nn.Pool2D(p=3)) == repr(nn.Pool2D())


def test_padding_is_counted_unless_that_is_denied():
    """MXNet takes None for True."""
    x = mx.nd.arange(18).reshape((1, 2, 3, 3))
    for count in (None, True, False):
        ours, theirs = (
            module.AvgPool2D(2, 1, 1, count_include_pad=count) for module in (nn, builtin)
        )
        assert_close('output', ours(x).asnumpy(), theirs(x).asnumpy(), 1e-6)


def test_networks_print_as_the_builtin_ones(np_or_nd):
    assert repr(started(nn)) == repr(started(builtin))


def _described(net):
    return [
        (name, parameter.name, parameter.shape, parameter.dtype, parameter.grad_req)
        for name, parameter in net.collect_params().items()
    ]


def test_parameters_have_the_builtin_names_shapes_and_order(np_or_nd):
    ours, theirs = (network(module, prefix='net_') for module in (nn, builtin))
    assert _described(ours) == _described(theirs)
    for net in (ours, theirs):
        net.initialize()
        net(image())
    assert _described(ours) == _described(theirs)
    assert list(parameters(ours)) == list(parameters(theirs))
    assert list(ours.collect_params('.*weight')) == list(theirs.collect_params('.*weight'))


@pytest.mark.parametrize('layer', LAYERS)
def test_layers_count_their_names_as_the_builtin_ones(layer):
    def names(module):
        arguments = (4, 3) if layer == 'Conv2D' else ()
        parent = gluon.nn.HybridSequential(prefix='parent_')
        with parent.name_scope():
            blocks = [getattr(module, layer)(*arguments) for _ in range(3)]
            blocks.append(getattr(module, layer)(*arguments, prefix='mine_'))
        return [(block.name, block.prefix, block.params.prefix) for block in blocks]

    assert names(nn) == names(builtin)


def test_activation_is_a_child_with_the_builtin_name(np_or_nd):
    ours, theirs = (m.Conv2D(4, 3, activation='tanh', prefix='c_') for m in (nn, builtin))
    assert list(ours._children) == list(theirs._children)
    assert ours.act.name == theirs.act.name


def test_initializers_reach_the_parameters(np_or_nd):
    for module in (nn, builtin):
        layer = module.Conv2D(4, 3, weight_initializer='ones', bias_initializer=mx.init.Constant(2))
        layer.initialize()
        layer(image())
        assert (layer.weight.data().asnumpy() == 1).all()
        assert (layer.bias.data().asnumpy() == 2).all()


def test_same_seed_gives_the_builtin_layers_parameters(np_or_nd):
    drawn = []
    for module in (nn, builtin):
        mx.random.seed(7)
        drawn.append([p.data().asnumpy() for p in started(module).collect_params().values()])
    for ours, theirs in zip(*drawn):
        np.testing.assert_array_equal(ours, theirs)


def test_shared_parameters_are_one_parameter(np_or_nd):
    one = nn.Conv2D(4, 3, in_channels=3)
    for module in (nn, builtin):
        other = module.Conv2D(4, 3, in_channels=3, params=one.params)
        assert other.weight is one.weight and other.bias is one.bias


def test_summary_counts_what_the_builtin_network_counts(np_or_nd, capsys):
    def summary(module):
        started(module).summary(image())
        return capsys.readouterr().out

    assert summary(nn) == summary(builtin)


def test_subclasses_are_recognised(np_or_nd):
    assert issubclass(nn.Conv2D, gluon.HybridBlock)
    assert issubclass(nn.MaxPool2D, gluon.HybridBlock)


def test_layers_mix_with_builtin_layers_in_one_network(any_backend, np_or_nd):
    ours, theirs = builtin.HybridSequential(), builtin.HybridSequential()
    ours.add(builtin.Conv2D(4, 3), nn.MaxPool2D(2), nn.Conv2D(3, 3), builtin.AvgPool2D(2))
    theirs.add(
        builtin.Conv2D(4, 3), builtin.MaxPool2D(2), builtin.Conv2D(3, 3), builtin.AvgPool2D(2)
    )
    for net in (ours, theirs):
        net.initialize(mx.init.Normal(0.3))
    assert_layers_match(ours, theirs, draw('mixed', (2, 3, 14, 14))[0])


def _symbol_through(net):
    data = mx.sym.var('data')
    symbol = net(data.as_np_ndarray() if mx.util.is_np_array() else data)
    assert len(set(symbol.list_arguments())) == len(symbol.list_arguments())


def test_a_network_is_cast_after_symbols_went_through_it(any_dtype_backend, np_or_nd):
    net = started(nn)
    expected = net(image()).asnumpy()
    for dtype in ('float64', 'float32'):
        for _ in range(10):
            _symbol_through(net)
        net.cast(dtype)
        net.hybridize()
        _symbol_through(net)
        assert_close('output', net(image().astype(dtype)).asnumpy(), expected)


@pytest.mark.parametrize('times', [1, 10])
def test_a_layer_is_copied_after_symbols_went_through_it(times, any_backend, np_or_nd):
    layer = nn.Conv2D(4, 3)
    layer.initialize(mx.init.Normal(1))
    expected = layer(image()).asnumpy()
    for copied in (copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))):
        for _ in range(times):
            _symbol_through(layer)
        again = copied(layer)
        _symbol_through(again)
        again.hybridize()
        assert_close('output', again(image()).asnumpy(), expected)


def test_hybrid_blocks_of_users_may_call_the_functions(any_backend, np_or_nd):
    class Mine(gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            with self.name_scope():
                self.weight = self.params.get('weight', shape=(4, 3, 3, 3))

        def hybrid_forward(self, F, x, weight):
            y = functional.convolution(x, weight, padding=1, kernel_size=3, channels=4)
            return functional.pooling(y, 2, mode='avg')

    mine, theirs = Mine(), builtin.HybridSequential()
    theirs.add(builtin.Conv2D(4, 3, padding=1, use_bias=False, in_channels=3), builtin.AvgPool2D())
    for net in (mine, theirs):
        net.initialize(mx.init.Normal(0.3))
    x = image()
    mine.weight.set_data(theirs[0].weight.data())
    expected = theirs(x).asnumpy()
    for active in (False, True):
        mine.hybridize(active)
        assert_close('output', mine(x).asnumpy(), expected)


def test_cast_and_reset_ctx_keep_a_layer_working(any_dtype_backend, np_or_nd):
    source, target = started(nn), started(nn)
    copy_parameters(source, target)
    target.cast('float64')
    y = target(image().astype('float64'))
    assert y.dtype == np.float64
    assert_close('output', y.asnumpy(), source(image()).asnumpy())
    target.cast('float32')
    target.collect_params().reset_ctx(mx.cpu(0))
    assert_equal_outputs(target, source)
