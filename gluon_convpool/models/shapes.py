"""Shapes in a graph whose input sizes are unknown, as far as it takes to compare them.

An axis has an integer or an expression: the size of some axis of some array, plus a number, times
one, or divided by one and rounded down. Expressions are written in one way only, so that two axes
with equal expressions have the same size whatever the size of the input.
"""

from __future__ import annotations

import math
from typing import Any, Dict, Optional, Tuple

from . import operators
from .graph import Graph, Node, Output

# An integer, ('size', node, number, axis), ('+', expression, integer), ('*', expression, integer),
# ('//', expression, integer) or ('concat', node)
Axis = Any
Shape = Tuple[Axis, ...]


def plus(size: Axis, number: int) -> Axis:
    """Return the expression of ``size + number``."""
    if isinstance(size, int):
        return size + number
    if size[0] == '+':
        size, number = size[1], size[2] + number
    return ('+', size, number) if number else size


def divided(size: Axis, divisor: int) -> Axis:
    """Return the expression of ``size // divisor``."""
    if isinstance(size, int):
        return size // divisor
    if divisor == 1:
        return size
    inner, number = (size[1], size[2]) if size[0] == '+' else (size, 0)
    whole, rest = divmod(number, divisor)
    if inner[0] == '*':
        common = math.gcd(inner[2], divisor)
        inner, divisor = times(inner[1], inner[2] // common), divisor // common
        rest //= common
    return plus(('//', plus(inner, rest), divisor) if divisor > 1 else inner, whole)


def times(size: Axis, factor: int) -> Axis:
    """Return the expression of ``size * factor``."""
    if isinstance(size, int):
        return size * factor
    if size[0] == '+':
        return plus(times(size[1], factor), size[2] * factor)
    if size[0] == '*':
        size, factor = size[1], size[2] * factor
    return ('*', size, factor) if factor != 1 else size


def _windows(size: Axis, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> Axis:
    # geometry.output_size, with an expression; the padding is that of both sides
    room = plus(size, padding - (dilation * (kernel - 1) + 1) + (stride - 1 if ceil else 0))
    return plus(divided(room, stride), 1)


def _transposed(
    size: Axis, kernel: int, stride: int, dilation: int, padding: int, more: int
) -> Axis:
    # geometry.convolution_transpose_shape, with an expression
    return plus(times(plus(size, -1), stride), dilation * (kernel - 1) + 1 - 2 * padding + more)


def shapes_of(graph: Graph) -> Shapes:
    """Return what is known of the shapes in a graph. Rewriting does not change them."""
    if graph.shapes is None:
        graph.shapes = Shapes(graph)
    return graph.shapes


class Shapes:
    """What is known of the shapes in a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: Dict[Output, Shape] = {}
        # A convolution says how many axes its data has, which those before it may need to know.
        for _ in range(2):
            for node in graph.nodes():
                self._infer(node)

    def of(self, entry: Output) -> Optional[Shape]:
        """Return the shape of an array, or None."""
        return self._known.get(entry)

    def axes(self, entry: Output) -> Optional[int]:
        """Return the number of axes of an array, or None."""
        shape = self.of(entry)
        return None if shape is None else len(shape)

    def equal(self, one: Output, other: Output) -> bool:
        """Say whether two arrays surely have the same shape."""
        return self.of(one) is not None and self.of(one) == self.of(other)

    def _data(self, node: Node, axes: int) -> Optional[Shape]:
        """Return the shape of a layer's data, of which the layer and its weight say something."""
        entry = node.inputs[0]
        if entry not in self._known:
            shape = tuple(('size', *entry, axis) for axis in range(axes))
            weight = self.of(node.inputs[1]) if len(node.inputs) > 1 else None
            known = weight is not None and len(weight) == axes and operators.data_count(node) == 1
            if weight is not None and known and operators.layout(node)[1] == 'C':
                channels = weight[1] * node.attribute('num_group', 1)
                if node.op in operators.ANY_DECONVOLUTION:
                    channels = weight[0]
                shape = shape[:1] + (channels,) + shape[2:]
            self._known[entry] = shape
        shape = self._known[entry]
        return shape if len(shape) == axes else None

    def _infer(self, node: Node) -> None:
        shape = self._shape(node)
        if shape is not None:
            self._known[Output(node, 0)] = shape

    def _shape(self, node: Node) -> Optional[Shape]:
        if node.is_variable:
            array = self._graph.parameters.get(node.name)
            return None if array is None else tuple(array.shape)
        if node.op in operators.ANY_CONVOLUTION or node.op in operators.ANY_POOLING:
            return self._window_shape(node)
        if node.op in operators.ANY_DECONVOLUTION:
            return self._transposed_shape(node)
        if node.op in operators.SAME_SHAPE:
            known = [self.of(entry) for entry in node.inputs]
            if node.op not in operators.EQUAL_SHAPES:
                known = known[:1]
            return next((shape for shape in known if shape is not None), None)
        if node.op in operators.BROADCASTS:
            return self._broadcast(*(self.of(entry) for entry in node.inputs))
        if node.op in operators.CONCAT:
            return self._concat(node)
        return None

    def _window_shape(self, node: Node) -> Optional[Shape]:
        kernel = node.attribute('kernel', ())
        whole = node.op in operators.ANY_POOLING and node.attribute('global_pool', False)
        axes = self.axes(node.inputs[0]) if whole else len(kernel) + 2
        if axes is None or axes < 3:
            return None
        data = self._data(node, axes)
        if data is None:
            return None
        try:
            if node.op in operators.ANY_CONVOLUTION:
                convolution = operators.convolution_arguments(node)
                layout, channels = convolution.layout, convolution.channels
                stride, both, dilate = convolution.stride, convolution.sides, convolution.dilate
                ceil = False
            else:
                pooling = operators.pooling_arguments(node, axes - 2)
                layout, channels, ceil = pooling.layout, data[1], pooling.ceil_mode
                kernel = pooling.kernel
                stride, both, dilate = pooling.stride, pooling.sides, (1,) * (axes - 2)
        except (TypeError, ValueError):
            return None
        if layout[1] != 'C':
            return None
        if whole:
            return (data[0], channels) + (1,) * (axes - 2)
        padding = tuple(map(sum, zip(*both)))
        sizes = zip(data[2:], kernel, stride, padding, dilate)
        return (data[0], channels, *(_windows(*one, ceil) for one in sizes))

    def _transposed_shape(self, node: Node) -> Optional[Shape]:
        data = self._data(node, len(node.attribute('kernel', ())) + 2)
        if data is None:
            return None
        try:
            arguments = operators.deconvolution_arguments(node)
        except (TypeError, ValueError):
            return None
        if arguments.layout[1] != 'C':
            return None
        sizes = zip(data[2:], *arguments[:5])
        return (data[0], arguments.channels, *(_transposed(*one) for one in sizes))

    def _broadcast(self, one: Optional[Shape], other: Optional[Shape]) -> Optional[Shape]:
        if one is None or other is None:
            return None
        axes = max(len(one), len(other))
        one, other = (1,) * (axes - len(one)) + one, (1,) * (axes - len(other)) + other
        if all(a == b or 1 in (a, b) for a, b in zip(one, other)):
            return tuple(b if a == 1 else a for a, b in zip(one, other))
        return None

    def _concat(self, node: Node) -> Optional[Shape]:
        shapes = [self.of(entry) for entry in node.inputs]
        axis = node.attribute('dim' if node.op == 'Concat' else 'axis', 1)
        first = shapes[0]
        if first is None or not isinstance(axis, int) or not -len(first) <= axis < len(first):
            return None
        sizes = [shape[axis] if shape else None for shape in shapes]
        total: Axis = ('concat', node)
        if all(isinstance(size, int) for size in sizes):
            total = sum(sizes)  # type: ignore[arg-type]
        axis %= len(first)
        return first[:axis] + (total,) + first[axis + 1 :]
