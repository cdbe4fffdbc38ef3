"""Where maxima stood, and putting elements back there."""

from __future__ import annotations

import itertools
import re

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

from gluon_convpool import functional, geometry
from gluon_convpool.testing import (
    array_kind,
    assert_close,
    assert_gradients_numeric,
    draw,
    empty_arrays,
    reference,
)

CASES = [
    ((9,), {'pool_size': 2}),
    ((9,), {'pool_size': 3, 'strides': 2, 'padding': 1, 'ceil_mode': True}),
    ((5,), {'pool_size': 1, 'strides': 3, 'ceil_mode': True}),
    ((7, 8), {'pool_size': 3, 'strides': 2}),
    ((7, 8), {'pool_size': (3, 2), 'strides': 1, 'padding': (1, 0)}),
    ((2, 2), {'pool_size': 3, 'strides': 1, 'padding': 1}),
    ((8, 7), {'pool_size': 2, 'strides': (3, 2), 'ceil_mode': True}),
    ((4, 5, 6), {'pool_size': (2, 3, 2), 'strides': (1, 2, 2), 'padding': (0, 1, 1)}),
]


def places_of(x, pool_size, strides=None, padding=0, ceil_mode=False):
    """By loops in NumPy: the first maximum of each window, and -1 where there is nothing."""
    ndim, sizes = x.ndim - 2, x.shape[2:]
    kernel, pad = reference.per_axis(pool_size, ndim), reference.per_axis(padding, ndim)
    stride = kernel if strides is None else reference.per_axis(strides, ndim)
    out = reference.pooling(x, pool_size, strides, padding, ceil_mode=ceil_mode).shape
    places = np.full(out, -1)
    numbers = np.arange(np.prod(sizes)).reshape(sizes)
    for at in itertools.product(*map(range, out[2:])):
        window = tuple(
            slice(max(i * s - p, 0), max(i * s - p + k, 0))
            for i, s, p, k in zip(at, stride, pad, kernel)
        )
        seen = x[(slice(None), slice(None), *window)]
        seen = seen.reshape(*x.shape[:2], -1) if seen.size else seen
        if seen.size:
            places[(..., *at)] = numbers[window].ravel()[seen.argmax(axis=-1)]
    return places


def put_back(values, places, sizes):
    out = np.zeros(values.shape[:2] + (int(np.prod(sizes)),))
    for n, c in itertools.product(*map(range, values.shape[:2])):
        known = places[n, c].ravel() >= 0
        np.add.at(out[n, c], places[n, c].ravel()[known], values[n, c].ravel()[known])
    return out.reshape(values.shape[:2] + tuple(sizes))


@pytest.mark.parametrize('dtype', ['float32', 'float64', 'float16'])
@pytest.mark.parametrize('layout', ['first', 'last'])
@pytest.mark.parametrize('size, window', CASES, ids=str)
def test_maxima_places_and_back(size, window, layout, dtype, np_or_nd):
    x = draw('places', (2, 3, *size))[0].astype(dtype)
    move = np.asarray if layout == 'first' else lambda value: np.moveaxis(value, 1, -1)
    name = geometry.LAYOUTS[len(size)][layout == 'last']
    array = array_kind().array(move(x), dtype=dtype)
    maxima, indices = functional.max_pooling_with_indices(array, layout=name, **window)
    assert maxima.asnumpy().dtype == dtype and indices.asnumpy().dtype == 'int32'
    places = places_of(x, **window)
    np.testing.assert_array_equal(maxima.asnumpy(), move(reference.pooling(x, **window)))
    np.testing.assert_array_equal(indices.asnumpy(), move(places))
    values = draw('values', places.shape)[0].astype(dtype)
    back = functional.max_unpooling(
        array_kind().array(move(values), dtype=dtype), indices, size, layout=name, **window
    )
    assert back.asnumpy().dtype == dtype
    expected = move(put_back(values.astype('float64'), places, size))
    assert_close('unpooled', back.asnumpy(), expected, 2e-3 if dtype == 'float16' else 1e-6)


@pytest.mark.parametrize('size, window', CASES, ids=str)
def test_each_is_the_gradient_of_the_other(size, window, np_or_nd):
    layout, kind = geometry.LAYOUTS[len(size)][0], array_kind()
    x = kind.array(draw('adjoint', (2, 3, *size))[0], dtype='float64')
    x.attach_grad()
    with autograd.record():
        maxima, indices = functional.max_pooling_with_indices(x, layout=layout, **window)
    y = kind.array(draw('heads', maxima.shape)[0], dtype='float64')
    maxima.backward(y)
    maxima, indices = maxima.detach(), indices.detach()
    y.attach_grad()
    with autograd.record():
        back = functional.max_unpooling(y, indices, size, layout=layout, **window)
    assert_close('gradient of pooling', x.grad.asnumpy(), back.asnumpy(), 1e-13)
    back.backward(x)
    inside = indices.asnumpy() >= 0
    expected = np.where(inside, maxima.asnumpy(), 0)
    assert_close('gradient of unpooling', y.grad.asnumpy(), expected, 1e-13)


class There(gluon.HybridBlock):
    def hybrid_forward(self, F, x):
        maxima, indices = functional.max_pooling_with_indices(x, 3, 2, 1)
        return functional.max_unpooling(maxima * maxima, indices, (6, 7), 3, 2, 1)


def test_in_a_graph_with_gradients(np_or_nd):
    (x,) = draw('graph', (2, 3, 6, 7))
    expected = There()(array_kind().array(x)).asnumpy()
    block = There()
    block.hybridize()
    assert_close('graph', block(array_kind().array(x)).asnumpy(), expected)
    assert assert_gradients_numeric(There(), x) == 'float64'


def test_nan_and_infinities(np_or_nd):
    x = np.array([[[1, np.nan, 2, 3, -np.inf, -np.inf, np.nan, np.nan]]], 'float32')
    maxima, indices = functional.max_pooling_with_indices(array_kind().array(x), 2, layout='NCW')
    np.testing.assert_array_equal(maxima.asnumpy(), [[[np.nan, 3, -np.inf, np.nan]]])
    assert indices.asnumpy().tolist() == [[[1, 3, 4, 6]]]
    low = array_kind().array(np.full((1, 1, 2), -np.inf, 'float32'))
    _, indices = functional.max_pooling_with_indices(low, 2, 1, 1, layout='NCW')
    assert indices.asnumpy().tolist() == [[[0, 0, 1]]]


def test_an_empty_batch(np_or_nd):
    with empty_arrays(True):
        x = array_kind().zeros((0, 3, 6, 6))
        maxima, indices = functional.max_pooling_with_indices(x)
        assert maxima.shape == indices.shape == (0, 3, 3, 3)
        assert functional.max_unpooling(maxima, indices, 6).shape == (0, 3, 6, 6)


@pytest.mark.parametrize(
    'call, words',
    [
        (lambda x, i: functional.max_pooling_with_indices(x, 5), ['(5, 5)', '(3, 3)', 'fit']),
        (lambda x, i: functional.max_pooling_with_indices(x, 0), ['pool_size=0']),
        (lambda x, i: functional.max_pooling_with_indices(i), ['int32', 'float32']),
        (lambda x, i: functional.max_unpooling(x, i, 5), ['output_size=(5, 5)', '(2, 2)']),
        (lambda x, i: functional.max_unpooling(x, i[:, :1], 6), ['indices', '(1, 1, 3, 3)']),
        (lambda x, i: functional.max_unpooling(x, x, 6), ['indices', 'float32', 'int32']),
        (lambda x, i: functional.max_unpooling(x, i, 0), ['output_size=0']),
        (lambda x, i: functional.max_unpooling(x, [0], 6), ['indices must be an array']),
    ],
)
def test_mistakes_are_named(call, words, np_arrays):
    x, indices = (array_kind().zeros((1, 2, 3, 3), dtype=dtype) for dtype in ('float32', 'int32'))
    with pytest.raises((TypeError, ValueError)) as caught:
        call(x, indices)
    for word in words:
        assert word in str(caught.value)


class Back(gluon.HybridBlock):
    def hybrid_forward(self, F, x, indices):
        return functional.max_unpooling(x, indices, (6, 7), 2, layout='NCHW')


@pytest.mark.parametrize(
    'shape, of_indices, dtype, words',
    [
        ((1, 2, 4, 3), (1, 2, 4, 3), 'int32', ['output_size=(6, 7) is pooled to (3, 3), but x']),
        ((1, 2, 3, 4), (1, 2, 3, 4), 'int32', ['output_size=(6, 7) is pooled to (3, 3), but x']),
        ((2, 3, 3), (2, 3, 3), 'int32', ['layout NCHW needs 4 axes']),
        ((1, 2, 3, 3), (1, 2, 3, 1), 'int32', ['indices have shape', 'expected that of x']),
        ((1, 2, 3, 3), (1, 1, 3, 3), 'int32', ['indices have shape', 'expected that of x']),
        ((2, 2, 3, 3), (1, 2, 3, 3), 'int32', ['indices have shape', 'expected that of x']),
        ((1, 2, 3, 3), (1, 2, 3, 3), 'float32', ['(indices)', 'not supported', 'int32, int64']),
    ],
)
def test_mistakes_are_named_in_a_graph(shape, of_indices, dtype, words, np_or_nd):
    block = Back()
    block.hybridize()
    with pytest.raises(mx.base.MXNetError) as caught:
        block(array_kind().ones(shape), array_kind().zeros(of_indices, dtype=dtype)).asnumpy()
    for word in ['max_unpooling', *words]:
        assert word in str(caught.value)
    for dtype in ('int32', 'int64'):
        fine = array_kind().ones((1, 2, 3, 3)), array_kind().zeros((1, 2, 3, 3), dtype=dtype)
        assert block(*fine).shape == (1, 2, 6, 7)


def test_integers_are_not_put_back_in_a_graph(np_or_nd):
    block = Back()
    block.hybridize()
    places = array_kind().zeros((1, 2, 3, 3), dtype='int32')
    with pytest.raises(mx.base.MXNetError, match=r'max_unpooling: arrays of dtype \.\.\. are not'):
        block(places, places).asnumpy()


def test_an_index_outside_of_its_window_is_left_out(np_or_nd):
    x = array_kind().array([[[1, 2, 4]]])
    for places in ([-1, 3, 100], [2, 3, -7], [5, 3, 1]):
        indices = array_kind().array([[places]], dtype='int32')
        y = functional.max_unpooling(x, indices, 6, 2, layout='NCW')
        assert y.asnumpy().tolist() == [[[0, 0, 0, 2, 0, 0]]]


def test_indices_on_another_device(np_or_nd):
    x = array_kind().ones((1, 2, 3, 3))
    indices = array_kind().zeros((1, 2, 3, 3), dtype='int32', ctx=mx.cpu(1))
    with pytest.raises(ValueError, match=r'same device, but they are on cpu\(0\), cpu\(1\)'):
        functional.max_unpooling(x, indices, 6)


def test_more_elements_than_an_array_holds(np_or_nd):
    x, indices = (array_kind().zeros((3, 1, 1, 1), dtype=one) for one in ('float32', 'int32'))
    for size, shape in ((80000, '(1, 1, 80000, 80000)'), (30000, '(3, 1, 30000, 30000)')):
        with pytest.raises(ValueError, match=f'shape {re.escape(shape)}, more than the 2147483647'):
            functional.max_unpooling(x, indices, size, size)
