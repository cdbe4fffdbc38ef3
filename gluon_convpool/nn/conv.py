"""The Gluon block of convolution, and the thin names over it."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Dict, Optional

from .. import functional, geometry
from .._mxnet import kind_of, mx, to_world
from ._common import fill_in_signature

builtin = mx.gluon.nn.conv_layers

_DOC = """{ndim}-D convolution, a drop-in for ``mxnet.gluon.nn.{name}``.

Signature, defaults, parameters and their names are the built-in layer's; a file of parameters
saved by either loads into the other, and ``isinstance(layer, mxnet.gluon.nn.{name})`` holds.

Parameters
----------
channels : int
    Number of output channels.
kernel_size, strides, padding, dilation : int or tuple of {ndim} int
    One value for all spatial axes or one per axis. Padding is added on both sides.
groups : int
    Splits the channels into that many separate convolutions; must divide both channel counts.
layout : str
    One of {layouts}.
activation : str, optional
    One of {activations}.
use_bias : bool
    Whether a bias is added to each output channel.
weight_initializer, bias_initializer : str or Initializer, optional
    Initial values.
in_channels : int
    Number of input channels; 0 leaves it to the first data that arrives.
prefix, params
    As in every Gluon block.

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


class _Convolution(builtin._Conv):
    """Convolution over any number of spatial axes; subclasses fix the number and the built-in.

    A subclass names a built-in layer as its second base: its constructor makes the parameters,
    after the arguments were checked here.
    """

    ndim: ClassVar[int]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if 'ndim' in vars(cls):
            sizes = ', '.join(['16'] * cls.ndim)
            fill_in_signature(
                cls,
                _DOC,
                ndim=cls.ndim,
                axes=cls.ndim + 2,
                layouts=', '.join(map(repr, geometry.LAYOUTS[cls.ndim])),
                activations=', '.join(map(repr, geometry.ACTIVATIONS)),
                example=f'1, 3, {sizes}',
                result=f'1, 8, {sizes}',
            )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
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
        self._seen_kwargs: Dict[str, Any] = {}
        self._normalised: Optional[geometry.Convolution] = None

    _builtin_signature: ClassVar[inspect.Signature]

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
            )
            self._seen_kwargs = dict(kwargs)
        return self._normalised

    def _check(self, x: Any) -> None:
        """Refuse an array that does not fit, before parameters are initialised or a graph runs."""
        op = 'convolution'
        weight = self.weight
        functional.check_arrays(op, (x,))
        dtype = functional.dtype_name(x.dtype)
        weight_dtype = functional.dtype_name(weight.dtype)
        if dtype != weight_dtype:
            geometry.refuse('mixed_dtypes', op=op, dtypes=f'{dtype} (data), {weight_dtype} (weight)')
        geometry.convolution_shape(self._arguments, x.shape, weight.shape)
        if weight._data is not None and x.ctx not in weight.list_ctx():
            devices = ', '.join(map(str, weight.list_ctx()))
            geometry.refuse('mixed_devices', op=op, devices=f'{x.ctx} (data), {devices} (weight)')

    def infer_shape(self, x: Any) -> None:
        """Complete the shapes of the parameters from the data's."""
        arguments = self._arguments
        _, channels, _ = geometry.split_shape('convolution', x.shape, arguments.layout)
        self.weight.shape = geometry.weight_shape(arguments, channels)

    def forward(self, x: Any) -> Any:
        kind = kind_of(x)
        if kind is None:
            raise TypeError(
                f'{type(self).__name__}: the data must be an array or a symbol of MXNet, not'
                f' {type(x).__name__}'
            )
        if not kind.symbol:
            self._check(x)
        return super().forward(x)

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
        out = functional.call_convolution(
            x, weight, bias, self._arguments, kind, dtype, device, name='fwd'
        )
        if self.act is not None:
            # MXNet's activation looks at the mode, not at what it is given
            out = to_world(self.act(to_world(out, mx.util.is_np_array())), kind.numpy)
        return out


class Conv2D(_Convolution, builtin.Conv2D):
    ndim = 2
