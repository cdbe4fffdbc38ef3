"""One layer gives what another one gives: the output and every gradient, in each mode."""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from .. import geometry
from .._mxnet import mx
from .arrays import draw, empty_arrays, to_array
from .cases import ConvolutionCase, PoolingCase
from .comparison import TOLERANCE, ParityError, assert_same
from .measurement import (
    MODES,
    initialize,
    measure,
    output_names,
    parameters,
    run_forwards,
    set_mode,
    to_numpy,
)
from .reproducer import Program

Arrays = Dict[str, np.ndarray]


class _Expected(NamedTuple):
    """What a layer is called with, and what it must give."""

    inputs: Tuple[np.ndarray, ...]
    heads: Tuple[np.ndarray, ...]
    results: Arrays
    parameters: Arrays


def _expected(reference: Any, inputs: Sequence[np.ndarray], gradients: bool) -> _Expected:
    if isinstance(reference, (ConvolutionCase, PoolingCase)):
        if inputs:
            raise TypeError(
                'assert_layers_match: a case as reference brings its own input, but'
                f' {len(inputs)} inputs were given'
            )
        head, results = reference.expected()
        return _Expected((reference.x,), (head,), results, reference.parameters)
    if not isinstance(reference, mx.gluon.Block):
        raise TypeError(
            'assert_layers_match: reference must be a Gluon block or a case of the grid, not'
            f' {type(reference).__name__}'
        )
    initialize(reference)
    set_mode(reference, 'imperative')
    with empty_arrays(any(value.size == 0 for value in inputs)):
        results = run_forwards(reference, inputs)
        heads = tuple(
            draw(f'head of {name}', y.shape, dtype=y.dtype.name)[0] for name, y in results.items()
        )
        # before a training step changes running statistics
        values = {name: p.data().asnumpy() for name, p in parameters(reference).items()}
        if gradients:
            results = measure(reference, inputs, heads)
    return _Expected(tuple(inputs), heads, results, values)


def _set_parameters(layer: Any, values: Arrays, names: Mapping[str, str]) -> None:
    own = parameters(layer)
    translated = {name: names.get(name, name) for name in own}
    if sorted(translated.values()) != sorted(values):
        raise ValueError(
            f'assert_layers_match: the layer has the parameters {list(own)}, the reference'
            f" {list(values)}; say which is which by names={{'of the layer': 'of the reference'}}"
        )
    initialize(layer)
    for name, parameter in own.items():
        parameter.set_data(to_array(values[translated[name]]))


def assert_layers_match(
    layer: Union[Any, Callable[[], Any]],
    reference: Any,
    *inputs: Any,
    rtol: float = TOLERANCE,
    gradients: bool = True,
    modes: Sequence[str] = MODES,
    names: Optional[Mapping[str, str]] = None,
) -> None:
    """Assert that a layer gives what a reference gives: the output and every gradient.

    The layer gets the values of the reference's parameters. The gradients of the outputs are drawn
    at random, the same in every run.

    Parameters
    ----------
    layer : gluon.Block or function
        What is tested. A function without arguments that returns a new block gives each mode one of
        its own; one block goes through the modes in their order. What is not initialized will be.
    reference : gluon.Block or case
        Another block, run imperatively, or a `ConvolutionCase` or `PoolingCase`, whose results
        MXNet's built-in layer decides, or float64 loops where that cannot run the case.
    *inputs : array
        NumPy or MXNet arrays, of which the layer gets arrays of the kind in force; none with a
        case, which brings its own. Gradients are compared for those with floating-point numbers.
    rtol : float
        How far a value may be off, as a share of the largest expected value of its array.
    gradients : bool
        Whether to run backwards at all.
    modes : sequence of {'imperative', 'hybrid', 'static'}
        How the layer is run, one after another; 'static' is hybridized with memory planned once.
    names : mapping of str to str, optional
        The names of the layer's parameters to those of the reference, where they differ. Both as
        ``save_parameters`` writes them.

    Raises
    ------
    ParityError
        An `AssertionError` that shows the first index that differs, both values, the tolerance, and
        a program that reproduces it.
    TypeError, ValueError
        If the call itself makes no sense.

    Examples
    --------
    >>> from gluon_convpool import nn, testing
    >>> from mxnet import gluon
    >>> (x,) = testing.draw('two images', (2, 3, 8, 8))
    >>> testing.assert_layers_match(nn.Conv2D(4, 3), gluon.nn.Conv2D(4, 3), x)
    >>> testing.assert_layers_match(nn.Conv2D(4, 3), testing.ConvolutionCase(size=(8, 8)))
    """
    __tracebackhide__ = True
    for mode in modes:
        geometry.choice('assert_layers_match', 'modes', mode, MODES)
    makes = not isinstance(layer, mx.gluon.Block)
    if makes and not callable(layer):
        raise TypeError(
            'assert_layers_match: layer must be a Gluon block or a function that returns one, not'
            f' {type(layer).__name__}'
        )
    arrays = [to_numpy(value) for value in inputs]
    expected = _expected(reference, arrays, gradients)
    for i, mode in enumerate(modes):
        block = layer() if makes else layer
        run = modes[i : i + 1] if makes else modes[: i + 1]
        try:
            _assert_mode(block, expected, mode, rtol, gradients, names or {})
        except ParityError as error:
            arguments = ['layer', 'reference'] + ['*inputs'] * bool(inputs) + [f'rtol={rtol!r}']
            arguments += ['gradients=False'] * (not gradients) + [f'modes={tuple(run)!r}']
            arguments += [f'names={dict(names)!r}'] if names else []
            program = Program(f'testing.assert_layers_match({", ".join(arguments)})')
            program.add('reference', reference)
            program.add('layer', block)
            if inputs:
                program.add('inputs', tuple(arrays))
            raise ParityError(f'mode {mode!r}: {error.explanation}', program.text()) from None


def _assert_mode(
    layer: Any,
    expected: _Expected,
    mode: str,
    rtol: float,
    gradients: bool,
    names: Mapping[str, str],
) -> None:
    __tracebackhide__ = True
    with empty_arrays(any(value.size == 0 for value in expected.inputs)):
        _set_parameters(layer, expected.parameters, names)
        if gradients:
            found = measure(layer, expected.inputs, expected.heads, mode)
            wanted = expected.results
        else:
            set_mode(layer, mode)
            found = run_forwards(layer, expected.inputs)
            wanted = {name: expected.results[name] for name in output_names(len(expected.heads))}
    assert_same({names.get(name, name): value for name, value in found.items()}, wanted, rtol)
