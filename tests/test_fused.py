"""The last step of a convolution: a sum and an activation inside of the operator, for inference."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from gluon_convpool import _mxnet
from gluon_convpool.testing import draw, reference

LAST_STEPS = {
    'relu': ({'act_type': 'relu'}, lambda y: np.maximum(y, 0)),
    'leaky': ({'act_type': 'leaky', 'slope': 0.3}, lambda y: np.where(y < 0, 0.3 * y, y)),
    'leaky by default': ({'act_type': 'leaky'}, lambda y: np.where(y < 0, 0.25 * y, y)),
    'relu6': ({'act_type': 'clip', 'a_min': 0, 'a_max': 0.6}, lambda y: np.clip(y, 0, 0.6)),
    'clip below': ({'act_type': 'clip', 'a_min': -0.5}, lambda y: np.maximum(y, -0.5)),
    'sigmoid': ({'act_type': 'sigmoid'}, lambda y: 1 / (1 + np.exp(-y))),
    'none': ({}, lambda y: y),
}

# Algorithm, batch, channels, size, kernel, strides, padding, dilation, groups.
CASES = [
    ('implicit_gemm', 2, (3, 7), (11, 13), 3, 1, 1, 1, 1),
    ('implicit_gemm', 1, (5, 6), (3, 3), 3, 2, 1, 1, 1),
    ('implicit_gemm', 2, (300, 70), (6, 7), 3, 1, 1, 1, 1),
    ('implicit_gemm', 2, (70, 40), (14, 14), 1, 1, 0, 1, 1),
    ('implicit_gemm', 3, (8, 6), (9, 5), 1, 2, 0, 1, 2),
    ('implicit_gemm', 1, (24, 11), (16, 50), 6, (1, 3), (0, 1), 1, 1),
    ('winograd', 2, (9, 21), (13, 22), 3, 1, 1, 1, 1),
    ('winograd', 1, (16, 16), (30, 31), 3, 1, 2, 2, 1),
    ('winograd', 2, (16, 24), (20, 20), 5, 1, 2, 1, 1),
    ('winograd', 1, (8, 16), (9, 40), (1, 7), 1, (0, 3), 1, 1),
    ('winograd', 1, (3, 16), (41, 40), 7, 2, 3, 1, 1),
    ('depthwise', 2, (5, 5), (14, 17), 3, 1, 1, 1, 5),
    ('depthwise', 2, (4, 8), (9, 9), 5, 2, 2, 1, 4),
    ('depthwise', 1, (6, 6), (7, 5), 3, 1, 1, 1, 6),
    ('depthwise', 2, (19, 19), (7, 5), 3, 1, 1, 1, 19),
    ('depthwise', 1, (16, 16), (9, 9), 5, 2, 2, 1, 16),
]


def _pair(value):
    return (value, value) if isinstance(value, int) else value


class Call:
    """One call of the operator, its inputs, and the output before the last step in float64."""

    def __init__(self, case, numpy=True, dtype='float32'):
        algorithm, batch, (inputs, outputs), size, kernel, strides, padding, dilation, groups = case
        shape = (outputs, inputs // groups, *_pair(kernel))
        self.x, self.weight, self.bias = draw(str(case), (batch, inputs, *size), shape, (outputs,))
        self.before = reference.convolution(
            self.x, self.weight, self.bias, strides, padding, dilation, groups
        )
        (self.sum,) = draw('sum of ' + str(case), self.before.shape)
        self.numpy, self.dtype = numpy, dtype
        self.attributes = {
            'kernel': _pair(kernel),
            'stride': _pair(strides),
            'pad': _pair(padding),
            'dilate': _pair(dilation),
            'num_group': groups,
            'num_filter': outputs,
            'algorithm': algorithm,
        }

    def operator(self, summed, **last_step):
        names = ('x', 'weight', 'bias') + (('sum',) if summed else ())
        module = mx.np if self.numpy else mx.nd
        arrays = [module.array(getattr(self, name), dtype=self.dtype) for name in names]
        kind = _mxnet.NP_ARRAY if self.numpy else _mxnet.ND_ARRAY
        function = _mxnet.native_operator('convolution', kind)
        attributes = {**self.attributes, **last_step}
        if summed:
            attributes['with_sum'] = True
        return arrays, lambda: function(*arrays, **attributes)

    def run(self, summed, **last_step):
        return self.operator(summed, **last_step)[1]().asnumpy()


def assert_close(actual, expected, before, rtol=1e-5):
    """Rounding is that of the sums of products, which an activation may have cut off."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * abs(before).max())


@pytest.mark.parametrize('with_sum', [False, True], ids=['alone', 'sum'])
@pytest.mark.parametrize('name', LAST_STEPS)
@pytest.mark.parametrize('case', CASES, ids=str)
def test_the_last_step_follows_the_convolution(case, name, with_sum, instruction_set, np_arrays):
    call = Call(case)
    attributes, activation = LAST_STEPS[name]
    expected = activation(call.before + call.sum if with_sum else call.before)
    assert_close(call.run(with_sum, **attributes), expected, call.before)


@pytest.mark.parametrize('name', LAST_STEPS)
@pytest.mark.parametrize('case', CASES, ids=str)
def test_float64_has_it_in_float64(case, name, native, np_arrays):
    call = Call(case, dtype='float64')
    attributes, activation = LAST_STEPS[name]
    result = call.run(True, **attributes)
    assert result.dtype == np.float64
    assert_close(result, activation(call.before + call.sum), call.before, rtol=1e-13)


@pytest.mark.parametrize('case', CASES[:1], ids=str)
def test_legacy_arrays_have_it_too(case, native, nd_arrays):
    call = Call(case, numpy=False)
    expected = np.maximum(call.before + call.sum, 0)
    assert_close(call.run(True, act_type='relu'), expected, call.before)


@pytest.mark.parametrize('case', CASES, ids=str)
def test_nan_and_infinities_of_the_sum_stay(case, native, np_arrays):
    call = Call(case)
    flat = call.sum.reshape(-1)
    flat[0], flat[1], flat[2] = np.nan, np.inf, -np.inf
    result = call.run(True, act_type='relu').reshape(-1)
    assert np.isnan(result[0]) and result[1] == np.inf and result[2] == 0
    assert np.isfinite(result[3:]).all()


def test_a_sigmoid_has_its_limits(native, np_arrays):
    call = Call(CASES[0])
    flat = call.sum.reshape(-1)
    flat[:6] = np.nan, np.inf, -np.inf, 200, -200, 0
    result = call.run(True, act_type='sigmoid').reshape(-1)
    assert np.isnan(result[0])
    np.testing.assert_array_equal(result[1:5], [1, 0, 1, 0])


def test_the_sum_is_left_as_it_was(native, np_arrays):
    call = Call(CASES[0])
    arrays, run = call.operator(True, act_type='relu')
    run().wait_to_read()
    np.testing.assert_array_equal(arrays[-1].asnumpy(), call.sum)


def test_a_sum_of_another_shape_is_refused(native, np_arrays):
    call = Call(CASES[0])
    call.sum = call.sum[:, :, :-1]
    with pytest.raises(mx.MXNetError, match=r'sum has shape \(2, 7, 10, 13\); expected .*11, 13'):
        call.run(True)


@pytest.mark.parametrize(
    'last_step, sentence',
    [
        ({'act_type': 'tanh'}, "act_type='tanh' is unknown; allowed: 'none', 'relu'"),
        ({'act_type': 'leaky', 'slope': 'steep'}, 'attribute slope=steep is not a number'),
        ({'act_type': 'clip', 'a_max': 'nan'}, 'attribute a_max=nan is not a number'),
        ({'with_sum': 'maybe'}, 'attribute with_sum=maybe is neither True nor False'),
    ],
    ids=str,
)
def test_an_unknown_last_step_is_refused(last_step, sentence, native, np_arrays):
    with pytest.raises(mx.MXNetError, match=sentence):
        Call(CASES[0]).run(False, **last_step)


@pytest.mark.parametrize('with_sum', [False, True], ids=['activation', 'sum'])
def test_it_has_no_gradient(with_sum, native, np_arrays):
    arrays, run = Call(CASES[0]).operator(with_sum, act_type='none' if with_sum else 'relu')
    arrays[0].attach_grad()
    with mx.autograd.record():
        y = run()
    with pytest.raises(mx.MXNetError, match='has no gradient; it is for inference'):
        y.backward()
        arrays[0].grad.wait_to_read()
