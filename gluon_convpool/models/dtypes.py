"""Types of the arrays in a graph, as far as those of its parameters decide them."""

from __future__ import annotations

from typing import Dict, Optional

import numpy

from .._mxnet import mx
from .graph import Graph, Node


def _inferred(graph: Graph) -> Dict[str, str]:
    """Return the dtypes that MXNet infers from those of the parameters, by name of the output."""
    symbol = graph.symbol().as_nd_ndarray().get_internals()
    given = {name: value.dtype for name, value in graph.parameters.items()}
    try:
        inferred = symbol.infer_type_partial(**given)[1]
    except mx.MXNetError:
        inferred = None
    names = zip(symbol.list_outputs(), inferred or ())
    return {name: numpy.dtype(dtype).name for name, dtype in names if dtype is not None}


def dtype_of(graph: Graph, node: Node) -> Optional[str]:
    """Return the dtype of a node's output; that of the parameters where it is not known."""
    if graph.dtypes is None:
        graph.dtypes = _inferred(graph)
    known = graph.dtypes.get(node.name if node.is_variable else node.name + '_output')
    if known is not None:
        return known
    floats = {
        numpy.dtype(value.dtype).name
        for value in graph.parameters.values()
        if numpy.dtype(value.dtype).kind == 'f'
    }
    return floats.pop() if len(floats) == 1 else None


def input_dtypes(graph: Graph) -> Dict[str, str]:
    """Return the dtype of each input of a graph by name; float32 where nothing decides it."""
    inputs = set(graph.inputs())
    return {
        node.name: dtype_of(graph, node) or 'float32'
        for node in graph.nodes()
        if node.name in inputs
    }
