"""The compiled operators over one spatial axis: MXNet's own operators say what they must give."""

from __future__ import annotations

import numpy as np
import pytest

from gluon_convpool import _mxnet, functional
from gluon_convpool._mxnet import mx
from gluon_convpool.testing import assert_close

CONVOLUTIONS = [  # in channels, channels, groups, width, kernel, stride, dilation, pad
    (4, 6, 1, 33, 3, 1, 1, 1),
    (4, 6, 2, 40, 9, 2, 1, 4),
    (5, 5, 5, 31, 3, 1, 1, 1),
    (3, 7, 1, 20, 1, 1, 1, 0),
    (2, 3, 1, 50, 5, 3, 2, 6),
]


def results(function, arrays, head):
    """Output and gradients."""
    for array in arrays:
        array.attach_grad()
    with mx.autograd.record():
        y = function(*arrays)
    y.backward(head(y))
    return [y.asnumpy()] + [array.grad.asnumpy() for array in arrays]


def drawn(kind, *shapes):
    generator = np.random.RandomState(0)
    create = mx.np.array if kind == 'np' else mx.nd.array
    return [create(generator.normal(size=shape).astype('float32')) for shape in shapes]


def head_like(kind):
    return lambda y: drawn(kind, y.shape)[0]


@pytest.mark.parametrize('bias', [True, False], ids=['bias', 'no bias'])
@pytest.mark.parametrize('case', CONVOLUTIONS, ids=str)
def test_convolution_is_that_of_mxnet(native, np_or_nd, case, bias):
    in_channels, channels, groups, width, kernel, stride, dilation, pad = case
    shapes = [(3, in_channels, width), (channels, in_channels // groups, kernel), (channels,)]
    arrays = drawn(np_or_nd, *shapes[: 2 + bias])
    builtin = mx.npx.convolution if np_or_nd == 'np' else mx.nd.Convolution
    expected = results(
        lambda *inputs: builtin(
            *inputs,
            kernel=(kernel,),
            stride=(stride,),
            dilate=(dilation,),
            pad=(pad,),
            num_filter=channels,
            num_group=groups,
            no_bias=not bias,
        ),
        arrays,
        head_like(np_or_nd),
    )
    actual = results(
        lambda *inputs: functional.convolution(
            *inputs, strides=stride, padding=pad, dilation=dilation, groups=groups, layout='NCW'
        ),
        arrays,
        head_like(np_or_nd),
    )
    for name, one, other in zip(('output', 'dx', 'dweight', 'dbias'), actual, expected):
        assert_close(name, one, other)


@pytest.mark.parametrize('ceil_mode', [False, True], ids=['floor', 'ceil'])
@pytest.mark.parametrize('global_pool', [False, True], ids=['windows', 'global'])
@pytest.mark.parametrize('mode', ['max', 'avg', 'sum'])
def test_pooling_is_that_of_mxnet(native, np_or_nd, mode, global_pool, ceil_mode):
    arrays = drawn(np_or_nd, (2, 3, 34))
    builtin = mx.npx.pooling if np_or_nd == 'np' else mx.nd.Pooling
    expected = results(
        lambda x: builtin(
            x,
            kernel=(5,),
            stride=(3,),
            pad=(2,),
            pool_type=mode,
            global_pool=global_pool,
            pooling_convention='full' if ceil_mode else 'valid',
        ),
        arrays,
        head_like(np_or_nd),
    )
    actual = results(
        lambda x: functional.pooling(
            x, 5, 3, 2, mode, ceil_mode, global_pool=global_pool, layout='NCW'
        ),
        arrays,
        head_like(np_or_nd),
    )
    for name, one, other in zip(('output', 'gradient'), actual, expected):
        assert_close(name, one, other)


@pytest.mark.parametrize(
    'attributes, words',
    [
        ({'layout': 'NCHW'}, ['layout NCHW', '4 axes']),
        ({'layout': 'NCWH'}, ["layout='NCWH'", "'NCW'"]),
        ({'kernel': (3, 3)}, ['(3, 3)', 'tuple of 1']),
        ({'kernel': (9,)}, ['(9,)', 'must fit']),
        ({'stride': (0,)}, ['strides', '(0,)']),
    ],
    ids=str,
)
def test_a_mistake_is_refused_with_a_sentence(native, np_or_nd, attributes, words):
    given = {'kernel': (3,), 'layout': 'NCW', **attributes}
    if attributes == {'layout': 'NCHW'}:
        given['kernel'] = (3, 3)
    x, weight = drawn(np_or_nd, (1, 2, 7), (4, 2) + given['kernel'])
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
