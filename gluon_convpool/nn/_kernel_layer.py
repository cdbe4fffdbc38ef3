"""What convolution and transposed convolution share: a kernel with weights slides over the data."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Dict, Optional, Sequence

from mxnet.gluon.nn import conv_layers as builtin

from .. import functional, geometry
from .._mxnet import kind_of, mx, to_world
from ._common import (
    Activation,
    DataGradient,
    array_kind,
    bound_arguments,
    parameter_input,
    watch,
)


class KernelLayer(DataGradient, builtin._Conv):
    """A layer with a weight, perhaps a bias and an activation, over any number of spatial axes.

    A concrete class names a built-in layer as its second base, whose signature and attributes it
    takes over. The built-in constructor is not called: some of them refuse layouts with the
    channels last.
    """

    ndim: ClassVar[int]
    # What the function is called in messages, and MXNet's operator in either world.
    op: ClassVar[str]
    _builtin_operators: ClassVar[Dict[bool, str]]
    _builtin_signature: ClassVar[inspect.Signature]
    act: Any

    # ----------------------------------------------------------- what kinds of layers differ in

    def _read(self, given: Dict[str, Any]) -> Any:
        """Check what the constructor was given and return geometry's arguments."""
        raise NotImplementedError

    def _reread(self, kwargs: Dict[str, Any]) -> Any:
        """Return geometry's arguments for the attributes of MXNet's operator."""
        raise NotImplementedError

    def _attributes(self, arguments: Any) -> Dict[str, Any]:
        """Return the attributes of MXNet's operator, and those that only ours has."""
        raise NotImplementedError

    def _check_shapes(self, arguments: Any, x: Any, dtype: str, device: str) -> None:
        raise NotImplementedError

    def _call(
        self, x: Any, weight: Any, bias: Any, kind: Any, dtype: str, device: Any, adds: Any
    ) -> Any:
        raise NotImplementedError

    # --------------------------------------------------------------------------- construction

    def _construct(self, args: Sequence[Any], kwargs: Dict[str, Any], **own: Any) -> None:
        bound = bound_arguments(self, self._builtin_signature, args, kwargs)
        given: Dict[str, Any] = {**bound.arguments, **own}
        arguments = self._read(given)
        name = type(self).__name__
        use_bias = geometry.flag(name, 'use_bias', given['use_bias'])
        activation = given['activation']
        if activation is not None:
            activation = geometry.choice(name, 'activation', activation, geometry.ACTIVATIONS)
        mx.gluon.HybridBlock.__init__(self, **given['kwargs'])
        self._channels, self._in_channels = arguments.channels, int(given['in_channels'])
        self._op_name = self._builtin_operators[mx.util.is_np_array()]
        self._kwargs = {
            'kernel': arguments.kernel,
            'stride': arguments.stride,
            'dilate': arguments.dilate,
            'pad': arguments.pad,
            'num_filter': arguments.channels,
            'num_group': arguments.groups,
            'no_bias': not use_bias,
            'layout': arguments.layout,
            **self._attributes(arguments),
        }
        unknown = -1 if mx.util.is_np_shape() else 0
        shape = geometry.weight_shape(arguments, self._in_channels or unknown)
        self.bias = self.act = None
        with self.name_scope():
            self.weight = self._parameter('weight', shape, given['weight_initializer'])
            if use_bias:
                shape = (arguments.channels,)
                self.bias = self._parameter('bias', shape, given['bias_initializer'])
            if activation is not None:
                self.act = Activation(activation, prefix=activation + '_')
        self._prepare()

    def _parameter(self, name: str, shape: geometry.Ints, initializer: Any) -> Any:
        return self.params.get(name, shape=shape, init=initializer, allow_deferred_init=True)

    def _prepare(self) -> None:
        for parameter in self._reg_params.values():
            watch(parameter)
        self._seen_kwargs: Dict[str, Any] = {}
        self._normalised: Any = None
        self._fits: Any = None
        self._fitting_weight: Any = None

    @property
    def _arguments(self) -> Any:
        # Users change `_kwargs` of built-in layers (a dilation, say) after construction.
        kwargs = self._kwargs
        if self._normalised is None or kwargs != self._seen_kwargs:
            self._normalised = self._reread(kwargs)
            self._seen_kwargs = dict(kwargs)
        return self._normalised

    # --------------------------------------------------------------------------- calls

    def _check(self, x: Any, shape: geometry.Ints, context: Any) -> None:
        """Refuse an array that does not fit, before parameters are initialised or a graph runs."""
        op = self.op
        arguments, weight = self._arguments, self.weight
        # Most calls are like the one before; `_data` is another list once the weight was cast,
        # initialised or moved.
        seen = (arguments, shape, x.dtype, context)
        if weight._data is not None and weight._data is self._fitting_weight and seen == self._fits:
            return
        dtype, device = functional.check_arrays(op, (x,))
        weight_dtype = functional.dtype_name(weight.dtype)
        if dtype != weight_dtype:
            dtypes = f'{dtype} (data), {weight_dtype} (weight)'
            geometry.refuse('mixed_dtypes', op=op, dtypes=dtypes)
        self._check_shapes(arguments, x, dtype, device)
        if weight._data is not None and context not in weight.list_ctx():
            devices = ', '.join(map(str, weight.list_ctx()))
            geometry.refuse('mixed_devices', op=op, devices=f'{context} (data), {devices} (weight)')
        self._fits, self._fitting_weight = seen, weight._data

    def infer_shape(self, x: Any) -> None:
        """Complete the shapes of the parameters from the data's."""
        arguments = self._arguments
        _, channels, _ = geometry.split_shape(self.op, x.shape, arguments.layout)
        self.weight.shape = geometry.weight_shape(arguments, channels)

    def forward(self, x: Any) -> Any:
        if array_kind(self, x).symbol:
            return super().forward(x)
        context, shape = x.ctx, x.shape
        self._check(x, shape, context)
        # Some of MXNet's operators refuse empty arrays in graphs, and there is nothing to compute.
        if self._active and 0 not in shape:
            return self._forward_alone(x, context)
        return self._forward_array(x, context)

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
        out = self._call(x, weight, bias, kind, dtype, device, adds)
        return out if self.act is None else self.act(out)
