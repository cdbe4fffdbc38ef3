"""The gradients of a layer against finite differences of its output."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any, Dict, Iterator, NamedTuple, Optional, Sequence

import numpy as np

from .. import geometry
from .._mxnet import mx
from .arrays import draw, empty_arrays, to_array
from .comparison import ParityError
from .measurement import (
    MODES,
    initialize,
    is_floating,
    measure,
    numbered,
    parameters,
    run_forwards,
    set_mode,
    to_numpy,
)
from .reproducer import Program

Arrays = Dict[str, np.ndarray]


class _Arithmetic(NamedTuple):
    """How differences are taken in one dtype.

    `step` is a share of the size of what is changed. It leaves an error of the size of its square
    where the output is smooth, and magnifies rounding by its inverse: the best is near the cube
    root of the precision. In float32 it is smaller, so that fewer maxima change places.
    """

    rtol: float
    step: float


ARITHMETIC = {'float64': _Arithmetic(1e-6, 6e-6), 'float32': _Arithmetic(1e-2, 2e-3)}

# How many roundings of the last bit a sum of products may be off by.
ROUNDINGS = 32
# Up to so many elements are changed one by one to find the first wrong one.
MOST_ELEMENTS = 4096


class _Slope(NamedTuple):
    """A derivative by finite differences, and by how much kinks and rounding may have changed it.

    At a kink the derivative is that of one side, and the one by differences lies half way between
    those of both.
    """

    value: float
    kink: float
    rounding: float


class _Function:
    """The outputs of a layer, weighted by fixed numbers, as a function of all arrays.

    It is their sum that is differentiated.
    """

    def __init__(self, layer: Any, inputs: Sequence[np.ndarray]) -> None:
        self.layer = layer
        self.inputs = dict(zip(numbered('x', len(inputs)), inputs))
        self.parameters = {
            name: parameter.data().asnumpy()
            for name, parameter in parameters(layer).items()
            if parameter.grad_req != 'null'
        }
        outputs = self._outputs(self.inputs)
        self.heads = tuple(
            draw(f'head of {name}', y.shape, dtype=y.dtype.name)[0] for name, y in outputs.items()
        )
        self.dtypes = {y.dtype.name for y in outputs.values()}
        self.value = self._weighted(outputs)
        if (self._weighted(self._outputs(self.inputs)) != self.value).any():
            raise ValueError(
                'assert_gradients_numeric: the layer gives another output for the same input each'
                ' time; finite differences of it say nothing'
            )
        self._size = float(np.linalg.norm(self.value))

    def _outputs(self, inputs: Arrays) -> Arrays:
        with mx.autograd.train_mode():
            return run_forwards(self.layer, list(inputs.values()))

    def _weighted(self, outputs: Arrays) -> np.ndarray:
        """All outputs in one row, each times its weight."""
        pairs = zip(self.heads, outputs.values())
        return np.concatenate([(head.astype('float64') * y).ravel() for head, y in pairs])

    def arrays(self) -> Arrays:
        """Return what the gradients are by."""
        inputs = {name: value for name, value in self.inputs.items() if is_floating(value)}
        return {**inputs, **self.parameters}

    def _at(self, name: str, value: np.ndarray) -> np.ndarray:
        if name in self.inputs:
            return self._weighted(self._outputs({**self.inputs, name: value}))
        parameter = parameters(self.layer)[name]
        parameter.set_data(to_array(value))
        found = self._weighted(self._outputs(self.inputs))
        parameter.set_data(to_array(self.parameters[name]))
        return found

    def slope(self, name: str, direction: np.ndarray, step: float) -> _Slope:
        """Differentiate by one array along a direction."""
        value = self.arrays()[name]
        step *= float(np.sqrt(np.mean(value.astype('float64') ** 2))) or 1.0
        upper, lower = (
            self._at(name, (value + sign * step * direction).astype(value.dtype))
            for sign in (1, -1)
        )
        bend = (upper - 2 * self.value + lower) / step
        # Bends of several outputs may cancel in the sum, and the errors that they bring not.
        kink = max(abs(float(bend.sum())), 3 * float(np.linalg.norm(bend))) / 2
        rounding = ROUNDINGS * float(np.finfo(value.dtype).eps) * self._size / step
        return _Slope(float((upper - lower).sum()) / (2 * step), kink, rounding)


def assert_gradients_numeric(
    layer: Any,
    *inputs: Any,
    rtol: Optional[float] = None,
    directions: int = 3,
    modes: Sequence[str] = MODES,
    dtype: Optional[str] = None,
) -> str:
    """Assert that the gradients of a layer are those of its output, by finite differences.

    No other layer is needed for comparison. The layer is cast to float64, along with its inputs,
    and back. Every array, an input or a parameter, is changed along random directions in which all
    of its elements move at once, and the output's change is compared with what the gradient says.

    Parameters
    ----------
    layer : gluon.Block
        A deterministic one. What is not initialized will be.
    *inputs : array
        NumPy or MXNet arrays. Those of integers are left as they are.
    rtol : float, optional
        How far a slope may be off, as a share of the gradient's length. By default 1e-6 in float64
        and 1e-2 in float32. What rounding and kinks, such as those of a maximum, leave uncertain is
        allowed for in addition.
    directions : int
        How many directions each array is changed in.
    modes : sequence of {'imperative', 'hybrid', 'static'}
        How the gradients are computed. The differences are taken imperatively.
    dtype : {'float64', 'float32'}, optional
        What to compute in. By default float64; if the layer cannot, float32 with a `UserWarning`,
        since that finds coarse mistakes only.

    Returns
    -------
    str
        'float64' or 'float32': what was computed in.

    Raises
    ------
    ParityError
        An `AssertionError` that shows the array, the first index whose derivative is wrong with
        both values, the tolerance, and a program that reproduces it.
    ValueError
        If the layer is random, or does not compute in `dtype`, or if its output is so rough near
        the inputs that nothing can be said.

    Notes
    -----
    Other code may compute float64 than float32: some of MXNet's layers have a faster library for
    float32 alone. Then ``dtype='float32'`` judges what is used, more coarsely.

    Examples
    --------
    >>> from gluon_convpool import testing
    >>> from mxnet import gluon
    >>> (x,) = testing.draw('an image', (1, 2, 6, 6))
    >>> testing.assert_gradients_numeric(gluon.nn.Conv2D(3, 3, activation='tanh'), x)
    'float64'
    """
    __tracebackhide__ = True
    op = 'assert_gradients_numeric'
    for mode in modes:
        geometry.choice(op, 'modes', mode, MODES)
    geometry.integer(op, 'directions', directions, 1)
    if dtype is not None:
        geometry.choice(op, 'dtype', dtype, tuple(ARITHMETIC))
    if not isinstance(layer, mx.gluon.Block):
        raise TypeError(f'{op}: layer must be a Gluon block, not {type(layer).__name__}')
    arrays = [to_numpy(value) for value in inputs]
    initialize(layer)
    set_mode(layer, 'imperative')
    with empty_arrays(any(value.size == 0 for value in arrays)):
        run_forwards(layer, arrays)  # parameters that wait for data get their shapes
        try:
            chosen = dtype or _best_dtype(layer, arrays)
            with _cast(layer, arrays, chosen) as values:
                _assert_slopes(layer, values, rtol, directions, modes, chosen)
        except ParityError as error:
            given = {'rtol': rtol, 'directions': directions, 'modes': tuple(modes), 'dtype': chosen}
            keywords = ', '.join(f'{name}={value!r}' for name, value in given.items())
            program = Program(f'testing.assert_gradients_numeric(layer, *inputs, {keywords})')
            program.add('layer', layer)
            program.add('inputs', tuple(arrays))
            raise ParityError(error.explanation, program.text()) from None
    return chosen


def _best_dtype(layer: Any, inputs: Sequence[np.ndarray]) -> str:
    reason = ''
    try:
        with _cast(layer, inputs, 'float64') as values:
            found = {y.dtype.name for y in run_forwards(layer, values).values()}
        if found == {'float64'}:
            return 'float64'
        reason = f'its output is {", ".join(sorted(found))}'
    except (ValueError, TypeError, mx.base.MXNetError) as error:
        reason = str(error).strip().splitlines()[0]
    warnings.warn(
        'assert_gradients_numeric: the layer does not compute in float64, so that only coarse'
        f' mistakes are found, in float32 ({reason})',
        UserWarning,
        stacklevel=3,
    )
    return 'float32'


@contextlib.contextmanager
def _cast(layer: Any, inputs: Sequence[np.ndarray], dtype: str) -> Iterator[Sequence[np.ndarray]]:
    """Cast a layer, and back with the values that it had; yields the inputs cast as well."""
    before = {name: (p.dtype, p.data().asnumpy()) for name, p in parameters(layer).items()}
    floats = [value.dtype.name for value in inputs if is_floating(value)]
    usual = [np.dtype(kind).name for kind, _ in before.values()] + floats + ['float32']
    try:
        layer.cast(dtype)
        yield [value.astype(dtype) if is_floating(value) else value for value in inputs]
    finally:
        layer.cast(usual[0])
        for name, parameter in parameters(layer).items():
            kind, value = before[name]
            parameter.cast(kind)
            parameter.set_data(to_array(value))


def _assert_slopes(
    layer: Any,
    inputs: Sequence[np.ndarray],
    rtol: Optional[float],
    directions: int,
    modes: Sequence[str],
    dtype: str,
) -> None:
    __tracebackhide__ = True
    function = _Function(layer, inputs)
    if function.dtypes != {dtype}:
        raise ValueError(
            f'assert_gradients_numeric(dtype={dtype!r}): the output of the layer is'
            f' {", ".join(sorted(function.dtypes))}'
        )
    arithmetic = ARITHMETIC[dtype]
    rtol = arithmetic.rtol if rtol is None else rtol
    slopes: Dict[str, Any] = {}
    for name, value in function.arrays().items():
        if value.size == 0:
            continue
        along = [draw(f'direction {i} of {name}', value.shape)[0] for i in range(directions)]
        slopes[name] = [(d, function.slope(name, d, arithmetic.step)) for d in along]
    for mode in modes:
        found = measure(layer, list(inputs), function.heads, mode)
        set_mode(layer, 'imperative')
        for name, taken in slopes.items():
            if name not in found:
                raise ParityError(f'mode {mode!r}: {name}: is missing')
            gradient = found[name].astype('float64')
            for direction, slope in taken:
                wrong = _judge(name, gradient, direction, slope, rtol)
                if wrong:
                    first = _first_wrong(function, name, gradient, rtol, arithmetic.step)
                    raise ParityError(
                        f'mode {mode!r}: {name}: {wrong}\n  {first}\n  by finite differences in'
                        f' {dtype} with rtol={rtol:g}'
                    )


def _judge(
    name: str, gradient: np.ndarray, direction: np.ndarray, slope: _Slope, rtol: float
) -> str:
    """Say how the gradient is wrong along a direction; nothing if it is right."""
    length = float(np.linalg.norm(gradient))
    said = float((gradient * direction).sum())
    off = abs(said - slope.value)
    allowed = rtol * length + slope.kink + slope.rounding
    if slope.kink > max(length, abs(slope.value)) / 2 + slope.rounding:
        raise ValueError(
            f'assert_gradients_numeric: the output has kinks so near to {name} that its slope is'
            ' not known; take inputs further away from them'
        )
    if off <= allowed:
        return ''
    return (
        f'the gradient says that the slope along a random direction is {said!r}, expected'
        f' {slope.value!r} (tolerance {allowed:.3g})'
    )


def _first_wrong(
    function: _Function, name: str, gradient: np.ndarray, rtol: float, step: float
) -> str:
    """Name the first element whose derivative is wrong by itself."""
    largest = float(np.abs(gradient).max())
    for flat in range(min(gradient.size, MOST_ELEMENTS)):
        index = np.unravel_index(flat, gradient.shape)
        direction = np.zeros_like(gradient)
        direction[index] = 1
        slope = function.slope(name, direction, step)
        allowed = rtol * largest + slope.kink + slope.rounding
        if abs(gradient[index] - slope.value) > allowed:
            return (
                f'first at {list(map(int, index))}: {float(gradient[index])!r}, expected'
                f' {slope.value!r} (tolerance {allowed:.3g})'
            )
    looked = '' if gradient.size <= MOST_ELEMENTS else f'first {MOST_ELEMENTS} '
    return f'no one of its {looked}elements is wrong by more than {rtol:g} of the largest'
