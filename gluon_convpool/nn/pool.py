"""The Gluon block of pooling, and the thin names over it."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Dict, Optional

from mxnet.gluon.nn import conv_layers as builtin

from .. import functional, geometry
from .._mxnet import kind_of
from ._common import DataGradient, array_kind, fill_in_signature

_INTRODUCTION = """{ndim}-D {what} pooling, a drop-in for ``mxnet.gluon.nn.{name}``.

Signature and defaults are the built-in layer's, and ``isinstance(layer, mxnet.gluon.nn.{name})``
holds.

Parameters
----------
"""

_WINDOW = """pool_size : int or tuple of {ndim} int
    Size of the window.
strides : int or tuple of {ndim} int, optional
    Step between windows; by default the window's size.
padding : int or tuple of {ndim} int
    Added on both sides of each axis; must be smaller than the window.
ceil_mode : bool
    Also keep a last window that is only partly filled.
"""

_COUNT = """count_include_pad : bool
    Whether padded positions count in the average.
"""

_REST = """layout : str
    One of {layouts}.
prefix, params
    As in every Gluon block.

Raises
------
TypeError, ValueError
    For a wrong argument when constructed and for unfitting data when called, before anything is
    computed. Both name the argument, its value and what is allowed.

Notes
-----
Input and output are float32 or float64 arrays (or symbols) of {axes} axes in the order of
`layout`.{note}

Examples
--------
>>> from gluon_convpool import nn
>>> from mxnet import np, npx
>>> npx.set_np()
>>> nn.{name}()(np.ones((1, 3, {sizes}))).shape
(1, 3, {result})
>>> npx.reset_np()
"""


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
            what = {'max': 'maximum', 'avg': 'average'}.get(cls.mode, cls.mode)
            fill_in_signature(
                cls,
                _INTRODUCTION
                + ('' if cls.global_pool else _WINDOW)
                + (_COUNT if cls.mode == 'avg' and not cls.global_pool else '')
                + _REST,
                ndim=cls.ndim,
                axes=cls.ndim + 2,
                what=f'global {what}' if cls.global_pool else what,
                layouts=', '.join(map(repr, geometry.LAYOUTS[cls.ndim])),
                note=' A NaN in a window makes its maximum NaN.' if cls.mode == 'max' else '',
                sizes=', '.join(['8'] * cls.ndim),
                result=', '.join(['1' if cls.global_pool else '4'] * cls.ndim),
            )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = self._builtin_signature.bind(*args, **kwargs)
        bound.apply_defaults()
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
        self._prepare()

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
                kwargs['pad'],
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
        return self._forward_alone(x) if self._active else super().forward(x)

    def _check(self, x: Any) -> None:
        """Refuse an array that does not fit, before a graph runs."""
        arguments = self._arguments
        # Most calls are like the one before.
        seen = (arguments, x.shape, x.dtype)
        if seen == self._fits:
            return
        dtype, _ = functional.check_arrays('pooling', (x,))
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


class MaxPool2D(_Pooling, builtin.MaxPool2D):
    ndim, mode = 2, 'max'


class AvgPool2D(_Pooling, builtin.AvgPool2D):
    ndim, mode = 2, 'avg'


class GlobalMaxPool2D(_Pooling, builtin.GlobalMaxPool2D):
    ndim, mode, global_pool = 2, 'max', True


class GlobalAvgPool2D(_Pooling, builtin.GlobalAvgPool2D):
    ndim, mode, global_pool = 2, 'avg', True


class Pool2D(_Pooling):
    """2-D pooling of any mode.

    Parameters
    ----------
    pool_size : int or tuple of 2 int
        Size of the window.
    strides : int or tuple of 2 int, optional
        Step between windows; by default the window's size.
    padding : int or tuple of 2 int
        Added on both sides of each axis; must be smaller than the window.
    mode : {'max', 'avg', 'sum', 'lp'}
        'max' propagates NaN. 'lp' is ``(sum of x**p) ** (1/p)``.
    ceil_mode : bool
        Also keep a last window that is only partly filled.
    count_include_pad : bool
        Whether 'avg' counts padded positions.
    p : {1, 2, 3}
        The power of 'lp'.
    global_pool : bool
        One window over all of the data, whatever `pool_size`, `strides` and `padding` say.
    layout : str
        'NCHW' or 'NHWC'.
    prefix, params
        As in every Gluon block.

    Raises
    ------
    TypeError, ValueError
        For a wrong argument when constructed and for unfitting data when called, before anything
        is computed. Both name the argument, its value and what is allowed.

    Examples
    --------
    >>> import gluon_convpool
    >>> from mxnet import nd
    >>> gluon_convpool.Pool2D(2, mode='sum')(nd.ones((1, 1, 4, 4))).asnumpy()
    array([[[[4., 4.],
             [4., 4.]]]], dtype=float32)
    """

    ndim, mode = 2, 'max'

    def __init__(
        self,
        pool_size: Any = (2, 2),
        strides: Any = None,
        padding: Any = 0,
        mode: str = 'max',
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        p: int = 2,
        global_pool: bool = False,
        layout: str = 'NCHW',
        **kwargs: Any,
    ) -> None:
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
            layout,
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
        self._prepare()
