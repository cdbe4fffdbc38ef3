"""The Gluon block of adaptive pooling, and the thin names over it."""

from __future__ import annotations

from typing import Any, ClassVar, Dict, Optional, Tuple

from .. import functional, geometry
from .._mxnet import kind_of, mx
from ._common import array_kind, check_keywords

_DOC = """{ndim}-D {mode} pooling to a given size, whatever the size of the data.

Along an axis of n elements, output i of m has its window from ``floor(i * n / m)`` to
``ceil((i + 1) * n / m)``: windows of nearly equal sizes, which cover the data and may overlap by
one element.

Parameters
----------
output_size : int or tuple of {ndim} int
    Elements of the output: one value for all spatial axes or one per axis.
layout : str, optional
    One of {layouts}; by default the first.
**kwargs
    ``prefix`` and ``params``, as in every Gluon block.

Raises
------
TypeError, ValueError
    For a wrong argument when constructed and for unfitting data when called.

Examples
--------
>>> from gluon_convpool import nn
>>> from mxnet import np, npx
>>> npx.set_np()
>>> nn.{name}(3)(np.ones((1, 2, {sizes}))).shape
(1, 2, {result})
>>> npx.reset_np()
"""


class _AdaptivePooling(mx.gluon.HybridBlock):
    """Adaptive pooling over any number of spatial axes; subclasses fix that and the mode."""

    ndim: ClassVar[int]
    mode: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__doc__ = _DOC.format(
            name=cls.__name__,
            ndim=cls.ndim,
            mode={'max': 'maximum', 'avg': 'average'}[cls.mode],
            layouts=', '.join(map(repr, geometry.LAYOUTS[cls.ndim])),
            sizes=', '.join(['7'] * cls.ndim),
            result=', '.join(['3'] * cls.ndim),
        )

    def __init__(self, output_size: Any = 1, layout: Optional[str] = None, **kwargs: Any) -> None:
        check_keywords(self, kwargs)
        super().__init__(**kwargs)
        name = type(self).__name__
        layout = geometry.LAYOUTS[self.ndim][0] if layout is None else layout
        self._layout = geometry.layout_of(name, layout, self.ndim)
        self._output_size: Tuple[int, ...] = geometry.per_axis(
            name, 'output_size', output_size, self.ndim, 1
        )
        # What a graph is traced for: symbols don't know it.
        self._dtype: Optional[str] = None

    def __repr__(self) -> str:
        name = type(self).__name__
        return f'{name}(output_size={self._output_size}, layout={self._layout})'

    def cast(self, dtype: Any) -> None:
        super().cast(dtype)
        self._dtype = functional.dtype_name(dtype)

    def forward(self, x: Any) -> Any:
        if not array_kind(self, x).symbol:
            dtype = functional.check_adaptive(x, self._output_size, self.mode, self._layout)
            if dtype != self._dtype:
                self._dtype = dtype
                self._clear_cached_op()
        return super().forward(x)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        kind = kind_of(x)
        assert kind is not None
        dtype = self._dtype if kind.symbol else functional.dtype_name(x.dtype)
        arguments: Dict[str, Any] = {'mode': self.mode, 'layout': self._layout, 'kind': kind}
        return functional.call_adaptive_pooling(
            x, self._output_size, dtype=dtype, name='fwd', **arguments
        )


class AdaptiveAvgPool1D(_AdaptivePooling):
    ndim, mode = 1, 'avg'


class AdaptiveAvgPool2D(_AdaptivePooling):
    ndim, mode = 2, 'avg'


class AdaptiveAvgPool3D(_AdaptivePooling):
    ndim, mode = 3, 'avg'


class AdaptiveMaxPool1D(_AdaptivePooling):
    ndim, mode = 1, 'max'


class AdaptiveMaxPool2D(_AdaptivePooling):
    ndim, mode = 2, 'max'


class AdaptiveMaxPool3D(_AdaptivePooling):
    ndim, mode = 3, 'max'
