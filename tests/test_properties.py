"""Random shapes and arguments against the float64 loops.

The numbers are small multiples of 1/4: float32 sums them without rounding, so that what differs is
an error and never bad luck.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gluon_convpool import Pool2D, nn
from gluon_convpool.testing import (
    MODES,
    TOLERANCE,
    array_kind,
    assert_same,
    empty_arrays,
    measure,
    reference,
)

pytestmark = pytest.mark.usefixtures('np_or_nd', 'any_backend')
relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

sizes = st.tuples(st.integers(1, 20), st.integers(1, 40))
batches = st.integers(0, 3)


def pairs(low, high):
    return st.one_of(
        st.integers(low, high), st.tuples(st.integers(low, high), st.integers(low, high))
    )


def quarters(seed, *shapes, low=-8):
    generator = np.random.RandomState(seed)
    return [generator.randint(low, 9, size=shape).astype('float32') / 4 for shape in shapes]


@relaxed
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=batches,
    groups=st.integers(1, 4),
    per_group=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    size=sizes,
    kernel=pairs(1, 6),
    strides=pairs(1, 4),
    padding=pairs(0, 7),
    dilation=pairs(1, 3),
    use_bias=st.booleans(),
    mode=st.sampled_from(MODES),
)
def test_convolution(
    seed, batch, groups, per_group, size, kernel, strides, padding, dilation, use_bias, mode
):
    assume(
        all(
            n + 2 * p > d * (k - 1)
            for n, p, d, k in zip(
                size,
                reference.per_axis(padding),
                reference.per_axis(dilation),
                reference.per_axis(kernel),
            )
        )
    )
    inputs, outputs = (groups * channels for channels in per_group)
    x, weight, bias = quarters(
        seed,
        (batch, inputs) + size,
        (outputs, per_group[0]) + reference.per_axis(kernel),
        (outputs,),
    )
    window = {'strides': strides, 'padding': padding, 'dilation': dilation, 'groups': groups}
    y = reference.convolution(x, weight, bias if use_bias else None, **window)
    (head,) = quarters(seed + 1 & 0xFFFFFFFF, y.shape)
    dx, dweight, dbias = reference.convolution_gradients(head, x, weight, **window)
    expected = {'output': y, 'x': dx, 'weight': dweight}

    layer = nn.Conv2D(outputs, kernel, in_channels=inputs, use_bias=use_bias, **window)
    layer.initialize()
    layer.weight.set_data(array_kind().array(weight))
    if use_bias:
        layer.bias.set_data(array_kind().array(bias))
        expected['bias'] = dbias
    with empty_arrays(batch == 0):
        assert_same(measure(layer, x, head, mode), expected)


@relaxed
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=batches,
    channels=st.integers(1, 9),
    size=sizes,
    pool_size=pairs(1, 6),
    strides=st.one_of(st.none(), pairs(1, 5)),
    padding=pairs(0, 5),
    ceil_mode=st.booleans(),
    count_include_pad=st.booleans(),
    kind=st.sampled_from(['max', 'avg', 'sum', 'lp1', 'lp2', 'lp3']),
    mode=st.sampled_from(MODES),
)
def test_pooling(
    seed,
    batch,
    channels,
    size,
    pool_size,
    strides,
    padding,
    ceil_mode,
    count_include_pad,
    kind,
    mode,
):
    for n, p, k in zip(size, reference.per_axis(padding), reference.per_axis(pool_size)):
        assume(p < k <= n + 2 * p)
    (x,) = quarters(seed, (batch, channels) + size, low=1 if kind.startswith('lp') else -8)
    window = {
        'pool_size': pool_size,
        'strides': strides,
        'padding': padding,
        'mode': kind.rstrip('123'),
        'ceil_mode': ceil_mode,
        'count_include_pad': count_include_pad,
        'p': int(kind[2]) if kind.startswith('lp') else 2,
    }
    y = reference.pooling(x, **window)
    (head,) = quarters(seed + 1 & 0xFFFFFFFF, y.shape)
    expected = {'output': y, 'x': reference.pooling_gradient(head, x, **window)}
    exact = kind in ('max', 'sum', 'lp1')
    layer = Pool2D(**window)
    with empty_arrays(batch == 0):
        outcome = measure(layer, x, head, mode)
    assert_same(outcome, expected, rtol=0 if exact else TOLERANCE)
