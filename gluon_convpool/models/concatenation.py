"""MXNet's concurrent blocks, concatenating by the operator that is fast on plain arrays.

MXNet's legacy ``concat`` is made for the blocked arrays that its own convolutions leave behind, and
takes several times as long for the plain ones that our layers give (docs/MXNET.md, "Whole
networks"). The operator behind ``mx.np.concatenate`` does not, and serves legacy arrays and symbols
too, which are the same objects seen through another type.
"""

from __future__ import annotations

from typing import Any, List

from mxnet.gluon.contrib.nn import basic_layers as builtin

from .._mxnet import kind_of, mx, to_world


def _concatenate(arrays: List[Any], axis: int) -> Any:
    kind = kind_of(arrays[0])
    assert kind is not None
    world = mx.sym.np if kind.symbol else mx.np
    return to_world(world.concatenate([to_world(x, True) for x in arrays], axis), kind.numpy)


class HybridConcurrent(builtin.HybridConcurrent):
    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return _concatenate([block(x) for block in self._children.values()], self.axis)


class Concurrent(builtin.Concurrent):
    def forward(self, x: Any) -> Any:
        return _concatenate([block(x) for block in self._children.values()], self.axis)
