"""float16 is stored and float32 computed; integers are pooled exactly."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

from gluon_convpool import functional, nn, use_backend
from gluon_convpool.testing import (
    MODES,
    array_kind,
    assert_close,
    assert_same,
    draw,
    empty_arrays,
    measure,
    reference,
)

INTEGERS = ('int8', 'uint8', 'int32')


# ------------------------------------------------------------------------------------- float16


@pytest.mark.parametrize(
    'make',
    [
        lambda: nn.Conv1D(6, 3, padding=1, groups=2, in_channels=4),
        lambda: nn.Conv2D(6, 3, padding=1, in_channels=4, activation='relu'),
        lambda: nn.Conv2D(6, 3, padding='same', padding_mode='reflect', in_channels=4),
        lambda: nn.Conv2D(6, 2, padding='same', in_channels=4),
        lambda: nn.Conv3D(6, 2, strides=2, in_channels=4),
        lambda: nn.Conv2DTranspose(6, 3, strides=2, in_channels=4),
        nn.MaxPool2D,
        nn.AvgPool1D,
        nn.GlobalAvgPool3D,
    ],
)
def test_float16_is_float32_arithmetic_rounded_once(make, any_dtype_backend, np_or_nd):
    """Results are those of a float32 layer on the same numbers, to the precision of float16."""
    half, single = make(), make()
    dims = int(type(half).__name__.split('D')[0][-1])
    (x,) = draw('halves', (2, 4) + (6,) * dims)
    for layer in (half, single):
        layer.initialize()
        layer.cast('float16' if layer is half else 'float32')
    for name, parameter in half._collect_params_with_prefix().items():
        values = draw(name, parameter.shape)[0].astype('float16')
        parameter.set_data(array_kind().array(values, dtype='float16'))
        single._collect_params_with_prefix()[name].set_data(
            array_kind().array(values, dtype='float32')
        )
    x = x.astype('float16')
    y = single(array_kind().array(x.astype('float32')))
    head = draw('head', y.shape)[0].astype('float16')
    expected = measure(single, x.astype('float32'), head.astype('float32'))
    for mode in MODES:
        found = measure(half, x, head, mode)
        assert {value.dtype.name for value in found.values()} == {'float16'}
        assert_same(found, expected, rtol=1e-3)


def test_a_sum_of_float16_is_exact_where_its_parts_are(any_dtype_backend, np_or_nd):
    """4096 ones: in float16 the sum would stop at 2048."""
    x = array_kind().array(np.ones((1, 4096, 1, 1)), dtype='float16')
    weight = array_kind().array(np.full((1, 4096, 1, 1), 0.5), dtype='float16')
    assert functional.convolution(x, weight).asnumpy().tolist() == [[[[2048]]]]
    x = x.reshape((1, 1, 64, 64))
    y = functional.pooling(x, mode='sum', global_pool=True)
    assert y.asnumpy().tolist() == [[[[4096]]]] and y.dtype == np.float16


def test_every_float16_is_read_and_written_as_it_is(any_dtype_backend, np_or_nd):
    every = np.arange(2**16, dtype='uint16').view('float16')
    x = array_kind().array(every.reshape(1, 1, -1), dtype='float16')
    y = functional.pooling(x, 1, mode='max', layout='NCW').asnumpy().ravel()
    np.testing.assert_array_equal(y, every)
    known = ~np.isnan(every)
    np.testing.assert_array_equal(y[known].view('uint16'), every[known].view('uint16'))


def test_results_are_rounded_to_the_nearest_float16(any_dtype_backend, np_or_nd):
    """Sums of two, of all exponents: many lie in the middle between two numbers, many beyond."""
    numbers = np.arange(0, 2**15, 61, dtype='uint16').view('float16')
    numbers = numbers[np.isfinite(numbers)]
    pairs = np.stack([np.repeat(numbers, 7), -np.resize(numbers, 7 * len(numbers))], axis=-1)
    pairs = np.concatenate([pairs, abs(pairs), [[65504, 16], [65504, 15.99], [2048, 1], [2050, 1]]])
    pairs = pairs.astype('float16')
    x = array_kind().array(pairs.reshape(1, 1, -1), dtype='float16')
    y = functional.pooling(x, 2, mode='sum', layout='NCW').asnumpy().ravel()
    with np.errstate(over='ignore'):
        expected = pairs.astype('float32').sum(axis=-1).astype('float16')
    np.testing.assert_array_equal(y, expected)


def losses(dtype, steps=200):
    """Of a network trained with parameters of `dtype`, the optimizer's own being float32."""
    net = gluon.nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, in_channels=2), nn.MaxPool2D(), nn.GlobalAvgPool2D())
    net.initialize()
    for name, parameter in net._collect_params_with_prefix().items():
        # of numbers that float16 holds, so that both networks begin alike
        (value,) = draw(f'mixed {name}', parameter.shape)
        parameter.set_data(array_kind().array(value.astype('float16').astype('float32')))
    net.cast(dtype)
    net.hybridize()
    optimizer = mx.optimizer.SGD(learning_rate=2e-5, multi_precision=True)
    trainer = gluon.Trainer(net.collect_params(), optimizer)
    x = array_kind().array(draw('mixed', (4, 2, 10, 10))[0].astype('float16'), dtype=dtype)
    found = []
    for _ in range(steps):
        with autograd.record():
            loss = (net(x) ** 2).sum()
        loss.backward()
        trainer.step(4)
        found.append(loss.asnumpy().item())
    return np.array(found)


def test_mixed_precision_training_follows_float32(any_dtype_backend, np_or_nd):
    """To a few roundings, 2**-11 each, though most updates are less than a float16 rounds off."""
    single = losses('float32')
    assert single[-1] < 0.97 * single[0]
    assert_close('loss', losses('float16'), single, 4 * 2.0**-11)


# ------------------------------------------------------------------------------------ integers


def integers(dtype, shape):
    range_ = np.iinfo(dtype)
    return np.random.default_rng(7).integers(range_.min, range_.max, shape, dtype, endpoint=True)


@pytest.mark.parametrize('dtype', INTEGERS)
@pytest.mark.parametrize('padding', [0, 1])
def test_integers_are_pooled_exactly(dtype, padding, any_dtype_backend, np_or_nd):
    x = integers(dtype, (2, 3, 9, 8))
    array = array_kind().array(x, dtype=dtype)
    window = {'pool_size': 3, 'strides': 2, 'padding': padding}
    range_ = np.iinfo(dtype)
    sums = reference.pooling(x, mode='sum', **window).astype('int64')
    counts = reference.pooling(np.ones_like(x), mode='sum', **window).astype('int64')
    for arguments, expected in (
        ({'mode': 'max'}, reference.pooling(x, **window)),
        ({'mode': 'sum'}, sums.clip(range_.min, range_.max)),
        ({'mode': 'avg'}, sums // 9),
        ({'mode': 'avg', 'count_include_pad': False}, sums // counts),
    ):
        for layer in (nn.Pool2D(**window, **arguments), nn.Pool2D(**window, **arguments)):
            for hybridized in (False, True):
                layer.hybridize(hybridized)
                found = layer(array).asnumpy()
                assert found.dtype == dtype
                np.testing.assert_array_equal(found, expected)


# ------------------------------------------------------------------------ integers of 64 bits


def exactly(values):
    """Python's integers, which know no largest one."""
    return np.vectorize(int, otypes=[object])(values)


def exact_windows(x, kernel, strides, pairs):
    """The elements of each window of ``(N, C, H, W)``, None where it lies in the padding."""
    wide = np.pad(exactly(x), ((0, 0), (0, 0), *pairs), constant_values=None)
    rows, columns = (range(0, n - k + 1, s) for n, k, s in zip(wide.shape[2:], kernel, strides))
    out = np.empty((*x.shape[:2], len(rows), len(columns)), object)
    for n, c, i, j in np.ndindex(out.shape):
        window = wide[n, c, rows[i] : rows[i] + kernel[0], columns[j] : columns[j] + kernel[1]]
        out[n, c, i, j] = window.ravel().tolist()
    return out


def of_window(mode, count_include_pad=True):
    range_ = np.iinfo('int64')

    def pooled(window):
        there = [value for value in window if value is not None]
        if mode == 'max':
            return max(there)
        if mode == 'sum':
            return min(max(sum(there), range_.min), range_.max)
        return sum(there) // len(window if count_include_pad else there)

    return pooled


LONG = [('max',), ('sum',), ('avg',), ('avg', False)]
LONG_WINDOWS = [
    # pool_size, strides, padding, the padding in pairs
    ((3, 3), (2, 2), 0, ((0, 0), (0, 0))),
    ((3, 2), (1, 2), 1, ((1, 1), (1, 1))),
    ((2, 4), (2, 1), 'same', ((0, 1), (1, 2))),
]


@pytest.mark.parametrize('window', LONG_WINDOWS, ids=str)
@pytest.mark.parametrize('mode', LONG, ids=str)
def test_integers_of_64_bits_are_pooled_exactly(mode, window, any_dtype_backend, np_or_nd):
    """Where sums are beyond int64, and all else far beyond what float64 holds."""
    pool_size, strides, padding, pairs = window
    range_ = np.iinfo('int64')
    large = integers('int64', (2, 3, 7, 6))
    for x in (
        large,
        large // 2**7,
        large // 2**62,
        2**53 + 1 + large % 7,
        np.full_like(large, range_.min),
        np.full_like(large, range_.max),
    ):
        windows = exact_windows(x, pool_size, strides, pairs)
        expected = np.vectorize(of_window(*mode), otypes=['int64'])(windows)
        for layout in ('NCHW', 'NHWC'):
            move = np.asarray if layout == 'NCHW' else lambda value: np.moveaxis(value, 1, -1)
            layer = nn.Pool2D(pool_size, strides, padding, *mode[:1], layout=layout)
            layer._kwargs['count_include_pad'] = mode[1:] != (False,)
            array = array_kind().array(move(x), dtype='int64')
            for hybridized in (False, True):
                layer.hybridize(hybridized)
                found = layer(array).asnumpy()
                assert found.dtype == 'int64'
                np.testing.assert_array_equal(found, move(expected))


@pytest.mark.parametrize('mode', LONG[:3], ids=str)
def test_one_window_over_all_integers_of_64_bits(mode, any_dtype_backend, np_or_nd):
    for divisor in (1, 2**10, 2**62):
        x = integers('int64', (2, 3, 7, 6)) // divisor
        windows = exact_windows(x, (7, 6), (1, 1), ((0, 0), (0, 0)))
        expected = np.vectorize(of_window(*mode), otypes=['int64'])(windows)
        for hybridized in (False, True):
            layer = nn.Pool2D(mode=mode[0], global_pool=True)
            layer.hybridize(hybridized)
            found = layer(array_kind().array(x, dtype='int64')).asnumpy()
            np.testing.assert_array_equal(found, expected)


def test_the_last_window_of_integers_of_64_bits(any_dtype_backend, np_or_nd):
    """In ceil mode: it ends with the padded data, and may hold none of it."""
    one = 2**60 + 1
    x = array_kind().array(np.array([[[1, 3, 5, 7, -3]]]) * one, dtype='int64')

    def pooled(*window, **arguments):
        layer = nn.Pool1D(*window, ceil_mode=True, **arguments)
        return layer(x).asnumpy().tolist()[0][0]

    assert pooled(2, mode='avg') == [2 * one, 6 * one, -3 * one]
    assert pooled(1, 3) == [one, 7 * one, -(2**63)]
    assert pooled(1, 3, mode='avg') == [one, 7 * one, 0]
    # three places of the last window are within the padded data, and two within the data
    assert pooled(4, 4, 1, 'avg') == [9 * one // 4, 4 * one // 3]
    assert pooled(4, 4, 1, 'avg', count_include_pad=False) == [3 * one, 2 * one]
    assert pooled(2, 3, 1, 'avg') == [one // 2, 6 * one, 0]


@pytest.mark.parametrize('ndim', [1, 3])
def test_integers_of_64_bits_over_one_and_three_axes(ndim, any_dtype_backend, np_or_nd):
    x = np.arange(4**ndim).reshape(1, 1, *(4,) * ndim) - 2**62
    array = array_kind().array(x, dtype='int64')
    parts = x.reshape(sum(((2, 2) for _ in range(ndim)), ()))
    within = tuple(range(1, 2 * ndim, 2))
    largest = getattr(nn, f'MaxPool{ndim}D')(2)(array).asnumpy()[0, 0]
    np.testing.assert_array_equal(largest, parts.max(axis=within))
    means = getattr(nn, f'AvgPool{ndim}D')(2)(array).asnumpy()[0, 0]
    rests = (parts + 2**62).sum(axis=within) // 2**ndim
    np.testing.assert_array_equal(means, rests - 2**62)


@pytest.mark.parametrize('mode', LONG[:3], ids=str)
def test_an_empty_batch_and_no_gradients_of_64_bits(mode, any_dtype_backend, np_or_nd):
    for layer in (nn.Pool2D(2, 1, 'same', *mode), nn.Pool2D(mode=mode[0], global_pool=True)):
        for hybridized in (False, True):
            layer.hybridize(hybridized)
            x = array_kind().ones((2, 3, 4, 5), dtype='int64')
            x.attach_grad()
            with autograd.record():
                y = layer(x)
            y.backward()
            assert (x.grad.asnumpy() == 0).all()
            with empty_arrays(True):
                empty = layer(array_kind().zeros((0, 3, 4, 5), dtype='int64'))
                assert empty.asnumpy().shape == (0, *y.shape[1:]) and empty.dtype == np.int64


def test_a_graph_of_integers_of_64_bits_is_told_so(any_dtype_backend, np_or_nd):
    x = array_kind().array(integers('int64', (2, 3, 8, 8)), dtype='int64')
    layers = nn.MaxPool2D(2), nn.GlobalAvgPool2D()
    with pytest.raises(mx.base.MXNetError, match='pooling: '):
        hybridized(*layers)(x).asnumpy()
    found = hybridized(*layers, dtype='int64')(x).asnumpy()
    largest = exact_windows(x.asnumpy(), (2, 2), (2, 2), ((0, 0), (0, 0)))
    for image, values in zip(found.reshape(6), largest.reshape(6, 16)):
        assert image == sum(map(max, values)) // 16


def test_the_native_backend_has_no_integers_of_64_bits(native, np_or_nd):
    with pytest.raises(ValueError, match=r"'native' was asked for, but .* no kernel for int64"):
        nn.MaxPool2D()(array_kind().ones((1, 1, 4, 4), dtype='int64'))


# ---------------------------------------------------------------------- integers of all sizes


def test_an_average_of_integers_is_rounded_down_as_numpy_does(any_dtype_backend, np_or_nd):
    x = np.array([[-3, -4, 3, 4]]).reshape(1, 1, 4)
    y = nn.AvgPool1D(2)(array_kind().array(x, dtype='int32'))
    assert y.asnumpy().tolist() == [[[-7 // 2, 7 // 2]]] == [[[-4, 3]]]


def test_a_window_of_integers_beyond_the_data_has_the_smallest_maximum(any_dtype_backend, np_or_nd):
    x = array_kind().array(np.arange(5).reshape(1, 1, 5), dtype='int8')
    y = nn.MaxPool1D(1, 3, ceil_mode=True)(x)
    assert y.asnumpy().tolist() == [[[0, 3, -128]]]


def test_a_network_of_integers(any_dtype_backend, np_or_nd):
    net = gluon.nn.HybridSequential()
    net.add(nn.MaxPool2D(2), nn.GlobalAvgPool2D())
    net.cast('uint8')
    net.hybridize()
    x = integers('uint8', (2, 3, 8, 8))
    largest = x.reshape(2, 3, 4, 2, 4, 2).max(axis=(3, 5)).astype(int)
    found = net(array_kind().array(x, dtype='uint8')).asnumpy()
    np.testing.assert_array_equal(found, largest.sum(axis=(2, 3), keepdims=True) // 16)


# ----------------------------------------------------------- graphs, which are made without data

NOT_CAST = [
    lambda: (nn.MaxPool2D(3, 2), nn.AvgPool2D(2, 1)),
    lambda: (nn.Pool2D(2, mode='sum'), nn.GlobalMaxPool2D()),
    lambda: (nn.AvgPool2D(3, 1, 1, count_include_pad=False, layout='NHWC'),),
]


def hybridized(*layers, dtype=None):
    net = gluon.nn.HybridSequential()
    net.add(*layers)
    # MXNet's own initial values are float32 where they are made after a cast
    net.initialize(mx.init.One())
    if dtype is not None:
        net.cast(dtype)
    net.hybridize()
    return net


def numbers(dtype, shape=(2, 3, 9, 8)):
    if dtype in INTEGERS:
        return array_kind().array(integers(dtype, shape) // 8, dtype=dtype)
    return array_kind().array(draw('numbers', shape)[0], dtype=dtype)


@pytest.mark.parametrize('dtype', ['float32', 'float64', 'float16', *INTEGERS])
@pytest.mark.parametrize('make', NOT_CAST)
@pytest.mark.parametrize('told', [None, 'float32', 'float16', 'uint8'])
def test_native_pooling_in_a_graph_takes_the_data_as_it_comes(make, dtype, told, native, np_or_nd):
    """Whatever a network was cast to, as imperatively."""
    x, net = numbers(dtype), hybridized(*make(), dtype=told)
    found = net(x)
    net.hybridize(False)
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found.asnumpy(), net(x).asnumpy())


def test_gradients_of_stored_types_in_a_graph(native, np_or_nd):
    for make in NOT_CAST:
        layer = gluon.nn.HybridSequential()
        layer.add(*make())
        x = numbers('float16').asnumpy()
        head = draw('head', layer(array_kind().array(x)).shape)[0].astype('float16')
        single = measure(layer, x.astype('float32'), head.astype('float32'))
        found = measure(layer, x, head, 'static')
        assert found['x'].dtype == 'float16'
        assert_same(found, single, rtol=2e-3)
        net, x = hybridized(*make()), numbers('int32')
        x.attach_grad()
        with autograd.record():
            y = net(x)
        y.backward()
        # what is rounded has no slope
        assert (x.grad.asnumpy() == 0).all()


@pytest.mark.parametrize('layer', [nn.AvgPool2D, nn.MaxPool2D, lambda: nn.AdaptiveAvgPool2D(2)])
def test_portable_graphs_refuse_data_that_they_were_not_made_for(layer, np_or_nd):
    with use_backend('portable'):
        for dtype in ('float16', *INTEGERS):
            with pytest.raises(mx.base.MXNetError, match='of dtype float32, float64 alone; cast'):
                hybridized(layer())(numbers(dtype)).asnumpy()
        for dtype in ('float32', 'float64'):
            assert hybridized(layer())(numbers(dtype)).dtype == np.dtype(dtype)
            half = hybridized(layer(), dtype='float16')
            with pytest.raises(mx.base.MXNetError, match='of dtype float16 alone; cast'):
                half(numbers(dtype)).asnumpy()
        assert half(numbers('float16')).dtype == np.float16


def test_portable_pooling_knows_the_dtype_that_a_graph_tells(np_or_nd):
    """That of the convolution in front, though nobody has cast the pooling."""
    first = nn.Conv2D(4, 3, in_channels=3)
    first.initialize()
    first.cast('float16')
    for last in (nn.AvgPool2D(), nn.AdaptiveAvgPool2D(2)):
        net = gluon.nn.HybridSequential()
        net.add(first, last)
        with use_backend('portable'):
            expected = net(numbers('float16')).asnumpy()
            net.hybridize()
            found = net(numbers('float16')).asnumpy()
        assert found.dtype == 'float16'
        np.testing.assert_array_equal(found, expected)
        net.hybridize(False)


@pytest.mark.parametrize('data', ['float32', 'float64', 'int32', 'float16'])
@pytest.mark.parametrize('weight', ['float16', 'float64'])
@pytest.mark.parametrize(
    'layer',
    [nn.Conv2D, nn.Conv2DTranspose, nn.DeformableConvolution, nn.ModulatedDeformableConvolution],
)
def test_weights_of_another_dtype_than_the_data_in_a_graph(
    layer, weight, data, any_dtype_backend, np_or_nd
):
    net = hybridized(layer(4, 3, in_channels=3), dtype=weight)
    if weight == data:
        assert net(numbers(data)).dtype == np.dtype(data)
        return
    with pytest.raises(mx.base.MXNetError, match='all inputs must have the same dtype'):
        net(numbers(data)).asnumpy()


@pytest.mark.parametrize(
    'between',
    [
        lambda: gluon.nn.Dropout(0.5),
        lambda: nn.BatchNorm(in_channels=4),
        lambda: gluon.nn.BatchNorm(in_channels=4),
    ],
)
def test_a_network_that_ran_is_cast(between, any_dtype_backend, np_or_nd):
    """And back: MXNet's parameters have variables of the dtype that they were first traced with."""
    layers = between(), nn.ReflectionPad2D(1), nn.MaxPool2D(2), nn.AdaptiveAvgPool2D(1)
    net = hybridized(nn.Conv2D(4, 3, in_channels=3), nn.AvgPool2D(2), *layers)
    expected = net(numbers('float32')).asnumpy()
    for dtype, rtol in (('float16', 1e-2), ('float32', 1e-6), ('float64', 1e-6)):
        net.cast(dtype)
        y = net(numbers(dtype))
        assert_close(dtype, y.asnumpy(), expected, rtol)


class Filtered(gluon.HybridBlock):
    """With a parameter that is MXNet's own."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.weight = self.params.get('weight', shape=(3, 3, 2, 2))

    def hybrid_forward(self, F, x, weight):
        x = functional.convolution(x, weight, kernel_size=2, channels=3)
        return functional.unfold(functional.adaptive_pooling(functional.pad(x, 1), 3), 2)


def test_functions_in_a_network_that_ran_and_is_cast(any_dtype_backend, np_or_nd):
    net = hybridized(Filtered())
    expected = net(numbers('float32')).asnumpy()
    for dtype in ('float64', 'float32'):
        net.cast(dtype)
        y = net(numbers(dtype))
        assert y.dtype == np.dtype(dtype)
        assert_close(dtype, y.asnumpy(), expected, 1e-5)


class Convolved(gluon.HybridBlock):
    """With a weight and a bias of which a graph knows neither shape nor dtype."""

    def __init__(self, call, **arguments):
        super().__init__()
        self.call, self.arguments = call, arguments

    def hybrid_forward(self, F, x, weight, bias):
        return self.call(x, weight, bias, kernel_size=3, channels=6, **self.arguments)


CONVOLVED = [
    (functional.convolution, reference.convolution, reference.convolution_gradients, (6, 2, 3, 3)),
    (
        functional.convolution_transpose,
        reference.convolution_transpose,
        reference.convolution_transpose_gradients,
        (4, 3, 3, 3),
    ),
]


@pytest.mark.parametrize('call, expected_of, gradients_of, shape', CONVOLVED)
def test_a_convolution_in_a_graph_takes_float16_as_it_comes(
    call, expected_of, gradients_of, shape, native, np_or_nd
):
    """As arrays are: computed in float32 and rounded once."""
    window = {'strides': 2, 'padding': 1, 'groups': 2}
    x, weight, bias = (one.astype('float16') for one in draw('graph', (2, 4, 7, 7), shape, (6,)))
    y = expected_of(x, weight, bias, **window)
    head = draw('head', y.shape)[0].astype('float16')
    gradients = gradients_of(head, x, weight, **window)
    arrays = [array_kind().array(one, dtype='float16') for one in (x, weight, bias)]
    for array in arrays:
        array.attach_grad()
    net = Convolved(call, **window)
    net.hybridize()
    with autograd.record():
        out = net(*arrays)
    out.backward(array_kind().array(head, dtype='float16'))
    for found, expected in zip([out, *(one.grad for one in arrays)], [y, *gradients]):
        assert found.dtype == np.float16
        assert_close('float16', found.asnumpy(), expected, rtol=1e-3)


@pytest.mark.parametrize('call', [one[0] for one in CONVOLVED])
def test_a_portable_graph_of_a_convolution_refuses_float16_that_nobody_told_of(call, np_or_nd):
    arrays = [array_kind().ones(shape) for shape in ((1, 6, 5, 5), (6, 6, 3, 3), (6,))]
    with use_backend('portable'):
        for dtype in ('float32', 'float64'):
            net = Convolved(call)
            net.hybridize()
            assert net(*(one.astype(dtype) for one in arrays)).dtype == np.dtype(dtype)
        with pytest.raises(mx.base.MXNetError, match='of dtype float32, float64 alone; cast'):
            net(*(one.astype('float16') for one in arrays)).asnumpy()


def test_the_operator_of_a_convolution_computes_all_that_it_has_in_float32(native, nd_arrays):
    """The last step, the first one and a sum: 4096 ones, of which float16 would count 2048."""
    half = {'dtype': 'float16'}
    x, weight = mx.nd.ones((1, 2048, 1, 1), **half), mx.nd.ones((1, 4096, 1, 1), **half) / 2
    more, scale = mx.nd.ones((1, 1, 1, 1), **half) * 8, mx.nd.ones((4096,), **half)
    arguments = {'kernel': (1, 1), 'num_filter': 1, 'no_bias': True, 'act_type': 'relu'}
    inputs = [x, x, weight, scale, scale, more]
    y = mx.nd.convpool_convolution(*inputs, num_data=2, with_scale=True, with_sum=True, **arguments)
    assert y.dtype == np.float16 and y.asnumpy().tolist() == [[[[4096 + 8]]]]
    with pytest.raises(mx.base.MXNetError, match=r'prepacked=True\): arrays of dtype float16'):
        mx.nd.convpool_convolution(x, x.reshape(-1), prepacked=True, **arguments)


@pytest.mark.parametrize(
    'call',
    [
        lambda x: functional.unfold(x, 2),
        lambda x: functional.pad(x, 1),
        lambda x: functional.max_pooling_with_indices(x)[0],
        lambda x: functional.adaptive_pooling(x, 2),
        lambda x: functional.pooling(x, mode='lp'),
    ],
)
def test_functions_of_symbols_refuse_integers(call, any_dtype_backend, np_or_nd):
    class Block(gluon.HybridBlock):
        def hybrid_forward(self, F, x):
            return call(x)

    with pytest.raises(mx.base.MXNetError, match='float32, float64'):
        hybridized(Block())(numbers('int32')).asnumpy()
    assert hybridized(Block())(numbers('float64')).dtype == np.float64
    told = mx.sym.var('data', dtype='int32')
    if any_dtype_backend == 'portable':
        with pytest.raises(TypeError, match='int32 are not supported'):
            call(told)
