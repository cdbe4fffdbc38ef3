"""One model, original and optimized: as a whole, and node by node.

Each node runs alone, on what it gets in the model, hybridized with static memory. The sum over the
nodes is more than the time of the whole: each call through Gluon costs something.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..models.graph import Graph, Node, Output
from ..models.optimization import GraphBlock, OptimizationReport
from ..models.tracing import trace_of_graph
from .measure import alternate
from .workers.protocol import timed

BEFORE, AFTER = 'before', 'after'
# So that a model of hundreds of nodes takes seconds.
NODE_BURST_SECONDS = 0.005


class Step(NamedTuple):
    """A node with what it gets, ready to run.

    Attributes
    ----------
    node : Node
    shape : tuple of int
        Of its first output.
    call : callable
        Runs it and waits for its output; None where it takes no array.
    """

    node: Node
    shape: Tuple[int, ...]
    call: Optional[Callable[[], Any]]


def _waiting(block: Any, arrays: Sequence[Any]) -> Callable[[], Any]:
    def call() -> Any:
        outputs = block(*arrays)
        for one in outputs if isinstance(outputs, (list, tuple)) else [outputs]:
            one.wait_to_read()
        return outputs

    return call


def steps(graph: Graph, inputs: Dict[str, Any]) -> List[Step]:
    """Run a graph node by node, and return each node with its inputs.

    Parameters
    ----------
    graph : Graph
    inputs : dict of str to array
        By the names of the graph's inputs.

    Raises
    ------
    ModelError
        Naming the layer that refuses what it gets.
    """
    values: Dict[Output, Any] = {}
    found: List[Step] = []
    for node in graph.nodes():
        if node.is_variable:
            if node.name in inputs:
                values[Output(node, 0)] = inputs[node.name]
            continue
        alone, given = graph.alone(node)
        if given:
            block = GraphBlock(trace_of_graph(alone, [f'input{i}' for i in range(len(given))]))
            call = _waiting(block, [values[entry] for entry in given])
            outputs = call()
        else:
            call = None
            outputs = alone.evaluate()
        outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
        for number, array in zip(sorted(graph.used_numbers(node)), outputs):
            values[Output(node, number)] = array
        found.append(Step(node, tuple(outputs[0].shape), call))
    return found


def _actions(report: OptimizationReport) -> Dict[str, str]:
    """Return what was done with each node, by name; the last word where there are several."""
    words = {one.node: f'{one.action} {one.words}'.rstrip() for one in report.rewrites}
    words.update({one.node: f'left: {one.reason}' for one in report.left})
    return words


def measure_nodes(
    original: Graph,
    optimized: Graph,
    report: OptimizationReport,
    inputs: Dict[str, Any],
    after_node: Callable[[], Any] = lambda: None,
) -> List[Dict[str, Any]]:
    """Time each node of the original, and what has become of it, in turns.

    Returns
    -------
    list of dict
        'layer', 'operator', 'shape', 'action' and the seconds 'before' and 'after'; None where a
        node is part of another one now.
    """
    words = _actions(report)
    now = {optimized.renamed.get(s.node.name, s.node.name): s for s in steps(optimized, inputs)}
    records = []
    for step in steps(original, inputs):
        sides = {BEFORE: step, AFTER: now.get(step.node.name)}
        runs = {
            name: functools.partial(timed, one.call)
            for name, one in sides.items()
            if one is not None and one.call is not None
        }
        times = alternate(runs, 0.0, NODE_BURST_SECONDS)
        records.append(
            {
                'layer': step.node.name,
                'operator': step.node.op,
                'shape': list(step.shape),
                'action': words.get(step.node.name, ''),
                **{name: times.get(name, {}).get('median') for name in sides},
            }
        )
        after_node()
    return records


def measure_whole(original: Any, optimized: Any, arrays: Sequence[Any], seconds: float) -> Any:
    """Time two models as blocks, in turns; returns `measure.summary` of each by name."""
    blocks = {BEFORE: original, AFTER: optimized}
    calls = {name: _waiting(block, arrays) for name, block in blocks.items()}
    runs = {name: functools.partial(timed, call) for name, call in calls.items()}
    return alternate(runs, seconds)
