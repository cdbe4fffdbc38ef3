"""Convolution and pooling as functions of arrays or symbols.

All take ``mx.np`` arrays, legacy ``mx.nd`` arrays and symbols of either world, and return the
same kind. Everything is checked before anything is computed.
"""

from __future__ import annotations

import math
from typing import Any, Dict, Iterable, Optional, Sequence, Tuple

from . import backends, geometry
from ._mxnet import Kind, kind_of, mx, to_world

__all__ = [
    'adaptive_pooling',
    'convolution',
    'convolution_transpose',
    'corr2d',
    'deformable_convolution',
    'fold',
    'max_pooling_with_indices',
    'max_unpooling',
    'pad',
    'pool2d',
    'pooling',
    'unfold',
]

DTYPES = ('float32', 'float64', 'float16')
INTEGERS = ('int8', 'uint8', 'int32')
# What float64 does not hold, and pooling alone takes.
LONG_INTEGERS = ('int64',)
# Of indices, the number of an element within its plane.
PLACES = ('int32', 'int64')
# What arrays of these dtypes are computed in. Every integer of 32 bits is a float64, and so is the
# sum of two million of them.
COMPUTED_IN = {'float16': 'float32', **dict.fromkeys(INTEGERS, 'float64')}


# --------------------------------------------------------------------------- checks


def _kind(op: str, **inputs: Any) -> Kind:
    """The one kind of all inputs; only a bias may be None."""
    kinds = {
        name: kind_of(value)
        for name, value in inputs.items()
        if value is not None or name != 'bias'
    }
    for name, kind in kinds.items():
        if kind is None:
            raise TypeError(
                f'{op}: {name} must be an array or a symbol of MXNet, not'
                f' {type(inputs[name]).__name__}'
            )
    found = set(kinds.values())
    if len(found) != 1:
        described = ', '.join(f'{name}: {kind.name}' for name, kind in kinds.items() if kind)
        raise TypeError(geometry.message('mixed_kinds', op=op, kinds=described))
    kind = found.pop()
    assert kind is not None
    return kind


_DTYPE_NAMES: Dict[Any, str] = {}


def dtype_name(dtype: Any) -> str:
    """'float32' for `numpy.float32`, ``numpy.dtype('float32')`` and 'float32' alike."""
    name = _DTYPE_NAMES.get(dtype)
    if name is None:
        name = _DTYPE_NAMES[dtype] = getattr(dtype, '__name__', None) or str(dtype)
    return name


def check_arrays(
    op: str, arrays: Iterable[Any], allowed: Tuple[str, ...] = DTYPES
) -> Tuple[str, str]:
    """The one dtype, out of `allowed`, and the one device type ('cpu', 'gpu') of `arrays`.

    Raises
    ------
    TypeError
        For an unsupported dtype.
    ValueError
        For dtypes or devices that differ.
    """
    arrays = list(arrays)
    dtypes = [dtype_name(array.dtype) for array in arrays]
    if len(set(dtypes)) > 1:
        geometry.refuse('mixed_dtypes', op=op, dtypes=', '.join(dtypes))
    _check_dtype(op, allowed, dtypes[0])
    return dtypes[0], _check_devices(op, arrays)


def _check_devices(op: str, arrays: Sequence[Any]) -> str:
    """The one device type of `arrays`."""
    device = arrays[0].ctx
    if any(array.ctx != device for array in arrays[1:]):
        devices = ', '.join(str(array.ctx) for array in arrays)
        geometry.refuse('mixed_devices', op=op, devices=devices)
    return device.device_type


def check_pooled(arguments: geometry.Pooling, x: Any) -> Tuple[str, str]:
    """As `check_arrays`, for the data of a pooling, which may be integers."""
    dtype, device = check_arrays('pooling', (x,), DTYPES + INTEGERS + LONG_INTEGERS)
    _check_dtype(*_pooled(arguments), dtype)
    return dtype, device


def _pooled(arguments: geometry.Pooling) -> Tuple[str, Tuple[str, ...]]:
    """What a pooling is called in messages about dtypes, and those that it takes."""
    if arguments.mode == 'lp':
        return "pooling(mode='lp')", DTYPES
    return 'pooling', DTYPES + INTEGERS + LONG_INTEGERS


def _check_dtype(op: str, allowed: Tuple[str, ...], dtype: str) -> None:
    if dtype not in allowed:
        words = ', '.join(allowed)
        raise TypeError(geometry.message('unsupported_dtype', op=op, dtype=dtype, allowed=words))


def _dtype_in_graph(x: Any) -> Optional[str]:
    """The dtype that a symbol has if the variables that it comes from have theirs.

    Which need not be so: MXNet's parameters keep a variable of the dtype that they had before a
    cast.
    """
    try:
        found = to_world(x, False).infer_type_partial()[1]
    except mx.base.MXNetError:
        return None
    return None if not found or found[0] is None else dtype_name(found[0])


def _checked_in_graph(
    op: str,
    x: Any,
    kind: Kind,
    dtype: Optional[str],
    allowed: Tuple[str, ...],
    unknown: Tuple[str, ...] = ('float32', 'float64'),
) -> Tuple[Any, Optional[str]]:
    """The symbol `x` and its dtype, for what is composed of operators that take any.

    `dtype` is what its data is said to be; without it, what the graph says. When the data comes, it
    is checked: those of `unknown` are computed alike, whichever is said, and others only if they
    are said.
    """
    dtype = dtype or _dtype_in_graph(x)
    if dtype is not None:
        _check_dtype(op, allowed, dtype)
    said = None if dtype in unknown else dtype
    key = 'unsupported_dtype' if unknown == allowed else 'graph_dtype'
    return backends.portable.with_checked_dtype(x, kind, op, said, unknown, key), dtype


# --------------------------------------------------------------------------- checked calls


def _call_with_weight(
    op: str,
    x: Any,
    weight: Any,
    bias: Optional[Any],
    arguments: geometry.AnyConvolution,
    kind: Kind,
    dtype: Optional[str],
    device: Optional[str],
    name: Optional[str],
    adds: Tuple[Optional[bool], ...],
) -> Any:
    if kind.symbol:
        x, dtype = _like_the_weight(op, x, weight, arguments, kind, dtype)
    wide = COMPUTED_IN.get(dtype or '')
    if wide is None:
        backend = backends.choose(op, arguments, dtype, device)
        return getattr(backend, op)(x, weight, bias, arguments, kind, name, adds)
    cast = backends.composition().cast
    x, weight = cast(x, wide, kind), cast(weight, wide, kind)
    bias = None if bias is None else cast(bias, wide, kind)
    # the casts, which are MXNet's, add where that is asked for
    alone = (False, False, False)
    out = _call_with_weight(op, x, weight, bias, arguments, kind, wide, device, None, alone)
    return cast(out, dtype, kind, name)


def _like_the_weight(
    op: str, x: Any, weight: Any, arguments: geometry.Arguments, kind: Kind, dtype: Optional[str]
) -> Tuple[Any, Optional[str]]:
    """The symbol `x`, checked to be of the dtype of its weight, and that dtype, if it is known.

    The native operators check it themselves, but not what is cast for them, and take float16 that
    nobody told of; the portable backend does not. `dtype` is that of a parameter; of another weight
    only what is cast is asked for.
    """
    portable = backends.portable
    known, dtype = dtype is not None, dtype or _dtype_in_graph(weight)
    if dtype is not None:
        _check_dtype(op, DTYPES, dtype)
    if dtype is None or (not known and dtype not in COMPUTED_IN):
        if backends.choose(op, arguments, dtype) is portable:
            x = portable.with_checked_dtype(x, kind, op, None, ('float32', 'float64'))
        return x, None
    if dtype not in COMPUTED_IN and backends.choose(op, arguments, dtype) is backends.native:
        return x, dtype
    dtypes = f'... (data), {dtype} (weight)'
    check = portable.with_checked_dtype
    return check(x, kind, op, dtype, DTYPES, 'mixed_dtypes', dtypes=dtypes), dtype


def call_convolution(
    x: Any,
    weight: Any,
    bias: Optional[Any],
    arguments: geometry.Convolution,
    kind: Kind,
    dtype: Optional[str],
    device: Optional[str],
    name: Optional[str] = None,
    adds: Tuple[Optional[bool], ...] = (None, None, None),
) -> Any:
    """Hand a checked convolution to a backend.

    `dtype` and `device` are None where unknown, and so is each of `adds`: whether the gradient of
    that input may have to be added to what is already there.
    """
    if backends.needs_border(arguments, COMPUTED_IN.get(dtype or '', dtype), device):
        assert arguments.border is not None
        x = backends.composition().border(x, arguments.border, arguments.layout, kind)
        arguments, adds = arguments._replace(border=None), (False, *adds[1:])
    return _call_with_weight(
        'convolution', x, weight, bias, arguments, kind, dtype, device, name, adds
    )


def call_convolution_transpose(
    x: Any,
    weight: Any,
    bias: Optional[Any],
    arguments: geometry.ConvolutionTranspose,
    kind: Kind,
    dtype: Optional[str],
    device: Optional[str],
    name: Optional[str] = None,
    adds: Tuple[Optional[bool], ...] = (None, None, None),
) -> Any:
    """Hand a checked transposed convolution to a backend; the rest is as in `call_convolution`."""
    return _call_with_weight(
        'convolution_transpose', x, weight, bias, arguments, kind, dtype, device, name, adds
    )


def call_pooling(
    x: Any,
    arguments: geometry.Pooling,
    kind: Kind,
    dtype: Optional[str],
    device: Optional[str],
    name: Optional[str] = None,
    adds: Tuple[Optional[bool], ...] = (None,),
) -> Any:
    """Hand a checked pooling to a backend; `dtype`, `device` and `adds` as above."""
    backend = backends.choose('pooling', arguments, dtype, device)
    if backend is backends.native:
        # which knows the dtype of its data, be it in a graph
        return backend.pooling(x, arguments, kind, name, adds)
    if kind.symbol:
        op, allowed = _pooled(arguments)
        x, dtype = _checked_in_graph(op, x, kind, dtype, allowed)
    if dtype in LONG_INTEGERS:
        return backends.portable.pooling_of_int64(x, arguments, kind, name)
    wide = COMPUTED_IN.get(dtype or '')
    if wide is None:
        return backend.pooling(x, arguments, kind, name, adds)
    out = backend.pooling(backend.cast(x, wide, kind), arguments, kind, None, (False,))
    if dtype in INTEGERS:
        out = backend.to_integers(out, dtype, kind, floor=arguments.mode == 'avg')
    return backend.cast(out, dtype, kind, name)


def convolution(
    x: Any,
    weight: Any,
    bias: Optional[Any] = None,
    strides: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    layout: str = 'NCHW',
    kernel_size: Any = None,
    channels: Optional[int] = None,
    name: Optional[str] = None,
    algorithm: str = 'auto',
    padding_mode: str = 'zeros',
) -> Any:
    """Slide a kernel over `x` and sum the products (cross-correlation, as MXNet's convolution).

    Parameters
    ----------
    x : array or symbol, shape (batch, in_channels, height, width)
        In the order of `layout`; float32, float64, or float16, which is computed in float32.
    weight : array or symbol, shape (channels, in_channels / groups, kernel height, kernel width)
        In the order of `layout`, with ``channels`` in the place of N; of the dtype of `x`.
    bias : array or symbol, shape (channels,), optional
        Added to each output channel.
    strides : int or (int, int)
        Step from one window to the next: one value for both spatial axes or one per axis.
    padding : int, (int, int), ((int, int), (int, int)), 'same' or 'valid'
        Elements added on both sides of each axis; or a pair (before, behind) for each; 'valid' adds
        none, and 'same' adds ``dilation * (kernel - 1)`` in all, the smaller half in front, so that
        the output has ``ceil(n / stride)`` elements.
    dilation : int or (int, int)
        Step from one element of a window to the next.
    groups : int
        Splits the channels into that many separate convolutions; must divide both channel counts.
    layout : str
        'NCHW' or 'NHWC'; 'NCW' or 'NWC' for arrays with one spatial axis, 'NCDHW' or 'NDHWC' for
        three. Whatever is said here of two axes holds for them.
    kernel_size : int or (int, int), optional
        Needed for symbols, which don't know the shape of `weight`; read from it otherwise.
    channels : int, optional
        Number of output channels; needed for symbols, and read from `weight` otherwise.
    name : str, optional
        Name of the node in a symbol's graph.
    algorithm : {'auto', 'implicit_gemm', 'winograd', 'depthwise'}
        Which arithmetic of the native backend computes the output; 'auto' takes the one that
        should be fastest. A gradient for which the algorithm has no kernel is left to 'auto'.
    padding_mode : {'zeros', 'reflect', 'replicate', 'circular'}
        What the added elements are: zeros; the data mirrored at its first and last element; those
        elements again and again; or the data from the other end.

    Returns
    -------
    array or symbol, shape (batch, channels, output height, output width)
        Of the same kind and dtype as `x`; the output's size along an axis of n elements is
        ``floor((n + 2 * padding - dilation * (kernel - 1) - 1) / stride) + 1``.

    Raises
    ------
    TypeError
        For inputs that are no arrays or symbols of MXNet, that are of different kinds, or whose
        dtype is another one, and for arguments of a wrong type.
    ValueError
        For arguments and shapes that don't fit, naming the argument, the value and what is allowed.

    Examples
    --------
    >>> from gluon_convpool import functional
    >>> from mxnet import np
    >>> x, k = np.arange(9).reshape(1, 1, 3, 3), np.arange(4).reshape(1, 1, 2, 2)
    >>> functional.convolution(x, k)
    array([[[[19., 25.],
             [37., 43.]]]])
    """
    op = 'convolution'
    kind = _kind(op, x=x, weight=weight, bias=bias)
    layout = geometry.layout_of(op, layout)
    read_channels, _, read_kernel = _read_weight(op, weight, kind, layout, kernel_size, channels)
    kernel_size = read_kernel if kernel_size is None else kernel_size
    channels = read_channels if channels is None else channels
    arguments = geometry.convolution_arguments(
        op,
        kernel_size,
        strides,
        padding,
        dilation,
        channels,
        groups,
        layout,
        algorithm=algorithm,
        padding_mode=padding_mode,
    )
    if kind.symbol:
        return call_convolution(x, weight, bias, arguments, kind, None, None, name)
    dtype, device = check_arrays(op, (x, weight) if bias is None else (x, weight, bias))
    geometry.convolution_shape(
        arguments, x.shape, weight.shape, None if bias is None else bias.shape
    )
    backends.check_algorithm(arguments, x.shape, dtype, device)
    return call_convolution(x, weight, bias, arguments, kind, dtype, device, name)


def _read_weight(
    op: str, weight: Any, kind: Kind, layout: str, kernel_size: Any, channels: Any
) -> Tuple[Any, Any, Any]:
    """The sizes of `weight` along N and C, and its window; None for symbols."""
    if kind.symbol:
        if kernel_size is None or channels is None:
            raise TypeError(
                f'{op}: kernel_size={kernel_size!r} and channels={channels!r} must both be given'
                ' for symbols, whose weight has no shape to read them from'
            )
        return None, None, None
    shape = weight.shape
    if len(shape) != len(layout):
        expected = f'{len(layout)} axes for layout {layout}'
        geometry.refuse('weight_shape', op=op, weight_shape=shape, expected=expected)
    return geometry.split_shape(op, shape, layout)


def convolution_transpose(
    x: Any,
    weight: Any,
    bias: Optional[Any] = None,
    strides: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    layout: str = 'NCHW',
    kernel_size: Any = None,
    channels: Optional[int] = None,
    name: Optional[str] = None,
) -> Any:
    """Spread each element of `x` over a window: the adjoint of `convolution`.

    Without a bias, ``sum(convolution(y, weight) * x) == sum(y * convolution_transpose(x, weight))``
    for every `y` of the shape of the output and equal arguments; with 'same' and strides other than
    1, for the convolution that pads what is taken away here.

    Parameters
    ----------
    x : array or symbol, shape (batch, in_channels, height, width)
        In the order of `layout`; float32, float64, or float16, which is computed in float32.
    weight : array or symbol, shape (in_channels, channels / groups, kernel height, kernel width)
        In the order of `layout`, with ``in_channels`` in the place of N; of the dtype of `x`.
    bias : array or symbol, shape (channels,), optional
        Added to each output channel.
    strides : int or (int, int)
        Step from one window of the output to the next: one value for both spatial axes or one per
        axis.
    padding : int, (int, int), 'same' or 'valid'
        Elements taken away on both sides of each axis of the output. 'valid' takes none away;
        'same' takes away ``dilation * (kernel - 1) + 1 - stride`` in all, the smaller half in
        front, or where that is negative adds as many behind, so that the output has ``n * stride``
        elements.
    output_padding : int or (int, int)
        Elements that each axis of the output has in addition behind the last; smaller than
        `strides`. With 'same', which decides it, only 0 is allowed.
    dilation : int or (int, int)
        Step from one element of a window to the next.
    groups : int
        Splits the channels into that many separate operations; must divide both channel counts.
    layout : str
        'NCHW' or 'NHWC'; 'NCW' or 'NWC' for arrays with one spatial axis, 'NCDHW' or 'NDHWC' for
        three. Whatever is said here of two axes holds for them.
    kernel_size : int or (int, int), optional
        Needed for symbols, which don't know the shape of `weight`; read from it otherwise.
    channels : int, optional
        Number of output channels; needed for symbols, and read from `weight` otherwise.
    name : str, optional
        Name of the node in a symbol's graph.

    Returns
    -------
    array or symbol, shape (batch, channels, output height, output width)
        Of the same kind and dtype as `x`; the output's size along an axis of n elements is
        ``(n - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1``, and
        ``n * stride`` with 'same'.

    Raises
    ------
    TypeError
        For inputs that are no arrays or symbols of MXNet, that are of different kinds, or whose
        dtype is another one, and for arguments of a wrong type.
    ValueError
        For arguments and shapes that don't fit, naming the argument, the value and what is allowed.

    Examples
    --------
    >>> from gluon_convpool import functional
    >>> from mxnet import np
    >>> x, k = np.array([[[[1, 10]]]]), np.arange(1, 5).reshape(1, 1, 2, 2)
    >>> functional.convolution_transpose(x, k)
    array([[[[ 1., 12., 20.],
             [ 3., 34., 40.]]]])
    >>> functional.convolution_transpose(x, k, strides=(1, 2), padding='same')
    array([[[[ 1.,  2., 10., 20.]]]])
    """
    op = 'convolution_transpose'
    kind = _kind(op, x=x, weight=weight, bias=bias)
    layout = geometry.layout_of(op, layout)
    groups = geometry.integer(op, 'groups', groups, 1)
    _, per_group, read_kernel = _read_weight(op, weight, kind, layout, kernel_size, channels)
    kernel_size = read_kernel if kernel_size is None else kernel_size
    channels = per_group * groups if channels is None else channels
    arguments = geometry.convolution_transpose_arguments(
        op,
        kernel_size,
        strides,
        padding,
        output_padding,
        dilation,
        channels,
        groups,
        layout,
    )
    if kind.symbol:
        return call_convolution_transpose(x, weight, bias, arguments, kind, None, None, name)
    dtype, device = check_arrays(op, (x, weight) if bias is None else (x, weight, bias))
    geometry.convolution_transpose_shape(
        arguments, x.shape, weight.shape, None if bias is None else bias.shape
    )
    return call_convolution_transpose(x, weight, bias, arguments, kind, dtype, device, name)


def check_deformable(
    x: Any,
    offset: Any,
    mask: Optional[Any],
    arguments: geometry.Convolution,
    sampling: geometry.Sampling,
    weight: Optional[geometry.Ints] = None,
    bias: Optional[geometry.Ints] = None,
) -> None:
    """Refuse arrays and shapes of parameters that don't fit each other.

    Raises
    ------
    ValueError
        Naming what does not fit.
    """
    op = 'deformable_convolution'
    shape = geometry.convolution_shape(arguments, x.shape, weight, bias, op)
    mask_shape = None if mask is None else mask.shape
    geometry.check_sampling(op, sampling, x.shape, shape[2:], offset.shape, mask_shape)


def call_deformable_convolution(
    x: Any,
    offset: Any,
    mask: Optional[Any],
    weight: Any,
    bias: Optional[Any],
    arguments: geometry.Convolution,
    sampling: geometry.Sampling,
    kind: Kind,
    dtype: Optional[str],
    device: Optional[str],
    name: Optional[str] = None,
    adds: Tuple[Optional[bool], ...] = (None, None, None),
) -> Any:
    """Hand a checked deformable convolution to a backend; the rest is as in `call_convolution`.

    What the moved windows see is a pointwise convolution's data.
    """
    op = 'deformable_convolution'
    if kind.symbol:
        x, dtype = _like_the_weight(op, x, weight, sampling, kind, dtype)
    wide = COMPUTED_IN.get(dtype or '')
    if wide is not None:
        cast = backends.composition().cast
        x, offset, mask, weight, bias = (
            None if one is None else cast(one, wide, kind)
            for one in (x, offset, mask, weight, bias)
        )
        alone = (False, False, False)
        out = call_deformable_convolution(
            x, offset, mask, weight, bias, arguments, sampling, kind, wide, device, None, alone
        )
        return cast(out, dtype, kind, name)
    if not kind.symbol and 0 in x.shape:
        # an empty batch sees nothing, wherever its windows are
        return call_convolution(x, weight, bias, arguments, kind, dtype, device, name, adds)
    backend = backends.choose(op, sampling, dtype, device)
    columns = backend.deformable_columns(x, offset, mask, sampling, kind, adds[:1])
    weight = backends.portable.as_pointwise(x, weight, arguments, kind)
    pointwise = arguments._replace(kernel=(1, 1), stride=(1, 1), dilate=(1, 1), pad=(0, 0))
    adds = (False, None, adds[2])
    return call_convolution(columns, weight, bias, pointwise, kind, dtype, device, name, adds)


def deformable_convolution(
    x: Any,
    offset: Any,
    weight: Any,
    bias: Optional[Any] = None,
    mask: Optional[Any] = None,
    strides: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    num_deformable_group: int = 1,
    kernel_size: Any = None,
    channels: Optional[int] = None,
    name: Optional[str] = None,
) -> Any:
    """Convolve with windows whose elements are moved, each by an offset of its own.

    Parameters
    ----------
    x : array or symbol, shape (batch, in_channels, height, width)
        float32, float64, or float16, which is computed in float32.
    offset : array or symbol, shape (batch, 2 * taps * groups, output height, output width)
        Rows and columns, in elements, by which each of the ``kernel height * kernel width`` taps is
        moved: ``(dy, dx)`` of the first tap of the first deformable group, of its second tap, and
        so on. Where that is between elements of `x`, it is interpolated linearly.
    weight : array or symbol, shape (channels, in_channels / groups, kernel height, kernel width)
        Of the dtype of `x`.
    bias : array or symbol, shape (channels,), optional
        Added to each output channel.
    mask : array or symbol, shape (batch, taps * groups, output height, output width), optional
        What each tap is multiplied by (Zhu et al., 2018). It also decides what there is at the
        edges, as in MXNet: without a mask (Dai et al., 2017), nothing that is read before the first
        element or behind ``size - 1`` is interpolated: the former is 0, and the latter the last
        element, up to ``size``. With one, the data has zeros around it.
    strides, padding, dilation : int or (int, int)
        As in `convolution`; padding is added on both sides alike.
    groups : int
        As in `convolution`.
    num_deformable_group : int
        Into how many parts the input channels are split, each of which has its own offsets.
    kernel_size : int or (int, int), optional
        Needed for symbols, which don't know the shape of `weight`; read from it otherwise.
    channels : int, optional
        Number of output channels; needed for symbols, and read from `weight` otherwise.
    name : str, optional
        Name of the node in a symbol's graph.

    Returns
    -------
    array or symbol, shape (batch, channels, output height, output width)
        Of the same kind and dtype as `x`, and of the sizes that `convolution` gives.

    Raises
    ------
    TypeError
        For inputs that are no arrays or symbols of MXNet, that are of different kinds, or whose
        dtype is another one, and for arguments of a wrong type.
    ValueError
        For arguments and shapes that don't fit, naming the argument, the value and what is allowed.

    Notes
    -----
    Memory is taken for what all windows see, ``taps`` times the data where strides are 1. There is
    no gradient by an offset where it moves a tap to an element: there it is that of one side.

    Examples
    --------
    >>> from gluon_convpool import functional
    >>> from mxnet import np
    >>> x, k = np.arange(4).reshape(1, 1, 1, 4), np.ones((1, 1, 1, 1))
    >>> offset = np.array([[0, 0, 0, 0], [0.5, 0, 0.25, -4]]).reshape(1, 2, 1, 4)
    >>> functional.deformable_convolution(x, offset, k)
    array([[[[0.5 , 1.  , 2.25, 0.  ]]]])
    """
    op = 'deformable_convolution'
    given = {'x': x, 'offset': offset, 'weight': weight, 'bias': bias}
    kind = _kind(op, **given) if mask is None else _kind(op, **given, mask=mask)
    read_channels, _, read_kernel = _read_weight(op, weight, kind, 'NCHW', kernel_size, channels)
    kernel_size = read_kernel if kernel_size is None else kernel_size
    channels = read_channels if channels is None else channels
    pair = geometry.per_axis(op, 'padding', padding, 2, 0)
    arguments = geometry.convolution_arguments(
        op, kernel_size, strides, pair, dilation, channels, groups, 'NCHW'
    )
    sampling = geometry.deformable_arguments(op, arguments, num_deformable_group, mask is not None)
    inputs = (x, offset, mask, weight, bias)
    if kind.symbol:
        return call_deformable_convolution(*inputs, arguments, sampling, kind, None, None, name)
    dtype, device = check_arrays(op, [one for one in inputs if one is not None])
    bias_shape = None if bias is None else bias.shape
    check_deformable(x, offset, mask, arguments, sampling, weight.shape, bias_shape)
    return call_deformable_convolution(*inputs, arguments, sampling, kind, dtype, device, name)


def pooling(
    x: Any,
    pool_size: Any = 2,
    strides: Any = None,
    padding: Any = 0,
    mode: str = 'max',
    ceil_mode: bool = False,
    count_include_pad: Optional[bool] = True,
    p: int = 2,
    global_pool: bool = False,
    layout: str = 'NCHW',
    name: Optional[str] = None,
) -> Any:
    """Reduce each window of `x` to one number.

    Parameters
    ----------
    x : array or symbol, shape (batch, channels, height, width)
        In the order of `layout`; float32, float64, or float16, which is computed in float32. Or,
        but for 'lp', int8, uint8, int32 or int64: then an average is rounded down, as by NumPy's
        ``//``, and a sum that the dtype cannot hold becomes its largest or smallest value.
    pool_size : int or (int, int)
        Size of the window, in elements: one value for both spatial axes or one per axis.
    strides : int or (int, int), optional
        Step from one window to the next; by default the window's size.
    padding : int, (int, int), ((int, int), (int, int)), 'same' or 'valid'
        Elements added on both sides of each axis, fewer than the window has; or a pair (before,
        behind) for each; 'valid' adds none, and 'same' adds ``pool_size - 1`` in all, the smaller
        half in front, so that the output has ``ceil(n / stride)`` elements. They are zeros to an
        average and a sum, and never the maximum.
    mode : {'max', 'avg', 'sum', 'lp'}
        'max' is NaN where the window holds one. 'lp' is ``(sum of x**p) ** (1/p)``.
    ceil_mode : bool
        Also keep a last window that is only partly filled; not with padding whose sides differ.
    count_include_pad : bool, optional
        Whether 'avg' counts padded positions; None means True.
    p : {1, 2, 3}
        The power of 'lp'.
    global_pool : bool
        One window over all of `x`, whatever `pool_size`, `strides` and `padding` say.
    layout : str
        'NCHW' or 'NHWC'; 'NCW' or 'NWC' for arrays with one spatial axis, 'NCDHW' or 'NDHWC' for
        three. Whatever is said here of two axes holds for them.
    name : str, optional
        Name of the node in a symbol's graph.

    Returns
    -------
    array or symbol, shape (batch, channels, output height, output width)
        Of the same kind and dtype as `x`; the output's size along an axis of n elements is
        ``floor((n + 2 * padding - pool_size) / stride) + 1``, with `ceil_mode` rounded up instead
        of down, and of a pair of paddings the sum in the place of ``2 * padding``.

    Raises
    ------
    TypeError
        For an input that is no array or symbol of MXNet or of another dtype, and for arguments of
        a wrong type.
    ValueError
        For arguments and shapes that don't fit, naming the argument, the value and what is allowed.

    Examples
    --------
    >>> from gluon_convpool import functional
    >>> from mxnet import np
    >>> functional.pooling(np.arange(16).reshape(1, 1, 4, 4), 2, mode='avg')
    array([[[[ 2.5,  4.5],
             [10.5, 12.5]]]])
    >>> functional.pooling(np.array([[[3, 1, 4, 1, 5]]]), 2, 1, 'same', layout='NCW')
    array([[[3., 4., 4., 5., 5.]]])
    """
    op = 'pooling'
    kind = _kind(op, x=x)
    arguments = geometry.pooling_arguments(
        op, pool_size, strides, padding, mode, ceil_mode, count_include_pad, p, global_pool, layout
    )
    if kind.symbol:
        return call_pooling(x, arguments, kind, None, None, name)
    dtype, device = check_pooled(arguments, x)
    geometry.pooling_shape(arguments, x.shape)
    return call_pooling(x, arguments, kind, dtype, device, name)


# --------------------------------------------------------------------------- unpooling


def _maximum(
    op: str, pool_size: Any, strides: Any, padding: Any, ceil_mode: Any, layout: Any
) -> geometry.Pooling:
    return geometry.pooling_arguments(
        op, pool_size, strides, padding, 'max', ceil_mode, layout=layout
    )


def max_pooling_with_indices(
    x: Any,
    pool_size: Any = 2,
    strides: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    layout: str = 'NCHW',
) -> Tuple[Any, Any]:
    """Reduce each window of `x` to its maximum, and say where that stood.

    Parameters
    ----------
    x : array or symbol, shape (batch, channels, height, width)
        In the order of `layout`; float32, float64 or float16.
    pool_size : int or (int, int)
        As in `pooling`.
    strides : int or (int, int), optional
        As in `pooling`.
    padding : int, (int, int), ((int, int), (int, int)), 'same' or 'valid'
        As in `pooling`.
    ceil_mode : bool
        As in `pooling`.
    layout : str
        'NCHW' or 'NHWC'; 'NCW' or 'NWC' for arrays with one spatial axis, 'NCDHW' or 'NDHWC' for
        three. Whatever is said here of two axes holds for them.

    Returns
    -------
    maxima : array or symbol, shape (batch, channels, output height, output width)
        What `pooling` returns, with its gradient.
    indices : array or symbol of int32, of the same shape
        ``row * width + column`` of the first maximum, or of the first NaN, within its channel; -1
        where a window holds nothing of `x`.

    Raises
    ------
    TypeError, ValueError
        As by `pooling`.

    See Also
    --------
    max_unpooling : puts elements back where the indices say.

    Examples
    --------
    >>> from gluon_convpool import functional
    >>> from mxnet import np
    >>> x = np.array([[[3, 1, 4, 1, 5, 9]]])
    >>> maxima, indices = functional.max_pooling_with_indices(x, 2, layout='NCW')
    >>> maxima
    array([[[3., 4., 9.]]])
    >>> indices
    array([[[0, 2, 5]]], dtype=int32)
    """
    op = 'max_pooling_with_indices'
    kind = _kind(op, x=x)
    arguments = _maximum(op, pool_size, strides, padding, ceil_mode, layout)
    dtype: Optional[str]
    if kind.symbol:
        x, dtype = _checked_in_graph(op, x, kind, None, DTYPES)
    else:
        dtype, _ = check_arrays(op, (x,))
        geometry.pooling_shape(arguments, x.shape, op)
    portable, wide = backends.composition(), COMPUTED_IN.get(dtype or '')
    maxima, indices = portable.max_pooling_with_indices(
        portable.cast(x, wide, kind) if wide else x, arguments, kind
    )
    return (portable.cast(maxima, dtype, kind) if wide else maxima), indices


def max_unpooling(
    x: Any,
    indices: Any,
    output_size: Any,
    pool_size: Any = 2,
    strides: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    layout: str = 'NCHW',
) -> Any:
    """Put each element of `x` where `indices` say, among zeros.

    It is the adjoint of taking the maxima: elements that come from windows with one and the same
    maximum are added up.

    Parameters
    ----------
    x : array or symbol, shape (batch, channels, height, width)
        In the order of `layout`; float32, float64 or float16.
    indices : array or symbol of int32 or int64, of the same shape
        What `max_pooling_with_indices` returned. An element whose index lies outside of its window
        is left out.
    output_size : int or (int, int)
        Height and width of the output: those of the data that was pooled.
    pool_size : int or (int, int)
        That of `max_pooling_with_indices`.
    strides : int or (int, int), optional
        The same.
    padding : int, (int, int), ((int, int), (int, int)), 'same' or 'valid'
        The same.
    ceil_mode : bool
        The same.
    layout : str
        The same.

    Returns
    -------
    array or symbol, shape (batch, channels, *output_size)
        Of the same kind and dtype as `x`.

    Raises
    ------
    TypeError, ValueError
        For arguments and shapes that don't fit, naming the argument, the value and what is allowed.

    Examples
    --------
    >>> from gluon_convpool import functional
    >>> from mxnet import np
    >>> x = np.array([[[3, 1, 4, 1, 5, 9]]])
    >>> maxima, indices = functional.max_pooling_with_indices(x, 2, layout='NCW')
    >>> functional.max_unpooling(maxima, indices, 6, 2, layout='NCW')
    array([[[3., 0., 4., 0., 0., 9.]]])
    """
    op = 'max_unpooling'
    kind = _kind(op, x=x, indices=indices)
    arguments = _maximum(op, pool_size, strides, padding, ceil_mode, layout)
    sizes = geometry.per_axis(op, 'output_size', output_size, arguments.ndim, 1)
    whole = geometry.join_shape(1, 1, sizes, arguments.layout)
    pooled = geometry.pooling_shape(arguments, whole, op)
    windows = geometry.split_shape(op, pooled, arguments.layout)[2]
    geometry.images_shape(1, 1, sizes, arguments.layout, op)
    of_indices = f'{op}(indices)'
    if kind.symbol:
        x, _ = _checked_in_graph(op, x, kind, None, DTYPES, DTYPES)
        indices, _ = _checked_in_graph(of_indices, indices, kind, None, PLACES, PLACES)
    else:
        check_arrays(op, (x,))
        check_arrays(of_indices, (indices,), PLACES)
        _check_devices(op, (x, indices))
        batch, channels, found = geometry.split_shape(op, x.shape, arguments.layout)
        geometry.images_shape(batch, channels, sizes, arguments.layout, op)
        if found != windows:
            geometry.refuse(
                'unpooled_shape', op=op, output_size=sizes, expected=windows, shape=x.shape
            )
        if indices.shape != x.shape:
            geometry.refuse('indices_shape', op=op, indices_shape=indices.shape, expected=x.shape)
    return backends.composition().max_unpooling(x, indices, sizes, windows, arguments, kind)


# --------------------------------------------------------------------------- adaptive pooling

ADAPTIVE_MODES = ('avg', 'max')


def check_adaptive(x: Any, output_size: geometry.Ints, mode: str, layout: str) -> str:
    """The dtype of the data of an adaptive pooling, if it fits."""
    dtype, _ = check_arrays('adaptive_pooling', (x,))
    geometry.adaptive_shape(output_size, mode, x.shape, layout)
    return dtype


def call_adaptive_pooling(
    x: Any,
    output_size: geometry.Ints,
    mode: str,
    layout: str,
    kind: Kind,
    dtype: Optional[str],
    name: Optional[str] = None,
) -> Any:
    """Compute a checked adaptive pooling; `dtype` is None where it is unknown."""
    portable = backends.composition()
    if kind.symbol:
        x, dtype = _checked_in_graph('adaptive_pooling', x, kind, dtype, DTYPES)
    wide = COMPUTED_IN.get(dtype or '')
    if wide is None:
        return portable.adaptive_pooling(x, output_size, mode, layout, kind, name)
    out = portable.adaptive_pooling(
        portable.cast(x, wide, kind), output_size, mode, layout, kind, None
    )
    return portable.cast(out, dtype, kind, name)


def adaptive_pooling(
    x: Any, output_size: Any, mode: str = 'avg', layout: str = 'NCHW', name: Optional[str] = None
) -> Any:
    """Reduce `x` to a given size, by windows of nearly equal sizes.

    Along an axis of n elements, output i of m has its window from ``floor(i * n / m)`` to
    ``ceil((i + 1) * n / m)``.

    Parameters
    ----------
    x : array or symbol, shape (batch, channels, height, width)
        In the order of `layout`; float32, float64, or float16, which is computed in float32.
    output_size : int or (int, int)
        Elements of the output: one value for both spatial axes or one per axis.
    mode : {'avg', 'max'}
        What a window becomes. 'max' is NaN where the window holds one.
    layout : str
        'NCHW' or 'NHWC'; 'NCW' or 'NWC' for arrays with one spatial axis, 'NCDHW' or 'NDHWC' for
        three. Whatever is said here of two axes holds for them.
    name : str, optional
        Name of the node in a symbol's graph.

    Returns
    -------
    array or symbol, shape (batch, channels, output height, output width)
        Of the same kind and dtype as `x`.

    Raises
    ------
    TypeError
        For an input that is no array or symbol of MXNet or of another dtype, and for arguments of
        a wrong type.
    ValueError
        For arguments and shapes that don't fit, naming the argument, the value and what is allowed.

    Examples
    --------
    >>> from gluon_convpool import functional
    >>> from mxnet import np
    >>> functional.adaptive_pooling(np.arange(5).reshape(1, 1, 5), 2, layout='NCW')
    array([[[1., 3.]]])
    """
    op = 'adaptive_pooling'
    kind = _kind(op, x=x)
    layout = geometry.layout_of(op, layout)
    mode = geometry.choice(op, 'mode', mode, ADAPTIVE_MODES)
    output_size = geometry.per_axis(op, 'output_size', output_size, len(layout) - 2, 1)
    dtype = None if kind.symbol else check_adaptive(x, output_size, mode, layout)
    return call_adaptive_pooling(x, output_size, mode, layout, kind, dtype, name)


# --------------------------------------------------------------------------- padding


def check_padded(x: Any, around: geometry.Border, layout: str) -> None:
    """Refuse an array around which `around` cannot be put."""
    check_arrays('pad', (x,))
    geometry.bordered_shape(around, x.shape, layout)


def call_pad(
    x: Any, around: geometry.Border, layout: str, kind: Any, name: Optional[str] = None
) -> Any:
    """Put a checked border around `x`."""
    if kind.symbol:
        x, _ = _checked_in_graph('pad', x, kind, None, DTYPES, DTYPES)
    return backends.composition().border(x, around, layout, kind, 'pad', name)


def pad(
    x: Any,
    padding: Any,
    padding_mode: str = 'zeros',
    layout: str = 'NCHW',
    name: Optional[str] = None,
) -> Any:
    """Put elements around `x`.

    Parameters
    ----------
    x : array or symbol, shape (batch, channels, height, width)
        In the order of `layout`; float32, float64 or float16.
    padding : int, (int, int) or ((int, int), (int, int))
        Elements added on both sides of each axis: one value for both spatial axes, one for each, or
        a pair (before, behind) for each.
    padding_mode : {'zeros', 'reflect', 'replicate', 'circular'}
        What they are: zeros; the data mirrored at its first and last element; those elements again
        and again; or the data from the other end.
    layout : str
        'NCHW' or 'NHWC'; 'NCW' or 'NWC' for arrays with one spatial axis, 'NCDHW' or 'NDHWC' for
        three. Whatever is said here of two axes holds for them.
    name : str, optional
        Name of the node in a symbol's graph.

    Returns
    -------
    array or symbol
        Of the same kind and dtype as `x`.

    Raises
    ------
    TypeError
        For an input that is no array or symbol of MXNet or of another dtype, and for arguments of
        a wrong type.
    ValueError
        For arguments and shapes that don't fit, naming the argument, the value and what is allowed.

    Examples
    --------
    >>> from gluon_convpool import functional
    >>> from mxnet import np
    >>> functional.pad(np.arange(3).reshape(1, 1, 3), ((2, 1),), 'circular', 'NCW')
    array([[[1., 2., 0., 1., 2., 0.]]])
    """
    op = 'pad'
    kind = _kind(op, x=x)
    layout = geometry.layout_of(op, layout)
    around = geometry.border(op, padding, padding_mode, len(layout) - 2)
    if not kind.symbol:
        check_padded(x, around, layout)
    return call_pad(x, around, layout, kind, name)


# --------------------------------------------------------------------------- windows as columns


def _window(
    op: str, layout: str, kernel_size: Any, strides: Any, padding: Any, dilation: Any
) -> geometry.Convolution:
    return geometry.convolution_arguments(op, kernel_size, strides, padding, dilation, 1, 1, layout)


def unfold(
    x: Any,
    kernel_size: Any,
    strides: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    layout: str = 'NCHW',
    name: Optional[str] = None,
) -> Any:
    """Write each window of `x` as a column (im2col), so that a convolution is one matrix product.

    Parameters
    ----------
    x : array or symbol, shape (batch, channels, height, width)
        float32, float64 or float16.
    kernel_size, strides : int or (int, int)
        As in `convolution`.
    padding : int, (int, int), ((int, int), (int, int)), 'same' or 'valid'
        As in `convolution`, always of zeros.
    dilation : int or (int, int)
        As in `convolution`.
    layout : {'NCHW', 'NCW', 'NCDHW'}
        How many spatial axes there are. Whatever is said here of two axes holds for one and three.
    name : str, optional
        Name of the node in a symbol's graph.

    Returns
    -------
    array or symbol, shape (batch, channels * kernel height * kernel width, windows)
        Of the same kind and dtype as `x`. Rows in the order of the weight of a convolution,
        windows in row-major order.

    Raises
    ------
    TypeError, ValueError
        As by `convolution`.

    See Also
    --------
    fold : the adjoint, which adds the columns up.

    Examples
    --------
    >>> from gluon_convpool import functional
    >>> from mxnet import np
    >>> functional.unfold(np.arange(4).reshape(1, 1, 4), 2, layout='NCW')
    array([[[0., 1., 2.],
            [1., 2., 3.]]])
    """
    op = 'unfold'
    kind = _kind(op, x=x)
    geometry.choice(op, 'layout', layout, FIRST_LAYOUTS)
    arguments = _window(op, layout, kernel_size, strides, padding, dilation)
    if kind.symbol:
        x, _ = _checked_in_graph(op, x, kind, None, DTYPES, DTYPES)
    else:
        check_arrays(op, (x,))
        geometry.columns_shape(arguments, x.shape)
    if arguments.border is not None:
        x = backends.composition().border(x, arguments.border, layout, kind)
        arguments = arguments._replace(border=None)
    return backends.composition().unfold(x, arguments, kind, name)


FIRST_LAYOUTS = tuple(names[0] for names in geometry.LAYOUTS.values())


def fold(
    x: Any,
    output_size: Any,
    kernel_size: Any,
    strides: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    layout: str = 'NCHW',
    name: Optional[str] = None,
) -> Any:
    """Add columns up where their windows lie (col2im): the adjoint of `unfold`.

    Parameters
    ----------
    x : array or symbol, shape (batch, channels * kernel height * kernel width, windows)
        float32, float64 or float16.
    output_size : int or (int, int)
        Height and width of the output, of which the columns are windows.
    kernel_size, strides, padding, dilation : int or (int, int)
        Those of `unfold`.
    layout : {'NCHW', 'NCW', 'NCDHW'}
        How many spatial axes there are. Whatever is said here of two axes holds for one and three.
    name : str, optional
        Name of the node in a symbol's graph.

    Returns
    -------
    array or symbol, shape (batch, channels, height, width)
        Of the same kind and dtype as `x`; the spatial sizes are `output_size`.

    Raises
    ------
    TypeError, ValueError
        As by `convolution`.

    Examples
    --------
    >>> from gluon_convpool import functional
    >>> from mxnet import np
    >>> columns = np.array([[[0, 1, 2], [1, 2, 3]]])
    >>> functional.fold(columns, 4, 2, layout='NCW')
    array([[[0., 2., 4., 3.]]])
    """
    op = 'fold'
    kind = _kind(op, x=x)
    geometry.choice(op, 'layout', layout, FIRST_LAYOUTS)
    ndim = len(layout) - 2
    geometry.per_axis(op, 'padding', padding, ndim, 0)
    arguments = _window(op, layout, kernel_size, strides, padding, dilation)
    sizes = geometry.per_axis(op, 'output_size', output_size, ndim, 1)
    windows = geometry.convolution_shape(arguments, (1, 1, *sizes), op=op)[2:]
    geometry.images_shape(1, 1, sizes, layout, op)
    if kind.symbol:
        x, _ = _checked_in_graph(op, x, kind, None, DTYPES, DTYPES)
    else:
        check_arrays(op, (x,))
        taps = math.prod(arguments.kernel)
        if len(x.shape) != 3 or x.shape[1] % taps or x.shape[1] == 0:
            geometry.refuse('columns_mismatch', op=op, shape=x.shape, window=taps)
        if x.shape[2] != math.prod(windows):
            geometry.refuse(
                'windows_mismatch',
                op=op,
                output_size=sizes,
                expected=math.prod(windows),
                shape=x.shape,
                count=x.shape[2],
            )
        geometry.images_shape(x.shape[0], x.shape[1] // taps, sizes, layout, op)
    return backends.composition().fold(x, sizes, windows, arguments, kind, name)


# --------------------------------------------------------------------------- the textbook's names


def corr2d(X: Any, K: Any, strides: Any = 1, padding: Any = 0) -> Any:
    """Slide a kernel over the last two axes of `X` and sum the products.

    Parameters
    ----------
    X : array, shape (H, W), (channels, H, W) or (batch, channels, H, W)
        ``mx.np`` or ``mx.nd``, of a dtype that `convolution` takes.
    K : array, shape (h, w), (channels, h, w) or (out_channels, channels, h, w)
        A matrix slides over every matrix in `X` separately; with a channel axis, the products of
        all channels are summed; with one more axis in front, there is one output per kernel.
    strides : int or (int, int)
        Rows and columns from one window to the next.
    padding : int or (int, int)
        Rows and columns of zeros that are added on each side.

    Returns
    -------
    array, shape (..., output height, output width)
        Of the kind and dtype of `X`. The axes in front are those of `X` without the channels that
        were summed, and with ``out_channels`` where `K` has them. Sizes are those of
        `convolution`.

    Raises
    ------
    TypeError
        For anything but arrays, different kinds of them, or another dtype.
    ValueError
        For arguments and shapes that don't fit.

    See Also
    --------
    gluon_convpool.scratch.corr2d : the same as loops to read.

    Examples
    --------
    >>> from gluon_convpool import corr2d
    >>> from mxnet import np
    >>> corr2d(np.arange(9).reshape(3, 3), np.arange(4).reshape(2, 2))
    array([[19., 25.],
           [37., 43.]])
    """
    op = 'corr2d'
    kind = _kind(op, X=X, K=K)
    if kind.symbol:
        raise TypeError(f'{op}: needs arrays, whose shapes it reads; for symbols use convolution')
    x_shape, k_shape = X.shape, K.shape
    if not 2 <= len(k_shape) <= 4:
        raise ValueError(f'{op}: K has shape {k_shape}; it must have 2, 3 or 4 axes')
    if not max(2, min(3, len(k_shape))) <= len(x_shape) <= 4:
        least = min(3, len(k_shape))
        raise ValueError(
            f'{op}: X has shape {x_shape}; with K of shape {k_shape} it must have {least} to 4 axes'
        )
    size = x_shape[-2:]
    if len(k_shape) == 2:
        front: Tuple[int, ...] = x_shape[:-2]
        count = 1
        for n in front:
            count *= n
        x, k = X.reshape((count, 1) + size), K.reshape((1, 1) + k_shape)
    else:
        channels = k_shape[-3]
        if x_shape[-3] != channels:
            geometry.refuse(
                'channels_mismatch',
                op=op,
                data_channels=x_shape[-3],
                weight_shape=k_shape,
                groups=1,
            )
        batch = x_shape[0] if len(x_shape) == 4 else 1
        front = x_shape[:-3] + k_shape[:-3]
        x = X.reshape((batch, channels) + size)
        k = K.reshape((k_shape[0] if len(k_shape) == 4 else 1,) + k_shape[-3:])
    out = convolution(x, k, strides=strides, padding=padding)
    return out.reshape(front + out.shape[-2:])


def pool2d(
    X: Any,
    pool_size: Any = (2, 2),
    mode: str = 'max',
    strides: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: Optional[bool] = True,
    p: int = 2,
) -> Any:
    """Slide a window over the last two axes of `X` and reduce it to one number.

    Parameters
    ----------
    X : array, shape (H, W), (channels, H, W) or (batch, channels, H, W)
        ``mx.np`` or ``mx.nd``, of a dtype that `pooling` takes.
    pool_size : int or (int, int)
        Height and width of the window.
    mode : {'max', 'avg', 'sum', 'lp'}
        What a window becomes.
    strides : int or (int, int), optional
        By default 1 for a matrix, where the name stands for the operation of the textbook, and the
        window's size for more axes, where it stands for the layer.
    padding : int, (int, int), ((int, int), (int, int)), 'same' or 'valid'
        Rows and columns that are added on each side, fewer than the window has; or as in `pooling`.
    ceil_mode, count_include_pad : bool
        As in `pooling`.
    p : {1, 2, 3}
        The power of 'lp'.

    Returns
    -------
    array, shape (..., output height, output width)
        Of the kind and dtype of `X`; sizes are those of `pooling`.

    Raises
    ------
    TypeError
        For anything but an array, or another dtype.
    ValueError
        For arguments and shapes that don't fit.

    See Also
    --------
    gluon_convpool.scratch.pool2d : the same as loops to read.

    Examples
    --------
    >>> from gluon_convpool import pool2d
    >>> from mxnet import np
    >>> pool2d(np.arange(9).reshape(3, 3), (2, 2))
    array([[4., 5.],
           [7., 8.]])
    >>> pool2d(np.arange(16).reshape(1, 1, 4, 4))
    array([[[[ 5.,  7.],
             [13., 15.]]]])
    """
    op = 'pool2d'
    if _kind(op, X=X).symbol:
        raise TypeError(f'{op}: needs an array, whose shape it reads; for symbols use pooling')
    shape = X.shape
    if not 2 <= len(shape) <= 4:
        raise ValueError(f'{op}: X has shape {shape}; it must have 2, 3 or 4 axes')
    if strides is None and len(shape) == 2:
        strides = 1
    x = X.reshape((1,) * (4 - len(shape)) + shape)
    out = pooling(x, pool_size, strides, padding, mode, ceil_mode, count_include_pad, p)
    return out.reshape(shape[:-2] + out.shape[-2:])
