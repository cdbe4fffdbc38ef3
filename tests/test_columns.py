"""Windows as columns: unfold, fold, and that one is the adjoint of the other."""

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
    ((9,), {'kernel_size': 3}),
    ((9,), {'kernel_size': 4, 'strides': 3, 'padding': 2}),
    ((7, 8), {'kernel_size': 1}),
    ((7, 8), {'kernel_size': (3, 2), 'strides': (2, 1), 'padding': (1, 0)}),
    ((8, 9), {'kernel_size': 3, 'dilation': (1, 2), 'strides': 2, 'padding': 2}),
    ((7, 7), {'kernel_size': 2, 'strides': 3}),
    ((4, 5, 6), {'kernel_size': (2, 1, 3), 'strides': (1, 2, 2), 'padding': 1}),
]


def columns_of(x, kernel_size, strides=1, padding=0, dilation=1):
    """Read window by window in NumPy."""
    ndim = x.ndim - 2
    kernel, stride, pad, dilate = (
        reference.per_axis(value, ndim) for value in (kernel_size, strides, padding, dilation)
    )
    wide = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in pad)))
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilate)]
    starts = [range(0, n - r + 1, s) for n, r, s in zip(wide.shape[2:], reach, stride)]
    found = []
    for start in itertools.product(*starts):
        window = tuple(slice(b, b + r, d) for b, r, d in zip(start, reach, dilate))
        found.append(wide[(slice(None), slice(None), *window)].reshape(x.shape[0], -1))
    return np.stack(found, axis=-1)


@pytest.mark.parametrize('dtype', ['float32', 'float64', 'float16'])
@pytest.mark.parametrize('size, window', CASES, ids=str)
def test_every_window_is_a_column(size, window, dtype, np_or_nd):
    x = draw('columns', (2, 3, *size))[0].astype(dtype)
    layout = geometry.LAYOUTS[len(size)][0]
    found = functional.unfold(array_kind().array(x, dtype=dtype), layout=layout, **window)
    assert found.asnumpy().dtype == dtype
    np.testing.assert_array_equal(found.asnumpy(), columns_of(x, **window))


@pytest.mark.parametrize('size, window', CASES, ids=str)
def test_fold_is_the_adjoint_of_unfold(size, window, np_or_nd):
    """So the gradient of each is the other."""
    layout = geometry.LAYOUTS[len(size)][0]
    kind = array_kind()
    (x,) = draw('adjoint', (2, 3, *size))
    columns = columns_of(x, **window)
    y = draw('their head', columns.shape)[0].astype('float64')
    x, y = (kind.array(value, dtype='float64') for value in (x, y))
    x.attach_grad()
    with autograd.record():
        found = functional.unfold(x, layout=layout, **window)
    found.backward(y)
    folded = functional.fold(y, size, layout=layout, **window)
    assert_close('gradient of unfold', x.grad.asnumpy(), folded.asnumpy(), 1e-13)
    one, other = (found.asnumpy() * y.asnumpy()).sum(), (x.asnumpy() * folded.asnumpy()).sum()
    assert abs(one - other) < 1e-12 * np.abs(columns).sum()
    y.attach_grad()
    with autograd.record():
        folded = functional.fold(y, size, layout=layout, **window)
    folded.backward(x)
    assert_close('gradient of fold', y.grad.asnumpy(), found.asnumpy(), 1e-13)


def test_a_convolution_is_a_product_with_columns(np_arrays):
    x, weight = draw('product', (2, 3, 7, 8), (4, 3, 3, 2))
    columns = functional.unfold(mx.np.array(x), (3, 2), 2, 1).asnumpy()
    product = np.einsum('or,nrl->nol', weight.reshape(4, -1), columns)
    expected = reference.convolution(x, weight, strides=2, padding=1)
    assert_close('product', product.reshape(expected.shape), expected)


def test_how_often_an_element_is_in_a_window(np_or_nd):
    """Columns of ones, folded, count."""
    ones = array_kind().ones((1, 2, 3))
    assert functional.fold(ones, 4, 2, layout='NCW').asnumpy().tolist() == [[[1, 2, 2, 1]]]
    ones = array_kind().ones((1, 4, 4))
    y = functional.fold(ones, (5, 4), 2, 2)
    assert y.asnumpy().tolist() == [[[[1] * 4] * 4 + [[0] * 4]]]


@pytest.mark.parametrize('padding', ['same', ((2, 1), (0, 3))])
def test_unfold_pads_as_a_convolution_does(padding, np_or_nd):
    (x,) = draw('padded', (1, 2, 5, 6))
    pairs = ((0, 1), (1, 1)) if padding == 'same' else padding
    wide = np.pad(x, ((0, 0), (0, 0), *pairs))
    found = functional.unfold(array_kind().array(x), (2, 3), padding=padding)
    np.testing.assert_array_equal(found.asnumpy(), columns_of(wide, (2, 3)))


class There(gluon.HybridBlock):
    def hybrid_forward(self, F, x):
        columns = functional.unfold(x, 3, strides=2, padding=1)
        return functional.fold(columns * columns, (6, 7), 3, strides=2, padding=1)


def test_in_a_graph_with_gradients(np_or_nd):
    (x,) = draw('graph', (2, 3, 6, 7))
    block = There()
    expected = block(array_kind().array(x)).asnumpy()
    block.hybridize()
    assert_close('graph', block(array_kind().array(x)).asnumpy(), expected)
    assert assert_gradients_numeric(There(), x) == 'float64'


def test_an_empty_batch(np_or_nd):
    with empty_arrays(True):
        x = array_kind().zeros((0, 3, 6, 7))
        columns = functional.unfold(x, 3)
        assert columns.shape == (0, 27, 20)
        assert functional.fold(columns, (6, 7), 3).shape == (0, 3, 6, 7)


@pytest.mark.parametrize(
    'call, words',
    [
        (lambda a: functional.unfold(a.zeros((1, 2, 3, 3)), 4), ['unfold', '(4, 4)', '(3, 3)']),
        (lambda a: functional.unfold(a.zeros((1, 2, 3)), 2), ['unfold', '(1, 2, 3)', 'NCHW']),
        (
            lambda a: functional.unfold(a.zeros((1, 3, 3, 2)), 2, layout='NHWC'),
            ["layout='NHWC'", "'NCHW'"],
        ),
        (lambda a: functional.unfold(a.zeros((1, 2, 4, 4), dtype='int32'), 2), ['int32']),
        (lambda a: functional.fold(a.zeros((1, 8, 5)), 3, 2), ['fold', 'has 4 windows', 'with 5']),
        (lambda a: functional.fold(a.zeros((1, 7, 4)), 3, 2), ['fold', '(1, 7, 4)', 'the 4 ele']),
        (lambda a: functional.fold(a.zeros((1, 8, 2, 2)), 3, 2), ['fold', '(1, 8, 2, 2)']),
        (lambda a: functional.fold(a.zeros((1, 8, 4)), 1, 2), ['fold', 'the window must fit']),
        (lambda a: functional.fold(a.zeros((1, 8, 4)), 3, 2, padding='same'), ["'same'"]),
        (lambda a: functional.fold([1], 3, 2), ['fold', 'x must be an array']),
    ],
)
def test_mistakes_are_named(call, words, np_or_nd):
    with pytest.raises((TypeError, ValueError)) as caught:
        call(array_kind())
    for word in words:
        assert word in str(caught.value)


def graph_of(call):
    class Block(gluon.HybridBlock):
        def hybrid_forward(self, F, x):
            return call(x)

    block = Block()
    block.hybridize()
    return block


def test_columns_are_data_of_other_functions_in_a_graph(np_or_nd):
    """Whose checks in a graph look at them through several views."""
    x = array_kind().array(draw('columns', (2, 3, 9, 8))[0])

    def chain(x):
        return functional.adaptive_pooling(functional.unfold(x, 2), 3, layout='NCW')

    found = graph_of(chain)(x).asnumpy()
    np.testing.assert_array_equal(found, chain(x).asnumpy())


@pytest.mark.parametrize(
    'shape, words',
    [
        ((1, 8, 5), ['output_size=(3, 3) has 4 windows', 'x has shape']),
        ((1, 7, 4), ['x has shape', 'channels times the 4 elements of a window']),
        ((1, 8, 2, 2), ['x has shape', 'channels times the 4 elements of a window']),
        ((8, 4), ['x has shape', 'channels times the 4 elements of a window']),
    ],
)
def test_columns_that_do_not_fit_in_a_graph(shape, words, np_or_nd):
    block = graph_of(lambda x: functional.fold(x, 3, 2))
    with pytest.raises(mx.base.MXNetError) as caught:
        block(array_kind().zeros(shape)).asnumpy()
    for word in ['fold: ', *words]:
        assert word in str(caught.value)
    assert block(array_kind().zeros((2, 12, 4))).shape == (2, 3, 3, 3)


def test_more_columns_or_elements_than_an_array_holds(np_or_nd):
    ones = array_kind().ones
    for call, shape in (
        (lambda: functional.fold(ones((1, 1, 1)), 50000, 1, strides=50000), '(1, 1, 50000, 50000)'),
        (lambda: functional.fold(ones((2, 3, 1)), 30000, 1, strides=30000), '(2, 3, 30000, 30000)'),
        (lambda: functional.unfold(ones((1, 1, 1, 100000)), (1, 50000)), '(1, 50000, 50001)'),
    ):
        with pytest.raises(ValueError, match=f'shape {re.escape(shape)}, more than the 2147483647'):
            call()


def test_strides_far_larger_than_the_window(np_or_nd):
    """Without an array for each of 999 * 999 places between the windows."""
    x = array_kind().array([[[1, 2, 3, 4]]])
    y = functional.fold(x, 1000, 1, strides=999).asnumpy()
    assert y.shape == (1, 1, 1000, 1000) and (y != 0).sum() == 4
    assert y[0, 0, ::999, ::999].tolist() == [[1, 2], [3, 4]]
