"""Many small images side by side in one picture."""

from __future__ import annotations

import math
from typing import Any, Tuple

import numpy
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle


def columns_for(count: int, height: int, width: int) -> int:
    """Return in how many columns `count` images of `height` times `width` are arranged.

    The picture becomes one to two times as wide as high, and has no empty places if that can be.

    Examples
    --------
    >>> from gluon_convpool.viz._mosaic import columns_for
    >>> [columns_for(count, 3, 3) for count in (1, 6, 20, 50, 64, 120)]
    [1, 3, 5, 10, 8, 12]
    """
    square = max(1, math.ceil(math.sqrt(count * height / width)))
    for columns in range(square, min(2 * square, count) + 1):
        if count % columns == 0:
            return columns
    return min(square, count)


def in_rows(images: numpy.ndarray) -> numpy.ndarray:
    """Arrange images (n, height, width) as (rows, columns, height, width); what is left is NaN."""
    count, height, width = images.shape
    columns = columns_for(count, height, width)
    rows = math.ceil(count / columns)
    places = numpy.full((rows * columns, height, width), numpy.nan, dtype='float64')
    places[:count] = images
    return places.reshape(rows, columns, height, width)


def gap_of(grid: numpy.ndarray) -> int:
    """Return how many pixels lie between two images; single pixels stand side by side."""
    return 1 if grid.shape[2:] != (1, 1) else 0


def pixels(grid: numpy.ndarray) -> Tuple[int, int]:
    """Return height and width of a mosaic."""
    gap = gap_of(grid)
    rows, columns, height, width = grid.shape
    return rows * (height + gap) - gap, columns * (width + gap) - gap


def draw(axes: Any, grid: numpy.ndarray, low: float, high: float, label: str) -> Any:
    """Draw images, all on one scale from black to white, with a frame around each and a scale.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    grid : array, shape (rows, columns, height, width)
        NaN is left out.
    low, high : float
        What is drawn black and white.
    label : str
        Of the scale.

    Returns
    -------
    matplotlib.image.AxesImage
        The one image that all of them are in; the ticks of `axes` are at the middle of each.
    """
    rows, columns, height, width = grid.shape
    gap = gap_of(grid)
    canvas = numpy.full(pixels(grid), numpy.nan)
    frames = []
    for row, column in numpy.ndindex(rows, columns):
        top, left = row * (height + gap), column * (width + gap)
        canvas[top : top + height, left : left + width] = grid[row, column]
        if not numpy.isnan(grid[row, column]).all():
            frames.append(Rectangle((left - 0.5, top - 0.5), width, height))
    image = axes.imshow(
        numpy.ma.masked_invalid(canvas), cmap='gray', vmin=low, vmax=high, interpolation='nearest'
    )
    axes.add_collection(
        # a grey that is seen on black and on white
        PatchCollection(frames, facecolor='none', edgecolor='0.45', linewidth=0.5, zorder=2)
    )
    # half of a frame lies outside
    axes.set_xlim(-1, canvas.shape[1])
    axes.set_ylim(canvas.shape[0], -1)
    axes.set_xticks([left + (width - 1) / 2 for left in range(0, canvas.shape[1], width + gap)])
    axes.set_yticks([top + (height - 1) / 2 for top in range(0, canvas.shape[0], height + gap)])
    axes.set_xticklabels([])
    axes.set_yticklabels([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.figure.colorbar(image, ax=axes, label=label, shrink=0.8)
    return image


def number_ticks(axis: Any, count: int, most: int = 16) -> None:
    """Number the ticks that `draw` set, not more than `most` of them."""
    step = math.ceil(count / most)
    axis.set_ticklabels([str(i) if i % step == 0 else '' for i in range(count)])


def counted(shown: int, count: int, what: str) -> str:
    """Say how many of `count` things are shown.

    Examples
    --------
    >>> from gluon_convpool.viz._mosaic import counted
    >>> counted(1, 1, 'map'), counted(20, 20, 'map'), counted(16, 64, 'map')
    ('1 map', '20 maps', 'first 16 of 64 maps')
    """
    number = str(count) if shown == count else f'first {shown} of {count}'
    return f'{number} {what}' if count == 1 else f'{number} {what}s'
