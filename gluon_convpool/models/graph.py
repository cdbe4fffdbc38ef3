"""A graph of MXNet operators that can be taken apart: read from a symbol, written back as one."""

from __future__ import annotations

import ast
import functools
import json
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy

from .._mxnet import in_world, kind_of, mx, to_world

NUMPY_PREFIX = '_npx_'


@functools.lru_cache(maxsize=4096)
def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


class Node:
    """One operator or variable; equal only to itself.

    Attributes
    ----------
    op : str
        The operator's name, or 'null' for a variable. MXNet writes one name for the legacy and the
        NumPy form of most operators ('Convolution', 'BatchNorm').
    name : str
    attrs : dict of str to str
    inputs : list of Output
    extra : dict
        What else the stored node has, such as the graphs inside of a loop.
    """

    def __init__(
        self,
        op: str,
        name: str,
        attrs: Dict[str, str],
        inputs: Sequence[Output],
        extra: Optional[Dict[str, Any]] = None,
    ) -> None:
        self.op, self.name, self.attrs, self.inputs = op, name, attrs, list(inputs)
        self.extra = extra or {}

    @property
    def is_variable(self) -> bool:
        return self.op == 'null'

    def attribute(self, name: str, otherwise: Any) -> Any:
        """Return an attribute's value; `otherwise` where it is absent or 'None'."""
        value = _value(self.attrs.get(name, 'None'))
        return otherwise if value is None else value

    def set(self, **values: Any) -> None:
        """Set attributes, written as MXNet writes them."""
        self.attrs = {**self.attrs, **{name: str(value) for name, value in values.items()}}

    def own_attributes(self) -> Dict[str, str]:
        """Return what the user or Gluon noted on the node, which no operator reads."""
        return {name: value for name, value in self.attrs.items() if name.startswith('__')}

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
        Legacy arrays: arguments and auxiliary states by the names of their variables. Variables
        without an array are the graph's inputs.

    Attributes
    ----------
    outputs : list of Output
    parameters : dict of str to NDArray
    numpy : bool
        Whether its inputs and outputs are ``mx.np`` arrays.
    """

    def __init__(self, symbol: Any, parameters: Dict[str, Any]) -> None:
        stored = json.loads(symbol.tojson())
        kind = kind_of(symbol)
        assert kind is not None
        self.numpy = kind.numpy
        self.parameters = dict(parameters)
        self._attrs = stored.get('attrs', {})
        self._names = {one['name'] for one in stored['nodes']}
        nodes: List[Node] = []
        for one in stored['nodes']:
            inputs = [Output(nodes[entry[0]], entry[1]) for entry in one['inputs']]
            known = ('op', 'name', 'attrs', 'inputs')
            extra = {key: value for key, value in one.items() if key not in known}
            nodes.append(Node(one['op'], one['name'], dict(one.get('attrs', {})), inputs, extra))
        self.outputs = [Output(nodes[entry[0]], entry[1]) for entry in stored['heads']]
        # New names of nodes, and those that they had.
        self.renamed: Dict[str, str] = {}
        self._output_names = [output.node.name for output in self.outputs]
        # Once for each input that uses an output of the node; None stands for the graph itself.
        self._users: Dict[Node, List[Optional[Node]]] = {}
        for node in self._sorted():
            self._users[node] = []
            for entry in node.inputs:
                self._users[entry.node].append(node)
        for entry in self.outputs:
            self._users[entry.node].append(None)
        self._order: Optional[List[Node]] = None
        # Kept here by whoever has worked them out: rewriting changes no shape and no type.
        self.shapes: Any = None
        self.dtypes: Optional[Dict[str, str]] = None

    def copy(self) -> Graph:
        """Return the same graph with nodes of its own; the arrays are shared."""
        return Graph(self.symbol(), self.parameters)

    # ----------------------------------------------------------------- looking

    def nodes(self) -> List[Node]:
        """Return what the outputs need, inputs before those that use them."""
        if self._order is None:
            self._order = self._sorted()
        return list(self._order)

    def _sorted(self) -> List[Node]:
        order: List[Node] = []
        seen: Set[Node] = set()
        # A stack of its own: networks are deeper than Python's recursion.
        stack = [(entry.node, False) for entry in reversed(self.outputs)]
        while stack:
            node, ready = stack.pop()
            if ready:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((entry.node, False) for entry in reversed(node.inputs))
        return order

    def __contains__(self, node: Node) -> bool:
        """Say whether the outputs still need the node."""
        return node in self._users

    def users(self, node: Node) -> List[Optional[Node]]:
        """Return who uses any output of the node, once for each use; None is the graph itself."""
        return list(self._users[node])

    def used_numbers(self, node: Node) -> Set[int]:
        """Return which outputs of the node are used, by other nodes or as outputs of the graph."""
        uses = [entry for user in self._users[node] if user for entry in user.inputs]
        return {entry.number for entry in uses + self.outputs if entry.node is node}

    def is_only_used_by(self, before: Node, node: Node) -> bool:
        """Say whether nothing but one input of `node` uses the first output of `before`."""
        return self.users(before) == [node] and self.used_numbers(before) == {0}

    def value(self, entry: Output) -> Optional[numpy.ndarray]:
        """Return the parameter that stands there, or None."""
        if not entry.node.is_variable or entry.node.name not in self.parameters:
            return None
        return self.parameters[entry.node.name].asnumpy()

    def inputs(self) -> List[str]:
        """Return the names of the variables without an array, in the order of their use."""
        return [
            node.name
            for node in self.nodes()
            if node.is_variable and node.name not in self.parameters
        ]

    def alone(self, node: Node) -> Tuple[Graph, List[Output]]:
        """Return a graph of one node, and what the node gets here in the place of its inputs.

        Parameters stay what they are; other inputs become inputs of the new graph, named 'input0'
        and so on. Its outputs are those of the node that are used here, in their order.
        """
        given: List[Output] = []
        variables: List[Dict[str, Any]] = []
        places: Dict[Output, int] = {}
        for entry in node.inputs:
            if entry not in places:
                places[entry] = len(variables)
                name = entry.node.name
                if not entry.node.is_variable or name not in self.parameters:
                    name = f'input{len(given)}'
                    given.append(entry)
                variables.append({'op': 'null', 'name': name, 'inputs': []})
        stored = {
            'op': node.op,
            'name': node.name,
            'attrs': node.attrs,
            'inputs': [[places[entry], 0, 0] for entry in node.inputs],
            **node.extra,
        }
        graph = {
            'nodes': [*variables, stored],
            'arg_nodes': list(range(len(variables))),
            'heads': [[len(variables), number, 0] for number in sorted(self.used_numbers(node))],
            'attrs': self._attrs,
        }
        symbol = to_world(mx.sym.load_json(json.dumps(graph)), self.numpy)
        names = {one['name'] for one in variables}
        values = {name: value for name, value in self.parameters.items() if name in names}
        return Graph(symbol, values), given

    # ----------------------------------------------------------------- changing

    def rewire(self, node: Node, inputs: Sequence[Output]) -> None:
        """Give a node other inputs, and forget what only the old ones needed."""
        before, node.inputs = node.inputs, list(inputs)
        for entry in node.inputs:
            self._users.setdefault(entry.node, []).append(node)
        for entry in before:
            self._forget_use(entry.node, node)
        self._order = None

    def _forget_use(self, node: Node, user: Optional[Node]) -> None:
        uses = [(node, user)]
        while uses:
            node, user = uses.pop()
            self._users[node].remove(user)
            if not self._users[node]:
                del self._users[node]
                uses.extend((entry.node, node) for entry in node.inputs)

    def replace(self, old: Output, new: Output) -> None:
        """Let whoever uses `old` use `new`, but for `new` itself."""
        for user in self.users(old.node):
            if user is not None and user is not new.node and old in user.inputs:
                self.rewire(user, [new if entry == old else entry for entry in user.inputs])
        for i, entry in enumerate(self.outputs):
            if entry == old:
                self.outputs[i] = new
                self._users.setdefault(new.node, []).append(None)
                self._forget_use(old.node, None)
        self._order = None

    def operator(self, name: str) -> str:
        """Return the name of one of our operators in the world of the graph."""
        return (NUMPY_PREFIX if self.numpy else '') + name

    def add_parameter(self, name: str, value: numpy.ndarray) -> Output:
        """Add a parameter with a name like `name` and return its variable."""
        taken = self._names | set(self.parameters)
        unique, count = name, 0
        while unique in taken:
            count += 1
            unique = f'{name}_{count}'
        self.parameters[unique] = mx.nd.array(value, dtype=value.dtype)
        return Output(Node('null', unique, {}, []), 0)

    def finish(self) -> None:
        """Drop parameters that nothing uses any more; name the outputs as they were."""
        nodes = self.nodes()
        variables = {node.name for node in nodes if node.is_variable}
        self.parameters = {n: value for n, value in self.parameters.items() if n in variables}
        taken = {node.name for node in nodes}
        for entry, name in zip(self.outputs, self._output_names):
            if name not in taken and not entry.node.is_variable:
                taken = (taken - {entry.node.name}) | {name}
                self.renamed[name] = entry.node.name
                entry.node.name = name

    # ----------------------------------------------------------------- writing

    def symbol(self) -> Any:
        """Return the graph as a symbol of the kind that it was read from."""
        order = self.nodes()
        place = {node: i for i, node in enumerate(order)}
        stored = {
            'nodes': [
                {
                    'op': node.op,
                    'name': node.name,
                    'attrs': {**node.attrs, **self._shape_of(node)},
                    'inputs': [[place[entry.node], entry.number, 0] for entry in node.inputs],
                    **node.extra,
                }
                for node in order
            ],
            'arg_nodes': [i for i, node in enumerate(order) if node.is_variable],
            'heads': [[place[entry.node], entry.number, 0] for entry in self.outputs],
            'attrs': self._attrs,
        }
        return to_world(mx.sym.load_json(json.dumps(stored)), self.numpy)

    def _shape_of(self, node: Node) -> Dict[str, str]:
        # MXNet reserves too little memory for the shapes of an extension operator's inputs where
        # some are unknown (docs/MXNET.md).
        if not node.is_variable or node.name not in self.parameters:
            return {}
        return {'__shape__': str(tuple(self.parameters[node.name].shape))}

    def evaluate(self) -> List[Any]:
        """Return the outputs of a graph without inputs, as legacy arrays."""
        with in_world(self.numpy):
            return self.symbol().as_nd_ndarray().eval(ctx=mx.cpu(), **self.parameters)
