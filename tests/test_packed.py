"""Weights packed for the forward pass: `optimize(prepack=...)` and the operator's `prepacked`."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from models_common import data, flat, graph_of, nodes, started
from mxnet.gluon import nn as builtin

import gluon_convpool
from gluon_convpool import _mxnet, geometry, optimize
from gluon_convpool.backends import native as native_backend
from gluon_convpool.models import ModelError
from gluon_convpool.testing import assert_close

SHAPE = (1, 32, 14, 14)
pytestmark = pytest.mark.usefixtures('native')


def network(layout='NCHW'):
    """Convolutions that packing helps, and others that it does not, with all that is fused."""
    axis = layout.index('C')
    net = builtin.HybridSequential(prefix='')
    layers = gluon_convpool.nn if layout == 'NHWC' else builtin
    net.add(
        layers.Conv2D(64, 3, padding=1, layout=layout, prefix='square_'),
        builtin.BatchNorm(axis=axis, prefix='norm_'),
        builtin.Activation('relu'),
        layers.Conv2D(64, 1, layout=layout, prefix='point_'),
        layers.Conv2D(64, (1, 7), padding=(0, 3), use_bias=False, layout=layout, prefix='row_'),
        layers.Conv2D(64, 3, padding=1, groups=64, layout=layout, prefix='depth_'),
    )
    return net


def packed_names(model):
    return [one['name'] for one in nodes(graph_of(model)) if 'prepacked' in one.get('attrs', ())]


@pytest.mark.parametrize('shape', [SHAPE, (3, 32, 9, 20), (1, 32, 40, 40)])
def test_a_packed_model_gives_what_the_network_gives(shape, np_or_nd):
    net = started(network(), data(*SHAPE))
    model = optimize(net, prepack=SHAPE)
    assert packed_names(model) == ['square_fwd', 'row_fwd']
    assert_close('output', flat(model(data(*shape)))[0], flat(net(data(*shape)))[0])


def test_an_empty_batch(np_arrays):
    model = optimize(started(network(), data(*SHAPE)), prepack=SHAPE)
    assert flat(model(data(0, *SHAPE[1:])))[0].shape == (0, 64, 14, 14)


def test_a_packed_model_can_be_a_layer_of_one_that_is_optimized(np_or_nd):
    net = builtin.HybridSequential(prefix='')
    net.add(builtin.Conv2D(64, 3, padding=1, prefix='conv_'))
    packed = optimize(started(net, data(*SHAPE)), prepack=SHAPE)
    whole = builtin.HybridSequential(prefix='')
    whole.add(packed, builtin.BatchNorm(prefix='norm_'), builtin.Activation('relu'))
    whole[1].initialize()
    expected = flat(whole(data(*SHAPE)))[0]
    again = optimize(whole, prepack=SHAPE)
    assert packed_names(again) == ['conv_fwd']
    assert_close('output', flat(again(data(*SHAPE)))[0], expected)


def test_channels_last(np_or_nd):
    shape = (1, 14, 14, 32)
    net = network('NHWC')
    net.initialize(mx.init.MSRAPrelu())
    net(data(*shape))
    model = optimize(net, prepack=shape)
    assert 'square_fwd' in packed_names(model)
    assert_close('output', flat(model(data(*shape)))[0], flat(net(data(*shape)))[0])


def test_float64(nd_arrays):
    net = network()
    net.cast('float64')
    net.initialize(mx.init.MSRAPrelu())
    x = data(*SHAPE).astype('float64')
    expected = net(x).asnumpy()
    model = optimize(net, prepack=SHAPE)
    assert packed_names(model)
    assert_close('output', model(x).asnumpy(), expected, 1e-12)


def test_the_report_and_the_parameters_name_what_is_packed(np_or_nd):
    net = started(network(), data(*SHAPE))
    model = optimize(net, prepack=SHAPE)
    words = [str(one) for one in model.report.rewrites if one.action == 'packed']
    assert len(words) == 2 and words[0].startswith('square_fwd: ') and '(1, 32, 14, 14)' in words[0]
    names = list(model.collect_params())
    assert sum(name.endswith('_packed') for name in names) == 2
    # 64 x 32 x 3 x 3 weights became 36 values for each pair of channels, and stand there too.
    square = model.collect_params()['square_fwd_weight_packed']
    assert square.data().size > (9 + 36) * 64 * 32


def test_files_of_a_packed_model_run(tmp_path, np_or_nd):
    net = started(network(), data(*SHAPE))
    model = optimize(net, prepack=SHAPE)
    model.export(tmp_path / 'net')
    x = data(*SHAPE)
    again = mx.gluon.SymbolBlock.imports(
        str(tmp_path / 'net-symbol.json'), ['data'], str(tmp_path / 'net-0000.params')
    )
    assert_close('output', flat(again(x))[0], flat(model(x))[0], 0)
    optimized = optimize((tmp_path / 'net-symbol.json', tmp_path / 'net-0000.params'))
    assert_close('output', flat(optimized(x))[0], flat(model(x))[0], 0)


@pytest.mark.parametrize(
    'spoil',
    [
        lambda packed: packed[:-100],
        lambda packed: packed[:10] * 0,
        lambda packed: packed.reshape((1, -1))[0] * 0,
        lambda packed: packed.astype('float64'),
        lambda packed: np.concatenate([packed[:12] + 1, packed[12:]]),
    ],
    ids=['cut', 'short', 'zeros', 'another type', 'another header'],
)
def test_a_damaged_packed_weight_is_found_when_the_files_are_read(spoil, tmp_path, nd_arrays):
    optimize(started(network(), data(*SHAPE)), prepack=SHAPE).export(tmp_path / 'net')
    paths = tmp_path / 'net-symbol.json', tmp_path / 'net-0000.params'
    stored = mx.nd.load(str(paths[1]))
    (name,) = (name for name in stored if 'row' in name)
    value = spoil(stored[name].asnumpy())
    mx.nd.save(str(paths[1]), {**stored, name: mx.nd.array(value, dtype=value.dtype)})
    sentence = (
        r'0000\.params: does not fit .*json: layer row_fwd needs a packed weight, but'
        r' row_weight_packed is damaged or of another layer$'
    )
    with pytest.raises(ModelError, match=sentence):
        optimize(paths)


def test_a_packed_weight_of_another_layer_is_found(tmp_path, nd_arrays):
    net = builtin.HybridSequential(prefix='')
    net.add(*(builtin.Conv2D(64, 3, padding=1, prefix=f'{name}_') for name in 'ab'))
    optimize(started(net, data(*SHAPE)), prepack=SHAPE).export(tmp_path / 'net')
    paths = tmp_path / 'net-symbol.json', tmp_path / 'net-0000.params'
    stored = mx.nd.load(str(paths[1]))
    (one,), (other,) = ([name for name in stored if f'{x}_weight' in name] for x in 'ab')
    mx.nd.save(str(paths[1]), {**stored, other: stored[one]})  # of 32 channels, not of 64
    with pytest.raises(ModelError, match='layer b_fwd needs a packed weight'):
        optimize(paths)


def test_a_model_with_several_inputs_has_a_shape_for_each(nd_arrays):
    first, second = mx.sym.var('a'), mx.sym.var('b')
    symbol = mx.sym.Convolution(first + second, kernel=(3, 3), num_filter=64, name='conv')
    weight = mx.nd.random.normal(shape=(64, 64, 3, 3))
    values = {'conv_weight': weight, 'conv_bias': mx.nd.zeros(64)}
    shape = (1, 64, 16, 16)
    model = optimize((symbol, values), prepack=[shape, shape])
    assert packed_names(model) == ['conv']
    x = data(*shape)
    expected = optimize((symbol, values))(x, x)
    assert_close('output', model(x, x).asnumpy(), expected.asnumpy())
    with pytest.raises(ValueError, match=r'has 1 shapes, but the model takes 2 inputs: a, b'):
        optimize((symbol, values), prepack=shape)


@pytest.mark.parametrize('integer', [np.int64, np.int32, np.uint8])
def test_integers_of_numpy_are_sizes(integer, nd_arrays):
    net = started(network(), data(*SHAPE))
    shape = tuple(integer(size) for size in SHAPE)
    for given in (shape, [shape]):
        assert packed_names(optimize(net, prepack=given)) == ['square_fwd', 'row_fwd']


WRONG = [3, 'large', (1, 'a'), (1, 32, 0, 14), [(1, 2.5)], (True, 32, 14, 14), [SHAPE, 3]]


@pytest.mark.parametrize('wrong', WRONG, ids=str)
def test_what_is_no_shape_is_refused(wrong, nd_arrays):
    net = started(network(), data(*SHAPE))
    with pytest.raises(TypeError, match=r'optimize: prepack=.* must be a shape'):
        optimize(net, prepack=wrong)


def test_a_shape_that_the_network_refuses(np_or_nd):
    net = started(network(), data(*SHAPE))
    with pytest.raises(ModelError, match='the graph refuses data of shape'):
        optimize(net, prepack=(1, 5, 14, 14))


def test_the_portable_backend_packs_nothing(np_or_nd):
    net = started(network(), data(*SHAPE))
    with gluon_convpool.use_backend('portable'):
        model = optimize(net, prepack=SHAPE)
    assert packed_names(model) == []


# --------------------------------------------------------------------------- the operator

ATTRIBUTES = {'kernel': (3, 3), 'pad': (1, 1), 'num_filter': 48, 'no_bias': True}


def weight_and_packed():
    weight = np.random.RandomState(0).normal(size=(48, 32, 3, 3)).astype('float32')
    arguments = geometry.convolution_arguments('test', (3, 3), 1, 1, 1, 48, 1, 'NCHW')
    packed, share = native_backend.pack_weight(arguments, SHAPE, weight)
    assert share < 1
    return weight, packed


def call(x, weight, **attributes):
    function = _mxnet.native_operator('convolution', _mxnet.NP_ARRAY)
    arrays = [mx.np.array(one, dtype=one.dtype) for one in (x, weight)]
    return arrays, lambda: function(*arrays, **{**ATTRIBUTES, 'prepacked': True, **attributes})


def test_the_operator_reads_a_packed_weight(np_arrays):
    weight, packed = weight_and_packed()
    x = np.random.RandomState(1).normal(size=SHAPE).astype('float32')
    expected = call(x, weight, prepacked=False)[1]().asnumpy()
    assert_close('output', call(x, packed)[1]().asnumpy(), expected)


@pytest.mark.parametrize('algorithm', ['implicit_gemm', 'winograd'])
def test_an_algorithm_can_be_forced(algorithm, np_arrays):
    weight, packed = weight_and_packed()
    x = np.random.RandomState(1).normal(size=SHAPE).astype('float32')
    expected = call(x, weight, prepacked=False)[1]().asnumpy()
    actual = call(x, packed, algorithm=algorithm)[1]().asnumpy()
    assert_close('output', actual, expected)


def test_what_is_no_packed_weight_is_refused(np_arrays):
    weight, packed = weight_and_packed()
    x = np.zeros(SHAPE, 'float32')
    with pytest.raises(mx.MXNetError, match=r'needs a packed weight.*\(48, 32, 3, 3\)'):
        call(x, weight)[1]()
    for wrong in (np.zeros_like(packed), packed[:-1], packed[:3]):
        with pytest.raises(mx.MXNetError, match='the packed weight is none for 48 output channels'):
            call(x, wrong)[1]().wait_to_read()
    with pytest.raises(mx.MXNetError, match='the packed weight is none for 48 output channels'):
        call(x[:, :16], packed)[1]().wait_to_read()


def test_it_has_no_gradient(np_arrays):
    _, packed = weight_and_packed()
    arrays, run = call(np.zeros(SHAPE, 'float32'), packed)
    arrays[0].attach_grad()
    with mx.autograd.record():
        y = run()
    with pytest.raises(mx.MXNetError, match='a packed weight, has no gradient'):
        y.backward()
        arrays[0].grad.wait_to_read()
