"""MXNet's concurrent blocks, concatenating by the operator that is fast on plain arrays.

MXNet's legacy ``concat`` is made for the blocked arrays that its own convolutions leave behind, and
takes several times as long for the plain ones that our layers give (docs/MXNET.md, "Whole
networks"). The operator behind ``mx.np.concatenate`` does not, and serves legacy arrays and symbols
too, which are the same objects seen through another type.
"""

from __future__ import annotations

from typing import Any, Dict

from mxnet.gluon.contrib.nn import basic_layers as builtin

from .._mxnet import kind_of, mx, to_world


class Concatenating:
    """Mixin for a concurrent block, whose second base is MXNet's."""

    _children: Dict[str, Any]
    axis: int

    def _prepare(self) -> None:
        """Nothing is kept beside what MXNet's block keeps."""

    def _concatenated(self, x: Any) -> Any:
        arrays = [block(x) for block in self._children.values()]
        kind = kind_of(arrays[0])
        assert kind is not None
        world = mx.sym.np if kind.symbol else mx.np
        out = world.concatenate([to_world(one, True) for one in arrays], self.axis)
        return to_world(out, kind.numpy)


class HybridConcurrent(Concatenating, builtin.HybridConcurrent):
    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return self._concatenated(x)


class Concurrent(Concatenating, builtin.Concurrent):
    def forward(self, x: Any) -> Any:
        return self._concatenated(x)


OURS = (HybridConcurrent, Concurrent)
