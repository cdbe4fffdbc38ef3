"""The Gluon block of convolution, and the thin names over it."""

from __future__ import annotations

from typing import Any, ClassVar, Dict

from mxnet.gluon.nn import conv_layers as builtin

from .. import backends, functional, geometry
from ._common import fill_in_signature
from ._kernel_layer import KernelLayer

_DOC = """{ndim}-D convolution, a drop-in for ``mxnet.gluon.nn.{name}``.

Signature (but for `algorithm` and `padding_mode`), defaults, parameters and their names are the
built-in layer's; a file of parameters saved by either loads into the other, and
``isinstance(layer, mxnet.gluon.nn.{name})`` holds.

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
``floor((n + 2 * padding - dilation * (kernel_size - 1) - 1) / strides) + 1``.

Examples
--------
>>> from gluon_convpool import nn
>>> from mxnet import np, npx
>>> npx.set_np()
>>> layer = nn.{name}(8, kernel_size=3, padding=1, activation='relu')
>>> layer.initialize()
>>> layer(np.ones(({example}))).shape
({result})
>>> npx.reset_np()
"""

_PARAMETERS = {
    'channels': """channels : int
    Number of output channels.""",
    'kernel_size': """kernel_size : int or tuple of {ndim} int
    Size of the window, in elements: one value for all spatial axes or one per axis.""",
    'strides': """strides : int or tuple of {ndim} int
    Step from one window to the next.""",
    'padding': """padding : int, tuple of {ndim} int, tuple of {ndim} pairs, 'same' or 'valid'
    Elements added on both sides of each axis; or a pair (before, behind) for each. 'valid' adds
    none, and 'same' adds ``dilation * (kernel_size - 1)`` in all, the smaller half in front, so
    that the output has ``ceil(n / strides)`` elements.""",
    'dilation': """dilation : int or tuple of {ndim} int
    Step from one element of the window to the next.""",
    'groups': """groups : int
    Splits the channels into that many separate convolutions; must divide both channel counts.""",
    'layout': """layout : str
    One of {layouts}. The weight has its axes in the same order, with output channels in the place
    of N.""",
    'activation': """activation : str, optional
    One of {activations}.""",
    'use_bias': """use_bias : bool
    Whether a bias is added to each output channel.""",
    'weight_initializer': """weight_initializer : str or Initializer, optional
    Initial values of the parameter ``weight``.""",
    'bias_initializer': """bias_initializer : str or Initializer, optional
    Initial values of the parameter ``bias``.""",
    'in_channels': """in_channels : int
    Number of input channels; 0 leaves it to the first data that arrives.""",
    'algorithm': """algorithm : str
    Which arithmetic of the native backend computes the output: one of {algorithms}. A gradient
    for which it has no kernel is left to 'auto', which takes what should be fastest.""",
    'padding_mode': """padding_mode : {{'zeros', 'reflect', 'replicate', 'circular'}}
    What the added elements are: zeros; the data mirrored at its first and last element; those
    elements again and again; or the data from the other end.""",
    'kwargs': """**kwargs
    ``prefix`` and ``params``, as in every Gluon block.""",
}


class _Convolution(KernelLayer):
    """Convolution over any number of spatial axes; subclasses fix the number and the built-in."""

    op = 'convolution'
    _builtin_operators: ClassVar[Dict[bool, str]] = {True: 'convolution', False: 'Convolution'}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if 'ndim' in vars(cls):
            sizes = ', '.join(['16'] * cls.ndim)
            fill_in_signature(
                cls,
                _DOC,
                _PARAMETERS,
                ndim=cls.ndim,
                axes=cls.ndim + 2,
                layouts=', '.join(map(repr, geometry.LAYOUTS[cls.ndim])),
                algorithms=', '.join(map(repr, geometry.ALGORITHMS)),
                activations=', '.join(map(repr, geometry.ACTIVATIONS)),
                example=f'1, 3, {sizes}',
                result=f'1, 8, {sizes}',
            )

    def __init__(
        self, *args: Any, algorithm: str = 'auto', padding_mode: str = 'zeros', **kwargs: Any
    ) -> None:
        self._construct(args, kwargs, algorithm=algorithm, padding_mode=padding_mode)

    def _read(self, given: Dict[str, Any]) -> geometry.Convolution:
        return geometry.convolution_arguments(
            type(self).__name__,
            given['kernel_size'],
            given['strides'],
            given['padding'],
            given['dilation'],
            given['channels'],
            given['groups'],
            given['layout'],
            given['in_channels'],
            self.ndim,
            given['algorithm'],
            given['padding_mode'],
        )

    def _reread(self, kwargs: Dict[str, Any]) -> geometry.Convolution:
        arguments = geometry.convolution_arguments(
            type(self).__name__,
            kwargs['kernel'],
            kwargs['stride'],
            kwargs['pad'],
            kwargs['dilate'],
            kwargs['num_filter'],
            kwargs['num_group'],
            kwargs['layout'],
            ndim=self.ndim,
            algorithm=kwargs.get('algorithm', 'auto'),
        )
        return arguments._replace(border=kwargs.get('border'))

    def _attributes(self, arguments: geometry.Convolution) -> Dict[str, Any]:
        own = {'algorithm': arguments.algorithm, 'border': arguments.border}
        return {name: value for name, value in own.items() if value not in ('auto', None)}

    def _check_shapes(
        self, arguments: geometry.Convolution, x: Any, dtype: str, device: str
    ) -> None:
        geometry.convolution_shape(arguments, x.shape, self.weight.shape)
        backends.check_algorithm(arguments, x.shape, dtype, device)

    def _call(
        self, x: Any, weight: Any, bias: Any, kind: Any, dtype: str, device: Any, adds: Any
    ) -> Any:
        return functional.call_convolution(
            x, weight, bias, self._arguments, kind, dtype, device, name='fwd', adds=adds
        )

    def __repr__(self) -> str:
        text = super().__repr__()[:-1]
        arguments = self._arguments
        if arguments.border is not None:
            text += f', padding={arguments.border.pairs}, padding_mode={arguments.border.mode}'
        return text + (
            ')' if arguments.algorithm == 'auto' else f', algorithm={arguments.algorithm})'
        )


class Conv1D(_Convolution, builtin.Conv1D):
    ndim = 1


class Conv2D(_Convolution, builtin.Conv2D):
    ndim = 2


class Conv3D(_Convolution, builtin.Conv3D):
    ndim = 3
