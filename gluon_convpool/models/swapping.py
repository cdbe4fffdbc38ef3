"""Built-in layers of a network become ours, and back: convolution, pooling, and what is between.

Our layers are subclasses of MXNet's and keep their state under the same names, so a layer is
replaced by giving it another class. It stays the same object: whoever holds it, its parameters,
their optimizer state, its hooks and its name are as they were.
"""

from __future__ import annotations

import copy
import functools
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple, Type

from mxnet.gluon.contrib.cnn import conv_layers as contrib
from mxnet.gluon.contrib.nn import basic_layers as concurrent
from mxnet.gluon.nn import basic_layers
from mxnet.gluon.nn import conv_layers as builtin

from .. import _mxnet, backends, functional, geometry, nn
from .._mxnet import mx, put_in_plain_order, release_threads
from ..nn import _common
from ..nn._kernel_layer import KernelLayer
from ..nn.batch_norm import _BatchNorm
from ..nn.conv_transpose import _ConvolutionTranspose
from ..nn.deformable_conv import Deformable
from ..nn.pool import AnyPooling, _Pooling
from ..nn.sequential import Joining, has_relu_behind_norm
from . import concatenation, operators
from .concatenation import Concatenating
from .graph import Graph

DIRECTIONS = ('convpool', 'mxnet')


class _Empty:
    pass


# What a subclass may define without a say in how a layer computes. Each Python adds its own names.
_HARMLESS = ('__init__', '__repr__', '__qualname__', *vars(_Empty))
# What our layers note beside what MXNet's do.
_NOTES = (
    '_seen_kwargs',
    '_normalised',
    '_fits',
    '_fitting_weight',
    '_dtype',
    '_adds_to_data',
    '_traced_alone',
)

OURS = (*nn.OURS, *concatenation.OURS)
# Ours by the built-in layer that each stands for.
_OURS: Dict[Type[Any], Type[Any]] = {
    cls.__bases__[1]: cls for cls in OURS if len(cls.__bases__) > 1
}


# The built-in layers that may be replaced.
BUILTIN = (
    builtin._Conv,
    builtin._Pooling,
    basic_layers.BatchNorm,
    contrib.DeformableConvolution,
    contrib.ModulatedDeformableConvolution,
    concurrent.HybridConcurrent,
    concurrent.Concurrent,
)

# Those by the general layers behind the built-in ones.
_GENERAL: Dict[Type[Any], Type[Any]] = {builtin._Conv: KernelLayer, builtin._Pooling: AnyPooling}


class Replaced(NamedTuple):
    """A layer that was replaced: where it is in the network, and the names of its two classes."""

    path: str
    before: str
    after: str

    def __str__(self) -> str:
        return f'{self.path}: {self.before} -> {self.after}'


class Left(NamedTuple):
    """A layer that was left as it was, and why."""

    path: str
    layer: str
    reason: str

    def __str__(self) -> str:
        return f'{self.path}: {self.layer} left, {self.reason}'


class SwapReport(NamedTuple):
    """What `swap` did.

    Attributes
    ----------
    net : gluon.Block
        The network that was changed: the one given, or its copy.
    replaced : list of Replaced
    left : list of Left
        Convolution and pooling layers, and blocks with a graph that holds some, that stayed as they
        were.

    Examples
    --------
    >>> import gluon_convpool
    >>> from mxnet.gluon import nn
    >>> report = gluon_convpool.swap(nn.MaxPool2D(2, padding=2))
    >>> report.left[0].reason
    'MaxPool2D: padding=(2, 2) must be smaller than pool_size=(2, 2) on every axis'
    """

    net: Any
    replaced: List[Replaced]
    left: List[Left]

    def __str__(self) -> str:
        lines = [f'{len(self.replaced)} layers replaced, {len(self.left)} left']
        return '\n'.join(lines + [f'  {entry}' for entry in [*self.replaced, *self.left]])


# --------------------------------------------------------------------------- finding


def _blocks_in(value: Any, path: str) -> Iterator[Tuple[str, Any]]:
    """Yield the blocks in lists, tuples, sets and dicts, with the words that lead to each."""
    if isinstance(value, mx.gluon.Block):
        yield path, value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _blocks_in(one, f'{path}[{key!r}]')
    elif isinstance(value, (list, tuple, set)):
        for i, one in enumerate(value):
            yield from _blocks_in(one, f'{path}[{i}]')


def _walk(block: Any, path: str, seen: Set[int]) -> Iterator[Tuple[str, Any]]:
    """Yield every block once, with the names that lead to it.

    Gluon knows the children; those in containers of a block's own it does not.
    """
    if id(block) in seen:
        return
    seen.add(id(block))
    yield path or '(itself)', block
    before = f'{path}.' if path else ''
    for name, child in block._children.items():
        yield from _walk(child, before + name, seen)
    for name, value in list(vars(block).items()):
        if name not in ('_children', '_scope'):
            for inner, child in _blocks_in(value, before + name):
                yield from _walk(child, inner, seen)


def _parameters(block: Any) -> Iterator[Any]:
    """Yield the parameters of a block, and those that it could share."""
    yield from block._reg_params.values()
    scope = block.params
    while scope is not None:
        yield from scope._params.values()
        scope = scope._shared


def _copy(net: Any) -> Any:
    """Return a copy of a network with the same parameters.

    Raises
    ------
    TypeError
        If a block has something that cannot be copied.
    """
    blocks = [block for _, block in _walk(net, '', set())]
    memo: Dict[int, Any] = {}
    for block in blocks:
        cls: Any = type(block)
        memo[id(block)] = cls.__new__(cls)
        memo.update((id(parameter), parameter) for parameter in _parameters(block))
    for block in blocks:
        state = dict(vars(block))
        if isinstance(block, mx.gluon.HybridBlock):
            # A compiled graph cannot be copied, and is made again by the first call.
            state.update(_cached_op=None, _cached_op_args=[])
            if not isinstance(block, mx.gluon.SymbolBlock):
                state.update(_cached_graph=())
        try:
            vars(memo[id(block)]).update(copy.deepcopy(state, memo))
        except Exception as error:
            raise TypeError(
                f'swap: {block.name} ({type(block).__name__}) cannot be copied: {error}; with'
                ' inplace=True nothing is'
            ) from error
    return memo[id(net)]


# --------------------------------------------------------------------------- one layer


def _is_ours(block: Any) -> bool:
    ours = (KernelLayer, _Pooling, _BatchNorm, Deformable, Joining, Concatenating)
    return isinstance(block, ours)


def _revive(cls: Any, ours: Any) -> Any:
    over = _ours_over(cls, ours)
    return over.__new__(over)


@functools.lru_cache(maxsize=None)
def _ours_over(cls: Any, ours: Any) -> Any:
    """Return a class that computes as `ours` does and is a `cls` in everything else."""

    def reduce(self: Any, protocol: Any) -> Any:
        return _revive, (cls, ours), vars(self)

    return type(cls)(
        cls.__name__,
        (cls, ours),
        {
            '__doc__': cls.__doc__,
            '__module__': cls.__module__,
            '__reduce_ex__': reduce,
            '_swapped_from': cls,
        },
    )


def _computes(layer: Any, ours: Type[Any]) -> bool:
    """Say whether the operator of a general layer is the one that `ours` stands for."""
    if not issubclass(ours, KernelLayer):
        return True
    return layer._op_name in ours._builtin_operators.values()


def _our_class(layer: Any) -> Any:
    """Return the class that is to compute in the place of a built-in layer's.

    Raises
    ------
    ValueError
        With the reason if there is none.
    """
    cls: Any = type(layer)
    base = next((one for one in cls.__mro__ if one in _OURS), None)
    if base is not None:
        ours: Any = _OURS[base]
    else:
        base = next(one for one in cls.__mro__ if one in _GENERAL)
        ndim = len(layer._kwargs['kernel'])
        general = (one for one in nn.OURS if issubclass(one, _GENERAL[base]) and one.ndim == ndim)
        fitting = [one for one in general if _computes(layer, one)]
        if not fitting:
            raise ValueError(f'gluon_convpool has no {cls.__name__}')
        ours = fitting[0]
    own = cls.__mro__[: cls.__mro__.index(base)]
    our_names = {
        name for one in ours.__mro__[: ours.__mro__.index(base)] for name in vars(one)
    } - set(_HARMLESS)
    for one in own:
        for name in vars(one):
            if name in our_names:
                raise ValueError(f'{one.__name__} has a {name} of its own')
    return _ours_over(cls, ours) if own else ours


def _obstacle(layer: Any, dtype: Optional[str]) -> str:
    """Say why ours would be slower than the built-in layer, or return an empty string."""
    if backends.current() == 'portable':
        return ''
    if isinstance(layer, (_BatchNorm, Joining, Concatenating)):
        status = _mxnet.native_status()
        if not status.available:
            return status.reason
        if not isinstance(layer, _BatchNorm):
            return ''
        if dtype is None:
            return 'the parameters around it are of several types'
        return layer.obstacle()
    op, device, arguments = 'pooling', None, layer._arguments
    if isinstance(layer, (KernelLayer, Deformable)):
        weight = layer.weight
        op, dtype = layer.op, functional.dtype_name(weight.dtype)
        contexts = weight._ctx_list or ()
        device = next((one.device_type for one in contexts if one.device_type != 'cpu'), None)
        if op == 'convolution_transpose':
            return 'transposed convolutions of ours are not faster'
    if isinstance(layer, Deformable):
        arguments = layer._arguments[2]
    return backends.obstacle(op, arguments, dtype, device)


def _become_ours(layer: Any, dtype: Optional[str]) -> None:
    cls, before = _our_class(layer), type(layer)
    if getattr(layer, '_kwargs', {}).get('pooling_convention', 'full') not in ('valid', 'full'):
        raise ValueError(f'its pooling_convention is {layer._kwargs["pooling_convention"]!r}')
    layer.__class__ = cls
    try:
        layer._prepare()
        reason = _obstacle(layer, dtype)
        if reason:
            raise ValueError(reason)
    except (TypeError, ValueError):
        _become_builtin(layer, before)
        raise
    if isinstance(layer, _Pooling):
        layer._dtype = dtype
    for parameter in layer._reg_params.values():
        for array in [*(parameter._data or ()), *(parameter._grad or ())]:
            put_in_plain_order(array)
    activation = getattr(layer, 'act', None)
    if type(activation) is mx.gluon.nn.Activation:
        activation.__class__ = _common.Activation


def _builtin_class(layer: Any) -> Type[Any]:
    """Return the class that a layer of ours had, or would have, without us.

    Raises
    ------
    ValueError
        If the layer is of a subclass of ours, which computes in a way of its own.
    """
    cls = type(layer)
    before: Optional[Type[Any]] = vars(cls).get('_swapped_from')
    if before is not None:
        return before
    if cls in OURS:
        border = getattr(layer, '_kwargs', {}).get('border')
        if border is not None:
            raise ValueError(f'MXNet has no padding={border.pairs} with {border.mode}')
        if 'behind' in getattr(layer, '_kwargs', {}):
            raise ValueError(f'MXNet has no padding={layer._arguments.padding} of a pooling')
        if isinstance(layer, _ConvolutionTranspose) and any(layer._arguments.cut):
            padding = layer._arguments.padding
            raise ValueError(f'MXNet has no padding={padding} of a transposed convolution')
        return next(one for one in cls.__mro__ if one.__module__.startswith('mxnet.'))
    raise ValueError(f'{cls.__name__} is a subclass of {cls.__bases__[0].__name__} of ours')


def _become_builtin(layer: Any, cls: Type[Any]) -> None:
    layer.__class__ = cls
    getattr(layer, '_kwargs', {}).pop('algorithm', None)
    for name in _NOTES:
        vars(layer).pop(name, None)
    activation = getattr(layer, 'act', None)
    if type(activation) is _common.Activation:
        activation.__class__ = mx.gluon.nn.Activation


def _inner_layers(block: Any) -> str:
    """Say what a block with a graph holds for which ours would do, or return an empty string."""
    nodes = Graph(block._cached_graph[1], {}).nodes()
    count = sum(node.op in operators.CONVOLUTION | operators.POOLING for node in nodes)
    return f'it holds a graph with {count} of them, which optimize() takes' if count else ''


# --------------------------------------------------------------------------- the network


def _one_dtype(net: Any) -> Optional[str]:
    """Return the dtype of all parameters of a network, or None if they have several."""
    dtypes = {functional.dtype_name(one.dtype) for one in net.collect_params().values()}
    return dtypes.pop() if len(dtypes) == 1 else None


def _swap_block(block: Any, to: str, dtype: Optional[str]) -> Optional[Tuple[str, str]]:
    """Replace one block and return the names of its classes; None where there is nothing to do.

    Raises
    ------
    ValueError, TypeError
        With the reason why it has to stay.
    """
    before = type(block).__name__
    if _is_ours(block):
        if to == 'convpool':
            return None
        _become_builtin(block, _builtin_class(block))
        return f'gluon_convpool {before}', type(block).__name__
    if to == 'mxnet':
        return None
    if isinstance(block, mx.gluon.SymbolBlock):
        words = _inner_layers(block)
        if words:
            raise ValueError(words)
        return None
    in_a_row = type(block) is basic_layers.HybridSequential and has_relu_behind_norm(block)
    if not (in_a_row or isinstance(block, BUILTIN)):
        return None
    _become_ours(block, dtype)
    return before, f'gluon_convpool {type(block).__name__}'


def swap(net: Any, to: str = 'convpool', inplace: bool = True) -> SwapReport:
    """Replace the built-in layers of a network by ours, or ours by them.

    Convolution and pooling layers; batch norms and concurrent blocks between them, since MXNet's
    are slow on the arrays that our layers give; and sequential blocks with a ReLU behind a batch
    norm, which ours compute as one.

    Layers are found wherever they stand: nested, in blocks of your own and their lists, used in
    several places, as subclasses of a built-in layer that change nothing of how it computes. Each
    stays the same object with the same `Parameter` objects, so that a trainer that was made before
    goes on with its state. Graphs of hybridized blocks are traced anew by the next call.

    Layers that ours would not make faster are left: those for which the native backend has no
    kernel (some dimensions, layouts and types, transposed ones), and subclasses with a `forward` of
    their own.

    Parameters
    ----------
    net : gluon.Block
        Any network, initialised or not, hybridized or not.
    to : {'convpool', 'mxnet'}
        Whose layers it is to have.
    inplace : bool
        Change `net` itself, or a copy of it, which has the same parameters.

    Returns
    -------
    SwapReport
        The network, what was replaced, and what was left and why.

    Raises
    ------
    TypeError, ValueError
        If `net` is no block or cannot be copied, or `to` is unknown.

    Notes
    -----
    A hybridized network around `net` that has been called keeps the graph it has; swap the
    outermost one. On the way back, a layer forgets its `algorithm`, and a maximum is again
    what MXNet makes of NaN.

    Examples
    --------
    >>> import gluon_convpool
    >>> from mxnet.gluon import nn
    >>> net = nn.HybridSequential()
    >>> net.add(nn.Conv2D(8, 3), nn.MaxPool2D(), nn.Conv2DTranspose(8, 3))
    >>> report = gluon_convpool.swap(net)
    >>> len(report.replaced) + len(report.left)
    3
    >>> print(report.left[-1])
    2: Conv2DTranspose left, transposed convolutions of ours are not faster
    >>> back = gluon_convpool.swap(net, to='mxnet')
    >>> type(net[0]) is nn.Conv2D
    True
    """
    if not isinstance(net, mx.gluon.Block):
        raise TypeError(f'swap: net must be a gluon.Block, not {type(net).__name__}')
    geometry.choice('swap', 'to', to, DIRECTIONS)
    report = SwapReport(net if inplace else _copy(net), [], [])
    blocks = list(_walk(report.net, '', set()))
    dtype = _one_dtype(report.net)
    for path, block in blocks:
        before = type(block).__name__
        try:
            names = _swap_block(block, to, dtype)
        except (TypeError, ValueError) as error:
            report.left.append(Left(path, before, str(error)))
        else:
            if names is None:
                continue
            report.replaced.append(Replaced(path, *names))
            if to == 'mxnet' and inplace:
                for parameter in block._reg_params.values():
                    _common.unwatch(parameter)
    if report.replaced:
        for _, block in blocks:
            if isinstance(block, mx.gluon.HybridBlock):
                block._clear_cached_op()
        release_threads()
    return report
