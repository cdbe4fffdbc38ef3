"""Graphs rewritten for inference: what each rule does, what it leaves, and the same numbers."""

from __future__ import annotations

import re

import mxnet as mx
import numpy as np
import pytest
from models_common import data, flat, graph_of, nodes, operators, started
from mxnet import autograd, gluon
from mxnet.gluon import nn as builtin

import gluon_convpool
from gluon_convpool import optimize, swap
from gluon_convpool.models import ModelError, rules, shapes
from gluon_convpool.models import graph as graphs
from gluon_convpool.testing import array_kind, assert_close

SHAPE = (2, 3, 13, 12)
pytestmark = pytest.mark.usefixtures('native')


class Net(gluon.HybridBlock):
    """A network of layers as attributes, and a function of these that computes."""

    def __init__(self, function, **layers):
        super().__init__(prefix='')
        self.function = function
        with self.name_scope():
            for name, layer in layers.items():
                setattr(self, name, layer)

    def hybrid_forward(self, F, x, *others):
        return self.function(self, F.npx if mx.util.is_np_array() else F, x, *others)


def chain(*layers):
    net = builtin.HybridSequential(prefix='')
    net.add(*layers)
    return net


def conv(channels=8, kernel=3, **keywords):
    keywords.setdefault('prefix', 'conv_')
    return builtin.Conv2D(channels, kernel, **keywords)


def norm(**keywords):
    keywords.setdefault('prefix', 'norm_')
    return builtin.BatchNorm(**keywords)


def optimized(net, *inputs, tolerance=1e-5):
    """The optimized network, which gives what the network gives."""
    inputs = inputs or (data(*SHAPE),)
    started(net, *inputs) if len(inputs) == 1 else net.initialize()
    expected = flat(net(*inputs))
    model = optimize(net)
    actual = flat(model(*inputs))
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected):
        assert_close('output', one, other, tolerance)
    return model


def rewrites(model):
    return [str(one) for one in model.report.rewrites]


def left(model):
    return [str(one) for one in model.report.left]


# --------------------------------------------------------------------------- folding


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize(
    'keywords',
    [
        {},
        {'scale': False},
        {'center': False},
        {'epsilon': 0.3},
        {'use_global_stats': True},
        {'axis': -3},
    ],
    ids=str,
)
def test_batch_norm_becomes_part_of_the_convolution(keywords, bias, np_or_nd):
    model = optimized(chain(conv(use_bias=bias), norm(**keywords)))
    assert operators(graph_of(model)) == ['convpool_convolution']
    assert 'norm_fwd: BatchNorm folded into conv_fwd' in rewrites(model)


def test_the_defaults_of_the_operator_are_its_own(nd_arrays):
    # an epsilon of 1e-3 and a gamma that does not count, where the layer writes others
    x = mx.sym.var('data')
    y = mx.sym.BatchNorm(mx.sym.Convolution(x, kernel=(3, 3), num_filter=4, name='c'), name='b')
    random = np.random.RandomState(0)
    sizes = {'c_weight': (4, 3, 3, 3), 'c_bias': (4,)}
    sizes.update({f'b_{name}': (4,) for name in ('gamma', 'beta', 'moving_mean', 'moving_var')})
    values = {name: mx.nd.array(random.uniform(0.1, 1, size)) for name, size in sizes.items()}
    arguments = {name: values[name] for name in y.list_arguments()[1:]}
    auxiliary = {name: values[name] for name in y.list_auxiliary_states()}
    executor = y.bind(mx.cpu(), {'data': data(*SHAPE), **arguments}, aux_states=auxiliary)
    expected = executor.forward()[0].asnumpy()
    model = optimize((y, values))
    assert operators(graph_of(model)) == ['convpool_convolution']
    assert_close('output', flat(model(data(*SHAPE)))[0], expected)


def test_a_batch_norm_of_another_axis_stays(nd_arrays):
    model = optimized(chain(conv(), norm(axis=3)))
    assert operators(graph_of(model)) == ['convpool_convolution', 'BatchNorm']
    assert left(model) == ['norm_fwd: BatchNorm left, its axis is not that of the channels']


@pytest.mark.parametrize(
    'function, kept',
    [
        (lambda net, F, x: net.norm(x) + F.sigmoid(x), 'sigmoid'),
        (lambda net, F, x: (net.norm(x), x), None),
    ],
    ids=['others', 'an output'],
)
def test_a_convolution_with_several_users_is_not_folded(function, kept, np_or_nd):
    net = Net(lambda net, F, x: function(net, F, net.conv(x)), conv=conv(), norm=norm())
    model = optimized(net)
    # the batch norm has become a convolution of its own
    assert operators(graph_of(model)).count('convpool_convolution') == 2
    assert kept is None or kept in operators(graph_of(model))
    assert 'norm_fwd: BatchNorm replaced by a convolution of each channel' in rewrites(model)


def test_shared_weights_are_folded_into_copies(np_or_nd):
    first = conv(3, padding=1, use_bias=False)
    net = chain(first, norm(prefix='a_'), conv(3, padding=1, params=first.params, use_bias=False))
    net.add(norm(prefix='b_'))
    model = optimized(net)
    before = first.weight.data().asnumpy().copy()
    assert operators(graph_of(model)) == ['convpool_convolution'] * 2
    names = [name for name in model.collect_params() if 'weight' in name]
    assert len(names) == 2
    np.testing.assert_array_equal(first.weight.data().asnumpy(), before)


def test_the_result_has_arrays_of_its_own(np_or_nd):
    net = chain(conv(), builtin.Dense(3))
    model = optimized(net)
    before = flat(model(data(*SHAPE)))[0]
    for parameter in net.collect_params().values():
        parameter.set_data(parameter.data() * 0)
    np.testing.assert_array_equal(flat(model(data(*SHAPE)))[0], before)


def channel_constant(value, shape):
    """A constant of one value for each of 8 channels."""

    class Scaled(gluon.HybridBlock):
        def __init__(self, function):
            super().__init__()
            self.function = function
            array = (value + np.arange(8) / 10).astype('float32')
            with self.name_scope():
                self.values = self.params.get_constant('values', array.reshape(shape))

        def hybrid_forward(self, F, x, values):
            numpy = mx.util.is_np_array()
            return self.function(F.np if numpy else F, x, values)

    return Scaled


def with_constants(name, shape):
    def function(net, F, x):
        return net.after(net.conv(x))

    def arithmetic(F, x, c):
        numpy = mx.util.is_np_array()
        operators_of = {
            'mul': (lambda: x * c, lambda: F.broadcast_mul(x, c)),
            'add': (lambda: c + x, lambda: F.broadcast_add(c, x)),
            'sub': (lambda: x - c, lambda: F.broadcast_sub(x, c)),
            'from': (lambda: c - x, lambda: F.broadcast_sub(c, x)),
            'div': (lambda: x / c, lambda: F.broadcast_div(x, c)),
            'numbers': (lambda: (x * 3 - 1) / 2 + 0.25,) * 2,
        }
        return operators_of[name][0 if numpy else 1]()

    after = channel_constant(1.5, shape)(arithmetic)
    return Net(function, conv=conv(), after=after)


@pytest.mark.parametrize('name', ['mul', 'add', 'sub', 'from', 'div', 'numbers'])
@pytest.mark.filterwarnings('ignore:Parameter .* is not used')
def test_scales_and_shifts_of_channels_become_part_of_the_convolution(name, np_or_nd):
    model = optimized(with_constants(name, (1, 8, 1, 1)))
    assert operators(graph_of(model)) == ['convpool_convolution']


def test_a_division_by_the_output_stays(nd_arrays):
    def arithmetic(F, x, c):
        return F.broadcast_div(c, x + 50)

    net = Net(
        lambda net, F, x: net.after(net.conv(x)),
        conv=conv(),
        after=channel_constant(1.5, (1, 8, 1, 1))(arithmetic),
    )
    assert operators(graph_of(optimized(net))) == ['convpool_convolution', 'broadcast_div']


def test_a_constant_that_is_not_of_channels_stays(nd_arrays):
    net = Net(
        lambda net, F, x: net.after(net.conv(x)),
        conv=conv(),
        after=channel_constant(1.5, (1, 1, 1, 8))(lambda F, x, c: F.broadcast_mul(x, c)),
    )
    model = optimized(net, data(2, 3, 13, 10))
    assert operators(graph_of(model)) == ['convpool_convolution', 'broadcast_mul']


def test_a_parameter_that_is_reshaped_first_is_a_constant_too(np_or_nd):
    def arithmetic(F, x, c):
        if mx.util.is_np_array():
            return x * F.expand_dims(c.reshape((8, 1)), 2)
        return F.broadcast_mul(x, F.expand_dims(F.reshape(c, shape=(1, -1, 1)), axis=3))

    net = Net(
        lambda net, F, x: net.after(net.conv(x)),
        conv=conv(),
        after=channel_constant(1.5, (8,))(arithmetic),
    )
    assert operators(graph_of(optimized(net))) == ['convpool_convolution']


def test_a_fully_connected_layer_takes_over_its_batch_norm(np_or_nd):
    model = optimized(chain(builtin.Dense(5, use_bias=False), norm()))
    assert operators(graph_of(model)) == ['FullyConnected']


@pytest.mark.parametrize('ndim', [1, 3])
def test_convolutions_of_other_dimensions_are_folded_too(ndim, nd_arrays):
    layer = getattr(builtin, f'Conv{ndim}D')(4, 3, prefix='conv_')
    model = optimized(chain(layer, norm()), data(2, 3, *(5, 6, 7)[:ndim]))
    assert operators(graph_of(model)) == ['convpool_convolution']


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize(
    'keywords',
    [
        {},
        {'strides': 2, 'padding': 1, 'output_padding': 1},
        {'groups': 3},
        {'strides': (2, 3), 'dilation': (2, 1)},
    ],
    ids=str,
)
def test_a_transposed_convolution_is_ours_and_takes_over_its_batch_norm(keywords, bias, np_or_nd):
    up = builtin.Conv2DTranspose(6, 3, use_bias=bias, prefix='up_', **keywords)
    model = optimized(chain(up, norm(), builtin.Activation('tanh')))
    assert operators(graph_of(model)) == ['convpool_convolution_transpose', 'Activation']
    assert rewrites(model) == [
        'norm_fwd: BatchNorm folded into up_fwd',
        'up_fwd: Deconvolution replaced by ours',
    ]
    assert left(model) == []


@pytest.mark.parametrize('ndim', [1, 3])
def test_transposed_convolutions_of_other_dimensions_too(ndim, nd_arrays):
    layer = getattr(builtin, f'Conv{ndim}DTranspose')(4, 3, prefix='up_')
    model = optimized(chain(layer, norm()), data(2, 3, *(5, 6, 7)[:ndim]))
    assert operators(graph_of(model)) == ['convpool_convolution_transpose']


def test_a_transposed_convolution_with_channels_last_takes_over_its_batch_norm(np_or_nd):
    net = gluon_convpool.nn.HybridSequential(prefix='')
    net.add(gluon_convpool.nn.Conv2DTranspose(6, 3, groups=2, layout='NHWC'), norm(axis=3))
    net.initialize(mx.init.MSRAPrelu())
    x = data(2, 5, 6, 4)
    net(x)
    net[1].running_var.set_data(net[1].running_var.data() * 3)
    net[1].gamma.set_data(array_kind().array(np.arange(1, 7, dtype='float32')))
    model = optimize(net)
    assert operators(graph_of(model)) == ['convpool_convolution_transpose']
    assert_close('output', flat(model(x))[0], flat(net(x))[0])


def test_a_transposed_convolution_of_a_given_size_stays(nd_arrays):
    x = mx.sym.var('data')
    keywords = {'kernel': (3, 3), 'stride': (2, 2), 'num_filter': 4}
    y = mx.sym.Deconvolution(x, target_shape=(21, 21), name='up', **keywords)
    model = optimize((y * 2, {'up_weight': data(3, 4, 3, 3)}))
    assert operators(graph_of(model)) == ['Deconvolution']
    assert left(model) == [
        'up: Deconvolution left, Deconvolution: target_shape=(21, 21) is not supported; leave it'
        ' away'
    ]
    assert model.verify(data(1, 3, 10, 10)).agrees


def test_arrays_of_float64_are_computed_by_ours(nd_arrays):
    net = chain(conv(), norm(), builtin.MaxPool2D(prefix='pool_'))
    net.cast('float64')
    x = data(*SHAPE).astype('float64')
    net.initialize()
    expected = net(x).asnumpy()
    model = optimize(net)
    assert operators(graph_of(model)) == ['convpool_convolution', 'convpool_pooling']
    assert model(x).dtype == np.float64
    assert_close('output', model(x).asnumpy(), expected, 1e-12)
    assert left(model) == []


# --------------------------------------------------------------------------- dropping


def test_what_inference_does_not_need_is_dropped(nd_arrays):
    def function(net, F, x):
        return F.identity(F.BlockGrad(net.drop(net.conv(x))))

    model = optimized(Net(function, conv=conv(), drop=builtin.Dropout(0.5, prefix='drop_')))
    assert operators(graph_of(model)) == ['convpool_convolution']
    assert 'drop_fwd: Dropout dropped' in rewrites(model)


def test_our_batch_norm_does_without_what_tells_training_from_inference(np_or_nd):
    net = chain(norm(), builtin.Dense(3))
    swap(started(net, data(4, 3)))
    model = optimize(net)
    assert operators(graph_of(model)) == ['convpool_batch_norm', 'FullyConnected']
    assert left(model) == []
    assert_close('output', flat(model(data(4, 3)))[0], flat(net(data(4, 3)))[0])


def test_a_dropout_that_always_drops_stays(nd_arrays):
    net = Net(lambda net, F, x: F.Dropout(x, p=0.5, mode='always', name='drop'))
    net.initialize()
    net(data(*SHAPE))
    model = optimize(net)
    assert operators(graph_of(model)) == ['Dropout']
    assert left(model) == ['drop: Dropout left, it is to drop always']


def test_the_detours_of_swapped_layers_are_dropped(np_or_nd):
    net = chain(conv(activation='relu'), builtin.MaxPool2D(), builtin.Dense(3))
    swap(net)
    model = optimized(net)
    assert operators(graph_of(model)) == [
        'convpool_convolution',
        'convpool_pooling',
        'FullyConnected',
    ]


@pytest.mark.parametrize(
    'loss, keywords, ends_in',
    [
        ('SoftmaxOutput', {}, lambda x: mx.nd.softmax(x, axis=-1)),
        ('SoftmaxOutput', {'multi_output': True}, lambda x: mx.nd.softmax(x, axis=1)),
        ('LogisticRegressionOutput', {}, mx.nd.sigmoid),
        ('LinearRegressionOutput', {}, lambda x: x),
        ('MAERegressionOutput', {}, lambda x: x),
    ],
)
def test_the_end_of_a_training_loses_its_label(loss, keywords, ends_in, nd_arrays):
    x = mx.sym.var('data')
    layer = mx.sym.Convolution(x, kernel=(3, 3), num_filter=4, name='c')
    symbol = getattr(mx.sym, loss)(layer, name='end', **keywords)
    values = {'arg:c_weight': data(4, 3, 3, 3), 'arg:c_bias': data(4)}
    model = optimize((symbol, values))
    x = data(*SHAPE)
    convolved = mx.nd.Convolution(x, *values.values(), kernel=(3, 3), num_filter=4)
    assert_close('output', model(x).asnumpy(), ends_in(convolved).asnumpy())
    assert graph_of(model).list_outputs() == ['end_output']


# --------------------------------------------------------------------------- replacing


def test_poolings_are_ours(nd_arrays):
    net = chain(
        builtin.MaxPool2D((3, 2), 2, 1, ceil_mode=True),
        builtin.AvgPool2D(2, 1, count_include_pad=False, padding=1),
        builtin.Conv2D(4, 1),
        builtin.GlobalMaxPool2D(),
    )
    assert set(operators(graph_of(optimized(net)))) == {'convpool_pooling', 'convpool_convolution'}


def test_a_global_pooling_of_unknown_data_stays(nd_arrays):
    net = Net(lambda net, F, x: F.Pooling(F.sin(x), global_pool=True, pool_type='avg', name='pool'))
    model = optimized(net)
    assert operators(graph_of(model)) == ['sin', 'Pooling']
    assert left(model) == ['pool: Pooling left, the number of axes of its data is unknown']


@pytest.mark.parametrize(
    'function, shape, reason',
    [
        (lambda net, F, x: net.norm(x), (4, 3), None),
        (lambda net, F, x: net.norm(F.relu(x)), SHAPE, 'the number of axes of its data is unknown'),
        (
            lambda net, F, x: (lambda y: net.norm(y) + y)(net.row(x)),
            (2, 3, 9),
            'its data has 3 axes, and not the 4 of images',
        ),
    ],
    ids=['vectors', 'images', 'rows'],
)
def test_a_batch_norm_that_stays_says_why(function, shape, reason, nd_arrays):
    row = builtin.Conv1D(3, 1, prefix='row_')
    model = optimized(Net(function, norm=norm(), row=row), data(*shape))
    assert 'BatchNorm' in operators(graph_of(model))
    reason = reason or 'the number of axes of its data is unknown'
    assert left(model) == [f'norm_fwd: BatchNorm left, {reason}']


def test_float16_stays_and_says_why(nd_arrays):
    shapes_of = {'c_weight': (4, 3, 3, 3), 't_weight': (4, 2, 3, 3)}
    shapes_of.update({f'n_{name}': (2,) for name in ('gamma', 'beta', 'moving_mean', 'moving_var')})
    keywords = {'kernel': (3, 3), 'no_bias': True}
    y = mx.sym.Convolution(mx.sym.var('data'), num_filter=4, name='c', **keywords)
    y = mx.sym.Deconvolution(y, num_filter=2, name='t', **keywords)
    y = mx.sym.BatchNorm(mx.sym.Pooling(y, kernel=(2, 2), name='p'), name='n')
    model = optimize((y, {k: mx.nd.ones(v, dtype='float16') for k, v in shapes_of.items()}))
    # float16 is stored and computed in float32 by pooling alone
    assert {one.node for one in model.report.left} == {'c', 't', 'n'}
    assert all('has no kernel for float16' in one.reason for one in model.report.left)


def test_what_we_have_no_kernel_for_stays_and_says_why(nd_arrays):
    symbol = mx.sym.Pooling(mx.sym.var('data'), kernel=(2, 2), pooling_convention='same')
    model = optimize((symbol, {}))
    assert operators(graph_of(model)) == ['Pooling']
    assert len(left(model)) == 1 and "'same' is unknown" in left(model)[0]


def test_on_the_portable_backend_graphs_are_only_folded(np_or_nd):
    up = builtin.Conv2DTranspose(6, 3)
    net = chain(conv(), norm(), builtin.Dropout(0.5), builtin.MaxPool2D(), up, norm(prefix='b_'))
    started(net, data(*SHAPE))
    gluon_convpool.use_backend('portable')
    assert operators(graph_of(optimized(net))) == ['Convolution', 'Pooling', 'Deconvolution']


# --------------------------------------------------------------------------- fusing


@pytest.mark.parametrize(
    'layer, attributes',
    [
        (lambda: builtin.Activation('relu'), {'act_type': 'relu'}),
        (lambda: builtin.Activation('sigmoid'), {'act_type': 'sigmoid'}),
        (lambda: Net(lambda net, F, x: F.sigmoid(x)), {'act_type': 'sigmoid'}),
        (lambda: builtin.LeakyReLU(0.1), {'act_type': 'leaky', 'slope': '0.1'}),
    ],
)
def test_an_activation_becomes_the_last_step(layer, attributes, np_or_nd):
    model = optimized(chain(conv(), norm(), layer()))
    (node,) = nodes(graph_of(model))
    assert attributes.items() <= node['attrs'].items()


def test_clipping_becomes_the_last_step(np_or_nd):
    def function(net, F, x):
        x = net.conv(x)
        return mx.sym.np.clip(x, 0, 0.5) if mx.util.is_np_array() else F.clip(x, 0, 0.5)

    net = Net(lambda net, F, x: F.relu(net.conv(x)), conv=conv())
    assert len(nodes(graph_of(optimized(net)))) == 1
    if not mx.util.is_np_array():
        (node,) = nodes(graph_of(optimized(Net(function, conv=conv()))))
        assert node['attrs']['act_type'] == 'clip'
        assert (float(node['attrs']['a_min']), float(node['attrs']['a_max'])) == (0, 0.5)


def test_other_activations_stay(np_or_nd):
    for name in ('tanh', 'softrelu', 'softsign'):
        model = optimized(chain(conv(), builtin.Activation(name)))
        assert operators(graph_of(model)) == ['convpool_convolution', 'Activation']
    model = optimized(chain(conv(), builtin.ELU()))
    assert len(nodes(graph_of(model))) == 2


def test_an_activation_of_what_others_use_stays(np_or_nd):
    net = Net(lambda net, F, x: F.relu(net.conv(x)) + net.conv(x), conv=conv())
    shared = Net(lambda net, F, x: (lambda y: F.relu(y) * y)(net.conv(x)), conv=conv())
    assert len(nodes(graph_of(optimized(net)))) == 2  # the second adds the first
    assert len(nodes(graph_of(optimized(shared)))) == 3


def residual(function):
    return Net(
        function,
        conv=conv(3, padding=1, prefix='a_'),
        norm=norm(),
        other=conv(3, 5, padding=2, prefix='b_'),
    )


@pytest.mark.parametrize(
    'function',
    [
        lambda net, F, x: F.relu(net.norm(net.conv(x)) + x),
        lambda net, F, x: F.relu(x + net.norm(net.conv(x))),
        lambda net, F, x: net.other(x) + net.norm(net.conv(x)),
        lambda net, F, x: F.relu(net.norm(net.conv(x)) + F.relu(net.other(x))),
    ],
    ids=['input', 'reversed', 'two convolutions', 'two activations'],
)
def test_a_residual_addition_becomes_the_last_step(function, np_or_nd):
    model = optimized(residual(function))
    convolutions = nodes(graph_of(model))
    assert {node['op'].replace('_npx_', '') for node in convolutions} == {'convpool_convolution'}
    assert [node['attrs'].get('with_sum') for node in convolutions][-1] == 'True'


def test_an_addition_after_the_activation_stays_outside(np_or_nd):
    model = optimized(residual(lambda net, F, x: F.relu(net.conv(x)) + x))
    assert len(nodes(graph_of(model))) == 2


@pytest.mark.parametrize(
    'function',
    [
        lambda net, F, x: net.pool(net.conv(x)) + net.other(x),
        lambda net, F, x: net.conv(x)[:, :, :1] + net.other(x),
    ],
    ids=['global pooling', 'unknown shape'],
)
def test_an_addition_that_broadcasts_stays(function, np_arrays):
    net = residual(lambda net, F, x: function(net, F, x))
    net.pool = builtin.GlobalAvgPool2D()
    model = optimized(net)
    assert '_npi_add' in operators(graph_of(model))


def test_an_addition_of_images_enlarged_alike_becomes_the_last_step(np_arrays):
    def function(net, F, x):
        return net.conv(net.up(x)) + net.other(net.more(x))

    net = residual(function)
    net.up = builtin.Conv2DTranspose(3, 2, 2, prefix='up_')
    net.more = builtin.Conv2DTranspose(4, 4, 2, 1, prefix='more_')
    model = optimized(net)
    assert operators(graph_of(model)).count('_npi_add') == 0


def test_an_array_added_to_itself_stays(np_or_nd):
    model = optimized(residual(lambda net, F, x: (lambda y: y + y)(net.conv(x))))
    assert len(nodes(graph_of(model))) == 2


# --------------------------------------------------------------------------- whole graphs


def test_an_operator_that_nobody_knows_here_is_left_alone(np_or_nd):
    net = Net(
        lambda net, F, x: net.norm(mx.sym.sin(x) if isinstance(x, mx.sym.Symbol) else mx.nd.sin(x)),
        norm=norm(),
    )
    if mx.util.is_np_array():
        net.function = lambda net, F, x: net.norm(F.topk(x, axis=1, k=3, ret_typ='value'))
    model = optimized(net)
    assert len(operators(graph_of(model))) == 2


@pytest.mark.parametrize('shape', [(1, 3, 8, 9), (5, 3, 13, 12), (2, 3, 21, 7), (0, 3, 8, 9)])
def test_other_batches_and_sizes_run_too(shape, np_arrays):
    net = chain(conv(strides=2), norm(), builtin.MaxPool2D(2, 2, 1), conv(4, 1, prefix='last_'))
    model = optimized(net)
    swap(net)  # MXNet's own refuse an empty batch
    x = array_kind().array(np.random.RandomState(3).normal(size=shape).astype('float32'))
    assert_close('output', flat(model(x))[0], flat(net(x))[0])


def test_earlier_results_are_not_written_over(np_or_nd):
    model = optimized(chain(conv(), builtin.MaxPool2D()))
    first = model(data(*SHAPE))
    before = first.asnumpy().copy()
    model(data(*SHAPE, seed=1)).wait_to_read()
    np.testing.assert_array_equal(first.asnumpy(), before)


def test_several_inputs_and_nested_outputs(np_or_nd):
    def function(net, F, x, y, z):
        return [net.conv(x), (net.conv(x) + net.other(y), z * 2)]

    class Three(Net):
        def hybrid_forward(self, F, x, y, z):
            return function(self, F, x, y, z)

    net = Three(function, conv=conv(4, prefix='a_'), other=conv(4, prefix='b_'))
    inputs = [data(*SHAPE, seed=i) for i in range(3)]
    net.initialize()
    expected = net(*inputs)
    model = optimize(net)
    actual = model(*inputs)
    assert [type(one) for one in actual][1:] == [list] and len(actual[1]) == 2
    for one, other in zip(flat(actual), flat(expected)):
        assert_close('output', one, other)
    assert graph_of(model).list_inputs()[0] == 'data0'
    named = optimize(net, inputs=['left', 'right', 'rest'])
    assert_close('output', flat(named(*inputs))[1], flat(expected)[1])
    assert model.verify(*inputs).agrees


def test_an_input_that_is_an_output_and_nothing_else(np_or_nd):
    net = Net(lambda net, F, x: (net.conv(x), x), conv=conv())
    model = optimized(net)
    assert model.verify(data(*SHAPE)).difference < 1e-5


def test_outputs_keep_their_names(nd_arrays):
    net = chain(conv(), norm(), builtin.Activation('relu', prefix='last_'))
    started(net, data(*SHAPE))
    assert graph_of(optimize(net)).list_outputs() == graph_of(net).list_outputs()


def test_a_network_made_of_our_layers_is_optimized_too(np_or_nd):
    net = gluon_convpool.nn.HybridSequential(prefix='')
    net.add(gluon_convpool.nn.Conv2D(4, 3), norm(), gluon_convpool.nn.MaxPool2D())
    assert operators(graph_of(optimized(net))) == ['convpool_convolution', 'convpool_pooling']


def test_an_optimized_model_can_be_a_layer(np_or_nd):
    model = optimized(chain(conv(), norm()))
    net = chain(model, builtin.Dense(3))
    net.initialize()
    net.hybridize()
    expected = net(data(*SHAPE)).asnumpy()
    assert_close('output', optimize(net)(data(*SHAPE)).asnumpy(), expected)


def test_a_plain_block_of_hybrid_ones_is_traced(nd_arrays):
    net = builtin.Sequential(prefix='')
    net.add(conv(), norm())
    assert operators(graph_of(optimized(net))) == ['convpool_convolution']


def test_it_is_for_inference(np_or_nd):
    net = chain(norm(), conv())
    model, x = optimized(net), data(*SHAPE)
    expected = model(x).asnumpy()
    with autograd.train_mode():
        np.testing.assert_array_equal(model(x).asnumpy(), expected)
    with autograd.record():
        with pytest.raises(ValueError, match='is for inference and has no gradient'):
            model(x)
        with autograd.pause():
            model(x)
    assert all(one.grad_req == 'null' for one in model.collect_params().values())


def test_hooks_of_the_network_do_not_get_in_the_way(nd_arrays):
    net = chain(conv(), norm())
    net.register_forward_hook(lambda block, inputs, output: output.asnumpy())
    assert optimized(net)


def test_the_report_says_what_was_done(capsys, nd_arrays):
    net = chain(conv(prefix='c_'), norm(), builtin.Conv1D(4, 3))
    started(chain(conv(prefix='c_')), data(*SHAPE))
    net = started(chain(conv(prefix='c_'), norm(axis=3)), data(*SHAPE))
    model = optimize(net, report=True)
    assert capsys.readouterr().out.splitlines() == [
        '1 rewrites, 1 layers left',
        '  c_fwd: Convolution replaced by ours',
        '  norm_fwd: BatchNorm left, its axis is not that of the channels',
    ]
    assert repr(model) == 'OptimizedModel(1 rewrites, 1 layers left)'


def test_verify_compares_with_the_original(np_or_nd):
    net = chain(conv(), norm(), builtin.Dense(7))
    model, x = optimized(net), data(*SHAPE)
    agreement = model.verify(x)
    assert agreement.agrees and agreement.same_ranking
    assert agreement.scale == pytest.approx(abs(net(x).asnumpy()).max())
    for parameter in model.collect_params().values():
        parameter.set_data(-parameter.data())
    agreement = model.verify(x)
    assert not agreement.agrees and not agreement.same_ranking
    assert agreement.difference > 0.1 * agreement.scale


@pytest.mark.parametrize('shape', [(2, 4, 13, 12), (2, 3, 13, 2), (2, 3, 14, 14), (2, 3)], ids=str)
@pytest.mark.parametrize('hybrid', [False, True])
def test_verify_names_an_input_that_does_not_fit(shape, hybrid, np_or_nd):
    net = chain(conv(), norm(), builtin.Dense(7, prefix='dense_'))
    model = optimized(net)
    net.hybridize(hybrid)
    words = f'^OptimizedModel.verify: cannot be done with data of shape {re.escape(str(shape))}: '
    with pytest.raises(ModelError, match=words + 'layer (conv|dense)_fwd: ') as caught:
        model.verify(data(*shape))
    assert '\n' not in str(caught.value) and '.cc' not in str(caught.value)
    with pytest.raises(ModelError, match=r'^OptimizedModel: takes 1 inputs \(data\), not 2$'):
        model.verify(data(*SHAPE), data(*SHAPE))


def test_verify_names_an_input_that_only_the_original_refuses(nd_arrays):
    class Large(gluon.HybridBlock):
        def hybrid_forward(self, F, x):
            return F.broadcast_add(x, F.ones((2, 3)) if F is mx.nd else F.ones((1, 3)))

    model = optimized(Large(), data(2, 3))
    sentence = (
        r'^OptimizedModel.verify: cannot be done with data of shape \(4, 3\): operands could not be'
    )
    with pytest.raises(ModelError, match=sentence):
        model.verify(data(4, 3))


def test_verify_takes_nan_for_what_it_is(nd_arrays):
    net = chain(conv())
    model = optimized(net)
    x = data(*SHAPE)
    x[0, 0, 0, 0] = np.nan
    assert model.verify(x).difference < 1e-5
    for parameter in net.collect_params().values():
        parameter.set_data(parameter.data() * np.nan)
    assert model.verify(data(*SHAPE)).difference == np.inf


# --------------------------------------------------------------------------- a rule of one's own


def test_a_rule_is_a_function_of_a_graph_and_a_node(nd_arrays):
    def halve(graph, node):
        if node.attribute('scalar', 0) == 1.0:
            return None
        node.set(scalar=1.0)
        return 'to one'

    net = Net(lambda net, F, x: F.sin(x) * 2)
    net.initialize()
    graph = graphs.Graph(graph_of(net), {})
    rule = rules.Rule('set', frozenset(('_mul_scalar',)), halve)
    done, stays = rules.apply(graph, [rule])
    assert [one.words for one in done] == ['to one'] and not stays
    assert nodes(graph.symbol())[-1]['attrs']['scalar'] == '1.0'


# --------------------------------------------------------------------------- shapes


SIZE = ('size', 'x', 0, 2)


@pytest.mark.parametrize('size', range(3, 40))
@pytest.mark.parametrize('stride, offset', [(1, 0), (2, -1), (2, 2), (3, 4), (4, -3)])
def test_expressions_of_sizes_are_what_they_stand_for(size, stride, offset):
    def value(expression):
        if isinstance(expression, int):
            return expression
        if expression == SIZE:
            return size
        operator, inner, number = expression
        return {'+': int.__add__, '*': int.__mul__, '//': int.__floordiv__}[operator](
            value(inner), number
        )

    expression = shapes.plus(shapes.divided(shapes.plus(SIZE, offset), stride), 1)
    assert value(expression) == (size + offset) // stride + 1
    again = shapes.divided(shapes.plus(expression, offset), stride)
    assert value(again) == ((size + offset) // stride + 1 + offset) // stride
    for factor in (1, 2, 3, 6):
        enlarged = shapes.plus(shapes.times(expression, factor), offset)
        assert value(enlarged) == value(expression) * factor + offset
        for divisor in (1, 2, 3, 4, 6):
            divided = shapes.divided(enlarged, divisor)
            assert value(divided) == value(enlarged) // divisor


def test_equal_sizes_are_written_alike():
    # 3x3 with a stride of 2 and a padding of 1, and 1x1 with a stride of 2
    one = shapes.plus(shapes.divided(shapes.plus(SIZE, 2 - 3), 2), 1)
    other = shapes.plus(shapes.divided(shapes.plus(SIZE, -1), 2), 1)
    # the same, with more before the division and less behind it
    third = shapes.plus(shapes.divided(shapes.plus(SIZE, 1), 2), 0)
    assert one == other == third != shapes.divided(SIZE, 2)
    # enlarged by 6 in one step or in two, and made smaller again
    once = shapes.times(SIZE, 6)
    assert (
        once == shapes.times(shapes.times(SIZE, 2), 3) == shapes.divided(shapes.times(once, 5), 5)
    )
    assert shapes.divided(once, 6) == SIZE != shapes.times(shapes.divided(SIZE, 6), 6)
    assert shapes.divided(once, 4) == shapes.divided(shapes.times(SIZE, 3), 2)
