"""Convolution and pooling for MXNet Gluon, written by hand.

``from gluon_convpool import nn`` stands in for ``from mxnet.gluon import nn``. Import this package
before ``mxnet``: it gives NumPy back the names that MXNet 1.9.1 needs and newer NumPys lack.
"""

from __future__ import annotations

import warnings as _warnings

from . import _mxnet, functional, nn, scratch
from . import backends as _backends
from .backends import Info, get_num_threads, info, set_num_threads, use_backend
from .functional import corr2d, pool2d
from .models import optimize, swap
from .nn import (
    Conv1D,
    Conv1DTranspose,
    Conv2D,
    Conv2DTranspose,
    Conv3D,
    Conv3DTranspose,
    Pool1D,
    Pool2D,
    Pool3D,
)

__version__ = '0.1.0'

__all__ = [
    'Conv1D',
    'Conv1DTranspose',
    'Conv2D',
    'Conv2DTranspose',
    'Conv3D',
    'Conv3DTranspose',
    'Info',
    'Pool1D',
    'Pool2D',
    'Pool3D',
    '__version__',
    'corr2d',
    'functional',
    'get_num_threads',
    'info',
    'nn',
    'optimize',
    'pool2d',
    'scratch',
    'set_num_threads',
    'swap',
    'use_backend',
]

# Loaded now and not at the first call, so that exported graphs with our operators can be read.
if not _mxnet.native_status().available and _backends.current() != 'portable':
    _warnings.warn(
        f'gluon_convpool runs without its native library: {_mxnet.native_status().reason}. Results'
        ' are the same, but convolution and pooling are many times slower. To mend it, install a'
        ' C++17 compiler (g++) and install gluon_convpool again; to keep it so without this'
        f' warning, set {_backends.ENVIRONMENT_VARIABLE}=portable.',
        RuntimeWarning,
        stacklevel=2,
    )
