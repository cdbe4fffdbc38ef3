"""Calls MXNet's own convolution, where the native library has none and MXNet's is the faster one.

A layer that replaces MXNet's must not be slower than it: in float32 with the channels first,
MXNet's operator takes between a third and a fiftieth of the time of the portable backend.
"""

from __future__ import annotations

from typing import Any, Optional

from .. import _mxnet, geometry
from .._mxnet import Kind, mx
from . import portable

DTYPES = ('float32',)


def obstacle(
    op: str, arguments: Any, dtype: Optional[str] = None, device: Optional[str] = None
) -> str:
    """Why MXNet's operator is not to serve a call, or an empty string where it is."""
    if not isinstance(arguments, geometry.Convolution):
        return f'{op} is left to the portable backend'
    if arguments.layout[1] != 'C':
        return f"MXNet's {op} has no kernel for layout {arguments.layout}"
    if dtype is not None and dtype not in DTYPES:
        return f"MXNet's {op} is slow for {dtype}"
    return ''


def convolution(
    x: Any,
    weight: Any,
    bias: Optional[Any],
    arguments: geometry.Convolution,
    kind: Kind,
    name: Optional[str] = None,
    adds: Any = None,
) -> Any:
    """One convolution on inputs of one `kind`, arguments already checked."""
    if not kind.symbol and 0 in x.shape:
        return portable.convolution(x, weight, bias, arguments, kind, name, adds)
    if kind.symbol:
        x, weight = portable.with_checked_convolution(x, weight, arguments, kind)
    inputs = [_mxnet.to_world(one, False) for one in (x, weight, bias) if one is not None]
    out = (mx.sym if kind.symbol else mx.nd).Convolution(
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
    return _mxnet.to_world(out, kind.numpy)
