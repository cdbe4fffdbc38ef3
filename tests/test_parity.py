"""The comparison itself accepts a layer that is right and rejects one that is a little wrong."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from gluon_convpool.testing import (
    BUILTIN,
    MODES,
    ConvolutionCase,
    PoolingCase,
    array_kind,
    assert_close,
    assert_layers_match,
    assert_same,
    draw,
    measure,
)

CASE = ConvolutionCase(padding=1)


class Wrong(mx.gluon.HybridBlock):
    """A convolution with one mistake."""

    def __init__(self, mistake, layer):
        super().__init__()
        self.mistake, self.layer = mistake, layer

    def hybrid_forward(self, F, x):
        y = self.layer(x)
        return getattr(self, '_' + self.mistake)(F, x, y)

    def _nothing(self, F, x, y):
        return y

    def _output_scaled(self, F, x, y):
        return y * (1 + 5e-5)

    def _output_shifted(self, F, x, y):
        return y + 1e-3

    def _gradient_scaled(self, F, x, y):
        return y * (1 + 5e-5) - F.BlockGrad(y * 5e-5)

    def _gradient_lost(self, F, x, y):
        return F.BlockGrad(y)

    def _gradient_twice(self, F, x, y):
        return y + y - F.BlockGrad(y)

    def _tap_lost(self, F, x, y):
        return F.broadcast_sub(y, F.slice_axis(x, axis=1, begin=0, end=1) * 1e-3)


def _measured(mistake, mode):
    layer = CASE.build(BUILTIN)
    head, expected = CASE.expected()
    block = Wrong(mistake, layer)
    actual = measure(block, CASE.x, head, mode)
    return {name.replace('layer.', ''): value for name, value in actual.items()}, expected


@pytest.mark.parametrize('mode', MODES)
def test_accepts_the_layer_itself(mode, nd_arrays):
    assert_same(*_measured('nothing', mode))


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize(
    'mistake, where',
    [
        ('output_scaled', 'output'),
        ('output_shifted', 'output'),
        ('gradient_scaled', 'x|weight|bias'),
        ('gradient_lost', 'x|weight|bias'),
        ('gradient_twice', 'x|weight|bias'),
        ('tap_lost', 'output'),
    ],
)
def test_rejects_a_layer_with_a_mistake(mistake, where, mode, nd_arrays):
    with pytest.raises(AssertionError, match=where):
        assert_same(*_measured(mistake, mode))


@pytest.mark.parametrize(
    'actual, expected',
    [
        ([1.0, 2.0], [1.0, 2.0001]),
        ([1.0, np.nan], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, np.nan]),
        ([np.inf, 2.0], [-np.inf, 2.0]),
        ([np.inf, 2.0], [1.0, 2.0]),
        ([3e38, 2.0], [np.inf, 2.0]),
        ([1e-30, 0.0], [0.0, 0.0]),
        ([[1.0, 2.0]], [1.0, 2.0]),
        ([], [1.0]),
    ],
    ids=str,
)
def test_rejects_arrays_that_differ(actual, expected):
    with pytest.raises(AssertionError):
        assert_close('array', actual, expected)


@pytest.mark.parametrize(
    'array', [[1.0, 2.0], [np.nan, np.inf, -np.inf, 3.0], [np.nan], [0.0, 0.0], []], ids=str
)
def test_accepts_arrays_that_are_equal(array):
    assert_close('array', array, array)
    assert_close('array', np.float32(array), array)


def test_rejects_a_missing_gradient():
    with pytest.raises(AssertionError):
        assert_same({'output': np.ones(1)}, {'output': np.ones(1), 'x': np.ones(1)})


def test_rejects_another_layer(np_or_nd):
    (x,) = draw('another layer', (2, 3, 6, 6))
    one, other = nn.Conv2D(4, 3, padding=1), nn.Conv2D(4, 3, padding=1, activation='relu')
    one.initialize(mx.init.Normal(1))
    other.initialize()
    with pytest.raises(AssertionError, match='output'):
        assert_layers_match(other, one, x)
    with pytest.raises(AssertionError, match='output'):
        assert_layers_match(nn.MaxPool2D(2, ceil_mode=True), nn.AvgPool2D(2), x)


def test_every_case_draws_arrays_of_its_own():
    one, other = PoolingCase().x, PoolingCase(mode='avg').arrays()['x']
    assert one.shape == other.shape and not np.array_equal(one, other)


def test_array_kind_follows_the_semantics_in_force(np_or_nd):
    assert array_kind() is getattr(mx, np_or_nd)
