"""Padding beyond what MXNet has: 'same' and 'valid', pairs, and what the added elements are.

NumPy's `pad` says what that is; behind it the convolution is the one without padding.
"""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

import gluon_convpool
from gluon_convpool import functional, geometry, nn
from gluon_convpool.testing import (
    MODES,
    array_kind,
    assert_close,
    assert_gradients_numeric,
    assert_layers_match,
    assert_same,
    draw,
    empty_arrays,
    measure,
    reference,
)

NUMPY_MODES = {'zeros': 'constant', 'reflect': 'reflect', 'replicate': 'edge', 'circular': 'wrap'}
SIZES = {1: (9,), 2: (7, 6), 3: (5, 4, 6)}
PAIRS = {1: ((2, 1),), 2: ((0, 2), (3, 1)), 3: ((1, 0), (0, 2), (2, 2))}


def padded(x, pairs, mode):
    return np.pad(x, ((0, 0), (0, 0), *pairs), NUMPY_MODES[mode])


def gradient_of_padding(head, shape, pairs, mode):
    """Each element of the padded array gives its gradient to the one that it is a copy of."""
    places = np.arange(1, 1 + np.prod(shape)).reshape(shape)
    copied = padded(places, pairs, mode)
    gradient = np.zeros(1 + places.size)
    np.add.at(gradient, copied.ravel(), head.ravel())
    return gradient[1:].reshape(shape)


def expected_of(x, weight, bias, pairs, mode, **window):
    wide = padded(x, pairs, mode)
    y = reference.convolution(wide, weight, bias, **window)
    (head,) = draw(f'head of {mode} {pairs}', y.shape)
    dwide, dweight, dbias = reference.convolution_gradients(head, wide, weight, **window)
    dx = gradient_of_padding(dwide, x.shape, pairs, mode)
    return head, {'output': y, 'x': dx, 'weight': dweight, 'bias': dbias}


@pytest.mark.parametrize('layout', ['first', 'last'])
@pytest.mark.parametrize('mode', geometry.PADDING_MODES)
@pytest.mark.parametrize('ndim', [1, 2, 3])
def test_output_and_gradients(ndim, mode, layout, any_dtype_backend, np_or_nd):
    x, weight, bias = draw('pad', (2, 4, *SIZES[ndim]), (6, 2) + (3,) * ndim, (6,))
    window = {'strides': 2, 'dilation': 1, 'groups': 2}
    head, expected = expected_of(x, weight, bias, PAIRS[ndim], mode, **window)
    move = np.asarray if layout == 'first' else lambda value: np.moveaxis(value, 1, -1)
    expected = {k: v if k == 'bias' else move(v) for k, v in expected.items()}
    name = geometry.LAYOUTS[ndim][layout == 'last']
    for run in MODES:
        layer = getattr(nn, f'Conv{ndim}D')(
            6, 3, padding=PAIRS[ndim], padding_mode=mode, layout=name, in_channels=4, **window
        )
        layer.initialize()
        layer.weight.set_data(array_kind().array(move(weight)))
        layer.bias.set_data(array_kind().array(bias))
        assert_same(measure(layer, move(x), move(head), run), expected)
    arrays = [array_kind().array(value) for value in (move(x), move(weight), bias)]
    y = functional.convolution(
        *arrays, padding=PAIRS[ndim], padding_mode=mode, layout=name, **window
    )
    assert_close('output', y.asnumpy(), expected['output'])


@pytest.mark.parametrize('mode', geometry.PADDING_MODES)
@pytest.mark.parametrize('strides', [1, 2, 3])
@pytest.mark.parametrize('kernel, dilation', [(1, 1), (2, 1), (3, 1), (4, 1), (3, 2)])
def test_same_gives_a_window_for_each_step(
    kernel, dilation, strides, mode, any_dtype_backend, np_arrays
):
    """``ceil(n / strides)`` outputs, the first window ``(extent - 1) // 2`` before the data."""
    total = dilation * (kernel - 1)
    pairs = ((total // 2, total - total // 2),) * 2
    for n in (5, 6, 7):
        x, weight = draw('same', (1, 2, n, n + 1), (3, 2, kernel, kernel))
        y = functional.convolution(
            mx.np.array(x),
            mx.np.array(weight),
            padding='same',
            strides=strides,
            dilation=dilation,
            padding_mode=mode,
        )
        assert y.shape == (1, 3, -(-n // strides), -(-(n + 1) // strides))
        wide = padded(x, pairs, mode)
        expected = reference.convolution(wide, weight, strides=strides, dilation=dilation)
        assert_close('output', y.asnumpy(), expected)


def test_valid_is_no_padding_and_odd_windows_are_padded_by_the_kernels():
    assert nn.Conv2D(4, 3, padding='valid')._kwargs['pad'] == (0, 0)
    assert nn.Conv2D(4, (3, 5), padding='same')._kwargs['pad'] == (1, 2)
    assert nn.Conv2D(4, 3, padding='same', dilation=3)._kwargs['pad'] == (3, 3)
    assert nn.Conv2D(4, 3, padding=((1, 1), (2, 2)))._kwargs['pad'] == (1, 2)
    for layer in (
        nn.Conv2D(4, 3, padding='same'),
        nn.Conv2D(4, 3, padding=0, padding_mode='reflect'),
    ):
        assert 'border' not in layer._kwargs
    assert 'border' in nn.Conv2D(4, 2, padding='same')._kwargs


@pytest.mark.parametrize('mode', geometry.PADDING_MODES)
def test_gradients_are_those_of_the_output(mode, any_dtype_backend, np_or_nd):
    layer = nn.Conv2D(3, 3, padding=((2, 1), (0, 3)), padding_mode=mode, activation='tanh')
    assert assert_gradients_numeric(layer, draw('numeric', (2, 2, 5, 6))[0]) == 'float64'


@pytest.mark.parametrize('mode', geometry.PADDING_MODES)
def test_an_empty_batch(mode, any_dtype_backend, np_or_nd):
    with empty_arrays(True):
        layer = nn.Conv2D(3, 3, padding=((2, 1), (0, 3)), padding_mode=mode, in_channels=2)
        layer.initialize()
        x = array_kind().zeros((0, 2, 5, 6))
        x.attach_grad()
        for hybridized in (False, True):
            layer.hybridize(hybridized)
            with autograd.record():
                y = layer(x)
            y.backward()
            assert y.shape == (0, 3, 6, 7) and x.grad.shape == x.shape


def test_a_layer_says_how_it_pads():
    text = repr(nn.Conv2D(4, 3, padding=((1, 2), (0, 1)), padding_mode='circular'))
    assert 'padding=((1, 2), (0, 1)), padding_mode=circular' in text
    assert 'padding_mode' not in repr(nn.Conv2D(4, 3, padding=1))


def test_mxnet_has_no_such_layer(np_arrays):
    report = gluon_convpool.swap(nn.Conv2D(4, 3, padding='same', padding_mode='reflect'), 'mxnet')
    assert not report.replaced and 'reflect' in report.left[0].reason
    assert not gluon_convpool.swap(nn.Conv2D(4, 3, padding='same'), 'mxnet').left


# --------------------------------------------------------------------------- padding by itself


@pytest.mark.parametrize('layout', ['first', 'last'])
@pytest.mark.parametrize('mode', geometry.PADDING_MODES)
@pytest.mark.parametrize('ndim', [1, 2, 3])
def test_pad_is_what_numpy_does(ndim, mode, layout, np_or_nd):
    move = np.asarray if layout == 'first' else lambda value: np.moveaxis(value, 1, -1)
    for dtype in ('float32', 'float64', 'float16'):
        x = draw('pad alone', (2, 3, *SIZES[ndim]))[0].astype(dtype)
        found = functional.pad(
            array_kind().array(move(x), dtype=dtype),
            PAIRS[ndim],
            mode,
            geometry.LAYOUTS[ndim][layout == 'last'],
        ).asnumpy()
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, move(padded(x, PAIRS[ndim], mode)))


@pytest.mark.parametrize('padding', [0, 2, (0, 0, 0, 0, 1, 2, 3, 0)], ids=str)
def test_reflection_layer_matches_the_builtin_one(padding, nd_arrays):
    (x,) = draw('reflection', (2, 3, 5, 6))
    assert_layers_match(nn.ReflectionPad2D(padding), gluon.nn.ReflectionPad2D(padding), x)
    assert isinstance(nn.ReflectionPad2D(), gluon.nn.ReflectionPad2D)


def test_reflection_layer_takes_pairs_and_arrays_of_both_kinds(np_or_nd):
    x, head = draw('reflection', (2, 3, 5, 6), (2, 3, 8, 9))
    pairs = ((1, 2), (0, 3))
    dx = gradient_of_padding(head, x.shape, pairs, 'reflect')
    for run in MODES:
        found = measure(nn.ReflectionPad2D(pairs), x, head, run)
        assert_same(found, {'output': padded(x, pairs, 'reflect'), 'x': dx})
    layer = nn.ReflectionPad2D(5)
    with pytest.raises(ValueError, match=r'pad: padding=.*at least \(6, 6\).* are \(5, 6\)'):
        layer(array_kind().array(x))
    with pytest.raises(ValueError, match='ReflectionPad2D: padding=-1'):
        nn.ReflectionPad2D(-1)
    with pytest.raises(TypeError, match="ReflectionPad2D: padding='same' must be an integer"):
        nn.ReflectionPad2D('same')


# ------------------------------------------------------------------------------- bad input

WRONG = [
    ({'padding': 'full'}, ["padding='full'", "'same', 'valid'"]),
    ({'padding': ((1, 2),)}, ['padding=((1, 2),)', 'pair', '2 axes']),
    ({'padding': ((1, 2), 1)}, ['padding=((1, 2), 1)', 'pair']),
    ({'padding': ((1, 2, 3), (1, 2))}, ['padding=((1, 2, 3), (1, 2))', 'pair']),
    ({'padding': ((1, -2), (1, 2))}, ['padding=((1, -2), (1, 2))', 'at least 0']),
    ({'padding': ((1, 0.5), (1, 2))}, ['padding=((1, 0.5), (1, 2))', 'integer']),
    ({'padding_mode': 'mirror'}, ["padding_mode='mirror'", "'reflect'", "'circular'"]),
    ({'padding_mode': None}, ['padding_mode=None', "'zeros'"]),
]


@pytest.mark.parametrize(
    'mistake, words', WRONG, ids=lambda v: str(v) if isinstance(v, dict) else ''
)
def test_a_wrong_argument_is_named(mistake, words):
    x, weight = mx.nd.zeros((1, 2, 5, 5)), mx.nd.zeros((4, 2, 3, 3))
    for name, call in (
        ('Conv2D', lambda: nn.Conv2D(4, 3, **mistake)),
        ('convolution', lambda: functional.convolution(x, weight, **mistake)),
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            call()
        for word in [name, *words]:
            assert word in str(caught.value)


@pytest.mark.parametrize(
    'mode, pairs, least',
    [
        ('reflect', ((4, 0), (0, 0)), '(5, 1)'),
        ('circular', ((0, 0), (1, 5)), '(1, 5)'),
        ('replicate', ((9, 9), (0, 0)), '(1, 1)'),
    ],
)
def test_data_that_is_too_small_to_copy_from(mode, pairs, least, any_dtype_backend, np_arrays):
    size = (0, 4) if mode == 'replicate' else (4, 4)
    layer = nn.Conv2D(4, 1, padding=pairs, padding_mode=mode, in_channels=2)
    layer.initialize()
    x = mx.np.zeros((1, 2, *size))
    with pytest.raises(ValueError) as caught:
        layer(x)
    for word in (f"padding_mode='{mode}'", str(pairs), least, str(size)):
        assert word in str(caught.value)
    net = gluon.nn.HybridSequential()
    net.add(layer)
    net.hybridize()
    with pytest.raises(mx.base.MXNetError, match=f"with padding_mode='{mode}' copies"):
        net(x).asnumpy()


def test_a_window_that_does_not_fit_the_padded_data(any_dtype_backend, np_or_nd):
    layer = nn.Conv2D(4, 9, padding=((1, 2), (0, 1)))
    layer.initialize()
    with pytest.raises(ValueError, match=r'padding=\(\(1, 2\), \(0, 1\)\) has only \(8, 6\)'):
        layer(array_kind().zeros((1, 2, 5, 5)))
