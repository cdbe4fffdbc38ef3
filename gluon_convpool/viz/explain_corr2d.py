"""Cross-correlation, window by window."""

from __future__ import annotations

from typing import Any, Sequence, Union

import numpy

from .. import geometry, scratch
from ._style import exactly
from .sliding_window import SlidingWindow, Step, check_drawable, factor, plainly, read_matrix


def explain_corr2d(
    X: Any,
    K: Any,
    strides: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    steps: Union[int, Sequence[int]] = 0,
    ax: Any = None,
) -> SlidingWindow:
    """Draw how a kernel slides over a matrix: the patch, the kernel, the products and their sum.

    Parameters
    ----------
    X : array, shape (H, W)
        Of MXNet or NumPy, or a list of lists; at most 32 rows and columns.
    K : array, shape (h, w)
    strides : int or (int, int)
        As in a convolution layer.
    padding : int, (int, int), ((int, int), (int, int)), 'same' or 'valid'
        Rows and columns of zeros, as in a convolution layer: as many on both sides, or a pair
        (before, behind) for each axis; 'valid' adds none, and 'same' as many as give, with strides
        of 1, an output of the size of `X`, the smaller half in front.
    dilation : int or (int, int)
        As in a convolution layer.
    steps : int or sequence of int
        Which windows the still figure shows: they are counted along the rows of the output, from 0
        or, if negative, from the end. The animation shows all of them.
    ax : matplotlib.axes.Axes, optional
        Where to draw the still figure, of one window; by default a new figure.

    Returns
    -------
    SlidingWindow
        A notebook plays it; it has `figure`, the output `Y`, and ``save('corr2d.gif')``.

    Raises
    ------
    TypeError, ValueError
        For arguments and shapes that don't fit each other or the picture.

    Examples
    --------
    >>> from gluon_convpool import viz
    >>> window = viz.explain_corr2d([[0, 1, 2], [3, 4, 5], [6, 7, 8]], [[0, 1], [2, 3]], padding=1)
    >>> window.Y
    array([[ 0.,  3.,  8.,  4.],
           [ 9., 19., 25., 10.],
           [21., 37., 43., 16.],
           [ 6.,  7.,  8.,  0.]])
    >>> viz.explain_corr2d([[0, 1, 2], [3, 4, 5]], [[0, 1], [2, 3]], padding='same').Y
    array([[19., 25., 10.],
           [ 4.,  5.,  0.]])
    """
    op = 'explain_corr2d'
    x, k = read_matrix(op, 'X', X), read_matrix(op, 'K', K)
    arguments = geometry.convolution_arguments(
        op, k.shape, strides, padding, dilation, 1, 1, 'NCHW'
    )
    sizes = geometry.convolution_shape(arguments, (1, 1, *x.shape), op=op)[2:]
    around = tuple(zip(*arguments.sides))
    padded = numpy.pad(x, around)
    check_drawable(op, 'X with its padding', padded.shape)
    windows = []
    for i, j in numpy.ndindex(*sizes):
        rows, columns = (
            [at * stride + tap * dilate for tap in range(size)]
            for at, stride, dilate, size in zip((i, j), arguments.stride, arguments.dilate, k.shape)
        )
        patch = padded[numpy.ix_(rows, columns)]
        value = float(scratch.corr2d(patch, k)[0, 0])
        terms = [[f'{factor(a)}\u00b7{factor(b)}' for a, b in zip(*pair)] for pair in zip(patch, k)]
        exact = all(map(exactly, [*patch.flat, *k.flat, value]))
        taps = [(row, column) for row in rows for column in columns]
        windows.append(Step(taps, terms, value, exact=exact))
    told = {'strides': arguments.stride, 'dilation': arguments.dilate, 'padding': arguments.padding}
    plain = {'strides': (1, 1), 'dilation': (1, 1), 'padding': (0, 0)}
    return SlidingWindow(
        op,
        X=x,
        K=k,
        border=0,
        padding=around,
        extent=tuple(map(geometry.extent, k.shape, arguments.dilate)),
        strides=arguments.stride,
        sizes=sizes,
        steps=windows,
        sign='',
        notes=[f'{name} {plainly(value)}' for name, value in told.items() if value != plain[name]],
        shown=steps,
        ax=ax,
    )
