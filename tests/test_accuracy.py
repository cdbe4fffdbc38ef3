"""How exact the outputs and gradients of each algorithm are: what docs/ACCURACY.md promises.

Weights are as a network begins with them; data and gradients of the output are as a layer gets
them, or worse. The error is the largest one, as a share of the largest value.
"""

from __future__ import annotations

import ctypes
import functools

import numpy as np
import pytest
from test_kernels import (
    DEPTHWISE,
    IMPLICIT_GEMM,
    ONE,
    WINOGRAD,
    convolution_problem,
    pointer,
)

from gluon_convpool.testing import assert_close, reference

PASSES = ('output', 'dx', 'dweight')
DIRECT = dict.fromkeys(PASSES, 3e-6)
PROMISES = {
    IMPLICIT_GEMM: DIRECT,
    DEPTHWISE: DIRECT,
    WINOGRAD: {'output': 1e-5, 'dx': 2e-5, 'dweight': 2e-5},
}
NAMES = {IMPLICIT_GEMM: 'implicit_gemm', DEPTHWISE: 'depthwise', WINOGRAD: 'winograd'}


def layer(channels, size, kernel, stride=ONE, batch=1, groups=1, dilation=ONE):
    pad = tuple(k // 2 * d for k, d in zip(kernel, dilation))
    return (batch, *channels, groups, size, kernel, stride, dilation, pad)


BOTH = (IMPLICIT_GEMM, WINOGRAD)
KERNELS = [(3, 3), (5, 5), (2, 2), (1, 3), (3, 1), (1, 5), (5, 1), (1, 7), (7, 1)]
LONG_KERNELS = [(1, 9), (9, 1), (1, 80), (7, 7), (9, 9)]
LAYERS = [
    (algorithm, layer((64, 32), (18, 18), kernel, stride))
    for kernel, stride in [(kernel, ONE) for kernel in KERNELS + LONG_KERNELS]
    + [((3, 3), (2, 2)), ((4, 4), (2, 2)), ((7, 7), (2, 2))]
    for algorithm in BOTH
]
# Sums over many positions, and over many channels.
LAYERS += [
    (algorithm, case)
    for case in (
        layer((48, 64), (35, 35), (5, 5)),
        layer((8, 16), (128, 128), (5, 5)),
        layer((16, 16), (64, 64), (3, 3), batch=2),
        layer((3, 64), (112, 112), (7, 7), (2, 2)),
        layer((64, 96), (35, 35), (3, 3)),
        layer((64, 64), (25, 25), (3, 3)),
        layer((256, 32), (14, 14), (3, 3)),
        layer((64, 32), (60, 60), (3, 3), (2, 2), batch=2),
        layer((64, 32), (56, 56), (3, 3), (2, 2), batch=2),
        layer((32, 32), (30, 30), (2, 2), batch=2),
        layer((32, 32), (60, 60), (4, 4), (2, 2), batch=2),
        layer((64, 32), (60, 60), (11, 11), (4, 4), batch=2),
        layer((32, 32), (16, 64), (1, 7)),
        layer((512, 32), (9, 9), (3, 3)),
        layer((32, 32), (20, 20), (3, 3), dilation=(2, 2)),
    )
    for algorithm in BOTH
]
LAYERS += [
    (IMPLICIT_GEMM, case)
    for case in (
        layer((512, 64), (14, 14), (1, 1), batch=2),
        layer((64, 64), (56, 56), (1, 1)),
        layer((64, 128), (15, 15), (3, 3), (2, 2), batch=2),
        layer((3, 32), (64, 64), (3, 3), (2, 2), batch=2),
        layer((64, 2), (40, 40), (3, 3)),
        layer((64, 32), (5, 5), (3, 3), batch=9),
        layer((64, 64), (14, 14), (3, 3), batch=2, groups=4),
    )
]
LAYERS += [
    (DEPTHWISE, layer((channels, channels), size, kernel, stride, batch, channels))
    for channels, size, kernel, stride, batch in (
        (32, (56, 56), (3, 3), ONE, 1),
        (32, (57, 57), (3, 3), (2, 2), 2),
        (32, (28, 28), (5, 5), ONE, 2),
        (16, (29, 29), (5, 5), (2, 2), 2),
        (64, (7, 7), (3, 3), ONE, 4),
        (16, (14, 14), (7, 7), ONE, 2),
    )
] + [(DEPTHWISE, layer((1, 6), (64, 64), (5, 5), batch=2))]


def network_like(generator, shape, kind):
    """Values as a layer gets them: behind a ReLU, with a large mean, or over a wide range."""
    values = generator.normal(size=shape)
    if kind == 'relu':
        return np.maximum(values, 0)
    if kind == 'mean':
        return values + 10
    return values * np.exp2(generator.uniform(-10, 10, size=shape))


@functools.lru_cache(maxsize=1)
def exact(case, kind, head_kind):
    """Input, weight and gradient of the output, and what the passes give in float64."""
    batch, in_channels, out_channels, groups, size, kernel, stride, dilation, pad = case
    generator = np.random.RandomState(0)
    out = tuple(convolution_problem(case).window.out_size[:2])
    fan_in = in_channels // groups * kernel[0] * kernel[1]
    x = network_like(generator, (batch, in_channels, *size), kind)
    weight = generator.normal(size=(out_channels, in_channels // groups, *kernel))
    head = network_like(generator, (batch, out_channels, *out), head_kind)
    arrays = [one.astype('float32') for one in (x, weight * np.sqrt(2 / fan_in), head)]
    x, weight, head = arrays
    expected = [reference.convolution(x, weight, None, stride, pad, dilation, groups)]
    expected += reference.convolution_gradients(head, x, weight, stride, pad, dilation, groups)
    return arrays, dict(zip(PASSES, expected))


@pytest.mark.parametrize('kind', ['relu', 'mean', 'range'])
@pytest.mark.parametrize('head_kind', ['relu', 'mean', 'range'])
@pytest.mark.parametrize(
    'algorithm, case',
    LAYERS,
    ids=lambda value: NAMES.get(value) or str(value).replace(' ', ''),
)
def test_errors_stay_within_the_promise(library, algorithm, case, head_kind, kind):
    (x, weight, head), expected = exact(case, kind, head_kind)
    problem = convolution_problem(case, algorithm)
    for name, function, arguments in (
        ('output', 'forward', (x, weight, None)),
        ('dx', 'backward_data', (head, weight)),
        ('dweight', 'backward_weight', (x, head)),
    ):
        result = np.empty(expected[name].shape, 'float32')
        pointers = [one if one is None else pointer(one) for one in (*arguments, result)]
        call = getattr(library, 'convpool_convolution_' + function)
        assert call(ctypes.byref(problem), *pointers) == 0
        assert_close(name, result, expected[name], rtol=PROMISES[algorithm][name])


def test_each_promise_is_asked_of_the_algorithm_itself(library, instruction_set):
    """A forced algorithm leaves to others what it does not serve, such as phases of few taps."""
    left = [
        (case[5], name)
        for algorithm, case in LAYERS
        for i, name in enumerate(PASSES)
        if algorithm
        != library.convpool_convolution_algorithm(
            ctypes.byref(convolution_problem(case, algorithm)), i
        )
    ]
    assert left == []
