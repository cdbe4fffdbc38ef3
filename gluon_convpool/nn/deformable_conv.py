"""The Gluon blocks of deformable convolution."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Optional, Tuple

from mxnet.gluon.contrib.cnn import conv_layers as builtin

from .. import functional, geometry
from .._mxnet import kind_of, mx, to_world
from ._common import (
    Activation,
    array_kind,
    bound_arguments,
    fill_in_signature,
    parameter_input,
    watch,
)

_DOC = """{title}, a drop-in for ``mxnet.gluon.contrib.cnn.{name}``.

A convolution computes from the data {what}; see
`functional.deformable_convolution` for what is read where. Signature, defaults, parameters and
their names are the built-in layer's; a file of parameters saved by either loads into the other, and
``isinstance(layer, mxnet.gluon.contrib.cnn.{name})`` holds. Unlike that, it takes ``mx.np`` arrays
too{more}.

Parameters
----------
{parameters}

Raises
------
TypeError, ValueError
    For a wrong argument when constructed and for unfitting data when called, before anything is
    computed or initialised. Both name the argument, its value and what is allowed.

Examples
--------
>>> from gluon_convpool import nn
>>> from mxnet import nd
>>> layer = nn.{name}(8, kernel_size=3, padding=1, activation='relu')
>>> layer.initialize()
>>> layer(nd.ones((1, 3, 16, 16))).shape
(1, 8, 16, 16)
"""

_PARAMETERS = {
    'channels': """channels : int
    Number of output channels.""",
    'kernel_size': """kernel_size : int or (int, int)
    Size of the window, in elements: one value for both spatial axes or one per axis.""",
    'strides': """strides : int or (int, int)
    Step from one window to the next.""",
    'padding': """padding : int or (int, int)
    Elements added on both sides of each axis.""",
    'dilation': """dilation : int or (int, int)
    Step from one element of the window to the next.""",
    'groups': """groups : int
    Splits the channels into that many separate convolutions, also of the one that computes the
    offsets; must divide both channel counts, and the number of offsets.""",
    'num_deformable_group': """num_deformable_group : int
    Into how many parts the input channels are split, each of which has its own offsets.""",
    'layout': """layout : str
    'NCHW'.""",
    'use_bias': """use_bias : bool
    Whether a bias is added to each output channel.""",
    'in_channels': """in_channels : int
    Number of input channels; 0 leaves it to the first data that arrives.""",
    'activation': """activation : str, optional
    One of {activations}.""",
    'weight_initializer': """weight_initializer : str or Initializer, optional
    Initial values of the parameter ``deformable_conv_weight``.""",
    'bias_initializer': """bias_initializer : str or Initializer, optional
    Initial values of the parameter ``deformable_conv_bias``.""",
    'offset_weight_initializer': """offset_weight_initializer : str or Initializer, optional
    Initial values of the parameter ``offset_weight``.""",
    'offset_bias_initializer': """offset_bias_initializer : str or Initializer, optional
    Initial values of the parameter ``offset_bias``.""",
    'offset_use_bias': """offset_use_bias : bool
    Whether the convolution that computes the offsets has a bias.""",
    'op_name': """op_name : str
    Without effect, as in MXNet.""",
    'adj': """adj : None
    MXNet's layer fails with any other value.""",
    'prefix': """prefix : str, optional
    Of the parameters' names.""",
    'params': """params : ParameterDict, optional
    Where the parameters come from.""",
}


class Deformable(mx.gluon.HybridBlock):
    """What both layers share; MXNet's own is the second base of each."""

    op = 'deformable_convolution'
    _active: bool
    _modulated: ClassVar[bool]
    _builtin_signature: ClassVar[inspect.Signature]
    _title: ClassVar[str]
    _what: ClassVar[str]
    _more: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if '_modulated' not in vars(cls):
            return
        fill_in_signature(
            cls,
            _DOC,
            _PARAMETERS,
            title=cls._title,
            what=cls._what,
            more=cls._more,
            activations=', '.join(map(repr, geometry.ACTIVATIONS)),
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = dict(bound_arguments(self, self._builtin_signature, args, kwargs).arguments)
        name = type(self).__name__
        for option in ('use_bias', 'offset_use_bias'):
            given[option] = geometry.flag(name, option, given[option])
        if given['adj'] is not None:
            geometry.refuse('unsupported_argument', op=name, name='adj', value=repr(given['adj']))
        given['padding'] = geometry.per_axis(name, 'padding', given['padding'], 2, 0)
        arguments = geometry.convolution_arguments(
            name,
            given['kernel_size'],
            given['strides'],
            given['padding'],
            given['dilation'],
            given['channels'],
            given['groups'],
            given['layout'],
            given['in_channels'],
            2,
        )
        sampling = geometry.deformable_arguments(
            name, arguments, given['num_deformable_group'], self._modulated, given['in_channels']
        )
        offsets = (3 if self._modulated else 2) * sampling.groups * arguments.kernel[0]
        offsets *= arguments.kernel[1]
        geometry.convolution_arguments(
            f'{name}(offsets)', 1, 1, 0, 1, offsets, arguments.groups, 'NCHW'
        )
        if given['activation'] is not None:
            geometry.choice(name, 'activation', given['activation'], geometry.ACTIVATIONS)
        # MXNet's constructor infers shapes in which 0 is unknown
        with mx.util.np_array(False), mx.util.np_shape(False):
            super().__init__(**given)
        if self.act is not None:
            self.act.__class__ = Activation
        unknown = -1 if mx.util.is_np_shape() else 0
        for parameter in self._reg_params.values():
            parameter._shape = tuple(n or unknown for n in parameter.shape)
        self._prepare()

    @property
    def weight(self) -> Any:
        """The weight of the convolution, not of that which computes the offsets."""
        return self.deformable_conv_weight

    def _prepare(self) -> None:
        for parameter in self._reg_params.values():
            watch(parameter)

    @property
    def _arguments(self) -> Tuple[geometry.Convolution, geometry.Convolution, geometry.Sampling]:
        """Those of the convolution that computes the offsets, of the other, and of its windows."""
        name = type(self).__name__
        kwargs = self._kwargs_deformable_conv
        offsets, arguments = (
            geometry.convolution_arguments(
                name,
                one['kernel'],
                one['stride'],
                one['pad'],
                one['dilate'],
                one['num_filter'],
                one['num_group'],
                one['layout'],
            )
            for one in (self._kwargs_offset, kwargs)
        )
        groups = kwargs['num_deformable_group']
        sampling = geometry.deformable_arguments(name, arguments, groups, self._modulated)
        return offsets, arguments, sampling

    def _check(self, x: Any) -> Tuple[str, str]:
        dtype, device = functional.check_arrays(self.op, (x,))
        weight = self.deformable_conv_weight
        weight_dtype = functional.dtype_name(weight.dtype)
        if dtype != weight_dtype:
            dtypes = f'{dtype} (data), {weight_dtype} (weight)'
            geometry.refuse('mixed_dtypes', op=self.op, dtypes=dtypes)
        offsets, arguments, sampling = self._arguments
        geometry.convolution_shape(offsets, x.shape, self.offset_weight.shape, op=self.op)
        geometry.convolution_shape(arguments, x.shape, weight.shape, op=self.op)
        if x.shape[1] % sampling.groups:
            geometry.refuse(
                'deformable_channels', op=self.op, groups=sampling.groups, value=x.shape[1]
            )
        if weight._data is not None and x.ctx not in weight.list_ctx():
            devices = ', '.join(map(str, weight.list_ctx()))
            described = f'{x.ctx} (data), {devices} (weight)'
            geometry.refuse('mixed_devices', op=self.op, devices=described)
        return dtype, device

    def infer_shape(self, x: Any) -> None:
        """Complete the shapes of the parameters from the data's."""
        offsets, arguments, _ = self._arguments
        self.offset_weight.shape = geometry.weight_shape(offsets, x.shape[1])
        self.deformable_conv_weight.shape = geometry.weight_shape(arguments, x.shape[1])

    def forward(self, x: Any) -> Any:
        if array_kind(self, x).symbol:
            return super().forward(x)
        self._check(x)
        if not self._active or 0 not in x.shape:
            return super().forward(x)
        # Some of MXNet's operators refuse empty arrays in graphs, and there is nothing to compute.
        self._active = False
        try:
            return super().forward(x)
        finally:
            self._active = True

    def hybrid_forward(
        self,
        F: Any,
        x: Any,
        offset_weight: Any,
        deformable_conv_weight: Any,
        offset_bias: Optional[Any] = None,
        deformable_conv_bias: Optional[Any] = None,
    ) -> Any:
        kind = kind_of(x)
        assert kind is not None
        dtype = functional.dtype_name(self.deformable_conv_weight.dtype)
        device = None if kind.symbol else x.ctx.device_type

        def given(name: str, value: Any) -> Tuple[Any, Optional[bool]]:
            if value is None:
                return None, None
            # parameters follow the data: a layer made in NumPy mode also takes legacy arrays
            if kind_of(value) != kind:
                value = to_world(value, kind.numpy)
            return parameter_input(getattr(self, name), value, kind)

        of_offsets = given('offset_weight', offset_weight), given('offset_bias', offset_bias)
        weight, weight_adds = given('deformable_conv_weight', deformable_conv_weight)
        bias, bias_adds = given('deformable_conv_bias', deformable_conv_bias)
        offsets, arguments, sampling = self._arguments
        values, adds = zip(*of_offsets)
        moved = functional.call_convolution(
            x, *values, offsets, kind, dtype, device, adds=(None, *adds)
        )
        moved, mask = self._split(to_world(moved, False), kind)
        out = functional.call_deformable_convolution(
            x,
            to_world(moved, kind.numpy),
            None if mask is None else to_world(mask, kind.numpy),
            weight,
            bias,
            arguments,
            sampling,
            kind,
            dtype,
            device,
            'fwd',
            (None, weight_adds, bias_adds),
        )
        return out if self.act is None else self.act(out)

    def _split(self, moved: Any, kind: Any) -> Tuple[Any, Optional[Any]]:
        """Offsets and mask, of legacy arrays or symbols."""
        if not self._modulated:
            return moved, None
        F = mx.sym if kind.symbol else mx.nd
        split = self.offset_split_index
        mask = F.sigmoid(F.slice_axis(moved, axis=1, begin=split, end=None)) * 2
        return F.slice_axis(moved, axis=1, begin=0, end=split), mask

    def __repr__(self) -> str:
        # MXNet gives one of the two layers none of its own
        return builtin.DeformableConvolution.__repr__(self)


class DeformableConvolution(Deformable, builtin.DeformableConvolution):
    _modulated = False
    _title = '2-D deformable convolution (Dai et al., 2017)'
    _what = 'by how much each element of each window is moved'
    _more = ''


class ModulatedDeformableConvolution(Deformable, builtin.ModulatedDeformableConvolution):
    _modulated = True
    _title = '2-D modulated deformable convolution (Zhu et al., 2018)'
    _what = 'by how much each element of each window is moved, and what it is multiplied by'
    _more = ', and has gradients on the CPU'
