"""Weights packed for the shapes of a model's inputs: transformed once instead of in every call."""

from __future__ import annotations

from typing import Dict, List, Tuple

from ..._mxnet import in_world
from ...backends import native
from .. import operators
from ..graph import Graph
from .rule import Rewrite

Shape = Tuple[int, ...]


def _shapes(graph: Graph, given: Dict[str, Shape]) -> Dict[str, Shape]:
    """Return the shapes of all arrays, by the names that MXNet gives them."""
    known = {name: tuple(array.shape) for name, array in graph.parameters.items()}
    with in_world(graph.numpy):
        symbol = graph.symbol().as_nd_ndarray().get_internals()
        return dict(zip(symbol.list_outputs(), symbol.infer_shape(**known, **given)[1]))


def pack_weights(graph: Graph, given: Dict[str, Shape]) -> List[Rewrite]:
    """Pack the weights of our convolutions where the estimated time says that it pays.

    Parameters
    ----------
    graph : Graph
        Changed in place; what `given` does not fit has been refused before.
    given : dict of str to tuple of int
        The shapes of the inputs.
    """
    shapes = _shapes(graph, given)
    rewrites: List[Rewrite] = []
    for node in graph.nodes():
        if node.op not in operators.OUR_CONVOLUTION:
            continue
        if operators.is_joined(node) or operators.is_prepacked(node):
            continue
        data, variable = node.inputs[:2]
        weight = graph.value(variable)
        name = data.node.name
        shape = shapes.get(name if data.node.is_variable else name + '_output')
        if weight is None or shape is None or weight.dtype.name not in native.DTYPES:
            continue
        arguments = operators.convolution_arguments(node)
        packed, share = native.pack_weight(arguments, shape, weight)
        if share >= 1:
            continue
        entry = graph.add_parameter(variable.node.name + '_packed', packed)
        graph.rewire(node, [data, entry, *node.inputs[2:]])
        node.set(prepacked=True)
        rewrites.append(
            Rewrite(node.name, node.op, 'packed', f'for data of shape {shape}: its weight')
        )
    graph.finish()
    return rewrites
