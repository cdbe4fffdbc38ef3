"""Window arithmetic, argument checks and every error text of the package.

Only the standard library is imported here: the build executes this file alone to write the same
sentences into the native library.

All windows obey one rule per axis, with ``n`` elements, padding ``p`` on either side, dilation
``d``, kernel ``k`` and stride ``s``::

    extent = d * (k - 1) + 1
    output = floor((n + 2 * p - extent) / s) + 1        (ceil instead of floor in ceil mode)
"""

from __future__ import annotations

import contextlib
import math
import operator
from typing import Any, Dict, NamedTuple, NoReturn, Optional, Sequence, Tuple, Union

# What somebody who writes a layer of their own may call; the rest is for the package itself.
__all__ = [
    'Border',
    'Convolution',
    'ConvolutionTranspose',
    'Pooling',
    'border',
    'check_bias',
    'check_weight',
    'choice',
    'convolution_arguments',
    'convolution_shape',
    'convolution_transpose_arguments',
    'convolution_transpose_shape',
    'extent',
    'flag',
    'integer',
    'join_shape',
    'layout_of',
    'message',
    'output_size',
    'per_axis',
    'pooling_arguments',
    'pooling_shape',
    'refuse',
    'split_shape',
    'weight_shape',
    'without_border',
]

MESSAGES: Dict[str, str] = {
    'wrong_axes': '{op}: the data has shape {shape}, but layout {layout} needs {expected} axes',
    'channels_mismatch': (
        '{op}: the data has {data_channels} channels, but a weight of shape {weight_shape} with'
        ' groups={groups} takes as many as its input channels times groups'
    ),
    'channels_mismatch_transposed': (
        '{op}: the data has {data_channels} channels, but a weight of shape {weight_shape} takes as'
        ' many as its first axis has'
    ),
    'weight_shape': '{op}: weight has shape {weight_shape}; expected {expected}',
    'bias_shape': '{op}: bias has shape {bias_shape}; expected {expected}',
    'sum_shape': '{op}: sum has shape {sum_shape}; expected that of the output, {expected}',
    'joined_unfit': (
        '{op}(kernel_size={kernel_size}, strides={strides}, padding={padding}, groups={groups}):'
        ' data in several pieces, or scaled, is only for kernels and strides of 1 without padding'
        ' and groups'
    ),
    'relu_without_scale': "{op}: data_act_type='relu' needs with_scale=True",
    'piece_shape': (
        '{op}: a piece of data has shape {shape}; expected that of the first one, {expected}, but'
        ' for the channels'
    ),
    'scale_shape': '{op}: {name} has shape {shape}; expected {expected}',
    'packed_shape': (
        '{op}: prepacked=True needs a packed weight, which has one axis, but it has shape'
        ' {weight_shape}'
    ),
    'packed_unfit': (
        '{op}: the packed weight is none for {channels} output channels, {in_channels} input'
        ' channels, groups={groups}, kernel_size={kernel_size}, layout={layout} and dtype {dtype}'
    ),
    'packed_pieces': '{op}: a packed weight is for data in one piece that is not scaled',
    'fused_gradient': (
        '{op}: what is fused into the operator, such as an activation, a sum or a scale of the'
        ' data, or a packed weight, has no gradient; it is for inference'
    ),
    'channels_of_statistics': (
        '{op}: the data has shape {shape}, but the parameters are for {channels} channels'
    ),
    'too_few_axes': '{op}: the data has shape {shape}, but needs two axes or more',
    'kernel_too_large': (
        '{op}: a window of size {kernel_size} with dilation={dilation} covers {extent} elements,'
        ' but the data with padding={padding} has only {padded}; the window must fit'
    ),
    'output_padding_not_smaller': (
        '{op}: output_padding={output_padding} must be smaller than strides={strides} on every axis'
    ),
    'output_padding_of_same': (
        "{op}: output_padding={output_padding}, but padding='same' decides it; allowed:"
        ' output_padding=0'
    ),
    'nothing_left': (
        '{op}: padding={padding} takes away all of the output: each axis of the data must have at'
        ' least {least} elements, but they are {sizes}'
    ),
    'padding_sides': (
        '{op}: pad={value} must have {ndim} values, one for both sides of each axis, or {both}:'
        ' those before each axis, then those behind it'
    ),
    'padding_pairs': (
        "{op}: padding={value} must be 'same', 'valid', one integer, a tuple of {ndim}, or a pair"
        ' (before, behind) for each of {ndim} axes'
    ),
    'unpooled_shape': (
        '{op}: output_size={output_size} is pooled to {expected}, but x has shape {shape}'
    ),
    'indices_shape': '{op}: indices have shape {indices_shape}; expected that of x, {expected}',
    'nothing_to_pool': (
        '{op}: the data has spatial sizes {sizes}, but each axis must have at least 1 element'
    ),
    'windows_mismatch': (
        '{op}: output_size={output_size} has {expected} windows, but x has shape {shape}, with'
        ' {count} on its last axis'
    ),
    'columns_mismatch': (
        '{op}: x has shape {shape}, but must be (batch, channels times the {window} elements of a'
        ' window, windows)'
    ),
    'border_too_large': (
        '{op}: padding={padding} with padding_mode={mode} copies elements of the data: each axis'
        ' must have at least {least} elements, but they are {sizes}'
    ),
    'channels_not_divisible': '{op}(groups={groups}): {name}={value} is not divisible by groups',
    'below_minimum': '{op}: {name}={value}, but every value must be at least {minimum}',
    'padding_not_smaller': (
        '{op}: padding={padding} must be smaller than pool_size={pool_size} on every axis'
    ),
    'ceil_mode_sides': (
        '{op}: ceil_mode=True takes padding that is equal on both sides, but padding={padding};'
        ' allowed: ceil_mode=False'
    ),
    'unknown_choice': '{op}: {name}={value} is unknown; allowed: {allowed}',
    'tuple_length': '{op}: {name}={value} must be one integer or a tuple of {ndim}',
    'not_integer': '{op}: {name}={value} must be an integer or a tuple of integers',
    'unsupported_dtype': '{op}: arrays of dtype {dtype} are not supported; allowed: {allowed}',
    'mixed_dtypes': '{op}: all inputs must have the same dtype, but they have {dtypes}',
    'graph_dtype': (
        '{op}: this graph, which was made before it saw data, is for data of dtype {allowed} alone;'
        ' cast the network to the dtype of its data before it is hybridized'
    ),
    'mixed_devices': '{op}: all inputs must be on the same device, but they are on {devices}',
    'mixed_kinds': (
        '{op}: all inputs must be of one kind (mx.np arrays, mx.nd arrays, or symbols), but they'
        ' are {kinds}'
    ),
    'deformable_layout': '{op}: layout={layout} is not supported; allowed: {allowed}',
    'deformable_channels': (
        '{op}(num_deformable_group={groups}): in_channels={value} is not divisible by'
        ' num_deformable_group'
    ),
    'deformable_input': (
        '{op}: {name} has shape {shape}; expected {expected}, {each} for each element of a window,'
        ' deformable group and window'
    ),
    'unknown_keyword': '{op}: {name}={value} is no argument of it; allowed: {allowed}',
    'wrong_call': '{op}: {problem}',
    'unsupported_argument': '{op}: {name}={value} is not supported; leave it away',
    'no_kernels': (
        '{op}: {layer} has no kernels to draw; allowed: a one- or two-dimensional convolution layer'
    ),
    'not_initialised': (
        '{op}: the weight of {layer} has no values yet; initialize() it and, unless its in_channels'
        ' were given, call it once'
    ),
    'unreadable_layer': (
        '{op}: layer {layer} cannot be read; allowed: Sequential and HybridSequential of'
        ' convolution, pooling, Flatten, Dense, and of layers that treat every position alike'
        ' (activations, BatchNorm, Dropout, Identity)'
    ),
    'not_maps': (
        '{op}: the output of layer {layer} has shape {shape}; allowed: (batch, channels, height,'
        ' width), (batch, channels, width) or (batch, channels), with at least one image'
    ),
    'not_images': (
        '{op}: {name} has shape {shape}, but must hold images: (batch, channels, height, width)'
    ),
    'one_layer_for_ax': '{op}: with ax only one layer can be drawn, but there are {count}',
    'no_such_layer': '{op}: layers={layers}, but the network has layers 0 to {last}',
    'no_roof': (
        '{op}: roof=None, but points by themselves do not say what the machine can do; allowed:'
        ' measure_roof() or a Roof'
    ),
    'no_points': (
        '{op}: results hold nothing to draw in pass {which}; layers without multiplications, such'
        ' as pooling, have no place under a roof of operations'
    ),
    'algorithm_without_native': (
        '{op}: algorithm={algorithm} is one of the native backend, which does not serve this call:'
        ' {reason}'
    ),
    'algorithm_unfit': (
        '{op}: algorithm={algorithm} cannot compute kernel_size={kernel_size}, strides={strides},'
        ' dilation={dilation}, groups={groups} over data of shape {shape}; it needs {needs}'
    ),
    'needs_implicit_gemm': 'float32 or float64',
    'needs_winograd': (
        'a kernel_size larger than the strides along one axis at least; strides=1 or dilation=1'
        ' along each of them; and data that are not too small beside the transformed weights; of'
        ' three axes, that holds for the last two'
    ),
    'needs_depthwise': (
        'groups equal to the number of input channels, one or two spatial axes, and windows that'
        ' span few enough elements to stay in cache'
    ),
    'higher_order_backend': (
        "use_backend(name={name}): higher_order=True is for the backend 'portable' alone"
    ),
    'higher_order_symbols': (
        '{op}: higher-order gradients are for arrays, not for symbols; in a network, call'
        ' hybridize(False) first'
    ),
    'higher_order_empty': (
        '{op}: an array of shape {shape} has no elements to take higher-order gradients of'
    ),
    'higher_order_lacks': '{op}: there are no higher-order gradients of {what}',
    'too_large': (
        '{op}: the output would have shape {shape}, more than the 2147483647 elements that one'
        ' MXNet array can hold'
    ),
    'too_large_inside': (
        '{op}: output_size={output_size} for data of shape {shape} takes an array of shape'
        ' {inside}, more than the 2147483647 elements that one MXNet array can hold'
    ),
    'not_a_matrix': '{op}: {name} has shape {shape}, but must be a matrix',
    'too_large_to_draw': (
        '{op}: {name} has shape {shape}, but only {largest} rows and columns can be drawn so that'
        ' their numbers are legible; take a part of it'
    ),
    'no_such_step': (
        '{op}: steps={step}, but there are {count} windows, counted from 0; allowed: the number of'
        ' one window, or of several'
    ),
    'one_step_for_ax': '{op}: steps={steps}, but with ax only one window can be drawn',
}

LARGEST_ARRAY = 2**31 - 1
LAYOUTS: Dict[int, Tuple[str, ...]] = {
    1: ('NCW', 'NWC'),
    2: ('NCHW', 'NHWC'),
    3: ('NCDHW', 'NDHWC'),
}
POOL_MODES = ('max', 'avg', 'sum', 'lp')
LP_POWERS = (1, 2, 3)
# What computes a native convolution, in the order of the C interface's `convpool_algorithm`.
ALGORITHMS = ('auto', 'implicit_gemm', 'winograd', 'depthwise')
PADDING_MODES = ('zeros', 'reflect', 'replicate', 'circular')
ACTIVATIONS = ('relu', 'sigmoid', 'softrelu', 'softsign', 'tanh')

Ints = Tuple[int, ...]


def message(key: str, **values: Any) -> str:
    """The sentence for one kind of mistake, with its values filled in.

    Parameters
    ----------
    key : str
        A key of `MESSAGES`.
    **values
        One value for each name in braces in that text.

    Returns
    -------
    str

    Raises
    ------
    KeyError
        If there is no such text, or a value for it is missing.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> geometry.message('bias_shape', op='conv', bias_shape=(3,), expected=(4,))
    'conv: bias has shape (3,); expected (4,)'
    """
    return MESSAGES[key].format(**values)


class _Dots(Dict[str, Any]):
    def __missing__(self, name: str) -> str:
        return '...'


def unfinished_message(key: str, **values: Any) -> str:
    """The sentence for one kind of mistake, with dots for the values that are not known yet."""
    return MESSAGES[key].format_map(_Dots(values))


def refuse(key: str, **values: Any) -> NoReturn:
    """Raise ``ValueError`` with the sentence for one kind of mistake.

    Parameters
    ----------
    key : str
        A key of `MESSAGES`.
    **values
        One value for each name in braces in that text.

    Raises
    ------
    ValueError
        Always.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> geometry.refuse('bias_shape', op='conv', bias_shape=(3,), expected=(4,))
    Traceback (most recent call last):
    ValueError: conv: bias has shape (3,); expected (4,)
    """
    raise ValueError(message(key, **values))


# --------------------------------------------------------------------------- single arguments


def choice(op: str, name: str, value: Any, allowed: Sequence[Any]) -> Any:
    """`value`, if it is one of `allowed`.

    Parameters
    ----------
    op, name : str
        The caller and the argument, for the message.
    value : str or int
        What was given. NumPy's strings and integers are fine; True is not 1.
    allowed : sequence of str or int

    Returns
    -------
    str or int
        `value` as a plain ``str`` or ``int``.

    Raises
    ------
    ValueError
        If it is none of them.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> geometry.choice('my_layer', 'mode', 'max', ('max', 'avg'))
    'max'
    >>> geometry.choice('my_layer', 'mode', 'min', ('max', 'avg'))
    Traceback (most recent call last):
    ValueError: my_layer: mode='min' is unknown; allowed: 'max', 'avg'
    """
    plain: Any = None
    if isinstance(value, str):
        plain = str(value)
    elif not isinstance(value, bool):
        with contextlib.suppress(TypeError):
            plain = operator.index(value)
    if plain is not None and plain in allowed:
        return plain
    refuse(
        'unknown_choice',
        op=op,
        name=name,
        value=repr(value),
        allowed=', '.join(repr(one) for one in allowed),
    )


def _integer(op: str, name: str, value: Any, shown: Any) -> int:
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(message('not_integer', op=op, name=name, value=repr(shown)))


def integer(op: str, name: str, value: Any, minimum: int) -> int:
    """`value` as an ``int`` of at least `minimum`.

    Parameters
    ----------
    op, name : str
        The caller and the argument, for the message.
    value : int
        What was given. NumPy's integers are fine, ``bool`` is not.
    minimum : int

    Returns
    -------
    int

    Raises
    ------
    TypeError
        If it is no integer.
    ValueError
        If it is below `minimum`.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> geometry.integer('my_layer', 'channels', 8, minimum=1)
    8
    >>> geometry.integer('my_layer', 'channels', 0, minimum=1)
    Traceback (most recent call last):
    ValueError: my_layer: channels=0, but every value must be at least 1
    """
    number = _integer(op, name, value, value)
    if number < minimum:
        refuse('below_minimum', op=op, name=name, value=number, minimum=minimum)
    return number


def per_axis(op: str, name: str, value: Any, ndim: int, minimum: int) -> Ints:
    """`value` as one integer per axis: a single integer stands for all axes.

    Parameters
    ----------
    op, name : str
        The caller and the argument, for the message.
    value : int, or tuple or list of int
    ndim : int
        How many axes there are.
    minimum : int
        The least value that is allowed.

    Returns
    -------
    tuple of int
        `ndim` of them.

    Raises
    ------
    TypeError
        For anything that is not an integer or a tuple or list of integers.
    ValueError
        For a wrong number of values, or a value below `minimum`.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> geometry.per_axis('my_layer', 'strides', 2, ndim=2, minimum=1)
    (2, 2)
    >>> geometry.per_axis('my_layer', 'strides', (1, 2, 3), ndim=2, minimum=1)
    Traceback (most recent call last):
    ValueError: my_layer: strides=(1, 2, 3) must be one integer or a tuple of 2
    """
    if isinstance(value, (tuple, list)):
        if len(value) != ndim:
            refuse('tuple_length', op=op, name=name, value=repr(value), ndim=ndim)
        numbers = tuple(_integer(op, name, one, value) for one in value)
    else:
        numbers = (_integer(op, name, value, value),) * ndim
    if min(numbers) < minimum:
        refuse('below_minimum', op=op, name=name, value=repr(value), minimum=minimum)
    return numbers


def flag(op: str, name: str, value: Any) -> bool:
    """`value` as ``bool``.

    Parameters
    ----------
    op, name : str
        The caller and the argument, for the message.
    value : bool
        What was given. 0, 1 and NumPy's booleans are accepted because MXNet accepts them.

    Returns
    -------
    bool

    Raises
    ------
    ValueError
        For anything else.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> geometry.flag('my_layer', 'ceil_mode', 1)
    True
    >>> geometry.flag('my_layer', 'ceil_mode', 'yes')
    Traceback (most recent call last):
    ValueError: my_layer: ceil_mode='yes' is unknown; allowed: True, False
    """
    if isinstance(value, bool) or (type(value) is int and value in (0, 1)):
        return bool(value)
    try:
        # numpy.bool_ cannot be recognised by type without importing NumPy
        if type(value).__name__ in ('bool', 'bool_'):
            return bool(value)
    except TypeError:  # pragma: no cover
        pass
    refuse('unknown_choice', op=op, name=name, value=repr(value), allowed='True, False')


def layout_of(op: str, layout: Any, ndim: Optional[int] = None) -> str:
    """`layout`, if it names the axes of an array with `ndim` spatial axes.

    Parameters
    ----------
    op : str
        The caller, for the message.
    layout : str
        N stands for the batch, C for the channels, D, H and W for the spatial axes.
    ndim : int, optional
        1, 2 or 3; without it, any of them.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If it is no such name.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> geometry.layout_of('my_layer', 'NHWC', ndim=2)
    'NHWC'
    >>> geometry.layout_of('my_layer', 'HWC', ndim=2)
    Traceback (most recent call last):
    ValueError: my_layer: layout='HWC' is unknown; allowed: 'NCHW', 'NHWC'
    """
    if ndim is not None:
        allowed = LAYOUTS[ndim]
    else:
        allowed = tuple(one for names in LAYOUTS.values() for one in names)
    return choice(op, 'layout', layout, allowed)


# --------------------------------------------------------------------------- whole argument sets


class Border(NamedTuple):
    """What windows see around the data.

    Parameters
    ----------
    before, after : tuple of int
        How many elements, for each spatial axis.
    mode : {'zeros', 'reflect', 'replicate', 'circular'}
        What they are.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> geometry.convolution_arguments('conv', 2, 1, 'same', 1, 8, 1, 'NCW').border
    Border(before=(0,), after=(1,), mode='zeros')
    """

    before: Ints
    after: Ints
    mode: str

    @property
    def pairs(self) -> Tuple[Ints, ...]:
        """The padding as users write it: a pair (before, behind) for each axis."""
        return tuple(zip(self.before, self.after))


class Convolution(NamedTuple):
    """Arguments of a convolution, checked and normalised; `convolution_arguments` makes it.

    Parameters
    ----------
    kernel, stride, dilate, pad : tuple of int
        One integer per spatial axis, in elements.
    channels : int
        Number of output channels.
    groups : int
        Number of separate convolutions that the channels are split into.
    layout : str
        Order of the axes of the data.
    algorithm : str
        The native backend's arithmetic, or 'auto'.
    border : Border, optional
        What is around the data, where `pad` zeros on both sides are not what was asked.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> arguments = geometry.convolution_arguments('conv', 3, 1, 1, 1, 8, 1, 'NCHW')
    >>> arguments.kernel, arguments.ndim
    ((3, 3), 2)
    >>> geometry.convolution_arguments('conv', 2, 1, 'same', 1, 8, 1, 'NCHW').padding
    ((0, 1), (0, 1))
    """

    kernel: Ints
    stride: Ints
    dilate: Ints
    pad: Ints
    channels: int
    groups: int
    layout: str
    algorithm: str = 'auto'
    border: Optional[Border] = None

    @property
    def ndim(self) -> int:
        """The number of spatial axes."""
        return len(self.kernel)

    @property
    def sides(self) -> Tuple[Ints, Ints]:
        """What is added before and behind the data, one value for each axis."""
        if self.border is None:
            return self.pad, self.pad
        # Users change the operator's `pad` after construction: its zeros come around the border.
        before, after = (
            tuple(map(sum, zip(self.pad, side))) for side in (self.border.before, self.border.after)
        )
        return before, after

    @property
    def padding(self) -> Tuple[Any, ...]:
        """As users write it: one value for each axis, or a pair where the sides differ."""
        before, after = self.sides
        return paired(before, None if after == before else after)


class ConvolutionTranspose(NamedTuple):
    """Arguments of a transposed convolution; `convolution_transpose_arguments` makes it.

    Parameters
    ----------
    kernel, stride, dilate, pad : tuple of int
        Those of the convolution whose adjoint this is; one integer per spatial axis, in elements.
    adj : tuple of int
        How many elements the output has beyond the least that such a convolution reads; -1 where
        it has one less, since padding='same' takes one more away behind than in front.
    channels : int
        Number of output channels.
    groups : int
        Number of separate convolutions that the channels are split into.
    layout : str
        Order of the axes of the data.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> arguments = geometry.convolution_transpose_arguments('up', 4, 2, 1, 0, 1, 8, 1, 'NCHW')
    >>> arguments.kernel, arguments.adj
    ((4, 4), (0, 0))
    >>> arguments = geometry.convolution_transpose_arguments('up', 3, 2, 'same', 0, 1, 8, 1, 'NCHW')
    >>> arguments.pad, arguments.adj, arguments.padding
    ((0, 0), (-1, -1), ((0, 1), (0, 1)))
    """

    kernel: Ints
    stride: Ints
    dilate: Ints
    pad: Ints
    adj: Ints
    channels: int
    groups: int
    layout: str

    @property
    def ndim(self) -> int:
        """The number of spatial axes."""
        return len(self.kernel)

    @property
    def cut(self) -> Ints:
        """How many elements are taken away behind beyond `pad`, which MXNet's operator cannot."""
        return tuple(max(0, -a) for a in self.adj)

    @property
    def padding(self) -> Tuple[Any, ...]:
        """What is taken away: one value for each axis, or a pair where the sides differ."""
        behind = tuple(map(sum, zip(self.pad, self.cut)))
        return paired(self.pad, None if behind == self.pad else behind)


AnyConvolution = Union[Convolution, ConvolutionTranspose]


class Sampling(NamedTuple):
    """Where a deformable convolution reads its data, as `deformable_arguments` returns it.

    Parameters
    ----------
    kernel, stride, dilate, pad : tuple of int
        Of the window before its elements are moved, one value per spatial axis.
    groups : int
        Into how many parts the input channels are split, each of which has offsets of its own.
    modulated : bool
        Whether each element is also multiplied by a mask. That decides what there is at the edges:
        without it (Dai et al., 2017, as MXNet computes it) the data ends at its last element, and
        elements read at less than 0 or from the size on are 0; with it (Zhu et al., 2018) the data
        is surrounded by zeros, between which and the outermost elements is interpolated.
    """

    kernel: Ints
    stride: Ints
    dilate: Ints
    pad: Ints
    groups: int
    modulated: bool

    @property
    def layout(self) -> str:
        """The order of the axes."""
        return 'NCHW'

    @property
    def ndim(self) -> int:
        """The number of spatial axes."""
        return len(self.kernel)


class Pooling(NamedTuple):
    """Arguments of a pooling, checked and normalised; `pooling_arguments` makes it.

    Parameters
    ----------
    kernel, stride, pad : tuple of int
        One integer per spatial axis, in elements.
    mode : {'max', 'avg', 'sum', 'lp'}
        What a window becomes.
    ceil_mode : bool
        Whether a last window counts that is only partly filled.
    count_include_pad : bool
        Whether 'avg' counts padded positions.
    p : {1, 2, 3}
        The power of 'lp'.
    global_pool : bool
        Whether there is one window over all of the data.
    layout : str
        Order of the axes of the data.
    behind : tuple of int, optional
        As `pad`, behind the data; None where that is the same, and else `pad` is what stands before
        it.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> arguments = geometry.pooling_arguments('pool', 2, None, 0, 'max')
    >>> arguments.stride, arguments.layout
    ((2, 2), 'NCHW')
    >>> geometry.pooling_arguments('pool', 2, 1, 'same', 'max').padding
    ((0, 1), (0, 1))
    """

    kernel: Ints
    stride: Ints
    pad: Ints
    mode: str
    ceil_mode: bool
    count_include_pad: bool
    p: int
    global_pool: bool
    layout: str
    behind: Optional[Ints] = None

    @property
    def ndim(self) -> int:
        """The number of spatial axes."""
        return len(self.kernel)

    @property
    def sides(self) -> Tuple[Ints, Ints]:
        """What is added before and behind the data, one value for each axis."""
        return self.pad, self.pad if self.behind is None else self.behind

    @property
    def padding(self) -> Tuple[Any, ...]:
        """As users write it: one value for each axis, or a pair where the sides differ."""
        return paired(self.pad, self.behind)


Arguments = Union[Convolution, ConvolutionTranspose, Pooling, Sampling]


def convolution_arguments(
    op: str,
    kernel_size: Any,
    strides: Any,
    padding: Any,
    dilation: Any,
    channels: Any,
    groups: Any,
    layout: Any,
    in_channels: Any = 0,
    ndim: Optional[int] = None,
    algorithm: Any = 'auto',
    padding_mode: Any = 'zeros',
) -> Convolution:
    """Check and normalise the arguments of a convolution.

    Parameters
    ----------
    op : str
        The caller, for messages.
    kernel_size, strides : int or tuple of int
        One value for all spatial axes or one per axis, in elements.
    padding : int, tuple of int, tuple of pairs or str
        The same, added on both sides; or a pair (before, behind) per axis; 'valid' for none; or
        'same' for as much as keeps the size with strides of 1: ``dilation * (kernel_size - 1)`` in
        all, the smaller half in front.
    dilation : int or tuple of int
        As `strides`.
    channels : int
        Number of output channels.
    groups : int
        Must divide both channel counts.
    layout : str
        Order of the axes of the data, such as 'NCHW'.
    in_channels : int
        Number of input channels; 0 where the data will decide it.
    ndim : int, optional
        How many spatial axes there must be; by default as many as `layout` has.
    algorithm : str
        One of `ALGORITHMS`.
    padding_mode : {'zeros', 'reflect', 'replicate', 'circular'}
        What the added elements are.

    Returns
    -------
    Convolution

    Raises
    ------
    TypeError, ValueError
        Naming the argument, its value and what is allowed.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> geometry.convolution_arguments('conv', (3, 5), 2, 1, 1, 8, 1, 'NCHW').stride
    (2, 2)
    >>> geometry.convolution_arguments('conv', 3, 0, 1, 1, 8, 1, 'NCHW')
    Traceback (most recent call last):
    ValueError: conv: strides=0, but every value must be at least 1
    """
    layout = layout_of(op, layout, ndim)
    ndim = len(layout) - 2
    kernel = per_axis(op, 'kernel_size', kernel_size, ndim, 1)
    stride = per_axis(op, 'strides', strides, ndim, 1)
    dilate = per_axis(op, 'dilation', dilation, ndim, 1)
    before, after = _both_sides(op, padding, tuple(map(extent, kernel, dilate)))
    mode = choice(op, 'padding_mode', padding_mode, PADDING_MODES)
    channels, groups = _channels(op, channels, groups, in_channels)
    algorithm = choice(op, 'algorithm', algorithm, ALGORITHMS)
    border = None
    if (before != after or mode != 'zeros') and any(before + after):
        border = Border(before, after, mode)
        before = (0,) * ndim
    return Convolution(kernel, stride, dilate, before, channels, groups, layout, algorithm, border)


def deformable_arguments(
    op: str,
    arguments: Convolution,
    num_deformable_group: Any,
    modulated: bool,
    in_channels: int = 0,
) -> Sampling:
    """Check and normalise what a deformable convolution has beyond an ordinary one.

    Parameters
    ----------
    op : str
        The caller, for messages.
    arguments : Convolution
        Those of the ordinary one.
    num_deformable_group : int
        Must divide the input channels.
    modulated : bool
        Whether there is a mask.
    in_channels : int
        Number of input channels; 0 where the data will decide it.

    Returns
    -------
    Sampling

    Raises
    ------
    TypeError, ValueError
        Naming the argument, its value and what is allowed.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> arguments = geometry.convolution_arguments('conv', 3, 1, 1, 1, 8, 1, 'NCHW')
    >>> geometry.deformable_arguments('deformable', arguments, 2, True, in_channels=3)
    Traceback (most recent call last):
    ValueError: deformable(num_deformable_group=2): in_channels=3 is not divisible by \
num_deformable_group
    """
    groups = integer(op, 'num_deformable_group', num_deformable_group, 1)
    layout = Sampling((), (), (), (), 1, False).layout
    if arguments.layout != layout:
        refuse('deformable_layout', op=op, layout=repr(arguments.layout), allowed=repr(layout))
    if in_channels % groups:
        refuse('deformable_channels', op=op, groups=groups, value=in_channels)
    kernel, stride, dilate, pad = arguments[:4]
    return Sampling(kernel, stride, dilate, pad, groups, modulated)


def check_sampling(
    op: str, sampling: Sampling, data: Ints, windows: Ints, offset: Ints, mask: Optional[Ints]
) -> None:
    """Refuse offsets and a mask whose shapes are not those that the data asks for.

    Parameters
    ----------
    op : str
        The caller, for messages.
    sampling : Sampling
    data : tuple of int
        Shape of the data.
    windows : tuple of int
        Spatial sizes of the output.
    offset, mask : tuple of int
        Their shapes; None where there is no mask.

    Raises
    ------
    ValueError
        Naming what has a wrong shape, and the one that is expected.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> sampling = geometry.Sampling((3, 3), (1, 1), (1, 1), (1, 1), 1, False)
    >>> geometry.check_sampling('f', sampling, (2, 4, 5, 6), (5, 6), (2, 18, 5, 6), None)
    """
    if data[1] % sampling.groups:
        refuse('deformable_channels', op=op, groups=sampling.groups, value=data[1])
    for name, shape in (('offset', offset), ('mask', mask)):
        each, count = numbers_of_places(sampling, name)
        expected = (data[0], count, *windows)
        if shape is not None and shape != expected:
            refuse('deformable_input', op=op, name=name, shape=shape, expected=expected, each=each)


def numbers_of_places(sampling: Sampling, name: str) -> Tuple[str, int]:
    """How many numbers 'offset' or 'mask' has for each place, in words, and for all of a window."""
    taps = sampling.kernel[0] * sampling.kernel[1] * sampling.groups
    return ('two numbers', 2 * taps) if name == 'offset' else ('one number', taps)


def _channels(op: str, channels: Any, groups: Any, in_channels: Any) -> Ints:
    channels = integer(op, 'channels', channels, 1)
    groups = integer(op, 'groups', groups, 1)
    in_channels = integer(op, 'in_channels', in_channels, 0)
    for name, value in (('channels', channels), ('in_channels', in_channels)):
        if value % groups:
            refuse('channels_not_divisible', op=op, groups=groups, name=name, value=value)
    return channels, groups


def border(op: str, padding: Any, padding_mode: Any, ndim: int) -> Border:
    """Check and normalise what is to be put around data.

    Parameters
    ----------
    op : str
        The caller, for messages.
    padding : int, tuple of int or tuple of pairs
        Elements on both sides of all axes or of each, or a pair (before, behind) for each.
    padding_mode : {'zeros', 'reflect', 'replicate', 'circular'}
        What they are.
    ndim : int
        How many spatial axes there are.

    Returns
    -------
    Border

    Raises
    ------
    TypeError, ValueError
        Naming the argument, its value and what is allowed.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> geometry.border('pad', ((1, 2), (0, 3)), 'reflect', 2)
    Border(before=(1, 0), after=(2, 3), mode='reflect')
    """
    if isinstance(padding, str):
        raise TypeError(message('not_integer', op=op, name='padding', value=repr(padding)))
    before, after = _both_sides(op, padding, (1,) * ndim)
    return Border(before, after, choice(op, 'padding_mode', padding_mode, PADDING_MODES))


def bordered_shape(around: Border, data: Ints, layout: str, op: str = 'pad') -> Ints:
    """The shape of data of shape `data` with `around` around it, if that can be made of it."""
    batch, channels, sizes = split_shape(op, data, layout)
    return _checked_size(op, join_shape(batch, channels, _bordered(op, sizes, around), layout))


def _both_sides(op: str, padding: Any, extents: Ints) -> Tuple[Ints, Ints]:
    """What `padding` adds before and behind each axis."""
    ndim = len(extents)
    if isinstance(padding, str):
        if choice(op, 'padding', padding, ('same', 'valid')) == 'valid':
            return (0,) * ndim, (0,) * ndim
        before = tuple((one - 1) // 2 for one in extents)
        return before, tuple(one - 1 - b for one, b in zip(extents, before))
    if not isinstance(padding, (tuple, list)) or not any(
        isinstance(one, (tuple, list)) for one in padding
    ):
        pad = per_axis(op, 'padding', padding, ndim, 0)
        return pad, pad
    if len(padding) != ndim or any(
        not isinstance(one, (tuple, list)) or len(one) != 2 for one in padding
    ):
        refuse('padding_pairs', op=op, value=repr(padding), ndim=ndim)
    first, last = (
        tuple(_integer(op, 'padding', one[side], padding) for one in padding) for side in (0, 1)
    )
    if min(first + last) < 0:
        refuse('below_minimum', op=op, name='padding', value=repr(padding), minimum=0)
    return first, last


def paired(pad: Ints, behind: Optional[Ints]) -> Tuple[Any, ...]:
    """Padding as users write it: `pad`, or pairs of it with what is `behind` the data."""
    return pad if behind is None else tuple(zip(pad, behind))


def convolution_transpose_arguments(
    op: str,
    kernel_size: Any,
    strides: Any,
    padding: Any,
    output_padding: Any,
    dilation: Any,
    channels: Any,
    groups: Any,
    layout: Any,
    in_channels: Any = 0,
    ndim: Optional[int] = None,
) -> ConvolutionTranspose:
    """Check and normalise the arguments of a transposed convolution.

    Parameters
    ----------
    op : str
        The caller, for messages.
    kernel_size, strides : int or tuple of int
        Those of the convolution whose adjoint this is: one value for all spatial axes or one per
        axis, in elements.
    padding : int, tuple of int or str
        The same, taken away on both sides; 'valid' for none; or 'same' for what is beyond the size
        of the data times the strides, the smaller half in front. Where less than that is there, it
        is `output_padding` instead.
    output_padding : int or tuple of int
        Elements that the output has beyond the least; smaller than the strides, and 0 with 'same'.
    dilation : int or tuple of int
        As `strides`.
    channels : int
        Number of output channels.
    groups : int
        Must divide both channel counts.
    layout : str
        Order of the axes of the data, such as 'NCHW'.
    in_channels : int
        Number of input channels; 0 where the data will decide it.
    ndim : int, optional
        How many spatial axes there must be; by default as many as `layout` has.

    Returns
    -------
    ConvolutionTranspose

    Raises
    ------
    TypeError, ValueError
        Naming the argument, its value and what is allowed.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> geometry.convolution_transpose_arguments('up', 3, 2, 1, 1, 1, 8, 1, 'NCHW').adj
    (1, 1)
    >>> geometry.convolution_transpose_arguments('up', 3, 2, 1, 2, 1, 8, 1, 'NCHW')
    Traceback (most recent call last):
    ValueError: up: output_padding=(2, 2) must be smaller than strides=(2, 2) on every axis
    """
    layout = layout_of(op, layout, ndim)
    ndim = len(layout) - 2
    kernel = per_axis(op, 'kernel_size', kernel_size, ndim, 1)
    stride = per_axis(op, 'strides', strides, ndim, 1)
    adj = per_axis(op, 'output_padding', output_padding, ndim, 0)
    dilate = per_axis(op, 'dilation', dilation, ndim, 1)
    if any(a >= s for a, s in zip(adj, stride)):
        refuse('output_padding_not_smaller', op=op, output_padding=adj, strides=stride)
    pad = (0,) * ndim
    if not isinstance(padding, str):
        pad = per_axis(op, 'padding', padding, ndim, 0)
    elif choice(op, 'padding', padding, ('same', 'valid')) == 'same':
        if any(adj):
            refuse('output_padding_of_same', op=op, output_padding=adj)
        beyond = tuple(extent(k, d) - s for k, d, s in zip(kernel, dilate, stride))
        pad = tuple(max(0, n) // 2 for n in beyond)
        adj = tuple(2 * p - n for p, n in zip(pad, beyond))
    channels, groups = _channels(op, channels, groups, in_channels)
    return ConvolutionTranspose(kernel, stride, dilate, pad, adj, channels, groups, layout)


def pooling_arguments(
    op: str,
    pool_size: Any,
    strides: Any,
    padding: Any,
    mode: Any,
    ceil_mode: Any = False,
    count_include_pad: Any = True,
    p: Any = 2,
    global_pool: Any = False,
    layout: Any = 'NCHW',
    ndim: Optional[int] = None,
) -> Pooling:
    """Check and normalise the arguments of a pooling.

    Parameters
    ----------
    op : str
        The caller, for messages.
    pool_size : int or tuple of int
        One value for all spatial axes or one per axis, in elements.
    strides : int or tuple of int, optional
        The same; None means `pool_size`.
    padding : int, tuple of int, tuple of pairs or str
        The same; added on both sides, and smaller than the window. Or as in
        `convolution_arguments`: a pair (before, behind) per axis, 'valid', or 'same'.
    mode : {'max', 'avg', 'sum', 'lp'}
        What a window becomes.
    ceil_mode : bool
        Also keep a last window that is only partly filled; only for equal padding on both sides.
    count_include_pad : bool, optional
        Whether 'avg' counts padded positions. None means True, as it does to MXNet.
    p : {1, 2, 3}
        The power of 'lp'.
    global_pool : bool
        One window over all of the data.
    layout : str
        Order of the axes of the data.
    ndim : int, optional
        How many spatial axes there must be; by default as many as `layout` has.

    Returns
    -------
    Pooling

    Raises
    ------
    TypeError, ValueError
        Naming the argument, its value and what is allowed.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> geometry.pooling_arguments('pool', 3, 2, 1, 'avg').pad
    (1, 1)
    >>> geometry.pooling_arguments('pool', 2, 2, 2, 'avg')
    Traceback (most recent call last):
    ValueError: pool: padding=(2, 2) must be smaller than pool_size=(2, 2) on every axis
    """
    layout = layout_of(op, layout, ndim)
    ndim = len(layout) - 2
    mode = choice(op, 'mode', mode, POOL_MODES)
    kernel = per_axis(op, 'pool_size', pool_size, ndim, 1)
    stride = kernel if strides is None else per_axis(op, 'strides', strides, ndim, 1)
    pad, after = _both_sides(op, padding, kernel)
    global_pool = flag(op, 'global_pool', global_pool)
    behind = None if global_pool or after == pad else after
    shown = paired(pad, behind)
    if not global_pool and any(max(b, a) >= k for b, a, k in zip(pad, after, kernel)):
        refuse('padding_not_smaller', op=op, padding=shown, pool_size=kernel)
    ceil_mode = flag(op, 'ceil_mode', ceil_mode)
    if ceil_mode and behind is not None:
        refuse('ceil_mode_sides', op=op, padding=shown)
    count_include_pad = count_include_pad is None or flag(
        op, 'count_include_pad', count_include_pad
    )
    if mode == 'lp':
        p = choice(op, 'p', p, LP_POWERS)
    return Pooling(
        kernel, stride, pad, mode, ceil_mode, count_include_pad, p, global_pool, layout, behind
    )


# --------------------------------------------------------------------------- shapes


def extent(kernel: int, dilation: int = 1) -> int:
    """How many elements a window spans on one axis, holes included.

    Parameters
    ----------
    kernel : int
        How many of them it reads.
    dilation : int
        The step from one to the next.

    Returns
    -------
    int
        ``dilation * (kernel - 1) + 1``

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> geometry.extent(3), geometry.extent(3, dilation=2)
    (3, 5)
    """
    return dilation * (kernel - 1) + 1


def output_size(
    n: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1, ceil: bool = False
) -> int:
    """How many windows fit on one axis of `n` elements.

    Parameters
    ----------
    n : int
        Elements of the axis, without padding.
    kernel : int
        How many elements a window reads.
    stride : int
        The step from one window to the next.
    padding : int
        Elements added on either side: `padding` before the first and as many behind the last.
    dilation : int
        The step from one element of a window to the next.
    ceil : bool
        Also count a last window that is only partly filled.

    Returns
    -------
    int
        ``floor((n + 2 * padding - extent) / stride) + 1``, with `ceil` rounded up instead of down.
        Less than 1 where no window fits.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> geometry.output_size(8, kernel=3, stride=2, padding=1)
    4
    >>> geometry.output_size(8, kernel=3, stride=2), geometry.output_size(8, 3, 2, ceil=True)
    (3, 4)
    """
    room = n + 2 * padding - extent(kernel, dilation)
    return (-(-room // stride) if ceil else room // stride) + 1


def split_shape(op: str, shape: Ints, layout: str) -> Tuple[int, int, Ints]:
    """Batch size, channels and spatial sizes of an array.

    Parameters
    ----------
    op : str
        The caller, for the message.
    shape : tuple of int
    layout : str
        Which axis is which.

    Returns
    -------
    batch, channels : int
    sizes : tuple of int
        One for each spatial axis.

    Raises
    ------
    ValueError
        If `shape` has another number of axes than `layout`.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> geometry.split_shape('my_layer', (2, 3, 28, 32), 'NCHW')
    (2, 3, (28, 32))
    >>> geometry.split_shape('my_layer', (2, 28, 32, 3), 'NHWC')
    (2, 3, (28, 32))
    """
    if len(shape) != len(layout):
        refuse('wrong_axes', op=op, layout=layout, shape=shape, expected=len(layout))
    if layout[1] == 'C':
        return shape[0], shape[1], shape[2:]
    return shape[0], shape[-1], shape[1:-1]


def join_shape(batch: int, channels: int, sizes: Ints, layout: str) -> Ints:
    """The shape of an array, from its parts: the inverse of `split_shape`.

    Parameters
    ----------
    batch, channels : int
    sizes : tuple of int
        One for each spatial axis.
    layout : str
        Which axis is which.

    Returns
    -------
    tuple of int

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> geometry.join_shape(2, 3, (28, 32), 'NHWC')
    (2, 28, 32, 3)
    """
    if layout[1] == 'C':
        return (batch, channels) + tuple(sizes)
    return (batch,) + tuple(sizes) + (channels,)


def _transposed(arguments: AnyConvolution) -> bool:
    return isinstance(arguments, ConvolutionTranspose)


def free_axis(arguments: AnyConvolution) -> int:
    """The axis of a weight whose size follows from the data."""
    return 0 if _transposed(arguments) else arguments.layout.index('C')


def weight_shape(arguments: AnyConvolution, in_channels: int) -> Ints:
    """The shape of the weight of a convolution or a transposed one.

    Parameters
    ----------
    arguments : Convolution or ConvolutionTranspose
    in_channels : int
        Channels of the data; 0 or -1, for unknown, stays in the shape as it is.

    Returns
    -------
    tuple of int
        In the order of the layout, with output channels in the place of N and those of the input
        in that of C; the other way round if it is transposed.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> arguments = geometry.convolution_arguments('conv', 3, 1, 1, 1, 8, 2, 'NHWC')
    >>> geometry.weight_shape(arguments, in_channels=4)
    (8, 3, 3, 2)
    """
    if _transposed(arguments):
        outer = arguments.channels // arguments.groups
        return join_shape(in_channels, outer, arguments.kernel, arguments.layout)
    inner = in_channels // arguments.groups if in_channels > 0 else in_channels
    return join_shape(arguments.channels, inner, arguments.kernel, arguments.layout)


def _window_outputs(
    op: str,
    sizes: Ints,
    kernel: Ints,
    stride: Ints,
    sides: Tuple[Ints, Ints],
    dilate: Ints,
    ceil: bool,
    shown: Tuple[Any, ...],
) -> Ints:
    """How many windows there are along each axis; `shown` is the padding as a message has it."""
    padded = tuple(map(sum, zip(sizes, *sides)))
    zeros = (0,) * len(sizes)
    out = tuple(map(output_size, padded, kernel, stride, zeros, dilate, (ceil,) * len(sizes)))
    extents = tuple(map(extent, kernel, dilate))
    if any(e > n for e, n in zip(extents, padded)):
        refuse(
            'kernel_too_large',
            op=op,
            kernel_size=kernel,
            dilation=dilate,
            padding=shown,
            extent=extents,
            padded=padded,
        )
    return out


def _checked_size(op: str, shape: Ints) -> Ints:
    if math.prod(shape) > LARGEST_ARRAY:
        refuse('too_large', op=op, shape=shape)
    return shape


def weight_text(arguments: AnyConvolution, inner: str) -> str:
    """The shape of the weight as a person reads it, with words for what the data decides."""
    sizes = weight_shape(arguments, 0)
    axis = free_axis(arguments)
    return '({})'.format(', '.join(inner if i == axis else str(n) for i, n in enumerate(sizes)))


def check_weight(arguments: AnyConvolution, weight: Ints, op: str = 'convolution') -> None:
    """Refuse a weight of a wrong shape; its input channels are left to the data.

    Parameters
    ----------
    arguments : Convolution or ConvolutionTranspose
    weight : tuple of int
        Its shape.
    op : str
        The caller, for the message.

    Raises
    ------
    ValueError
        If it has other axes, output channels or window sizes than `arguments`.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> arguments = geometry.convolution_arguments('conv', 3, 1, 1, 1, 8, 1, 'NCHW')
    >>> geometry.check_weight(arguments, (8, 4, 3, 3))
    >>> geometry.check_weight(arguments, (8, 4, 5, 5))
    Traceback (most recent call last):
    ValueError: convolution: weight has shape (8, 4, 5, 5); expected (8, in_channels / groups, 3, 3)
    """
    axis = free_axis(arguments)
    known = weight_shape(arguments, 0)
    fits = weight[:axis] + weight[axis + 1 :] == known[:axis] + known[axis + 1 :]
    if len(weight) != len(known) or not fits:
        words = 'in_channels' if _transposed(arguments) else 'in_channels / groups'
        expected = weight_text(arguments, words)
        refuse('weight_shape', op=op, weight_shape=weight, expected=expected)


def check_bias(arguments: AnyConvolution, bias: Ints, op: str = 'convolution') -> None:
    """Refuse a bias of a wrong shape.

    Parameters
    ----------
    arguments : Convolution or ConvolutionTranspose
    bias : tuple of int
        Its shape.
    op : str
        The caller, for the message.

    Raises
    ------
    ValueError
        If it is not one number for each output channel.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> arguments = geometry.convolution_arguments('conv', 3, 1, 1, 1, 8, 1, 'NCHW')
    >>> geometry.check_bias(arguments, (4,))
    Traceback (most recent call last):
    ValueError: convolution: bias has shape (4,); expected (8,)
    """
    if bias != (arguments.channels,):
        refuse('bias_shape', op=op, bias_shape=bias, expected=(arguments.channels,))


def convolution_shape(
    arguments: Convolution,
    data: Ints,
    weight: Optional[Ints] = None,
    bias: Optional[Ints] = None,
    op: str = 'convolution',
) -> Ints:
    """The shape of a convolution's output.

    Parameters
    ----------
    arguments : Convolution
    data : tuple of int
        Shape of the data.
    weight, bias : tuple of int, optional
        Shapes of the parameters, to be checked too. Unknown sizes in `weight` are 0 or -1.
    op : str
        The caller, for messages.

    Returns
    -------
    tuple of int

    Raises
    ------
    ValueError
        If the shapes don't fit each other, or the output would have 2^31 elements or more.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> arguments = geometry.convolution_arguments('conv', 3, 2, 1, 1, 8, 1, 'NCHW')
    >>> geometry.convolution_shape(arguments, (2, 3, 28, 32))
    (2, 8, 14, 16)
    """
    batch, channels, sizes = split_shape(op, data, arguments.layout)
    if weight is not None:
        check_weight(arguments, weight, op)
        inner = weight[arguments.layout.index('C')]
        if inner > 0 and inner * arguments.groups != channels:
            refuse(
                'channels_mismatch',
                op=op,
                data_channels=channels,
                weight_shape=weight,
                groups=arguments.groups,
            )
    if channels < 1:
        refuse('below_minimum', op=op, name='in_channels', value=channels, minimum=1)
    if channels % arguments.groups:
        refuse(
            'channels_not_divisible',
            op=op,
            groups=arguments.groups,
            name='in_channels',
            value=channels,
        )
    if bias is not None:
        check_bias(arguments, bias, op)
    if arguments.border is not None:
        sizes = _bordered(op, sizes, arguments.border)
    out = _window_outputs(
        op,
        sizes,
        arguments.kernel,
        arguments.stride,
        (arguments.pad, arguments.pad),
        arguments.dilate,
        False,
        arguments.padding,
    )
    return _checked_size(op, join_shape(batch, arguments.channels, out, arguments.layout))


def least_for_border(border: Border) -> Ints:
    """How many elements each axis of the data must have so that the border can be made of them."""
    extra = {'zeros': None, 'replicate': 0, 'reflect': 1, 'circular': 0}[border.mode]
    if extra is None:
        return (0,) * len(border.before)
    copied = (0,) * len(border.before) if border.mode == 'replicate' else map(max, *border[:2])
    return tuple(max(1, n + extra) for n in copied)


def _bordered(op: str, sizes: Ints, border: Border) -> Ints:
    least = least_for_border(border)
    if any(n < one for n, one in zip(sizes, least)):
        refuse(
            'border_too_large',
            op=op,
            padding=border.pairs,
            mode=repr(border.mode),
            least=least,
            sizes=sizes,
        )
    return tuple(n + b + a for n, b, a in zip(sizes, border.before, border.after))


def without_border(arguments: Convolution, data: Ints) -> Tuple[Convolution, Ints]:
    """The same convolution of data around which the border has already been put.

    Parameters
    ----------
    arguments : Convolution
    data : tuple of int
        Shape of the data without it.

    Returns
    -------
    arguments : Convolution
    data : tuple of int
        Shape of the data with it.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> arguments = geometry.convolution_arguments('conv', 3, 1, ((2, 0),), 1, 8, 1, 'NCW')
    >>> bare, shape = geometry.without_border(arguments, (1, 4, 10))
    >>> bare.border, shape
    (None, (1, 4, 12))
    """
    if arguments.border is None:
        return arguments, data
    shape = bordered_shape(arguments.border, data, arguments.layout, 'convolution')
    return arguments._replace(border=None), shape


def least_for_transposed(arguments: ConvolutionTranspose) -> Ints:
    """How many elements each axis of the data must have so that the output has one."""
    return tuple(
        # n with (n - 1) * s + extent + adj - 2 * p >= 1
        max(1, 1 - (extent(k, d) + a - 2 * p - 1) // s)
        for k, d, a, p, s in zip(
            arguments.kernel, arguments.dilate, arguments.adj, arguments.pad, arguments.stride
        )
    )


def convolution_transpose_shape(
    arguments: ConvolutionTranspose,
    data: Ints,
    weight: Optional[Ints] = None,
    bias: Optional[Ints] = None,
    op: str = 'convolution_transpose',
) -> Ints:
    """The shape of a transposed convolution's output.

    Parameters
    ----------
    arguments : ConvolutionTranspose
    data : tuple of int
        Shape of the data.
    weight, bias : tuple of int, optional
        Shapes of the parameters, to be checked too. Unknown sizes in `weight` are 0 or -1.
    op : str
        The caller, for messages.

    Returns
    -------
    tuple of int
        Along an axis of n elements
        ``(n - 1) * stride - 2 * pad + dilate * (kernel - 1) + adj + 1``.

    Raises
    ------
    ValueError
        If the shapes don't fit each other, nothing would be left of the output, or it would have
        2^31 elements or more.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> arguments = geometry.convolution_transpose_arguments('up', 4, 2, 1, 0, 1, 8, 1, 'NCHW')
    >>> geometry.convolution_transpose_shape(arguments, (2, 3, 14, 16))
    (2, 8, 28, 32)
    """
    batch, channels, sizes = split_shape(op, data, arguments.layout)
    if weight is not None:
        check_weight(arguments, weight, op)
        if weight[0] > 0 and weight[0] != channels:
            refuse(
                'channels_mismatch_transposed',
                op=op,
                data_channels=channels,
                weight_shape=weight,
            )
    if channels < 1:
        refuse('below_minimum', op=op, name='in_channels', value=channels, minimum=1)
    if channels % arguments.groups:
        refuse(
            'channels_not_divisible',
            op=op,
            groups=arguments.groups,
            name='in_channels',
            value=channels,
        )
    if bias is not None:
        check_bias(arguments, bias, op)
    least = least_for_transposed(arguments)
    if any(n < one for n, one in zip(sizes, least)):
        refuse('nothing_left', op=op, padding=arguments.pad, least=least, sizes=sizes)
    out = tuple(
        (n - 1) * s - 2 * p + extent(k, d) + a for n, k, s, d, p, a in zip(sizes, *arguments[:5])
    )
    return _checked_size(op, join_shape(batch, arguments.channels, out, arguments.layout))


def refuse_algorithm(arguments: Convolution, data: Ints, op: str = 'convolution') -> NoReturn:
    """Raise the `ValueError` of a forced algorithm that cannot compute this convolution."""
    refuse(
        'algorithm_unfit',
        op=op,
        algorithm=repr(arguments.algorithm),
        kernel_size=arguments.kernel,
        strides=arguments.stride,
        dilation=arguments.dilate,
        groups=arguments.groups,
        shape=data,
        needs=MESSAGES['needs_' + arguments.algorithm],
    )


def pooling_shape(arguments: Pooling, data: Ints, op: str = 'pooling') -> Ints:
    """The shape of a pooling's output.

    Parameters
    ----------
    arguments : Pooling
    data : tuple of int
        Shape of the data.
    op : str
        The caller, for messages.

    Returns
    -------
    tuple of int

    Raises
    ------
    ValueError
        If the data has the wrong number of axes or is smaller than the window, or the output would
        have 2^31 elements or more.

    Examples
    --------
    >>> from gluon_convpool import geometry
    >>> arguments = geometry.pooling_arguments('pool', 2, None, 0, 'max')
    >>> geometry.pooling_shape(arguments, (2, 3, 28, 33))
    (2, 3, 14, 16)
    """
    batch, channels, sizes = split_shape(op, data, arguments.layout)
    ones = (1,) * len(sizes)
    if arguments.global_pool:
        zeros = (0,) * len(sizes)
        _window_outputs(op, sizes, ones, ones, (zeros, zeros), ones, False, zeros)
        out = ones
    else:
        out = _window_outputs(
            op,
            sizes,
            arguments.kernel,
            arguments.stride,
            arguments.sides,
            ones,
            arguments.ceil_mode,
            arguments.padding,
        )
    return _checked_size(op, join_shape(batch, channels, out, arguments.layout))


def columns_shape(arguments: Convolution, data: Ints, op: str = 'unfold') -> Ints:
    """The shape of the windows of `data` as columns, if there can be such an array."""
    batch, channels, _ = split_shape(op, data, arguments.layout)
    windows = convolution_shape(arguments, data, op=op)
    _, _, sizes = split_shape(op, windows, arguments.layout)
    return _checked_size(op, (batch, channels * math.prod(arguments.kernel), math.prod(sizes)))


def images_shape(batch: int, channels: int, sizes: Ints, layout: str, op: str) -> Ints:
    """The shape of images of spatial `sizes`, if there can be such an array."""
    return _checked_size(op, join_shape(batch, channels, sizes, layout))


def adaptive_shape(
    output_size: Ints, mode: str, data: Ints, layout: str, op: str = 'adaptive_pooling'
) -> Ints:
    """The shape of an adaptive pooling's output, if it can be computed.

    From the last axis to the first, an average takes a matrix of windows and elements, and a
    maximum all elements once for each window.
    """
    batch, channels, sizes = split_shape(op, data, layout)
    if 0 in sizes:
        refuse('nothing_to_pool', op=op, sizes=sizes)
    shape = images_shape(batch, channels, output_size, layout, op)
    for axis in range(len(sizes) - 1, -1, -1):
        inside: Ints = (output_size[axis], sizes[axis])
        if mode == 'max':
            done = output_size[axis + 1 :]
            inside = (batch, channels, *sizes[:axis], *done, *inside)
        if math.prod(inside) > LARGEST_ARRAY:
            words = {'output_size': output_size, 'shape': data, 'inside': inside}
            refuse('too_large_inside', op=op, **words)
    return shape


# --------------------------------------------------------------------------- receptive fields


class ReceptiveField(NamedTuple):
    """What the elements of a layer's output see of the input, along one axis.

    Element ``i`` sees the input's elements from ``start + i * jump`` on, `size` of them. A negative
    `start` lies in the padding.

    Attributes
    ----------
    size : int
        From the first to the last element that is seen, holes of dilated windows included.
    jump : int
        How far the fields of neighbouring elements are apart.
    start : int
        Where the field of element 0 begins.
    """

    size: int = 1
    jump: int = 1
    start: int = 0

    def behind(
        self, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
    ) -> ReceptiveField:
        """The field of a layer that slides a window over elements with this field.

        Examples
        --------
        >>> field = ReceptiveField().behind(kernel=5, padding=2).behind(kernel=2, stride=2)
        >>> field
        ReceptiveField(size=6, jump=2, start=-2)
        >>> field.centre(0)
        0.5
        """
        return ReceptiveField(
            self.size + (extent(kernel, dilation) - 1) * self.jump,
            self.jump * stride,
            self.start - padding * self.jump,
        )

    def first(self, index: int) -> int:
        """The first input element that output element `index` sees; negative in the padding."""
        return self.start + index * self.jump

    def centre(self, index: int) -> float:
        """The middle of what output element `index` sees, in input elements."""
        return self.first(index) + (self.size - 1) / 2
