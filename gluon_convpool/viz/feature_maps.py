"""What the layers of a network make of an image."""

from __future__ import annotations

from typing import Any, List, NamedTuple, Optional, Sequence

import numpy

from .. import geometry
from .._mxnet import mx
from . import _mosaic
from ._canvas import new_figure, place, to_numpy
from ._layers import Layer, layers_of, to_mxnet, window_of

COLUMNS = 4


class Maps(NamedTuple):
    """The output of a layer for one image: a name, and an array (channels, height, width)."""

    name: str
    values: numpy.ndarray


def draw_feature_maps(
    layer_or_net: Any,
    x: Any,
    layers: Optional[Sequence[int]] = None,
    most: int = 128,
    ax: Any = None,
) -> Any:
    """Draw what a layer, or each layer of a network, makes of an image.

    A layer gives one panel, in which each channel of its output is an image. A network (nested
    `Sequential` or `HybridSequential` blocks; any other block counts as one layer) gives a panel
    for its input and one for each layer. All channels of a panel share one scale, from black to
    white: from 0 up, or, where there are negative values, with zero in the middle. The units of a
    `Dense` layer are maps of a single pixel.

    Parameters
    ----------
    layer_or_net : mxnet.gluon.Block
        Initialised.
    x : array, shape (batch, channels, height, width)
        What it takes, of MXNet or NumPy; the first image is drawn. Also (batch, channels, width) or
        (batch, units); a layer with another layout takes its own order.
    layers : sequence of int, optional
        Which layers of a network, counted from 0 in the order of the data; by default all.
    most : int
        Only so many channels of each layer are drawn.
    ax : matplotlib.axes.Axes, optional
        Where to draw a single layer; by default a new figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        For an output that is no map, for `layers` that are not there, and for more than one layer
        with `ax`.

    Examples
    --------
    >>> from gluon_convpool import nn, viz
    >>> from mxnet import nd
    >>> net = nn.HybridSequential()
    >>> net.add(nn.Conv2D(6, kernel_size=3), nn.MaxPool2D(), nn.Dense(10))
    >>> net.initialize()
    >>> figure = viz.draw_feature_maps(net, nd.ones((1, 1, 8, 8)))
    >>> for axes in figure.axes[:4]:
    ...     print(axes.get_title())
    input: 1 map of 8x8
    0 Conv2D: 6 maps of 6x6
    1 MaxPool2D: 6 maps of 3x3
    2 Dense: 10 units
    """
    op = 'draw_feature_maps'
    most = geometry.integer(op, 'most', most, 1)
    chain = layers_of(layer_or_net)
    single = len(chain) == 1 and chain[0].block is layer_or_net
    chosen = range(len(chain)) if layers is None else list(layers)
    if not all(isinstance(i, int) and 0 <= i < len(chain) for i in chosen):
        geometry.refuse('no_such_layer', op=op, layers=layers, last=len(chain) - 1)
    if ax is not None and len(chosen) != 1:
        geometry.refuse('one_layer_for_ax', op=op, count=len(chosen))
    maps = _run(op, chain, to_mxnet(x), max(chosen, default=-1))
    panels = [maps[i + 1] for i in chosen]
    if not single and ax is None:
        panels.insert(0, maps[0])
    if len(panels) == 1:
        figure, axes = place(ax, 5.5, 4)
        _draw(axes, panels[0], most)
        return figure
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(3.0 * columns, 2.5 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, panel in zip(grid.flat, panels):
        _draw(axes, panel, most)
    for axes in list(grid.flat)[len(panels) :]:
        axes.remove()
    return figure


def _run(op: str, chain: List[Layer], x: Any, last: int) -> List[Maps]:
    """Return the maps of the input, and of the outputs up to layer `last`."""
    layout = next((window.layout for window in map(window_of, _blocks(chain)) if window), None)
    with mx.autograd.pause():
        maps = [_maps(op, 'input', x, layout)]
        for name, block in chain[: last + 1]:
            x = block(x)
            window = window_of(block)
            layout = window.layout if window else layout
            maps.append(_maps(op, name, x, layout))
    return maps


def _blocks(chain: List[Layer]) -> List[Any]:
    return [layer.block for layer in chain]


def _maps(op: str, name: str, array: Any, layout: Optional[str]) -> Maps:
    """Read the first image of a batch."""
    shape = getattr(array, 'shape', None)
    if shape is None or not 2 <= len(shape) <= 4 or 0 in shape:
        geometry.refuse('not_maps', op=op, layer=repr(name), shape=shape)
    values = to_numpy(array[:1])[0].astype('float64')
    if layout is not None and len(layout) == len(shape) and layout[1] != 'C':
        values = numpy.moveaxis(values, -1, 0)
    while values.ndim < 3:
        values = values[:, None]
    return Maps(name, values)


def _draw(axes: Any, maps: Maps, most: int) -> None:
    count, height, width = maps.values.shape
    shown = maps.values[:most]
    finite = shown[numpy.isfinite(shown)]
    high = float(finite.max()) if finite.size else 1.0
    low = float(finite.min()) if finite.size else 0.0
    high = max(abs(low), abs(high)) or 1.0
    # All channels of a layer on one scale: which ones answer, and how much, is what one looks for.
    grid = _mosaic.in_rows(shown)
    _mosaic.draw(axes, grid, -high if low < 0 else 0.0, high, 'value')
    what = 'unit' if (height, width) == (1, 1) else 'map'
    size = '' if what == 'unit' else f' of {height}x{width}'
    number = _mosaic.counted(len(shown), count, what)
    axes.set_title(f'{maps.name}: {number}{size}', fontsize=9)
