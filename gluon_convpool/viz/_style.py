"""What the pictures share: colours, numbers as text, text that scales with the drawing, figures."""

from __future__ import annotations

import functools
import math
from typing import Any

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

INK = '#1a1a1a'
FAINT = '#767676'
LINE = '#9a9a9a'
# Fills are light enough for black text on them, and of different brightness.
PATCH = '#f7c873'
KERNEL = '#bcdcf2'
RESULT = '#a9d9b4'
PADDING = '#f1f1f1'
HATCH = '#c4c4c4'

# Comes with Matplotlib and has every sign that is used here.
FONT = 'DejaVu Sans'
MINUS = '\u2212'
INFINITY = '\u221e'


def number(value: float) -> str:
    """`value` in as few characters as tell it: whole numbers whole, others to three digits.

    Examples
    --------
    >>> from gluon_convpool.viz import _style
    >>> [_style.number(value) for value in (19.0, 0.5, 1 / 3, 123456.7)]
    ['19', '0.5', '0.333', '1.23e+05']
    """
    if math.isnan(value):
        return 'nan'
    if math.isinf(value):
        text = INFINITY
    elif value == round(value) and abs(value) < 1e6:
        text = str(abs(round(value)))
    else:
        text = f'{abs(value):.3g}'
    return MINUS + text if value < 0 else text


def exactly(value: float) -> bool:
    """Whether `number` says all of `value`."""
    if not math.isfinite(value):
        return True
    return float(number(value).replace(MINUS, '-')) == value


@functools.lru_cache(maxsize=4096)
def text_width(text: str) -> float:
    """How wide `text` is, as a multiple of its font size."""
    font = FontProperties(family=FONT, size=100)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 100


class ScaledText(Text):
    """Text whose font size is given in units of the axes' data, so that it fits at any scale.

    Parameters
    ----------
    x, y : float
        Position in data units.
    text : str
    size : float
        Font size in data units.
    width : float, optional
        Room for the text in data units; the font shrinks where it is needed.
    """

    def __init__(
        self, x: float, y: float, text: str, size: float, width: float = math.inf, **kwargs: Any
    ) -> None:
        kwargs = {'ha': 'center', 'va': 'center_baseline', 'color': INK, 'family': FONT, **kwargs}
        super().__init__(x, y, text, parse_math=False, **kwargs)
        self._size = min(size, width / max(text_width(text), 1e-9))

    def _scale(self) -> None:
        axes: Any = self.axes
        to_pixels = axes.transData.transform
        pixels = abs(to_pixels((0, 1))[1] - to_pixels((0, 0))[1])
        points = self._size * pixels * 72 / axes.figure.dpi
        # Setting it again would mark the text as changed, and the figure as one to draw again.
        if points > 0 and points != self.get_fontsize():
            self.set_fontsize(points)

    def draw(self, renderer: Any) -> None:
        self._scale()
        super().draw(renderer)

    def get_window_extent(self, *args: Any, **kwargs: Any) -> Any:
        self._scale()
        return super().get_window_extent(*args, **kwargs)


def new_figure(width: float, height: float, dpi: float = 100) -> Any:
    """Return an empty figure of `width` times `height` inches that no window manager holds."""
    # Its canvas cannot draw, only save; an animation would draw every frame twice otherwise.
    return Figure(figsize=(width, height), dpi=dpi, facecolor='white')
