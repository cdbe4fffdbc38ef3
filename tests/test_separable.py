"""Depthwise and separable layers are convolutions with groups, and say so to all tools."""

from __future__ import annotations

import numpy as np
import pytest
from mxnet import gluon

import gluon_convpool
from gluon_convpool import nn
from gluon_convpool.testing import (
    MODES,
    array_kind,
    assert_layers_match,
    assert_same,
    draw,
    measure,
    reference,
)


@pytest.mark.parametrize('multiplier', [1, 3])
def test_depthwise_is_a_convolution_of_each_channel(multiplier, any_dtype_backend, np_or_nd):
    (x,) = draw('depthwise', (2, 4, 7, 8))
    assert_layers_match(
        nn.DepthwiseConv2D(4, 3, 2, 1, multiplier=multiplier, activation='relu'),
        gluon.nn.Conv2D(4 * multiplier, 3, 2, 1, groups=4, activation='relu', in_channels=4),
        x,
    )


@pytest.mark.parametrize('layout', ['NCHW', 'NHWC'])
def test_separable_is_a_depthwise_and_a_pointwise_one(layout, any_dtype_backend, np_or_nd):
    x, depth, point, bias = draw('two', (2, 3, 6, 7), (6, 1, 3, 3), (5, 6, 1, 1), (5,))
    middle = reference.convolution(x, depth, strides=2, padding=1, groups=3)
    y = reference.convolution(middle, point, bias)
    (head,) = draw('their head', y.shape)
    dmiddle, dpoint, dbias = reference.convolution_gradients(head, middle, point)
    dx, ddepth, _ = reference.convolution_gradients(
        dmiddle, x, depth, strides=2, padding=1, groups=3
    )
    move = np.asarray if layout == 'NCHW' else lambda value: np.moveaxis(value, 1, -1)
    expected = {
        'output': move(y),
        'x': move(dx),
        'depthwise.weight': move(ddepth),
        'pointwise.weight': move(dpoint),
        'pointwise.bias': dbias,
    }
    for mode in MODES:
        layer = nn.SeparableConv2D(5, 3, 3, 2, 1, multiplier=2, layout=layout)
        layer.initialize()
        layer.depthwise.weight.set_data(array_kind().array(move(depth)))
        layer.pointwise.weight.set_data(array_kind().array(move(point)))
        layer.pointwise.bias.set_data(array_kind().array(bias))
        assert_same(measure(layer, move(x), move(head), mode), expected)


def test_arguments_of_both_are_passed_on():
    layer = nn.DepthwiseConv2D(4, 3, padding='same', padding_mode='circular', dilation=2)
    assert 'padding_mode=circular' in repr(layer) and 'groups=4' in repr(layer)
    assert isinstance(layer, gluon.nn.Conv2D)
    layer = nn.SeparableConv2D(8, 4, 3, activation='relu', use_bias=False)
    assert set(layer._collect_params_with_prefix()) == {'depthwise.weight', 'pointwise.weight'}
    assert layer.pointwise.act is not None


def test_a_depthwise_layer_goes_back_to_the_builtin_one(np_or_nd):
    layer = nn.DepthwiseConv2D(4, 3)
    assert not gluon_convpool.swap(layer, to='mxnet').left and type(layer) is gluon.nn.Conv2D
    layer.initialize()
    assert layer(array_kind().ones((1, 4, 5, 5))).shape == (1, 4, 3, 3)


@pytest.mark.parametrize(
    'call, words',
    [
        (lambda: nn.DepthwiseConv2D(0, 3), ['DepthwiseConv2D', 'in_channels=0', 'at least 1']),
        (lambda: nn.DepthwiseConv2D(3.5, 3), ['in_channels=3.5', 'integer']),
        (lambda: nn.DepthwiseConv2D(3, 3, multiplier=0), ['multiplier=0', 'at least 1']),
        (lambda: nn.DepthwiseConv2D(3, 0), ['DepthwiseConv2D', 'kernel_size=0']),
        (lambda: nn.SeparableConv2D(0, 3, 3), ['Conv2D', 'channels=0']),
        (lambda: nn.SeparableConv2D(4, 3, 3, padding_mode='x'), ["padding_mode='x'"]),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
