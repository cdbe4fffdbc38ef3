"""Pooling over the whole grid, and what it does with NaN, infinities, equals and empty windows."""

from __future__ import annotations

import numpy as np
import pytest

from gluon_convpool import Pool2D, functional, nn, use_backend
from gluon_convpool.testing import (
    MODES,
    PoolingCase,
    array_kind,
    assert_close,
    assert_layers_match,
    assert_same,
    draw,
    empty_arrays,
    measure,
    parity_cases,
    reference,
)

GRID = parity_cases('pool')


@pytest.mark.parametrize('case', parity_cases('pool', tails=False))
def test_matches_the_builtin_layer(case, any_backend, np_or_nd):
    """Static mode runs the graph of hybrid mode, and plans its memory in addition."""
    assert_layers_match(case.build(nn), case, modes=['imperative', 'static'])


@pytest.mark.parametrize('case', parity_cases('pool', tails=True))
def test_matches_at_the_ends_of_vectors(case, native, np_arrays):
    """Only the native backend has vectors, and both kinds of arrays reach the same kernels."""
    assert_layers_match(case.build(nn), case, modes=['imperative', 'static'])


@pytest.mark.parametrize('case', parity_cases('pool', tails=True, grid='quick'))
def test_matches_at_some_of_these_ends_without_vectors(case, np_arrays):
    with use_backend('portable'):
        assert_layers_match(case.build(nn), case, modes=['imperative', 'static'])


@pytest.mark.parametrize('case', parity_cases('pool', grid='quick')[::4])
def test_a_new_layer_may_begin_in_any_mode(case, any_backend, np_or_nd):
    assert_layers_match(lambda: case.build(nn), case)


@pytest.mark.parametrize('case', GRID[::3])
def test_every_instruction_set_gives_the_same(case, instruction_set, np_arrays):
    head, expected = case.expected()
    assert_same(measure(case.build(nn), case.x, head), expected)


@pytest.mark.parametrize('case', GRID[::7])
def test_one_block_pools_in_every_mode(case, any_backend, np_arrays):
    assert_layers_match(Pool2D(**case.window), case, modes=['imperative'])


@pytest.mark.parametrize('case', GRID[::7])
def test_the_function_gives_what_the_layer_gives(case, any_backend, np_or_nd):
    _, expected = case.expected()
    with empty_arrays(case.batch == 0):
        x = array_kind().array(case.x)
        y = functional.pooling(x, **case.window)
        assert type(y) is type(x)
        assert_close('output', y.asnumpy(), expected['output'])


@pytest.mark.parametrize('width', [192, 191])
@pytest.mark.parametrize('mode', ['max', 'avg'])
def test_arrays_larger_than_a_core_keeps_are_the_same(mode, width, native, np_arrays):
    """Of 8 MB and more, in whole aligned vectors or not: the former are stored past the caches."""
    case = PoolingCase(
        mode, batch=1, channels=64, size=(192, width), pool_size=3, strides=2, padding=1
    )
    assert case.x.nbytes >= 8 << 20
    assert_layers_match(case.build(nn), case, modes=['imperative'])


@pytest.mark.parametrize('threads', [1, 2, 3, 5])
@pytest.mark.parametrize('mode', ['max', 'avg', 'sum', 'lp'])
def test_any_number_of_threads_gives_the_same(mode, threads, native, np_arrays, thread_count):
    thread_count(threads)
    for case in (
        PoolingCase(mode, batch=7, channels=5, size=(17, 19), pool_size=3, strides=2, padding=1),
        PoolingCase(mode, batch=1, channels=1, size=(65, 65)),
        PoolingCase(mode, batch=3, channels=7, global_pool=True),
    ):
        head, expected = case.expected()
        assert_same(measure(case.build(nn), case.x, head), expected)


# ------------------------------------------------------------------------ arithmetic on paper


def _pool(rows, head=None, **arguments):
    """Output and gradient for one plane, given and returned as nested lists."""
    x = np.array(rows, 'float32')[None, None]
    block = Pool2D(**arguments)
    if head is None:
        head = np.ones(block(array_kind().array(x)).shape, 'float32')
    else:
        head = np.array(head, 'float32')[None, None]
    outcome = measure(block, x, head)
    return outcome['output'][0, 0], outcome['x'][0, 0]


def test_lp_of_signed_numbers_has_no_absolute_values(any_backend, np_or_nd):
    for p, y, gradient in (
        (1, 1.0, [1, 1]),
        (2, 5**0.5, [-1 / 5**0.5, 2 / 5**0.5]),
        (3, 7 ** (1 / 3), [7 ** (-2 / 3), 4 * 7 ** (-2 / 3)]),
    ):
        output, dx = _pool([[-1, 2]], pool_size=(1, 2), mode='lp', p=p)
        assert_close('output', output, [[y]])
        assert_close('x', dx, [gradient])
    output, dx = _pool([[-2, 1]], pool_size=(1, 2), mode='lp', p=3)
    assert_close('output', output, [[-(7 ** (1 / 3))]])
    assert_close('x', dx, [[4 * 7 ** (-2 / 3), 7 ** (-2 / 3)]])


@pytest.mark.parametrize('p', [2, 3])
def test_lp_of_zeros_has_a_gradient_of_zero(p, any_backend, np_or_nd):
    output, dx = _pool([[0, 0], [0, 0]], mode='lp', p=p)
    assert output.tolist() == [[0]]
    assert dx.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize('mode', ['max', 'avg', 'sum', 'lp'])
def test_window_beyond_the_padded_input(mode, any_backend, np_or_nd):
    """Five positions, windows of one, every third: the third window starts at the sixth."""
    output, dx = _pool([[1, 2, 3, 4, 5]], pool_size=1, strides=3, ceil_mode=True, mode=mode)
    assert output.tolist() == [[1, 4, -np.inf if mode == 'max' else 0]]
    assert dx.tolist() == [[1, 0, 0, 1, 0]]


def test_ceil_mode_average_divides_by_the_part_inside_the_padded_input(any_backend, np_or_nd):
    output, dx = _pool([[1, 2, 4]], pool_size=(1, 2), ceil_mode=True, mode='avg')
    assert output.tolist() == [[1.5, 4]]
    assert dx.tolist() == [[0.5, 0.5, 1]]
    padded = {'pool_size': (1, 3), 'strides': 2, 'padding': (0, 1), 'mode': 'avg'}
    output, _ = _pool([[3, 6, 9, 12]], ceil_mode=True, **padded)
    assert output.tolist() == [[3, 9, 6]]
    output, _ = _pool([[3, 6, 9, 12]], ceil_mode=True, count_include_pad=False, **padded)
    assert output.tolist() == [[4.5, 9, 12]]


def test_maximum_keeps_nan(any_backend, np_or_nd):
    output, dx = _pool([[1, np.nan, 2, 3]], pool_size=(1, 2))
    np.testing.assert_array_equal(output, [[np.nan, 3]])
    assert dx.tolist() == [[0, 1, 0, 1]]


@pytest.mark.parametrize('place', range(9))
def test_maximum_keeps_nan_wherever_it_stands(place, any_backend, np_or_nd):
    x = np.arange(9.0).reshape(3, 3)
    x[place // 3, place % 3] = np.nan
    output, dx = _pool(x, pool_size=3)
    assert np.isnan(output).all()
    assert dx.ravel().tolist() == [float(i == place) for i in range(9)]


def test_gradient_of_several_nans_goes_to_the_first(any_backend, np_or_nd):
    _, dx = _pool([[np.inf, 5, np.nan], [np.nan, 7, np.nan]], pool_size=(2, 3))
    assert dx.tolist() == [[0, 0, 1], [0, 0, 0]]


def test_maximum_keeps_infinities(any_backend, np_or_nd):
    inf = np.inf
    output, dx = _pool([[-inf, -inf, inf, 3, -inf, 1]], pool_size=(1, 2))
    assert output.tolist() == [[-inf, inf, 1]]
    assert dx.tolist() == [[1, 0, 1, 0, 0, 1]]


def test_padding_is_never_the_maximum(any_backend, np_or_nd):
    output, _ = _pool([[-3, -5], [-7, -9]], pool_size=3, strides=2, padding=1)
    assert output.tolist() == [[-3]]
    lowest = float(np.finfo('float32').min)
    output, dx = _pool([[lowest, -np.inf]], pool_size=(1, 2), strides=1, padding=(0, 1))
    assert output.tolist() == [[lowest, lowest, -np.inf]]
    assert dx.tolist() == [[2, 1]]


def test_gradient_of_equal_maxima_goes_to_the_first_in_row_major_order(any_backend, np_or_nd):
    _, dx = _pool([[1, 3, 3], [3, 3, 3]], pool_size=(2, 3), head=[[5]])
    assert dx.tolist() == [[0, 5, 0], [0, 0, 0]]
    _, dx = _pool(np.zeros((4, 4)), pool_size=2, head=[[1, 2], [3, 4]])
    assert dx.tolist() == [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]


def test_gradients_of_overlapping_windows_add_up(any_backend, np_or_nd):
    _, dx = _pool([[0, 0, 0], [0, 9, 0], [0, 0, 0]], pool_size=2, strides=1, head=[[1, 2], [3, 4]])
    assert dx.tolist() == [[0, 0, 0], [0, 10, 0], [0, 0, 0]]


def test_sums_and_means_carry_nan_and_infinities(any_backend, np_or_nd):
    inf, nan = np.inf, np.nan
    for mode in ('avg', 'sum'):
        output, _ = _pool([[nan, 1, inf, 1, inf, -inf]], pool_size=(1, 2), mode=mode)
        np.testing.assert_array_equal(output, [[nan, inf, nan]])


@pytest.mark.parametrize('mode', ['max', 'avg', 'sum', 'lp'])
def test_nan_stays_in_the_windows_that_hold_it(mode, any_backend, np_or_nd):
    (x,) = draw('nan in ' + mode, (2, 3, 9, 9))
    x = np.abs(x)
    x[1, 1, 4, 4] = np.nan
    arguments = {'pool_size': 3, 'strides': 2, 'padding': 1, 'mode': mode}
    y = functional.pooling(array_kind().array(x), **arguments).asnumpy()
    assert_close('output', y, reference.pooling(x, **arguments))
    assert np.isnan(y).sum() == 1


# -------------------------------------------------------------------- other types and layouts


@pytest.mark.parametrize('case', GRID[::23])
def test_float64_is_computed_in_float64(case, any_dtype_backend, np_or_nd):
    head, expected = case.from_loops()
    for mode in MODES:
        layer, x = Pool2D(**case.window), case.x.astype('float64')
        with empty_arrays(case.batch == 0):
            actual = measure(layer, x, head.astype('float64'), mode)
        assert_same(actual, expected, rtol=1e-13)


@pytest.mark.parametrize('case', GRID[::23])
def test_channels_last_is_the_same_pooling(case, any_dtype_backend, np_or_nd):
    head, expected = case.expected()
    expected = {name: np.moveaxis(value, 1, -1) for name, value in expected.items()}
    x, head = np.moveaxis(case.x, 1, -1), np.moveaxis(head, 1, -1)
    for mode in MODES:
        layer = Pool2D(layout='NHWC', **case.window)
        with empty_arrays(case.batch == 0):
            assert_same(measure(layer, x, head, mode), expected)


@pytest.mark.parametrize('layer', ['MaxPool2D', 'AvgPool2D', 'GlobalMaxPool2D', 'GlobalAvgPool2D'])
def test_named_layers_take_channels_last(layer, any_dtype_backend, np_or_nd):
    (x,) = draw('channels last', (2, 6, 8, 3))
    last = getattr(nn, layer)(layout='NHWC')(array_kind().array(x))
    first = getattr(nn, layer)()(array_kind().array(np.moveaxis(x, -1, 1)))
    assert_close('output', last.asnumpy(), np.moveaxis(first.asnumpy(), 1, -1), 1e-6)


def test_default_window_is_two_by_two(any_backend, np_or_nd):
    x = array_kind().array(np.arange(16, dtype='float32').reshape(1, 1, 4, 4))
    assert Pool2D()(x).asnumpy().tolist() == [[[[5, 7], [13, 15]]]]
    assert functional.pooling(x).asnumpy().tolist() == [[[[5, 7], [13, 15]]]]
