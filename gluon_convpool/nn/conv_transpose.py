"""The Gluon block of transposed convolution, and the thin names over it."""

from __future__ import annotations

from typing import Any, ClassVar, Dict

from mxnet.gluon.nn import conv_layers as builtin

from .. import functional, geometry
from ._common import fill_in_signature
from ._kernel_layer import KernelLayer
from .conv import _PARAMETERS as _OF_CONVOLUTION

_DOC = """{ndim}-D transposed convolution, a drop-in for ``mxnet.gluon.nn.{name}``.

Signature, defaults, parameters and their names are the built-in layer's; a file of parameters
saved by either loads into the other, and ``isinstance(layer, mxnet.gluon.nn.{name})`` holds.

Parameters
----------
{parameters}

Raises
------
TypeError, ValueError
    For a wrong argument when constructed and for unfitting data when called, before anything is
    computed or initialised. Both name the argument, its value and what is allowed.

Notes
-----
Input and output are arrays (or symbols) of {axes} axes in the order of `layout`, of float32,
float64 or, computed in float32, float16. Along an axis of n elements the output has
``(n - 1) * strides - 2 * padding + dilation * (kernel_size - 1) + output_padding + 1``, and
``n * strides`` with ``padding='same'``.

Examples
--------
>>> from gluon_convpool import nn
>>> from mxnet import np, npx
>>> npx.set_np()
>>> layer = nn.{name}(8, kernel_size=4, strides=2, padding=1)
>>> layer.initialize()
>>> layer(np.ones(({example}))).shape
({result})
>>> npx.reset_np()
"""

_PARAMETERS = {
    **_OF_CONVOLUTION,
    'strides': """strides : int or tuple of {ndim} int
    Step from one window of the output to the next.""",
    'padding': """padding : int, tuple of {ndim} int, 'same' or 'valid'
    Elements taken away on both sides of each axis of the output. 'valid' takes none away; 'same'
    takes away ``dilation * (kernel_size - 1) + 1 - strides`` in all, the smaller half in front, or
    where that is negative adds as many behind, so that the output has ``n * strides`` elements.""",
    'output_padding': """output_padding : int or tuple of {ndim} int
    Elements that each axis of the output has in addition behind the last; smaller than `strides`.
    With ``padding='same'``, which decides it, only 0 is allowed.""",
    'layout': """layout : str
    One of {layouts}. The weight has its axes in the same order, with input channels in the place
    of N and output channels in that of C.""",
}


class _ConvolutionTranspose(KernelLayer):
    """Transposed convolution over any number of spatial axes, which subclasses fix."""

    op = 'convolution_transpose'
    _builtin_operators: ClassVar[Dict[bool, str]] = {True: 'deconvolution', False: 'Deconvolution'}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if 'ndim' in vars(cls):
            fill_in_signature(
                cls,
                _DOC,
                _PARAMETERS,
                ndim=cls.ndim,
                axes=cls.ndim + 2,
                layouts=', '.join(map(repr, geometry.LAYOUTS[cls.ndim])),
                activations=', '.join(map(repr, geometry.ACTIVATIONS)),
                example=', '.join(['1, 3', *['8'] * cls.ndim]),
                result=', '.join(['1, 8', *['16'] * cls.ndim]),
            )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._construct(args, kwargs)
        # under the name that the built-in layer has it
        self.outpad = self._arguments.adj

    def _read(self, given: Dict[str, Any]) -> geometry.ConvolutionTranspose:
        return geometry.convolution_transpose_arguments(
            type(self).__name__,
            given['kernel_size'],
            given['strides'],
            given['padding'],
            given['output_padding'],
            given['dilation'],
            given['channels'],
            given['groups'],
            given['layout'],
            given['in_channels'],
            self.ndim,
        )

    def _reread(self, kwargs: Dict[str, Any]) -> geometry.ConvolutionTranspose:
        adj = kwargs['adj']
        # as `padding='same'` may have it, which is no `output_padding` that can be given
        cut = isinstance(adj, tuple) and min(adj) < 0
        arguments = geometry.convolution_transpose_arguments(
            type(self).__name__,
            kwargs['kernel'],
            kwargs['stride'],
            kwargs['pad'],
            tuple(max(0, a) for a in adj) if cut else adj,
            kwargs['dilate'],
            kwargs['num_filter'],
            kwargs['num_group'],
            kwargs['layout'],
            ndim=self.ndim,
        )
        return arguments._replace(adj=adj) if cut else arguments

    def _attributes(self, arguments: geometry.ConvolutionTranspose) -> Dict[str, Any]:
        return {'adj': arguments.adj}

    def _check_shapes(
        self, arguments: geometry.ConvolutionTranspose, x: Any, dtype: str, device: str
    ) -> None:
        geometry.convolution_transpose_shape(arguments, x.shape, self.weight.shape)

    def _call(
        self, x: Any, weight: Any, bias: Any, kind: Any, dtype: str, device: Any, adds: Any
    ) -> Any:
        return functional.call_convolution_transpose(
            x, weight, bias, self._arguments, kind, dtype, device, name='fwd', adds=adds
        )

    def __repr__(self) -> str:
        text, arguments = super().__repr__(), self._arguments
        if any(arguments.cut):
            text = text.replace(f', padding={arguments.pad}', '', 1)
            text = f'{text[:-1]}, padding={arguments.padding})'
        return text


class Conv1DTranspose(_ConvolutionTranspose, builtin.Conv1DTranspose):
    ndim = 1


class Conv2DTranspose(_ConvolutionTranspose, builtin.Conv2DTranspose):
    ndim = 2


class Conv3DTranspose(_ConvolutionTranspose, builtin.Conv3DTranspose):
    ndim = 3
