"""Pooling, window by window."""

from __future__ import annotations

from typing import Any, Sequence, Union

import numpy

from .. import geometry, scratch
from ._style import exactly, number
from .sliding_window import SlidingWindow, Step, check_drawable, factor, plainly, read_matrix

MODES = ('max', 'avg', 'sum')


def explain_pool2d(
    X: Any,
    pool_size: Any = (2, 2),
    mode: str = 'max',
    strides: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    steps: Union[int, Sequence[int]] = 0,
    ax: Any = None,
) -> SlidingWindow:
    """Draw how pooling reduces each window of a matrix to one number.

    Parameters
    ----------
    X : array, shape (H, W)
        Of MXNet or NumPy, or a list of lists; at most 32 rows and columns.
    pool_size : int or (int, int)
    mode : {'max', 'avg', 'sum'}
    strides : int or (int, int), optional
        1 by default, as in `gluon_convpool.pool2d` of a matrix; a layer steps by `pool_size`.
    padding : int, (int, int), ((int, int), (int, int)), 'same' or 'valid'
        Rows and columns that are added on both sides, fewer than the window has; or a pair (before,
        behind) for each axis; 'valid' adds none, and 'same' as many as give, with strides of 1, an
        output of the size of `X`, the smaller half in front.
    ceil_mode, count_include_pad : bool
        As in a pooling layer; `ceil_mode` is for padding that is equal on both sides.
    steps : int or sequence of int
        Which windows the still figure shows: they are counted along the rows of the output, from 0
        or, if negative, from the end. The animation shows all of them.
    ax : matplotlib.axes.Axes, optional
        Where to draw the still figure, of one window; by default a new figure.

    Returns
    -------
    SlidingWindow
        A notebook plays it; it has `figure`, the output `Y`, and ``save('pool2d.gif')``.

    Raises
    ------
    TypeError, ValueError
        For arguments and shapes that don't fit each other or the picture.

    Examples
    --------
    >>> from gluon_convpool import viz
    >>> X = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    >>> viz.explain_pool2d(X, (2, 2)).Y
    array([[4., 5.],
           [7., 8.]])
    >>> viz.explain_pool2d(X, (2, 2), 'avg', strides=2, ceil_mode=True).Y
    array([[2. , 3.5],
           [6.5, 8. ]])
    >>> viz.explain_pool2d(X, (2, 2), padding='same').Y
    array([[4., 5., 5.],
           [7., 8., 8.],
           [7., 8., 8.]])
    """
    op = 'explain_pool2d'
    x = read_matrix(op, 'X', X)
    geometry.choice(op, 'mode', mode, MODES)
    arguments = geometry.pooling_arguments(
        op,
        pool_size,
        1 if strides is None else strides,
        padding,
        mode,
        ceil_mode,
        count_include_pad,
    )
    sizes = geometry.pooling_shape(arguments, (1, 1, *x.shape), op=op)[2:]
    # What stands in the padding: -inf never is the maximum, 0 adds nothing, NaN is left out.
    counted = mode != 'avg' or arguments.count_include_pad
    border = -numpy.inf if mode == 'max' else 0.0 if counted else numpy.nan
    before, _ = arguments.sides
    around = tuple(zip(*arguments.sides))
    padded = numpy.pad(x, around, constant_values=border)
    first, room = ((0, 0), padded.shape) if counted else (before, x.shape)
    stop = [begin + n for begin, n in zip(first, room)]
    check_drawable(op, 'X with its padding', padded.shape)
    windows = []
    for i, j in numpy.ndindex(*sizes):
        rows, columns = (
            range(max(at * stride, begin), max(begin, min(at * stride + size, end)))
            for at, stride, size, begin, end in zip(
                (i, j), arguments.stride, arguments.kernel, first, stop
            )
        )
        windows.append(_step(mode, padded, rows, columns))
    told = {'strides': arguments.stride, 'padding': arguments.padding}
    plain = {'strides': (1, 1), 'padding': (0, 0)}
    notes = [f'{name} {plainly(value)}' for name, value in told.items() if value != plain[name]]
    if arguments.ceil_mode:
        notes.append('ceil_mode')
    if mode == 'avg' and padded.shape != x.shape:
        notes.append('padding counts' if counted else 'padding does not count')
    return SlidingWindow(
        op,
        X=x,
        K=None,
        border=border,
        padding=around,
        extent=arguments.kernel,
        strides=arguments.stride,
        sizes=sizes,
        steps=windows,
        sign=mode,
        notes=notes,
        shown=steps,
        ax=ax,
    )


def _step(mode: str, padded: numpy.ndarray, rows: range, columns: range) -> Step:
    """The window over these rows and columns of the padded input."""
    patch = padded[numpy.ix_(rows, columns)]
    taps = [(row, column) for row in rows for column in columns]
    if not patch.size:
        # In ceil mode a window may lie wholly outside: it holds nothing.
        value = -numpy.inf if mode == 'max' else 0.0
        return Step(taps, [['no values']], value, exact=True)
    if mode == 'sum':
        value = float(patch.sum())
    else:
        value = float(scratch.pool2d(patch, (len(rows), len(columns)), mode)[0, 0])
    exact = all(map(exactly, [*patch.flat, value]))
    if mode == 'max':
        terms = [[number(one) for one in row] for row in patch]
        return Step(taps, terms, value, 'max(', ')', ', ', exact)
    terms = [[factor(one) for one in row] for row in patch]
    terms[0][0] = number(patch[0, 0])
    if mode == 'avg':
        return Step(taps, terms, value, '(', f') / {patch.size}', exact=exact)
    return Step(taps, terms, value, exact=exact)
