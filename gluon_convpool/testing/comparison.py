"""When two arrays count as equal, and what is said where they do not."""

from __future__ import annotations

from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple

import numpy as np

TOLERANCE = 1e-5
"""How far two right float32 layers may differ, as a share of the largest expected value."""

Index = Tuple[int, ...]


class Difference(NamedTuple):
    """Where and how much one array differs from what it must be.

    Attributes
    ----------
    name : str
        Of the array: 'output', 'x' for the gradient by the input, or that of a parameter.
    wrong, size : int
        How many values are too far off, of how many.
    first, worst : tuple of int
        Index of the first one in row-major order, and of the one that is furthest off.
    actual, expected : float
        The two values at `first`.
    worst_actual, worst_expected : float
        The two values at `worst`.
    tolerance : float
        What a finite value may differ by.
    rtol, largest : float
        The tolerance is their product: `largest` is the largest finite expected value.
    """

    name: str
    wrong: int
    size: int
    first: Index
    actual: float
    expected: float
    worst: Index
    worst_actual: float
    worst_expected: float
    tolerance: float
    rtol: float
    largest: float

    def __str__(self) -> str:
        lines = [
            f'{self.name}: {self.wrong} of {self.size} values differ',
            f'first at {list(self.first)}: {self.actual!r}, expected {self.expected!r}',
        ]
        if self.worst != self.first:
            lines.append(
                f'most at {list(self.worst)}: {self.worst_actual!r},'
                f' expected {self.worst_expected!r}'
            )
        lines.append(
            f'tolerance: {self.tolerance:.3g} (rtol={self.rtol:g} of the largest expected value,'
            f' {self.largest:.3g})'
        )
        return '\n  '.join(lines)


class ParityError(AssertionError):
    """Two layers, or a gradient and its finite differences, do not agree.

    Attributes
    ----------
    explanation : str
        What differs: the first index, both values, the tolerance.
    reproducer : str
        A Python program that raises this error again; empty where only arrays were compared.
    """

    def __init__(self, explanation: str, reproducer: str = '') -> None:
        super().__init__(explanation, reproducer)
        self.explanation = explanation
        self.reproducer = reproducer

    def __str__(self) -> str:
        if not self.reproducer:
            return self.explanation
        return f'{self.explanation}\n\nTo reproduce it, run this program:\n\n{self.reproducer}'


def _compared(actual: np.ndarray, expected: np.ndarray) -> Tuple[np.ndarray, float]:
    """By how much each value is off, and the largest finite expected value.

    What is not finite is off by nothing where both are the same, and else infinitely.
    """
    finite = np.isfinite(expected)
    largest = float(np.abs(expected[finite]).max()) if finite.any() else 0.0
    with np.errstate(invalid='ignore', over='ignore'):
        off = np.abs(actual - expected)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    off[same] = 0.0
    off[~same & ~(finite & np.isfinite(actual))] = np.inf
    return off, largest


def relative_difference(actual: Any, expected: Any) -> float:
    """Return the largest difference as a share of the largest finite expected value.

    Parameters
    ----------
    actual, expected : array_like
        Of the same shape.

    Returns
    -------
    float
        0 for equal arrays, infinity where one is not finite and the other is something else, or
        where everything expected is 0 and something is not.

    Raises
    ------
    ValueError
        For arrays of different shapes.

    Examples
    --------
    >>> from gluon_convpool import testing
    >>> testing.relative_difference([1.0, 2.0, -3.5], [1.0, 2.0, -4.0])
    0.125
    """
    actual, expected = np.asarray(actual, 'float64'), np.asarray(expected, 'float64')
    if actual.shape != expected.shape:
        raise ValueError(
            f'relative_difference: actual has shape {actual.shape}, expected {expected.shape}'
        )
    off, largest = _compared(actual, expected)
    worst = float(off.max()) if off.size else 0.0
    if worst == 0.0:
        return 0.0
    return worst / largest if largest else np.inf


def difference(
    name: str, actual: np.ndarray, expected: np.ndarray, rtol: float
) -> Optional[Difference]:
    """Return how two float64 arrays of one shape differ by more than `rtol`, or None."""
    off, largest = _compared(actual, expected)
    wrong = off > rtol * largest
    if not wrong.any():
        return None

    def index_of(flat: Any) -> Index:
        return tuple(int(i) for i in np.unravel_index(int(flat), off.shape))

    first, worst = index_of(np.argmax(wrong)), index_of(np.argmax(off))
    return Difference(
        name,
        int(wrong.sum()),
        wrong.size,
        first,
        float(actual[first]),
        float(expected[first]),
        worst,
        float(actual[worst]),
        float(expected[worst]),
        rtol * largest,
        rtol,
        largest,
    )


def assert_shape(name: str, actual: Index, expected: Index) -> None:
    """Assert that an array has the shape that it must have."""
    __tracebackhide__ = True
    if actual != expected:
        raise ParityError(f'{name}: has shape {actual}, expected {expected}')


def assert_close(name: str, actual: Any, expected: Any, rtol: float = TOLERANCE) -> None:
    """Assert that an array is what it must be.

    Every value is as far as `rtol` times the largest expected value from the expected one, or
    nearer. Values that are not finite are the same at the same places: NaN for NaN.

    Parameters
    ----------
    name : str
        What the message calls the array.
    actual, expected : array_like
        Compared in float64.
    rtol : float
        Relative to the largest finite expected value, not to each value by itself: a sum that
        cancels to nearly nothing has the rounding of its summands.

    Raises
    ------
    ParityError
        An `AssertionError` with the first index that differs, both values and the tolerance.

    Examples
    --------
    >>> from gluon_convpool import testing
    >>> testing.assert_close('sum', [3.0, 700.0], [3.001, 700.0])
    >>> testing.assert_close('sum', [3.0, 700.0], [3.1, 700.0])
    Traceback (most recent call last):
        ...
    gluon_convpool.testing.comparison.ParityError: sum: 1 of 2 values differ
      first at [0]: 3.0, expected 3.1
      tolerance: 0.007 (rtol=1e-05 of the largest expected value, 700)
    """
    __tracebackhide__ = True
    actual, expected = np.asarray(actual, 'float64'), np.asarray(expected, 'float64')
    assert_shape(name, actual.shape, expected.shape)
    found = difference(name, actual, expected, rtol)
    if found is not None:
        raise ParityError(str(found))


def assert_same(
    actual: Mapping[str, Any], expected: Mapping[str, Any], rtol: float = TOLERANCE
) -> None:
    """Assert that two sets of named arrays, such as `measure` returns, are the same.

    Parameters
    ----------
    actual, expected : mapping of str to array_like
    rtol : float
        As in `assert_close`, for each array.

    Raises
    ------
    ParityError
        Also if an array is missing, or one too many.

    Examples
    --------
    >>> from gluon_convpool import testing
    >>> testing.assert_same({'output': [1.0], 'x': [2.0]}, {'output': [1.0], 'x': [2.0]})
    >>> testing.assert_same({'output': [1.0]}, {'output': [1.0], 'x': [2.0]})
    Traceback (most recent call last):
        ...
    gluon_convpool.testing.comparison.ParityError: x: is missing
    """
    __tracebackhide__ = True
    for name in expected:
        if name not in actual:
            raise ParityError(f'{name}: is missing')
    for name in actual:
        if name not in expected:
            raise ParityError(f'{name}: is there, but was not expected')
    for name in expected:
        assert_close(name, actual[name], expected[name], rtol)


def worst_differences(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> Dict[str, float]:
    """Return `relative_difference` of each array; infinity where shapes differ."""
    return {
        name: relative_difference(actual[name], wanted)
        if name in actual and np.shape(actual[name]) == np.shape(wanted)
        else np.inf
        for name, wanted in expected.items()
    }
