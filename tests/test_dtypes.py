"""float16 is stored and float32 computed; integers are pooled exactly."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

from gluon_convpool import functional, nn
from gluon_convpool.testing import (
    MODES,
    array_kind,
    assert_close,
    assert_same,
    draw,
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
