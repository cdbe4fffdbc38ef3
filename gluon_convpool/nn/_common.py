"""What the blocks of convolution and pooling share."""

from __future__ import annotations

import gc
import inspect
import weakref
from typing import Any, Dict, Optional, Tuple

from .. import backends, geometry
from .._mxnet import Kind, kind_of, mx, to_world
from ..backends import native

DeferredInitializationError = mx.gluon.parameter.DeferredInitializationError


def array_kind(block: Any, x: Any) -> Kind:
    """The kind of `x`, the data of `block`."""
    kind = kind_of(x)
    if kind is None:
        raise TypeError(
            f'{type(block).__name__}: the data must be an array or a symbol of MXNet, not'
            f' {type(x).__name__}'
        )
    return kind


class DataGradient:
    """Mixin for a block of one input: whether its graph must add to the input's gradient.

    The detour that makes an extension operator add (see ``backends.native``) copies what comes
    from outside a graph. A block that is hybridized alone sees whether its data owns a gradient,
    and traces its graph without the detour until one does.
    """

    _active: bool
    _reg_params: Dict[str, Any]
    _cached_op: Any
    _cached_op_args: Any
    _callback: Any
    _adds_to_data = False
    _traced_alone = False

    def _forward_array(self, x: Any, context: Any) -> Any:
        """Compute at once, without a graph.

        Gluon's own forward does the same, and looks up the kind and the device of everything once
        more, which takes some 7 of a small layer's 100 microseconds.
        """
        try:
            parameters = {name: one.data(context) for name, one in self._reg_params.items()}
        except DeferredInitializationError:
            return super().forward(x)  # type: ignore[misc]
        with context:
            return self.hybrid_forward(mx.nd, x, **parameters)  # type: ignore[attr-defined]

    def _forward_alone(self, x: Any, context: Any) -> Any:
        """Compute by the block's own graph.

        Where it is traced already, Gluon's own forward does the same, and looks at the arguments
        once more, which takes some 10 of a small layer's 35 microseconds.
        """
        if not self._adds_to_data and mx.autograd.is_recording() and x.grad is not None:
            self._adds_to_data = True
            self._clear_cached_op()  # type: ignore[attr-defined]
        graph = self._cached_op
        if graph is not None and not self._callback:
            inputs = self._cached_op_args
            return graph(*[x if is_data else one.data(context) for is_data, one in inputs])
        self._traced_alone = True
        try:
            return super().forward(x)  # type: ignore[misc]
        finally:
            self._traced_alone = False

    def _data_adds(self) -> Optional[bool]:
        return False if self._traced_alone and not self._adds_to_data else None


# Parameters in graphs that were traced, outside of autograd.record(), without the detour.
_without_detour: weakref.WeakSet = weakref.WeakSet()


# How many users without the detour one array of a graph may have. With one node more they are still
# fewer than the 8 gradients whose sum MXNet turns into in-place additions.
_USERS_WITHOUT_DETOUR = 6


class _Link:
    """What stands for a parameter in the graph that is being traced, for a few users."""

    def __init__(self, symbol: Any) -> None:
        self._symbol = symbol
        self._users = 0

    def next_user(self, kind: Kind) -> Any:
        """The symbol for one user more: nodes in a chain sum up any number of gradients."""
        symbol = to_world(self._symbol, kind.numpy)
        if self._users == _USERS_WITHOUT_DETOUR:
            symbol, self._users = native.detour_in_graph(symbol, kind), 0
        self._symbol = symbol
        self._users += 1
        return symbol

    def __reduce__(self) -> Any:
        # a copied parameter has a variable of its own, and no graph yet
        return type(None), ()


class WatchedParameter(mx.gluon.Parameter):
    """A parameter that has graphs traced anew when its gradient is to be added up.

    Copying a weight in each call costs up to half of a small inference, so that graphs traced
    outside of training do without; this is what makes that safe.
    """

    _link: Optional[_Link] = None

    def data(self, ctx: Any = None) -> Any:
        # Gluon asks for the array after it has traced a graph, and never while it does.
        if self._link is not None:
            self._link = None
        return mx.gluon.Parameter.data(self, ctx)

    def cast(self, dtype: Any) -> None:
        # MXNet keeps the variable, which is of the dtype before
        self._var = self._link = None
        mx.gluon.Parameter.cast(self, dtype)

    @property
    def grad_req(self) -> str:
        return mx.gluon.Parameter.grad_req.fget(self)

    @grad_req.setter
    def grad_req(self, request: str) -> None:
        mx.gluon.Parameter.grad_req.fset(self, request)
        if request == 'add' and self in _without_detour:
            _clear_graphs_without_detour()


def _clear_graphs_without_detour() -> None:
    for block in gc.get_objects():
        # not isinstance(), which asks proxy objects of other libraries for their class
        if (
            issubclass(type(block), mx.gluon.HybridBlock)
            and not issubclass(type(block), mx.gluon.SymbolBlock)
            and getattr(block, '_cached_graph', None)
            and any(p in _without_detour for p in block.collect_params().values())
        ):
            block._clear_cached_op()
    _without_detour.clear()


def watch(parameter: Any) -> None:
    """Make `parameter` a `WatchedParameter`; it stays the same object."""
    if type(parameter) is mx.gluon.Parameter:
        parameter.__class__ = WatchedParameter


def unwatch(parameter: Any) -> None:
    """Make `parameter` a plain one again; it stays the same object."""
    if isinstance(parameter, WatchedParameter):
        if parameter in _without_detour:
            _clear_graphs_without_detour()
        parameter.__dict__.pop('_link', None)
        parameter.__class__ = mx.gluon.Parameter


def parameter_input(parameter: Any, value: Any, kind: Kind) -> Tuple[Any, Optional[bool]]:
    """What an operator gets for `value`, the array or symbol of `parameter`.

    And whether it may have to add to the gradient of that; None for unknown.
    """
    if parameter.grad_req == 'add':
        return value, True
    if not kind.symbol:
        return value, False
    if mx.autograd.is_recording() or not isinstance(parameter, WatchedParameter):
        return value, None
    _without_detour.add(parameter)
    if parameter._link is None:
        parameter._link = _Link(value)
    return parameter._link.next_user(kind), False


def check_keywords(layer: Any, keywords: Dict[str, Any]) -> None:
    """Refuse keywords that the constructor of a layer of ours, or the one it inherits, lacks.

    Raises
    ------
    TypeError
        Naming the class, the keyword and what is allowed.
    """
    package = __name__.rpartition('.')[0]
    cls = next(one for one in type(layer).__mro__ if one.__module__.startswith(package))
    allowed = []
    for name, parameter in inspect.signature(cls).parameters.items():
        every = parameter.kind is inspect.Parameter.VAR_KEYWORD
        allowed += ['prefix', 'params'] if every else [name]
    for name, value in keywords.items():
        if name not in allowed:
            words = {'name': name, 'value': repr(value), 'allowed': ', '.join(allowed)}
            raise TypeError(geometry.message('unknown_keyword', op=type(layer).__name__, **words))


def bound_arguments(
    layer: Any, signature: inspect.Signature, args: Any, kwargs: Dict[str, Any]
) -> inspect.BoundArguments:
    """What `layer` was constructed with, defaults included.

    Raises
    ------
    TypeError
        For what does not fit its signature, naming the class.
    """
    check_keywords(layer, kwargs)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        words = {'op': type(layer).__name__, 'problem': error}
        raise TypeError(geometry.message('wrong_call', **words)) from None
    bound.apply_defaults()
    return bound


def fill_in_signature(cls: Any, doc: str, texts: Dict[str, str], **values: Any) -> None:
    """Give a thin class the signature of the built-in layer under it, and a filled-in docstring.

    The built-in is the base of `cls` after ours; a class without one has set its own signature.
    What the constructor of ours takes by keyword beyond the built-in's stands in the signature too.
    `texts` says of each parameter that a class may have what stands behind its name.
    """
    if len(cls.__bases__) > 1:
        own = inspect.signature(cls.__init__).parameters.values()
        signature = inspect.signature(cls.__bases__[1].__init__)
        parameters = list(signature.parameters.values())[1:]
        cls._builtin_signature = signature.replace(parameters=parameters)
        extra = [p.replace(annotation=p.empty) for p in own if p.kind is p.KEYWORD_ONLY]
        last = len(parameters)
        if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
            last -= 1
        cls.__signature__ = signature.replace(
            parameters=parameters[:last] + extra + parameters[last:]
        )
    if not vars(cls).get('__doc__'):
        listed = '\n'.join(texts[name] for name in inspect.signature(cls).parameters)
        template = doc.replace('{parameters}', listed)
        cls.__doc__ = template.format(name=cls.__name__, **values)


class Activation(mx.gluon.nn.Activation):
    """MXNet's activation, also where its data is empty.

    MXNet's one operator for all activations refuses empty arrays; the single operators don't.
    """

    _SINGLE_OPERATORS = ('relu', 'sigmoid', 'softsign', 'tanh')

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        backends.check_activation(self._act_type)
        if self._act_type not in self._SINGLE_OPERATORS:
            return super().hybrid_forward(F, x)
        kind = kind_of(x)
        assert kind is not None
        operator = getattr(mx.sym if kind.symbol else mx.nd, self._act_type)
        return to_world(operator(to_world(x, False), name='fwd'), kind.numpy)
