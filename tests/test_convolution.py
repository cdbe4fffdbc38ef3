"""Convolution over the whole grid: output and every gradient, as MXNet's own layer gives them."""

from __future__ import annotations

import numpy as np
import pytest
from cases import CONVOLUTION_TAILS, CONVOLUTIONS, Convolution, draw
from parity import (
    MODES,
    array_kind,
    assert_close,
    assert_layers_match,
    assert_same,
    empty_arrays,
    measure,
)

from gluon_convpool import functional, nn

WITHOUT_ACTIVATION = [case for case in CONVOLUTIONS if case.activation is None]


@pytest.mark.parametrize('case', CONVOLUTIONS, ids=str)
def test_matches_the_builtin_layer(case, backend, arrays):
    head, expected = case.expected()
    for mode in MODES:
        layer = case.build(nn)
        with empty_arrays(case.batch == 0):
            assert_same(measure(layer, case.arrays()['x'], head, mode), expected)


@pytest.mark.parametrize('case', CONVOLUTION_TAILS, ids=str)
def test_every_instruction_set_gives_the_same(case, instruction_set, np_arrays):
    head, expected = case.expected()
    assert_same(measure(case.build(nn), case.arrays()['x'], head), expected)


@pytest.mark.parametrize(
    'case',
    [
        Convolution(batch=3, channels=(17, 33), size=(19, 23), padding=1),
        Convolution(batch=5, channels=(40, 30), size=(13, 11), kernel=1),
        Convolution(batch=1, channels=(8, 8), size=(31, 29), kernel=5, padding=2, groups=8),
    ],
    ids=str,
)
def test_same_bits_for_the_same_input(case, backend, np_arrays):
    head, _ = case.expected()
    layer = case.build(nn)
    one = measure(layer, case.arrays()['x'], head)
    other = measure(layer, case.arrays()['x'], head)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize('threads', [1, 2, 3, 5])
@pytest.mark.parametrize(
    'case',
    [
        Convolution(batch=1, channels=(3, 8), size=(33, 35), padding=1),
        Convolution(batch=7, channels=(17, 33), size=(8, 8), padding=1),
        Convolution(batch=2, channels=(6, 6), size=(20, 20), padding=2, kernel=5, groups=6),
        Convolution(batch=0),
        Convolution(batch=1, channels=(1, 1), size=(1, 1), kernel=1),
    ],
    ids=str,
)
def test_any_number_of_threads_gives_the_same(case, threads, native, np_arrays, thread_count):
    thread_count(threads)
    head, expected = case.expected()
    assert_same(measure(case.build(nn), case.arrays()['x'], head), expected)


@pytest.mark.parametrize('case', WITHOUT_ACTIVATION[::25], ids=str)
def test_the_function_gives_what_the_layer_gives(case, backend, arrays):
    _, expected = case.expected()
    with empty_arrays(case.batch == 0):
        x, weight, bias = (
            None if value is None else array_kind().array(value) for value in case.arrays().values()
        )
        y = functional.convolution(x, weight, bias, **case.window)
        assert type(y) is type(x)
        assert_close('output', y.asnumpy(), expected['output'])


@pytest.mark.parametrize('case', WITHOUT_ACTIVATION[::25], ids=str)
def test_a_forced_algorithm_gives_the_same(case, native, arrays):
    """Implicit GEMM can compute every convolution."""
    head, expected = case.expected()
    layer = case.build(nn)
    layer._kwargs['algorithm'] = 'implicit_gemm'
    with empty_arrays(case.batch == 0):
        assert_same(measure(layer, case.arrays()['x'], head), expected)
        x, weight, bias = (
            None if value is None else array_kind().array(value) for value in case.arrays().values()
        )
        y = functional.convolution(x, weight, bias, **case.window, algorithm='implicit_gemm')
        assert_close('output', y.asnumpy(), expected['output'])


@pytest.mark.parametrize('channels', [2, 3])
def test_deferred_initialization_finds_the_input_channels(channels, backend, arrays):
    (x,) = draw('deferred', (2, channels, 6, 6))
    for mode in MODES:
        layer = nn.Conv2D(4, 3, groups=1)
        layer.initialize()
        if mode != 'imperative':
            layer.hybridize(static_alloc=mode == 'static', static_shape=mode == 'static')
        assert layer(array_kind().array(x)).shape == (2, 4, 4, 4)
        assert layer.weight.shape == (4, channels, 3, 3)


@pytest.mark.parametrize('mode', MODES)
def test_one_layer_takes_inputs_of_changing_sizes(mode, backend, arrays):
    case = Convolution(padding=1, kernel=(3, 5))
    layer = case.build(nn)
    for size in ((5, 7), (9, 6), (5, 7), (2, 3)):
        other = Convolution(padding=1, kernel=(3, 5), size=size)
        head, expected = other.expected()
        layer.weight.set_data(array_kind().array(other.arrays()['weight']))
        layer.bias.set_data(array_kind().array(other.arrays()['bias']))
        assert_same(measure(layer, other.arrays()['x'], head, mode), expected)


@pytest.mark.parametrize('use_bias', [True, False])
def test_float64_is_computed_in_float64(use_bias, any_dtype_backend, arrays):
    case = Convolution(padding=1, strides=2, groups=2, channels=(4, 6), use_bias=use_bias)
    head, expected = case.from_loops()
    for mode in MODES:
        layer = case.build(nn)
        layer.cast('float64')
        actual = measure(layer, case.arrays()['x'].astype('float64'), head.astype('float64'), mode)
        assert_same(actual, expected, tolerance=1e-13)


@pytest.mark.parametrize('groups', [1, 2])
def test_channels_last_is_the_same_convolution(groups, any_dtype_backend, arrays):
    case = Convolution(
        channels=(4, 6), kernel=(3, 2), padding=(1, 0), strides=(2, 1), groups=groups
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


def test_nan_and_infinities_go_where_arithmetic_sends_them(backend, arrays):
    x = np.zeros((1, 1, 5, 5), 'float32')
    x[0, 0, 0, 0], x[0, 0, 4, 4] = np.nan, np.inf
    y = functional.convolution(
        array_kind().array(x), array_kind().array(np.ones((1, 1, 2, 2), 'float32'))
    ).asnumpy()[0, 0]
    expected = np.zeros((4, 4))
    expected[0, 0], expected[3, 3] = np.nan, np.inf
    np.testing.assert_array_equal(y, expected)


def test_views_and_slices_are_read_as_they_are(backend, arrays):
    (big,) = draw('views', (4, 6, 9, 9))
    layer = Convolution(channels=(3, 5)).build(nn)
    x = (
        array_kind().array(big)[1:3, 2:5]
        if arrays == 'np'
        else (array_kind().array(big).slice(begin=(1, 2, 0, 0), end=(3, 5, 9, 9)))
    )
    copied = array_kind().array(big[1:3, 2:5])
    np.testing.assert_array_equal(layer(x).asnumpy(), layer(copied).asnumpy())


def test_layer_inside_a_network_of_builtin_layers(backend, arrays):
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
