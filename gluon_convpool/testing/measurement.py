"""How a layer is run once, in one of three modes, and what it gives: output and every gradient."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple, Union

import numpy as np

from .. import geometry
from .._mxnet import mx
from .arrays import to_array
from .comparison import assert_shape

MODES = ('imperative', 'hybrid', 'static')
"""The ways in which Gluon runs a block."""

Arrays = Union[np.ndarray, Sequence[np.ndarray]]


def set_mode(block: Any, mode: str) -> None:
    """Let a block run imperatively, hybridized, or hybridized with memory planned once.

    Parameters
    ----------
    block : gluon.Block
    mode : {'imperative', 'hybrid', 'static'}
        'static' is ``hybridize(static_alloc=True, static_shape=True)``.

    Raises
    ------
    ValueError
        If `mode` is unknown.

    Examples
    --------
    >>> from gluon_convpool import nn, testing
    >>> testing.set_mode(nn.MaxPool2D(), 'static')
    """
    geometry.choice('set_mode', 'mode', mode, MODES)
    static = mode == 'static'
    block.hybridize(mode != 'imperative', static_alloc=static, static_shape=static)


def parameters(block: Any) -> Dict[str, Any]:
    """Return the parameters of a block by the names that ``save_parameters`` writes.

    Parameters
    ----------
    block : gluon.Block

    Returns
    -------
    dict of str to gluon.Parameter

    Examples
    --------
    >>> from gluon_convpool import nn, testing
    >>> list(testing.parameters(nn.Conv2D(8, 3)))
    ['weight', 'bias']
    """
    found: Dict[str, Any] = block._collect_params_with_prefix()
    return found


def initialize(block: Any) -> None:
    """Initialize the parameters that are not; some may still wait for data to tell their shape."""
    for parameter in parameters(block).values():
        if parameter._data is None and not parameter._deferred_init:
            parameter.initialize()


def to_numpy(value: Any) -> np.ndarray:
    """Return an array of MXNet or NumPy, or nested lists, as an array of NumPy."""
    return value.asnumpy() if hasattr(value, 'asnumpy') else np.asarray(value)


def is_floating(value: Any) -> bool:
    """Say whether an array holds floating-point numbers, by which one can differentiate."""
    return np.dtype(value.dtype).kind == 'f'


def as_tuple(value: Any) -> Tuple[Any, ...]:
    """Return `value` as a tuple, one thing as a tuple of one."""
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def numbered(name: str, count: int) -> List[str]:
    """Return 'x' for one array, and 'x0', 'x1', … for several."""
    return [name] if count == 1 else [f'{name}{i}' for i in range(count)]


def output_names(count: int) -> List[str]:
    """Return the names of the outputs in what `measure` returns."""
    return ['output'] + [f'output{i}' for i in range(1, count)]


def run_forwards(block: Any, inputs: Sequence[np.ndarray]) -> Dict[str, np.ndarray]:
    """Return the outputs of one call outside of ``autograd.record()``."""
    outputs = as_tuple(block(*map(to_array, inputs)))
    return {name: y.asnumpy() for name, y in zip(output_names(len(outputs)), outputs)}


def _once(
    block: Any, inputs: Sequence[np.ndarray], heads: Sequence[np.ndarray]
) -> Dict[str, np.ndarray]:
    arrays = [to_array(value) for value in inputs]
    tracked = [array for array in arrays if is_floating(array)]
    for array in tracked:
        array.attach_grad()
    with mx.autograd.record():
        outputs = as_tuple(block(*arrays))
    for name, y, head in zip(output_names(len(outputs)), outputs, heads):
        assert_shape(name, y.shape, head.shape)
    mx.autograd.backward(list(outputs), [to_array(head) for head in heads])
    found = dict(zip(output_names(len(outputs)), outputs))
    found.update(
        (name, array.grad)
        for name, array in zip(numbered('x', len(arrays)), arrays)
        if any(array is one for one in tracked)
    )
    found.update(
        (name, parameter.grad())
        for name, parameter in parameters(block).items()
        if parameter.grad_req != 'null'
    )
    return {name: array.asnumpy() for name, array in found.items()}


def measure(
    block: Any, inputs: Arrays, heads: Arrays, mode: str = 'imperative'
) -> Dict[str, np.ndarray]:
    """Run a block forwards and backwards once.

    Parameters
    ----------
    block : gluon.Block
        Initialized, with its parameters set.
    inputs : numpy.ndarray or sequence of them
        What the block is called with, as arrays of the kind in force and of their dtypes.
    heads : numpy.ndarray or sequence of them
        The gradients of its outputs.
    mode : {'imperative', 'hybrid', 'static'}
        In static mode other numbers go through the same buffers first.

    Returns
    -------
    dict of str to numpy.ndarray
        'output' (and 'output1', … where there are several), the gradients 'x' (or 'x0', 'x1', …)
        by the inputs that hold floating-point numbers, and one under the name of each parameter
        that has a gradient.

    Raises
    ------
    ParityError
        If an output has another shape than its head.

    Examples
    --------
    >>> import numpy
    >>> from gluon_convpool import nn, testing
    >>> x = numpy.array([[[[1, 4], [3, 2]]]], 'float32')
    >>> outcome = testing.measure(nn.MaxPool2D(), x, numpy.array([[[[5]]]], 'float32'))
    >>> outcome['output'].tolist(), outcome['x'].tolist()
    ([[[[4.0]]]], [[[[0.0, 5.0], [0.0, 0.0]]]])
    """
    inputs, heads = as_tuple(inputs), as_tuple(heads)
    set_mode(block, mode)
    if mode == 'static':
        _once(block, [_other(value) for value in inputs], [head[::-1] - 1 for head in heads])
    return _once(block, inputs, heads)


def _other(value: np.ndarray) -> np.ndarray:
    """Other numbers of the same shape; integers may be indices, and only change places."""
    return value[::-1] + 1 if is_floating(value) else value[::-1]


def copy_parameters(source: Any, target: Any) -> None:
    """Give one block the values of another one's parameters, matched by their structure.

    Parameters
    ----------
    source, target : gluon.Block
        Initialized, with parameters of the same names (see `parameters`).

    Raises
    ------
    ValueError
        If the names differ.

    Examples
    --------
    >>> from gluon_convpool import nn, testing
    >>> one, other = nn.Conv2D(8, 3, in_channels=2), nn.Conv2D(8, 3, in_channels=2)
    >>> for layer in (one, other):
    ...     layer.initialize()
    >>> testing.copy_parameters(one, other)
    >>> bool((one.weight.data() == other.weight.data()).asnumpy().all())
    True
    """
    values, targets = parameters(source), parameters(target)
    if set(values) != set(targets):
        raise ValueError(
            f'copy_parameters: the target has the parameters {list(targets)}, the source'
            f' {list(values)}'
        )
    for name, parameter in targets.items():
        parameter.set_data(values[name].data())
