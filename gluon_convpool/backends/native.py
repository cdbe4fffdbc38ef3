"""Calls the compiled operators."""

from __future__ import annotations

import ctypes
import functools
import itertools
from typing import Any, Dict, Optional, Tuple

import numpy

from .. import _mxnet, geometry
from .._mxnet import Kind, mx
from . import portable

DIMENSIONS = (1, 2, 3)
# What kernels compute, in the order of the C interface's `convpool_dtype`.
DTYPES = ('float32', 'float64')
# What an operator takes beyond that, and computes in one of them.
STORED = {'pooling': ('float16', 'int8', 'uint8', 'int32')}


def obstacle(
    op: str,
    arguments: geometry.Arguments,
    dtype: Optional[str],
    device: Optional[str],
) -> str:
    """Why the compiled operators cannot serve a call, or an empty string where they can."""
    if arguments.ndim not in DIMENSIONS:
        return f'the native {op} has no kernel for {arguments.ndim} spatial axes'
    return obstacle_of_arrays(op, dtype, device)


def obstacle_of_arrays(op: str, dtype: Optional[str], device: Optional[str]) -> str:
    """`obstacle`, as far as it is about what the arrays are, whatever is done with them."""
    if dtype is not None and dtype not in DTYPES + STORED.get(op, ()):
        return f'the native {op} has no kernel for {dtype}'
    if device is not None and device != 'cpu':
        return f'the native {op} runs on the CPU, not on {device}'
    return ''


class _Window(ctypes.Structure):
    # convpool_window in convpool.h
    _fields_ = (
        ('ndim', ctypes.c_int32),
        ('kernel', ctypes.c_int64 * 3),
        ('stride', ctypes.c_int64 * 3),
        ('dilation', ctypes.c_int64 * 3),
        ('pad', ctypes.c_int64 * 3),
        ('in_size', ctypes.c_int64 * 3),
        ('out_size', ctypes.c_int64 * 3),
    )


class _Convolution(ctypes.Structure):
    # convpool_convolution in convpool.h
    _fields_ = (
        ('dtype', ctypes.c_int),
        ('layout', ctypes.c_int),
        ('algorithm', ctypes.c_int),
        ('batch', ctypes.c_int64),
        ('in_channels', ctypes.c_int64),
        ('out_channels', ctypes.c_int64),
        ('groups', ctypes.c_int64),
        ('window', _Window),
        ('packed', ctypes.c_void_p),
    )


class _Packing(ctypes.Structure):
    # convpool_packing in convpool.h
    _fields_ = (('values', ctypes.c_int64), ('share', ctypes.c_double))


class _PackedHeader(ctypes.Structure):
    # the beginning of PackedWeight in packed_weight.h; channels are those of a group
    _fields_ = (
        ('mark', ctypes.c_uint64),
        ('values', ctypes.c_int64),
        ('dtype', ctypes.c_int64),
        ('layout', ctypes.c_int64),
        ('groups', ctypes.c_int64),
        ('out_channels', ctypes.c_int64),
        ('channels', ctypes.c_int64),
    )


# In the order of the C interface's `convpool_pass`.
PASSES = ('forward', 'backward_data', 'backward_weight')


def _problem(arguments: geometry.Convolution, data: geometry.Ints, dtype: str) -> _Convolution:
    """The convolution of data of shape `data`, as the C interface has it."""
    batch, channels, sizes = geometry.split_shape('convolution', data, arguments.layout)
    outputs = geometry.convolution_shape(arguments, data)
    window = _Window(arguments.ndim)
    for name, values in (
        ('kernel', arguments.kernel),
        ('stride', arguments.stride),
        ('dilation', arguments.dilate),
        ('pad', arguments.sides[0]),
        ('in_size', sizes),
        ('out_size', geometry.split_shape('convolution', outputs, arguments.layout)[2]),
    ):
        getattr(window, name)[: len(values)] = values
    wanted = geometry.ALGORITHMS.index(arguments.algorithm)
    return _Convolution(
        DTYPES.index(dtype),
        int(arguments.layout[1] != 'C'),
        wanted,
        batch,
        channels,
        arguments.channels,
        arguments.groups,
        window,
    )


def serving_algorithm(
    arguments: geometry.Convolution,
    data: geometry.Ints,
    which: str = 'forward',
    dtype: str = 'float32',
) -> Optional[str]:
    """The algorithm that computes one of `PASSES` for data of shape `data` and type `dtype`.

    None where the one that `arguments` force cannot. The native library must be there.
    """
    library = _mxnet.native_library()
    assert library is not None
    problem = _problem(arguments, data, dtype)
    found = library.convpool_convolution_algorithm(ctypes.byref(problem), PASSES.index(which))
    return geometry.ALGORITHMS[found] if found else None


def pack_weight(
    arguments: geometry.Convolution, data: geometry.Ints, weight: numpy.ndarray
) -> Tuple[numpy.ndarray, float]:
    """A weight packed for forward passes on data of shape `data`, for ``prepacked=True``.

    The second value is the estimated time of a pass with it, relative to that with the weight as it
    is: 1 where packing brings nothing. The native library must be there.
    """
    library = _mxnet.native_library()
    assert library is not None
    problem, packing = _problem(arguments, data, weight.dtype.name), _Packing()
    status = library.convpool_plan_packing(ctypes.byref(problem), ctypes.byref(packing))
    assert status == 0
    weight, packed = numpy.ascontiguousarray(weight), numpy.empty(packing.values, weight.dtype)
    status = library.convpool_pack_weight(
        ctypes.byref(problem), *(ctypes.c_void_p(one.ctypes.data) for one in (weight, packed))
    )
    if status:
        raise MemoryError('convolution: out of memory')
    return packed, packing.share


def packed_channels(arguments: geometry.Convolution, packed: numpy.ndarray) -> Optional[int]:
    """How many input channels a packed weight is for; None where it is none for `arguments`.

    The native library must be there.
    """
    library = _mxnet.native_library()
    assert library is not None
    if packed.dtype.name not in DTYPES or packed.nbytes < ctypes.sizeof(_PackedHeader):
        return None
    packed = numpy.ascontiguousarray(packed)
    channels = arguments.groups * int(_PackedHeader.from_buffer_copy(packed.data).channels)
    window = _Window(arguments.ndim)
    window.kernel[: arguments.ndim] = arguments.kernel
    problem = _Convolution(
        DTYPES.index(packed.dtype.name),
        int(arguments.layout[1] != 'C'),
        0,
        1,
        channels,
        arguments.channels,
        arguments.groups,
        window,
    )
    weight = library.convpool_packed_weight(ctypes.byref(problem), packed.ctypes.data, packed.size)
    return None if weight is None else channels


def check_algorithm(
    arguments: geometry.Convolution, data: geometry.Ints, dtype: Optional[str] = None
) -> None:
    """Refuse a forced algorithm that cannot compute this convolution of data of shape `data`.

    A type that is not known, as of symbols, is taken for float32.

    Raises
    ------
    ValueError
        Saying what the algorithm needs.
    """
    if serving_algorithm(arguments, data, dtype=dtype or 'float32') is None:
        geometry.refuse_algorithm(arguments, data)


# Which inputs' gradients may be added to what is already there: True, False, or None for unknown.
Adds = Tuple[Optional[bool], ...]

_counter = itertools.count()


def detour_in_graph(x: Any, kind: Kind) -> Any:
    """The symbol `x` behind a node of its own that returns it."""
    # MXNet merges equal nodes; the attribute keeps each detour apart
    attribute = {'__convpool_detour__': str(next(_counter))}
    out = mx.sym.identity(_mxnet.to_world(x, False), attr=attribute)
    return _mxnet.to_world(out, True) if kind.numpy else out


def _detour(x: Any, kind: Kind, adds: Optional[bool]) -> Any:
    """`x`, seen so that its gradient may be added to what is there.

    MXNet does not tell an extension operator when to add to a gradient (``grad_req='add'``, or a
    graph in which one array has more users than MXNET_EXEC_INPLACE_GRAD_SUM_CAP): the operator
    overwrites. Behind an operator that returns its input, it writes into a fresh array, which the
    backward pass of that operator, which is told, then adds.

    That costs a copy of arrays that come from outside a graph, and nothing inside of one.
    """
    if adds is False:
        return x
    if kind.symbol:
        return detour_in_graph(x, kind)
    if not mx.autograd.is_recording() or (adds is None and x.grad is None):
        return x
    if 0 in x.shape:
        return x  # there is nothing to add, and the legacy reshape refuses empty arrays
    # The operator of that name copies; this is a view, of arrays of either world.
    return mx.nd.NDArray.reshape(x, x.shape)


def _without_defaults(attributes: Dict[str, Any], defaults: Dict[str, Any]) -> Dict[str, Any]:
    # MXNet writes each attribute as a string and the operator reads it back, in every call.
    return {k: v for k, v in attributes.items() if k not in defaults or v != defaults[k]}


def _pad(sides: Tuple[geometry.Ints, geometry.Ints]) -> geometry.Ints:
    before, behind = sides
    return before if before == behind else before + behind


@functools.lru_cache(maxsize=1024)
def convolution_attributes(arguments: geometry.Convolution, bias: bool) -> Dict[str, Any]:
    ones = (1,) * arguments.ndim
    return _without_defaults(
        {
            'kernel': arguments.kernel,
            'stride': arguments.stride,
            'dilate': arguments.dilate,
            'pad': _pad(arguments.sides),
            'num_filter': arguments.channels,
            'num_group': arguments.groups,
            'no_bias': not bias,
            'layout': arguments.layout,
            'algorithm': arguments.algorithm,
        },
        {
            'stride': ones,
            'dilate': ones,
            'pad': (0,) * arguments.ndim,
            'num_group': 1,
            'no_bias': False,
            'layout': 'NCHW',
            'algorithm': 'auto',
        },
    )


@functools.lru_cache(maxsize=1024)
def transposed_attributes(arguments: geometry.ConvolutionTranspose, bias: bool) -> Dict[str, Any]:
    ones, zeros = (1,) * arguments.ndim, (0,) * arguments.ndim
    return _without_defaults(
        {
            'kernel': arguments.kernel,
            'stride': arguments.stride,
            'dilate': arguments.dilate,
            'pad': arguments.pad,
            'adj': arguments.adj,
            'num_filter': arguments.channels,
            'num_group': arguments.groups,
            'no_bias': not bias,
            'layout': arguments.layout,
        },
        {
            'stride': ones,
            'dilate': ones,
            'pad': zeros,
            'adj': zeros,
            'num_group': 1,
            'no_bias': False,
            'layout': 'NCHW',
        },
    )


@functools.lru_cache(maxsize=1024)
def pooling_attributes(arguments: geometry.Pooling) -> Dict[str, Any]:
    attributes = {
        'pool_type': arguments.mode,
        'global_pool': arguments.global_pool,
        'pooling_convention': 'full' if arguments.ceil_mode else 'valid',
        'count_include_pad': arguments.count_include_pad,
        'p_value': arguments.p,
        'layout': arguments.layout,
    }
    if not arguments.global_pool:
        pad = _pad(arguments.sides)
        attributes.update(kernel=arguments.kernel, stride=arguments.stride, pad=pad)
    return _without_defaults(
        attributes,
        {
            'stride': (1,) * arguments.ndim,
            'pad': (0,) * arguments.ndim,
            'pool_type': 'max',
            'global_pool': False,
            'pooling_convention': 'valid',
            'count_include_pad': True,
            'p_value': 2,
            'layout': 'NCHW',
        },
    )


def convolution(
    x: Any,
    weight: Any,
    bias: Optional[Any],
    arguments: geometry.Convolution,
    kind: Kind,
    name: Optional[str] = None,
    adds: Adds = (None, None, None),
) -> Any:
    """One convolution on inputs of one `kind`, arguments already checked.

    Of a border there may be one of zeros, which is not put around the data: the operator's padding
    may have two sides.
    """
    inputs = [_detour(x, kind, adds[0]), _detour(weight, kind, adds[1])]
    if bias is not None:
        inputs.append(_detour(bias, kind, adds[2]))
    attributes = convolution_attributes(arguments, bias is not None)
    return _mxnet.native_operator('convolution', kind)(*inputs, name=name, **attributes)


def convolution_transpose(
    x: Any,
    weight: Any,
    bias: Optional[Any],
    arguments: geometry.ConvolutionTranspose,
    kind: Kind,
    name: Optional[str] = None,
    adds: Adds = (None, None, None),
) -> Any:
    """One transposed convolution on inputs of one `kind`, arguments already checked."""
    if any(arguments.cut):
        cut, ndim = arguments.cut, arguments.ndim
        whole = arguments._replace(adj=tuple(map(sum, zip(arguments.adj, cut))))
        out = convolution_transpose(x, weight, bias, whole, kind, None, adds)
        places = ((0,) * ndim, cut, (1,) * ndim)
        return portable.picked(out, arguments.layout, *places, kind, name)
    inputs = [
        _detour(one, kind, add) for one, add in zip((x, weight, bias), adds) if one is not None
    ]
    attributes = transposed_attributes(arguments, bias is not None)
    return _mxnet.native_operator('convolution_transpose', kind)(*inputs, name=name, **attributes)


def pooling(
    x: Any,
    arguments: geometry.Pooling,
    kind: Kind,
    name: Optional[str] = None,
    adds: Adds = (None,),
) -> Any:
    """One pooling on an input of `kind`, arguments already checked."""
    return _mxnet.native_operator('pooling', kind)(
        _detour(x, kind, adds[0]), name=name, **pooling_attributes(arguments)
    )


@functools.lru_cache(maxsize=1024)
def sampling_attributes(sampling: geometry.Sampling) -> Dict[str, Any]:
    return _without_defaults(
        {
            'kernel': sampling.kernel,
            'stride': sampling.stride,
            'dilate': sampling.dilate,
            'pad': sampling.pad,
            'num_deformable_group': sampling.groups,
            'with_mask': sampling.modulated,
        },
        {
            'stride': (1, 1),
            'dilate': (1, 1),
            'pad': (0, 0),
            'num_deformable_group': 1,
            'with_mask': False,
        },
    )


def deformable_columns(
    x: Any,
    offset: Any,
    mask: Optional[Any],
    sampling: geometry.Sampling,
    kind: Kind,
    adds: Adds = (None,),
) -> Any:
    """What moved windows see, ``(N, C * taps, *windows)``, from data ``(N, C, H, W)``."""
    inputs = [
        _detour(one, kind, add)
        for one, add in zip((x, offset, mask), (adds[0], None, None))
        if one is not None
    ]
    attributes = sampling_attributes(sampling)
    return _mxnet.native_operator('deformable_columns', kind)(*inputs, **attributes)


_MODE = 'convpool_mode'


def _mode_in_graph(x: Any, mean: Any, variance: Any, dtype: str) -> Any:
    """A symbol that is zero everywhere in training and is something else in inference.

    An extension operator is not told which of the two it runs for, and one graph serves both.
    MXNet's batch norm is told: of one value for each channel, the mean is the value itself in
    training, and what it was given as the running mean in inference. Here the value is our running
    mean, and what it is given as its running mean is our running variance. Their being equal in
    every channel is the one case that is not told apart.

    A momentum of 1 keeps the statistics as they are; without `fix_gamma`, which is the default, so
    does the scale, in whose place anything may stand that has no gradient.

    That takes MXNet as long as a small layer, so a graph has it once: who finds it behind the data
    takes it from there.
    """
    behind = _mxnet.to_world(x, False).get_internals()
    found = [name for name in behind.list_outputs() if f'{_MODE}_{dtype}_' in name]
    if found:
        return behind[found[0]]
    mean, variance = (_mxnet.to_world(one, False) for one in (mean, variance))
    settings = {'axis': 0, 'momentum': 1.0, 'fix_gamma': False, 'output_mean_var': True}
    outputs = mx.sym.BatchNorm(mean, variance, variance, variance, mean, **settings)
    mode = outputs[1]
    if dtype != 'float32':
        # What computes other types than float32 refuses to leave its first output out.
        mode = mx.sym.slice_like(mx.sym.concat(mode, outputs[0], dim=0), mode)
    name = f'{_MODE}_{dtype}_{next(_counter)}'
    return mx.sym.BlockGrad(mx.sym.elemwise_sub(mode, mean), name=name)


def batch_norm(
    x: Any,
    gamma: Any,
    beta: Any,
    running_mean: Any,
    running_var: Any,
    attributes: Dict[str, Any],
    kind: Kind,
    dtype: str,
    name: Optional[str] = None,
    adds: Adds = (None, None, None),
    activation: Optional[str] = None,
) -> Any:
    """One batch normalisation on inputs of one `kind`, with the attributes of MXNet's operator.

    Its last step may be the `activation` 'relu'.
    """
    statistics = [running_mean, running_var]
    inputs = [_detour(one, kind, add) for one, add in zip((x, gamma, beta), adds)] + statistics
    mode = 'train' if mx.autograd.is_training() else 'predict'
    if attributes['use_global_stats']:
        mode = 'predict'
    elif kind.symbol:
        mode = 'input'
        mode_input = _mode_in_graph(x, running_mean, running_var, dtype)
        inputs.append(_mxnet.to_world(mode_input, kind.numpy))
    chosen = {key: attributes[key] for key in ('eps', 'momentum', 'fix_gamma', 'use_global_stats')}
    if activation:
        chosen['act_type'] = activation
    return _mxnet.native_operator('batch_norm', kind)(*inputs, name=name, mode=mode, **chosen)[0]
