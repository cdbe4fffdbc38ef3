"""Finite differences accept the gradients that belong to an output, and no others."""

from __future__ import annotations

import re
import warnings

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn as builtin
from test_parity import CASE, Wrong

from gluon_convpool import Pool2D, nn
from gluon_convpool.testing import (
    BUILTIN,
    MODES,
    ParityError,
    PoolingCase,
    assert_gradients_numeric,
    draw,
    parameters,
)

(IMAGES,) = draw('images for finite differences', (2, 3, 6, 7))


def wrong(mistake):
    return Wrong(mistake, CASE.build(BUILTIN))


def network(*layers):
    net = builtin.HybridSequential()
    net.add(*layers)
    net.initialize(mx.init.Normal(0.5))
    return net


@pytest.mark.parametrize(
    'make',
    [
        lambda: nn.Conv2D(4, 3, padding=1, strides=2, activation='tanh'),
        lambda: builtin.Conv2D(4, 3),
        lambda: network(nn.Conv2D(4, 3, activation='relu'), nn.MaxPool2D(2), nn.Dense(3)),
        lambda: network(nn.Conv2D(4, 3), nn.BatchNorm(), nn.AvgPool2D(2)),
    ],
    ids=['ours', 'built-in', 'with kinks', 'with statistics'],
)
def test_accepts_right_gradients(make, np_or_nd):
    assert assert_gradients_numeric(make(), IMAGES) == 'float64'


@pytest.mark.parametrize('mode', ['max', 'avg', 'sum', 'lp'])
def test_accepts_our_pooling(mode, np_or_nd):
    layer = Pool2D(3, 2, 1, mode, ceil_mode=True)
    assert assert_gradients_numeric(layer, np.abs(IMAGES)) == 'float64'


def test_finds_the_gradient_of_mxnet_that_belongs_to_no_output(nd_arrays):
    """Its average pooling in ceil mode, in float32: see docs/MXNET.md."""
    case = PoolingCase('avg', size=(7, 7), ceil_mode=True)
    assert_gradients_numeric(case.build(nn), case.x, dtype='float32')
    with pytest.raises(ParityError, match=r'first at \[0, 0, 0, 6\]'):
        assert_gradients_numeric(case.build(BUILTIN), case.x, dtype='float32')


@pytest.mark.parametrize('dtype', ['float64', 'float32'])
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('mistake', ['gradient_lost', 'gradient_twice'])
def test_rejects_a_wrong_gradient(mistake, mode, dtype, nd_arrays):
    with pytest.raises(ParityError, match=f'^mode {mode!r}: x: the gradient says'):
        assert_gradients_numeric(wrong(mistake), CASE.x, modes=[mode], dtype=dtype)


def test_float64_finds_what_is_lost_in_the_rounding_of_float32(nd_arrays):
    """A gradient that is wrong by 5e-5."""
    with pytest.raises(ParityError):
        assert_gradients_numeric(wrong('gradient_scaled'), CASE.x)
    assert_gradients_numeric(wrong('gradient_scaled'), CASE.x, dtype='float32')


def test_an_output_that_is_wrong_has_a_gradient_that_belongs_to_it(nd_arrays):
    assert_gradients_numeric(wrong('output_scaled'), CASE.x)


def test_the_gradients_of_parameters_count_too(nd_arrays):
    class LostBias(BUILTIN.Conv2D):
        def hybrid_forward(self, F, x, weight, bias):
            return super().hybrid_forward(F, x, weight, F.BlockGrad(bias))

    with pytest.raises(ParityError, match=r"^mode 'imperative': bias: "):
        assert_gradients_numeric(LostBias(4, 3), IMAGES)


def test_the_message_has_the_first_index_both_values_and_the_tolerance(nd_arrays):
    """The gradient of x * x with its second half lost: 2 x is right, 0 is said."""

    class Half(builtin.HybridBlock):
        def hybrid_forward(self, F, x):
            first, second = F.split(x, num_outputs=2, axis=0)
            return F.concat(first * first, F.BlockGrad(second) * F.BlockGrad(second), dim=0)

    with pytest.raises(ParityError) as caught:
        assert_gradients_numeric(Half(), np.array([1.0, 2.0, 3.0, 4.0]))
    first = re.search(
        r'first at \[2\]: (\S+), expected (\S+) \(tolerance (\S+)\)', caught.value.explanation
    )
    said, expected, tolerance = map(float, first.groups())
    (head,) = draw('head of output', (4,))
    assert said == 0
    assert abs(expected - 6 * head[2]) < tolerance < 1e-3
    assert 'in float64 with rtol=1e-06' in caught.value.explanation


# ------------------------------------------------------------------- layers that only do float32


def test_a_layer_without_float64_is_judged_in_float32_and_says_so(np_or_nd):
    class Single(builtin.HybridBlock):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            if x.dtype != np.float32:
                raise ValueError('float64 refused')
            return self.layer(x)

    with pytest.warns(UserWarning, match='does not compute in float64.*float64 refused'):
        assert assert_gradients_numeric(Single(nn.Conv2D(4, 3, padding=1)), IMAGES) == 'float32'
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        assert_gradients_numeric(nn.MaxPool2D(2), IMAGES, dtype='float32')
    with pytest.raises(ValueError, match='float64 refused'):
        assert_gradients_numeric(Single(nn.Conv2D(4, 3)), IMAGES, dtype='float64')


def test_a_layer_that_computes_in_float32_whatever_comes_in(nd_arrays):
    class Narrow(builtin.HybridBlock):
        def hybrid_forward(self, F, x):
            return F.cast(x, 'float32') * 2

    with pytest.warns(UserWarning, match='its output is float32'):
        assert assert_gradients_numeric(Narrow(), IMAGES) == 'float32'
    with pytest.raises(ValueError, match=r"dtype='float64'\): the output of the layer is float32"):
        assert_gradients_numeric(Narrow(), IMAGES, dtype='float64')


# ------------------------------------------------------------------- what cannot be judged


def test_a_layer_that_draws_random_numbers_is_refused(np_or_nd):
    with pytest.raises(ValueError, match='another output for the same input each time'):
        assert_gradients_numeric(builtin.Dropout(0.5), IMAGES)


def test_a_kink_at_the_input_is_refused(np_or_nd):
    with pytest.raises(ValueError, match='kinks so near to x'):
        assert_gradients_numeric(builtin.Activation('relu'), np.zeros((2, 2), 'float32'))


@pytest.mark.parametrize(
    'options, sentence',
    [
        ({'dtype': 'float16'}, "dtype='float16' is unknown; allowed: 'float64', 'float32'"),
        ({'modes': ['fast']}, "modes='fast' is unknown"),
        ({'directions': 0}, 'directions=0, but every value must be at least 1'),
    ],
    ids=str,
)
def test_calls_that_make_no_sense(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        assert_gradients_numeric(nn.MaxPool2D(), IMAGES, **options)
    with pytest.raises(TypeError, match='layer must be a Gluon block, not int'):
        assert_gradients_numeric(3, IMAGES)


@pytest.mark.parametrize('right', [True, False])
def test_the_layer_is_left_as_it_was(right, nd_arrays):
    layer = wrong('nothing' if right else 'gradient_lost')
    before = {name: p.data().asnumpy() for name, p in parameters(layer).items()}
    try:
        assert_gradients_numeric(layer, CASE.x)
    except ParityError:
        assert not right
    for name, parameter in parameters(layer).items():
        assert parameter.dtype == np.float32
        np.testing.assert_array_equal(parameter.data().asnumpy(), before[name])
    assert layer(mx.nd.array(CASE.x)).dtype == np.float32
