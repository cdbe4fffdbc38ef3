"""The Gluon block of pooling, and the thin names over it."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Dict, Optional

from mxnet.gluon.nn import conv_layers as builtin

from .. import functional, geometry
from .._mxnet import kind_of
from ._common import (
    DataGradient,
    array_kind,
    bound_arguments,
    check_keywords,
    fill_in_signature,
)

_DROP_IN = """{ndim}-D {what} pooling, a drop-in for ``mxnet.gluon.nn.{name}``.

Signature and defaults are the built-in layer's, and ``isinstance(layer, mxnet.gluon.nn.{name})``
holds.
"""

_ANY_MODE = """{ndim}-D pooling of any mode, in one layer.
"""

_REST = """
Parameters
----------
{parameters}

Raises
------
TypeError, ValueError
    For a wrong argument when constructed and for unfitting data when called, before anything is
    computed. Both name the argument, its value and what is allowed.

Notes
-----
Input and output are arrays (or symbols) of {axes} axes in the order of `layout`: float32, float64,
float16 (computed in float32){integers}. {size}{nan}

Examples
--------
>>> from gluon_convpool import nn
>>> from mxnet import np, npx
>>> npx.set_np()
>>> nn.{name}({call})(np.ones((1, 3, {sizes}))).shape
(1, 3, {result})
>>> npx.reset_np()
"""

_SIZE = """Along an axis of n elements the output has
``floor((n + 2 * padding - pool_size) / strides) + 1``, with `ceil_mode` rounded up instead of
down, and of a pair of paddings the sum in the place of ``2 * padding``."""
_GLOBAL_SIZE = 'Each spatial axis of the output has one element.'
_INTEGERS = {
    'max': ', int8, uint8, int32 or int64',
    'avg': ', int8, uint8, int32 or int64 (rounded down)',
    '': """; but for 'lp' also int8, uint8, int32 or int64, where
averages are rounded down and sums stay in the range of the dtype""",
}
_NAN = ' The maximum of a window that holds NaN is NaN.'

_PARAMETERS = {
    'pool_size': """pool_size : int or tuple of {ndim} int
    Size of the window, in elements: one value for all spatial axes or one per axis.""",
    'strides': """strides : int or tuple of {ndim} int, optional
    Step from one window to the next; by default the window's size.""",
    'padding': """padding : int, tuple of {ndim} int, tuple of {ndim} pairs, 'same' or 'valid'
    Elements added on both sides of each axis, fewer than the window has; or a pair (before, behind)
    for each. 'valid' adds none, and 'same' adds ``pool_size - 1`` in all, the smaller half in
    front, so that the output has ``ceil(n / strides)`` elements. They are zeros to an average and
    a sum, and never the maximum.""",
    'mode': """mode : {{'max', 'avg', 'sum', 'lp'}}
    What a window becomes. 'lp' is ``(sum of x**p) ** (1/p)``.""",
    'ceil_mode': """ceil_mode : bool
    Also keep a last window that is only partly filled; not with padding whose sides differ.""",
    'count_include_pad': """count_include_pad : bool, optional
    Whether an average counts padded elements, which are zeros; None means True.""",
    'p': """p : {{1, 2, 3}}
    The power of 'lp'.""",
    'global_pool': """global_pool : bool
    One window over all of the data, whatever `pool_size`, `strides` and `padding` say.""",
    'layout': """layout : str
    One of {layouts}.""",
    'kwargs': """**kwargs
    ``prefix`` and ``params``, as in every Gluon block.""",
}


class _Pooling(DataGradient, builtin._Pooling):
    """Pooling over any number of spatial axes; subclasses fix that, the mode and the built-in.

    A subclass names a built-in layer as its second base, whose constructor runs after the
    arguments were checked here.
    """

    ndim: ClassVar[int]
    mode: ClassVar[str]
    global_pool: ClassVar[bool] = False
    _builtin_signature: ClassVar[inspect.Signature]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if 'ndim' in vars(cls):
            mode = {'max': 'maximum', 'avg': 'average'}.get(cls.mode, cls.mode)
            takes_mode = len(cls.__bases__) == 1
            fill_in_signature(
                cls,
                (_ANY_MODE if takes_mode else _DROP_IN) + _REST,
                _PARAMETERS,
                ndim=cls.ndim,
                axes=cls.ndim + 2,
                what=f'global {mode}' if cls.global_pool else mode,
                layouts=', '.join(map(repr, geometry.LAYOUTS[cls.ndim])),
                size=_GLOBAL_SIZE if cls.global_pool else _SIZE,
                nan=_NAN if cls.mode == 'max' else '',
                integers=_INTEGERS['' if takes_mode else cls.mode],
                call="mode='lp', p=2" if takes_mode else '',
                sizes=', '.join(['8'] * cls.ndim),
                result=', '.join(['1' if cls.global_pool else '4'] * cls.ndim),
            )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = bound_arguments(self, self._builtin_signature, args, kwargs)
        given: Dict[str, Any] = bound.arguments
        arguments = geometry.pooling_arguments(
            type(self).__name__,
            given.get('pool_size', 1),
            given.get('strides'),
            given.get('padding', 0),
            self.mode,
            given.get('ceil_mode', False),
            given.get('count_include_pad', True),
            global_pool=self.global_pool,
            layout=given['layout'],
            ndim=self.ndim,
        )
        if not self.global_pool:
            given.update(
                pool_size=arguments.kernel, strides=arguments.stride, padding=arguments.pad
            )
        super().__init__(*bound.args, **bound.kwargs)
        self._pad_behind(arguments)
        self._prepare()

    def _pad_behind(self, arguments: geometry.Pooling) -> None:
        """Note padding that MXNet's operator has no attribute for."""
        if arguments.behind is not None:
            self._kwargs['behind'] = arguments.behind

    def _prepare(self) -> None:
        self._seen_kwargs: Dict[str, Any] = {}
        self._normalised: Optional[geometry.Pooling] = None
        # What a graph is traced for: symbols don't know it. None until cast or data tells.
        self._dtype: Optional[str] = None
        self._fits: Any = None

    @property
    def _arguments(self) -> geometry.Pooling:
        # Users change `_kwargs` of built-in layers after construction.
        kwargs = self._kwargs
        if self._normalised is None or kwargs != self._seen_kwargs:
            self._normalised = geometry.pooling_arguments(
                type(self).__name__,
                kwargs['kernel'],
                kwargs['stride'],
                geometry.paired(kwargs['pad'], kwargs.get('behind')),
                kwargs['pool_type'],
                kwargs['pooling_convention'] == 'full',
                kwargs.get('count_include_pad', True),
                kwargs.get('p_value', 2),
                kwargs['global_pool'],
                kwargs['layout'],
                self.ndim,
            )
            self._seen_kwargs = dict(kwargs)
        return self._normalised

    def cast(self, dtype: Any) -> None:
        super().cast(dtype)
        self._dtype = functional.dtype_name(dtype)
        self._fits = None

    def forward(self, x: Any) -> Any:
        if array_kind(self, x).symbol:
            return super().forward(x)
        self._check(x)
        context = x.ctx
        return self._forward_alone(x, context) if self._active else self._forward_array(x, context)

    def _check(self, x: Any) -> None:
        """Refuse an array that does not fit, before a graph runs."""
        arguments = self._arguments
        # Most calls are like the one before.
        seen = (arguments, x.shape, x.dtype)
        if seen == self._fits:
            return
        dtype, _ = functional.check_pooled(arguments, x)
        geometry.pooling_shape(arguments, x.shape)
        if dtype != self._dtype:
            # a graph traced for another dtype may have chosen a backend that lacks this one
            self._dtype = dtype
            self._clear_cached_op()
        self._fits = seen

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        kind = kind_of(x)
        assert kind is not None
        if kind.symbol:
            dtype, device = self._dtype, None
        else:
            dtype, device = functional.dtype_name(x.dtype), x.ctx.device_type
        return functional.call_pooling(
            x, self._arguments, kind, dtype, device, name='fwd', adds=(self._data_adds(),)
        )

    def __repr__(self) -> str:
        arguments = self._arguments
        shown = (f'padding={value}' for value in (self._kwargs['pad'], arguments.padding))
        return super().__repr__().replace(*shown, 1)


class MaxPool1D(_Pooling, builtin.MaxPool1D):
    ndim, mode = 1, 'max'


class MaxPool2D(_Pooling, builtin.MaxPool2D):
    ndim, mode = 2, 'max'


class MaxPool3D(_Pooling, builtin.MaxPool3D):
    ndim, mode = 3, 'max'


class AvgPool1D(_Pooling, builtin.AvgPool1D):
    ndim, mode = 1, 'avg'


class AvgPool2D(_Pooling, builtin.AvgPool2D):
    ndim, mode = 2, 'avg'


class AvgPool3D(_Pooling, builtin.AvgPool3D):
    ndim, mode = 3, 'avg'


class GlobalMaxPool1D(_Pooling, builtin.GlobalMaxPool1D):
    ndim, mode, global_pool = 1, 'max', True


class GlobalMaxPool2D(_Pooling, builtin.GlobalMaxPool2D):
    ndim, mode, global_pool = 2, 'max', True


class GlobalMaxPool3D(_Pooling, builtin.GlobalMaxPool3D):
    ndim, mode, global_pool = 3, 'max', True


class GlobalAvgPool1D(_Pooling, builtin.GlobalAvgPool1D):
    ndim, mode, global_pool = 1, 'avg', True


class GlobalAvgPool2D(_Pooling, builtin.GlobalAvgPool2D):
    ndim, mode, global_pool = 2, 'avg', True


class GlobalAvgPool3D(_Pooling, builtin.GlobalAvgPool3D):
    ndim, mode, global_pool = 3, 'avg', True


class AnyPooling(_Pooling):
    """Pooling whose mode is an argument; subclasses fix the number of axes and its defaults."""

    mode = 'max'

    def __init_subclass__(cls, **kwargs: Any) -> None:
        signature = inspect.signature(AnyPooling.__init__)
        usual = {'pool_size': (2,) * cls.ndim, 'layout': geometry.LAYOUTS[cls.ndim][0]}
        cls.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[
                one.replace(default=usual.get(name, one.default), annotation=one.empty)
                for name, one in list(signature.parameters.items())[1:]
            ]
        )
        super().__init_subclass__(**kwargs)

    def __init__(
        self,
        pool_size: Any = 2,
        strides: Any = None,
        padding: Any = 0,
        mode: str = 'max',
        ceil_mode: bool = False,
        count_include_pad: Optional[bool] = True,
        p: int = 2,
        global_pool: bool = False,
        layout: Optional[str] = None,
        **kwargs: Any,
    ) -> None:
        check_keywords(self, kwargs)
        checked = geometry.pooling_arguments(
            type(self).__name__,
            pool_size,
            strides,
            padding,
            mode,
            ceil_mode,
            count_include_pad,
            p,
            global_pool,
            geometry.LAYOUTS[self.ndim][0] if layout is None else layout,
            self.ndim,
        )
        builtin._Pooling.__init__(
            self,
            checked.kernel,
            checked.stride,
            checked.pad,
            checked.ceil_mode,
            checked.global_pool,
            checked.mode,
            checked.layout,
            checked.count_include_pad if checked.mode == 'avg' else None,
            **kwargs,
        )
        if checked.mode == 'lp':
            self._kwargs['p_value'] = checked.p
        self._pad_behind(checked)
        self._prepare()

    def __repr__(self) -> str:
        text, arguments = super().__repr__(), self._arguments
        return text if arguments.mode != 'lp' else f'{text[:-1]}, p={arguments.p})'


class Pool1D(AnyPooling):
    ndim = 1


class Pool2D(AnyPooling):
    ndim = 2


class Pool3D(AnyPooling):
    ndim = 3
