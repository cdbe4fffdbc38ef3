"""The kernels of a convolution layer as images."""

from __future__ import annotations

from typing import Any, Tuple

import numpy
from mxnet.gluon.nn import conv_layers
from mxnet.gluon.parameter import DeferredInitializationError

from .. import geometry
from . import _mosaic
from ._canvas import place
from ._layers import window_of


def draw_filters(layer: Any, most: int = 32, ax: Any = None) -> Any:
    """Draw the weights of a convolution layer: each kernel is an image.

    Black is the most negative, mid-grey is zero, and white as far above zero as black is below. A
    layer with one input channel (or one in each group) gives its kernels in reading order; others
    give a row for each input channel (of the group) and a column for each output channel, or the
    other way round where there are more inputs.

    Parameters
    ----------
    layer : mxnet.gluon.nn.Conv1D or mxnet.gluon.nn.Conv2D
        Ours or MXNet's, initialised.
    most : int
        Where there are more, only so many output channels, and input channels, are drawn; in
        reading order the square of it.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError
        If `layer` is no convolution layer of one or two dimensions, or `most` no integer.
    ValueError
        If `layer` has no weights yet, or `most` is below 1.

    Examples
    --------
    >>> from gluon_convpool import nn, viz
    >>> layer = nn.Conv2D(20, kernel_size=5, in_channels=1)
    >>> layer.initialize()
    >>> figure = viz.draw_filters(layer)
    >>> figure.axes[0].get_title()
    'Conv2D: 20 kernels of 5x5'
    """
    op = 'draw_filters'
    most = geometry.integer(op, 'most', most, 1)
    weights = _weights(op, layer)
    outputs, inputs, height, width = weights.shape
    title = f'{type(layer).__name__}: '
    if inputs == 1:
        shown = weights[: most**2, 0]
        grid = _mosaic.in_rows(shown)
        title += _mosaic.counted(len(shown), outputs, 'kernel') + f' of {height}x{width}'
    else:
        grid = weights[:most, :most]
        # what is more, across
        across = outputs >= inputs
        if across:
            grid = grid.swapaxes(0, 1)
        title += f'{outputs}x{inputs} kernels of {height}x{width}'
    limit = float(numpy.abs(weights).max()) or 1.0
    figure, axes = place(ax, *_inches(grid))
    _mosaic.draw(axes, grid, -limit, limit, 'weight')
    axes.set_title(title, fontsize=10)
    if inputs > 1:
        of_group = ' of the group' if layer._kwargs['num_group'] > 1 else ''
        for kind, axis, count, total in zip(
            ('output channel', f'input channel{of_group}'),
            (axes.xaxis, axes.yaxis) if across else (axes.yaxis, axes.xaxis),
            grid.shape[1::-1] if across else grid.shape[:2],
            (outputs, inputs),
        ):
            _mosaic.number_ticks(axis, count)
            axis.set_label_text(kind if count == total else f'{kind} (first {count} of {total})')
    return figure


def _weights(op: str, layer: Any) -> numpy.ndarray:
    """Return the weights as (outputs, inputs of a group, height, width)."""
    window = window_of(layer) if isinstance(layer, conv_layers._Conv) else None
    if window is None or window.ndim > 2:
        raise TypeError(geometry.message('no_kernels', op=op, layer=type(layer).__name__))
    try:
        weights = layer.weight.data().asnumpy()
    except (RuntimeError, DeferredInitializationError):
        geometry.refuse('not_initialised', op=op, layer=type(layer).__name__)
    if window.layout[1] != 'C':
        weights = numpy.moveaxis(weights, -1, 1)
    return weights[:, :, None] if window.ndim == 1 else weights


def _inches(grid: numpy.ndarray) -> Tuple[float, float]:
    """Return a size in which the mosaic fills the figure."""
    rows, columns = _mosaic.pixels(grid)
    inch = min(7.5 / columns, 5.5 / rows, 0.16)
    return max(4.5, columns * inch + 1.7), max(2.0, rows * inch + 1.0)
