"""``mxnet.gluon.nn`` with our convolution and pooling layers in the place of MXNet's.

Every other name of that module is here too, and is MXNet's own.
"""

from __future__ import annotations

from mxnet.gluon.nn import *  # noqa: F403

from .batch_norm import BatchNorm
from .conv import Conv2D
from .pool import AvgPool2D, GlobalAvgPool2D, GlobalMaxPool2D, MaxPool2D, Pool2D

OURS = (BatchNorm, Conv2D, MaxPool2D, AvgPool2D, GlobalMaxPool2D, GlobalAvgPool2D, Pool2D)
"""The layers of this package; everything else here is MXNet's."""
