"""What `optimize` does to a graph, one rule after the other.

A rule looks at one node and rewrites the graph around it, or leaves it; it returns what it did, in
words, or None. Operators are known by the names of both worlds, legacy and NumPy.
"""

from __future__ import annotations

import ast
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy

from .graph import Graph, Node, Output

CONVOLUTION = ('Convolution', '_npx_convolution')
POOLING = ('Pooling', '_npx_pooling')
BATCH_NORM = ('BatchNorm', '_npx_batch_norm')
ACTIVATION = ('Activation', '_npx_activation')
LEAKY = ('LeakyReLU', '_npx_leaky_relu')
RELU = ('relu', '_npx_relu')
CLIP = ('clip', '_npi_clip')
SAME_SHAPE_ADD = ('elemwise_add', '_plus', '_Plus')
DROPOUT = ('Dropout', '_npx_dropout')
IDENTITY = ('_copy', 'identity', 'BlockGrad', '_np_copy', 'stop_gradient')
CONCAT = ('Concat', 'concat', '_npi_concatenate')
OUR_CONVOLUTION = ('convpool_convolution', '_npx_convpool_convolution')
OUR_POOLING = ('convpool_pooling', '_npx_convpool_pooling')

# How a convolution's attributes are spelled in both operators, and the values they have if absent.
_CONVOLUTION_ATTRIBUTES = {
    'kernel': None,
    'stride': (),
    'dilate': (),
    'pad': (),
    'num_filter': None,
    'num_group': 1,
    'no_bias': False,
}
_POOLING_ATTRIBUTES = {
    'kernel': (),
    'stride': (),
    'pad': (),
    'pool_type': 'max',
    'global_pool': False,
    'pooling_convention': 'valid',
    'count_include_pad': True,
    'p_value': 2,
}

Rule = Callable[[Graph, Node], Optional[str]]


def _attribute(node: Node, name: str, otherwise: Any) -> Any:
    text = node.attrs.get(name)
    if text is None or text == 'None':
        return otherwise
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _prefix(graph: Graph) -> str:
    return '_npx_' if graph.numpy else ''


def _only_user(graph: Graph, node: Node) -> Optional[Node]:
    """Return the one node that uses the first output of `node`; None if there are others."""
    users = graph.users()[id(node)]
    if len(users) != 1 or users[0] is None:
        return None
    return users[0] if all(e.number == 0 for e in users[0].inputs if e.node is node) else None


def _has_bias(node: Node) -> bool:
    return not _attribute(node, 'no_bias', False)


def _last_step_is_free(node: Node) -> bool:
    return _attribute(node, 'act_type', 'none') == 'none'


# --------------------------------------------------------------------------- rules


def drop_what_inference_does_not_need(graph: Graph, node: Node) -> Optional[str]:
    """Dropout, copies and gradient stops return their input."""
    if node.op in DROPOUT and _attribute(node, 'mode', 'training') == 'training':
        if any(entry == (node, 1) for other in graph.nodes() for entry in other.inputs):
            return None
    elif node.op not in IDENTITY:
        return None
    graph.replace(node, node.inputs[0])
    return f'{node.name}: dropped, {node.op} does nothing in inference'


def _scale_and_shift(graph: Graph, node: Node) -> Optional[Tuple[Any, Any]]:
    """What a batch norm of axis 1 does to each channel in inference."""
    if _attribute(node, 'axis', 1) != 1 or _attribute(node, 'output_mean_var', False):
        return None
    values = [graph.value(entry) for entry in node.inputs[1:5]]
    if len(values) != 4 or any(value is None for value in values):
        return None
    gamma, beta, mean, variance = (numpy.asarray(value, 'float64') for value in values)
    if _attribute(node, 'fix_gamma', True):
        gamma = numpy.ones_like(gamma)
    scale = gamma / numpy.sqrt(variance + _attribute(node, 'eps', 1e-3))
    return scale, beta - mean * scale


def fold_batch_norm(graph: Graph, node: Node) -> Optional[str]:
    """A convolution that only a batch norm uses takes over its scale and shift."""
    if node.op not in BATCH_NORM:
        return None
    before = node.inputs[0].node
    if before.op not in CONVOLUTION + OUR_CONVOLUTION or not _last_step_is_free(before):
        return None
    if _attribute(before, 'with_sum', False) or _only_user(graph, before) is not node:
        return None
    if (_attribute(before, 'layout', 'NCHW') or 'NC')[1] != 'C':
        return None
    folded = _scale_and_shift(graph, node)
    weight = graph.value(before.inputs[1])
    bias = graph.value(before.inputs[2]) if _has_bias(before) else numpy.zeros(())
    if folded is None or weight is None or bias is None:
        return None
    scale, shift = folded
    new_weight = weight * scale.reshape((-1,) + (1,) * (weight.ndim - 1))
    new_bias = shift + scale * bias
    before.inputs = [
        before.inputs[0],
        graph.add_parameter(before.name + '_weight_folded', new_weight.astype(weight.dtype)),
        graph.add_parameter(before.name + '_bias_folded', new_bias.astype(weight.dtype)),
    ]
    before.attrs = {**before.attrs, 'no_bias': 'False'}
    graph.replace(node, Output(before, 0))
    return f'{node.name}: folded into {before.name}'


def use_our_convolution(graph: Graph, node: Node) -> Optional[str]:
    """Two-dimensional convolutions with the channels first are ours."""
    if node.op not in CONVOLUTION or _attribute(node, 'layout', 'NCHW') not in ('NCHW', None):
        return None
    if len(_attribute(node, 'kernel', ())) != 2:
        return None
    attrs = {name: node.attrs[name] for name in _CONVOLUTION_ATTRIBUTES if name in node.attrs}
    before, node.op = node.op, _prefix(graph) + 'convpool_convolution'
    node.attrs = attrs
    return f'{node.name}: {before} is ours'


def use_our_pooling(graph: Graph, node: Node) -> Optional[str]:
    """Two-dimensional poolings with the channels first are ours."""
    if node.op not in POOLING or _attribute(node, 'layout', 'NCHW') not in ('NCHW', None):
        return None
    if _attribute(node, 'pooling_convention', 'valid') not in ('valid', 'full'):
        return None
    # A global pooling says nothing of its dimensions but through its input.
    whole = _attribute(node, 'global_pool', False)
    if not (_is_image(node.inputs[0].node) if whole else len(_attribute(node, 'kernel', ())) == 2):
        return None
    attrs = {name: node.attrs[name] for name in _POOLING_ATTRIBUTES if name in node.attrs}
    before, node.op = node.op, _prefix(graph) + 'convpool_pooling'
    node.attrs = attrs
    return f'{node.name}: {before} is ours'


def _is_image(node: Node) -> bool:
    """Is the output surely of (batch, channels, height, width)?"""
    while True:
        if node.op in OUR_CONVOLUTION + OUR_POOLING:
            return True
        if node.op in CONVOLUTION + POOLING:
            return len(_attribute(node, 'kernel', ())) == 2
        through = ACTIVATION + LEAKY + RELU + CLIP + BATCH_NORM + SAME_SHAPE_ADD + DROPOUT + CONCAT
        if node.op not in through or not node.inputs:
            return False
        node = node.inputs[0].node


def batch_norm_as_convolution(graph: Graph, node: Node) -> Optional[str]:
    """A batch norm that no convolution takes over is a depthwise one with a kernel of 1x1.

    MXNet's own is slow on arrays in plain layout, which is what our operators return.
    """
    if node.op not in BATCH_NORM or not _is_image(node.inputs[0].node):
        return None
    folded = _scale_and_shift(graph, node)
    value = graph.value(node.inputs[2])
    if folded is None or value is None:
        return None
    scale, shift = (one.astype(value.dtype) for one in folded)
    if any(entry.node is node and entry.number for n in graph.nodes() for entry in n.inputs):
        return None
    before, node.op = node.op, _prefix(graph) + 'convpool_convolution'
    node.inputs = [
        node.inputs[0],
        graph.add_parameter(node.name + '_scale', scale.reshape((-1, 1, 1, 1))),
        graph.add_parameter(node.name + '_shift', shift),
    ]
    channels = str(len(scale))
    node.attrs = {'kernel': '(1, 1)', 'num_filter': channels, 'num_group': channels}
    return f'{node.name}: {before} is a convolution of each channel'


def fuse_sum(graph: Graph, node: Node) -> Optional[str]:
    """A convolution that only a sum uses adds the other array itself."""
    if node.op not in SAME_SHAPE_ADD:
        return None
    order = {id(one): i for i, one in enumerate(graph.nodes())}
    # The later of two, so that what the other computes is there.
    for entry in sorted(node.inputs, key=lambda e: -order[id(e.node)]):
        before = entry.node
        other = next((e for e in node.inputs if e.node is not before), None)
        if before.op not in OUR_CONVOLUTION or other is None or not _last_step_is_free(before):
            continue
        if _attribute(before, 'with_sum', False) or _only_user(graph, before) is not node:
            continue
        before.inputs = [*before.inputs, other]
        before.attrs = {**before.attrs, 'with_sum': 'True'}
        graph.replace(node, Output(before, 0))
        return f'{node.name}: added by {before.name}'
    return None


def _activation_attributes(node: Node) -> Optional[Dict[str, str]]:
    if node.op in RELU or (node.op in ACTIVATION and node.attrs.get('act_type') == 'relu'):
        return {'act_type': 'relu'}
    if node.op in LEAKY and _attribute(node, 'act_type', 'leaky') == 'leaky':
        return {'act_type': 'leaky', 'slope': str(_attribute(node, 'slope', 0.25))}
    if node.op in CLIP:
        limits = {name: node.attrs.get(name, 'None') for name in ('a_min', 'a_max')}
        given = {name: value for name, value in limits.items() if value != 'None'}
        return {'act_type': 'clip', **given}
    return None


def fuse_activation(graph: Graph, node: Node) -> Optional[str]:
    """A convolution that only an activation uses applies it itself."""
    activation = _activation_attributes(node)
    if activation is None or not node.inputs:
        return None
    before = node.inputs[0].node
    if before.op not in OUR_CONVOLUTION or not _last_step_is_free(before):
        return None
    if _only_user(graph, before) is not node:
        return None
    before.attrs = {**before.attrs, **activation}
    graph.replace(node, Output(before, 0))
    return f'{node.name}: applied by {before.name}'


PORTABLE_RULES: Tuple[Rule, ...] = (drop_what_inference_does_not_need, fold_batch_norm)
NATIVE_RULES: Tuple[Rule, ...] = (
    use_our_convolution,
    use_our_pooling,
    batch_norm_as_convolution,
    fuse_sum,
    fuse_activation,
)


def apply(graph: Graph, native: bool) -> List[str]:
    """Apply all rules to all nodes; return what was done, in words."""
    done = []
    for rule in PORTABLE_RULES + (NATIVE_RULES if native else ()):
        for node in graph.nodes():
            words = rule(graph, node)
            if words is not None:
                done.append(words)
    graph.drop_unused_parameters()
    return done
