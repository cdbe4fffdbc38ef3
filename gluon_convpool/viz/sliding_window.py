"""The picture of a window that slides over a matrix, still and moving."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.patches import FancyArrow, Rectangle

from .. import geometry
from . import _style
from ._player import player
from ._style import ScaledText, number, text_width

Matrix = numpy.ndarray
Cell = Tuple[int, ...]

# Matrices of more rows or columns have cells in which no number can be read.
LARGEST_SIDE = 32
LARGEST_FORMULA = 36
WINDOWS_PER_SECOND = 1

# All lengths in a drawing are in cells, except these two.
INCHES_PER_CELL = 0.5
WIDEST_FIGURE = 10.5
# By how much windows shrink at most to stand side by side.
SMALLEST_SCALE = 0.7

MARGIN = 0.35
HEADER = 1.45
GAP = 1.3
FORMULA_SIZE, FORMULA_LINE = 0.4, 0.62
NOTE_LINE = 0.55
NUMBER_SIZE, WEIGHT_SIZE, ROOM_IN_CELL = 0.42, 0.24, 0.84
HEADING_SIZE, NOTE_SIZE = 0.34, 0.32
NARROWEST, WIDEST_FORMULA = 7.0, 13.0


class Step(NamedTuple):
    """One window: the cells of the padded input that it takes, and the arithmetic on them.

    `terms` are texts, a list for each row of the window; ``opening + joint.join(terms) + closing``
    is what the formula shows between the equals signs.
    """

    taps: Sequence[Cell]
    terms: List[List[str]]
    value: float
    opening: str = ''
    closing: str = ''
    joint: str = ' + '
    exact: bool = True


class Grid(NamedTuple):
    """A matrix in the drawing: its upper left corner and its size, in cells."""

    x: float
    y: float
    rows: int
    columns: int


def read_matrix(op: str, name: str, value: Any) -> Matrix:
    """`value`, an array of MXNet or anything that NumPy takes, as a matrix of float64."""
    matrix = value.asnumpy() if hasattr(value, 'asnumpy') else numpy.asarray(value)
    if matrix.dtype.kind not in 'biuf':
        allowed = 'real numbers'
        geometry.refuse('unsupported_dtype', op=op, dtype=matrix.dtype, allowed=allowed)
    if matrix.ndim != 2:
        geometry.refuse('not_a_matrix', op=op, name=name, shape=matrix.shape)
    check_drawable(op, name, matrix.shape)
    return matrix.astype('float64')


def check_drawable(op: str, name: str, shape: Sequence[int]) -> None:
    """Refuse a matrix whose numbers nobody could read."""
    if max(shape) > LARGEST_SIDE:
        geometry.refuse(
            'too_large_to_draw', op=op, name=name, shape=tuple(shape), largest=LARGEST_SIDE
        )


def read_steps(op: str, steps: Any, count: int) -> List[int]:
    """`steps`, one number or several, as numbers of windows; negative ones count from the end."""
    several = list(steps) if isinstance(steps, (list, tuple, range)) else [steps]
    for step in several:
        geometry.integer(op, 'steps', step, -count)
        if step >= count:
            geometry.refuse('no_such_step', op=op, step=step, count=count)
    if not several:
        geometry.refuse('no_such_step', op=op, step=steps, count=count)
    return [int(step) % count for step in several]


def factor(value: float) -> str:
    """A number as it stands within a formula: negative ones in parentheses."""
    return f'({number(value)})' if value < 0 else number(value)


def fitting_size(matrix: Optional[Matrix], size: float = NUMBER_SIZE, before: str = '') -> float:
    """The font size, at most `size`, at which all numbers fit, with a text before them."""
    if matrix is None:
        return 0.0
    widest = max(text_width(before + number(value)) for value in matrix.flat)
    return min(size, ROOM_IN_CELL / widest)


def plainly(values: Sequence[Any]) -> str:
    """One number where all axes have the same; padding may have a pair for each axis."""
    # One pair alone would read as one number for each axis.
    same = len(set(values)) == 1 and not isinstance(values[0], tuple)
    return str(values[0]) if same else str(tuple(values))


class SlidingWindow:
    """A window that slides over a matrix, as `explain_corr2d` and `explain_pool2d` draw it.

    A notebook plays the animation of an object that ends a cell. Nothing else shows it.

    Attributes
    ----------
    figure : matplotlib.figure.Figure
        The windows that were asked for.
    Y : numpy.ndarray
        The output, in float64.

    Examples
    --------
    >>> from gluon_convpool import viz
    >>> window = viz.explain_corr2d([[0, 1, 2], [3, 4, 5], [6, 7, 8]], [[0, 1], [2, 3]])
    >>> window
    <explain_corr2d: 4 windows>
    >>> window.Y
    array([[19., 25.],
           [37., 43.]])
    """

    def __init__(
        self,
        op: str,
        *,
        X: Matrix,
        K: Optional[Matrix],
        border: float,
        padding: Sequence[Tuple[int, int]],
        extent: Sequence[int],
        strides: Sequence[int],
        sizes: Sequence[int],
        steps: List[Step],
        sign: str,
        notes: List[str],
        shown: Union[int, Sequence[int]],
        ax: Any,
    ) -> None:
        self._op, self._K, self._steps, self._sign, self._notes = op, K, steps, sign, notes
        self._input_shape, self._before = X.shape, [before for before, _ in padding]
        self._extent, self._strides = extent, strides
        self._padded = numpy.pad(X, padding, constant_values=border)
        # In ceil mode the last windows may reach over the padding.
        self._reach = tuple(
            max(n, (count - 1) * stride + size)
            for n, count, stride, size in zip(self._padded.shape, sizes, strides, extent)
        )
        check_drawable(op, 'X with what its windows reach', self._reach)
        self.Y = numpy.array([step.value for step in steps]).reshape(tuple(sizes))
        self._lay_out()
        chosen = read_steps(op, shown, len(steps))
        if ax is None:
            self.figure = self._draw_several(chosen)
        elif len(chosen) > 1:
            geometry.refuse('one_step_for_ax', op=op, steps=chosen)
        else:
            self._draw(ax, chosen[0])
            self.figure = ax.figure.canvas.figure

    def __repr__(self) -> str:
        return f'<{self._op}: {len(self._steps)} windows>'

    def __len__(self) -> int:
        return len(self._steps)

    def animation(self, dpi: float = 100) -> FuncAnimation:
        """Return the animation of all windows, one frame each, on a figure of its own.

        Parameters
        ----------
        dpi : float
            Dots per inch.

        Examples
        --------
        >>> from gluon_convpool import viz
        >>> window = viz.explain_pool2d([[0, 1, 2], [3, 4, 5], [6, 7, 8]], (2, 2))
        >>> window.animation().save('pool2d.mp4')  # doctest: +SKIP
        """
        figure = _style.new_figure(*self._inches(), dpi)
        axes = figure.add_axes((0, 0, 1, 1))

        def draw_frame(step: int) -> List[Any]:
            axes.clear()
            self._draw(axes, step)
            return []

        return FuncAnimation(
            figure,
            draw_frame,
            frames=len(self._steps),
            interval=1000 // WINDOWS_PER_SECOND,
            blit=False,
        )

    def save(self, path: Union[str, Path], dpi: float = 100) -> None:
        """Write the animation (``.gif``, ``.html``) or the still figure (``.png``, ``.svg``, …).

        Parameters
        ----------
        path : str or pathlib.Path
            The ending decides what is written.
        dpi : float
            Dots per inch of pictures made of pixels.

        Raises
        ------
        ValueError
            If the ending is none of those that can be written.

        Examples
        --------
        >>> import os, tempfile
        >>> from gluon_convpool import viz
        >>> window = viz.explain_corr2d([[0, 1, 2], [3, 4, 5], [6, 7, 8]], [[0, 1], [2, 3]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     window.save(os.path.join(folder, 'corr2d.gif'))
        ...     os.listdir(folder)
        ['corr2d.gif']
        """
        path = Path(path)
        still = sorted(self.figure.canvas.get_supported_filetypes())
        endings = ['gif', 'html', *(one for one in still if one not in ('gif', 'html'))]
        ending = path.suffix[1:].lower()
        geometry.choice(f'{type(self).__name__}.save', 'ending of the path', ending, endings)
        if ending == 'gif':
            self.animation().save(path, writer=PillowWriter(fps=WINDOWS_PER_SECOND), dpi=dpi)
        elif ending == 'html':
            path.write_text(player(self.animation(dpi)), encoding='utf-8')
        else:
            self.figure.savefig(path, dpi=dpi)

    def _repr_html_(self) -> str:
        return player(self.animation(dpi=80))

    # ----------------------------------------------------------------------------- the drawing

    def _lay_out(self) -> None:
        """Decide where everything stands; the same for all windows, so that nothing jumps."""
        sizes = [self._reach]
        if self._K is not None:
            sizes.append(self._K.shape)
        sizes.append(self.Y.shape)
        # A heading may be wider than the grid under it.
        rooms = [
            max(columns, HEADING_SIZE * text_width(shape))
            for (_, columns), (_, shape) in zip(sizes, self._headings())
        ]
        height = max(rows for rows, _ in sizes)

        content = sum(rooms) + GAP * (len(rooms) - 1)
        # A formula that is too long for a line has one for each row of the window.
        one_line = self._formula_width(1)
        rows = max(len(step.terms) for step in self._steps)
        self._formula_lines = 1 if one_line <= max(content, WIDEST_FORMULA) else rows
        formula = self._formula_width(self._formula_lines)
        width = max(content, NARROWEST, min(formula, WIDEST_FORMULA))

        self._width = width + 2 * MARGIN
        self._grids: List[Grid] = []
        self._signs: List[float] = []
        x = MARGIN + (width - content) / 2
        for (rows, columns), room in zip(sizes, rooms):
            self._grids.append(
                Grid(x + (room - columns) / 2, HEADER + (height - rows) / 2, rows, columns)
            )
            x += room
            self._signs.append(x + GAP / 2)
            x += GAP
        self._middle = HEADER + height / 2
        self._formula_top = HEADER + height + 0.55
        self._note_top = self._formula_top + FORMULA_LINE * self._formula_lines
        self._height = self._note_top + NOTE_LINE
        self._sizes = [fitting_size(matrix) for matrix in (self._padded, self._K, self.Y)]

    def _headings(self) -> List[Tuple[str, str]]:
        def shape(matrix_shape: Sequence[int]) -> str:
            return ' × '.join(map(str, matrix_shape))

        padded = self._padded.shape != self._input_shape
        x = shape(self._input_shape) + (', padding hatched' if padded else '')
        kernel = [] if self._K is None else [('K', shape(self._K.shape))]
        return [('X', x), *kernel, ('Y', shape(self.Y.shape))]

    def _inches(self) -> Tuple[float, float]:
        scale = min(INCHES_PER_CELL, WIDEST_FIGURE / self._width)
        return self._width * scale, self._height * scale

    def _draw_several(self, chosen: List[int]) -> Any:
        width, height = self._inches()
        columns = max(1, min(len(chosen), int(WIDEST_FIGURE / (SMALLEST_SCALE * width))))
        rows = -(-len(chosen) // columns)
        scale = min(1.0, WIDEST_FIGURE / (width * columns))
        width, height = width * scale, height * scale
        figure = _style.new_figure(width * columns, height * rows)
        for place, step in enumerate(chosen):
            row, column = divmod(place, columns)
            box = (column / columns, 1 - (row + 1) / rows, 1 / columns, 1 / rows)
            self._draw(figure.add_axes(box), step)
        return figure

    def _draw(self, ax: Any, step: int) -> None:
        """Draw one window into `ax`."""
        ax.set_xlim(0, self._width)
        ax.set_ylim(self._height, 0)
        ax.set_aspect('equal')
        ax.set_axis_off()
        for grid, (name, shape) in zip(self._grids, self._headings()):
            middle = grid.x + grid.columns / 2
            self._write(ax, middle, grid.y - 0.95, name, 0.5, weight='bold')
            self._write(ax, middle, grid.y - 0.4, shape, HEADING_SIZE, color=_style.FAINT)
        if self._K is not None:
            for x, sign, size in zip(self._signs, '\u22c6=', (1.0, 0.6)):
                self._write(ax, x, self._middle, sign, size)
        else:
            self._write(ax, self._signs[0], self._middle - 0.42, self._sign, 0.42, width=GAP - 0.3)
            arrow = FancyArrow(
                self._signs[0] - 0.4,
                self._middle,
                0.8,
                0,
                width=0.05,
                head_width=0.3,
                head_length=0.22,
                length_includes_head=True,
                color=_style.INK,
                linewidth=0,
            )
            ax.add_patch(arrow)
        self._draw_input(ax, step)
        if self._K is not None:
            self._draw_kernel(ax)
        self._draw_output(ax, step)
        self._draw_formula(ax, step)

    @staticmethod
    def _write(ax: Any, x: float, y: float, text: str, size: float, **kwargs: Any) -> None:
        ax.add_artist(ScaledText(x, y, text, size, **kwargs))

    @staticmethod
    def _box(ax: Any, x: float, y: float, columns: float, rows: float, **kwargs: Any) -> None:
        kwargs = {'facecolor': 'none', 'edgecolor': _style.LINE, 'linewidth': 0.8, **kwargs}
        ax.add_patch(Rectangle((x, y), columns, rows, **kwargs))

    def _cell(
        self,
        ax: Any,
        which: int,
        cell: Cell,
        text: str = '',
        hatched: bool = False,
        colour: str = _style.INK,
        **kwargs: Any,
    ) -> None:
        """Draw a cell of the grid number `which`, -1 being the output's."""
        x, y = self._grids[which].x + cell[1], self._grids[which].y + cell[0]
        self._box(ax, x, y, 1, 1, **kwargs)
        if hatched:
            # Its own rectangle: a hatch has the colour of the edge.
            self._box(ax, x, y, 1, 1, edgecolor=_style.HATCH, hatch='////', linewidth=0)
        if text:
            self._write(ax, x + 0.5, y + 0.5, text, self._sizes[which], color=colour)

    def _draw_input(self, ax: Any, step: int) -> None:
        grid, taps = self._grids[0], self._steps[step].taps
        taken = set(taps)
        rows, columns = self._padded.shape
        for cell in numpy.ndindex(*self._reach):
            i, j = cell
            if i >= rows or j >= columns:
                self._cell(ax, 0, cell, linestyle=':')
                continue
            top, left = i - self._before[0], j - self._before[1]
            inside = 0 <= top < self._input_shape[0] and 0 <= left < self._input_shape[1]
            value = self._padded[i, j]
            # Padding that takes no part, as in an average that does not count it, has no number.
            text = '' if numpy.isnan(value) and not inside else number(value)
            fill = _style.PATCH if cell in taken else 'white' if inside else _style.PADDING
            colour = _style.INK if cell in taken or inside else _style.FAINT
            self._cell(ax, 0, cell, text, hatched=not inside, colour=colour, facecolor=fill)
        if self._K is not None:
            size = fitting_size(self._K, WEIGHT_SIZE, before='\u00d7')
            for (i, j), weight in zip(taps, self._K.flat):
                place = grid.x + j + 0.94, grid.y + i + 0.84
                self._write(ax, *place, '\u00d7' + number(weight), size, ha='right')
        row, column = divmod(step, self.Y.shape[1])
        corner = grid.x + column * self._strides[1], grid.y + row * self._strides[0]
        self._box(
            ax, *corner, self._extent[1], self._extent[0], edgecolor=_style.INK, linewidth=2.6
        )

    def _draw_kernel(self, ax: Any) -> None:
        assert self._K is not None
        grid = self._grids[1]
        for cell, value in numpy.ndenumerate(self._K):
            self._cell(ax, 1, cell, number(value), facecolor=_style.KERNEL)
        self._box(ax, grid.x, grid.y, grid.columns, grid.rows, edgecolor=_style.INK, linewidth=1.6)

    def _draw_output(self, ax: Any, step: int) -> None:
        for place, (cell, value) in enumerate(numpy.ndenumerate(self.Y)):
            if place > step:
                self._cell(ax, -1, cell)
            elif place < step:
                self._cell(ax, -1, cell, number(value), facecolor='white')
        i, j = divmod(step, self.Y.shape[1])
        written: Any = {'facecolor': _style.RESULT, 'edgecolor': _style.INK, 'linewidth': 2.6}
        self._cell(ax, -1, (i, j), number(self.Y[i, j]), **written)

    # ----------------------------------------------------------------------------- the formula

    def _formula(self, step: int, lines: int) -> List[str]:
        one = self._steps[step]
        i, j = divmod(step, self.Y.shape[1])
        equals = ' = ' if one.exact else ' \u2248 '
        rows = one.terms
        if sum(map(len, rows)) > LARGEST_FORMULA:
            terms = [term for row in rows for term in row]
            rows = [[*terms[:2], '\u2026', terms[-1]]]
        if lines == 1:
            rows = [[term for row in rows for term in row]]
        texts = [one.joint.join(row) for row in rows] or ['']
        # A sign at the end of a line says that the formula goes on.
        texts = [text + one.joint.rstrip() for text in texts[:-1]] + texts[-1:]
        texts[0] = f'Y[{i}, {j}] = {one.opening}{texts[0]}'
        texts[-1] += one.closing + (equals + number(one.value))
        return texts

    def _formula_width(self, lines: int) -> float:
        texts = [text for step in range(len(self)) for text in self._formula(step, lines)]
        return FORMULA_SIZE * max(map(text_width, texts))

    def _draw_formula(self, ax: Any, step: int) -> None:
        middle, room = self._width / 2, self._width - 2 * MARGIN
        for line, text in enumerate(self._formula(step, self._formula_lines)):
            y = self._formula_top + FORMULA_LINE * line
            self._write(ax, middle, y, text, FORMULA_SIZE, width=room)
        note = f'window {step + 1} of {len(self._steps)}'
        if self._notes:
            note += ' \u00b7 ' + ', '.join(self._notes)
        self._write(ax, middle, self._note_top, note, NOTE_SIZE, width=room, color=_style.FAINT)
