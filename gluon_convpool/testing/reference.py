"""Convolution and pooling as the definitions say, in float64, with NumPy only.

Nothing here knows the package or MXNet. A convolution is a sum over the taps of its kernel, a
pooling a loop over its windows; the gradients are the same loops run backwards. Slow and plain on
purpose.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Iterator, Optional, Tuple, Union

import numpy as np

Window = Union[int, Tuple[int, ...]]
Shape = Tuple[int, ...]
Slices = Tuple[Any, ...]


def per_axis(value: Window, ndim: int = 2) -> Shape:
    """Return one value for each of `ndim` axes.

    Parameters
    ----------
    value : int or tuple of int
    ndim : int

    Returns
    -------
    tuple of int

    Examples
    --------
    >>> from gluon_convpool.testing import reference
    >>> reference.per_axis(3), reference.per_axis((1, 2))
    ((3, 3), (1, 2))
    """
    return (value,) * ndim if isinstance(value, int) else tuple(value)


def _float64(array: Any) -> np.ndarray:
    return np.asarray(array, dtype=np.float64)


# --------------------------------------------------------------------------------- convolution


class _Taps:
    """The part of the padded input that meets one tap of the kernel, for every output position."""

    def __init__(
        self,
        input_shape: Shape,
        weight_shape: Shape,
        strides: Window,
        padding: Window,
        dilation: Window,
    ) -> None:
        self.kernel = weight_shape[2:]
        self.size = input_shape[2:]
        self.strides, self.padding, self.dilation = (
            per_axis(value, len(self.kernel)) for value in (strides, padding, dilation)
        )
        self.padded = tuple(n + 2 * p for n, p in zip(self.size, self.padding))
        self.out = tuple(
            (n - d * (k - 1) - 1) // s + 1
            for n, d, k, s in zip(self.padded, self.dilation, self.kernel, self.strides)
        )

    def __iter__(self) -> Iterator[Tuple[Shape, Slices]]:
        for tap in itertools.product(*map(range, self.kernel)):
            where = (
                slice(i * d, i * d + s * (o - 1) + 1, s)
                for i, d, s, o in zip(tap, self.dilation, self.strides, self.out)
            )
            yield tap, (Ellipsis, *where)

    def inside(self) -> Slices:
        """Where the input is in the padded input."""
        return (Ellipsis, *(slice(p, p + n) for p, n in zip(self.padding, self.size)))


def _by_group(x: Any, weight: Any, groups: int) -> Tuple[np.ndarray, np.ndarray]:
    x, weight = _float64(x), _float64(weight)
    return (
        x.reshape((x.shape[0], groups, x.shape[1] // groups) + x.shape[2:]),
        weight.reshape((groups, weight.shape[0] // groups) + weight.shape[1:]),
    )


def convolution(
    x: Any,
    weight: Any,
    bias: Optional[Any] = None,
    strides: Window = 1,
    padding: Window = 0,
    dilation: Window = 1,
    groups: int = 1,
) -> np.ndarray:
    """Return the cross-correlation of `x` with `weight`, plus `bias`.

    Parameters
    ----------
    x : array_like, shape (N, C, H, W)
        With any number of spatial axes, here two.
    weight : array_like, shape (O, C / groups, kernel height, kernel width)
    bias : array_like, shape (O,), optional
    strides, padding, dilation : int or tuple of int
        One value for all spatial axes or one for each. Zeros are added on both sides.
    groups : int
        Splits the channels into that many separate convolutions.

    Returns
    -------
    numpy.ndarray, shape (N, O, output height, output width)
        Of float64.

    Examples
    --------
    >>> import numpy as np
    >>> from gluon_convpool.testing import reference
    >>> x, k = np.arange(9).reshape(1, 1, 3, 3), np.arange(4).reshape(1, 1, 2, 2)
    >>> reference.convolution(x, k)
    array([[[[19., 25.],
             [37., 43.]]]])
    """
    taps = _Taps(np.shape(x), np.shape(weight), strides, padding, dilation)
    x, weight = _by_group(x, weight, groups)
    padded = np.zeros(x.shape[:3] + taps.padded)
    padded[taps.inside()] = x
    y = np.zeros((x.shape[0], groups, weight.shape[1]) + taps.out)
    for tap, where in taps:
        y += np.einsum('ngc...,goc->ngo...', padded[where], weight[(Ellipsis, *tap)])
    y = y.reshape((x.shape[0], groups * weight.shape[1]) + taps.out)
    return y if bias is None else y + _float64(bias).reshape((1, -1) + (1,) * len(taps.out))


def convolution_gradients(
    head: Any,
    x: Any,
    weight: Any,
    strides: Window = 1,
    padding: Window = 0,
    dilation: Window = 1,
    groups: int = 1,
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of ``sum(head * convolution(x, weight, bias))``.

    Parameters
    ----------
    head : array_like, shape (N, O, output height, output width)
        The gradient of the output.
    x, weight, strides, padding, dilation, groups
        As in `convolution`.

    Returns
    -------
    dx, dweight, dbias : numpy.ndarray
        The gradients by `x`, `weight` and ``bias``, with the shapes of these, of float64.

    Examples
    --------
    >>> import numpy as np
    >>> from gluon_convpool.testing import reference
    >>> x, k = np.arange(9).reshape(1, 1, 3, 3), np.arange(4).reshape(1, 1, 2, 2)
    >>> dx, dweight, dbias = reference.convolution_gradients(np.ones((1, 1, 2, 2)), x, k)
    >>> dweight
    array([[[[ 8., 12.],
             [20., 24.]]]])
    >>> dbias
    array([4.])
    """
    shapes = np.shape(x), np.shape(weight)
    taps = _Taps(shapes[0], shapes[1], strides, padding, dilation)
    head = _float64(head)
    x, weight = _by_group(x, weight, groups)
    by_group = head.reshape((head.shape[0], groups, head.shape[1] // groups) + taps.out)
    positions = math.prod(taps.out)
    columns = by_group.reshape(by_group.shape[:3] + (positions,))
    padded = np.zeros(x.shape[:3] + taps.padded)
    padded[taps.inside()] = x
    dx, dweight = np.zeros_like(padded), np.zeros_like(weight)
    for tap, where in taps:
        at = (Ellipsis, *tap)
        dx[where] += np.einsum('ngo...,goc->ngc...', by_group, weight[at])
        seen = padded[where].reshape(x.shape[:3] + (positions,))
        dweight[at] = np.einsum('ngop,ngcp->goc', columns, seen)
    return (
        dx[taps.inside()].reshape(shapes[0]),
        dweight.reshape(shapes[1]),
        head.sum(axis=(0, *range(2, head.ndim))),
    )


def _transposed_size(
    x: Any, weight: Any, strides: Window, padding: Window, output_padding: Window, dilation: Window
) -> Shape:
    size, kernel = np.shape(x)[2:], np.shape(weight)[2:]
    values = (per_axis(v, len(size)) for v in (strides, padding, output_padding, dilation))
    return tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + 1 + a for n, k, s, p, a, d in zip(size, kernel, *values)
    )


def convolution_transpose(
    x: Any,
    weight: Any,
    bias: Optional[Any] = None,
    strides: Window = 1,
    padding: Window = 0,
    output_padding: Window = 0,
    dilation: Window = 1,
    groups: int = 1,
) -> np.ndarray:
    """Return the sum of the windows over which each element of `x` is spread, plus `bias`.

    Parameters
    ----------
    x : array_like, shape (N, C, H, W)
        With any number of spatial axes, here two.
    weight : array_like, shape (C, O / groups, kernel height, kernel width)
    bias : array_like, shape (O,), optional
    strides, padding, output_padding, dilation : int or tuple of int
        One value for all spatial axes or one for each.
    groups : int
        Splits the channels into that many separate operations.

    Returns
    -------
    numpy.ndarray, shape (N, O, output height, output width)
        Of float64.

    Examples
    --------
    >>> from gluon_convpool.testing import reference
    >>> reference.convolution_transpose([[[1, 10]]], [[[1, 2]]])
    array([[[ 1., 12., 20.]]])
    """
    out = _transposed_size(x, weight, strides, padding, output_padding, dilation)
    x, weight = _float64(x), _float64(weight)
    outputs = weight.shape[1] * groups
    taps = _Taps((x.shape[0], outputs, *out), weight.shape, strides, padding, dilation)
    y = np.zeros((x.shape[0], groups, weight.shape[1]) + taps.padded)
    x = x.reshape((x.shape[0], groups, x.shape[1] // groups) + x.shape[2:])
    weight = weight.reshape((groups, -1) + weight.shape[1:])
    for tap, where in taps:
        y[where] += np.einsum('ngc...,gco->ngo...', x, weight[(Ellipsis, *tap)])
    y = y[taps.inside()].reshape((x.shape[0], outputs, *out))
    return y if bias is None else y + _float64(bias).reshape((1, -1) + (1,) * len(out))


def convolution_transpose_gradients(
    head: Any,
    x: Any,
    weight: Any,
    strides: Window = 1,
    padding: Window = 0,
    output_padding: Window = 0,
    dilation: Window = 1,
    groups: int = 1,
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of ``sum(head * convolution_transpose(x, weight, bias))``.

    Parameters
    ----------
    head : array_like, shape (N, O, output height, output width)
        The gradient of the output.
    x, weight, strides, padding, output_padding, dilation, groups
        As in `convolution_transpose`.

    Returns
    -------
    dx, dweight, dbias : numpy.ndarray
        The gradients by `x`, `weight` and ``bias``, with the shapes of these, of float64.

    Examples
    --------
    >>> from gluon_convpool.testing import reference
    >>> head, x, k = [[[1, 1, 1]]], [[[1, 10]]], [[[1, 2]]]
    >>> dx, dweight, dbias = reference.convolution_transpose_gradients(head, x, k)
    >>> dx.tolist(), dweight.tolist(), dbias.tolist()
    ([[[3.0, 3.0]]], [[[11.0, 11.0]]], [3.0])
    """
    head = _float64(head)
    _, dweight, _ = convolution_gradients(x, head, weight, strides, padding, dilation, groups)
    return (
        convolution(head, weight, None, strides, padding, dilation, groups),
        dweight,
        head.sum(axis=(0, *range(2, head.ndim))),
    )


# ------------------------------------------------------------------------------------- pooling


class _Windows:
    """Each output position with its window: the part inside the input and the divisor of a mean."""

    def __init__(
        self,
        shape: Shape,
        pool_size: Window,
        strides: Optional[Window],
        padding: Window,
        ceil_mode: bool,
        count_include_pad: bool,
    ) -> None:
        self.size = shape[2:]
        ndim = len(self.size)
        self.kernel = per_axis(pool_size, ndim)
        self.strides = self.kernel if strides is None else per_axis(strides, ndim)
        self.padding = per_axis(padding, ndim)
        self.count_include_pad = count_include_pad
        rounding = math.ceil if ceil_mode else math.floor
        self.out = tuple(
            rounding((n + 2 * p - k) / s) + 1
            for n, p, k, s in zip(self.size, self.padding, self.kernel, self.strides)
        )

    def __iter__(self) -> Iterator[Tuple[Slices, Slices, int]]:
        for at in itertools.product(*map(range, self.out)):
            inside, counts = [], []
            for position, n, k, s, p in zip(at, self.size, self.kernel, self.strides, self.padding):
                start = position * s - p
                stop = min(start + k, n + p)
                clipped = slice(max(start, 0), max(min(stop, n), max(start, 0)))
                inside.append(clipped)
                within = clipped.stop - clipped.start
                counts.append(stop - start if self.count_include_pad else within)
            both = (slice(None), slice(None))
            yield (*both, *at), (*both, *inside), math.prod(counts)


def _flat(window: np.ndarray) -> np.ndarray:
    return window.reshape(window.shape[:2] + (math.prod(window.shape[2:]),))


def _first_maximum(flat: np.ndarray) -> np.ndarray:
    """The place of the first NaN of each row, or of its first maximum if it holds none."""
    nan = np.isnan(flat)
    maximum = np.argmax(np.where(nan, -np.inf, flat), axis=-1)
    return np.where(nan.any(axis=-1), np.argmax(nan, axis=-1), maximum)


def pooling(
    x: Any,
    pool_size: Window = 2,
    strides: Optional[Window] = None,
    padding: Window = 0,
    mode: str = 'max',
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    p: int = 2,
    global_pool: bool = False,
) -> np.ndarray:
    """Reduce each window of `x` to one number.

    Parameters
    ----------
    x : array_like, shape (N, C, H, W)
        With any number of spatial axes, here two.
    pool_size, strides, padding : int or tuple of int
        One value for all spatial axes or one for each; ``strides=None`` steps by the window's size.
    mode : {'max', 'avg', 'sum', 'lp'}
        Padding is never a maximum, and a window without any input has -inf as its maximum. 'lp' is
        ``(sum of x**p) ** (1/p)``, without absolute values.
    ceil_mode : bool
        Also keep a last window that is only partly filled; it ends with the padded input.
    count_include_pad : bool
        Whether 'avg' divides by all positions of the padded input in the window, or only by those
        of the input.
    p : {1, 2, 3}
        The power of 'lp'.
    global_pool : bool
        One window over all of `x`, whatever else is said.

    Returns
    -------
    numpy.ndarray, shape (N, C, output height, output width)
        Of float64.

    Examples
    --------
    >>> import numpy as np
    >>> from gluon_convpool.testing import reference
    >>> reference.pooling(np.arange(16).reshape(1, 1, 4, 4), 2, mode='avg')
    array([[[[ 2.5,  4.5],
             [10.5, 12.5]]]])
    """
    x = _float64(x)
    if global_pool:
        pool_size, strides, padding, ceil_mode = x.shape[2:], 1, 0, False
    windows = _Windows(x.shape, pool_size, strides, padding, ceil_mode, count_include_pad)
    y = np.zeros(x.shape[:2] + windows.out)
    for at, where, count in windows:
        values = _flat(x[where])
        if values.shape[-1] == 0:
            y[at] = -np.inf if mode == 'max' else 0.0
        elif mode == 'max':
            y[at] = values.max(axis=-1)
        elif mode == 'avg':
            y[at] = values.sum(axis=-1) / count
        elif mode == 'sum' or p == 1:
            y[at] = values.sum(axis=-1)
        elif p == 2:
            y[at] = np.sqrt((values**2).sum(axis=-1))
        else:
            y[at] = np.cbrt((values**3).sum(axis=-1))
    return y


def pooling_gradient(
    head: Any,
    x: Any,
    pool_size: Window = 2,
    strides: Optional[Window] = None,
    padding: Window = 0,
    mode: str = 'max',
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    p: int = 2,
    global_pool: bool = False,
) -> np.ndarray:
    """Return the gradient of ``sum(head * pooling(x))`` by `x`.

    The gradient of a maximum goes to the first of equal values, in row-major order, or to the first
    NaN.

    Parameters
    ----------
    head : array_like, shape (N, C, output height, output width)
        The gradient of the output.
    x, pool_size, strides, padding, mode, ceil_mode, count_include_pad, p, global_pool
        As in `pooling`.

    Returns
    -------
    numpy.ndarray, shape (N, C, H, W)
        Of float64.

    Examples
    --------
    >>> import numpy as np
    >>> from gluon_convpool.testing import reference
    >>> reference.pooling_gradient([[[[5]]]], np.array([[[[1, 3], [3, 2]]]]))
    array([[[[0., 5.],
             [0., 0.]]]])
    """
    head, x = _float64(head), _float64(x)
    if global_pool:
        pool_size, strides, padding, ceil_mode = x.shape[2:], 1, 0, False
    windows = _Windows(x.shape, pool_size, strides, padding, ceil_mode, count_include_pad)
    dx = np.zeros_like(x)
    for at, where, count in windows:
        window = x[where]
        values = _flat(window)
        if values.shape[-1] == 0:
            continue
        dy = head[at][..., None]
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
