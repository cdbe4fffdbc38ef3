"""A pointwise convolution of several arrays: joined, scaled and clipped before it reads them."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

import gluon_convpool
from gluon_convpool import _mxnet
from gluon_convpool.testing import draw, reference

# Batch, channels of the pieces, outputs, spatial size.
CASES = [
    (1, (3,), 1, (1, 1)),
    (1, (3, 5), 7, (5, 3)),
    (2, (8, 1, 7), 16, (4, 8)),
    (3, (20, 30), 70, (13, 13)),  # several panels of outputs, the last of positions not whole
    (1, (300, 1, 300), 40, (7, 7)),  # several passes over the channels
    (2, (16,) * 9, 8, (14, 14)),
    (1, (64, 32), 48, (56, 56)),  # several tasks
    (2, (5, 6), 4, (17,)),
]


def call(
    case,
    scaled=False,
    relu=False,
    bias=True,
    summed=False,
    numpy=True,
    dtype='float32',
    **attributes,
):
    """Return the operator as a function without arguments, its arrays and what is expected."""
    batch, channels, outputs, size = case
    total = sum(channels)
    pieces = draw(str(case), *((batch, one, *size) for one in channels))
    weight, offset, scale, shift = draw(
        'weights of ' + str(case),
        (outputs, total, *(1 for _ in size)),
        (outputs,),
        (total,),
        (total,),
    )
    x = np.concatenate(pieces, axis=1).astype('float64')
    inputs = [*pieces, weight]
    per_channel = (slice(None), *(None for _ in size))
    if scaled:
        x = x * scale[per_channel] + shift[per_channel]
    if relu:
        x = np.maximum(x, 0)
    if bias:
        inputs.append(offset)
    if scaled:
        inputs += [scale, shift]
    expected = reference.convolution(x, weight, offset if bias else None)
    if summed:
        (addend,) = draw('sum of ' + str(case), expected.shape)
        inputs.append(addend)
        expected = expected + addend
    module = mx.np if numpy else mx.nd
    arrays = [module.array(one, dtype=dtype) for one in inputs]
    kind = _mxnet.NP_ARRAY if numpy else _mxnet.ND_ARRAY
    function = _mxnet.native_operator('convolution', kind)
    named = {
        'kernel': (1,) * len(size),
        'num_filter': outputs,
        'num_data': len(pieces),
        'layout': 'NCHW' if len(size) == 2 else 'NCW',
        'with_scale': scaled,
        'data_act_type': 'relu' if relu else 'none',
        'no_bias': not bias,
        'with_sum': summed,
        **attributes,
    }
    return lambda: function(*arrays, **named), arrays, expected


def assert_close(actual, expected, rtol=1e-5):
    np.testing.assert_allclose(actual.asnumpy(), expected, rtol=0, atol=rtol * abs(expected).max())


@pytest.mark.parametrize('change', ['as it is', 'scaled', 'scaled and clipped'])
@pytest.mark.parametrize('case', CASES, ids=str)
def test_the_pieces_count_as_one_array(case, change, instruction_set, np_arrays):
    run, _, expected = call(case, change != 'as it is', change == 'scaled and clipped')
    assert_close(run(), expected)


@pytest.mark.parametrize('case', CASES, ids=str)
def test_float64_is_computed_in_float64(case, native, np_arrays):
    run, _, expected = call(case, True, True, dtype='float64')
    assert run().dtype == np.float64
    assert_close(run(), expected, rtol=1e-13)


@pytest.mark.parametrize('threads', [1, 2, 3])
def test_threads_change_no_bit(threads, native, np_arrays):
    run, _, _ = call(CASES[6], True, True)
    before = gluon_convpool.get_num_threads()
    gluon_convpool.set_num_threads(1)
    try:
        expected = run().asnumpy()
        gluon_convpool.set_num_threads(threads)
        np.testing.assert_array_equal(run().asnumpy(), expected)
    finally:
        gluon_convpool.set_num_threads(before)


def test_with_a_last_step_and_without_bias(native, np_arrays):
    run, _, expected = call(CASES[3], True, True, bias=False, summed=True, act_type='relu')
    assert_close(run(), np.maximum(expected, 0))


def test_legacy_arrays(native, nd_arrays):
    run, _, expected = call(CASES[2], True, True, numpy=False)
    assert_close(run(), expected)


def test_nan_and_infinities_stay(native, np_arrays):
    run, arrays, _ = call((1, (1, 1), 1, (1, 4)), True, True)
    for array, values in zip(arrays, ([np.nan, np.inf, 1, 2], [1, 1, np.nan, 2])):
        array[:] = mx.np.array(values).reshape(1, 1, 1, 4)
    for array in arrays[2:]:
        array[:] = 1
    np.testing.assert_array_equal(run().asnumpy().reshape(-1), [np.nan, np.inf, np.nan, 7])


def test_an_empty_batch(native, np_arrays):
    run, _, _ = call((0, (2, 3), 4, (5, 5)), True)
    assert run().shape == (0, 4, 5, 5)


@pytest.mark.parametrize(
    'attributes, sentence',
    [
        ({'num_data': 0}, r'num_data=0'),
        ({'stride': (2, 2)}, r'in several pieces, or scaled, is only for kernels and strides of 1'),
        ({'num_group': 4}, r'groups=4\): data in several pieces'),
        ({'pad': (1, 0)}, r'padding=\(1, 0\), groups=1\): data in several pieces'),
        ({'data_act_type': 'tanh'}, r"data_act_type='tanh' is unknown; allowed: 'none', 'relu'"),
        ({'data_act_type': 'relu'}, r"data_act_type='relu' needs with_scale=True"),
    ],
    ids=str,
)
def test_what_it_refuses(attributes, sentence, native, np_arrays):
    run, _, _ = call((2, (4, 8), 16, (4, 8)), **attributes)
    with pytest.raises(mx.MXNetError, match=sentence):
        run()


@pytest.mark.parametrize(
    'place, shape, sentence',
    [
        (1, (2, 8, 4, 7), r'a piece of data has shape \(2, 8, 4, 7\); expected .*\(2, 4, 4, 8\)'),
        (4, (11,), r'scale has shape \(11,\); expected \(12,\)'),
        (5, (1, 12), r'shift has shape \(1, 12\); expected \(12,\)'),
    ],
)
def test_shapes_that_do_not_fit(place, shape, sentence, native, np_arrays):
    run, arrays, _ = call((2, (4, 8), 16, (4, 8)), True)
    arrays[place] = mx.np.zeros(shape)
    with pytest.raises(mx.MXNetError, match=sentence):
        run()


def test_it_has_no_gradient(native, np_arrays):
    run, arrays, _ = call(CASES[1], True)
    arrays[0].attach_grad()
    with mx.autograd.record():
        y = run()
    with pytest.raises(mx.MXNetError, match='has no gradient; it is for inference'):
        y.backward()
        arrays[0].grad.wait_to_read()
