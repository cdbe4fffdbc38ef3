"""What one operator does is done by two, which other rules know how to rewrite."""

from __future__ import annotations

from typing import Optional

from .. import operators
from ..graph import Graph, Node, Output
from .rule import Rule


def split_activation(graph: Graph, node: Node) -> Optional[str]:
    """A batch norm of ours and its last step."""
    activation = node.attribute('act_type', 'none')
    if activation == 'none':
        return None
    behind = Node(graph.operator(activation), node.name, {}, [])
    node.name += '_norm'
    node.set(act_type='none')
    graph.rewire(behind, [Output(node, 0)])
    graph.replace(Output(node, 0), Output(behind, 0))
    return f'from its {activation}'


ACTIVATION = Rule('split', operators.OUR_BATCH_NORM, split_activation)
