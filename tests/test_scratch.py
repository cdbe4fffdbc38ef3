"""The textbook: loops that a beginner reads, and the trainable block over them."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

import gluon_convpool
from gluon_convpool import scratch
from gluon_convpool.testing import array_kind, assert_close, draw, reference

CORR2D = [gluon_convpool.corr2d, scratch.corr2d]
POOL2D = [gluon_convpool.pool2d, scratch.pool2d]
by_module = {'ids': lambda function: function.__module__.rsplit('.', 1)[1]}


@pytest.mark.parametrize('corr2d', CORR2D, **by_module)
@pytest.mark.parametrize('kernel', [(1, 1), (2, 2), (3, 2), (1, 5), (6, 7)])
def test_corr2d_of_matrices(kernel, corr2d, any_backend, np_or_nd):
    x, k = draw('corr2d', (6, 7), kernel)
    y = corr2d(array_kind().array(x), array_kind().array(k))
    assert_close('output', y.asnumpy(), reference.convolution(x[None, None], k[None, None])[0, 0])


@pytest.mark.parametrize('pool2d', POOL2D, **by_module)
@pytest.mark.parametrize('mode', ['max', 'avg'])
@pytest.mark.parametrize('size', [(1, 1), (2, 2), (3, 2), (6, 7)])
def test_pool2d_of_matrices(size, mode, pool2d, any_backend, np_or_nd):
    (x,) = draw('pool2d', (6, 7))
    y = pool2d(array_kind().array(x), size, mode)
    expected = reference.pooling(x[None, None], size, strides=1, mode=mode)[0, 0]
    assert_close('output', y.asnumpy(), expected)


def test_corr2d_of_channels_and_batches(any_backend, np_or_nd):
    x, k = draw('corr2d of channels', (2, 3, 8, 9), (4, 3, 3, 2))
    window = {'strides': (2, 1), 'padding': (1, 0)}
    expected = reference.convolution(x, k, **window)

    def corr2d(x, k):
        return gluon_convpool.corr2d(array_kind().array(x), array_kind().array(k), **window)

    assert_close('batch', corr2d(x, k).asnumpy(), expected)
    assert_close('one image', corr2d(x[1], k).asnumpy(), expected[1])
    assert_close('one kernel', corr2d(x, k[2]).asnumpy(), expected[:, 2])
    assert_close('one of each', corr2d(x[1], k[2]).asnumpy(), expected[1, 2])
    each = np.stack(
        [reference.convolution(x[:, i : i + 1], k[:1, :1], **window) for i in range(3)], 1
    )
    assert_close('every matrix alone', corr2d(x, k[0, 0]).asnumpy(), each[:, :, 0])


def test_pool2d_of_channels_and_batches(any_backend, np_or_nd):
    (x,) = draw('pool2d of channels', (2, 3, 8, 9))
    window = {'strides': (2, 1), 'padding': (1, 0)}
    for mode in ('max', 'avg', 'sum'):
        expected = reference.pooling(x, (3, 2), mode=mode, **window)
        for values, result in ((x, expected), (x[1], expected[1]), (x[1, 2], expected[1, 2])):
            y = gluon_convpool.pool2d(array_kind().array(values), (3, 2), mode=mode, **window)
            assert_close(mode, y.asnumpy(), result)


def test_functions_are_differentiable(any_backend, np_or_nd):
    x, k = draw('differentiable', (5, 6), (2, 3))
    head = draw('head', (4, 4))[0]
    dx, dk, _ = reference.convolution_gradients(head[None, None], x[None, None], k[None, None])
    for corr2d in CORR2D:
        inputs = [array_kind().array(value) for value in (x, k)]
        for array in inputs:
            array.attach_grad()
        with autograd.record():
            y = corr2d(*inputs)
        y.backward(array_kind().array(head))
        assert_close('x', inputs[0].grad.asnumpy(), dx[0, 0])
        assert_close('k', inputs[1].grad.asnumpy(), dk[0, 0])


def test_the_documents_block_has_its_parameters(np_or_nd):
    layer = scratch.Conv2D((2, 3))
    assert layer.weight.shape == (2, 3) and layer.bias.shape == (1,)
    assert list(layer._collect_params_with_prefix()) == ['weight', 'bias']


def test_the_documents_block_learns_an_edge_detector(np_or_nd):
    """Six by eight pixels, white outside and black inside; the kernel to find is (1, -1)."""
    x = np.ones((6, 8), 'float32')
    x[:, 2:6] = 0
    target = reference.convolution(x[None, None], np.array([[[[1.0, -1.0]]]]))[0, 0]
    layer = scratch.Conv2D((1, 2))
    layer.initialize(mx.init.Normal(0.1))
    trainer = gluon.Trainer(layer.collect_params(), 'sgd', {'learning_rate': 0.01})
    for _ in range(60):
        with autograd.record():
            error = layer(array_kind().array(x)) - array_kind().array(target.astype('float32'))
            loss = (error * error).sum()
        loss.backward()
        trainer.step(1)
    assert_close('kernel', layer.weight.data().asnumpy(), [[1, -1]], rtol=0.05)


def test_loops_take_numpy_arrays_too():
    x, k = np.arange(9.0).reshape(3, 3), np.arange(4.0).reshape(2, 2)
    assert np.asarray(scratch.corr2d(x, k)).tolist() == [[19, 25], [37, 43]]
    assert np.asarray(scratch.pool2d(x, (2, 2))).tolist() == [[4, 5], [7, 8]]


@pytest.mark.parametrize('corr2d', CORR2D, **by_module)
def test_corr2d_says_what_does_not_fit(corr2d, np_or_nd):
    x = array_kind().ones((3, 3))
    with pytest.raises(ValueError, match=r'\(4, 2\)'):
        corr2d(x, array_kind().ones((4, 2)))
    with pytest.raises(ValueError, match=r'\(3,\)'):
        corr2d(x, array_kind().ones((3,)))


@pytest.mark.parametrize('pool2d', POOL2D, **by_module)
def test_pool2d_says_what_does_not_fit(pool2d, np_or_nd):
    x = array_kind().ones((3, 3))
    with pytest.raises(ValueError, match=r'\(4, 2\)'):
        pool2d(x, (4, 2))
    with pytest.raises(ValueError, match=r"'median'.*'max'"):
        pool2d(x, (2, 2), 'median')
    with pytest.raises((ValueError, TypeError), match=r'pool_size=\(2,\)'):
        pool2d(x, (2,))
