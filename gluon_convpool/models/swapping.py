"""Built-in convolution and pooling layers of a network become ours, and back.

Our layers are subclasses of MXNet's and keep their state under the same names, so a layer is
replaced by giving it another class. It stays the same object: whoever holds it, its parameters,
their optimizer state, its hooks and its name are as they were.
"""

from __future__ import annotations

import copy
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple, Type

from mxnet.gluon.nn import conv_layers as builtin

from .. import functional, geometry, nn
from .._mxnet import mx
from ..nn import _common
from ..nn.conv import _Convolution
from ..nn.pool import _Pooling

DIRECTIONS = ('convpool', 'mxnet')
# What a subclass may not define if ours is to compute in its place.
_COMPUTING = ('__call__', 'forward', 'hybrid_forward', 'infer_shape')

_OURS: Dict[Type[Any], Type[Any]] = {
    cls.__bases__[1]: cls
    for cls in (
        nn.Conv2D,
        nn.MaxPool2D,
        nn.AvgPool2D,
        nn.GlobalMaxPool2D,
        nn.GlobalAvgPool2D,
    )
}


class Replaced(NamedTuple):
    """A layer that was replaced: where it is in the network, and the names of its two classes."""

    path: str
    before: str
    after: str


class Left(NamedTuple):
    """A layer that was left as it was, and why."""

    path: str
    layer: str
    reason: str


class SwapReport(NamedTuple):
    """What `swap` did.

    Attributes
    ----------
    net : gluon.Block
        The network that was changed: the one given, or its copy.
    replaced : list of Replaced
    left : list of Left
        Convolution and pooling layers, and blocks that hold a graph, that stayed as they were.
    """

    net: Any
    replaced: List[Replaced]
    left: List[Left]

    def __str__(self) -> str:
        lines = [f'{len(self.replaced)} layers replaced, {len(self.left)} left']
        lines += [f'  {path}: {before} -> {after}' for path, before, after in self.replaced]
        lines += [f'  {path}: {layer} left, {reason}' for path, layer, reason in self.left]
        return '\n'.join(lines)


def _walk(block: Any, path: str, seen: Dict[int, Any]) -> Iterator[Tuple[str, Any]]:
    """Yield every block once, with the names that lead to it."""
    if id(block) in seen:
        return
    seen[id(block)] = block
    yield path or '(itself)', block
    for name, child in block._children.items():
        yield from _walk(child, f'{path}.{name}' if path else name, seen)


_over: Dict[Type[Any], Type[Any]] = {}


def _ours_over(cls: Type[Any], base: Type[Any]) -> Type[Any]:
    """Return a class that computes as ours does for `base` and is a `cls` in everything else."""
    if cls in _over:
        return _over[cls]
    ours = _OURS[base]
    made = _over[cls] = type(
        cls.__name__,
        (ours, cls),
        {'__doc__': cls.__doc__, '__module__': cls.__module__, '_over': cls},
    )
    return made


def _our_class(layer: Any) -> Type[Any]:
    """Return the class that is to compute in the place of a built-in layer's.

    Raises
    ------
    ValueError
        With the reason if there is none.
    """
    cls = type(layer)
    if cls in _OURS:
        return _OURS[cls]
    base = next((one for one in cls.__mro__ if one in _OURS), None)
    if base is None:
        raise ValueError(f'gluon_convpool has no {cls.__name__}')
    for one in cls.__mro__[: cls.__mro__.index(base)]:
        for name in _COMPUTING:
            if name in vars(one):
                raise ValueError(f'{one.__name__} has a {name} of its own')
    return _ours_over(cls, base)


def _check_can_be_ours(layer: Any) -> None:
    kwargs = layer._kwargs
    if isinstance(layer, builtin._Conv):
        dtype = functional.dtype_name(layer.weight.dtype)
        if dtype not in functional.DTYPES:
            raise ValueError(f'its weight is {dtype}; ours are {" or ".join(functional.DTYPES)}')
        if layer._op_name != 'Convolution' and layer._op_name != 'convolution':
            raise ValueError(f'its operator is {layer._op_name}')
    elif kwargs['pooling_convention'] not in ('valid', 'full'):
        raise ValueError(f'its pooling_convention is {kwargs["pooling_convention"]!r}')


def _become_ours(layer: Any) -> None:
    cls, before = _our_class(layer), type(layer)
    _check_can_be_ours(layer)
    layer.__class__ = cls
    try:
        layer._prepare()
        _ = layer._arguments  # refuses what we do not compute
    except (TypeError, ValueError):
        _become_builtin(layer, before)
        raise
    activation = getattr(layer, 'act', None)
    if type(activation) is mx.gluon.nn.Activation:
        activation.__class__ = _common.Activation


def _builtin_class(layer: Any) -> Type[Any]:
    cls = type(layer)
    over: Optional[Type[Any]] = getattr(cls, '_over', None)
    if over is not None:
        return over
    if cls is nn.Pool2D:
        return builtin._Pooling
    if cls in _OURS.values():
        return cls.__bases__[1]
    raise ValueError(f'{cls.__name__} is a class over ours')


def _become_builtin(layer: Any, cls: Type[Any]) -> None:
    layer.__class__ = cls
    layer._kwargs.pop('algorithm', None)
    for name in ('_seen_kwargs', '_normalised', '_fits', '_fitting_weight', '_dtype'):
        vars(layer).pop(name, None)
    for name in ('_adds_to_data', '_traced_alone'):
        vars(layer).pop(name, None)
    activation = getattr(layer, 'act', None)
    if type(activation) is _common.Activation:
        activation.__class__ = mx.gluon.nn.Activation


def _forget_graphs(blocks: Iterable[Any]) -> None:
    """Let hybridized blocks trace their graphs anew in the next call."""
    for block in blocks:
        if isinstance(block, mx.gluon.HybridBlock) and not isinstance(block, mx.gluon.SymbolBlock):
            block._clear_cached_op()


def _copied(net: Any) -> Any:
    """Return a deep copy whose gradients work: MXNet's own copies are not known to autograd."""
    _forget_graphs(block for _, block in _walk(net, '', {}))  # they cannot be copied
    net = copy.deepcopy(net)
    for parameter in net.collect_params().values():
        if parameter._data is not None and parameter.grad_req != 'null':
            parameter._init_grad()
    return net


def _is_ours(block: Any) -> bool:
    return isinstance(block, (_Convolution, _Pooling))


def swap(net: Any, to: str = 'convpool', inplace: bool = True) -> SwapReport:
    """Replace the built-in convolution and pooling layers of a network by ours, or ours by them.

    Layers are found wherever they stand: nested, in blocks of your own, used in several places, as
    subclasses of a built-in layer that change nothing of how it computes. Each stays the same
    object with the same `Parameter` objects, so that a trainer that was made before goes on with
    its state.

    Parameters
    ----------
    net : gluon.Block
        Any network, initialised or not, hybridized or not.
    to : {'convpool', 'mxnet'}
        Whose layers it is to have.
    inplace : bool
        Change `net` itself, or a deep copy of it.

    Returns
    -------
    SwapReport
        The network, what was replaced, and what was left and why.

    Raises
    ------
    TypeError, ValueError
        If `net` is no block, or `to` is unknown.

    Examples
    --------
    >>> import gluon_convpool
    >>> from mxnet.gluon import nn
    >>> net = nn.HybridSequential()
    >>> net.add(nn.Conv2D(8, 3), nn.MaxPool2D(), nn.Conv1D(8, 3))
    >>> print(gluon_convpool.swap(net))
    2 layers replaced, 1 left
      0: Conv2D -> gluon_convpool Conv2D
      1: MaxPool2D -> gluon_convpool MaxPool2D
      2: Conv1D left, gluon_convpool has no Conv1D
    >>> len(gluon_convpool.swap(net, to='mxnet').replaced)
    2
    """
    if not isinstance(net, mx.gluon.Block):
        raise TypeError(f'swap: net must be a gluon.Block, not {type(net).__name__}')
    geometry.choice('swap', 'to', to, DIRECTIONS)
    report = SwapReport(net if inplace else _copied(net), [], [])
    blocks = list(_walk(report.net, '', {}))
    for path, block in blocks:
        before = type(block).__name__
        try:
            if to == 'mxnet':
                if not _is_ours(block):
                    continue
                _become_builtin(block, _builtin_class(block))
                names = ('gluon_convpool ' + before, type(block).__name__)
            else:
                if _is_ours(block):
                    continue
                if isinstance(block, mx.gluon.SymbolBlock):
                    raise ValueError('it holds a graph; gluon_convpool.optimize takes those')
                if not isinstance(block, (builtin._Conv, builtin._Pooling)):
                    continue
                _become_ours(block)
                names = (before, 'gluon_convpool ' + type(block).__name__)
        except (TypeError, ValueError) as error:
            report.left.append(Left(path, before, str(error)))
        else:
            report.replaced.append(Replaced(path, *names))
    if to == 'mxnet' and not any(_is_ours(block) for _, block in blocks):
        for parameter in report.net.collect_params().values():
            if type(parameter) is _common.WatchedParameter:
                parameter.__class__ = mx.gluon.Parameter
    if report.replaced:
        _forget_graphs(block for _, block in blocks)
    return report
