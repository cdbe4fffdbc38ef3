"""Which part of an image the elements of each layer see."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Tuple

import numpy
from matplotlib.patches import Rectangle
from mxnet.gluon import contrib
from mxnet.gluon import nn as builtin

from .. import geometry
from . import _layers
from ._canvas import legend_beside, place, to_numpy

Ints = Tuple[int, ...]

# What a position becomes depends on that position alone. (BatchNorm: as in inference. While it
# learns, its mean looks at every image of the batch.)
_POSITION_BY_POSITION = (
    builtin.Activation,
    builtin.BatchNorm,
    builtin.Dropout,
    builtin.ELU,
    builtin.GELU,
    builtin.LeakyReLU,
    builtin.PReLU,
    builtin.SELU,
    builtin.Swish,
    contrib.nn.Identity,
)


class LayerField(NamedTuple):
    """The receptive field of the elements of a layer's output.

    Attributes
    ----------
    name : str
        The layer's places in the network and its class.
    sizes : tuple of int
        Spatial sizes of its output; (1, 1) for a `Dense` layer.
    axes : tuple of geometry.ReceptiveField
        One for each spatial axis: size, jump and start in pixels of the input.
    """

    name: str
    sizes: Ints
    axes: Tuple[geometry.ReceptiveField, ...]

    @property
    def size(self) -> Ints:
        """How many pixels the field spans on each axis."""
        return tuple(axis.size for axis in self.axes)

    @property
    def jump(self) -> Ints:
        """How far the fields of neighbouring elements are apart: the product of all strides."""
        return tuple(axis.jump for axis in self.axes)

    def first(self, position: Ints) -> Ints:
        """The first pixel of the field of the element at `position`; negative in the padding."""
        return tuple(axis.first(i) for axis, i in zip(self.axes, position))

    def centre(self, position: Ints) -> Tuple[float, ...]:
        """The middle of the field of the element at `position`; pixel 0 has its middle at 0."""
        return tuple(axis.centre(i) for axis, i in zip(self.axes, position))

    @property
    def middle(self) -> Ints:
        """The position in the middle of the output, or just before it."""
        return tuple((n - 1) // 2 for n in self.sizes)


def receptive_fields(net: Any, shape: Ints) -> List[LayerField]:
    """Return the receptive field of every layer of a network, by arithmetic.

    Only the arguments of the layers are looked at; nothing is computed, and the network need not be
    initialised. What is added around the data is padding, also where a convolution's `padding_mode`
    makes it of the data.

    Parameters
    ----------
    net : mxnet.gluon.Block
        A chain: a layer, or `Sequential` and `HybridSequential` blocks, also nested, of
        convolution and pooling layers (ours and MXNet's, of any layout; no transposed ones),
        `Flatten`, `Dense`, and layers that treat every position alike: activations, `BatchNorm`,
        `Dropout` and `Identity`. Branches (a residual block, say) cannot be read. Networks of
        MXNet's model zoo keep their chain in ``net.features``.
    shape : tuple of int
        Of the input, in the order of the layers' layout.

    Returns
    -------
    list of LayerField
        In the order of the data. From the first `Dense` layer on, the field is all that the layer
        before it saw.

    Raises
    ------
    TypeError
        For a layer that cannot be read; it is named.
    ValueError
        If a layer does not fit its input.

    Examples
    --------
    >>> from gluon_convpool import nn, viz
    >>> net = nn.HybridSequential()
    >>> net.add(nn.Conv2D(6, kernel_size=5), nn.MaxPool2D(), nn.Conv2D(16, kernel_size=3))
    >>> for field in viz.receptive_fields(net, (1, 1, 28, 28)):
    ...     print(field.name, field.sizes, field.size, field.jump, field.centre((0, 0)))
    0 Conv2D (24, 24) (5, 5) (1, 1) (2.0, 2.0)
    1 MaxPool2D (12, 12) (6, 6) (2, 2) (2.5, 2.5)
    2 Conv2D (10, 10) (10, 10) (2, 2) (4.5, 4.5)
    """
    return _read('receptive_fields', net, shape)


def _read(op: str, net: Any, shape: Ints) -> List[LayerField]:
    chain = _layers.layers_of(net)
    windows = [_layers.window_of(layer.block) for layer in chain]
    layout = next((window.layout for window in windows if window), None)
    if layout is None:
        layout = geometry.LAYOUTS[max(1, min(3, len(shape) - 2))][0]
    sizes = geometry.split_shape(op, tuple(shape), layout)[2]
    axes = tuple(geometry.ReceptiveField() for _ in sizes)
    flat = False
    fields = []
    for (name, block), window in zip(chain, windows):
        if window is not None and not flat:
            sizes, axes = _slide(op, window, tuple(shape), axes)
            channels = getattr(window, 'channels', None)
            if channels is None:
                channels = geometry.split_shape(op, tuple(shape), window.layout)[1]
            shape = geometry.join_shape(shape[0], channels, sizes, window.layout)
        elif isinstance(block, builtin.Dense) and (flat or block._flatten):
            axes = tuple(axis.behind(n) for axis, n in zip(axes, sizes))
            sizes, flat = (1,) * len(sizes), True
        elif isinstance(block, builtin.Flatten):
            flat = True
        elif not isinstance(block, _POSITION_BY_POSITION):
            raise TypeError(geometry.message('unreadable_layer', op=op, layer=repr(name)))
        fields.append(LayerField(name, sizes, axes))
    return fields


def _slide(
    op: str, window: Any, shape: Ints, axes: Tuple[geometry.ReceptiveField, ...]
) -> Tuple[Ints, Tuple[geometry.ReceptiveField, ...]]:
    """Return the spatial sizes and the fields behind a convolution or pooling layer."""
    sizes = geometry.split_shape(op, shape, window.layout)[2]
    kernel, stride, (before, _) = window.kernel, window.stride, window.sides
    if isinstance(window, geometry.Convolution):
        out, dilate = geometry.convolution_shape(window, shape), window.dilate
    else:
        out, dilate = geometry.pooling_shape(window, shape), (1,) * len(sizes)
        if window.global_pool:
            kernel, stride, before = sizes, dilate, (0,) * len(sizes)
    behind = tuple(
        axis.behind(*arguments) for axis, *arguments in zip(axes, kernel, stride, before, dilate)
    )
    return geometry.split_shape(op, out, window.layout)[2], behind


# --------------------------------------------------------------------------- the picture

_STYLES = ('-', '--', '-.', ':')
_SHADES = ('black', '0.45')
_HALO = {'edgecolor': 'white', 'linestyle': '-'}


def receptive_field(net: Any, x: Any, ax: Any = None) -> Any:
    """Draw, over an image, what one element of each layer sees of it.

    For each layer that widens the field, a frame shows the field of the element in the middle of
    its output; the list beside it gives the field's size, how many pixels the fields of neighbours
    are apart, and where the middle of the drawn one lies. A frame may reach over the edge of the
    image: there the layer sees padding. `receptive_fields` has the same numbers without a picture.

    Parameters
    ----------
    net : mxnet.gluon.Block
        As for `receptive_fields`; two spatial axes.
    x : array, shape (batch, channels, height, width)
        Of MXNet or NumPy, in the order of the layers' layout; the first image is drawn, in grey.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError
        For a layer that cannot be read; it is named.
    ValueError
        If `x` holds no images or does not fit the network.

    Examples
    --------
    >>> import numpy as np
    >>> from gluon_convpool import nn, viz
    >>> net = nn.HybridSequential()
    >>> net.add(nn.Conv2D(6, kernel_size=5), nn.MaxPool2D(), nn.Conv2D(16, kernel_size=3))
    >>> figure = viz.receptive_field(net, np.zeros((1, 1, 28, 28)))
    >>> for text in figure.legends[0].get_texts():
    ...     print(text.get_text())
    layer        field  step      middle
    0 Conv2D       5x5   1x1  13.0, 13.0
    1 MaxPool2D    6x6   2x2  12.5, 12.5
    2 Conv2D     10x10   2x2  12.5, 12.5
    """
    op = 'receptive_field'
    shape = getattr(x, 'shape', ())
    if len(shape) != 4 or 0 in shape:
        geometry.refuse('not_images', op=op, name='x', shape=shape)
    fields = _widening(_read(op, net, shape))
    image = _grey(net, x)
    table = _table(fields)
    height = max(4.4, 0.21 * len(table) + 0.4)
    figure, axes = place(ax, height + 1.0 + 0.0755 * len(table[0]), height)
    # In the middle of its room, the layout would cut off what is written to its left.
    axes.set_anchor('W')
    # Paler than it is, so that the frames stand out.
    axes.imshow(image, cmap='gray', interpolation='nearest', alpha=0.7)
    axes.add_patch(_frame((0, 0), image.shape, edgecolor='0.6', linewidth=0.8))
    frames = []
    for i, field in enumerate(fields):
        where = field.first(field.middle), field.size
        look: Dict[str, Any] = {
            'linestyle': _STYLES[i % len(_STYLES)],
            'edgecolor': _SHADES[i // len(_STYLES) % len(_SHADES)],
            # Where edges coincide, that of the smaller field is seen.
            'zorder': 3 - i / len(fields),
        }
        # The white line below shows it on black pixels.
        axes.add_patch(_frame(*where, linewidth=3.2, **{**look, **_HALO}))
        frames.append(axes.add_patch(_frame(*where, linewidth=1.6, **look)))
    _square_limits(axes)
    axes.set_xlabel('column (pixels)')
    axes.set_ylabel('row (pixels)')
    # An entry without a line: the head of the list.
    head = Rectangle((0, 0), 0, 0, fill=False, linewidth=0)
    font = {'family': 'monospace', 'size': 9}
    legend_beside(axes, ax is None, [head, *frames], table, handlelength=3.2, prop=font)
    return figure


def _widening(fields: List[LayerField]) -> List[LayerField]:
    """Leave out layers whose elements see no more than those of the layer before."""
    before: Tuple[Ints, ...] = ()
    kept = []
    for field in fields:
        now = (field.size, field.jump)
        if field.size != (1, 1) and now != before:
            kept.append(field)
        before = now
    return kept


def _frame(first: Ints, size: Ints, **look: Any) -> Rectangle:
    (top, left), (height, width) = first, size
    return Rectangle((left - 0.5, top - 0.5), width, height, fill=False, **look)


def _square_limits(axes: Any) -> None:
    """Show all that was drawn, in axes as wide as high."""
    axes.autoscale_view()
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    half = max(right - left, bottom - top) / 2
    axes.set_xlim((left + right) / 2 - half, (left + right) / 2 + half)
    axes.set_ylim((bottom + top) / 2 + half, (bottom + top) / 2 - half)


def _grey(net: Any, x: Any) -> numpy.ndarray:
    """Return the first image of `x` as (height, width): the mean of its channels."""
    windows = (_layers.window_of(layer.block) for layer in _layers.layers_of(net))
    layout = next((window.layout for window in windows if window), 'NCHW')
    return to_numpy(x[:1])[0].astype('float64').mean(axis=layout.index('C') - 1)


def _table(fields: List[LayerField]) -> List[str]:
    """Return the list beside the picture: a head, and a line for each layer."""
    rows = [('layer', 'field', 'step', 'middle')]
    for field in fields:
        step = '-' if field.sizes == (1, 1) else _times(field.jump)
        middle = ', '.join(f'{value:.1f}' for value in field.centre(field.middle))
        rows.append((field.name, _times(field.size), step, middle))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        '  '.join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
        for row in rows
    ]


def _times(sizes: Ints) -> str:
    return 'x'.join(map(str, sizes))
