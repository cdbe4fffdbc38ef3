"""The kernels alone, through their C interface: against float64 loops, on shapes that hit tails.

Output arrays stand between guard values, so that a write outside them is seen. The kernels of each
instruction set that this CPU has are tested, and those of the widest one on any CPU, with its block
sizes and vectors that the compiler splits.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import pathlib
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gluon_convpool
from gluon_convpool.testing import assert_close, reference

GUARD, GUARD_VALUE = 64, 777.0


class Window(ctypes.Structure):
    _fields_ = [('ndim', ctypes.c_int32)] + [
        (name, ctypes.c_int64 * 3)
        for name in ('kernel', 'stride', 'dilation', 'pad', 'in_size', 'out_size')
    ]


class Convolution(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_int) for name in ('dtype', 'layout', 'algorithm')]
        + [(n, ctypes.c_int64) for n in ('batch', 'in_channels', 'out_channels', 'groups')]
        + [('window', Window), ('packed', ctypes.c_void_p)]
    )


class Pooling(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_int) for name in ('dtype', 'layout', 'mode')]
        + [(name, ctypes.c_int32) for name in ('p', 'count_include_pad')]
        + [(name, ctypes.c_int64) for name in ('batch', 'channels')]
        + [('window', Window)]
    )


MODES = ('max', 'avg', 'sum', 'lp')
DTYPES = ('float32', 'float64')


def window(**values):
    result = Window(ndim=len(values['kernel']))
    for name, sizes in values.items():
        getattr(result, name)[: len(sizes)] = sizes
    return result


def pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)


class Guarded:
    """An array to write to, with guard values around it."""

    def __init__(self, shape, dtype='float32'):
        size = int(np.prod(shape))
        self.memory = np.full(size + 2 * GUARD, GUARD_VALUE, dtype)
        self.array = self.memory[GUARD : GUARD + size].reshape(shape)

    def written(self):
        assert (self.memory[:GUARD] == GUARD_VALUE).all(), 'written before the array'
        assert (self.memory[-GUARD:] == GUARD_VALUE).all(), 'written behind the array'
        return self.array


AUTO, IMPLICIT_GEMM, WINOGRAD, DEPTHWISE = range(4)
CHANNELS_LAST = 1


def convolution_problem(case, algorithm=AUTO, behind=None):
    """The padding behind the data is as long as that in front, or as `behind` says."""
    batch, in_channels, out_channels, groups, size, kernel, stride, dilation, pad = case
    out = tuple(
        (n + p + b - d * (k - 1) - 1) // s + 1
        for n, k, s, d, p, b in zip(size, kernel, stride, dilation, pad, behind or pad)
    )
    return Convolution(
        algorithm=algorithm,
        batch=batch,
        in_channels=in_channels,
        out_channels=out_channels,
        groups=groups,
        window=window(
            kernel=kernel, stride=stride, dilation=dilation, pad=pad, in_size=size, out_size=out
        ),
    )


def in_a_thread(function, *arguments):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


def without_height(problem):
    """The same problem with one spatial axis, where the first of two has a single row."""
    two = problem.window
    for name, _ in Window._fields_[1:]:
        values = getattr(two, name)
        assert values[0] == (0 if name == 'pad' else 1)
        values[:] = (values[1], -1, -1)  # what is behind the last axis must not be read
    two.ndim = 1
    return problem


def in_layout(array, layout):
    return np.ascontiguousarray(np.moveaxis(array, 1, -1)) if layout == CHANNELS_LAST else array


def from_layout(array, layout):
    return np.moveaxis(array, -1, 1) if layout == CHANNELS_LAST else array


def convolution_results(
    library,
    case,
    seed=0,
    algorithm=AUTO,
    change=None,
    ndim=2,
    dtype='float32',
    layout=0,
    behind=None,
):
    """Output and gradients by the kernels, and what they must be by the float64 loops.

    `change` may alter the input and the gradient of the output in place.
    """
    batch, in_channels, out_channels, groups, size, kernel, stride, dilation, pad = case
    generator = np.random.RandomState(seed)
    problem = convolution_problem(case, algorithm, behind)
    out = tuple(problem.window.out_size[: len(size)])
    shapes = [
        (batch, in_channels) + size,
        (out_channels, in_channels // groups) + kernel,
        (out_channels,),
        (batch, out_channels) + out,
    ]
    x, weight, bias, head = (generator.normal(size=s).astype(dtype) for s in shapes)
    if change:
        change(x, head)
    problem.dtype, problem.layout = DTYPES.index(dtype), layout
    their_x, their_weight, their_head = (in_layout(one, layout) for one in (x, weight, head))
    if ndim == 1:
        problem = without_height(problem)
    y, dx, dweight, dbias = (
        Guarded(their_head.shape, dtype),
        Guarded(their_x.shape, dtype),
        Guarded(their_weight.shape, dtype),
        Guarded(bias.shape, dtype),
    )
    for function, arguments in (
        ('forward', (their_x, their_weight, bias, y.array)),
        ('backward_data', (their_head, their_weight, dx.array)),
        ('backward_weight', (their_x, their_head, dweight.array)),
        ('backward_bias', (their_head, dbias.array)),
    ):
        call = getattr(library, 'convpool_convolution_' + function)
        assert call(ctypes.byref(problem), *map(pointer, arguments)) == 0
    actual = [from_layout(one.written(), layout) for one in (y, dx, dweight)] + [dbias.written()]
    inside = (slice(None),) * 2
    if behind is not None:
        x = np.pad(x, ((0, 0), (0, 0), *zip(pad, behind)))
        inside, pad = inside + tuple(slice(p, p + n) for p, n in zip(pad, size)), 0
    expected = [reference.convolution(x, weight, bias, stride, pad, dilation, groups)]
    dx, *others = reference.convolution_gradients(head, x, weight, stride, pad, dilation, groups)
    return actual, [*expected, dx[inside], *others]


def pooling_results(library, case, values='normal', ndim=2, dtype='float32', layout=0, channels=3):
    """Output and gradient by the kernels, and what they must be by the float64 loops."""
    size, kernel, stride, pad, mode, ceil_mode, count_include_pad, p = case
    generator = np.random.RandomState(0)
    out = tuple(
        (n + 2 * q - k + (s - 1 if ceil_mode else 0)) // s + 1
        for n, k, s, q in zip(size, kernel, stride, pad)
    )
    x = generator.normal(size=(2, channels) + size).astype(dtype)
    if values == 'special':
        chosen = generator.choice(5, size=x.shape, p=[0.1, 0.4, 0.1, 0.2, 0.2])
        x = np.choose(chosen, [np.nan, -np.inf, np.inf, 0, 1]).astype(dtype)
    elif values == 'rare nan':
        x = np.where(generator.random_sample(x.shape) < 0.02, np.nan, np.abs(x)).astype(dtype)
    elif p == 3:
        x = np.abs(x)  # the cube root of a sum that cancels magnifies its rounding
    head = generator.normal(size=(2, channels) + out).astype(dtype)
    problem = Pooling(
        dtype=DTYPES.index(dtype),
        layout=layout,
        mode=MODES.index(mode),
        p=p,
        count_include_pad=count_include_pad,
        batch=2,
        channels=channels,
        window=window(
            kernel=kernel,
            stride=stride,
            dilation=(1,) * len(size),
            pad=pad,
            in_size=size,
            out_size=out,
        ),
    )
    if ndim == 1:
        problem = without_height(problem)
    their_x, their_head = in_layout(x, layout), in_layout(head, layout)
    y, dx = Guarded(their_head.shape, dtype), Guarded(their_x.shape, dtype)
    for function, arrays in (
        ('forward', (their_x, y.array)),
        ('backward', (their_x, y.array, their_head, dx.array)),
    ):
        call = getattr(library, 'convpool_pooling_' + function)
        assert call(ctypes.byref(problem), *map(pointer, arrays)) == 0
    arguments = (kernel, stride, pad, mode, ceil_mode, bool(count_include_pad), p)
    return (from_layout(y.written(), layout), from_layout(dx.written(), layout)), (
        reference.pooling(x, *arguments),
        reference.pooling_gradient(head, x, *arguments),
    )


# Rows of a micro-tile are 4, 6, 8 or 14; its columns 4 to 32; a pass over the reduction takes whole
# channels up to 192, 256 or 320 values: each boundary from below, at and above.
CHANNELS = [(1, 1), (2, 5), (3, 6), (5, 7), (7, 13), (8, 14), (28, 15), (29, 29), (36, 4), (64, 16)]
WIDTHS = [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 300]
ONE = (1, 1)
GEOMETRIES = [  # kernel, stride, dilation, pad
    (ONE, ONE, ONE, (0, 0)),
    ((3, 3), ONE, ONE, ONE),
    ((5, 2), (2, 1), ONE, (4, 0)),
    ((2, 3), (3, 2), (1, 3), (0, 6)),
    ((1, 7), (1, 3), ONE, (2, 3)),
    (ONE, (2, 3), ONE, (0, 0)),
    ((3, 1), (1, 2), (2, 1), (5, 1)),
]
CONVOLUTIONS = (
    [(2, c, m, 1, (5, 9), (3, 3), ONE, ONE, ONE) for c, m in CHANNELS]
    + [(1, 3, 5, 1, (3, w), (3, 3), ONE, ONE, ONE) for w in WIDTHS]
    + [(2, 6, 4, g, (8, 19)) + geometry for geometry in GEOMETRIES for g in (1, 2)]
    + [(3, 5, 5, 5, (7, 7)) + GEOMETRIES[1], (1, 8, 24, 8, (6, 33)) + GEOMETRIES[3]]
    + [(1, 2, 3, 1, (40, 40), (33, 31), ONE, ONE, (3, 2)), (8, 96, 40, 1, (1, 1)) + GEOMETRIES[0]]
)

# So few channels that the gradient of the data is added up from columns: of all outputs at once,
# and of some rows at a time.
CONVOLUTIONS_OF_FEW_CHANNELS = [
    (2, c, 16, g, (8, 19)) + geometry
    for c, g in ((1, 1), (3, 1), (8, 2))
    for geometry in GEOMETRIES
    if geometry[0] != ONE
] + [
    (1, 3, 17, 1, (33, 30), (7, 7), (2, 2), ONE, (3, 3)),
    (2, 2, 20, 1, (90, 81), (5, 5), ONE, ONE, (2, 2)),
    (3, 1, 16, 1, (1, 500), (1, 80), (1, 4), ONE, (0, 38)),
    (1, 1, 16, 1, (5, 6), (4, 4), (6, 5), ONE, (3, 3)),
    # A row whose columns would pass 2 MB.
    (1, 2, 16, 1, (1, 4000), (1, 70), ONE, ONE, (0, 3)),
]


# Planes of so few outputs that several images share a vector: up to, at and above 32 positions, and
# up to several sets of images.
CONVOLUTIONS_OF_SMALL_PLANES = [
    (batch, c, m, g) + geometry
    for batch in (3, 8, 33)
    for c, m, g in ((5, 7, 1), (8, 20, 2), (16, 3, 1))
    for geometry in (
        ((5, 5), (5, 5), ONE, ONE, (0, 0)),
        ((4, 3), (3, 3), ONE, ONE, ONE),
        ((7, 9), (3, 2), (3, 2), ONE, (0, 2)),
        ((4, 8), ONE, ONE, ONE, (0, 0)),
        ((3, 11), (2, 3), ONE, (1, 2), ONE),
        ((9, 4), ONE, (2, 3), ONE, (0, 0)),
    )
]
# One to five positions behind whole panels of 8, 16 and 48, in one row and over the end of one, of
# one image and of several that share panels; few and many channels.
CONVOLUTIONS_OF_FEW_LAST_POSITIONS = [
    (batch, c, m, g) + geometry
    for batch, c, m, g in ((1, 5, 9, 1), (2, 130, 20, 1), (7, 12, 18, 2))
    for geometry in (
        ((7, 7), (3, 3), ONE, ONE, ONE),
        ((5, 10), (3, 3), ONE, ONE, ONE),
        ((17, 3), (5, 3), ONE, (1, 1), (2, 1)),
        ((27, 7), (3, 3), (2, 2), ONE, (1, 1)),
        ((1, 53), (1, 9), ONE, ONE, (0, 4)),
        ((7, 1), (3, 1), ONE, ONE, (1, 0)),
        ((14, 14), ONE, ONE, ONE, (0, 0)),
        ((9, 7), (3, 3), ONE, (2, 1), ONE),
    )
]
# So few outputs that each vector of a panel is read in its own row; rows of one to six vectors of
# some width, and of many panels.
CONVOLUTIONS_BY_ROWS = [
    (2, c, m, g) + geometry
    for c, m, g in ((3, 5, 1), (8, 32, 2), (70, 9, 1))
    for geometry in (
        ((6, 14), (3, 3), ONE, ONE, ONE),
        ((9, 28), (3, 3), ONE, ONE, ONE),
        ((13, 31), (5, 4), (2, 1), ONE, (2, 1)),
        ((5, 61), (3, 3), ONE, (1, 2), (0, 1)),
        ((1, 90), (1, 5), ONE, ONE, (0, 2)),
    )
]
# The gradient of the data as columns that are added up: few and many outputs of several images,
# planes of less than a vector, and channels that leave lanes empty.
CONVOLUTIONS_OF_SUMMED_COLUMNS = [
    (batch, c, m, g) + geometry
    for batch, c, m, g in ((1, 20, 40, 1), (9, 33, 24, 1), (3, 34, 12, 2))
    for geometry in (
        ((8, 8), (4, 4), (2, 2), ONE, ONE),
        ((2, 3), (2, 2), ONE, ONE, ONE),
        ((7, 9), (5, 3), (3, 2), (1, 2), (2, 3)),
        ((6, 6), (2, 2), (3, 3), ONE, (0, 0)),
        ((4, 5), ONE, ONE, ONE, (0, 0)),
    )
]
# So few outputs that the lanes of their weight's gradient are positions.
CONVOLUTIONS_OF_FEW_OUTPUTS = [
    (2, c, m * g, g, (6, width)) + geometry
    for m in (1, 2, 3, 4, 5)
    for (c, g), width, geometry in (
        ((7, 1), 20, ((3, 3), (2, 2), ONE, (0, 0))),
        ((6, 2), 37, ((3, 2), ONE, (1, 2), ONE)),
        ((9, 1), 16, (ONE, ONE, ONE, (0, 0))),
        ((4, 4), 66, ((1, 5), (3, 1), ONE, (2, 4))),
    )
] + [(1, 3, 2, 1, (90, 700), (3, 3), ONE, ONE, ONE)]


# Any kernel, stride, dilation and padding where every output reads one channel; the widths put
# tiles of one and two vectors and the end of a row everywhere.
DEPTHWISE_GEOMETRIES = [  # kernel, stride, dilation, pad
    ((3, 3), ONE, ONE, ONE),
    ((3, 3), (2, 2), ONE, ONE),
    ((5, 5), ONE, ONE, (2, 2)),
    ((5, 5), (2, 2), ONE, (2, 2)),
    ((7, 7), ONE, ONE, (3, 3)),
    ((7, 7), (2, 2), ONE, (3, 3)),
    ((3, 3), ONE, ONE, (0, 0)),
    ((3, 3), (2, 2), ONE, (4, 5)),
    ((3, 3), ONE, (2, 2), (2, 2)),
    ((3, 3), (2, 2), (2, 3), (2, 3)),
    ((2, 2), (2, 2), ONE, (0, 0)),
    ((4, 6), (1, 2), ONE, (2, 3)),
    ((6, 4), (3, 4), ONE, (3, 1)),
    ((3, 5), (5, 3), ONE, (1, 7)),
    (ONE, (2, 2), ONE, (0, 0)),
    (ONE, ONE, ONE, (3, 0)),
    ((9, 1), ONE, (1, 2), (4, 2)),
    ((1, 9), (2, 1), ONE, (2, 4)),
    ((3, 3), ONE, (5, 1), (5, 0)),
]
DEPTHWISE_SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 14, 15, 16, 17, 20, 31, 32, 33, 48, 64, 65]
DEPTHWISE_SMALL = [(7, 7), (14, 14), (5, 6), (11, 9), (20, 5), (8, 13)]
# Enough channels to fill a vector with, and some behind it.
DEPTHWISE_OF_MANY_CHANNELS = [
    (2, channels, channels, channels, DEPTHWISE_SMALL[i % len(DEPTHWISE_SMALL)]) + geometry
    for i, geometry in enumerate(DEPTHWISE_GEOMETRIES)
    for channels in (16, 19 + i)
]
DEPTHWISE_CONVOLUTIONS = (
    [
        (2, 3, 3 * (1 + i % 2), 3, (height, width)) + geometry
        for i, (geometry, height, width) in enumerate(
            (geometry, 4 + 9 * (i % 3) + height, 12 + 9 * (i % 4) + height)
            for i, geometry in enumerate(DEPTHWISE_GEOMETRIES)
            for height in (0, 4, 7)
        )
    ]
    + [
        (1, 2, 4, 2, (DEPTHWISE_SIZES[i - 3], width)) + DEPTHWISE_GEOMETRIES[i % 2]
        for i, width in enumerate(DEPTHWISE_SIZES)
    ]
    + [(3, 1, 2, 1, (150, 40)) + DEPTHWISE_GEOMETRIES[i] for i in (0, 1, 2, 9, 18)]
    + [(1, 2, 18, 2, (9, 300)) + DEPTHWISE_GEOMETRIES[i] for i in (0, 3)]
    + DEPTHWISE_OF_MANY_CHANNELS
)


def _text(case):
    return str(case).replace(' ', '')


@pytest.mark.parametrize('case', CONVOLUTIONS, ids=_text)
def test_convolution_agrees_with_the_loops(kernels, case):
    for name, actual, expected in zip(
        ('output', 'dx', 'dweight', 'dbias'), *convolution_results(kernels, case)
    ):
        assert_close(name, actual, expected)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('case', CONVOLUTIONS_OF_FEW_CHANNELS, ids=_text)
def test_few_channels_agree_with_the_loops(kernels, case, dtype):
    results = convolution_results(kernels, case, algorithm=IMPLICIT_GEMM, dtype=dtype)
    for name, actual, expected in zip(NAMES, *results):
        (assert_close if dtype == 'float32' else assert_close_in_float64)(name, actual, expected)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('layout', [0, CHANNELS_LAST], ids=['first', 'last'])
@pytest.mark.parametrize(
    'case',
    CONVOLUTIONS_OF_SMALL_PLANES
    + CONVOLUTIONS_OF_FEW_LAST_POSITIONS
    + CONVOLUTIONS_OF_SUMMED_COLUMNS,
    ids=_text,
)
def test_small_planes_agree_with_the_loops(kernels, case, layout, dtype):
    results = convolution_results(kernels, case, 0, IMPLICIT_GEMM, dtype=dtype, layout=layout)
    for name, actual, expected in zip(NAMES, *results):
        (assert_close if dtype == 'float32' else assert_close_in_float64)(name, actual, expected)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('case', CONVOLUTIONS_OF_FEW_OUTPUTS + CONVOLUTIONS_BY_ROWS, ids=_text)
def test_few_outputs_agree_with_the_loops(kernels, case, dtype):
    results = convolution_results(kernels, case, algorithm=IMPLICIT_GEMM, dtype=dtype)
    for name, actual, expected in zip(NAMES, *results):
        (assert_close if dtype == 'float32' else assert_close_in_float64)(name, actual, expected)


@pytest.mark.parametrize('case', CONVOLUTIONS[::5], ids=_text)
def test_each_instruction_set_agrees_with_the_loops(library, instruction_set, case):
    for name, actual, expected in zip(
        ('output', 'dx', 'dweight', 'dbias'), *convolution_results(library, case)
    ):
        assert_close(name, actual, expected)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize(
    'case',
    CONVOLUTIONS_OF_SMALL_PLANES[::5]
    + CONVOLUTIONS_OF_FEW_LAST_POSITIONS[::5]
    + CONVOLUTIONS_OF_FEW_CHANNELS[::7]
    + CONVOLUTIONS_OF_SUMMED_COLUMNS[::2]
    + CONVOLUTIONS_BY_ROWS[::2]
    # Images of one row that share panels, which a last panel does not leave.
    + [
        (3, 25, 37, 1, (1, 14), ONE, ONE, ONE, (0, 0)),
        (2, 16, 9, 1, (1, 10), ONE, ONE, ONE, (0, 0)),
    ],
    ids=_text,
)
def test_each_instruction_set_agrees_with_the_loops_by_implicit_gemm(
    library, instruction_set, case, dtype
):
    results = convolution_results(library, case, algorithm=IMPLICIT_GEMM, dtype=dtype)
    for name, actual, expected in zip(NAMES, *results):
        (assert_close if dtype == 'float32' else assert_close_in_float64)(name, actual, expected)


@pytest.mark.parametrize('case', CONVOLUTIONS[::3] + CONVOLUTIONS_OF_FEW_CHANNELS[::5], ids=_text)
def test_the_number_of_threads_does_not_change_a_bit(library, thread_count, case):
    results = []
    for threads in (1, 2, 3, 8):
        thread_count(threads)
        results.append(convolution_results(library, case)[0])
    for other in results[1:]:
        for first, second in zip(results[0], other):
            np.testing.assert_array_equal(first, second)


NAMES = ('output', 'dx', 'dweight', 'dbias')


# Less padding behind the data than in front of it, more, and whole windows of it.
PADDED_BEHIND = [
    (batch, c, m, g, size) + geometry + (behind,)
    for batch, c, m, g in ((2, 6, 8, 2), (1, 20, 33, 1), (3, 9, 9, 9))
    for size, geometry, behind in (
        ((8, 19), ((3, 3), ONE, ONE, ONE), (0, 2)),
        ((8, 19), ((4, 4), ONE, ONE, ONE), (2, 2)),
        ((7, 9), ((2, 2), ONE, ONE, (0, 0)), ONE),
        ((14, 14), ((3, 3), (2, 2), ONE, (0, 0)), ONE),
        ((7, 33), ((5, 2), (2, 1), ONE, (4, 0)), (0, 3)),
        ((6, 8), ((2, 3), (3, 2), (1, 3), (0, 6)), (7, 0)),
        ((5, 6), (ONE, (2, 3), ONE, (0, 0)), (4, 2)),
        ((5, 6), (ONE, ONE, ONE, (0, 0)), (2, 5)),
        ((6, 7), ((3, 3), ONE, (2, 2), (1, 2)), (3, 9)),
        ((1, 1), ((3, 3), ONE, ONE, (0, 0)), (2, 5)),
    )
]


@pytest.mark.parametrize('layout', [0, CHANNELS_LAST], ids=['first', 'last'])
@pytest.mark.parametrize('algorithm', [AUTO, IMPLICIT_GEMM, WINOGRAD, DEPTHWISE])
@pytest.mark.parametrize('case', PADDED_BEHIND, ids=_text)
def test_padding_behind_the_data_is_what_the_output_needs(kernels, case, algorithm, layout):
    *case, behind = case
    given = convolution_problem(case, algorithm, behind)
    if not kernels.convpool_convolution_algorithm(ctypes.byref(given), 0):
        assert algorithm in (WINOGRAD, DEPTHWISE)
        return
    results = convolution_results(kernels, case, algorithm=algorithm, layout=layout, behind=behind)
    for name, actual, expected in zip(NAMES, *results):
        assert_close(name, actual, expected)


def served(library, case, algorithm):
    """Does this algorithm have a forward pass for the case?"""
    problem = convolution_problem(case, algorithm)
    return library.convpool_convolution_algorithm(ctypes.byref(problem), 0) == algorithm


def grouped_by_channel(cases):
    return [case for case in cases if case[1] == case[3]]


def test_depthwise_serves_what_it_is_for(library):
    cases = DEPTHWISE_CONVOLUTIONS + grouped_by_channel(CONVOLUTIONS)
    assert all(served(library, case, DEPTHWISE) for case in cases)
    assert not any(served(library, case, DEPTHWISE) for case in CONVOLUTIONS if case[1] != case[3])


@pytest.mark.parametrize('which', [0, 1, 2])
def test_an_algorithm_is_chosen_where_there_is_no_output(library, instruction_set, which):
    problem = convolution_problem((2, 8, 8, 1, (2, 9), (3, 3), ONE, ONE, (0, 0)))
    assert problem.window.out_size[0] == 0
    assert library.convpool_convolution_algorithm(ctypes.byref(problem), which) > 0


def test_depthwise_is_chosen_where_it_is_faster(library):
    layers = {
        (1, 32, 32, 32, (112, 112)) + DEPTHWISE_GEOMETRIES[0]: True,
        (8, 672, 672, 672, (14, 14)) + DEPTHWISE_GEOMETRIES[3]: True,
        (32, 3, 6, 3, (28, 28)) + DEPTHWISE_GEOMETRIES[2]: True,
        (1, 1, 256, 1, (28, 28)) + DEPTHWISE_GEOMETRIES[2]: False,
        (1, 64, 64, 32, (28, 28)) + DEPTHWISE_GEOMETRIES[0]: False,
    }
    for case, expected in layers.items():
        problem = convolution_problem(case)
        chosen = library.convpool_convolution_algorithm(ctypes.byref(problem), 0)
        assert (chosen == DEPTHWISE) == expected, case


@pytest.mark.parametrize(
    'case', DEPTHWISE_CONVOLUTIONS + grouped_by_channel(CONVOLUTIONS), ids=_text
)
def test_depthwise_agrees_with_the_loops(kernels, case):
    results = convolution_results(kernels, case, algorithm=DEPTHWISE)
    for name, actual, expected in zip(NAMES, *results):
        assert_close(name, actual, expected)


@pytest.mark.parametrize('case', DEPTHWISE_CONVOLUTIONS[::2], ids=_text)
def test_depthwise_of_each_instruction_set_agrees(library, instruction_set, case):
    results = convolution_results(library, case, algorithm=DEPTHWISE)
    for name, actual, expected in zip(NAMES, *results):
        assert_close(name, actual, expected)


@pytest.mark.parametrize('case', DEPTHWISE_CONVOLUTIONS, ids=_text)
def test_depthwise_has_the_same_bits_for_any_number_of_threads(library, thread_count, case):
    results = []
    for threads in (1, 2, 5):
        thread_count(threads)
        results.append(convolution_results(library, case, algorithm=DEPTHWISE)[0])
    for other in results[1:]:
        for first, second in zip(results[0], other):
            np.testing.assert_array_equal(first, second)


NAN_IN = [(DEPTHWISE, case) for case in DEPTHWISE_CONVOLUTIONS] + [
    (IMPLICIT_GEMM, case)
    for case in CONVOLUTIONS_OF_SMALL_PLANES[::2] + CONVOLUTIONS_OF_FEW_OUTPUTS[:-1]
]


@pytest.mark.parametrize('special', [np.nan, np.inf])
@pytest.mark.parametrize('algorithm, case', NAN_IN, ids=_text)
def test_nan_spreads_no_further_than_its_windows(kernels, algorithm, case, special):
    """The corners and borders are where a vector could reach over what no window covers."""

    def change(x, head):
        for array in (x, head):
            array[0, 0, 0, 0] = array[-1, -1, -1, -1] = array[0, -1, -1, 0] = special
            array[0, -1, array.shape[2] // 2, -1] = special

    with np.errstate(invalid='ignore'):
        results = convolution_results(kernels, case, algorithm=algorithm, change=change)
    for name, actual, expected in zip(NAMES, *results):
        np.testing.assert_array_equal(np.isfinite(actual), np.isfinite(expected), name)


def test_an_algorithm_that_cannot_serve_is_refused(library):
    case = (1, 4, 4, 2, (5, 5)) + GEOMETRIES[1]
    problem = convolution_problem(case, DEPTHWISE)
    y = Guarded((1, 4, 5, 5))
    status = library.convpool_convolution_forward(
        ctypes.byref(problem), None, None, None, pointer(y.array)
    )
    assert status == 1
    assert (y.written() == GUARD_VALUE).all()


POOLINGS = [  # size, kernel, stride, pad
    ((8, 8), (2, 2), (2, 2), (0, 0)),
    ((7, 33), (3, 3), (2, 2), (1, 1)),
    ((5, 17), (3, 2), (1, 1), (2, 1)),
    ((9, 16), (2, 5), (3, 4), (1, 3)),
    ((4, 4), (4, 4), (1, 1), (0, 0)),
    ((1, 1), (1, 1), (1, 1), (0, 0)),
    ((6, 31), (1, 3), (5, 3), (0, 0)),
    ((3, 70), (2, 1), (1, 2), (1, 0)),
]
ARITHMETIC = [
    ('max', 1, 2),
    ('avg', 1, 2),
    ('avg', 0, 2),
    ('sum', 1, 2),
    ('lp', 1, 2),
    ('lp', 1, 3),
]


@pytest.mark.parametrize('ceil_mode', [False, True], ids=['floor', 'ceil'])
@pytest.mark.parametrize('shape', POOLINGS, ids=_text)
@pytest.mark.parametrize('mode', ARITHMETIC, ids=_text)
def test_pooling_agrees_with_the_loops(kernels, mode, shape, ceil_mode):
    name, count_include_pad, p = mode
    case = shape + (name, ceil_mode, count_include_pad, p)
    (y, dx), (expected_y, expected_dx) = pooling_results(kernels, case)
    assert_close('output', y, expected_y)
    assert_close('gradient', dx, expected_dx)


COUNT_WINDOW = 2


@pytest.mark.parametrize('layout', [0, CHANNELS_LAST], ids=['first', 'last'])
@pytest.mark.parametrize('channels', [3, 40])
@pytest.mark.parametrize('behind', [(0, 0), (0, 1), (2, 0), (2, 2)], ids=_text)
def test_an_average_counts_all_padding_behind_the_data(kernels, behind, channels, layout):
    """Of ones, with one element of padding in front: what part of a window is in the data."""
    size, kernel, stride, pad = (7, 9), (3, 3), (2, 1), (1, 1)
    out = tuple((n + 1 + b - 3) // s + 1 for n, b, s in zip(size, behind, stride))
    inside = [
        [min(i * s - 1 + 3, n) - max(i * s - 1, 0) for i in range(count)]
        for count, s, n in zip(out, stride, size)
    ]
    expected = np.broadcast_to(np.outer(*inside) / 9, (2, channels, *out))
    problem = Pooling(
        layout=layout,
        mode=MODES.index('avg'),
        count_include_pad=COUNT_WINDOW,
        batch=2,
        channels=channels,
        window=window(
            kernel=kernel, stride=stride, dilation=ONE, pad=pad, in_size=size, out_size=out
        ),
    )
    x = in_layout(np.ones((2, channels, *size), 'float32'), layout)
    head = in_layout(np.full(expected.shape, 9, 'float32'), layout)
    y, dx = Guarded(head.shape), Guarded(x.shape)
    given = ctypes.byref(problem)
    assert kernels.convpool_pooling_forward(given, pointer(x), pointer(y.array)) == 0
    arrays = map(pointer, (x, y.array, head, dx.array))
    assert kernels.convpool_pooling_backward(given, *arrays) == 0
    assert_close('output', from_layout(y.written(), layout), expected)
    # each of the windows that hold an element gives it a ninth of 9
    windows = np.outer(
        *(
            [sum(i * s - 1 <= k < i * s + 2 for i in range(count)) for k in range(n)]
            for count, s, n in zip(out, stride, size)
        )
    )
    found = from_layout(dx.written(), layout)
    assert_close('gradient', found, np.broadcast_to(windows, found.shape))


# Small planes share vectors, which must not carry anything from one plane to the next.
SMALL_PLANES = [  # size, kernel, stride, pad
    ((7, 7), (3, 3), (2, 2), (1, 1)),
    ((5, 6), (2, 3), (1, 1), (1, 2)),
    ((4, 4), (2, 2), (2, 2), (0, 0)),
    ((3, 14), (3, 5), (1, 3), (0, 2)),
]


@pytest.mark.parametrize('channels', [3, 40])
@pytest.mark.parametrize('shape', POOLINGS + SMALL_PLANES, ids=_text)
def test_max_pooling_keeps_nan_and_infinities(kernels, shape, channels):
    case = shape + ('max', False, 1, 2)
    (y, dx), (expected_y, expected_dx) = pooling_results(
        kernels, case, values='special', channels=channels
    )
    np.testing.assert_array_equal(y, expected_y)
    assert_close('gradient', dx, expected_dx)


@pytest.mark.parametrize('shape', SMALL_PLANES, ids=_text)
@pytest.mark.parametrize('mode', ARITHMETIC, ids=_text)
def test_pooling_of_many_small_planes_agrees_with_the_loops(kernels, mode, shape):
    name, count_include_pad, p = mode
    case = shape + (name, True, count_include_pad, p)
    (y, dx), (expected_y, expected_dx) = pooling_results(kernels, case, channels=40)
    assert_close('output', y, expected_y)
    assert_close('gradient', dx, expected_dx)


@pytest.mark.parametrize('shape', SMALL_PLANES, ids=_text)
@pytest.mark.parametrize('mode', ARITHMETIC, ids=_text)
def test_pooling_spreads_nan_no_further_than_its_windows(kernels, mode, shape):
    name, count_include_pad, p = mode
    case = shape + (name, False, count_include_pad, p)
    with np.errstate(invalid='ignore'):
        results = pooling_results(kernels, case, values='rare nan', channels=40)
    for part, actual, expected in zip(('output', 'gradient'), *results):
        np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected), part)


ONE_AXIS_GEOMETRIES = [  # kernel, stride, dilation, pad
    (1, 1, 1, 0),
    (1, 2, 1, 0),
    (3, 1, 1, 1),
    (5, 1, 1, 2),
    (7, 1, 1, 3),
    (9, 1, 1, 4),
    (4, 3, 1, 5),
    (3, 1, 4, 4),
    (5, 2, 3, 0),
    (80, 4, 1, 0),
]
ONE_AXIS_CONVOLUTIONS = [
    (2, 12, 18, groups, (1, width)) + tuple((0 if i == 3 else 1, n) for i, n in enumerate(geometry))
    for geometry in ONE_AXIS_GEOMETRIES
    for width, groups in ((97, 1), (130, 2), (400, 1), (83, 6))
] + [
    (2, 9, 9 * multiplier, 9, (1, width)) + ((1, kernel), (1, stride), ONE, (0, kernel // 2))
    for width, kernel, stride, multiplier in ((100, 3, 1, 1), (65, 9, 2, 2), (17, 5, 1, 1))
]


@pytest.mark.parametrize('case', ONE_AXIS_CONVOLUTIONS, ids=_text)
def test_convolution_over_one_axis_agrees_with_the_loops(kernels, case):
    results = convolution_results(kernels, case, ndim=1)
    for name, actual, expected in zip(NAMES, *results):
        assert_close(name, actual, expected)


@pytest.mark.parametrize('case', ONE_AXIS_CONVOLUTIONS[::3], ids=_text)
def test_one_axis_agrees_on_each_instruction_set(library, instruction_set, case):
    results = convolution_results(library, case, ndim=1)
    for name, actual, expected in zip(NAMES, *results):
        assert_close(name, actual, expected)


@pytest.mark.parametrize('case', ONE_AXIS_CONVOLUTIONS, ids=_text)
def test_one_axis_has_the_algorithm_of_one_row(library, case):
    for which in range(3):
        found = [
            library.convpool_convolution_algorithm(ctypes.byref(problem), which)
            for problem in (convolution_problem(case), without_height(convolution_problem(case)))
        ]
        assert found[0] == found[1] != AUTO


@pytest.mark.parametrize('ceil_mode', [False, True], ids=['floor', 'ceil'])
@pytest.mark.parametrize(
    'shape',
    [  # size, kernel, stride, pad
        (8, 2, 2, 0),
        (33, 3, 2, 1),
        (17, 5, 1, 3),
        (70, 3, 5, 2),
        (9, 9, 1, 0),
        (1, 1, 1, 0),
        (301, 80, 4, 11),
    ],
    ids=_text,
)
@pytest.mark.parametrize('mode', ARITHMETIC, ids=_text)
def test_pooling_over_one_axis_agrees_with_the_loops(kernels, mode, shape, ceil_mode):
    name, count_include_pad, p = mode
    size, kernel, stride, pad = shape
    case = ((1, size), (1, kernel), (1, stride), (0, pad), name, ceil_mode, count_include_pad, p)
    (y, dx), (expected_y, expected_dx) = pooling_results(kernels, case, ndim=1)
    assert_close('output', y, expected_y)
    assert_close('gradient', dx, expected_dx)


# Depth before height and width: its padding, strides and dilations, axes that no window joins, and
# channels, at each tap of the depth, that fill vectors or do not.
THREE_AXES_GEOMETRIES = [  # size, kernel, stride, dilation, pad
    ((4, 5, 9), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    ((5, 4, 17), (2, 3, 3), (2, 1, 1), (1, 1, 1), (2, 1, 1)),
    ((6, 7, 5), (3, 2, 3), (3, 2, 2), (2, 1, 2), (2, 0, 3)),
    ((1, 6, 6), (3, 3, 3), (1, 1, 1), (1, 2, 2), (1, 2, 2)),
    ((2, 6, 6), (1, 3, 3), (1, 1, 1), (1, 1, 1), (3, 1, 1)),
    ((7, 4, 6), (3, 1, 1), (1, 1, 1), (2, 1, 1), (1, 0, 0)),
    ((3, 4, 12), (1, 1, 3), (1, 1, 1), (1, 1, 1), (0, 0, 1)),
    ((3, 4, 12), (3, 1, 5), (1, 1, 2), (1, 1, 1), (0, 0, 1)),
    ((3, 5, 7), (1, 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0)),
    ((5, 5, 7), (1, 1, 1), (2, 2, 2), (1, 1, 1), (0, 0, 0)),
    ((3, 9, 9), (3, 7, 7), (1, 2, 2), (1, 1, 1), (1, 3, 3)),
]
THREE_AXES_CONVOLUTIONS = [
    (2, *channels, *geometry)
    for channels, geometry in itertools.product(
        [(3, 5, 1), (16, 8, 1), (12, 34, 2), (4, 4, 4)], THREE_AXES_GEOMETRIES
    )
] + [
    (1, 20, 40, 1) + THREE_AXES_GEOMETRIES[0],
    (1, 100, 6, 1, (2, 3, 9), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    *((2, 3, 20, 1, *geometry) for geometry in THREE_AXES_GEOMETRIES),  # few channels
]


@pytest.mark.parametrize('case', THREE_AXES_CONVOLUTIONS, ids=_text)
def test_convolution_over_three_axes_agrees_with_the_loops(kernels, case):
    for name, actual, expected in zip(NAMES, *convolution_results(kernels, case)):
        assert_close(name, actual, expected)


@pytest.mark.parametrize(
    'algorithm, case',
    [(IMPLICIT_GEMM, case) for case in THREE_AXES_CONVOLUTIONS[::4]]
    + [(WINOGRAD, case) for case in THREE_AXES_CONVOLUTIONS[::2] if case[5][1:] == (3, 3)],
    ids=_text,
)
def test_three_axes_by_each_algorithm_on_each_instruction_set(
    library, instruction_set, algorithm, case
):
    results = convolution_results(library, case, algorithm=algorithm)
    for name, actual, expected in zip(NAMES, *results):
        assert_close(name, actual, expected)


def assert_close_in_float64(name, actual, expected):
    assert actual.dtype == np.float64
    largest = np.abs(expected).max() if expected.size else 0
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-13 * largest, err_msg=name)


@pytest.mark.parametrize('case', CONVOLUTIONS[::2] + DEPTHWISE_CONVOLUTIONS[::4], ids=_text)
def test_convolution_in_float64_agrees_with_the_loops(library, instruction_set, case):
    results = convolution_results(library, case, dtype='float64')
    for name, actual, expected in zip(NAMES, *results):
        assert_close_in_float64(name, actual, expected)


@pytest.mark.parametrize('case', CONVOLUTIONS[1::3] + DEPTHWISE_CONVOLUTIONS[1::5], ids=_text)
def test_convolution_in_float64_agrees_with_wide_vectors(kernels, case):
    results = convolution_results(kernels, case, dtype='float64')
    for name, actual, expected in zip(NAMES, *results):
        assert_close_in_float64(name, actual, expected)


@pytest.mark.parametrize('ceil_mode', [False, True], ids=['floor', 'ceil'])
@pytest.mark.parametrize('shape', POOLINGS, ids=_text)
@pytest.mark.parametrize('mode', ARITHMETIC, ids=_text)
def test_pooling_in_float64_agrees_with_the_loops(library, instruction_set, mode, shape, ceil_mode):
    name, count_include_pad, p = mode
    case = shape + (name, ceil_mode, count_include_pad, p)
    (y, dx), (expected_y, expected_dx) = pooling_results(library, case, dtype='float64')
    assert_close_in_float64('output', y, expected_y)
    assert_close_in_float64('gradient', dx, expected_dx)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('case', CONVOLUTIONS[::2] + DEPTHWISE_CONVOLUTIONS[::6], ids=_text)
def test_convolution_with_channels_last_agrees_with_the_loops(
    library, instruction_set, case, dtype
):
    results = convolution_results(library, case, dtype=dtype, layout=CHANNELS_LAST)
    for name, actual, expected in zip(NAMES, *results):
        (assert_close if dtype == 'float32' else assert_close_in_float64)(name, actual, expected)


# Rows of one, four and eight outputs that have all taps, and what is left of them.
DEPTHWISE_CHANNELS_LAST = DEPTHWISE_OF_MANY_CHANNELS + [
    (2, 16 + i, 16 + i, 16 + i, (5, 8 + i)) + geometry
    for i, geometry in enumerate(DEPTHWISE_GEOMETRIES)
]


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('case', DEPTHWISE_CHANNELS_LAST, ids=_text)
def test_depthwise_with_channels_last_agrees_with_the_loops(kernels, case, dtype):
    results = convolution_results(kernels, case, dtype=dtype, layout=CHANNELS_LAST)
    for name, actual, expected in zip(NAMES, *results):
        (assert_close if dtype == 'float32' else assert_close_in_float64)(name, actual, expected)


@pytest.mark.parametrize('case', DEPTHWISE_CHANNELS_LAST[::4], ids=_text)
def test_depthwise_with_channels_last_has_the_same_bits_for_any_number_of_threads(
    library, thread_count, case
):
    results = []
    for threads in (1, 2, 3, 8):
        thread_count(threads)
        results.append(convolution_results(library, case, layout=CHANNELS_LAST)[0])
    for other in results[1:]:
        for first, second in zip(results[0], other):
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize('layout', [0, CHANNELS_LAST], ids=['first', 'last'])
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('case', CONVOLUTIONS[::3] + DEPTHWISE_CONVOLUTIONS[::6], ids=_text)
def test_an_empty_batch_has_zero_gradients(library, instruction_set, case, dtype, layout):
    actual, _ = convolution_results(library, (0,) + case[1:], dtype=dtype, layout=layout)
    for name, one in zip(NAMES, actual):
        assert (one == 0).all(), name


def test_a_batch_with_channels_last_is_computed_in_parts(library):
    """Scratch memory of 11 MB, which is kept from call to call: five images of 5 MB by twos."""
    case = (5, 16, 16, 1, (200, 200), (1, 3), ONE, ONE, (0, 1))
    results = convolution_results(library, case, layout=CHANNELS_LAST)
    for name, actual, expected in zip(NAMES, *results):
        assert_close(name, actual, expected)


THREE_AXES_POOLINGS = [  # size, kernel, stride, pad
    ((4, 6, 8), (2, 2, 2), (2, 2, 2), (0, 0, 0)),
    ((5, 7, 33), (3, 3, 3), (2, 2, 2), (1, 1, 1)),
    ((5, 4, 17), (2, 3, 5), (1, 1, 1), (1, 2, 3)),
    ((7, 5, 9), (3, 1, 2), (3, 1, 1), (1, 0, 1)),
    ((7, 5, 9), (3, 1, 1), (1, 1, 1), (1, 0, 0)),
    ((3, 4, 9), (1, 1, 4), (1, 1, 3), (0, 0, 2)),
    ((3, 4, 5), (3, 4, 5), (1, 1, 1), (0, 0, 0)),
    ((3, 9, 5), (1, 3, 2), (3, 2, 3), (0, 0, 1)),
]


@pytest.mark.parametrize('ceil_mode', [False, True], ids=['floor', 'ceil'])
@pytest.mark.parametrize('shape', THREE_AXES_POOLINGS, ids=_text)
@pytest.mark.parametrize('mode', ARITHMETIC, ids=_text)
def test_pooling_over_three_axes_agrees_with_the_loops(kernels, mode, shape, ceil_mode):
    name, count_include_pad, p = mode
    case = shape + (name, ceil_mode, count_include_pad, p)
    (y, dx), (expected_y, expected_dx) = pooling_results(kernels, case)
    assert_close('output', y, expected_y)
    assert_close('gradient', dx, expected_dx)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('case', THREE_AXES_CONVOLUTIONS[::3], ids=_text)
def test_three_axes_with_channels_last_agree_with_the_loops(library, instruction_set, case, dtype):
    results = convolution_results(library, case, dtype=dtype, layout=CHANNELS_LAST)
    for name, actual, expected in zip(NAMES, *results):
        (assert_close if dtype == 'float32' else assert_close_in_float64)(name, actual, expected)


@pytest.mark.parametrize(
    'case', [case for case in THREE_AXES_CONVOLUTIONS[::2] if case[5][1:] == (3, 3)], ids=_text
)
def test_forced_winograd_over_three_axes_with_channels_last_agrees_with_the_loops(kernels, case):
    results = convolution_results(kernels, case, algorithm=WINOGRAD, layout=CHANNELS_LAST)
    for name, actual, expected in zip(NAMES, *results):
        assert_close(name, actual, expected, rtol=2e-5)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('size', [(1, 1), (5, 7), (1, 40)], ids=_text)
@pytest.mark.parametrize('channels', [(1, 1), (3, 64), (37, 17), (300, 130)], ids=_text)
def test_a_pointwise_convolution_with_channels_last_is_a_product(kernels, channels, size, dtype):
    case = (3, *channels, 1, size, ONE, ONE, ONE, (0, 0))
    results = convolution_results(kernels, case, dtype=dtype, layout=CHANNELS_LAST)
    for name, actual, expected in zip(NAMES, *results):
        (assert_close if dtype == 'float32' else assert_close_in_float64)(name, actual, expected)


@pytest.mark.parametrize('case', [THREE_AXES_CONVOLUTIONS[i] for i in (0, 11, 22, 33)], ids=_text)
def test_three_axes_give_the_same_bits_for_any_number_of_threads(library, thread_count, case):
    found = []
    for threads in (1, 3):
        thread_count(threads)
        found.append(convolution_results(library, case)[0])
    for one, other in zip(*found):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize('channels', [1, 3, 8, 37, 130])
@pytest.mark.parametrize('shape', POOLINGS, ids=_text)
@pytest.mark.parametrize('mode', ARITHMETIC, ids=_text)
def test_pooling_with_channels_last_agrees_with_the_loops(
    library, instruction_set, mode, shape, channels
):
    name, count_include_pad, p = mode
    case = shape + (name, channels % 2 == 0, count_include_pad, p)
    for dtype in DTYPES:
        (y, dx), (expected_y, expected_dx) = pooling_results(
            library, case, dtype=dtype, layout=CHANNELS_LAST, channels=channels
        )
        check = assert_close if dtype == 'float32' else assert_close_in_float64
        check('output', y, expected_y)
        check('gradient', dx, expected_dx)


@pytest.mark.parametrize('channels', [3, 40])
@pytest.mark.parametrize('ceil_mode', [False, True], ids=['floor', 'ceil'])
@pytest.mark.parametrize('shape', THREE_AXES_POOLINGS, ids=_text)
@pytest.mark.parametrize('mode', ARITHMETIC, ids=_text)
def test_pooling_over_three_axes_with_channels_last_agrees_with_the_loops(
    library, instruction_set, mode, shape, ceil_mode, channels
):
    name, count_include_pad, p = mode
    case = shape + (name, ceil_mode, count_include_pad, p)
    results = pooling_results(library, case, layout=CHANNELS_LAST, channels=channels)
    (y, dx), (expected_y, expected_dx) = results
    assert_close('output', y, expected_y)
    assert_close('gradient', dx, expected_dx)


@pytest.mark.parametrize('shape', POOLINGS, ids=_text)
def test_max_pooling_with_channels_last_keeps_nan_and_infinities(library, shape):
    case = shape + ('max', False, 1, 2)
    results = pooling_results(library, case, 'special', layout=CHANNELS_LAST, channels=19)
    (y, dx), (expected_y, expected_dx) = results
    np.testing.assert_array_equal(y, expected_y)
    assert_close('gradient', dx, expected_dx)


@pytest.mark.parametrize('change', [{'dtype': 2}, {'layout': 2}, {'algorithm': 99}], ids=str)
def test_what_has_no_kernel_is_refused(library, change):
    sizes = dict.fromkeys(('kernel', 'stride', 'dilation', 'in_size', 'out_size'), (1, 1))
    problem = Convolution(
        batch=1,
        in_channels=1,
        out_channels=1,
        groups=1,
        window=window(**sizes, pad=(0, 0)),
        **change,
    )
    y = Guarded((1, 1, 1, 1))
    one = np.ones(1, 'float32')
    status = library.convpool_convolution_forward(
        ctypes.byref(problem), pointer(one), pointer(one), None, pointer(y.array)
    )
    assert status == 1
    assert y.written() == GUARD_VALUE


IMPOSSIBLE = [
    *({name: value} for name in ('groups', 'in_channels', 'out_channels') for value in (0, -1)),
    {'batch': -1},
    {'groups': 3},
    {'groups': 3, 'in_channels': 6},
    *({name: (1, 0)} for name in ('kernel', 'stride', 'dilation')),
    *({name: (-1, 1)} for name in ('kernel', 'stride', 'dilation', 'pad', 'in_size', 'out_size')),
]


@pytest.mark.parametrize('algorithm', [AUTO, IMPLICIT_GEMM, WINOGRAD, DEPTHWISE])
@pytest.mark.parametrize('change', IMPOSSIBLE, ids=str)
def test_a_convolution_that_cannot_be_is_refused(library, instruction_set, change, algorithm):
    """By every function, which reads and writes nothing then."""
    problem = convolution_problem((2, 8, 8, 2, (5, 6), (3, 3), ONE, ONE, ONE), algorithm)
    for name, value in change.items():
        if isinstance(value, tuple):
            getattr(problem.window, name)[:2] = value
        else:
            setattr(problem, name, value)
    given, packing = ctypes.byref(problem), Packing()
    for which in range(3):
        assert library.convpool_convolution_algorithm(given, which) == AUTO
    for name, arguments in (
        ('convolution_forward', 4),
        ('convolution_forward_fused', 5),
        ('convolution_forward_joined', 5),
        ('convolution_backward_data', 3),
        ('convolution_transpose', 4),
        ('convolution_backward_weight', 3),
        ('convolution_backward_bias', 2),
        ('pack_weight', 2),
    ):
        assert getattr(library, 'convpool_' + name)(given, *[None] * arguments) == 1
    assert library.convpool_plan_packing(given, ctypes.byref(packing)) == 1


@pytest.mark.parametrize('change', [{'batch': -1}, {'channels': -1}, *IMPOSSIBLE[-9:]], ids=str)
def test_a_pooling_that_cannot_be_is_refused(library, change):
    sizes = dict.fromkeys(('kernel', 'stride', 'dilation', 'in_size', 'out_size'), ONE)
    problem = Pooling(batch=1, channels=1, window=window(**sizes, pad=(0, 0)))
    for name, value in change.items():
        if isinstance(value, tuple):
            getattr(problem.window, name)[:2] = value
        else:
            setattr(problem, name, value)
    assert library.convpool_pooling_forward(ctypes.byref(problem), *[None] * 2) == 1
    assert library.convpool_pooling_backward(ctypes.byref(problem), *[None] * 4) == 1


def test_other_numbers_of_axes_are_refused(library):
    for ndim in (0, 4):
        problem = Pooling(batch=1, channels=1, window=Window(ndim=ndim))
        assert library.convpool_pooling_forward(ctypes.byref(problem), None, None) == 1


def test_sizes_of_zero_touch_nothing(library):
    for batch, out in itertools.product((0, 1), (0, 1)):
        if batch and out:
            continue
        sizes = {'kernel': (1, 1), 'stride': (1, 1), 'dilation': (1, 1), 'in_size': (out, out)}
        problem = Convolution(
            batch=batch,
            in_channels=1,
            out_channels=1,
            groups=1,
            window=window(**sizes, out_size=(out, out), pad=(0, 0)),
        )
        assert library.convpool_convolution_forward(ctypes.byref(problem), *[None] * 4) == 0
        dweight = Guarded((1,))
        assert (
            library.convpool_convolution_backward_weight(
                ctypes.byref(problem), None, None, pointer(dweight.array)
            )
            == 0
        )
        assert dweight.written() == 0


@pytest.mark.parametrize('layout', [0, CHANNELS_LAST], ids=['first', 'last'])
@pytest.mark.parametrize('algorithm', [AUTO, IMPLICIT_GEMM, WINOGRAD, DEPTHWISE])
@pytest.mark.parametrize('groups', [1, 8])
@pytest.mark.parametrize('size', [(0, 5), (5, 0), (0, 0)], ids=_text)
def test_windows_of_padding_alone_see_zeros(
    library, instruction_set, size, groups, algorithm, layout
):
    case = (2, 8, 8, groups, size, (3, 3), ONE, ONE, (2, 3))
    problem = convolution_problem(case, algorithm)
    problem.layout = layout
    given = ctypes.byref(problem)
    if not library.convpool_convolution_algorithm(given, 0):
        return
    shape = (2, 8, *problem.window.out_size[:2])
    nothing, bias = np.empty(0, 'float32'), np.arange(8, dtype='float32')
    weight, head = np.ones((8, 8 // groups, 3, 3), 'float32'), np.ones(shape, 'float32')
    y, dx, dweight = Guarded(in_layout(head, layout).shape), Guarded((0,)), Guarded(weight.shape)
    for name, arrays in (
        ('forward', (nothing, weight, bias, y.array)),
        ('backward_data', (head, weight, dx.array)),
        ('backward_weight', (nothing, head, dweight.array)),
    ):
        call = getattr(library, 'convpool_convolution_' + name)
        assert call(given, *map(pointer, arrays)) == 0
    expected = np.broadcast_to(bias[:, None, None], shape)
    np.testing.assert_array_equal(from_layout(y.written(), layout), expected)
    assert dx.written().size == 0 and (dweight.written() == 0).all()


class Packing(ctypes.Structure):
    _fields_ = (('values', ctypes.c_int64), ('share', ctypes.c_double))


def plan_packing(library, problem):
    packing = Packing()
    assert library.convpool_plan_packing(ctypes.byref(problem), ctypes.byref(packing)) == 0
    return packing


def pack_weight(library, problem, weight):
    packed = Guarded((plan_packing(library, problem).values,), weight.dtype)
    status = library.convpool_pack_weight(
        ctypes.byref(problem), pointer(weight), pointer(packed.array)
    )
    assert status == 0
    return packed.written()


def packed_weight(library, problem, packed):
    """The weight in a packed one, as an address; None where it is none for the problem."""
    function = library.convpool_packed_weight
    function.restype = ctypes.c_void_p
    return function(ctypes.byref(problem), pointer(packed), ctypes.c_int64(packed.size))


# What Winograd's tiles can do, so that forcing it leaves something to pack; the size of the data
# that the weight is packed for is the first one.
PACKED = [
    ((2, 20, 37, 1, (14, 14), (3, 3), ONE, ONE, ONE), (1, (3, 3)), (7, (30, 41))),
    ((1, 16, 48, 2, (9, 30), (5, 5), ONE, ONE, (2, 2)), (3, (40, 6))),
    ((1, 70, 9, 1, (12, 40), (1, 7), ONE, ONE, (0, 3)), (1, (1, 9))),
    ((1, 3, 20, 1, (31, 31), (7, 7), (2, 2), ONE, (3, 3)), (4, (50, 44)), (1, (2, 1))),
    ((1, 17, 33, 1, (15, 11), (3, 3), ONE, (2, 2), (2, 2)), (2, (33, 8))),
    ((1, 600, 20, 1, (6, 6), (3, 3), ONE, ONE, ONE), (1, (20, 20))),
    ((2, 8, 40, 1, (5, 30), (1, 9), ONE, ONE, (0, 4)), (1, (2, 90))),
]


def packed_output(library, packing, case, dtype, layout, algorithm=WINOGRAD, prepare=None):
    """The output by the kernels with a weight packed for another case, and by the loops."""
    batch, in_channels, out_channels, groups, size, kernel, stride, dilation, pad = case
    generator = np.random.RandomState(0)
    x = generator.normal(size=(batch, in_channels) + size).astype(dtype)
    weight = generator.normal(size=(out_channels, in_channels // groups) + kernel).astype(dtype)
    bias = generator.normal(size=out_channels).astype(dtype)
    expected = reference.convolution(x, weight, bias, stride, pad, dilation, groups)
    problems = [convolution_problem(one, algorithm) for one in (packing, case)]
    for problem in problems:
        problem.dtype, problem.layout = DTYPES.index(dtype), layout
    packed = pack_weight(library, problems[0], in_layout(weight, layout))
    if prepare:
        prepare()
    y = Guarded(in_layout(expected, layout).shape, dtype)
    problems[1].packed = packed.ctypes.data
    status = library.convpool_convolution_forward(
        ctypes.byref(problems[1]),
        pointer(in_layout(x, layout)),
        ctypes.c_void_p(packed_weight(library, problems[1], packed)),
        pointer(bias),
        pointer(y.array),
    )
    assert status == 0
    return from_layout(y.written(), layout), expected


@pytest.mark.parametrize('layout', [0, CHANNELS_LAST], ids=['first', 'last'])
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('cases', PACKED, ids=_text)
def test_a_packed_weight_serves_any_size_of_data(kernels, cases, dtype, layout):
    first, others = cases[0], cases[1:]
    for batch, size in ((first[0], first[4]), *others):
        case = (batch, *first[1:4], size, *first[5:])
        actual, expected = packed_output(kernels, first, case, dtype, layout)
        (assert_close if dtype == 'float32' else assert_close_in_float64)('y', actual, expected)


@pytest.mark.parametrize('cases', PACKED, ids=_text)
def test_a_packed_weight_serves_any_instruction_set(library, instruction_set, cases):
    first = cases[0]
    for packed_by in (b'baseline', b'avx2', b'avx512'):
        if library.convpool_set_instruction_set(packed_by):
            continue
        actual, expected = packed_output(
            library,
            first,
            first,
            'float32',
            0,
            prepare=lambda: library.convpool_set_instruction_set(instruction_set.encode()),
        )
        assert_close('output', actual, expected)


def test_transformed_taps_are_packed_where_they_pay(library, instruction_set):
    """96 to 128 channels by 3x3 on 14x14: 36 values of a tile for each pair of channels, 1.8 MB."""
    case = (1, 96, 128, 1, (14, 14)) + GEOMETRIES[1]
    packing = plan_packing(library, convolution_problem(case))
    weights = 9 * 96 * 128
    assert packing.values > weights + 36 * 96 * 128
    assert packing.share < 1
    pointwise = (1, 256, 256, 1, (14, 14)) + GEOMETRIES[0]
    packing = plan_packing(library, convolution_problem(pointwise))
    assert packing.share == 1
    assert packing.values < 2 * 256 * 256


@pytest.mark.parametrize('instruction_set', ['avx2', 'avx512'], indirect=True)
def test_taps_that_take_longer_to_read_than_to_make_are_not_packed(library, instruction_set):
    """512 to 512 channels: 38 MB in tiles of 6x6, and 17 MB in those of 4x4, which may pay."""
    case = (1, 512, 512, 1, (7, 7)) + GEOMETRIES[1]
    packing = plan_packing(library, convolution_problem(case))
    assert packing.values < (9 + 2 * 16) * 512 * 512
    assert (packing.share == 1) == (packing.values < 2 * 9 * 512 * 512)


def answers(library, problem):
    """What is chosen for a convolution, and what it is estimated to gain from a packed weight."""
    algorithms = [
        library.convpool_convolution_algorithm(ctypes.byref(problem), which) for which in range(3)
    ]
    packing = plan_packing(library, problem)
    return [*algorithms, packing.values, packing.share]


def test_no_answer_is_remembered_for_another_convolution(library, instruction_set):
    first = {
        'size': (14, 15),
        'kernel': (7, 7),
        'stride': (1, 1),
        'dilation': (1, 1),
        'pad': (3, 3),
    }
    changes = [
        {},
        {'size': (29, 15)},
        {'size': (14, 29)},
        {'kernel': (5, 7)},
        {'kernel': (7, 5)},
        {'stride': (2, 1)},
        {'dilation': (1, 3)},
        {'pad': (5, 3)},
    ]
    sizes = [tuple({**first, **change}.values()) for change in changes]
    problems = [convolution_problem((1, 64, 64, 1, *geometry)) for geometry in sizes]
    for name, value in (
        ('batch', 8),
        ('in_channels', 128),
        ('out_channels', 128),
        ('groups', 8),
        ('dtype', 1),
        ('layout', CHANNELS_LAST),
        ('algorithm', IMPLICIT_GEMM),
    ):
        problem = convolution_problem((1, 64, 64, 1, *sizes[0]))
        setattr(problem, name, value)
        problems.append(problem)
    # A thread that has just begun remembers nothing.
    with_no_memory = [in_a_thread(answers, library, problem) for problem in problems]
    assert with_no_memory[0] not in with_no_memory[1:]
    for _ in range(2):
        for problem, expected in zip(problems, with_no_memory):
            assert answers(library, problem) == expected


def test_the_winograd_switch_counts_for_what_was_asked_before(library):
    problem = convolution_problem((1, 64, 64, 1, (56, 56)) + GEOMETRIES[1])
    before = library.convpool_get_winograd()
    try:
        for enabled, algorithm in ((1, WINOGRAD), (0, IMPLICIT_GEMM), (1, WINOGRAD)):
            library.convpool_set_winograd(enabled)
            assert answers(library, problem)[0] == algorithm
    finally:
        library.convpool_set_winograd(before)


def test_a_packed_weight_of_another_convolution_is_refused(library):
    case = (1, 8, 12, 2, (9, 9)) + GEOMETRIES[1]
    problem = convolution_problem(case)
    packed = pack_weight(library, problem, np.zeros((12, 4, 3, 3), 'float32'))
    assert packed_weight(library, problem, packed)
    assert packed_weight(library, convolution_problem((5, *case[1:])), packed)
    for change in (
        {'in_channels': 16},
        {'out_channels': 24},
        {'groups': 1},
        {'dtype': 1},
        {'layout': CHANNELS_LAST},
    ):
        other = convolution_problem(case)
        for name, value in change.items():
            setattr(other, name, value)
        assert packed_weight(library, other, packed) is None, change
    other = convolution_problem((1, 8, 12, 2, (9, 9)) + GEOMETRIES[2])
    assert packed_weight(library, other, packed) is None
    for wrong in (packed[:-1], packed[:40], packed[:1], np.zeros_like(packed)):
        assert packed_weight(library, problem, wrong.copy()) is None


def test_the_benchmark_of_kernels_fits_their_interface():
    """A program that nothing else compiles."""
    compiler = shlex.split(os.environ.get('CXX') or 'g++')
    if shutil.which(compiler[0]) is None:
        pytest.skip('there is no C++ compiler')
    folder = pathlib.Path(gluon_convpool.__file__).parent / 'native'
    checks = ['-std=c++17', '-fsyntax-only', '-Wall', '-Wextra', '-Werror', f'-I{folder}']
    command = [*compiler, *checks, str(folder / 'benchmark_main.cc')]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
