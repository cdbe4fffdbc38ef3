"""The layers of a network, in the order in which data passes them."""

from __future__ import annotations

from typing import Any, Iterator, List, NamedTuple, Optional, Union

import numpy
from mxnet.gluon import nn as builtin
from mxnet.gluon.nn import conv_layers

from .. import geometry
from .._mxnet import mx
from ..nn import sequential


class Layer(NamedTuple):
    """A layer, and its name: its places in the `Sequential` blocks around it, and its class."""

    name: str
    block: Any


def is_chain(block: Any) -> bool:
    """Say whether a block does nothing but call its children one after the other."""
    for cls, method in (
        (sequential.HybridSequential, 'hybrid_forward'),
        (builtin.Sequential, 'forward'),
        (builtin.HybridSequential, 'hybrid_forward'),
    ):
        if isinstance(block, cls):
            return getattr(type(block), method) is getattr(cls, method)
    return False


def _walk(block: Any, places: List[str]) -> Iterator[Layer]:
    if is_chain(block):
        for place, child in block._children.items():
            yield from _walk(child, [*places, str(place)])
    else:
        yield Layer(' '.join(['.'.join(places), type(block).__name__]).strip(), block)


def layers_of(net: Any) -> List[Layer]:
    """Return the layers of a network; what is no chain of layers counts as one.

    Examples
    --------
    >>> from gluon_convpool import nn
    >>> from gluon_convpool.viz._layers import layers_of
    >>> inner, net = nn.HybridSequential(), nn.HybridSequential()
    >>> inner.add(nn.Conv2D(4, 3), nn.MaxPool2D())
    >>> net.add(inner, nn.Dense(10))
    >>> [layer.name for layer in layers_of(net)]
    ['0.0 Conv2D', '0.1 MaxPool2D', '1 Dense']
    """
    return list(_walk(net, []))


Arguments = Union[geometry.Convolution, geometry.Pooling]


def window_of(block: Any) -> Optional[Arguments]:
    """Return the arguments of a convolution or pooling layer, ours or MXNet's; None for others."""
    name = type(block).__name__
    if isinstance(block, conv_layers._Conv) and block._op_name.lower() == 'convolution':
        kwargs = block._kwargs
        arguments = geometry.convolution_arguments(
            name,
            kwargs['kernel'],
            kwargs['stride'],
            kwargs['pad'],
            kwargs['dilate'],
            kwargs['num_filter'],
            kwargs['num_group'],
            kwargs['layout'],
        )
        return arguments._replace(border=kwargs.get('border'))
    if isinstance(block, conv_layers._Pooling):
        kwargs = block._kwargs
        return geometry.pooling_arguments(
            name,
            kwargs['kernel'],
            kwargs['stride'],
            geometry.paired(kwargs['pad'], kwargs.get('behind')),
            kwargs['pool_type'],
            kwargs['pooling_convention'] == 'full',
            kwargs.get('count_include_pad', True),
            global_pool=kwargs['global_pool'],
            layout=kwargs['layout'],
        )
    return None


def to_mxnet(x: Any) -> Any:
    """Return `x` as an array that a block takes; NumPy's becomes one of the kind in force."""
    if isinstance(x, numpy.ndarray):
        kind = mx.np if mx.util.is_np_array() else mx.nd
        return kind.array(x.astype('float32'))
    return x
