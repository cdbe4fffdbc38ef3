"""Batch normalisation for networks of our layers.

It is here for the sake of the convolutions: MXNet's own batch norm is made for the blocked arrays
that MXNet's convolutions leave behind, and takes several times as long for the plain ones that ours
give.
"""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import Any, ClassVar, Optional, Tuple

from mxnet.gluon.nn import basic_layers as builtin

from .. import backends, functional, geometry
from .._mxnet import kind_of, to_world
from ..backends import native
from ._common import (
    DataGradient,
    array_kind,
    check_keywords,
    fill_in_signature,
    parameter_input,
    watch,
)

_DOC = """Batch normalisation, a drop-in for ``mxnet.gluon.nn.{name}``.

Signature, defaults, parameters and their names are the built-in layer's, and
``isinstance(layer, mxnet.gluon.nn.{name})`` holds. The running statistics are moved by the backward
pass, as MXNet does.

Parameters
----------
{parameters}

Raises
------
TypeError, ValueError
    For data that do not fit, before anything is computed.

Notes
-----
Data are float32 or float64 arrays (or symbols) of two or more axes; those of other types, on other
devices or with another `axis` than 1 are left to MXNet's operator.

In one case the gradient is not MXNet's: what was computed with running statistics (under
``autograd.record(train_mode=False)``) has the gradient of that computation, while MXNet gives that
of a training unless ``backward(train_mode=False)`` is asked for.

Examples
--------
>>> from gluon_convpool import nn
>>> from mxnet import np, npx
>>> npx.set_np()
>>> layer = nn.{name}()
>>> layer.initialize()
>>> layer(np.ones((1, 3, 8, 8))).shape
(1, 3, 8, 8)
>>> npx.reset_np()
"""

# A batch norm and the ReLU that is computed with the call of it that runs.
_taken_over: ContextVar[Tuple[Any, Any]] = ContextVar('_taken_over', default=(None, None))

_PARAMETERS = {
    'axis': """axis : int
    The axis of the channels.""",
    'momentum': """momentum : float
    Share of the running statistics that a training step keeps.""",
    'epsilon': """epsilon : float
    Added to the variance.""",
    'center': """center : bool
    Whether `beta` is added.""",
    'scale': """scale : bool
    Whether there is a factor `gamma`.""",
    'use_global_stats': """use_global_stats : bool
    Use the running statistics in training, too.""",
    'beta_initializer': """beta_initializer : str or Initializer
    Initial values of the parameter ``beta``.""",
    'gamma_initializer': """gamma_initializer : str or Initializer
    Initial values of the parameter ``gamma``.""",
    'running_mean_initializer': """running_mean_initializer : str or Initializer
    Initial values of the parameter ``running_mean``.""",
    'running_variance_initializer': """running_variance_initializer : str or Initializer
    Initial values of the parameter ``running_var``.""",
    'in_channels': """in_channels : int
    Number of channels; 0 leaves it to the first data that arrives.""",
    'kwargs': """**kwargs
    ``prefix`` and ``params``, as in every Gluon block.""",
}


class _BatchNorm(DataGradient, builtin._BatchNorm):
    """Batch normalisation; a subclass names the built-in layer as its second base."""

    _builtin_signature: ClassVar[Any]
    # What data were cast to, which symbols do not know; None for float32.
    _dtype: Optional[str] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__ == __name__:
            fill_in_signature(cls, _DOC, _PARAMETERS)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        check_keywords(self, kwargs)
        super().__init__(*args, **kwargs)
        self._prepare()

    def _prepare(self) -> None:
        for parameter in self._reg_params.values():
            watch(parameter)

    def cast(self, dtype: Any) -> None:
        super().cast(dtype)
        self._dtype = functional.dtype_name(dtype)

    def obstacle(self) -> str:
        """Say why MXNet's operator computes instead of ours, as far as the layer alone tells.

        Returns
        -------
        str
            A reason, or an empty string.
        """
        axis = self._kwargs['axis']
        if axis != 1:
            return f'its axis is {axis}, not 1'
        return native.obstacle_of_arrays('batch_norm', self._computed_in(), None)

    def _computed_in(self) -> str:
        return self._dtype or functional.dtype_name(self.gamma.dtype)

    def _is_ours(self, x: Any) -> bool:
        if self.obstacle() or not backends.is_native():
            return False
        kind = array_kind(self, x)
        if kind.symbol:
            return True
        dtype, device = functional.dtype_name(x.dtype), x.ctx.device_type
        return x.ndim >= 2 and not native.obstacle_of_arrays('batch_norm', dtype, device)

    def takes_relu(self, x: Any) -> bool:
        """Say whether `with_relu` may be called in the place of this block and a ReLU."""
        kind = kind_of(x)
        if kind is None or self._forward_hooks or not self._is_ours(x):
            return False
        return kind.symbol or not self._active  # a graph of its own serves every call

    def with_relu(self, x: Any, relu: Any) -> Any:
        """Return what `relu`, a block, gives for what this one gives for `x`."""
        token = _taken_over.set((self, relu))
        try:
            return self(x)
        finally:
            _taken_over.reset(token)

    def forward(self, x: Any) -> Any:
        if array_kind(self, x).symbol or not self._is_ours(x):
            return super().forward(x)
        channels = self.gamma.shape[0]
        if channels > 0 and x.shape[1] != channels:
            geometry.refuse(
                'channels_of_statistics', op='batch_norm', shape=x.shape, channels=channels
            )
        context = x.ctx
        return self._forward_alone(x, context) if self._active else self._forward_array(x, context)

    def hybrid_forward(
        self, F: Any, x: Any, gamma: Any, beta: Any, running_mean: Any, running_var: Any
    ) -> Any:
        backends.check_order('batch_norm', 'batch normalisation')
        if not self._is_ours(x):
            return super().hybrid_forward(F, x, gamma, beta, running_mean, running_var)
        kind = kind_of(x)
        assert kind is not None
        mean, variance = (to_world(one, kind.numpy) for one in (running_mean, running_var))
        gamma, gamma_adds = parameter_input(self.gamma, to_world(gamma, kind.numpy), kind)
        beta, beta_adds = parameter_input(self.beta, to_world(beta, kind.numpy), kind)
        adds = (self._data_adds(), gamma_adds, beta_adds)
        inputs = (x, gamma, beta, mean, variance)
        # In a graph, what gives the output of the ReLU has the ReLU's name.
        block, relu = _taken_over.get()
        activation = 'relu' if block is self else None
        with relu.name_scope() if activation else contextlib.nullcontext():
            return native.batch_norm(
                *inputs, self._kwargs, kind, self._computed_in(), 'fwd', adds, activation
            )


class BatchNorm(_BatchNorm, builtin.BatchNorm):
    pass
