"""What `optimize` does to a graph: a list of rules, each of which rewrites one pattern.

A rule names the operators at which its pattern ends, and has a function that gets the graph and
such a node. The function rewrites the graph and says what it did; or returns None, where the
pattern is not there; or raises `Stays` with the reason, where it is there and has to stay as it is.
A new rule is such a function and a line in `RULES`.

=========  ====================================================
dropping   what inference does not need
splitting  batch norms from the activation that is their last step
folding    constants; scales and shifts into the weights before
replacing  our operators in the place of MXNet's
fusing     sums and activations as the last step of a convolution
joining    what stands before a pointwise convolution as its first step
packing    weights, once the shapes of the inputs are known
=========  ====================================================
"""

from __future__ import annotations

from typing import Dict, List, Sequence, Tuple

from ..graph import Graph, Node
from . import dropping, folding, fusing, joining, replacing, splitting
from .packing import pack_weights
from .rule import Left, Rewrite, Rule, Stays

__all__ = ['NATIVE_RULES', 'RULES', 'Left', 'Rewrite', 'Rule', 'Stays', 'apply', 'pack_weights']

RULES: Tuple[Rule, ...] = (
    dropping.LOSS,
    dropping.IDENTITY,
    dropping.DROPOUT,
    dropping.MODE,
    splitting.ACTIVATION,
    folding.CONSTANT,
    folding.SCALE_AND_SHIFT,
)
# Only where the compiled operators are there, and asked for.
NATIVE_RULES: Tuple[Rule, ...] = (
    replacing.CONVOLUTION,
    replacing.DECONVOLUTION,
    replacing.POOLING,
    replacing.BATCH_NORM,
    fusing.SUM,
    fusing.ACTIVATION,
    joining.SCALE,
    joining.POOLING,
    joining.CONCAT,
)


def apply(graph: Graph, rules: Sequence[Rule]) -> Tuple[List[Rewrite], List[Left]]:
    """Apply rules in their order, each to all nodes until it finds nothing more to do.

    Returns
    -------
    list of Rewrite, list of Left
        What was done; and which nodes had to stay as they were and are still there.
    """
    rewrites: List[Rewrite] = []
    left: Dict[Node, Left] = {}
    for rule in rules:
        found = True
        while found:
            found = False
            for node in graph.nodes():
                if node.op not in rule.operators or node not in graph:
                    continue
                op, name = node.op, node.name
                try:
                    words = rule.rewrite(graph, node)
                except Stays as reason:
                    left[node] = Left(name, op, str(reason))
                    continue
                if words is not None:
                    rewrites.append(Rewrite(name, op, rule.name, words))
                    left.pop(node, None)
                    found = True
    graph.finish()
    return rewrites, [entry for node, entry in left.items() if node in graph]
