"""The Gluon block that mirrors images at their edges."""

from __future__ import annotations

from typing import Any

from mxnet.gluon.nn import conv_layers as builtin

from .. import functional, geometry
from .._mxnet import kind_of
from ._common import array_kind, check_keywords


class ReflectionPad2D(builtin.ReflectionPad2D):
    """Put the mirrored edges of images around them, a drop-in for MXNet's ``ReflectionPad2D``.

    Unlike that, it takes ``mx.np`` arrays too.

    Parameters
    ----------
    padding : int, (int, int), ((int, int), (int, int)) or tuple of 8 int
        Elements added on both sides of height and width: one value for both, one for each, or a
        pair (before, behind) for each. MXNet's form, eight values of which the first four are 0,
        is taken too.
    **kwargs
        ``prefix`` and ``params``, as in every Gluon block.

    Raises
    ------
    TypeError, ValueError
        For a wrong argument when constructed, and for data that is not of shape (batch, channels,
        height, width) or too small when called.

    Examples
    --------
    >>> from gluon_convpool import nn
    >>> from mxnet import np, npx
    >>> npx.set_np()
    >>> nn.ReflectionPad2D(((0, 1), (2, 0)))(np.arange(6).reshape(1, 1, 2, 3))
    array([[[[2., 1., 0., 1., 2.],
             [5., 4., 3., 4., 5.],
             [2., 1., 0., 1., 2.]]]])
    >>> npx.reset_np()
    """

    def __init__(self, padding: Any = 0, **kwargs: Any) -> None:
        check_keywords(self, kwargs)
        name = type(self).__name__
        if isinstance(padding, (tuple, list)) and len(padding) == 8 and not any(padding[:4]):
            padding = tuple(zip(padding[4::2], padding[5::2]))
        self._around = geometry.border(name, padding, 'reflect', 2)
        sides = [n for pair in self._around.pairs for n in pair]
        super().__init__((0, 0, 0, 0, *sides), **kwargs)

    def forward(self, x: Any) -> Any:
        if not array_kind(self, x).symbol:
            functional.check_padded(x, self._around, 'NCHW')
        return super().forward(x)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return functional.call_pad(x, self._around, 'NCHW', kind_of(x))
