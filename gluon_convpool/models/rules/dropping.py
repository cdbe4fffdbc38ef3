"""What inference does not need."""

from __future__ import annotations

from typing import Optional

from .. import operators
from ..graph import Graph, Node, Output
from .rule import Rule, Stays


def drop_identity(graph: Graph, node: Node) -> Optional[str]:
    """Copies, and operators that only gradients need, give their input back."""
    if node.inputs[0].node.is_variable and None in graph.users(node):
        return None  # an output of the graph is an array of its own
    graph.replace(Output(node, 0), node.inputs[0])
    return ''


def drop_dropout(graph: Graph, node: Node) -> Optional[str]:
    """Dropout that is for training only."""
    if node.attribute('mode', 'training') != 'training':
        raise Stays('it is to drop always')
    if graph.used_numbers(node) != {0}:
        raise Stays('its mask is used')
    return drop_identity(graph, node)


def drop_loss(graph: Graph, node: Node) -> Optional[str]:
    """The end of a training, of which inference needs the prediction and not the label."""
    if operators.LOSSES[node.op] is None:
        graph.replace(Output(node, 0), node.inputs[0])
        return ''
    if node.op == 'SoftmaxOutput':
        axis = 1 if node.attribute('multi_output', False) else -1
        node.attrs = node.own_attributes()
        node.set(axis=axis)
    else:
        node.attrs = node.own_attributes()
    node.op = str(operators.LOSSES[node.op])
    graph.rewire(node, node.inputs[:1])
    return f'but for its {node.op}'


def drop_mode(graph: Graph, node: Node) -> Optional[str]:
    """The input by which our batch norm tells training from inference."""
    if node.attribute('mode', 'predict') == 'predict':
        return None
    node.set(mode='predict')
    graph.rewire(node, node.inputs[:5])
    return 'what tells training from inference'


IDENTITY = Rule('dropped', operators.IDENTITY, drop_identity)
DROPOUT = Rule('dropped', operators.DROPOUT, drop_dropout)
MODE = Rule('dropped', operators.OUR_BATCH_NORM, drop_mode)
LOSS = Rule('dropped', frozenset(operators.LOSSES), drop_loss)
