"""Padding beyond what MXNet has: 'same' and 'valid', pairs, and what the added elements are.

NumPy's `pad` says what that is; behind it the convolution is the one without padding.
"""

from __future__ import annotations

import json
import re

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

import gluon_convpool
from gluon_convpool import functional, geometry, nn
from gluon_convpool.testing import (
    MODES,
    array_kind,
    assert_close,
    assert_gradients_numeric,
    assert_layers_match,
    assert_same,
    draw,
    empty_arrays,
    measure,
    reference,
)

NUMPY_MODES = {'zeros': 'constant', 'reflect': 'reflect', 'replicate': 'edge', 'circular': 'wrap'}
SIZES = {1: (9,), 2: (7, 6), 3: (5, 4, 6)}
PAIRS = {1: ((2, 1),), 2: ((0, 2), (3, 1)), 3: ((1, 0), (0, 2), (2, 2))}


def padded(x, pairs, mode):
    return np.pad(x, ((0, 0), (0, 0), *pairs), NUMPY_MODES[mode])


def gradient_of_padding(head, shape, pairs, mode):
    """Each element of the padded array gives its gradient to the one that it is a copy of."""
    places = np.arange(1, 1 + np.prod(shape)).reshape(shape)
    copied = padded(places, pairs, mode)
    gradient = np.zeros(1 + places.size)
    np.add.at(gradient, copied.ravel(), head.ravel())
    return gradient[1:].reshape(shape)


def expected_of(x, weight, bias, pairs, mode, **window):
    wide = padded(x, pairs, mode)
    y = reference.convolution(wide, weight, bias, **window)
    (head,) = draw(f'head of {mode} {pairs}', y.shape)
    dwide, dweight, dbias = reference.convolution_gradients(head, wide, weight, **window)
    dx = gradient_of_padding(dwide, x.shape, pairs, mode)
    return head, {'output': y, 'x': dx, 'weight': dweight, 'bias': dbias}


@pytest.mark.parametrize('layout', ['first', 'last'])
@pytest.mark.parametrize('mode', geometry.PADDING_MODES)
@pytest.mark.parametrize('ndim', [1, 2, 3])
def test_output_and_gradients(ndim, mode, layout, any_dtype_backend, np_or_nd):
    x, weight, bias = draw('pad', (2, 4, *SIZES[ndim]), (6, 2) + (3,) * ndim, (6,))
    window = {'strides': 2, 'dilation': 1, 'groups': 2}
    head, expected = expected_of(x, weight, bias, PAIRS[ndim], mode, **window)
    move = np.asarray if layout == 'first' else lambda value: np.moveaxis(value, 1, -1)
    expected = {k: v if k == 'bias' else move(v) for k, v in expected.items()}
    name = geometry.LAYOUTS[ndim][layout == 'last']
    for run in MODES:
        layer = getattr(nn, f'Conv{ndim}D')(
            6, 3, padding=PAIRS[ndim], padding_mode=mode, layout=name, in_channels=4, **window
        )
        layer.initialize()
        layer.weight.set_data(array_kind().array(move(weight)))
        layer.bias.set_data(array_kind().array(bias))
        assert_same(measure(layer, move(x), move(head), run), expected)
    arrays = [array_kind().array(value) for value in (move(x), move(weight), bias)]
    y = functional.convolution(
        *arrays, padding=PAIRS[ndim], padding_mode=mode, layout=name, **window
    )
    assert_close('output', y.asnumpy(), expected['output'])


@pytest.mark.parametrize('mode', geometry.PADDING_MODES)
@pytest.mark.parametrize('strides', [1, 2, 3])
@pytest.mark.parametrize('kernel, dilation', [(1, 1), (2, 1), (3, 1), (4, 1), (3, 2)])
def test_same_gives_a_window_for_each_step(
    kernel, dilation, strides, mode, any_dtype_backend, np_arrays
):
    """``ceil(n / strides)`` outputs, the first window ``(extent - 1) // 2`` before the data."""
    total = dilation * (kernel - 1)
    pairs = ((total // 2, total - total // 2),) * 2
    for n in (5, 6, 7):
        x, weight = draw('same', (1, 2, n, n + 1), (3, 2, kernel, kernel))
        y = functional.convolution(
            mx.np.array(x),
            mx.np.array(weight),
            padding='same',
            strides=strides,
            dilation=dilation,
            padding_mode=mode,
        )
        assert y.shape == (1, 3, -(-n // strides), -(-(n + 1) // strides))
        wide = padded(x, pairs, mode)
        expected = reference.convolution(wide, weight, strides=strides, dilation=dilation)
        assert_close('output', y.asnumpy(), expected)


def test_valid_is_no_padding_and_odd_windows_are_padded_by_the_kernels():
    assert nn.Conv2D(4, 3, padding='valid')._kwargs['pad'] == (0, 0)
    assert nn.Conv2D(4, (3, 5), padding='same')._kwargs['pad'] == (1, 2)
    assert nn.Conv2D(4, 3, padding='same', dilation=3)._kwargs['pad'] == (3, 3)
    assert nn.Conv2D(4, 3, padding=((1, 1), (2, 2)))._kwargs['pad'] == (1, 2)
    for layer in (
        nn.Conv2D(4, 3, padding='same'),
        nn.Conv2D(4, 3, padding=0, padding_mode='reflect'),
    ):
        assert 'border' not in layer._kwargs
    assert 'border' in nn.Conv2D(4, 2, padding='same')._kwargs


@pytest.mark.parametrize('mode', geometry.PADDING_MODES)
def test_gradients_are_those_of_the_output(mode, any_dtype_backend, np_or_nd):
    layer = nn.Conv2D(3, 3, padding=((2, 1), (0, 3)), padding_mode=mode, activation='tanh')
    assert assert_gradients_numeric(layer, draw('numeric', (2, 2, 5, 6))[0]) == 'float64'


SIDES = [
    # kernel, strides, dilation, padding, the padding in pairs
    ((2, 2), 1, 1, 'same', ((0, 1), (0, 1))),
    ((4, 2), 2, 1, 'same', ((1, 2), (0, 1))),
    ((2, 4), 1, 3, 'same', ((1, 2), (4, 5))),
    ((3, 3), 2, 1, ((0, 1), (0, 1)), ((0, 1), (0, 1))),
    ((3, 2), (1, 2), 1, ((3, 0), (0, 5)), ((3, 0), (0, 5))),
]


@pytest.mark.parametrize('layout', ['NCHW', 'NHWC'])
@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('groups', [1, 4])
@pytest.mark.parametrize('window', SIDES, ids=str)
def test_sides_that_differ(window, groups, dtype, layout, any_dtype_backend, np_or_nd):
    kernel, strides, dilation, padding, pairs = window
    x, weight, bias = draw('sides', (2, 4, 7, 6), (8, 4 // groups, *kernel), (8,))
    arguments = {'strides': strides, 'dilation': dilation, 'groups': groups}
    head, expected = expected_of(x, weight, bias, pairs, 'zeros', **arguments)
    move = np.asarray if layout == 'NCHW' else lambda value: np.moveaxis(value, 1, -1)
    expected = {k: v if k == 'bias' else move(v) for k, v in expected.items()}
    for run in ('imperative', 'static'):
        layer = nn.Conv2D(8, kernel, padding=padding, layout=layout, in_channels=4, **arguments)
        layer.initialize()
        layer.cast(dtype)
        layer.weight.set_data(array_kind().array(move(weight), dtype=dtype))
        layer.bias.set_data(array_kind().array(bias, dtype=dtype))
        found = measure(layer, move(x).astype(dtype), move(head).astype(dtype), run)
        assert {value.dtype.name for value in found.values()} == {dtype}
        assert_same(found, expected)


@pytest.mark.parametrize('algorithm', ['implicit_gemm', 'winograd', 'depthwise'])
def test_each_algorithm_pads_sides_that_differ(algorithm, native, np_or_nd):
    groups = 8 if algorithm == 'depthwise' else 1
    x, weight = draw('algorithm', (1, 8, 9, 8), (8, 8 // groups, 4, 2))
    pairs = ((1, 2), (0, 1))
    head, expected = expected_of(x, weight, None, pairs, 'zeros', groups=groups)
    layer = nn.Conv2D(
        8, (4, 2), 1, 'same', groups=groups, use_bias=False, in_channels=8, algorithm=algorithm
    )
    layer.initialize()
    layer.weight.set_data(array_kind().array(weight))
    for run in MODES:
        found = measure(layer, x, head, run)
        assert_same(found, {name: expected[name] for name in found})


def test_the_native_operators_pad_without_a_copy(native, np_or_nd):
    """One node computes it, which has what stands before each axis, and then what stands behind."""
    for layer in (
        nn.Conv2D(4, (4, 3), 2, 'same', in_channels=3, use_bias=False),
        nn.AvgPool2D((4, 3), 2, 'same'),
    ):
        layer.initialize()
        variable = mx.sym.var('data')
        graph = json.loads(
            layer(variable.as_np_ndarray() if np_or_nd == 'np' else variable).tojson()
        )
        # those that only gradients need return their input
        nodes = [one for one in graph['nodes'] if one['op'] not in ('null', '_copy')]
        assert [one['attrs']['pad'] for one in nodes] == ['(1, 1, 2, 1)']


def assert_gradients_are_added(layer, x, head):
    """Where the data's gradient is to be added to, each of three passes adds the whole of it."""
    once = measure(layer, x, head)['x']
    for hybridized in (False, True):
        layer.hybridize(hybridized)
        data = array_kind().array(x)
        data.attach_grad('add')
        for _ in range(3):
            with autograd.record():
                y = layer(data)
            y.backward(array_kind().array(head))
        assert_close('x', data.grad.asnumpy(), 3 * once)


def test_a_gradient_of_a_convolution_is_added_where_that_is_asked_for(any_dtype_backend, np_or_nd):
    layer = nn.Conv2D(4, 2, padding='same', in_channels=3)
    layer.initialize()
    x, head = draw('added', (2, 3, 5, 6), (2, 4, 5, 6))
    assert_gradients_are_added(layer, x, head)


def test_the_operators_agree_with_mxnet_on_data_padded_by_hand(native, nd_arrays):
    x, weight = (mx.nd.array(value) for value in draw('by hand', (2, 3, 7, 6), (4, 3, 3, 2)))
    wide = mx.nd.pad(x, 'constant', (0, 0, 0, 0, 0, 2, 1, 1))
    window = {'kernel': (3, 2), 'stride': (2, 1)}
    arguments = {**window, 'num_filter': 4, 'no_bias': True}
    expected = mx.nd.Convolution(wide, weight, **arguments)
    found = mx.nd.convpool_convolution(x, weight, pad=(0, 1, 2, 1), **arguments)
    assert_close('convolution', found.asnumpy(), expected.asnumpy())
    for mode in ('avg', 'sum'):
        expected = mx.nd.Pooling(wide, pool_type=mode, **window)
        found = mx.nd.convpool_pooling(x, pool_type=mode, pad=(0, 1, 2, 1), **window)
        assert_close(mode, found.asnumpy(), expected.asnumpy())


@pytest.mark.parametrize(
    'attributes, words',
    [
        (
            {'pad': (1, 2, 3)},
            r'pad=\(1, 2, 3\) must have 2 values, .*, or 4: those before each axis',
        ),
        ({'pad': (0, 0, 1, -1)}, r'padding=\(0, 0, 1, -1\), but every value must be at least 0'),
        ({'pad': (0, 0, 0, 3)}, r'padding=\(\(0, 0\), \(0, 3\)\) must be smaller than pool_size'),
        (
            {'pad': (0, 0, 0, 1), 'pooling_convention': 'full'},
            r'padding=\(\(0, 0\), \(0, 1\)\); allowed: ceil_mode=False',
        ),
    ],
)
def test_what_the_operators_refuse(attributes, words, native, nd_arrays):
    x = mx.nd.ones((1, 1, 5, 5))
    with pytest.raises(mx.base.MXNetError, match='pooling: .*' + words):
        mx.nd.convpool_pooling(x, kernel=(3, 3), **attributes)


@pytest.mark.parametrize('mode', geometry.PADDING_MODES)
def test_an_empty_batch(mode, any_dtype_backend, np_or_nd):
    with empty_arrays(True):
        layer = nn.Conv2D(3, 3, padding=((2, 1), (0, 3)), padding_mode=mode, in_channels=2)
        layer.initialize()
        x = array_kind().zeros((0, 2, 5, 6))
        x.attach_grad()
        for hybridized in (False, True):
            layer.hybridize(hybridized)
            with autograd.record():
                y = layer(x)
            y.backward()
            assert y.shape == (0, 3, 6, 7) and x.grad.shape == x.shape


def test_a_layer_says_how_it_pads():
    text = repr(nn.Conv2D(4, 3, padding=((1, 2), (0, 1)), padding_mode='circular'))
    assert 'padding=((1, 2), (0, 1)), padding_mode=circular' in text
    assert 'padding_mode' not in repr(nn.Conv2D(4, 3, padding=1))


def test_mxnet_has_no_such_layer(np_arrays):
    report = gluon_convpool.swap(nn.Conv2D(4, 3, padding='same', padding_mode='reflect'), 'mxnet')
    assert not report.replaced and 'reflect' in report.left[0].reason
    report = gluon_convpool.swap(nn.Conv2D(4, 2, padding='same'), 'mxnet')
    assert report.left[0].reason == 'MXNet has no padding=((0, 1), (0, 1)) with zeros'
    assert not gluon_convpool.swap(nn.Conv2D(4, 3, padding='same'), 'mxnet').left


# --------------------------------------------------------------------------- pooling

POOLINGS = [
    {'mode': 'max'},
    {'mode': 'avg'},
    {'mode': 'avg', 'count_include_pad': False},
    {'mode': 'sum'},
    {'mode': 'lp', 'p': 2},
    {'mode': 'lp', 'p': 3},
]
# What a window may hold beside the data, and what each side of 2-D data is then.
WINDOWS = [
    # pool_size, strides, padding, the padding in pairs
    ((2, 2), 2, 'same', ((0, 1), (0, 1))),
    ((4, 2), 1, 'same', ((1, 2), (0, 1))),
    ((4, 5), (3, 2), 'same', ((1, 2), (2, 2))),
    ((3, 3), 2, ((2, 0), (0, 1)), ((2, 0), (0, 1))),
    ((3, 4), (1, 3), ((1, 1), (3, 2)), ((1, 1), (3, 2))),
    ((5, 3), 1, ((0, 4), (2, 1)), ((0, 4), (2, 1))),
]


def expected_of_pooling(x, pairs, mode, pool_size, strides, count_include_pad=True, p=2):
    """Of data with that around it which never is a maximum, and adds nothing."""
    window = {'pool_size': pool_size, 'strides': strides, 'mode': mode, 'p': p}
    around = ((0, 0), (0, 0), *pairs)
    wide = np.pad(x, around, constant_values=-np.inf if mode == 'max' else 0)
    counts = 1.0
    if not count_include_pad:
        window['mode'] = 'sum'
        counts = reference.pooling(np.pad(np.ones_like(x), around), **window)
    y = reference.pooling(wide, **window) / counts
    (head,) = draw(f'head of {mode} {pairs}', y.shape)
    dwide = reference.pooling_gradient(head / counts, wide, **window)
    inside = tuple(slice(b, b + n) for (b, _), n in zip(pairs, x.shape[2:]))
    return head, {'output': y, 'x': dwide[(..., *inside)]}


@pytest.mark.parametrize('layout', ['NCHW', 'NHWC'])
@pytest.mark.parametrize('window', WINDOWS, ids=lambda window: str(window[:3]))
@pytest.mark.parametrize('pooling', POOLINGS, ids=lambda one: '-'.join(map(str, one.values())))
def test_pooling_with_sides_that_differ(pooling, window, layout, any_dtype_backend, np_or_nd):
    pool_size, strides, padding, pairs = window
    move = np.asarray if layout == 'NCHW' else lambda value: np.moveaxis(value, 1, -1)
    arguments = {'strides': strides, 'padding': padding, **pooling}
    for sizes in ((7, 6), (1, 5)):
        x = abs(draw('pooled', (2, 3, *sizes))[0]) + 0.5
        if any(n + sum(pair) < k for n, pair, k in zip(sizes, pairs, pool_size)):
            continue
        head, expected = expected_of_pooling(
            x, pairs, pool_size=pool_size, strides=strides, **pooling
        )
        expected = {name: move(value) for name, value in expected.items()}
        for run in ('imperative', 'static'):
            layer = nn.Pool2D(pool_size, layout=layout, **arguments)
            assert_same(measure(layer, move(x), move(head), run), expected)


@pytest.mark.parametrize('ndim', [1, 2, 3])
@pytest.mark.parametrize('mode', ['Max', 'Avg'])
def test_same_pools_a_window_for_each_step(mode, ndim, any_dtype_backend, np_or_nd):
    """``ceil(n / strides)`` outputs, the first window ``(pool_size - 1) // 2`` before the data."""
    for pool_size in (1, 2, 3, 4):
        pairs = (((pool_size - 1) // 2, pool_size // 2),) * ndim
        for strides in (1, 2, 3):
            (x,) = draw('same', (1, 2, *SIZES[ndim]))
            layer = getattr(nn, f'{mode}Pool{ndim}D')(pool_size, strides, 'same')
            found = layer(array_kind().array(x)).asnumpy()
            assert found.shape[2:] == tuple(-(-n // strides) for n in SIZES[ndim])
            window = {'pool_size': pool_size, 'strides': strides}
            _, expected = expected_of_pooling(x, pairs, mode.lower(), **window)
            assert_close('output', found, expected['output'])


@pytest.mark.parametrize('dtype', ['float64', 'float16', 'int8', 'uint8', 'int32'])
@pytest.mark.parametrize('pooling', POOLINGS[:4], ids=lambda one: '-'.join(map(str, one.values())))
def test_pooling_of_every_dtype_with_sides_that_differ(pooling, dtype, any_dtype_backend, np_or_nd):
    x = np.random.default_rng(3).integers(1, 120, (2, 3, 7, 6)).astype(dtype)
    x = x if dtype == 'uint8' else -x
    for pool_size, strides, padding, pairs in WINDOWS[::2]:
        _, expected = expected_of_pooling(
            x.astype('float64'), pairs, pool_size=pool_size, strides=strides, **pooling
        )
        y = expected['output']
        if np.dtype(dtype).kind in 'iu':
            y = np.clip(np.floor(y), np.iinfo(dtype).min, np.iinfo(dtype).max)
        for hybridized in (False, True):
            layer = nn.Pool2D(pool_size, strides, padding, **pooling)
            layer.cast(dtype)
            layer.hybridize(hybridized)
            found = layer(array_kind().array(x, dtype=dtype)).asnumpy()
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, y.astype(dtype))


def test_what_is_added_is_no_maximum_and_takes_no_gradient(native, np_or_nd):
    x = np.full((1, 1, 3), -np.inf)
    layer = nn.MaxPool1D(2, 1, ((1, 0),))
    found = measure(layer, x.astype('float32'), np.float32([[[1, 2, 4]]]))
    assert found['output'].tolist() == [[[-np.inf] * 3]]
    assert found['x'].tolist() == [[[3, 4, 0]]]


def test_equal_sides_of_a_pooling_go_to_the_operator_that_they_went_to(np_or_nd):
    variable = mx.sym.var('data')
    variable = variable.as_np_ndarray() if np_or_nd == 'np' else variable
    for padding, plain in (
        ('valid', 0),
        ('same', (1, 2)),
        (((1, 1), (2, 2)), (1, 2)),
        (((0, 0), (0, 0)), 0),
    ):
        layers = [nn.AvgPool2D((3, 5), 2, one, prefix='pool_') for one in (padding, plain)]
        assert layers[0]._kwargs == layers[1]._kwargs
        # each detour of a gradient has a number of its own
        graphs = [
            re.sub(r'(__convpool_detour__": )"\d+"', r'\1', layer(variable).tojson())
            for layer in layers
        ]
        assert graphs[0] == graphs[1]


def test_padding_of_a_global_pooling_is_not_looked_at(np_or_nd):
    layer = nn.Pool2D(padding='same', global_pool=True, mode='sum')
    assert layer(array_kind().ones((1, 1, 3, 4))).asnumpy().tolist() == [[[[12]]]]
    assert nn.GlobalAvgPool2D()._arguments.padding == (0, 0)


@pytest.mark.parametrize('pooling', POOLINGS, ids=lambda one: '-'.join(map(str, one.values())))
def test_gradients_of_pooling_are_those_of_the_output(pooling, any_dtype_backend, np_arrays):
    layer = nn.Pool2D((3, 2), (2, 1), ((2, 1), (0, 1)), **pooling)
    x = abs(draw('numeric', (2, 2, 5, 6))[0]) + 0.5
    assert assert_gradients_numeric(layer, x) == 'float64'


def test_a_gradient_of_pooling_is_added_where_that_is_asked_for(any_dtype_backend, np_or_nd):
    x, head = draw('added', (2, 3, 7, 6), (2, 3, 4, 3))
    layer = nn.AvgPool2D(2, padding='same')
    assert_gradients_are_added(layer, x, head)


def test_an_empty_batch_is_pooled(any_dtype_backend, np_or_nd):
    with empty_arrays(True):
        for hybridized in (False, True):
            layer = nn.MaxPool2D(2, padding='same')
            layer.hybridize(hybridized)
            x = array_kind().zeros((0, 2, 5, 6))
            x.attach_grad()
            with autograd.record():
                y = layer(x)
            y.backward()
            assert y.shape == (0, 2, 3, 3) and x.grad.shape == x.shape


def test_an_exported_pooling_is_the_same(tmp_path, any_dtype_backend, np_or_nd):
    (x,) = draw('exported', (2, 3, 7, 6))
    net = gluon.nn.HybridSequential()
    net.add(nn.MaxPool2D(2, padding='same'), nn.AvgPool2D(2, 1, 'same', count_include_pad=False))
    net.hybridize()
    data = array_kind().array(x)
    expected = net(data).asnumpy()
    net.export(str(tmp_path / 'net'))
    again = gluon.SymbolBlock.imports(str(tmp_path / 'net-symbol.json'), ['data'])
    np.testing.assert_array_equal(again(data).asnumpy(), expected)
    for size in ((1, 1), (4, 9)):
        net.hybridize(False)
        other = array_kind().array(draw('other', (1, 2, *size))[0])
        np.testing.assert_array_equal(again(other).asnumpy(), net(other).asnumpy())


def test_a_pooling_says_how_it_pads(any_dtype_backend, np_or_nd):
    text = repr(nn.MaxPool2D(2, padding='same'))
    assert 'padding=((0, 1), (0, 1)), ceil_mode=False' in text
    assert 'padding=(1, 1), ceil_mode' in repr(nn.MaxPool2D(3, padding='same'))
    assert 'padding=((0, 1),)' in repr(nn.Pool1D(2, padding='same', mode='lp', p=3))
    layer = nn.MaxPool2D(2, padding='same')
    layer._kwargs['stride'] = (1, 1)
    assert layer(array_kind().zeros((1, 1, 3, 4))).shape == (1, 1, 3, 4)


def test_mxnet_has_no_pooling_with_sides_that_differ(np_arrays):
    net = gluon.nn.HybridSequential()
    net.add(nn.MaxPool2D(2, padding='same'), nn.MaxPool2D(3, padding='same'))
    report = gluon_convpool.swap(net, 'mxnet')
    assert [one.path for one in report.replaced] == ['1']
    assert report.left[0].reason == 'MXNet has no padding=((0, 1), (0, 1)) of a pooling'


def test_a_network_with_such_poolings_is_optimized(np_or_nd):
    net = gluon.nn.HybridSequential()
    net.add(
        nn.Conv2D(4, 3, padding='same', in_channels=3),
        nn.BatchNorm(in_channels=4),
        gluon.nn.Activation('relu'),
        nn.MaxPool2D(2, padding='same'),
        nn.Conv2D(4, 2, padding='same', in_channels=4),
        nn.AvgPool2D(2, 1, ((1, 0), (0, 1))),
    )
    net.initialize()
    x = array_kind().array(draw('optimized', (2, 3, 7, 9))[0])
    net(x)
    for prepack in (None, x.shape):
        assert gluon_convpool.optimize(net, prepack=prepack).verify(x).agrees


class Residual(gluon.HybridBlock):
    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.one = nn.Conv2D(8, 4, padding='same', in_channels=8)
            self.two = nn.Conv2D(8, (2, 3), padding=((0, 1), (2, 0)), in_channels=8)

    def hybrid_forward(self, F, x):
        return F.relu(self.two(F.relu(self.one(x))) + x)


def test_a_sum_with_what_is_as_large_is_fused_whatever_the_sides(native, nd_arrays, tmp_path):
    net = Residual()
    net.initialize()
    net.hybridize()
    x = mx.nd.array(draw('residual', (1, 8, 14, 14))[0])
    expected = net(x).asnumpy()
    for prepack in (None, x.shape):
        fast = gluon_convpool.optimize(net, prepack=prepack)
        assert sum(' fused into ' in str(one) for one in fast.report.rewrites) == 3
        assert_close('output', fast(x).asnumpy(), expected)
    net.export(str(tmp_path / 'net'))
    files = str(tmp_path / 'net-symbol.json'), str(tmp_path / 'net-0000.params')
    assert_close('output', gluon_convpool.optimize(files)(x).asnumpy(), expected)


@pytest.mark.parametrize('strides', [(1, 3), 2])
@pytest.mark.parametrize('padding', ['same', ((1, 0), (0, 2))])
def test_maxima_with_their_places_and_back(padding, strides, any_dtype_backend, np_or_nd):
    (x,) = draw('places', (2, 3, 7, 6))
    window = {'pool_size': (2, 4), 'strides': strides, 'padding': padding}
    data = array_kind().array(x)
    maxima, indices = functional.max_pooling_with_indices(data, **window)
    np.testing.assert_array_equal(maxima.asnumpy(), functional.pooling(data, **window).asnumpy())
    places = indices.asnumpy().reshape(6, -1)
    np.testing.assert_array_equal(
        np.take_along_axis(x.reshape(6, -1), places, 1), maxima.asnumpy().reshape(6, -1)
    )
    expected = np.zeros((6, 42))
    for row, at, values in zip(expected, places, maxima.asnumpy().reshape(6, -1)):
        np.add.at(row, at, values)
    back = functional.max_unpooling(maxima, indices, (7, 6), **window).asnumpy()
    assert_close('output', back, expected.reshape(x.shape))


# --------------------------------------------------------------------------- padding by itself


@pytest.mark.parametrize('layout', ['first', 'last'])
@pytest.mark.parametrize('mode', geometry.PADDING_MODES)
@pytest.mark.parametrize('ndim', [1, 2, 3])
def test_pad_is_what_numpy_does(ndim, mode, layout, np_or_nd):
    move = np.asarray if layout == 'first' else lambda value: np.moveaxis(value, 1, -1)
    for dtype in ('float32', 'float64', 'float16'):
        x = draw('pad alone', (2, 3, *SIZES[ndim]))[0].astype(dtype)
        found = functional.pad(
            array_kind().array(move(x), dtype=dtype),
            PAIRS[ndim],
            mode,
            geometry.LAYOUTS[ndim][layout == 'last'],
        ).asnumpy()
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, move(padded(x, PAIRS[ndim], mode)))


@pytest.mark.parametrize('padding', [0, 2, (0, 0, 0, 0, 1, 2, 3, 0)], ids=str)
def test_reflection_layer_matches_the_builtin_one(padding, nd_arrays):
    (x,) = draw('reflection', (2, 3, 5, 6))
    assert_layers_match(nn.ReflectionPad2D(padding), gluon.nn.ReflectionPad2D(padding), x)
    assert isinstance(nn.ReflectionPad2D(), gluon.nn.ReflectionPad2D)


def test_reflection_layer_takes_pairs_and_arrays_of_both_kinds(np_or_nd):
    x, head = draw('reflection', (2, 3, 5, 6), (2, 3, 8, 9))
    pairs = ((1, 2), (0, 3))
    dx = gradient_of_padding(head, x.shape, pairs, 'reflect')
    for run in MODES:
        found = measure(nn.ReflectionPad2D(pairs), x, head, run)
        assert_same(found, {'output': padded(x, pairs, 'reflect'), 'x': dx})
    layer = nn.ReflectionPad2D(5)
    with pytest.raises(ValueError, match=r'pad: padding=.*at least \(6, 6\).* are \(5, 6\)'):
        layer(array_kind().array(x))
    with pytest.raises(ValueError, match='ReflectionPad2D: padding=-1'):
        nn.ReflectionPad2D(-1)
    with pytest.raises(TypeError, match="ReflectionPad2D: padding='same' must be an integer"):
        nn.ReflectionPad2D('same')


# ------------------------------------------------------------------------------- bad input

WRONG = [
    ({'padding': 'full'}, ["padding='full'", "'same', 'valid'"]),
    ({'padding': ((1, 2),)}, ['padding=((1, 2),)', 'pair', '2 axes']),
    ({'padding': ((1, 2), 1)}, ['padding=((1, 2), 1)', 'pair']),
    ({'padding': ((1, 2, 3), (1, 2))}, ['padding=((1, 2, 3), (1, 2))', 'pair']),
    ({'padding': ((1, -2), (1, 2))}, ['padding=((1, -2), (1, 2))', 'at least 0']),
    ({'padding': ((1, 0.5), (1, 2))}, ['padding=((1, 0.5), (1, 2))', 'integer']),
    ({'padding_mode': 'mirror'}, ["padding_mode='mirror'", "'reflect'", "'circular'"]),
    ({'padding_mode': None}, ['padding_mode=None', "'zeros'"]),
]


@pytest.mark.parametrize(
    'mistake, words', WRONG, ids=lambda v: str(v) if isinstance(v, dict) else ''
)
def test_a_wrong_argument_is_named(mistake, words):
    x, weight = mx.nd.zeros((1, 2, 5, 5)), mx.nd.zeros((4, 2, 3, 3))
    for name, call in (
        ('Conv2D', lambda: nn.Conv2D(4, 3, **mistake)),
        ('convolution', lambda: functional.convolution(x, weight, **mistake)),
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            call()
        for word in [name, *words]:
            assert word in str(caught.value)


@pytest.mark.parametrize(
    'mode, pairs, least',
    [
        ('reflect', ((4, 0), (0, 0)), '(5, 1)'),
        ('circular', ((0, 0), (1, 5)), '(1, 5)'),
        ('replicate', ((9, 9), (0, 0)), '(1, 1)'),
    ],
)
def test_data_that_is_too_small_to_copy_from(mode, pairs, least, any_dtype_backend, np_arrays):
    size = (0, 4) if mode == 'replicate' else (4, 4)
    layer = nn.Conv2D(4, 1, padding=pairs, padding_mode=mode, in_channels=2)
    layer.initialize()
    x = mx.np.zeros((1, 2, *size))
    with pytest.raises(ValueError) as caught:
        layer(x)
    for word in (f"padding_mode='{mode}'", str(pairs), least, str(size)):
        assert word in str(caught.value)
    net = gluon.nn.HybridSequential()
    net.add(layer)
    net.hybridize()
    with pytest.raises(mx.base.MXNetError, match=f"with padding_mode='{mode}' copies"):
        net(x).asnumpy()


WRONG_OF_POOLING = [
    *WRONG[:6],
    ({'padding': ((0, 3), (0, 0))}, ['padding=((0, 3), (0, 0))', 'smaller', 'pool_size=(3, 3)']),
    ({'padding': ((3, 0), (0, 0))}, ['padding=((3, 0), (0, 0))', 'smaller', 'pool_size=(3, 3)']),
    (
        {'padding': ((0, 1), (1, 1)), 'ceil_mode': True},
        ['ceil_mode=True', 'padding=((0, 1), (1, 1))', 'allowed: ceil_mode=False'],
    ),
]


@pytest.mark.parametrize(
    'mistake, words', WRONG_OF_POOLING, ids=lambda v: str(v) if isinstance(v, dict) else ''
)
def test_a_wrong_argument_of_a_pooling_is_named(mistake, words):
    x = mx.nd.zeros((1, 2, 5, 5))
    for name, call in (
        ('AvgPool2D', lambda: nn.AvgPool2D(3, **mistake)),
        ('Pool2D', lambda: nn.Pool2D(3, **mistake)),
        ('pooling', lambda: functional.pooling(x, 3, **mistake)),
        ('pooling', lambda: gluon_convpool.pool2d(x, 3, **mistake)),
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            call()
        for word in [name, *words]:
            assert word in str(caught.value)


@pytest.mark.parametrize('size, padded', [((2, 9), (4, 10)), ((9, 3), (11, 4))])
def test_a_pooling_window_that_does_not_fit_the_padded_data(
    size, padded, any_dtype_backend, np_or_nd
):
    layer = nn.MaxPool2D(5, 1, ((2, 0), (0, 1)))
    net = gluon.nn.HybridSequential()
    net.add(layer)
    net.hybridize()
    x = array_kind().zeros((1, 2, *size))
    with pytest.raises(ValueError) as caught:
        layer(x)
    for word in ('pooling', 'size (5, 5)', 'padding=((2, 0), (0, 1))', f'only {padded}'):
        assert word in str(caught.value)
    with pytest.raises(mx.base.MXNetError, match=r'padding=\(\(2, 0\), \(0, 1\)\) has only'):
        net(x).asnumpy()


def test_a_window_that_does_not_fit_the_padded_data(any_dtype_backend, np_or_nd):
    layer = nn.Conv2D(4, 9, padding=((1, 2), (0, 1)))
    layer.initialize()
    with pytest.raises(ValueError, match=r'padding=\(\(1, 2\), \(0, 1\)\) has only \(8, 6\)'):
        layer(array_kind().zeros((1, 2, 5, 5)))
