"""How a training went, and what the network that came out of it gets wrong."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

import numpy

from .. import geometry
from ._canvas import place, to_numpy

# Told apart by width, brightness and dashes: lines that coincide are still seen, the later ones
# being thinner.
_LINES = (
    {'color': '0.65', 'linewidth': 4.0},
    {'color': 'black', 'linewidth': 1.2, 'marker': 'o', 'markersize': 3},
    {'color': '0.4', 'linewidth': 1.2, 'linestyle': '--', 'marker': 's', 'markersize': 3},
    {'color': 'black', 'linewidth': 1.2, 'linestyle': ':', 'marker': '^', 'markersize': 4},
)


def draw_curves(curves: Mapping[str, Sequence[float]], quantity: str, ax: Any = None) -> Any:
    """Draw a quantity over the epochs, for one network or several.

    Parameters
    ----------
    curves : mapping of str to sequence of float
        At most four, by name; one value for each epoch. The first is drawn broad and grey, so that
        the next ones are seen even where they coincide with it.
    quantity : str
        What the values are, with their unit.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        For no curve at all, or too many.

    Examples
    --------
    >>> from gluon_convpool import viz
    >>> losses = {"MXNet's layers": [2.0, 1.0, 0.5], 'ours': [2.0, 1.0, 0.5]}
    >>> figure = viz.draw_curves(losses, 'training loss')
    >>> figure.axes[0].get_ylabel()
    'training loss'
    """
    if not 1 <= len(curves) <= len(_LINES):
        raise ValueError(
            f'draw_curves: curves has {len(curves)} entries, but it must have 1 to {len(_LINES)}'
        )
    figure, axes = place(ax, 5.5, 4)
    lines = _LINES if len(curves) > 1 else _LINES[1:]
    for (name, values), line in zip(curves.items(), lines):
        axes.plot(range(1, len(values) + 1), to_numpy(values), label=name, **line)
    axes.set_xlabel('epoch')
    axes.set_ylabel(quantity)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color='0.9')
    if len(curves) > 1:
        axes.legend()
    return figure


def draw_confusion(
    labels: Any, predictions: Any, classes: Optional[Sequence[str]] = None, ax: Any = None
) -> Any:
    """Draw how often each class was read as which.

    Parameters
    ----------
    labels, predictions : array of int, shape (n,)
        Classes counted from 0.
    classes : sequence of str, optional
        Their names; by default the numbers.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the arrays differ in shape.

    Examples
    --------
    >>> from gluon_convpool import viz
    >>> figure = viz.draw_confusion([0, 1, 1], [0, 1, 0], classes=['cat', 'dog'])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['1', '1', '1']
    """
    wanted, found = _classes('draw_confusion', labels, predictions)
    highest = max(wanted.max(initial=-1), found.max(initial=-1))
    names = [str(i) for i in range(highest + 1)] if classes is None else list(classes)
    if highest >= len(names) or min(wanted.min(initial=0), found.min(initial=0)) < 0:
        raise ValueError(
            f'draw_confusion: labels and predictions must be from 0 to {len(names) - 1}, since'
            f' there are {len(names)} classes'
        )
    table = numpy.zeros((len(names), len(names)), dtype=int)
    numpy.add.at(table, (wanted, found), 1)
    side = max(4.0, 0.4 * len(names))
    figure, axes = place(ax, side + 0.5, side)
    # The square root lets a single mistake show beside dozens of right answers.
    axes.imshow(numpy.sqrt(table), cmap='Greys')
    middle = numpy.sqrt(table.max()) / 2
    for (row, column), count in numpy.ndenumerate(table):
        if count:
            colour = 'white' if numpy.sqrt(count) > middle else 'black'
            axes.text(column, row, str(count), ha='center', va='center', color=colour, fontsize=8)
    axes.set_xticks(range(len(names)))
    axes.set_yticks(range(len(names)))
    axes.set_xticklabels(names)
    axes.set_yticklabels(names)
    axes.set_xlabel('predicted class')
    axes.set_ylabel('true class')
    axes.set_title('number of images')
    return figure


def draw_misread(images: Any, labels: Any, predictions: Any, most: int = 8, ax: Any = None) -> Any:
    """Draw images whose class was read wrongly, dark on white.

    Parameters
    ----------
    images : array, shape (n, channels, height, width)
        The first channel is drawn; large values are dark.
    labels, predictions : array of int, shape (n,)
    most : int
        How many images are drawn, the first ones.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure. The images get axes of their own inside of it.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        If the arrays don't belong together, and for `most` below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from gluon_convpool import viz
    >>> figure = viz.draw_misread(np.ones((3, 1, 8, 8)), [1, 2, 7], [1, 7, 7])
    >>> [axes.get_title() for axes in figure.axes[0].child_axes]
    ['2 read as 7']
    """
    op = 'draw_misread'
    most = geometry.integer(op, 'most', most, 1)
    wanted, found = _classes(op, labels, predictions)
    pixels = to_numpy(images)
    if pixels.ndim != 4 or len(pixels) != len(wanted):
        geometry.refuse('not_images', op=op, name='images', shape=pixels.shape)
    wrong = numpy.flatnonzero(wanted != found)
    shown = wrong[:most]
    columns = max(1, min(4, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure, axes = place(ax, 1.5 * max(columns, 3), 1.8 * rows + 0.4)
    axes.set_axis_off()
    axes.set_title(f'{len(wrong)} of {len(wanted)} images misread', pad=20)
    high = float(pixels.max()) if pixels.size else 1.0
    for i, index in enumerate(shown):
        row, column = divmod(i, columns)
        bounds = ((column + 0.05) / columns, 1 - (row + 0.85) / rows, 0.9 / columns, 0.8 / rows)
        inner = axes.inset_axes(bounds)
        inner.imshow(pixels[index, 0], cmap='gray_r', vmin=0, vmax=high)
        inner.set_title(f'{wanted[index]} read as {found[index]}', fontsize=10)
        inner.set_xticks([])
        inner.set_yticks([])
    return figure


def _classes(op: str, labels: Any, predictions: Any) -> Any:
    """Return both as arrays of int, if they are as long as each other."""
    wanted, found = to_numpy(labels).astype(int), to_numpy(predictions).astype(int)
    if wanted.shape != found.shape or wanted.ndim != 1:
        raise ValueError(
            f'{op}: labels has shape {wanted.shape} and predictions {found.shape}, but both must'
            ' have one entry for each image'
        )
    return wanted, found
