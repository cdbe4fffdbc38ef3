"""What MXNet cannot compute, or not on every axis and layout, as SciPy gives it in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import ndimage, signal

from gluon_convpool import functional, geometry
from gluon_convpool.testing import array_kind, assert_close, draw

SIZES = {1: (13,), 2: (9, 8), 3: (6, 5, 7)}
KERNELS = {1: (3,), 2: (3, 2), 3: (2, 3, 3)}
# SciPy's names of what lies over the edge.
MODES = {'zeros': 'constant', 'reflect': 'mirror', 'replicate': 'nearest', 'circular': 'wrap'}
LAYOUTS = [(ndim, layout) for ndim, layouts in geometry.LAYOUTS.items() for layout in layouts]

each_layout = pytest.mark.parametrize('ndim, layout', LAYOUTS)


def numbers(name, *shape):
    return draw(f'SciPy {name}', shape)[0].astype('float64')


def call(function, layout, x, *weights, **arguments):
    """`function` of arrays of layout NC..., computed in `layout`."""
    back = [layout.index(axis) for axis in 'NC' + layout.strip('NC')]
    order = np.argsort(back)
    arrays = [array_kind().array(a.transpose(order), dtype='float64') for a in (x, *weights)]
    return function(*arrays, layout=layout, **arguments).asnumpy().transpose(back)


def stretched(kernel, steps):
    """Zeros between the elements along the last axes."""
    ndim = len(steps)
    sizes = [(n - 1) * step + 1 for n, step in zip(kernel.shape[-ndim:], steps)]
    out = np.zeros(kernel.shape[:-ndim] + tuple(sizes))
    out[(..., *(slice(None, None, step) for step in steps))] = kernel
    return out


def convolved(x, weight, groups, pair):
    """Sum over the input channels of what `pair` makes of an image and a kernel."""
    outer, inner = weight.shape[:2]
    return np.stack(
        [
            [
                sum(
                    pair(image[o // (outer // groups) * inner + i], weight[o, i])
                    for i in range(inner)
                )
                for o in range(outer)
            ]
            for image in x
        ]
    )


@each_layout
@pytest.mark.parametrize('strides, dilation, groups', [(1, 1, 1), (2, 1, 2), (1, 2, 1), (3, 2, 4)])
def test_convolution(ndim, layout, strides, dilation, groups, any_dtype_backend, np_or_nd):
    x = numbers('x', 2, 4, *SIZES[ndim])
    weight = numbers('weight', 4, 4 // groups, *KERNELS[ndim])
    found = call(
        functional.convolution,
        layout,
        x,
        weight,
        strides=strides,
        dilation=dilation,
        groups=groups,
        padding=1,
    )
    padded = np.pad(x, [(0, 0)] * 2 + [(1, 1)] * ndim)
    every = (slice(None, None, strides),) * ndim
    expected = convolved(
        padded,
        stretched(weight, (dilation,) * ndim),
        groups,
        lambda image, kernel: signal.correlate(image, kernel, 'valid', method='direct')[every],
    )
    assert_close('output', found, expected, 1e-13)


@each_layout
@pytest.mark.parametrize('mode', MODES)
def test_padding_modes(ndim, layout, mode, any_dtype_backend, np_or_nd):
    x = numbers('x', 2, 2, *SIZES[ndim])
    weight = numbers('weight', 3, 2, *KERNELS[ndim])
    found = call(
        functional.convolution,
        layout,
        x,
        weight,
        padding='same',
        padding_mode=mode,
        kernel_size=None,
    )
    # an even window has one element more behind its middle here, and before it in SciPy
    origins = [-1 if k % 2 == 0 else 0 for k in KERNELS[ndim]]
    expected = convolved(
        x,
        weight,
        1,
        lambda image, kernel: ndimage.correlate(image, kernel, mode=MODES[mode], origin=origins),
    )
    assert_close('output', found, expected, 1e-13)


@each_layout
@pytest.mark.parametrize('strides, dilation', [(1, 1), (2, 1), (3, 2)])
def test_transposed_convolution(ndim, layout, strides, dilation, any_dtype_backend, np_or_nd):
    x = numbers('x', 2, 3, *SIZES[ndim])
    weight = numbers('weight', 3, 2, *KERNELS[ndim])
    found = call(
        functional.convolution_transpose, layout, x, weight, strides=strides, dilation=dilation
    )
    expected = convolved(
        stretched(x, (strides,) * ndim),
        stretched(weight, (dilation,) * ndim).swapaxes(0, 1),
        1,
        lambda image, kernel: signal.convolve(image, kernel, 'full', method='direct'),
    )
    assert_close('output', found, expected, 1e-13)


@each_layout
@pytest.mark.parametrize('mode', ['max', 'avg', 'sum'])
@pytest.mark.parametrize('window, strides', itertools.product((2, 3), (1, 2)))
def test_pooling(ndim, layout, mode, window, strides, any_dtype_backend, np_or_nd):
    x = numbers('x', 2, 3, *SIZES[ndim])
    arguments = {'pool_size': window, 'strides': strides, 'padding': 1, 'mode': mode}
    found = call(functional.pooling, layout, x, **arguments)
    # filters of SciPy give a number for each element, that of the window around it
    filters = {
        'max': lambda image: ndimage.maximum_filter(image, window, mode='constant', cval=-np.inf),
        'sum': lambda image: ndimage.correlate(image, np.ones((window,) * ndim), mode='constant'),
        'avg': lambda image: ndimage.uniform_filter(image, window, mode='constant'),
    }
    # SciPy's windows of two begin one element before the middle, of three too: at the padding
    ends = [(n + 2 - window) // strides * strides + 1 for n in SIZES[ndim]]
    at = tuple(slice(0, end, strides) for end in ends)
    whole = np.pad(
        x, [(0, 0)] * 2 + [(0, 1)] * ndim, constant_values=-np.inf if mode == 'max' else 0
    )
    expected = np.stack([[filters[mode](channel)[at] for channel in image] for image in whole])
    assert_close('output', found, expected, 1e-13)
