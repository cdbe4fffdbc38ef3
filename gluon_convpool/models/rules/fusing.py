"""Sums and activations that follow a convolution become its last step."""

from __future__ import annotations

from typing import Any, Dict, Optional

from .. import operators
from ..graph import Graph, Node, Output
from ..shapes import shapes_of
from .rule import Rule


def _has_activation(node: Node) -> bool:
    return node.attribute('act_type', 'none') != 'none'


def fuse_sum(graph: Graph, node: Node) -> Optional[str]:
    """A convolution whose output is only added to an array of the same shape adds it itself."""
    order = {one: i for i, one in enumerate(graph.nodes())}
    # The later of two convolutions, so that what the other computes is there.
    for before in sorted((entry.node for entry in node.inputs), key=order.__getitem__)[::-1]:
        if before.op not in operators.OUR_CONVOLUTION or _has_activation(before):
            continue
        if before.attribute('with_sum', False) or not graph.is_only_used_by(before, node):
            continue
        mine = Output(before, 0)
        other = node.inputs[1 - node.inputs.index(mine)]
        if node.op in operators.ADD_BROADCAST and not shapes_of(graph).equal(mine, other):
            continue
        graph.rewire(before, [*before.inputs, other])
        before.set(with_sum=True)
        graph.replace(Output(node, 0), mine)
        return f'into {before.name}'
    return None


def last_step(node: Node) -> Optional[Dict[str, Any]]:
    """Return the attributes by which our convolution does what an activation does, or None."""
    kind = node.attribute('act_type', 'leaky')
    if node.op in operators.RELU or (node.op in operators.ACTIVATION and kind == 'relu'):
        return {'act_type': 'relu'}
    if node.op in operators.SIGMOID or (node.op in operators.ACTIVATION and kind == 'sigmoid'):
        return {'act_type': 'sigmoid'}
    if node.op in operators.LEAKY_RELU and kind == 'leaky':
        return {'act_type': 'leaky', 'slope': node.attribute('slope', 0.25)}
    if node.op in operators.CLIP:
        limits = {name: node.attribute(name, None) for name in ('a_min', 'a_max')}
        return {'act_type': 'clip', **{k: v for k, v in limits.items() if v is not None}}
    return None


def fuse_activation(graph: Graph, node: Node) -> Optional[str]:
    """A convolution whose output only goes through an activation applies it itself."""
    before = node.inputs[0].node
    attributes = last_step(node)
    if before.op not in operators.OUR_CONVOLUTION or attributes is None:
        return None
    if _has_activation(before) or not graph.is_only_used_by(before, node):
        return None
    before.set(**attributes)
    graph.replace(Output(node, 0), Output(before, 0))
    return f'into {before.name}'


SUM = Rule('fused', operators.ADD, fuse_sum)
ACTIVATION = Rule(
    'fused',
    operators.ACTIVATION
    | operators.RELU
    | operators.LEAKY_RELU
    | operators.CLIP
    | operators.SIGMOID,
    fuse_activation,
)
