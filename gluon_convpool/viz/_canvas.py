"""Where a picture is drawn, and what all pictures share: markers, and arrays to draw."""

from __future__ import annotations

from typing import Any, Tuple

import numpy
from matplotlib.figure import Figure

# Marker and filling: told apart by shape and by brightness, so that a print without colours can be
# read.
MARKERS = (
    ('o', 'black'),
    ('s', 'white'),
    ('^', '0.6'),
    ('D', 'white'),
    ('v', 'black'),
    ('P', '0.6'),
    ('X', 'white'),
    ('*', 'black'),
    ('<', 'white'),
    ('h', '0.6'),
)


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of `width` times `height` inches that no window manager holds."""
    return Figure(figsize=(width, height), layout='constrained')


def place(ax: Any, width: float, height: float) -> Tuple[Any, Any]:
    """Return the figure and the axes to draw on: those of `ax`, or new ones if it is None."""
    if ax is None:
        figure = new_figure(width, height)
        return figure, figure.subplots()
    # the figure itself, where the axes belong to a part of it
    return ax.figure.canvas.figure, ax


def legend_beside(axes: Any, alone: bool, handles: Any, labels: Any, **look: Any) -> None:
    """Put a legend to the right of the axes; `alone` are those of a figure of our own."""
    if alone:
        axes.figure.legend(handles, labels, loc='outside right upper', **look)
    else:
        where = {'loc': 'upper left', 'bbox_to_anchor': (1.03, 1.0), 'borderaxespad': 0.0}
        axes.legend(handles, labels, **where, **look)


def to_numpy(array: Any) -> numpy.ndarray:
    """Return an array of MXNet or NumPy, or what NumPy makes one of, as NumPy's."""
    return array.asnumpy() if hasattr(array, 'asnumpy') else numpy.asarray(array)
