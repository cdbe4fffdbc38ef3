"""Convolutions with few weights: depthwise, and separable into a depthwise and a pointwise one."""

from __future__ import annotations

import inspect
from typing import Any, Optional

from .. import geometry
from .._mxnet import mx
from ._common import check_keywords
from .conv import Conv2D


class DepthwiseConv2D(Conv2D):
    """2-D convolution of each channel by itself: `Conv2D` with as many groups as input channels.

    Parameters
    ----------
    in_channels : int
        Number of input channels.
    kernel_size : int or (int, int)
        Size of the window, in elements: one value for both spatial axes or one per axis.
    strides : int or (int, int)
        As in `Conv2D`.
    padding : int, (int, int), ((int, int), (int, int)), 'same' or 'valid'
        As in `Conv2D`.
    dilation : int or (int, int)
        As in `Conv2D`.
    multiplier : int
        How many output channels each input channel has; those of the first come first.
    layout : str
        'NCHW' or 'NHWC'.
    activation : str, optional
        As in `Conv2D`.
    use_bias : bool
        Whether a bias is added to each output channel.
    weight_initializer, bias_initializer : str or Initializer, optional
        Initial values of the parameters ``weight`` and ``bias``.
    algorithm : str
        As in `Conv2D`.
    padding_mode : {'zeros', 'reflect', 'replicate', 'circular'}
        As in `Conv2D`.
    **kwargs
        ``prefix`` and ``params``, as in every Gluon block.

    Raises
    ------
    TypeError, ValueError
        As by `Conv2D`.

    Examples
    --------
    >>> from gluon_convpool import nn
    >>> from mxnet import np, npx
    >>> npx.set_np()
    >>> layer = nn.DepthwiseConv2D(3, kernel_size=3, padding='same', multiplier=2)
    >>> layer.initialize()
    >>> layer(np.ones((1, 3, 8, 8))).shape, layer.weight.shape
    ((1, 6, 8, 8), (6, 1, 3, 3))
    >>> npx.reset_np()
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: Any,
        strides: Any = (1, 1),
        padding: Any = (0, 0),
        dilation: Any = (1, 1),
        multiplier: int = 1,
        layout: str = 'NCHW',
        activation: Optional[str] = None,
        use_bias: bool = True,
        weight_initializer: Any = None,
        bias_initializer: Any = 'zeros',
        *,
        algorithm: str = 'auto',
        padding_mode: str = 'zeros',
        **kwargs: Any,
    ) -> None:
        check_keywords(self, kwargs)
        name = type(self).__name__
        in_channels = geometry.integer(name, 'in_channels', in_channels, 1)
        multiplier = geometry.integer(name, 'multiplier', multiplier, 1)
        super().__init__(
            in_channels * multiplier,
            kernel_size,
            strides,
            padding,
            dilation,
            in_channels,
            layout,
            activation,
            use_bias,
            weight_initializer,
            bias_initializer,
            in_channels,
            algorithm=algorithm,
            padding_mode=padding_mode,
            **kwargs,
        )


DepthwiseConv2D.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    list(inspect.signature(DepthwiseConv2D.__init__).parameters.values())[1:]
)


class SeparableConv2D(mx.gluon.HybridBlock):
    """2-D depthwise convolution and a pointwise one behind it, which mixes the channels.

    Its parameters are those of ``depthwise``, a `DepthwiseConv2D` without bias, and of
    ``pointwise``, a `Conv2D` with a window of one element.

    Parameters
    ----------
    channels : int
        Number of output channels.
    in_channels : int
        Number of input channels.
    kernel_size : int or (int, int)
        Size of the window, in elements: one value for both spatial axes or one per axis.
    strides : int or (int, int)
        That of the depthwise convolution, as in `Conv2D`.
    padding : int, (int, int), ((int, int), (int, int)), 'same' or 'valid'
        The same.
    dilation : int or (int, int)
        The same.
    multiplier : int
        How many channels each input channel has between the two.
    layout : str
        'NCHW' or 'NHWC'.
    activation : str, optional
        What is applied to the output, as in `Conv2D`.
    use_bias : bool
        Whether a bias is added to each output channel.
    weight_initializer, bias_initializer : str or Initializer, optional
        Initial values of the parameters.
    padding_mode : {'zeros', 'reflect', 'replicate', 'circular'}
        As in `Conv2D`.
    **kwargs
        ``prefix`` and ``params``, as in every Gluon block.

    Raises
    ------
    TypeError, ValueError
        As by `Conv2D`.

    Examples
    --------
    >>> from gluon_convpool import nn
    >>> from mxnet import np, npx
    >>> npx.set_np()
    >>> layer = nn.SeparableConv2D(8, in_channels=3, kernel_size=3, padding=1, activation='relu')
    >>> layer.initialize()
    >>> layer(np.ones((1, 3, 8, 8))).shape
    (1, 8, 8, 8)
    >>> npx.reset_np()
    """

    def __init__(
        self,
        channels: int,
        in_channels: int,
        kernel_size: Any,
        strides: Any = (1, 1),
        padding: Any = (0, 0),
        dilation: Any = (1, 1),
        multiplier: int = 1,
        layout: str = 'NCHW',
        activation: Optional[str] = None,
        use_bias: bool = True,
        weight_initializer: Any = None,
        bias_initializer: Any = 'zeros',
        padding_mode: str = 'zeros',
        **kwargs: Any,
    ) -> None:
        check_keywords(self, kwargs)
        super().__init__(**kwargs)
        with self.name_scope():
            self.depthwise = DepthwiseConv2D(
                in_channels,
                kernel_size,
                strides,
                padding,
                dilation,
                multiplier,
                layout,
                use_bias=False,
                weight_initializer=weight_initializer,
                padding_mode=padding_mode,
            )
            self.pointwise = Conv2D(
                channels,
                1,
                layout=layout,
                activation=activation,
                use_bias=use_bias,
                weight_initializer=weight_initializer,
                bias_initializer=bias_initializer,
                in_channels=in_channels * multiplier,
            )

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return self.pointwise(self.depthwise(x))
