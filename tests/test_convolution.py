"""Convolution over the whole grid: output and every gradient, as MXNet's own layer gives them."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from gluon_convpool import functional, geometry, nn, use_backend
from gluon_convpool.testing import (
    MODES,
    ConvolutionCase,
    array_kind,
    assert_close,
    assert_layers_match,
    assert_same,
    draw,
    empty_arrays,
    measure,
    parity_cases,
    set_mode,
)
from gluon_convpool.testing.reference import per_axis

SAMPLE = parity_cases('conv', activation=None)[::25]


@pytest.mark.parametrize('case', parity_cases('conv', tails=False))
def test_matches_the_builtin_layer(case, any_backend, np_or_nd):
    """Static mode runs the graph of hybrid mode, and plans its memory in addition."""
    assert_layers_match(case.build(nn), case, modes=['imperative', 'static'])


@pytest.mark.parametrize('case', parity_cases('conv', tails=True))
def test_matches_at_the_boundaries_of_blocks(case, native, np_arrays):
    """Only the native backend has blocks, and both kinds of arrays reach the same kernels."""
    assert_layers_match(case.build(nn), case, modes=['imperative', 'static'])


@pytest.mark.parametrize('case', parity_cases('conv', tails=True, grid='quick'))
def test_matches_at_some_of_these_boundaries_without_blocks(case, np_arrays):
    with use_backend('portable'):
        assert_layers_match(case.build(nn), case, modes=['imperative', 'static'])


@pytest.mark.parametrize('case', parity_cases('conv', grid='quick')[::2])
def test_a_new_layer_may_begin_in_any_mode(case, any_backend, np_or_nd):
    assert_layers_match(lambda: case.build(nn), case)


@pytest.mark.parametrize('case', parity_cases('conv', tails=True))
def test_every_instruction_set_gives_the_same(case, instruction_set, np_arrays):
    head, expected = case.expected()
    assert_same(measure(case.build(nn), case.x, head), expected)


@pytest.mark.parametrize(
    'case',
    [
        ConvolutionCase(batch=3, channels=(17, 33), size=(19, 23), padding=1),
        ConvolutionCase(batch=5, channels=(40, 30), size=(13, 11), kernel_size=1),
        ConvolutionCase(1, (8, 8), (31, 29), kernel_size=5, padding=2, groups=8),
    ],
    ids=str,
)
def test_same_bits_for_the_same_input(case, any_backend, np_arrays):
    head, _ = case.expected()
    layer = case.build(nn)
    one = measure(layer, case.x, head)
    other = measure(layer, case.x, head)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize('threads', [1, 2, 3, 5])
@pytest.mark.parametrize(
    'case',
    [
        ConvolutionCase(batch=1, channels=(3, 8), size=(33, 35), padding=1),
        ConvolutionCase(batch=7, channels=(17, 33), size=(8, 8), padding=1),
        ConvolutionCase(2, (6, 6), (20, 20), kernel_size=5, padding=2, groups=6),
        ConvolutionCase(batch=0),
        ConvolutionCase(batch=1, channels=(1, 1), size=(1, 1), kernel_size=1),
    ],
    ids=str,
)
def test_any_number_of_threads_gives_the_same(case, threads, native, np_arrays, thread_count):
    thread_count(threads)
    head, expected = case.expected()
    assert_same(measure(case.build(nn), case.x, head), expected)


@pytest.mark.parametrize('case', SAMPLE)
def test_the_function_gives_what_the_layer_gives(case, any_backend, np_or_nd):
    _, expected = case.expected()
    with empty_arrays(case.batch == 0):
        arrays = {name: array_kind().array(value) for name, value in case.arrays().items()}
        y = functional.convolution(**arrays, **case.window)
        assert type(y) is type(arrays['x'])
        assert_close('output', y.asnumpy(), expected['output'])


def winograd_fits(case):
    """Are there tiles: has a phase of the stride several taps, along one axis at least?

    Depth is summed over like channels. Phases of a dilated axis have no tiles.
    """
    window = (case.kernel_size, case.strides, case.dilation)
    outputs = case.expected()[1]['output'].shape[2:]
    taps = []
    for kernel, stride, dilation, out in zip(
        *(per_axis(value, case.ndim)[-2:] for value in window), outputs[-2:]
    ):
        if out == 1:
            stride = 1
        if kernel > 1 and stride > 1 and dilation > 1:
            return False
        taps.append(math.ceil(kernel / stride))
    return max(taps) >= 2


FITS = {
    'implicit_gemm': lambda case: True,
    'winograd': winograd_fits,
    'depthwise': lambda case: case.ndim < 3 and case.groups == case.channels[0],
}


# An activation such as tanh leaves values up to one of sums that are many times as large, and so
# magnifies their error; it is not the algorithms' matter.
PLAIN = [case for dims in (1, 2, 3) for case in parity_cases('conv', dims, activation=None)]


@pytest.mark.parametrize('case', PLAIN)
@pytest.mark.parametrize('algorithm', FITS)
def test_a_forced_algorithm_gives_the_same_or_says_what_it_needs(
    algorithm, case, native, np_arrays
):
    head, expected = case.expected()
    layer = case.build(functools.partial(getattr(nn, case.layer_name), algorithm=algorithm))
    fits = FITS[algorithm](case)
    try:
        with empty_arrays(case.batch == 0):
            actual = measure(layer, case.x, head)
    except ValueError as error:
        needs = geometry.MESSAGES['needs_' + algorithm]
        assert f'algorithm={algorithm!r} cannot compute' in str(error)
        assert str(error).endswith('it needs ' + needs)
        # Groups of one channel fill so little of a vector that Winograd may need too much memory.
        assert not fits or (algorithm == 'winograd' and case.groups == case.channels[0])
    else:
        assert fits
        assert_same(actual, expected)


@pytest.mark.parametrize('case', SAMPLE)
def test_the_function_forces_an_algorithm_too(case, native, np_or_nd):
    """Implicit GEMM can compute every convolution."""
    _, expected = case.expected()
    with empty_arrays(case.batch == 0):
        arrays = {name: array_kind().array(value) for name, value in case.arrays().items()}
        y = functional.convolution(**arrays, **case.window, algorithm='implicit_gemm')
        assert_close('output', y.asnumpy(), expected['output'])


@pytest.mark.parametrize('channels', [2, 3])
def test_deferred_initialization_finds_the_input_channels(channels, any_backend, np_or_nd):
    (x,) = draw('deferred', (2, channels, 6, 6))
    for mode in MODES:
        layer = nn.Conv2D(4, 3, groups=1)
        layer.initialize()
        set_mode(layer, mode)
        assert layer(array_kind().array(x)).shape == (2, 4, 4, 4)
        assert layer.weight.shape == (4, channels, 3, 3)


@pytest.mark.parametrize('mode', MODES)
def test_one_layer_takes_inputs_of_changing_sizes(mode, any_backend, np_or_nd):
    case = ConvolutionCase(padding=1, kernel_size=(3, 5))
    layer = case.build(nn)
    for size in ((5, 7), (9, 6), (5, 7), (2, 3)):
        other = ConvolutionCase(padding=1, kernel_size=(3, 5), size=size)
        assert_layers_match(layer, other, modes=[mode])


@pytest.mark.parametrize('use_bias', [True, False])
def test_float64_is_computed_in_float64(use_bias, any_dtype_backend, np_or_nd):
    case = ConvolutionCase(padding=1, strides=2, groups=2, channels=(4, 6), use_bias=use_bias)
    head, expected = case.from_loops()
    for mode in MODES:
        layer = case.build(nn)
        layer.cast('float64')
        actual = measure(layer, case.x.astype('float64'), head.astype('float64'), mode)
        assert_same(actual, expected, rtol=1e-13)


@pytest.mark.parametrize('groups', [1, 2])
def test_channels_last_is_the_same_convolution(groups, any_dtype_backend, np_or_nd):
    case = ConvolutionCase(
        channels=(4, 6), kernel_size=(3, 2), padding=(1, 0), strides=(2, 1), groups=groups
    )
    head, expected = case.from_loops()
    expected = {
        name: value if name == 'bias' else np.moveaxis(value, 1, -1)
        for name, value in expected.items()
    }
    for mode in MODES:
        layer = nn.Conv2D(6, (3, 2), (2, 1), (1, 0), groups=groups, layout='NHWC', in_channels=4)
        layer.initialize()
        assert layer.weight.shape == (6, 3, 2, 4 // groups)
        values = case.arrays()
        layer.weight.set_data(array_kind().array(np.moveaxis(values['weight'], 1, -1)))
        layer.bias.set_data(array_kind().array(values['bias']))
        x, last = np.moveaxis(values['x'], 1, -1), np.moveaxis(head, 1, -1)
        assert_same(measure(layer, x, last, mode), expected)


def test_nan_and_infinities_go_where_arithmetic_sends_them(any_backend, np_or_nd):
    x = np.zeros((1, 1, 5, 5), 'float32')
    x[0, 0, 0, 0], x[0, 0, 4, 4] = np.nan, np.inf
    y = functional.convolution(
        array_kind().array(x), array_kind().array(np.ones((1, 1, 2, 2), 'float32'))
    ).asnumpy()[0, 0]
    expected = np.zeros((4, 4))
    expected[0, 0], expected[3, 3] = np.nan, np.inf
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize('width', [192, 191])
def test_an_output_larger_than_a_core_keeps_is_the_same(width, native, np_or_nd):
    """Of 8 MB and more, in whole aligned vectors or not: the former are stored past the caches."""
    x, weight, bias = draw('large', (1, 4, 192, width), (64, 4, 1, 1), (64,))
    assert 64 * 192 * width * 4 >= 8 << 20
    arrays = [array_kind().array(one) for one in (x, weight, bias)]
    y = functional.convolution(*arrays, algorithm='implicit_gemm').asnumpy()
    expected = np.einsum(
        'nchw,oc->nohw', *(one.astype('float64') for one in (x, weight[..., 0, 0]))
    )
    assert_close('output', y, expected + bias.reshape(1, -1, 1, 1))


@pytest.mark.parametrize('width', [192, 191])
def test_depthwise_arrays_larger_than_a_core_keeps_are_the_same(width, native, np_arrays):
    case = ConvolutionCase(
        batch=1, channels=(64, 64), size=(192, width), padding=1, groups=64, use_bias=False
    )
    assert case.x.nbytes >= 8 << 20
    assert_layers_match(case.build(nn), case, modes=['imperative'])


def test_views_and_slices_are_read_as_they_are(any_backend, np_or_nd):
    (big,) = draw('views', (4, 6, 9, 9))
    layer = ConvolutionCase(channels=(3, 5)).build(nn)
    x = (
        array_kind().array(big)[1:3, 2:5]
        if np_or_nd == 'np'
        else (array_kind().array(big).slice(begin=(1, 2, 0, 0), end=(3, 5, 9, 9)))
    )
    copied = array_kind().array(big[1:3, 2:5])
    np.testing.assert_array_equal(layer(x).asnumpy(), layer(copied).asnumpy())


def test_layer_inside_a_network_of_builtin_layers(any_backend, np_or_nd):
    def network(conv):
        net = conv.HybridSequential()
        net.add(
            conv.Conv2D(8, 3, padding=1, activation='relu'),
            conv.BatchNorm(),
            conv.MaxPool2D(2),
            conv.Conv2D(6, 1, use_bias=False),
            conv.AvgPool2D(2, strides=1, padding=1),
            conv.GlobalAvgPool2D(),
            conv.Flatten(),
            conv.Dense(5),
        )
        return net

    from mxnet.gluon import nn as builtin

    ours, theirs = network(nn), network(builtin)
    for net in (ours, theirs):
        net.initialize()
    (x,) = draw('network', (4, 3, 10, 10))
    assert_layers_match(ours, theirs, x)
