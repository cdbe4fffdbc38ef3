"""Models as MXNet stores them: a graph in ``PREFIX-symbol.json`` and arrays in ``.params``.

What cannot be read, or does not fit together, is refused in a sentence that names the file or the
layer. MXNet ends the process on some damaged graphs, so they are looked at first.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, NoReturn, Optional, Sequence, Tuple, Union

import numpy

from .. import geometry
from .._mxnet import in_world, mx, to_world
from ..backends import native
from . import operators, stored_arrays
from .graph import Graph, Node
from .rules import apply, dropping
from .shapes import shapes_of

PathLike = Union[str, 'os.PathLike[str]']


class ModelError(ValueError):
    """Why a model cannot be read, traced or run: a sentence that names the file or the layer.

    Examples
    --------
    >>> import gluon_convpool
    >>> from gluon_convpool.models import ModelError
    >>> try:
    ...     gluon_convpool.optimize(('none.json', 'none.params'))
    ... except ModelError as error:
    ...     print(error)
    none.json: there is no such file
    """


def reason_of(error: BaseException) -> str:
    """Return what MXNet says in an error, without its places in C++ files.

    Examples
    --------
    >>> reason_of(ValueError('MXNetError: Error in operator conv0: [10:00:00] ../src/a.cc:1:'
    ...                      ' Check failed: a == b (3 vs. 4) : data should be 4D'))
    'layer conv0: data should be 4D (3 vs. 4)'
    """
    text = ' '.join(str(error).split())
    text = re.sub(
        r'^(Traceback \(most recent call last\):|File "[^"]*", line \d+|\w*Error:| )*', '', text
    )
    layer = re.search(r'Error in operator ([^\s:]+):\s*', text)
    rest = text[layer.end() :] if layer else text
    rest = re.sub(r'\[\d\d:\d\d:\d\d\] \S+:\d+:\s*', '', rest)
    # What stands behind it is a sentence of ours.
    rest = re.sub(
        r"^.*Error calling \w+ for custom operator '\w+' Extension Traceback: \[0\] ", '', rest
    )
    failed = re.search(r'Check failed: (.*?)(\([^()]* vs\. [^()]*\))? ?: ?(.*)', rest)
    if failed:
        rest = failed[3] or failed[1]
        rest += f' {failed[2]}' if failed[2] else ''
    return (f'layer {layer[1]}: ' if layer else '') + rest.strip().rstrip('.')


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep MXNet from printing the arguments of a shape inference that fails."""
    with open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere):
        yield


# --------------------------------------------------------------------------- reading


def _text(path: PathLike) -> str:
    try:
        return Path(path).read_text(encoding='utf-8')
    except FileNotFoundError:
        raise ModelError(f'{path}: there is no such file') from None
    except UnicodeDecodeError:
        raise ModelError(f'{path}: is no JSON file') from None
    except OSError as error:
        raise ModelError(f'{path}: cannot be read: {error.strerror}') from None


def _check_structure(path: PathLike, stored: Any) -> None:
    """Refuse what MXNet's reader takes and then ends the process on."""

    def refuse(reason: str) -> NoReturn:
        raise ModelError(f'{path}: holds no graph of MXNet: {reason}')

    if not isinstance(stored, dict):
        refuse('it is not an object')
    for key in ('nodes', 'heads', 'arg_nodes'):
        if not isinstance(stored.get(key), list):
            refuse(f'it has no list {key!r}')
    nodes, heads = stored['nodes'], stored['heads']
    if not heads:
        refuse('it has no output')
    starts = stored.get('node_row_ptr')
    if starts is not None and not (
        isinstance(starts, list)
        and len(starts) == len(nodes) + 1
        and all(type(one) is int for one in starts)
    ):
        refuse("its 'node_row_ptr' has not one number for each node and one more")

    def check_entry(entry: Any, end: int, what: str) -> None:
        if not (
            isinstance(entry, list) and len(entry) > 1 and all(type(one) is int for one in entry)
        ):
            refuse(f'{what} names no output of a node')
        number, output = entry[:2]
        if not 0 <= number < end or output < 0:
            refuse(f'{what} names a node that does not come before it')
        if starts and output >= starts[number + 1] - starts[number]:
            refuse(f'{what} names an output that its node does not have')

    for i, node in enumerate(nodes):
        kinds = {'op': str, 'name': str, 'inputs': list}
        if not isinstance(node, dict) or not all(
            isinstance(node.get(key), kind) for key, kind in kinds.items()
        ):
            refuse(f'node {i} has no op, name and inputs')
        for entry in node['inputs']:
            check_entry(entry, i, f'an input of layer {node["name"]}')
    for entry in heads:
        check_entry(entry, len(nodes), 'an output')


def _count_of_inputs(node: Dict[str, Any], attributes: Dict[str, Any]) -> int:
    """Return how many inputs the operator of a stored node needs.

    Raises
    ------
    MXNetError
        If it cannot have as many as the node has.
    """
    alone = {'nodes': [{**node, 'inputs': []}], 'arg_nodes': [], 'heads': [[0, 0, 0]]}
    symbol = mx.sym.load_json(json.dumps({**alone, 'attrs': attributes}))._gen_atomic_symbol()
    # What is not given, MXNet adds as variables, where it has names for them.
    symbol._compose(*(mx.sym.var(f'input{i}') for i in range(len(node['inputs']))))
    return len(symbol.list_inputs())


def _check_inputs(path: PathLike, symbol: Any) -> None:
    """Refuse layers that lack inputs, on which MXNet ends the process when it infers shapes."""
    stored = json.loads(symbol.tojson())
    seen = set()
    for node in stored['nodes']:
        key = (node['op'], tuple(node.get('attrs', {}).items()), len(node['inputs']))
        if node['op'] == 'null' or 'subgraphs' in node or key in seen:
            continue
        seen.add(key)
        layer, given = f'{path}: layer {node["name"]}', len(node['inputs'])
        try:
            needed = _count_of_inputs(node, stored['attrs'])
        except mx.MXNetError as error:
            raise ModelError(
                f'{layer} cannot have {given} inputs as a {node["op"]}: {reason_of(error)}'
            ) from None
        if needed != given:
            raise ModelError(f'{layer} has {given} inputs, but a {node["op"]} needs {needed}')


def _stored_graph(path: PathLike) -> Tuple[str, Dict[str, Any]]:
    """Return the text of a graph's file and what it says, whose structure has been checked."""
    text = _text(path)
    try:
        stored = json.loads(text)
    except ValueError:
        raise ModelError(f'{path}: is no JSON file, or is cut short') from None
    except RecursionError:
        raise ModelError(f'{path}: holds no graph of MXNet: it is nested too deep') from None
    _check_structure(path, stored)
    return text, stored


def written_under_numpy(path: PathLike) -> bool:
    """Say whether a stored graph is one of NumPy arrays.

    Raises
    ------
    ModelError
        If the file is not there or holds no graph.
    """
    attributes = _stored_graph(path)[1].get('attrs')
    marked = attributes.get('is_np_shape') if isinstance(attributes, dict) else None
    return isinstance(marked, list) and len(marked) > 1 and bool(marked[1])


def read_symbol(path: PathLike) -> Any:
    """Read a graph, as a symbol of the world in force.

    Raises
    ------
    ModelError
        If the file is not there or holds no graph that MXNet can load.
    """
    text, _ = _stored_graph(path)
    try:
        symbol = mx.sym.load_json(text)
    except mx.MXNetError as error:
        unknown = re.search(r'Operator (\S+) is not registered', str(error))
        if unknown:
            raise ModelError(
                f'{path}: MXNet knows no operator {unknown[1]}; load the library that has it first'
            ) from None
        raise ModelError(f'{path}: MXNet cannot load the graph: {reason_of(error)}') from None
    _check_inputs(path, symbol)
    return to_world(symbol, mx.util.is_np_array())


def read_parameters(path: PathLike) -> Dict[str, Any]:
    """Read arrays by name, without the ``arg:`` and ``aux:`` before them, as legacy arrays.

    Raises
    ------
    ModelError
        If the file is not there, is damaged, or holds arrays without names.
    """
    try:
        stored_arrays.check(path)
    except FileNotFoundError:
        raise ModelError(f'{path}: there is no such file') from None
    except OSError as error:
        raise ModelError(f'{path}: cannot be read: {error.strerror}') from None
    except stored_arrays.DamagedFile as error:
        raise ModelError(f'{path}: is no parameter file, or is damaged: {error}') from None
    # A file says in which world it was written, and MXNet refuses it in the other.
    for numpy_world in (mx.util.is_np_shape(), not mx.util.is_np_shape()):
        try:
            with in_world(numpy_world):
                stored = mx.nd.load(str(path))
            break
        except mx.MXNetError as error:
            if 'np shape semantics' not in str(error):
                raise ModelError(
                    f'{path}: MXNet cannot load the arrays: {reason_of(error)}'
                ) from None
    if not isinstance(stored, dict) and stored:
        raise ModelError(f'{path}: holds arrays without names')
    return plain_names(stored or {})


def plain_names(values: Dict[str, Any]) -> Dict[str, Any]:
    """Return arrays as legacy ones, by their names without ``arg:`` and ``aux:``."""
    return {re.sub('^(arg|aux):', '', name): v.as_nd_ndarray() for name, v in values.items()}


# --------------------------------------------------------------------------- fitting together

# Which inputs of an operator are data; the others are parameters.
_DATA_INPUTS = {
    'FullyConnected': 1,
    'BatchNorm': 1,
    'InstanceNorm': 1,
    'LayerNorm': 1,
    'GroupNorm': 1,
    'Embedding': 1,
    'LeakyReLU': 1,
    **dict.fromkeys(operators.ANY_DECONVOLUTION | operators.OUR_BATCH_NORM, 1),
}


def _data_inputs(node: Node) -> int:
    if node.op in operators.ANY_CONVOLUTION:
        return operators.data_count(node)
    return _DATA_INPUTS.get(node.op, len(node.inputs))


def _missing_parameters(graph: Graph) -> List[str]:
    auxiliary = set(graph.symbol().list_auxiliary_states())
    missing = set(auxiliary - set(graph.parameters))
    for node in graph.nodes():
        inputs = node.inputs[_data_inputs(node) :]
        if node.attribute('with_sum', False):
            inputs.pop()
        for entry in inputs:
            if entry.node.is_variable and entry.node.name not in graph.parameters:
                missing.add(entry.node.name)
    return [name for name in graph.inputs() if name in missing]


def _expected_shapes(node: Node, channels: Any) -> List[Tuple[str, Any]]:
    """List what is wanted of a layer's parameters: words, and a shape with None for any size."""
    if node.op in operators.ANY_CONVOLUTION and operators.layout(node)[1] == 'C':
        outputs, groups = node.attribute('num_filter', 0), node.attribute('num_group', 1)
        inner = channels // groups if isinstance(channels, int) else None
        weight = (outputs, inner, *node.attribute('kernel', ()))
        if operators.is_prepacked(node):
            weight = (None,)
        return [('weight', weight), ('bias', (outputs,))]
    if node.op in operators.ANY_DECONVOLUTION and operators.layout(node)[1] == 'C':
        outputs, groups = node.attribute('num_filter', 0), node.attribute('num_group', 1)
        inputs = channels if isinstance(channels, int) else None
        weight = (inputs, outputs // groups, *node.attribute('kernel', ()))
        return [('weight', weight), ('bias', (outputs,))]
    if node.op in operators.FULLY_CONNECTED:
        outputs = node.attribute('num_hidden', 0)
        return [('weight', (outputs, None)), ('bias', (outputs,))]
    if node.op in operators.BATCH_NORM and node.attribute('axis', 1) == 1:
        size = channels if isinstance(channels, int) else None
        return [(name, (size,)) for name in ('gamma', 'beta', 'mean', 'variance')]
    return []


def check_parameters(graph: Graph, parameters: str, symbol: str) -> None:
    """Refuse parameters that are missing or of shapes that the layers cannot have.

    `parameters` and `symbol` name the two in the sentence.

    Raises
    ------
    ModelError
        Naming the layer or the parameter.
    """
    missing = _missing_parameters(graph)
    if missing:
        more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
        raise ModelError(f'{parameters}: does not fit {symbol}: it has no {missing[0]}{more}')
    shapes = shapes_of(graph)

    def refuse(node: Node, what: str, name: str, but: str) -> NoReturn:
        raise ModelError(
            f'{parameters}: does not fit {symbol}: layer {node.name} needs a {what}, but {name}'
            f' {but}'
        )

    for node in graph.nodes():
        data = node.inputs[: _data_inputs(node)]
        sizes: List[Any] = [
            shape[1] if shape and len(shape) > 1 else None for shape in map(shapes.of, data)
        ]
        channels = sum(sizes) if all(isinstance(size, int) for size in sizes) else None
        for entry, (name, wanted) in zip(
            node.inputs[len(data) :], _expected_shapes(node, channels)
        ):
            array = graph.parameters.get(entry.node.name) if entry.node.is_variable else None
            if array is None:
                continue
            fits = len(array.shape) == len(wanted) and all(
                size in (None, given) for size, given in zip(wanted, array.shape)
            )
            if not fits:
                expected = ', '.join('any' if size is None else str(size) for size in wanted)
                what = f'{name} of shape ({expected})'
                refuse(node, what, entry.node.name, f'has {tuple(array.shape)}')
            if operators.is_prepacked(node) and name == 'weight':
                made_for = native.packed_channels(
                    operators.convolution_arguments(node), array.asnumpy()
                )
                if made_for is None or channels not in (None, made_for):
                    refuse(node, 'packed weight', entry.node.name, 'is damaged or of another layer')


def data_words(shapes: Dict[str, Tuple[int, ...]]) -> str:
    """Return inputs and their shapes in words."""
    return ', '.join(f'{name} of shape {shape}' for name, shape in shapes.items())


def check_input_shapes(graph: Graph, given: Dict[str, Tuple[int, ...]]) -> None:
    """Refuse shapes of the inputs that the graph cannot take.

    Raises
    ------
    ModelError
        Naming the input and the layer.
    """
    for name, shape in given.items():
        if numpy.prod(shape, dtype=object) > geometry.LARGEST_ARRAY:
            raise ModelError(
                f'{name} of shape {shape} is more than the {geometry.LARGEST_ARRAY} elements that'
                ' one MXNet array can hold'
            )
    shapes = {name: tuple(array.shape) for name, array in graph.parameters.items()}
    try:
        with _silence(), in_world(graph.numpy):
            graph.symbol().infer_shape(**shapes, **given)
    except mx.MXNetError as error:
        raise ModelError(f'the graph refuses {data_words(given)}: {reason_of(error)}') from None


def fit_together(
    symbol: Any,
    values: Dict[str, Any],
    inputs: Optional[Sequence[str]] = None,
    names: Tuple[str, str] = ('the symbol', 'the parameters'),
) -> Graph:
    """Return the graph of a symbol with its arrays, without the losses that only training needs.

    Parameters
    ----------
    symbol : Symbol
    values : dict of str to array
        By plain names or with ``arg:`` and ``aux:``; what the symbol does not have is ignored.
    inputs : sequence of str, optional
        Names of the inputs, in the order in which the model is to take them.
    names : (str, str)
        What the symbol and the parameters are called in sentences.

    Raises
    ------
    ModelError
        If an array is missing or has a shape that its layer cannot have.
    """
    graph = Graph(symbol, plain_names(values))
    apply(graph, [dropping.LOSS])
    if inputs is not None:
        found = set(graph.inputs())
        for name in inputs:
            if name not in found:
                allowed = ', '.join(sorted(found)) or 'none'
                raise ModelError(f'{names[0]}: has no input {name}; it has {allowed}')
        absent = [name for name in graph.inputs() if name not in inputs]
        if absent:
            raise ModelError(f'{names[1]}: does not fit {names[0]}: it has no {absent[0]}')
    check_parameters(graph, names[1], names[0])
    return graph


def read_model(
    symbol: PathLike, parameters: PathLike, inputs: Optional[Sequence[str]] = None
) -> Graph:
    """Read a graph and its arrays from two files, as `fit_together` puts them together.

    Raises
    ------
    ModelError
        If a file cannot be read, or the two do not fit.
    """
    return fit_together(
        read_symbol(symbol),
        read_parameters(parameters),
        inputs,
        (os.fspath(symbol), os.fspath(parameters)),
    )


# --------------------------------------------------------------------------- writing


def model_paths(prefix: PathLike, epoch: int = 0) -> Tuple[Path, Path]:
    """Return the names of the two files of a model.

    Raises
    ------
    ModelError
        If `prefix` ends in no name.
    """
    path = Path(prefix).expanduser()
    if path.name in ('', '..'):
        raise ModelError(
            f'{os.fspath(prefix)!r} ends in no name for the files; allowed: such as'
            " 'models/fast' for models/fast-symbol.json"
        )
    return (
        path.with_name(f'{path.name}-symbol.json'),
        path.with_name(f'{path.name}-{epoch:04d}.params'),
    )


def _write_arrays(path: Path, values: Dict[str, Any]) -> None:
    try:
        mx.nd.save(str(path), values)
        # MXNet notices a full disk only where it comes before the last few kilobytes.
        stored_arrays.check(path)
    except (mx.MXNetError, stored_arrays.DamagedFile) as error:
        words = 'the arrays cannot be written whole; there may be no space left'
        raise OSError(errno.EIO, words, str(path)) from error


def write_model(graph: Graph, prefix: PathLike, epoch: int = 0) -> Tuple[Path, Path]:
    """Write a graph and its arrays as two files, each whole or not at all.

    Returns
    -------
    (Path, Path)
        Those of the symbol and the parameters.

    Raises
    ------
    ModelError
        If `prefix` ends in no name.
    OSError
        If the folder cannot be written to, or has too little space.
    """
    paths = model_paths(prefix, epoch)
    symbol = graph.symbol()
    auxiliary = set(symbol.list_auxiliary_states())
    values = {
        ('aux:' if name in auxiliary else 'arg:') + name: value
        for name, value in graph.parameters.items()
    }
    with tempfile.TemporaryDirectory(dir=paths[0].parent, prefix='.' + paths[0].name) as folder:
        new = [Path(folder) / path.name for path in paths]
        new[0].write_text(symbol.tojson(), encoding='utf-8')
        # In the world of the graph, so that whoever reads both files needs one world only.
        with in_world(graph.numpy):
            _write_arrays(new[1], values)
        for written, path in zip(new, paths):
            os.replace(written, path)
    return paths
