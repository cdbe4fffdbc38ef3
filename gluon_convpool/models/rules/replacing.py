"""Our operators in the place of MXNet's."""

from __future__ import annotations

from typing import Optional

import numpy

from ... import geometry
from ...backends import native
from .. import operators
from ..dtypes import dtype_of
from ..graph import Graph, Node
from ..shapes import shapes_of
from .folding import affine
from .rule import Rule, Stays


def _dtype_of_weight(graph: Graph, node: Node) -> Optional[str]:
    weight = graph.value(node.inputs[1])
    return dtype_of(graph, node) if weight is None else weight.dtype.name


def replace_convolution(graph: Graph, node: Node) -> Optional[str]:
    """A convolution for which the native backend has a kernel."""
    try:
        arguments = operators.convolution_arguments(node)
    except (TypeError, ValueError) as error:
        raise Stays(str(error)) from None
    obstacle = native.obstacle('convolution', arguments, _dtype_of_weight(graph, node), 'cpu')
    if obstacle:
        raise Stays(obstacle)
    bias = operators.has_bias(node)
    node.op = graph.operator('convpool_convolution')
    operators.set_convolution(node, arguments, bias)
    return 'by ours'


def replace_deconvolution(graph: Graph, node: Node) -> Optional[str]:
    """A transposed convolution for which the native backend has a kernel."""
    try:
        arguments = operators.deconvolution_arguments(node)
    except (TypeError, ValueError) as error:
        raise Stays(str(error)) from None
    obstacle = native.obstacle(
        'convolution_transpose', arguments, _dtype_of_weight(graph, node), 'cpu'
    )
    if obstacle:
        raise Stays(obstacle)
    bias = operators.has_bias(node)
    node.op = graph.operator('convpool_convolution_transpose')
    operators.set_deconvolution(node, arguments, bias)
    return 'by ours'


def replace_pooling(graph: Graph, node: Node) -> Optional[str]:
    """A pooling for which the native backend has a kernel."""
    axes = shapes_of(graph).axes(node.inputs[0])
    if axes is None:
        raise Stays('the number of axes of its data is unknown')
    try:
        arguments: geometry.Pooling = operators.pooling_arguments(node, axes - 2)
    except (TypeError, ValueError, KeyError) as error:
        raise Stays(str(error)) from None
    obstacle = native.obstacle('pooling', arguments, dtype_of(graph, node), 'cpu')
    if obstacle:
        raise Stays(obstacle)
    node.op = graph.operator('convpool_pooling')
    operators.set_pooling(node, arguments)
    return 'by ours'


def replace_batch_norm(graph: Graph, node: Node) -> Optional[str]:
    """A batch norm of images that no convolution took over is a depthwise convolution of 1x1.

    It may then have a sum and an activation as its last step. MXNet's own brings the arrays that
    our operators give into a layout of its own first.
    """
    axes = shapes_of(graph).axes(node.inputs[0])
    if axes != 4 and node.op in operators.OUR_BATCH_NORM:
        return None
    if axes is None:
        raise Stays('the number of axes of its data is unknown')
    if axes != 4:
        raise Stays(f'its data has {axes} axes, and not the 4 of images')
    step = affine(graph, node, 1, 4)
    assert step is not None
    dtype = graph.parameters[node.inputs[2].node.name].dtype
    obstacle = native.obstacle_of_arrays('convolution', numpy.dtype(dtype).name, 'cpu')
    if obstacle:
        raise Stays(obstacle)
    channels = step.scale.size
    arguments = geometry.convolution_arguments(
        'BatchNorm', (1, 1), 1, 0, 1, channels, channels, 'NCHW'
    )
    scale, shift = (value.astype(dtype) for value in (step.scale, step.shift))
    inputs = [
        step.data,
        graph.add_parameter(node.name + '_scale', scale.reshape((channels, 1, 1, 1))),
        graph.add_parameter(node.name + '_shift', shift),
    ]
    node.op = graph.operator('convpool_convolution')
    operators.set_convolution(node, arguments, bias=True)
    graph.rewire(node, inputs)
    return 'by a convolution of each channel'


CONVOLUTION = Rule('replaced', operators.CONVOLUTION, replace_convolution)
DECONVOLUTION = Rule('replaced', operators.DECONVOLUTION, replace_deconvolution)
POOLING = Rule('replaced', operators.POOLING, replace_pooling)
BATCH_NORM = Rule('replaced', operators.BATCH_NORM, replace_batch_norm)
