"""The Gluon block of convolution, and the thin names over it."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Dict, Optional

from mxnet.gluon.nn import conv_layers as builtin

from .. import backends, functional, geometry
from .._mxnet import kind_of, to_world
from ._common import (
    Activation,
    DataGradient,
    array_kind,
    fill_in_signature,
    parameter_input,
    watch,
)

_DOC = """{ndim}-D convolution, a drop-in for ``mxnet.gluon.nn.{name}``.

Signature (but for `algorithm`), defaults, parameters and their names are the built-in layer's; a
file of parameters saved by either loads into the other, and
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
Input and output are float32 or float64 arrays (or symbols) of {axes} axes in the order of
`layout`. Along an axis of n elements the output has
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
    'padding': """padding : int or tuple of {ndim} int
    Zeros added on both sides of each axis.""",
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
    'kwargs': """**kwargs
    ``prefix`` and ``params``, as in every Gluon block.""",
}


class _Convolution(DataGradient, builtin._Conv):
    """Convolution over any number of spatial axes; subclasses fix the number and the built-in.

    A subclass names a built-in layer as its second base: its constructor makes the parameters,
    after the arguments were checked here.
    """

    ndim: ClassVar[int]
    act: Any

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

    def __init__(self, *args: Any, algorithm: str = 'auto', **kwargs: Any) -> None:
        op = type(self).__name__
        bound = self._builtin_signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given: Dict[str, Any] = bound.arguments
        arguments = geometry.convolution_arguments(
            op,
            given['kernel_size'],
            given['strides'],
            given['padding'],
            given['dilation'],
            given['channels'],
            given['groups'],
            given['layout'],
            given['in_channels'],
            self.ndim,
            algorithm,
        )
        if given['activation'] is not None:
            geometry.choice(op, 'activation', given['activation'], geometry.ACTIVATIONS)
        given.update(
            channels=arguments.channels,
            kernel_size=arguments.kernel,
            strides=arguments.stride,
            padding=arguments.pad,
            dilation=arguments.dilate,
            groups=arguments.groups,
            in_channels=int(given['in_channels']),
        )
        super().__init__(*bound.args, **bound.kwargs)
        if arguments.algorithm != 'auto':
            self._kwargs['algorithm'] = arguments.algorithm
        if self.act is not None:
            with self.name_scope():
                self.act = Activation(
                    given['activation'], prefix=self.act.prefix[len(self.prefix) :]
                )
        self._prepare()

    _builtin_signature: ClassVar[inspect.Signature]

    def _prepare(self) -> None:
        for parameter in self._reg_params.values():
            watch(parameter)
        self._seen_kwargs: Dict[str, Any] = {}
        self._normalised: Optional[geometry.Convolution] = None
        self._fits: Any = None
        self._fitting_weight: Any = None

    @property
    def _arguments(self) -> geometry.Convolution:
        # Users change `_kwargs` of built-in layers (a dilation, say) after construction.
        kwargs = self._kwargs
        if self._normalised is None or kwargs != self._seen_kwargs:
            self._normalised = geometry.convolution_arguments(
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
            self._seen_kwargs = dict(kwargs)
        return self._normalised

    def _check(self, x: Any) -> None:
        """Refuse an array that does not fit, before parameters are initialised or a graph runs."""
        op = 'convolution'
        arguments, weight = self._arguments, self.weight
        # Most calls are like the one before; `_data` is another list once the weight was cast,
        # initialised or moved.
        seen = (arguments, x.shape, x.dtype, x.ctx)
        if weight._data is not None and weight._data is self._fitting_weight and seen == self._fits:
            return
        dtype, device = functional.check_arrays(op, (x,))
        weight_dtype = functional.dtype_name(weight.dtype)
        if dtype != weight_dtype:
            dtypes = f'{dtype} (data), {weight_dtype} (weight)'
            geometry.refuse('mixed_dtypes', op=op, dtypes=dtypes)
        geometry.convolution_shape(arguments, x.shape, weight.shape)
        backends.check_algorithm(arguments, x.shape, dtype, device)
        if weight._data is not None and x.ctx not in weight.list_ctx():
            devices = ', '.join(map(str, weight.list_ctx()))
            geometry.refuse('mixed_devices', op=op, devices=f'{x.ctx} (data), {devices} (weight)')
        self._fits, self._fitting_weight = seen, weight._data

    def __repr__(self) -> str:
        text = super().__repr__()
        algorithm = self._arguments.algorithm
        return text if algorithm == 'auto' else f'{text[:-1]}, algorithm={algorithm})'

    def infer_shape(self, x: Any) -> None:
        """Complete the shapes of the parameters from the data's."""
        arguments = self._arguments
        _, channels, _ = geometry.split_shape('convolution', x.shape, arguments.layout)
        self.weight.shape = geometry.weight_shape(arguments, channels)

    def forward(self, x: Any) -> Any:
        if array_kind(self, x).symbol:
            return super().forward(x)
        self._check(x)
        return self._forward_alone(x) if self._active else super().forward(x)

    def hybrid_forward(self, F: Any, x: Any, weight: Any, bias: Optional[Any] = None) -> Any:
        kind = kind_of(x)
        assert kind is not None
        # parameters follow the data: a layer made in NumPy mode also takes legacy arrays
        if kind_of(weight) != kind:
            weight = to_world(weight, kind.numpy)
        if bias is not None and kind_of(bias) != kind:
            bias = to_world(bias, kind.numpy)
        dtype = functional.dtype_name(self.weight.dtype)
        device = None if kind.symbol else x.ctx.device_type
        weight, weight_adds = parameter_input(self.weight, weight, kind)
        bias_adds = None
        if bias is not None:
            bias, bias_adds = parameter_input(self.bias, bias, kind)
        adds = (self._data_adds(), weight_adds, bias_adds)
        out = functional.call_convolution(
            x, weight, bias, self._arguments, kind, dtype, device, name='fwd', adds=adds
        )
        return out if self.act is None else self.act(out)


class Conv2D(_Convolution, builtin.Conv2D):
    ndim = 2
