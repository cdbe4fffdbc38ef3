"""Blocks in a row, where a batch norm and the ReLU behind it are computed as one."""

from __future__ import annotations

from typing import Any, Dict

from mxnet.gluon import nn as builtin

from ._common import Activation
from .batch_norm import _BatchNorm


def is_relu(block: Any) -> bool:
    """Say whether a block is a ReLU of Gluon, which nobody watches."""
    return (
        type(block) in (builtin.Activation, Activation)
        and block._act_type == 'relu'
        and not (block._forward_hooks or block._forward_pre_hooks)
    )


def has_relu_behind_norm(block: Any) -> bool:
    """Say whether a batch norm and a ReLU follow each other in a block."""
    blocks = list(block._children.values())
    return any(
        isinstance(one, builtin.BatchNorm) and is_relu(behind)
        for one, behind in zip(blocks, blocks[1:])
    )


class Joining:
    """Mixin for a sequential block, whose second base is MXNet's."""

    _children: Dict[str, Any]

    def _prepare(self) -> None:
        """Nothing is kept beside what MXNet's block keeps."""

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        blocks = list(self._children.values())
        taken = None
        for block, behind in zip(blocks, [*blocks[1:], None]):
            if block is taken:
                taken = None
            elif isinstance(block, _BatchNorm) and is_relu(behind) and block.takes_relu(x):
                x, taken = block.with_relu(x, behind), behind
            else:
                x = block(x)
        return x


class HybridSequential(Joining, builtin.HybridSequential):
    """Blocks in a row, a drop-in for ``mxnet.gluon.nn.HybridSequential``.

    A `BatchNorm` of ours and an ``Activation('relu')`` behind it are computed by one operator,
    which saves two passes over the array between them, and three in training. They stay two blocks.
    With hooks, or where MXNet's operator serves the batch norm, they are computed one by one.

    Parameters
    ----------
    prefix : str, optional
    params : gluon.ParameterDict, optional
        As in every Gluon block.

    Examples
    --------
    >>> from gluon_convpool import nn
    >>> from mxnet import np, npx
    >>> npx.set_np()
    >>> net = nn.HybridSequential()
    >>> net.add(nn.BatchNorm(), nn.Activation('relu'))
    >>> net.initialize()
    >>> net(np.array([[-1.0, 2.0]])).asnumpy().round(3)
    array([[0., 2.]], dtype=float32)
    >>> npx.reset_np()
    """
