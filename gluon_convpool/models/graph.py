"""A graph of MXNet operators that can be taken apart: read from a symbol, written back as one."""

from __future__ import annotations

import json
from typing import Any, Dict, List, NamedTuple, Optional, Set

from .._mxnet import mx, to_world


class Node:
    """One operator or variable; equal only to itself.

    Attributes
    ----------
    op : str
        The operator's name, or 'null' for a variable.
    name : str
    attrs : dict of str to str
    inputs : list of Output
    """

    def __init__(self, op: str, name: str, attrs: Dict[str, str], inputs: List[Output]) -> None:
        self.op, self.name, self.attrs, self.inputs = op, name, attrs, inputs

    @property
    def is_variable(self) -> bool:
        return self.op == 'null'

    def __repr__(self) -> str:
        return f'{self.op}({self.name})'


class Output(NamedTuple):
    """One of the outputs of a node."""

    node: Node
    number: int


class Graph:
    """A graph by its outputs, with the arrays of its parameters.

    Parameters
    ----------
    symbol : mxnet Symbol
    parameters : dict of str to NDArray
        Arguments and auxiliary states by the names of their variables; what is missing is an
        input.
    """

    def __init__(self, symbol: Any, parameters: Dict[str, Any]) -> None:
        stored = json.loads(symbol.tojson())
        self._attrs = stored.get('attrs', {})
        self.numpy = isinstance(symbol, type(mx.sym.var('x').as_np_ndarray()))
        self.parameters = dict(parameters)
        nodes: List[Node] = []
        for one in stored['nodes']:
            inputs = [Output(nodes[entry[0]], entry[1]) for entry in one['inputs']]
            attrs = dict(one.get('attrs', one.get('param', {})))
            nodes.append(Node(one['op'], one['name'], attrs, inputs))
        self.outputs = [Output(nodes[entry[0]], entry[1]) for entry in stored['heads']]

    def nodes(self) -> List[Node]:
        """Return what the outputs need, inputs before those that use them."""
        order: List[Node] = []
        seen: Set[int] = set()
        # An own stack: networks are deeper than Python's recursion.
        stack = [(output.node, False) for output in reversed(self.outputs)]
        while stack:
            node, ready = stack.pop()
            if ready:
                order.append(node)
                continue
            if id(node) in seen:
                continue
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((entry.node, False) for entry in reversed(node.inputs))
        return order

    def users(self) -> Dict[int, List[Node]]:
        """Return the users of each node by its id; None stands for an output of the graph."""
        users: Dict[int, List[Any]] = {id(node): [] for node in self.nodes()}
        for node in self.nodes():
            for entry in node.inputs:
                users[id(entry.node)].append(node)
        for entry in self.outputs:
            users[id(entry.node)].append(None)
        return users

    def replace(self, old: Node, new: Output) -> None:
        """Let whoever uses the first output of `old` use `new`."""
        for node in self.nodes():
            if node is not new.node:
                node.inputs = [new if entry == (old, 0) else entry for entry in node.inputs]
        self.outputs = [new if entry == (old, 0) else entry for entry in self.outputs]

    def value(self, entry: Output) -> Optional[Any]:
        """Return the parameter that stands there as a NumPy array, or None."""
        if not entry.node.is_variable or entry.node.name not in self.parameters:
            return None
        return self.parameters[entry.node.name].asnumpy()

    def add_parameter(self, name: str, value: Any) -> Output:
        """Add a parameter with a name like `name` and return its variable."""
        unique, count = name, 0
        while unique in self.parameters:
            count += 1
            unique = f'{name}_{count}'
        self.parameters[unique] = mx.nd.array(value, dtype=value.dtype)
        return Output(Node('null', unique, {}, []), 0)

    def symbol(self) -> Any:
        """Return the graph as a symbol of the kind that it was read from."""
        order = self.nodes()
        place = {id(node): i for i, node in enumerate(order)}
        stored: Dict[str, Any] = {
            'nodes': [
                {
                    'op': node.op,
                    'name': node.name,
                    'attrs': {**node.attrs, **self._shape_of(node)},
                    'inputs': [[place[id(entry.node)], entry.number, 0] for entry in node.inputs],
                }
                for node in order
            ],
            'arg_nodes': [i for i, node in enumerate(order) if node.is_variable],
            'heads': [[place[id(entry.node)], entry.number, 0] for entry in self.outputs],
            'attrs': self._attrs,
        }
        return to_world(mx.sym.load_json(json.dumps(stored)), self.numpy)

    def _shape_of(self, node: Node) -> Dict[str, str]:
        # MXNet reserves too little memory for the shapes of an extension operator's inputs where
        # some are unknown (docs/MXNET.md).
        if not node.is_variable or node.name not in self.parameters:
            return {}
        return {'__shape__': str(tuple(self.parameters[node.name].shape))}

    def inputs(self) -> List[str]:
        """Return the names of the variables that are no parameters, in the order of the graph."""
        return [
            node.name
            for node in self.nodes()
            if node.is_variable and node.name not in self.parameters
        ]

    def drop_unused_parameters(self) -> None:
        names = {node.name for node in self.nodes() if node.is_variable}
        self.parameters = {n: value for n, value in self.parameters.items() if n in names}
