"""From a Gluon network to the graph that it computes."""

from __future__ import annotations

import inspect
import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from mxnet.gluon import block as gluon_block

from .._mxnet import kind_of, mx, to_world
from .files import ModelError, reason_of
from .graph import Graph


class Trace(NamedTuple):
    """A graph, and how a call's arguments and results are nested.

    Attributes
    ----------
    graph : Graph
    inputs : list of str
        Names of the inputs in the order of the arguments.
    in_format, out_format
        Nesting, as Gluon notes it.
    """

    graph: Graph
    inputs: List[str]
    in_format: Any
    out_format: Any


def _default_inputs(net: Any) -> Any:
    """Return how many inputs a network takes, nested as they are: 0 for an array each."""
    if getattr(net, '_cached_graph', None) and not isinstance(net, mx.gluon.SymbolBlock):
        return net._in_format
    if isinstance(net, mx.gluon.SymbolBlock):
        return net._in_format
    for name in ('hybrid_forward', 'forward'):
        function = getattr(type(net), name, None)
        if function not in (
            None,
            mx.gluon.HybridBlock.hybrid_forward,
            mx.gluon.HybridBlock.forward,
            mx.gluon.Block.forward,
        ):
            names = list(inspect.signature(function).parameters.values())
            first = 2 if name == 'hybrid_forward' else 1
            own = set(net._reg_params)
            needed = [
                one
                for one in names[first:]
                if one.kind is one.POSITIONAL_OR_KEYWORD
                and one.default is one.empty
                and one.name not in own
            ]
            return [0] * max(1, len(needed))
    return [0]


def _count(nesting: Any) -> int:
    if isinstance(nesting, int):
        return max(1, nesting) if nesting >= 0 else 0
    return sum(_count(one) for one in nesting)


def _values(net: Any, names: Sequence[str]) -> Dict[str, Any]:
    """Return the arrays of those of a network's parameters that a graph uses."""
    values: Dict[str, Any] = {}
    parameters = net.collect_params()
    for name in names:
        if name not in parameters:
            continue
        parameter = parameters[name]
        if parameter._data is None:
            todo = 'call the network once' if parameter._deferred_init else 'call initialize()'
            raise ModelError(
                f'{_called(net)}: parameter {name} has no values yet; {todo} before optimizing'
            )
        values[name] = parameter.list_data()[0].as_in_context(mx.cpu()).as_nd_ndarray()
    return values


def _called(net: Any) -> str:
    """Return what a network is called in sentences."""
    return net.name or type(net).__name__


def trace(net: Any, inputs: Optional[Sequence[str]] = None) -> Trace:
    """Return the graph of a network in inference, with its parameters' arrays.

    Parameters
    ----------
    net : gluon.Block
        Initialised, in the world (legacy or NumPy) that is in force.
    inputs : sequence of str, optional
        Names for its inputs, one for each argument; by default MXNet's own, 'data' or 'data0' and
        so on.

    Raises
    ------
    ModelError
        If a parameter has no values yet, or the network computes with something else than symbols.
    """
    nesting = _default_inputs(net) if inputs is None else [0] * len(inputs)
    count = _count(nesting)
    if inputs is None:
        inputs = ['data'] if count == 1 else [f'data{i}' for i in range(count)]
    numpy_world = mx.util.is_np_array()
    symbols: List[Any] = [to_world(mx.sym.var(name), numpy_world) for name in inputs]
    arguments = gluon_block._regroup(_with_nones(symbols, nesting), nesting)
    if not isinstance(arguments, (list, tuple)):
        arguments = [arguments]
    try:
        with mx.autograd.predict_mode():
            # Not by calling it: hooks want arrays.
            outputs = net.forward(*arguments)
        flat, out_format = gluon_block._flatten(outputs, 'output')
        if any(kind_of(one) is None for one in flat):
            raise TypeError('it returns something else than symbols')
    except Exception as error:
        raise ModelError(
            f'{_called(net)}: a graph cannot be traced of this {type(net).__name__} with'
            f' {count} inputs: {reason_of(error)}'
        ) from error
    symbol = flat[0] if len(flat) == 1 else mx.sym.Group(flat)
    graph = Graph(to_world(symbol, numpy_world), _values(net, symbol.list_inputs()))
    return Trace(graph, list(inputs), nesting, out_format)


def _with_nones(symbols: Sequence[Any], nesting: Any) -> List[Any]:
    """Return the symbols with None in between, where an argument is None."""
    rest = list(symbols)

    def flat(one: Any) -> List[Any]:
        if isinstance(one, int):
            return [None] if one == -1 else [rest.pop(0) for _ in range(max(1, one))]
        return [symbol for part in one for symbol in flat(part)]

    return flat(nesting)


def _ordered(names: List[str]) -> List[str]:
    """Return the inputs of an exported graph in the order in which its network took them."""
    if all(re.fullmatch(r'data\d+', name) for name in names):
        return sorted(names, key=lambda name: int(name[4:]))
    return names


def trace_of_graph(graph: Graph, inputs: Optional[Sequence[str]] = None) -> Trace:
    """Return a graph that has no network: its inputs and outputs are not nested.

    The inputs are by default in the order in which MXNet's export numbers them, or else in that of
    their use.
    """
    names = _ordered(graph.inputs()) if inputs is None else list(inputs)
    count = len(graph.outputs)
    return Trace(graph, names, [0] * len(names), 0 if count == 1 else [0] * count)
