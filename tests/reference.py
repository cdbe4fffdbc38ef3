"""Convolution and pooling as the definitions say, in float64, with NumPy only.

Nothing here knows the package or MXNet. A convolution is a sum over the taps of its kernel, a
pooling a loop over its windows; the gradients are the same loops run backwards. Slow and plain on
purpose.
"""

from __future__ import annotations

import math

import numpy as np


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def _float64(array):
    return np.asarray(array, dtype=np.float64)


# --------------------------------------------------------------------------------- convolution


class _Taps:
    """The part of the padded input that meets one tap of the kernel, for every output position."""

    def __init__(self, input_shape, weight_shape, strides, padding, dilation):
        self.strides, self.padding, self.dilation = map(_pair, (strides, padding, dilation))
        self.kernel = weight_shape[2:]
        self.size = input_shape[2:]
        self.padded = tuple(n + 2 * p for n, p in zip(self.size, self.padding))
        self.out = tuple(
            (n - d * (k - 1) - 1) // s + 1
            for n, d, k, s in zip(self.padded, self.dilation, self.kernel, self.strides)
        )

    def __iter__(self):
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                rows, columns = (
                    slice(tap * d, tap * d + s * (o - 1) + 1, s)
                    for tap, d, s, o in zip((i, j), self.dilation, self.strides, self.out)
                )
                yield i, j, (Ellipsis, rows, columns)

    def inside(self):
        (top, left), (height, width) = self.padding, self.size
        return Ellipsis, slice(top, top + height), slice(left, left + width)


def _by_group(x, weight, groups):
    x, weight = _float64(x), _float64(weight)
    return (
        x.reshape((x.shape[0], groups, x.shape[1] // groups) + x.shape[2:]),
        weight.reshape((groups, weight.shape[0] // groups) + weight.shape[1:]),
    )


def convolution(x, weight, bias=None, strides=1, padding=0, dilation=1, groups=1):
    """The cross-correlation of x (N, C, H, W) with weight (O, C / groups, kH, kW), plus bias."""
    taps = _Taps(np.shape(x), np.shape(weight), strides, padding, dilation)
    x, weight = _by_group(x, weight, groups)
    padded = np.zeros(x.shape[:3] + taps.padded)
    padded[taps.inside()] = x
    y = np.zeros((x.shape[0], groups, weight.shape[1]) + taps.out)
    for i, j, where in taps:
        y += np.einsum('ngchw,goc->ngohw', padded[where], weight[..., i, j])
    y = y.reshape((x.shape[0], groups * weight.shape[1]) + taps.out)
    return y if bias is None else y + _float64(bias).reshape((1, -1, 1, 1))


def convolution_gradients(head, x, weight, strides=1, padding=0, dilation=1, groups=1):
    """The gradients of sum(head * convolution(x, weight, bias)) by x, weight and bias."""
    shapes = np.shape(x), np.shape(weight)
    taps = _Taps(shapes[0], shapes[1], strides, padding, dilation)
    head = _float64(head)
    x, weight = _by_group(x, weight, groups)
    by_group = head.reshape((head.shape[0], groups, head.shape[1] // groups) + taps.out)
    padded = np.zeros(x.shape[:3] + taps.padded)
    padded[taps.inside()] = x
    dx, dweight = np.zeros_like(padded), np.zeros_like(weight)
    for i, j, where in taps:
        dx[where] += np.einsum('ngohw,goc->ngchw', by_group, weight[..., i, j])
        dweight[..., i, j] = np.einsum('ngohw,ngchw->goc', by_group, padded[where])
    return (
        dx[taps.inside()].reshape(shapes[0]),
        dweight.reshape(shapes[1]),
        head.sum(axis=(0, 2, 3)),
    )


# ------------------------------------------------------------------------------------- pooling


class _Windows:
    """Each output position with its window: the part inside the input and the divisor of a mean."""

    def __init__(self, shape, pool_size, strides, padding, ceil_mode, count_include_pad):
        self.kernel = _pair(pool_size)
        self.strides = self.kernel if strides is None else _pair(strides)
        self.padding = _pair(padding)
        self.size = shape[2:]
        self.count_include_pad = count_include_pad
        rounding = math.ceil if ceil_mode else math.floor
        self.out = tuple(
            rounding((n + 2 * p - k) / s) + 1
            for n, p, k, s in zip(self.size, self.padding, self.kernel, self.strides)
        )

    def __iter__(self):
        for i in range(self.out[0]):
            for j in range(self.out[1]):
                inside, counts = [], []
                for position, n, k, s, p in zip(
                    (i, j), self.size, self.kernel, self.strides, self.padding
                ):
                    start = position * s - p
                    stop = min(start + k, n + p)
                    clipped = slice(max(start, 0), max(min(stop, n), max(start, 0)))
                    inside.append(clipped)
                    within = clipped.stop - clipped.start
                    counts.append(stop - start if self.count_include_pad else within)
                yield i, j, (slice(None), slice(None), *inside), counts[0] * counts[1]


def _flat(window):
    return window.reshape(window.shape[:2] + (window.shape[2] * window.shape[3],))


def _first_maximum(flat):
    """The place of the first NaN of each row, or of its first maximum if it holds none."""
    nan = np.isnan(flat)
    maximum = np.argmax(np.where(nan, -np.inf, flat), axis=-1)
    return np.where(nan.any(axis=-1), np.argmax(nan, axis=-1), maximum)


def pooling(
    x,
    pool_size=2,
    strides=None,
    padding=0,
    mode='max',
    ceil_mode=False,
    count_include_pad=True,
    p=2,
    global_pool=False,
):
    """Pool x (N, C, H, W) over windows; see `_Windows` for what a window at the border holds."""
    x = _float64(x)
    if global_pool:
        pool_size, strides, padding, ceil_mode = x.shape[2:], 1, 0, False
    windows = _Windows(x.shape, pool_size, strides, padding, ceil_mode, count_include_pad)
    y = np.zeros(x.shape[:2] + windows.out)
    for i, j, where, count in windows:
        values = _flat(x[where])
        if values.shape[-1] == 0:
            y[:, :, i, j] = -np.inf if mode == 'max' else 0.0
        elif mode == 'max':
            y[:, :, i, j] = values.max(axis=-1)
        elif mode == 'avg':
            y[:, :, i, j] = values.sum(axis=-1) / count
        elif mode == 'sum' or p == 1:
            y[:, :, i, j] = values.sum(axis=-1)
        elif p == 2:
            y[:, :, i, j] = np.sqrt((values**2).sum(axis=-1))
        else:
            y[:, :, i, j] = np.cbrt((values**3).sum(axis=-1))
    return y


def pooling_gradient(
    head,
    x,
    pool_size=2,
    strides=None,
    padding=0,
    mode='max',
    ceil_mode=False,
    count_include_pad=True,
    p=2,
    global_pool=False,
):
    """The gradient of sum(head * pooling(x)) by x; a maximum sends it to its first place."""
    head, x = _float64(head), _float64(x)
    if global_pool:
        pool_size, strides, padding, ceil_mode = x.shape[2:], 1, 0, False
    windows = _Windows(x.shape, pool_size, strides, padding, ceil_mode, count_include_pad)
    dx = np.zeros_like(x)
    for i, j, where, count in windows:
        window = x[where]
        values = _flat(window)
        if values.shape[-1] == 0:
            continue
        dy = head[:, :, i, j, None]
        if mode == 'max':
            part = np.zeros_like(values)
            np.put_along_axis(part, _first_maximum(values)[..., None], dy, axis=-1)
        elif mode == 'avg':
            part = np.broadcast_to(dy / count, values.shape)
        elif mode == 'sum' or p == 1:
            part = np.broadcast_to(dy, values.shape)
        else:
            total = (values**p).sum(axis=-1, keepdims=True)
            y = np.sqrt(total) if p == 2 else np.cbrt(total)
            ratio = np.divide(values, y, out=np.zeros_like(values), where=y != 0)
            part = dy * ratio ** (p - 1)
        dx[where] += part.reshape(window.shape)
    return dx
