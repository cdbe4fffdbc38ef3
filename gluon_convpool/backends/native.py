"""Calls the compiled operators."""

from __future__ import annotations

from typing import Any, Optional, Union

from .. import _mxnet, geometry
from .._mxnet import Kind, mx

DIMENSIONS = (2,)
DTYPES = ('float32',)
LAYOUTS = ('NCHW',)


def obstacle(
    op: str,
    arguments: Union[geometry.Convolution, geometry.Pooling],
    dtype: Optional[str],
    device: Optional[str],
) -> str:
    """Why the compiled operators cannot serve a call, or an empty string where they can."""
    if arguments.ndim not in DIMENSIONS:
        return f'the native {op} has no kernel for {arguments.ndim} spatial axes'
    if arguments.layout not in LAYOUTS:
        return f'the native {op} has no kernel for layout {arguments.layout}'
    if dtype is not None and dtype not in DTYPES:
        return f'the native {op} has no kernel for {dtype}'
    if device is not None and device != 'cpu':
        return f'the native {op} runs on the CPU, not on {device}'
    return ''


def _detour(x: Any, kind: Kind) -> Any:
    """`x`, seen so that its gradient honours ``grad_req='add'``.

    MXNet does not tell an extension operator to add to a gradient, so the operator overwrites what
    is there. Behind a reshape to the same shape, it writes into a fresh array, and the backward
    pass of the reshape, which does know, adds that to the gradient.
    """
    if kind.symbol:
        if kind.numpy:
            return _keep_shape_np_symbol(x)
        return mx.sym.identity(x)
    if not mx.autograd.is_recording() or x.grad is None:
        return x
    if kind.numpy:
        return mx.npx.reshape(x, (-4,))
    return mx.nd.reshape(x, shape=(-2,))


def _keep_shape_np_symbol(x: Any) -> Any:
    return mx.sym.identity(x.as_nd_ndarray()).as_np_ndarray()


def convolution(
    x: Any,
    weight: Any,
    bias: Optional[Any],
    arguments: geometry.Convolution,
    kind: Kind,
    name: Optional[str] = None,
) -> Any:
    """One convolution on inputs of one `kind`, arguments already checked."""
    inputs = [_detour(x, kind), _detour(weight, kind)]
    if bias is not None:
        inputs.append(_detour(bias, kind))
    return _mxnet.native_operator('convolution', kind)(
        *inputs,
        kernel=arguments.kernel,
        stride=arguments.stride,
        dilate=arguments.dilate,
        pad=arguments.pad,
        num_filter=arguments.channels,
        num_group=arguments.groups,
        no_bias=bias is None,
        layout=arguments.layout,
        name=name,
    )


def pooling(
    x: Any, arguments: geometry.Pooling, kind: Kind, name: Optional[str] = None
) -> Any:
    """One pooling on an input of `kind`, arguments already checked."""
    return _mxnet.native_operator('pooling', kind)(
        _detour(x, kind),
        kernel=arguments.kernel,
        stride=arguments.stride,
        pad=arguments.pad,
        pool_type=arguments.mode,
        global_pool=arguments.global_pool,
        pooling_convention='full' if arguments.ceil_mode else 'valid',
        count_include_pad=arguments.count_include_pad,
        p_value=arguments.p,
        layout=arguments.layout,
        name=name,
    )
