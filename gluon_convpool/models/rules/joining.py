"""What stands before a pointwise convolution becomes its first step.

It reads each value of its data once, from wherever that is, so that scaling and clipping them costs
nothing there, and arrays need not be copied to stand one behind the other.
"""

from __future__ import annotations

from typing import List, Optional

import numpy

from .. import operators
from ..graph import Graph, Node, Output
from .rule import Rule

CHANNELS = 1


def _takes_pieces(node: Optional[Node]) -> bool:
    """Say whether a node can get the pieces of an array in the place of the array."""
    if node is None:
        return False
    if operators.channel_axis_of_concat(node) == CHANNELS:
        return True
    if node.op not in operators.OUR_CONVOLUTION or not operators.is_pointwise(node):
        return False
    if not _has_channels_first(node):
        return False
    return bool(node.attribute('num_group', 1) == 1)


def _has_channels_first(node: Node) -> bool:
    return operators.layout(node)[CHANNELS] == 'C'


def _data(node: Node) -> List[Output]:
    """Return the inputs of such a node that may come in pieces."""
    whole = operators.channel_axis_of_concat(node) == CHANNELS
    return node.inputs if whole else node.inputs[: operators.data_count(node)]


def join_scale(graph: Graph, node: Node) -> Optional[str]:
    """A pointwise convolution behind one of each channel alone, as a batch norm is by then."""
    before = node.inputs[0].node
    if not _takes_pieces(node) or operators.is_joined(node):
        return None
    if before.op not in operators.OUR_CONVOLUTION or not operators.is_pointwise(before):
        return None
    if not _has_channels_first(before):
        return None
    weight = graph.value(before.inputs[1])
    if weight is None or weight.shape[1] != 1 or operators.is_joined(before):
        return None
    channels = weight.shape[0]
    activation = before.attribute('act_type', 'none')
    if before.attribute('num_group', 1) != channels or activation not in ('none', 'relu'):
        return None
    if before.attribute('with_sum', False) or not graph.is_only_used_by(before, node):
        return None
    zero = numpy.zeros(channels, weight.dtype)
    shift = graph.value(before.inputs[2]) if operators.has_bias(before) else zero
    if shift is None:
        return None
    at = 3 if operators.has_bias(node) else 2
    scale = [
        graph.add_parameter(f'{before.name}_scale', weight.reshape(-1)),
        graph.add_parameter(f'{before.name}_shift', shift),
    ]
    graph.rewire(node, [before.inputs[0], *node.inputs[1:at], *scale, *node.inputs[at:]])
    node.set(with_scale=True, data_act_type=activation)
    return f'with {before.name} before it'


def join_pooling(graph: Graph, node: Node) -> Optional[str]:
    """A pooling of joined arrays is a pooling of each, where the next can take them apart."""
    concat = node.inputs[0].node
    if operators.channel_axis_of_concat(concat) != CHANNELS or not _has_channels_first(node):
        return None
    if not all(_takes_pieces(user) for user in graph.users(node)):
        return None
    others = [user for user in graph.users(concat) if user is not node]
    if not all(_takes_pieces(user) or _is_pooling(user) for user in others):
        return None
    parts = []
    for i, entry in enumerate(concat.inputs):
        part = Node(node.op, f'{node.name}_{i}', dict(node.attrs), [])
        graph.rewire(part, [entry])
        parts.append(Output(part, 0))
    joined = Node(concat.op, f'{node.name}_joined', dict(concat.attrs), [])
    graph.rewire(joined, parts)
    graph.replace(Output(node, 0), Output(joined, 0))
    return 'into one of each piece'


def _is_pooling(node: Optional[Node]) -> bool:
    return node is not None and node.op in operators.OUR_POOLING


def join_concat(graph: Graph, node: Node) -> Optional[str]:
    """Arrays that are joined for pointwise convolutions alone stay where they are."""
    users = graph.users(node)
    if operators.channel_axis_of_concat(node) != CHANNELS or not all(map(_takes_pieces, users)):
        return None
    whole = Output(node, 0)
    # An array that is added to the output, or a weight, has to be one.
    if any(entry == whole for user in users if user for entry in user.inputs[len(_data(user)) :]):
        return None
    names = []
    for user in dict.fromkeys(users):
        assert user is not None
        pieces: List[Output] = []
        for entry in _data(user):
            pieces += node.inputs if entry == whole else [entry]
        rest = user.inputs[len(_data(user)) :]
        if user.op in operators.OUR_CONVOLUTION:
            user.set(num_data=len(pieces))
        elif 'num_args' in user.attrs:
            user.set(num_args=len(pieces))
        graph.rewire(user, [*pieces, *rest])
        names.append(user.name)
    return f'as pieces into {", ".join(names)}'


SCALE = Rule('fused', operators.OUR_CONVOLUTION, join_scale)
POOLING = Rule('moved', operators.OUR_POOLING, join_pooling)
CONCAT = Rule('dropped', operators.CONCAT, join_concat)
