"""Constants, and what scales and shifts whole channels, become part of the weights."""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

import numpy

from .. import operators
from ..graph import Graph, Node, Output
from .rule import Rule, Stays

FLOATS = ('float32', 'float64')


# --------------------------------------------------------------------------- constants


def fold_constant(graph: Graph, node: Node) -> Optional[str]:
    """An operator on nothing but parameters is a parameter."""
    if not node.inputs or any(graph.value(entry) is None for entry in node.inputs):
        return None
    if None in graph.users(node):
        return None  # an output that does not depend on the input keeps its operator
    alone, _ = graph.alone(node)
    value = alone.evaluate()[0].asnumpy()
    graph.replace(Output(node, 0), graph.add_parameter(node.name + '_value', value))
    return 'into a constant'


# --------------------------------------------------------------------------- scale and shift


class Affine(NamedTuple):
    """``scale * data + shift``, with one value for each channel or one for all."""

    data: Output
    scale: numpy.ndarray
    shift: numpy.ndarray


def _batch_norm(graph: Graph, node: Node, axis: int, axes: int) -> Affine:
    if node.attribute('axis', 1) % axes != axis:
        raise Stays('its axis is not that of the channels')
    if node.attribute('output_mean_var', False) or graph.used_numbers(node) != {0}:
        raise Stays('its mean and variance are used')
    values = [graph.value(entry) for entry in node.inputs[1:]]
    if any(value is None for value in values):
        raise Stays('its parameters are computed')
    gamma, beta, mean, variance = (numpy.asarray(value, 'float64') for value in values)
    if node.attribute('fix_gamma', True):
        gamma = numpy.ones_like(gamma)
    scale = gamma / numpy.sqrt(variance + node.attribute('eps', 1e-3))
    return Affine(node.inputs[0], scale, beta - mean * scale)


def _with_scalar(node: Node) -> Affine:
    one, zero = numpy.ones(1), numpy.zeros(1)
    scalar = numpy.full(1, float(node.attribute('scalar', 0.0)))
    if node.op in operators.MULTIPLY_SCALAR:
        return Affine(node.inputs[0], scalar, zero)
    if node.op in operators.DIVIDE_SCALAR:
        return Affine(node.inputs[0], one / scalar, zero)
    if node.op in operators.SUBTRACT_SCALAR:
        return Affine(node.inputs[0], one, -scalar)
    return Affine(node.inputs[0], one, scalar)


def _with_array(graph: Graph, node: Node, axis: int, axes: int) -> Optional[Affine]:
    one, zero = numpy.ones(1), numpy.zeros(1)
    for place, data in ((1, node.inputs[0]), (0, node.inputs[1])):
        value = graph.value(node.inputs[place])
        if value is None or value.ndim > axes:
            continue
        shape = (1,) * (axes - value.ndim) + value.shape
        if any(size != 1 for i, size in enumerate(shape) if i != axis):
            continue
        array = value.astype('float64').reshape(-1)
        if node.op in operators.ADD:
            return Affine(data, one, array)
        if node.op in operators.MULTIPLY:
            return Affine(data, array, zero)
        if node.op in operators.SUBTRACT:
            return Affine(data, one, -array) if place else Affine(data, -one, array)
        if node.op in operators.DIVIDE and place:
            return Affine(data, one / array, zero)
    return None


def affine(graph: Graph, node: Node, axis: int, axes: int) -> Optional[Affine]:
    """Return what a node does to the channels of an array with so many `axes`, or None.

    Raises
    ------
    Stays
        If a batch norm does something else than scaling and shifting channels.
    """
    if node.op in operators.BATCH_NORM:
        return _batch_norm(graph, node, axis, axes)
    if node.op in operators.SCALAR:
        return _with_scalar(node)
    return _with_array(graph, node, axis, axes)


def _channel_axis(before: Node) -> Optional[Tuple[int, int]]:
    """Return the axis of the channels in the output of a layer with weights, and all its axes."""
    if before.op in operators.FULLY_CONNECTED:
        return (1, 2) if before.attribute('flatten', True) else None
    convolutions = operators.ANY_CONVOLUTION | operators.ANY_DECONVOLUTION
    if before.op in convolutions and not operators.is_joined(before):
        layout = operators.layout(before)
        return layout.index('C'), len(layout)
    return None


def _output_channels(node: Node, weight: numpy.ndarray) -> int:
    if node.op in operators.ANY_DECONVOLUTION:
        groups = int(node.attribute('num_group', 1))
        return groups * int(weight.shape[operators.layout(node).index('C')])
    return int(weight.shape[0])


def _scaled(node: Node, weight: numpy.ndarray, scale: numpy.ndarray) -> numpy.ndarray:
    """Return the weight of a layer with its output channels multiplied by `scale`."""
    if node.op not in operators.ANY_DECONVOLUTION:
        return weight * scale.reshape((-1,) + (1,) * (weight.ndim - 1))
    # The input channels come first, group by group, and stand across from their group's outputs.
    groups, axis = int(node.attribute('num_group', 1)), operators.layout(node).index('C')
    split = weight.reshape((groups, -1) + weight.shape[1:])
    shape = [groups] + [1] * weight.ndim
    shape[axis + 1] = -1
    return (split * scale.reshape(shape)).reshape(weight.shape)


def fold_scale_and_shift(graph: Graph, node: Node) -> Optional[str]:
    """A convolution or fully connected layer takes over what scales and shifts its channels.

    It must be for this node alone. The arithmetic is done in float64.
    """
    is_batch_norm = node.op in operators.BATCH_NORM
    befores = [entry.node for entry in node.inputs if _channel_axis(entry.node)]
    if not befores:
        return None
    before = befores[0]
    place = _channel_axis(before)
    assert place is not None
    step = affine(graph, node, *place)
    if step is None or step.data != Output(before, 0):
        return None
    if not graph.is_only_used_by(before, node):
        if is_batch_norm:
            raise Stays(f'others use {before.name} too')
        return None
    if before.attribute('with_sum', False) or before.attribute('act_type', 'none') != 'none':
        return None
    if operators.is_prepacked(before):
        raise Stays(f'the weight of {before.name} is packed')
    weight = graph.value(before.inputs[1])
    bias = graph.value(before.inputs[2]) if operators.has_bias(before) else numpy.zeros(1)
    if weight is None or bias is None:
        raise Stays(f'the weights of {before.name} are computed')
    if weight.dtype.name not in FLOATS:
        raise Stays(f'the weights of {before.name} are {weight.dtype.name}')
    channels = _output_channels(before, weight)
    scale, shift = (numpy.broadcast_to(one, (channels,)) for one in (step.scale, step.shift))
    new_weight = _scaled(before, weight, scale)
    new_bias = scale * bias + shift
    graph.rewire(
        before,
        [
            before.inputs[0],
            graph.add_parameter(before.name + '_weight', new_weight.astype(weight.dtype)),
            graph.add_parameter(before.name + '_bias', new_bias.astype(weight.dtype)),
        ],
    )
    before.set(no_bias=False)
    graph.replace(Output(node, 0), Output(before, 0))
    return f'into {before.name}'


CONSTANT = Rule('folded', operators.CONSTANT, fold_constant)
SCALE_AND_SHIFT = Rule(
    'folded',
    operators.BATCH_NORM
    | operators.SCALAR
    | operators.ADD_BROADCAST
    | operators.SUBTRACT
    | operators.MULTIPLY
    | operators.DIVIDE,
    fold_scale_and_shift,
)
