"""``mxnet.gluon.nn`` with our convolution and pooling layers in the place of MXNet's.

Every other name of that module is here too, and is MXNet's own.
"""

from __future__ import annotations

from mxnet.gluon.nn import *  # noqa: F403

from .adaptive_pool import (
    AdaptiveAvgPool1D,
    AdaptiveAvgPool2D,
    AdaptiveAvgPool3D,
    AdaptiveMaxPool1D,
    AdaptiveMaxPool2D,
    AdaptiveMaxPool3D,
)
from .batch_norm import BatchNorm
from .conv import Conv1D, Conv2D, Conv3D
from .conv_transpose import Conv1DTranspose, Conv2DTranspose, Conv3DTranspose
from .deformable_conv import DeformableConvolution, ModulatedDeformableConvolution
from .pool import (
    AvgPool1D,
    AvgPool2D,
    AvgPool3D,
    GlobalAvgPool1D,
    GlobalAvgPool2D,
    GlobalAvgPool3D,
    GlobalMaxPool1D,
    GlobalMaxPool2D,
    GlobalMaxPool3D,
    MaxPool1D,
    MaxPool2D,
    MaxPool3D,
    Pool1D,
    Pool2D,
    Pool3D,
)
from .reflection_pad import ReflectionPad2D
from .separable import DepthwiseConv2D, SeparableConv2D
from .sequential import HybridSequential

OURS = (
    BatchNorm,
    Conv1D,
    Conv2D,
    Conv3D,
    Conv1DTranspose,
    Conv2DTranspose,
    Conv3DTranspose,
    MaxPool1D,
    MaxPool2D,
    MaxPool3D,
    AvgPool1D,
    AvgPool2D,
    AvgPool3D,
    GlobalMaxPool1D,
    GlobalMaxPool2D,
    GlobalMaxPool3D,
    GlobalAvgPool1D,
    GlobalAvgPool2D,
    GlobalAvgPool3D,
    Pool1D,
    Pool2D,
    Pool3D,
    AdaptiveAvgPool1D,
    AdaptiveAvgPool2D,
    AdaptiveAvgPool3D,
    AdaptiveMaxPool1D,
    AdaptiveMaxPool2D,
    AdaptiveMaxPool3D,
    DepthwiseConv2D,
    SeparableConv2D,
    ReflectionPad2D,
    DeformableConvolution,
    ModulatedDeformableConvolution,
    HybridSequential,
)
"""The blocks of this package; everything else here is MXNet's."""
