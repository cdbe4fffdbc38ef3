"""Adaptive pooling: windows from floor(i * n / m) to ceil((i + 1) * n / m), by loops in NumPy."""

from __future__ import annotations

import itertools
import math

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

from gluon_convpool import functional, geometry, nn, use_backend
from gluon_convpool.testing import (
    MODES,
    array_kind,
    assert_close,
    assert_gradients_numeric,
    assert_same,
    draw,
    empty_arrays,
    measure,
)

# data, output
SIZES = [
    ((7,), (3,)),
    ((5,), (5,)),
    ((3,), (7,)),
    ((8, 9), (1, 4)),
    ((6, 7), (4, 2)),
    ((4, 5, 6), (2, 3, 4)),
]


def loops(x, head, out, mode):
    """Output and gradient in float64."""
    x, head = x.astype('float64'), head.astype('float64')
    y, dx = np.zeros(x.shape[:2] + out), np.zeros_like(x)
    for at in itertools.product(*map(range, out)):
        window = tuple(
            slice(i * n // m, -(-(i + 1) * n // m)) for i, n, m in zip(at, x.shape[2:], out)
        )
        where = (slice(None), slice(None), *window)
        part, dy = x[where], head[(slice(None), slice(None), *at)]
        flat = part.reshape(*x.shape[:2], math.prod(part.shape[2:]))
        share = np.zeros_like(flat)
        if mode == 'avg':
            y[(..., *at)] = flat.mean(axis=-1)
            share += (dy / flat.shape[-1])[..., None]
        else:
            y[(..., *at)] = flat.max(axis=-1)
            np.put_along_axis(share, flat.argmax(axis=-1)[..., None], dy[..., None], axis=-1)
        dx[where] += share.reshape(part.shape)
    return {'output': y, 'x': dx}


@pytest.mark.parametrize('layout', ['first', 'last'])
@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('size, out', SIZES)
def test_output_and_gradient(size, out, mode, layout, np_or_nd):
    x, head = draw('adaptive', (2, 3, *size), (2, 3, *out))
    expected = loops(x, head, out, mode)
    move = np.asarray if layout == 'first' else lambda value: np.moveaxis(value, 1, -1)
    expected = {name: move(value) for name, value in expected.items()}
    name = geometry.LAYOUTS[len(size)][layout == 'last']
    for run, (dtype, rtol) in itertools.product(MODES, (('float32', 1e-6), ('float64', 1e-13))):
        layer = getattr(nn, f'Adaptive{mode.title()}Pool{len(size)}D')(out, layout=name)
        found = measure(layer, move(x).astype(dtype), move(head).astype(dtype), run)
        assert found['output'].dtype == dtype
        assert_same(found, expected, rtol)
    y = functional.adaptive_pooling(array_kind().array(move(x)), out, mode, name)
    assert_close('output', y.asnumpy(), expected['output'])


@pytest.mark.parametrize('count', range(1, 24))
def test_windows_of_every_size_begin_and_end_where_they_must(count, np_arrays):
    for n in (1, 2, 3, 5, 8, 13, 21, 100, 333):
        x = np.arange(n, dtype='float32').reshape(1, 1, n)
        found = functional.adaptive_pooling(mx.np.array(x), count, 'max', 'NCW').asnumpy()
        assert found.ravel().tolist() == [-(-(i + 1) * n // count) - 1 for i in range(count)]
        found = functional.adaptive_pooling(mx.np.array(-x), count, 'max', 'NCW').asnumpy()
        assert (-found).ravel().tolist() == [i * n // count for i in range(count)]


def test_windows_of_an_axis_too_long_for_float32(np_arrays):
    """Numbers of elements times numbers of windows, beyond 2**24."""
    n, m = 44101, 3000
    (x,) = draw('recording', (1, 1, n))
    windows = [x[0, 0, i * n // m : -(-(i + 1) * n // m)].astype('float64') for i in range(m)]
    for mode in ('avg', 'max'):
        y = functional.adaptive_pooling(mx.np.array(x), m, mode, 'NCW').asnumpy()
        expected = [window.mean() if mode == 'avg' else window.max() for window in windows]
        assert_close(mode, y.ravel(), np.array(expected), 1e-6)


def test_one_element_is_global_pooling_and_all_are_the_data(np_or_nd):
    x = array_kind().array(draw('ends', (2, 3, 5, 7))[0])
    for ours, whole in (
        (nn.AdaptiveAvgPool2D, nn.GlobalAvgPool2D),
        (nn.AdaptiveMaxPool2D, nn.GlobalMaxPool2D),
    ):
        assert_close('output', ours()(x).asnumpy(), whole()(x).asnumpy(), 1e-6)
        assert_close('output', ours((5, 7))(x).asnumpy(), x.asnumpy(), 0)


def test_average_matches_the_builtin_operator(nd_arrays):
    x = mx.nd.array(draw('contrib', (2, 3, 7, 9))[0])
    expected = mx.nd.contrib.AdaptiveAvgPooling2D(x, output_size=(3, 4))
    assert_close('output', nn.AdaptiveAvgPool2D((3, 4))(x).asnumpy(), expected.asnumpy())


@pytest.mark.parametrize('higher_order', [False, True])
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_windows(value, higher_order, np_or_nd):
    """Windows of 7 elements in 3: 0 to 2, 2 to 4, 4 to 6; and all at once."""
    for place in range(7):
        x = np.arange(7, dtype='float32').reshape(1, 1, 7)
        x[0, 0, place] = value
        for m, windows in ((3, [x[..., i : i + 3] for i in (0, 2, 4)]), (1, [x])):
            with use_backend('portable', higher_order=higher_order):
                for layer, of in ((nn.AdaptiveAvgPool1D, np.mean), (nn.AdaptiveMaxPool1D, np.max)):
                    y = layer(m)(array_kind().array(x)).asnumpy()
                    np.testing.assert_array_equal(y.ravel(), [of(window) for window in windows])


def test_both_infinities_in_one_window(np_or_nd):
    x = array_kind().array([[[np.inf, -np.inf, 1, np.inf, 2, 3]]])
    y = nn.AdaptiveAvgPool1D(3)(x).asnumpy()
    np.testing.assert_array_equal(y, [[[np.nan, np.inf, 2.5]]])


@pytest.mark.parametrize('layer', [nn.AdaptiveAvgPool2D, nn.AdaptiveMaxPool2D])
def test_float16_gradients_and_empty_batches(layer, np_or_nd):
    (x,) = draw('several', (2, 2, 5, 6))
    assert assert_gradients_numeric(layer((2, 4)), x) == 'float64'
    half = layer((2, 4))(array_kind().array(x, dtype='float16')).asnumpy()
    assert half.dtype == 'float16'
    assert_close('half', half, layer((2, 4))(array_kind().array(x)).asnumpy(), 1e-3)
    with empty_arrays(True):
        for mode in MODES:
            found = measure(layer((2, 4)), x[:0], np.zeros((0, 2, 2, 4), 'float32'), mode)
            assert found['output'].shape == (0, 2, 2, 4) and found['x'].shape == (0, 2, 5, 6)


def test_data_of_changing_sizes_in_one_graph(np_or_nd):
    net = gluon.nn.HybridSequential()
    net.add(nn.AdaptiveAvgPool2D(2), nn.AdaptiveMaxPool2D(1))
    net.hybridize()
    for size in ((4, 4), (5, 7), (2, 3)):
        x, head = draw('changing', (1, 1, *size), (1, 1, 2, 2))
        expected = loops(x, head, (2, 2), 'avg')['output'].max()
        assert_close('output', net(array_kind().array(x)).asnumpy(), [[[[expected]]]])


@pytest.mark.parametrize(
    'call, words',
    [
        (lambda x: nn.AdaptiveAvgPool2D(0), ['AdaptiveAvgPool2D', 'output_size=0', 'at least 1']),
        (lambda x: nn.AdaptiveAvgPool2D((1, 2, 3)), ['output_size=(1, 2, 3)', 'tuple of 2']),
        (lambda x: nn.AdaptiveMaxPool1D(2, layout='NCHW'), ["layout='NCHW'", "'NCW', 'NWC'"]),
        (lambda x: nn.AdaptiveMaxPool2D(2)(x[0]), ['adaptive_pooling', 'NCHW', '4 axes']),
        (lambda x: nn.AdaptiveAvgPool2D(2)(x.astype('int32')), ['adaptive_pooling', 'int32']),
        (lambda x: functional.adaptive_pooling(x, 2, 'sum'), ["mode='sum'", "'avg', 'max'"]),
    ],
)
def test_mistakes_are_named(call, words, np_or_nd):
    with pytest.raises((TypeError, ValueError)) as caught:
        call(array_kind().zeros((1, 2, 4, 4)))
    for word in words:
        assert word in str(caught.value)


def test_an_axis_of_nothing(np_arrays):
    for layer in (nn.AdaptiveAvgPool2D(2), nn.AdaptiveMaxPool2D(2)):
        with pytest.raises(ValueError, match=r'sizes \(0, 4\), but each axis must have at least 1'):
            layer(mx.np.zeros((1, 2, 0, 4)))
        net = gluon.nn.HybridSequential()
        net.add(layer)
        net.hybridize()
        with pytest.raises(mx.base.MXNetError, match='each axis must have at least 1 element'):
            net(mx.np.zeros((1, 2, 0, 4))).asnumpy()


@pytest.mark.parametrize(
    'shape, out, mode, words',
    [
        ((1, 1, 4, 4), 60000, 'avg', r'output would have shape \(1, 1, 60000, 60000\)'),
        ((1, 1, 1, 100000), (1, 40000), 'avg', r'takes an array of shape \(40000, 100000\)'),
        ((1, 2, 3, 20000), (3, 20000), 'max', r'takes an array of shape \(1, 2, 3, 20000, 20000\)'),
    ],
)
def test_more_elements_than_an_array_holds(shape, out, mode, words, np_or_nd):
    with pytest.raises(ValueError, match=f'adaptive_pooling: .*{words}, more than the 2147483647'):
        functional.adaptive_pooling(array_kind().zeros(shape), out, mode)
