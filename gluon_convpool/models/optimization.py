"""A network made faster for inference: folded, fused, and computed by our operators."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple, Union

from .. import backends
from .._mxnet import kind_of, mx, to_world
from . import rules
from .graph import Graph

Files = Tuple[Union[str, 'os.PathLike[str]'], Union[str, 'os.PathLike[str]']]


class Agreement(NamedTuple):
    """How far an optimized model is from the original on one input.

    Attributes
    ----------
    difference : float
        The largest absolute difference of the outputs.
    scale : float
        The largest absolute value of the original's outputs.
    same_ranking : bool
        Whether the largest value of each row of the first output stands at the same place.
    """

    difference: float
    scale: float
    same_ranking: bool


def _symbol_block(symbol: Any, inputs: Sequence[str], parameters: Dict[str, Any]) -> Any:
    numpy_world = kind_of(symbol).numpy  # type: ignore[union-attr]
    # MXNet warns of an input whose type it cannot infer, though it does not need it.
    variables = [to_world(mx.sym.var(name, dtype='float32'), numpy_world) for name in inputs]
    with mx.util.np_shape(numpy_world or mx.util.is_np_shape()), mx.util.np_array(numpy_world):
        block = mx.gluon.SymbolBlock(symbol, variables)
        for name, parameter in block.collect_params().items():
            value = parameters[name]
            parameter.shape = value.shape
            parameter.dtype = value.dtype
            parameter.initialize(ctx=mx.cpu(), force_reinit=True)
            parameter.set_data(to_world(value, numpy_world))
            parameter.grad_req = 'null'
        block.hybridize(static_alloc=True, static_shape=True)
    return block


class OptimizedModel(mx.gluon.Block):
    """A network for inference with the inputs and outputs of the original.

    Made by `optimize`. Call it as the original was called.

    Attributes
    ----------
    rewrites : list of str
        What was done to the graph, in words.
    """

    def __init__(self, original: Graph, rewritten: Graph, rewrites: List[str]) -> None:
        super().__init__()
        self.rewrites = rewrites
        self._original, self._rewritten = original, rewritten
        self._inputs = original.inputs()
        self._run = _symbol_block(rewritten.symbol(), self._inputs, rewritten.parameters)

    def __repr__(self) -> str:
        return f'OptimizedModel({", ".join(self._inputs)}; {len(self.rewrites)} rewrites)'

    def forward(self, *inputs: Any) -> Any:
        """Run the rewritten graph.

        Parameters
        ----------
        inputs : arrays
            As the original takes them.

        Returns
        -------
        array or list of arrays
            What the original returns.

        Raises
        ------
        ValueError
            Inside ``autograd.record()``, or for a wrong number of inputs.
        """
        if mx.autograd.is_recording():
            raise ValueError(
                'OptimizedModel: it is for inference and has no gradient; train the original'
            )
        if len(inputs) != len(self._inputs):
            raise ValueError(
                f'OptimizedModel: takes {len(self._inputs)} inputs'
                f' ({", ".join(self._inputs)}), not {len(inputs)}'
            )
        return self._run(*inputs)

    def verify(self, *inputs: Any) -> Agreement:
        """Run the original and this model on `inputs` and compare their outputs.

        Parameters
        ----------
        inputs : arrays
            As for a call.

        Returns
        -------
        Agreement
        """
        run = _symbol_block(self._original.symbol(), self._inputs, self._original.parameters)
        pairs = [
            (one.asnumpy().astype('float64'), other.asnumpy().astype('float64'))
            for one, other in zip(_as_list(self(*inputs)), _as_list(run(*inputs)))
        ]
        first = [array.reshape((len(array), -1)).argmax(axis=1) for array in pairs[0]]
        return Agreement(
            max(float(abs(a - b).max()) for a, b in pairs),
            max(float(abs(b).max()) for _, b in pairs),
            bool((first[0] == first[1]).all()),
        )

    def export(self, prefix: str) -> Tuple[str, str]:
        """Write ``PREFIX-symbol.json`` and ``PREFIX-0000.params`` and return their names.

        Loading them needs this package imported first, or its library loaded.
        """
        symbol, values = self._rewritten.symbol(), self._rewritten.parameters
        auxiliary = set(symbol.list_auxiliary_states())
        stored = {('aux:' if n in auxiliary else 'arg:') + n: v for n, v in values.items()}
        names = f'{prefix}-symbol.json', f'{prefix}-0000.params'
        for name, write in (
            (names[0], symbol.save),
            (names[1], lambda path: mx.nd.save(path, stored)),
        ):
            new = f'{name}.{os.getpid()}.new'
            write(new)
            os.replace(new, name)
        return names


def _as_list(outputs: Any) -> List[Any]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _graph_of_block(net: Any, inputs: Sequence[str]) -> Graph:
    if not isinstance(net, mx.gluon.HybridBlock):
        raise TypeError(
            f'optimize: a graph can be traced of a HybridBlock only, not of {type(net).__name__}'
        )
    parameters: Dict[str, Any] = {}
    for name, parameter in net.collect_params().items():
        if parameter._data is None:
            raise ValueError(
                f'optimize: parameter {name} is not initialized; initialize the network and call'
                ' it once'
            )
        parameters[name] = parameter.data().as_nd_ndarray()
    variables = [to_world(mx.sym.var(name), mx.util.is_np_array()) for name in inputs]
    outputs = net(*variables)
    if isinstance(outputs, (list, tuple)):
        if not all(kind_of(one) for one in outputs):
            raise TypeError('optimize: outputs nested deeper than one list are not supported')
        outputs = mx.sym.Group(list(outputs))
    return Graph(outputs, parameters)


def _read(symbol_path: Any, parameters_path: Any) -> Graph:
    for path in (symbol_path, parameters_path):
        if not Path(path).is_file():
            raise ValueError(f'optimize: there is no file {path}')
    try:
        symbol = mx.sym.load(str(symbol_path))
    except (mx.MXNetError, UnicodeDecodeError):
        raise ValueError(f'optimize: {symbol_path} holds no graph of MXNet') from None
    try:
        stored = mx.nd.load(str(parameters_path))
    except (mx.MXNetError, ValueError):
        raise ValueError(
            f'optimize: {parameters_path} holds no parameters, or is cut short'
        ) from None
    if not isinstance(stored, dict):
        raise ValueError(f'optimize: {parameters_path} holds arrays without names')
    values = {name.split(':', 1)[-1]: value.as_nd_ndarray() for name, value in stored.items()}
    unknown = sorted(
        set(values) - set(symbol.list_arguments()) - set(symbol.list_auxiliary_states())
    )
    if unknown:
        raise ValueError(
            f'optimize: {parameters_path} does not fit {symbol_path}, which has no {unknown[0]}'
        )
    return Graph(symbol, values)


def optimize(
    model: Union[Any, Files], inputs: Sequence[str] = ('data',), report: bool = False
) -> OptimizedModel:
    """Make a network faster for inference.

    Batch norm is folded into the convolution before it, activations (ReLU, leaky ReLU, clipping)
    and additions become the last step of a convolution, what only training needs is dropped, and
    two-dimensional convolutions and poolings are ours. What cannot be rewritten stays as it is.

    Parameters
    ----------
    model : HybridBlock, or (symbol file, parameter file)
        An initialized network that was called once, or the two files that ``export`` wrote. The
        original is left as it is.
    inputs : sequence of str
        Names for the inputs of a block, as many as it takes; files have names of their own.
    report : bool
        Print each rewrite.

    Returns
    -------
    OptimizedModel
        A block with the same inputs and outputs.

    Raises
    ------
    TypeError, ValueError
        If a block cannot be traced or has parameters without values, or files cannot be read.

    Notes
    -----
    On the portable backend only folding and dropping are done.

    Examples
    --------
    >>> import gluon_convpool
    >>> from mxnet import nd
    >>> from mxnet.gluon import nn
    >>> net = nn.HybridSequential()
    >>> net.add(nn.Conv2D(8, 3, use_bias=False), nn.BatchNorm(), nn.Activation('relu'))
    >>> net.initialize()
    >>> x = nd.ones((1, 3, 16, 16))
    >>> y = net(x)
    >>> fast = gluon_convpool.optimize(net)
    >>> fast(x).shape
    (1, 8, 14, 14)
    >>> fast.verify(x).difference < 1e-5
    True
    """
    if isinstance(model, mx.gluon.Block):
        original = _graph_of_block(model, inputs)
    elif isinstance(model, (tuple, list)) and len(model) == 2:
        original = _read(*model)
    else:
        raise TypeError(
            'optimize: model must be a HybridBlock or the paths of a symbol file and a parameter'
            f' file, not {type(model).__name__}'
        )
    rewritten = Graph(original.symbol(), original.parameters)
    rewrites = rules.apply(rewritten, native=backends.info().backend == 'native')
    if report:
        print('\n'.join(rewrites) or 'nothing to rewrite')
    return OptimizedModel(original, rewritten, rewrites)
