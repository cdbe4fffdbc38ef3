"""MXNet's operators as the rules of `optimize` know them, by the names that stand in a graph.

MXNet stores an operator under one name, whichever of its aliases was called, so that the legacy and
the NumPy world often have the same ones.
"""

from __future__ import annotations

from typing import Any, FrozenSet, Tuple

from .. import geometry
from ..backends import native
from .graph import NUMPY_PREFIX, Node

Names = FrozenSet[str]


def _both_worlds(name: str) -> Names:
    return frozenset((name, NUMPY_PREFIX + name))


OUR_CONVOLUTION = _both_worlds('convpool_convolution')
OUR_DECONVOLUTION = _both_worlds('convpool_convolution_transpose')
OUR_POOLING = _both_worlds('convpool_pooling')

CONVOLUTION = frozenset(('Convolution',))
DECONVOLUTION = frozenset(('Deconvolution',))
POOLING = frozenset(('Pooling',))
ANY_CONVOLUTION = CONVOLUTION | OUR_CONVOLUTION
ANY_DECONVOLUTION = DECONVOLUTION | OUR_DECONVOLUTION
ANY_POOLING = POOLING | OUR_POOLING
FULLY_CONNECTED = frozenset(('FullyConnected',))
OUR_BATCH_NORM = _both_worlds('convpool_batch_norm')
BATCH_NORM = frozenset(('BatchNorm',)) | OUR_BATCH_NORM
DROPOUT = frozenset(('Dropout',))
CONCAT = frozenset(('Concat', '_npi_concatenate'))

RELU = _both_worlds('relu')
ACTIVATION = frozenset(('Activation',))
LEAKY_RELU = frozenset(('LeakyReLU',))
CLIP = frozenset(('clip',))
SIGMOID = _both_worlds('sigmoid')

# These give their first input back: only gradients, or the graph around them, need them.
IDENTITY = frozenset(('_copy', '_np_copy', 'BlockGrad', 'MakeLoss', 'make_loss'))
# What a training ends in, and what of it is left in inference.
LOSSES = {
    'SoftmaxOutput': 'softmax',
    'LogisticRegressionOutput': 'sigmoid',
    'LinearRegressionOutput': None,
    'MAERegressionOutput': None,
    'SVMOutput': None,
}

ADD_EQUAL_SHAPES = frozenset(('elemwise_add',))
ADD_BROADCAST = frozenset(('broadcast_add', '_npi_add'))
ADD = ADD_EQUAL_SHAPES | ADD_BROADCAST
SUBTRACT = frozenset(('broadcast_sub', '_npi_subtract'))
MULTIPLY = frozenset(('broadcast_mul', '_npi_multiply'))
DIVIDE = frozenset(('broadcast_div', '_npi_true_divide'))
BROADCASTS = ADD_BROADCAST | SUBTRACT | MULTIPLY | DIVIDE
EQUAL_SHAPES = ADD_EQUAL_SHAPES | frozenset(('elemwise_sub', 'elemwise_mul', 'elemwise_div'))

# With the attribute `scalar`.
ADD_SCALAR = frozenset(('_plus_scalar', '_npi_add_scalar'))
SUBTRACT_SCALAR = frozenset(('_minus_scalar', '_npi_subtract_scalar'))
MULTIPLY_SCALAR = frozenset(('_mul_scalar', '_npi_multiply_scalar'))
DIVIDE_SCALAR = frozenset(('_div_scalar', '_npi_true_divide_scalar'))
SCALAR = ADD_SCALAR | SUBTRACT_SCALAR | MULTIPLY_SCALAR | DIVIDE_SCALAR

# The output has the shape of the first input.
SAME_SHAPE = (
    ACTIVATION
    | LEAKY_RELU
    | RELU
    | CLIP
    | BATCH_NORM
    | DROPOUT
    | IDENTITY
    | SCALAR
    | EQUAL_SHAPES
    | SIGMOID
    | frozenset(('tanh', 'softsign', 'Cast', 'LRN', 'L2Normalization', 'InstanceNorm'))
)

# Operators of one output that give the same for the same inputs, and that stand between a parameter
# and the node that it scales or shifts.
CONSTANT = (
    BROADCASTS
    | EQUAL_SHAPES
    | SCALAR
    | IDENTITY
    | _both_worlds('reshape')
    | frozenset(('Reshape', '_np_reshape', 'Flatten', 'expand_dims', 'transpose', '_np_transpose'))
    | frozenset(('Cast', 'exp', '_npi_exp', 'sqrt', '_npi_sqrt', 'rsqrt', 'square', '_npi_square'))
    | frozenset(('negative', '_npi_negative', 'reciprocal', '_npi_reciprocal', 'abs', 'sigmoid'))
)


def has_bias(node: Node) -> bool:
    """Say whether a convolution or a fully connected layer has a bias."""
    return not node.attribute('no_bias', node.op in DECONVOLUTION)


def data_count(node: Node) -> int:
    """Return how many arrays stand before the weight of a convolution: its data, in pieces."""
    return int(node.attribute('num_data', 1))


def is_joined(node: Node) -> bool:
    """Say whether a convolution has data in pieces, or scales them."""
    return data_count(node) > 1 or bool(node.attribute('with_scale', False))


def is_prepacked(node: Node) -> bool:
    """Say whether the weight of a convolution is a packed one, which has a single axis."""
    return bool(node.attribute('prepacked', False))


def channel_axis_of_concat(node: Node) -> int:
    """Return the axis along which a node joins arrays; 0 where it does not, or cannot be known."""
    if node.op not in CONCAT:
        return 0
    axis = node.attribute('dim' if node.op == 'Concat' else 'axis', 1)
    return axis if isinstance(axis, int) else 0


def is_pointwise(node: Node) -> bool:
    """Say whether a convolution reads nothing but what stands at the output's own position."""
    return all(
        all(one == value for one in node.attribute(name, ()))
        for name, value in (('kernel', 1), ('stride', 1), ('pad', 0))
    )


def layout(node: Node) -> str:
    """Return the layout of a convolution or a pooling; by default channels come first."""
    given = node.attribute('layout', None)
    return given if given is not None else 'NC' + 'DHW'[-len(node.attribute('kernel', ())) :]


def _padding(node: Node, ndim: int) -> Any:
    """Return the padding as users write it: pairs where the operator has both sides of an axis."""
    pad = _per_axis(node, 'pad', ndim, 0)
    return tuple(zip(pad[:ndim], pad[ndim:])) if len(pad) == 2 * ndim else pad


def _per_axis(node: Node, name: str, ndim: int, otherwise: int) -> Tuple[int, ...]:
    return tuple(node.attribute(name, ())) or (otherwise,) * ndim


def convolution_arguments(node: Node) -> geometry.Convolution:
    """Read a convolution's arguments.

    Raises
    ------
    TypeError, ValueError
        If ours would refuse them.
    """
    kernel = tuple(node.attribute('kernel', ()))
    return geometry.convolution_arguments(
        'Convolution',
        kernel,
        _per_axis(node, 'stride', len(kernel), 1),
        _padding(node, len(kernel)),
        _per_axis(node, 'dilate', len(kernel), 1),
        node.attribute('num_filter', 0),
        node.attribute('num_group', 1),
        layout(node),
        algorithm=node.attribute('algorithm', 'auto'),
    )


def deconvolution_arguments(node: Node) -> geometry.ConvolutionTranspose:
    """Read a transposed convolution's arguments.

    Raises
    ------
    TypeError, ValueError
        If ours would refuse them.
    """
    kernel = tuple(node.attribute('kernel', ()))
    target = tuple(node.attribute('target_shape', ()))
    if any(target):
        geometry.refuse('unsupported_argument', op=node.op, name='target_shape', value=target)
    return geometry.convolution_transpose_arguments(
        node.op,
        kernel,
        _per_axis(node, 'stride', len(kernel), 1),
        _per_axis(node, 'pad', len(kernel), 0),
        _per_axis(node, 'adj', len(kernel), 0),
        _per_axis(node, 'dilate', len(kernel), 1),
        node.attribute('num_filter', 0),
        node.attribute('num_group', 1),
        layout(node),
    )


def pooling_arguments(node: Node, ndim: int) -> geometry.Pooling:
    """Read a pooling's arguments; a global one may leave its number of axes to the data.

    Raises
    ------
    TypeError, ValueError
        If ours would refuse them.
    """
    convention = node.attribute('pooling_convention', 'valid')
    geometry.choice('Pooling', 'pooling_convention', convention, ('valid', 'full'))
    whole = bool(node.attribute('global_pool', False))
    kernel = (1,) * ndim if whole else tuple(node.attribute('kernel', ()))
    return geometry.pooling_arguments(
        'Pooling',
        kernel,
        kernel if whole else _per_axis(node, 'stride', ndim, 1),
        (0,) * ndim if whole else _padding(node, ndim),
        node.attribute('pool_type', 'max'),
        convention == 'full',
        bool(node.attribute('count_include_pad', True)),
        node.attribute('p_value', 2),
        whole,
        node.attribute('layout', None) or 'NC' + 'DHW'[-ndim:],
    )


def set_convolution(node: Node, arguments: geometry.Convolution, bias: bool) -> None:
    """Give a node the attributes of our convolution."""
    node.attrs = node.own_attributes()
    node.set(**native.convolution_attributes(arguments, bias))


def set_deconvolution(node: Node, arguments: geometry.ConvolutionTranspose, bias: bool) -> None:
    """Give a node the attributes of our transposed convolution."""
    node.attrs = node.own_attributes()
    node.set(**native.transposed_attributes(arguments, bias))


def set_pooling(node: Node, arguments: geometry.Pooling) -> None:
    """Give a node the attributes of our pooling."""
    node.attrs = node.own_attributes()
    node.set(**native.pooling_attributes(arguments))
