"""The compiled operators over three spatial axes: MXNet's own operators say what they must give."""

from __future__ import annotations

import numpy as np
import pytest

from gluon_convpool import _mxnet, functional, nn
from gluon_convpool._mxnet import mx
from gluon_convpool.testing import assert_close, reference

CONVOLUTIONS = [  # in channels, channels, groups, size, kernel, stride, dilation, pad
    (4, 6, 1, (4, 7, 9), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    (16, 16, 1, (3, 8, 8), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    (4, 6, 2, (9, 6, 5), (3, 2, 3), (2, 1, 2), (1, 2, 1), (1, 0, 2)),
    (6, 6, 6, (4, 5, 8), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    (3, 7, 1, (4, 5, 5), (1, 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0)),
    (2, 3, 1, (8, 4, 4), (3, 1, 1), (1, 1, 1), (2, 1, 1), (2, 0, 0)),
    (3, 8, 1, (5, 12, 12), (3, 7, 7), (1, 2, 2), (1, 1, 1), (1, 3, 3)),
]


def results(function, arrays):
    """Output and gradients."""
    for array in arrays:
        array.attach_grad()
    with mx.autograd.record():
        y = function(*arrays)
    kind = 'np' if isinstance(y, mx.np.ndarray) else 'nd'
    y.backward(drawn(kind, y.shape)[0])
    return [y.asnumpy()] + [array.grad.asnumpy() for array in arrays]


def drawn(kind, *shapes):
    generator = np.random.RandomState(0)
    create = mx.np.array if kind == 'np' else mx.nd.array
    return [create(generator.normal(size=shape).astype('float32')) for shape in shapes]


@pytest.mark.parametrize('bias', [True, False], ids=['bias', 'no bias'])
@pytest.mark.parametrize('case', CONVOLUTIONS, ids=str)
def test_convolution_is_that_of_mxnet(native, np_or_nd, case, bias):
    in_channels, channels, groups, size, kernel, stride, dilation, pad = case
    shapes = [(2, in_channels) + size, (channels, in_channels // groups) + kernel, (channels,)]
    arrays = drawn(np_or_nd, *shapes[: 2 + bias])
    builtin = mx.npx.convolution if np_or_nd == 'np' else mx.nd.Convolution
    expected = results(
        lambda *inputs: builtin(
            *inputs,
            kernel=kernel,
            stride=stride,
            dilate=dilation,
            pad=pad,
            num_filter=channels,
            num_group=groups,
            no_bias=not bias,
        ),
        arrays,
    )
    actual = results(
        lambda *inputs: functional.convolution(
            *inputs, strides=stride, padding=pad, dilation=dilation, groups=groups, layout='NCDHW'
        ),
        arrays,
    )
    for name, one, other in zip(('output', 'dx', 'dweight', 'dbias'), actual, expected):
        assert_close(name, one, other)


@pytest.mark.parametrize('ceil_mode', [False, True], ids=['floor', 'ceil'])
@pytest.mark.parametrize('global_pool', [False, True], ids=['windows', 'global'])
@pytest.mark.parametrize('mode', ['max', 'avg', 'avg without padding', 'sum'])
def test_pooling_is_that_of_mxnet(native, np_or_nd, mode, global_pool, ceil_mode):
    arrays = drawn(np_or_nd, (2, 3, 6, 8, 17))
    builtin = mx.npx.pooling if np_or_nd == 'np' else mx.nd.Pooling
    mode, _, without = mode.partition(' ')
    expected = results(
        lambda x: builtin(
            x,
            kernel=(3, 2, 5),
            stride=(2, 1, 3),
            pad=(1, 0, 2),
            pool_type=mode,
            global_pool=global_pool,
            count_include_pad=not without,
            pooling_convention='full' if ceil_mode else 'valid',
        ),
        arrays,
    )
    actual = results(
        lambda x: functional.pooling(
            x,
            (3, 2, 5),
            (2, 1, 3),
            (1, 0, 2),
            mode,
            ceil_mode,
            not without,
            global_pool=global_pool,
            layout='NCDHW',
        ),
        arrays,
    )
    for name, one, other in zip(('output', 'gradient'), actual, expected):
        assert_close(name, one, other)


@pytest.mark.parametrize('algorithm', ['implicit_gemm', 'winograd'])
@pytest.mark.parametrize('channels', [5, 8])
def test_a_sum_and_an_activation_come_last(native, np_or_nd, algorithm, channels):
    """Once, when all taps of the depth are in."""
    x, weight, bias, more = drawn(
        np_or_nd, (2, 8, 4, 6, 9), (channels, 8, 3, 3, 3), (channels,), (2, channels, 4, 6, 9)
    )
    found = _mxnet.native_operator('convolution', _mxnet.kind_of(x))(
        x,
        weight,
        bias,
        more,
        kernel=(3, 3, 3),
        pad=(1, 1, 1),
        num_filter=channels,
        layout='NCDHW',
        act_type='relu',
        with_sum=True,
        algorithm=algorithm,
    ).asnumpy()
    arrays = (one.asnumpy() for one in (x, weight, bias))
    expected = reference.convolution(*arrays, padding=1) + more.asnumpy()
    assert_close('output', found, np.maximum(expected, 0))


@pytest.mark.parametrize(
    'arguments',
    [
        {'kernel_size': 4, 'strides': 2, 'padding': 1},
        {'kernel_size': 3, 'strides': (1, 2, 2), 'padding': 1, 'output_padding': (0, 1, 1)},
        {'kernel_size': (2, 3, 3), 'groups': 2, 'dilation': (1, 2, 1)},
        {'kernel_size': (3, 1, 2), 'strides': (1, 1, 2)},
    ],
    ids=str,
)
def test_a_transposed_convolution_is_the_adjoint(native, np_or_nd, arguments):
    """<convolution(x), y> = <x, transposed(y)> for every x: the gradient of the convolution."""
    y, weight = drawn(np_or_nd, (2, 6, 3, 4, 5), (6, 4 // arguments.get('groups', 1), 1, 1, 1))
    layer = nn.Conv3DTranspose(4, in_channels=6, use_bias=False, **arguments)
    layer.initialize()
    shape = layer.weight.shape
    weight = drawn(np_or_nd, shape)[0]
    layer.weight.set_data(weight)
    found = layer(y).asnumpy()
    own = {'strides': 1, 'padding': 0, 'dilation': 1, 'groups': 1, **arguments}
    expected = reference.convolution_gradients(
        y.asnumpy(),
        np.zeros(found.shape),
        weight.asnumpy(),
        own['strides'],
        own['padding'],
        own['dilation'],
        own['groups'],
    )[0]
    assert_close('output', found, expected)


@pytest.mark.parametrize(
    'attributes, words',
    [
        ({'layout': 'NCHW', 'kernel': (3, 3)}, ['layout NCHW', '4 axes']),
        ({'layout': 'NDWHC'}, ["layout='NDWHC'", "'NDHWC'"]),
        ({'kernel': (3, 3)}, ['(3, 3)', 'tuple of 3']),
        ({'kernel': (3, 9, 3)}, ['(3, 9, 3)', 'must fit']),
        ({'stride': (0, 1, 1)}, ['strides', '(0, 1, 1)']),
    ],
    ids=str,
)
def test_a_mistake_is_refused_with_a_sentence(native, np_or_nd, attributes, words):
    given = {'kernel': (3, 3, 3), 'layout': 'NCDHW', **attributes}
    x, weight = drawn(np_or_nd, (1, 2, 7, 7, 7), (4, 2) + given['kernel'])
    convolution, pooling = (
        _mxnet.native_operator(name, _mxnet.kind_of(x)) for name in ('convolution', 'pooling')
    )
    for call in (
        lambda: convolution(x, weight, num_filter=4, no_bias=True, **given).asnumpy(),
        lambda: pooling(x, **given).asnumpy(),
    ):
        with pytest.raises(Exception) as raised:
            call()
        for word in words:
            assert word in str(raised.value)
