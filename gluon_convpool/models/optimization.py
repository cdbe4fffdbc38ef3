"""A network made faster for inference: folded, fused, and computed by our operators."""

from __future__ import annotations

import copy
import numbers
import os
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy
from mxnet.gluon import block as gluon_block

from .. import backends
from .._mxnet import in_world, kind_of, mx, release_threads, to_world
from . import files, rules
from .dtypes import input_dtypes
from .files import ModelError, PathLike, reason_of
from .tracing import Trace, trace, trace_of_graph

TOLERANCE = 1e-4

Shape = Tuple[int, ...]


class OptimizationReport(NamedTuple):
    """What `optimize` did.

    Attributes
    ----------
    rewrites : list of Rewrite
        In the order in which they were done.
    left : list of Left
        Layers that stayed as they were, and why.

    Examples
    --------
    >>> import gluon_convpool
    >>> from mxnet import nd
    >>> from mxnet.gluon import nn
    >>> net = nn.HybridSequential(prefix='')
    >>> net.add(nn.Conv2D(4, 3, in_channels=2, prefix='conv_'), nn.BatchNorm(prefix='norm_'))
    >>> net.initialize()
    >>> y = net(nd.ones((1, 2, 5, 5)))
    >>> report = gluon_convpool.optimize(net).report
    >>> print(report.rewrites[0])
    norm_fwd: BatchNorm folded into conv_fwd
    """

    rewrites: List[rules.Rewrite]
    left: List[rules.Left]

    def __str__(self) -> str:
        lines = [f'{len(self.rewrites)} rewrites, {len(self.left)} layers left']
        return '\n'.join(lines + [f'  {entry}' for entry in [*self.rewrites, *self.left]])


class Agreement(NamedTuple):
    """How far an optimized model is from the original on one input.

    Attributes
    ----------
    difference : float
        The largest absolute difference of the outputs.
    scale : float
        The largest absolute value of the original's outputs.
    same_ranking : bool
        Whether the five largest values of each row of the first output (along its last axis) stand
        at the same places in the same order.

    Examples
    --------
    >>> from gluon_convpool.models import Agreement
    >>> Agreement(difference=2e-5, scale=4.0, same_ranking=True).agrees
    True
    """

    difference: float
    scale: float
    same_ranking: bool

    @property
    def agrees(self) -> bool:
        """Whether the outputs differ by no more than 1e-4 of the largest value."""
        return self.difference <= TOLERANCE * self.scale


def compare(actual: Sequence[Any], expected: Sequence[Any]) -> Agreement:
    """Compare two models' outputs, given as lists of arrays."""
    pairs = [
        (one.asnumpy().astype('float64'), other.asnumpy().astype('float64'))
        for one, other in zip(actual, expected)
    ]
    # What is not finite has to be the same, and then does not differ.
    differences = [
        float(numpy.where((a == b) | (numpy.isnan(a) & numpy.isnan(b)), 0, abs(a - b)).max())
        for a, b in pairs
        if a.size
    ]
    scales = [float(abs(b[numpy.isfinite(b)]).max()) for _, b in pairs if numpy.isfinite(b).any()]
    first = [numpy.argsort(-array, axis=-1, kind='stable')[..., :5] for array in pairs[0]]
    return Agreement(
        max([numpy.inf if one != one else one for one in differences], default=0.0),
        max(scales, default=0.0),
        bool((first[0] == first[1]).all()),
    )


class GraphBlock(mx.gluon.SymbolBlock):
    """A block that runs a graph, for inference only."""

    def __init__(self, run: Trace) -> None:
        graph = run.graph
        with in_world(graph.numpy):
            # The types are for MXNet, which warns where it has none and prints where they do not
            # fit; a call's arrays decide.
            dtypes = input_dtypes(graph)
            variables = [
                to_world(mx.sym.var(name, dtype=dtypes.get(name, 'float32')), graph.numpy)
                for name in run.inputs
            ]
            super().__init__(graph.symbol(), variables)
            for parameter in self.params.values():
                parameter.grad_req = 'null'
            self.params.load_dict(
                {name: to_world(one, graph.numpy) for name, one in graph.parameters.items()},
                mx.cpu(),
                cast_dtype=True,
                dtype_source='saved',
            )
        self._in_format, self._out_format = run.in_format, run.out_format
        self.hybridize(static_alloc=True, static_shape=True)

    def forward(self, *inputs: Any) -> Any:
        """Run the graph.

        Parameters
        ----------
        inputs : arrays or symbols
            As the original takes them.

        Returns
        -------
        array or list of arrays
            What the original returns; symbols for symbols.

        Raises
        ------
        ModelError
            Inside of ``autograd.record()``, or for inputs that the graph refuses, naming the layer.
        """
        name = type(self).__name__
        if mx.autograd.is_recording():
            raise ModelError(
                f'{name}: is for inference and has no gradient; train the original, or call this'
                ' inside of autograd.pause()'
            )
        self._check_count(inputs)
        if isinstance(inputs[0], mx.sym.Symbol):
            return self._compose(*inputs)
        release_threads()
        try:
            # Whatever the mode, a batch norm that is left has to use its running statistics.
            with mx.autograd.predict_mode():
                return super().forward(*inputs)
        except mx.MXNetError as error:
            raise ModelError(f'{name}: {reason_of(error)}') from error

    def _check_count(self, inputs: Sequence[Any]) -> None:
        wanted = self._in_format[len(inputs) :]
        if not inputs or len(inputs) > len(self._in_format) or any(one != -1 for one in wanted):
            names = ', '.join(one.name for one in self._cached_graph[0])
            raise ModelError(
                f'{type(self).__name__}: takes {len(self._in_format)} inputs ({names}), not'
                f' {len(inputs)}'
            )

    def _compose(self, *inputs: Any) -> Any:
        """Return the outputs as symbols; MXNet's own code cannot do that with NumPy symbols."""
        names, symbol = self._cached_graph
        symbol = copy.copy(symbol.as_nd_ndarray())
        flat, _ = gluon_block._flatten(inputs, 'input')
        symbol._compose(**{one.name: x.as_nd_ndarray() for one, x in zip(names, flat)})
        kind = kind_of(inputs[0])
        assert kind is not None
        count = len(symbol.list_outputs())
        outputs = [to_world(symbol[i], kind.numpy) for i in range(count)]
        return gluon_block._regroup(outputs, self._out_format)


class OptimizedModel(GraphBlock):
    """A network for inference, with the inputs and outputs of the original. Made by `optimize`.

    Attributes
    ----------
    report : OptimizationReport
        What was done to the graph.
    graph : Graph
        What it runs.

    Examples
    --------
    >>> import gluon_convpool
    >>> from mxnet import nd
    >>> from mxnet.gluon import nn
    >>> net = nn.Conv2D(4, 3, in_channels=2, activation='relu')
    >>> net.initialize()
    >>> fast = gluon_convpool.optimize(net)
    >>> fast(nd.ones((1, 2, 5, 5))).shape
    (1, 4, 3, 3)
    """

    def __init__(self, original: Any, run: Trace, report: OptimizationReport) -> None:
        super().__init__(run)
        self.report = report
        self.graph = run.graph
        # Behind a function, so that Gluon does not take it for a part of this block.
        self._original = lambda: original

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}({len(self.report.rewrites)} rewrites,'
            f' {len(self.report.left)} layers left)'
        )

    def verify(self, *inputs: Any) -> Agreement:
        """Run the original, as it is now, and this model on `inputs` and compare their outputs.

        Parameters
        ----------
        inputs : arrays
            As for a call.

        Returns
        -------
        Agreement

        Raises
        ------
        ModelError
            For inputs that one of the two refuses, naming them.
        """
        self._check_count(inputs)
        original = self._original()
        if isinstance(original, Trace):
            original = GraphBlock(original)
        try:
            with mx.autograd.pause():
                # This one first, which knows its layers' names.
                actual = self(*inputs)
                expected = original(*inputs)
            return compare(_flat(actual), _flat(expected))
        except (mx.MXNetError, ModelError) as error:
            given = [one.shape for one in _flat(inputs) if one is not None]
            names = [one.name for one in self._cached_graph[0]]
            words = files.data_words(dict(zip(names, given)))
            reason = reason_of(error.__cause__ or error)
            raise ModelError(
                f'{type(self).__name__}.verify: cannot be done with {words}: {reason}'
            ) from error

    def export(self, path: PathLike, epoch: int = 0, remove_amp_cast: bool = True) -> None:
        """Write ``PATH-symbol.json`` and ``PATH-0000.params``, each whole or not at all.

        Whoever loads them needs this package imported first, or its library loaded.

        Parameters
        ----------
        path : str or path
        epoch : int
            The number in the second name.
        remove_amp_cast : bool
            Not used; `mxnet.gluon.HybridBlock.export` has it.

        Raises
        ------
        OSError
            If the folder cannot be written to.
        """
        files.write_model(self.graph, path, epoch)


def _flat(outputs: Any) -> List[Any]:
    if isinstance(outputs, (list, tuple)):
        return [array for one in outputs for array in _flat(one)]
    return [outputs]


def _read(model: Any, inputs: Optional[Sequence[str]]) -> Tuple[Any, Trace]:
    """Return the original and its graph."""
    if isinstance(model, mx.gluon.Block):
        return model, trace(model, inputs)
    if not isinstance(model, (tuple, list)) or len(model) != 2:
        raise TypeError(
            'optimize: model must be a gluon.Block, or a pair of a symbol (or its file) and'
            f' parameters (or their file), not {type(model).__name__}'
        )
    symbol, values = model
    names = ('the symbol', 'the parameters')
    if isinstance(symbol, (str, os.PathLike)):
        names = (os.fspath(symbol), names[1])
        symbol = files.read_symbol(symbol)
    if isinstance(values, (str, os.PathLike)):
        names = (names[0], os.fspath(values))
        values = files.read_parameters(values)
    kind = kind_of(symbol)
    if kind is None or not kind.symbol or not isinstance(values, dict):
        raise TypeError(
            'optimize: model must be a pair of a symbol or its file and a dict of arrays or their'
            f' file, not of {type(symbol).__name__} and {type(values).__name__}'
        )
    run = trace_of_graph(files.fit_together(symbol, values, inputs, names), inputs)
    return run, run


def _is_size(value: Any) -> bool:
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_integer and int(value) >= 1


def _input_shapes(given: Union[Shape, Sequence[Shape]], names: Sequence[str]) -> Dict[str, Shape]:
    """Return the shape of each input from what was passed as `prepack`."""
    several = isinstance(given, (tuple, list)) and any(
        isinstance(one, (tuple, list)) for one in given
    )
    shapes: Any = given if several else [given]
    if not all(isinstance(shape, (tuple, list)) and all(map(_is_size, shape)) for shape in shapes):
        raise TypeError(
            f'optimize: prepack={given!r} must be a shape, such as (1, 3, 224, 224), or a list of'
            ' one for each input; each size at least 1'
        )
    if len(shapes) != len(names):
        raise ValueError(
            f'optimize: prepack={given!r} has {len(shapes)} shapes, but the model takes'
            f' {len(names)} inputs: {", ".join(names)}'
        )
    return {name: tuple(map(int, shape)) for name, shape in zip(names, shapes)}


def optimize(
    model: Union[Any, Tuple[Union[Any, PathLike], Union[Dict[str, Any], PathLike]]],
    inputs: Optional[Sequence[str]] = None,
    report: bool = False,
    prepack: Optional[Union[Shape, Sequence[Shape]]] = None,
) -> OptimizedModel:
    """Make a network faster for inference.

    Batch norm, and what else scales or shifts whole channels, is folded into the weights before it;
    ReLU, leaky ReLU, clipping (ReLU6) and residual additions become the last step of a convolution;
    what only training needs (dropout, losses and their labels) is dropped; and convolutions and
    poolings for which the native backend has kernels are ours. All else stays as it is, operators
    that are unknown here among it. The input's size stays free.

    Parameters
    ----------
    model : gluon.Block, or pair of a symbol and a dict of arrays, or of their files
        A network with values, or what ``export`` or a ``Module`` wrote. It is left as it is, and
        the result has arrays of its own.
    inputs : sequence of str, optional
        Names of the inputs in the order in which the result takes them. A block's may be chosen
        freely, one for each argument of its call.
    report : bool
        Print each rewrite, and each layer that is left with the reason. The result has this as its
        attribute `report` in any case.
    prepack : tuple of int, or sequence of them, optional
        The shapes of the inputs for which weights are packed: transformed here, once, where every
        call would do it. The model takes other shapes, too, and runs on other processors, but has
        less of it or nothing there. A packed weight takes up to five times the memory, also in
        files that are exported.

    Returns
    -------
    OptimizedModel
        A hybridized block with the inputs and outputs of the original, for inference only.

    Raises
    ------
    TypeError
        If `model` is none of these.
    ModelError
        A `ValueError` that names the file, layer or parameter: if a file cannot be read, arrays do
        not fit the graph, a network has no values yet or cannot be traced, or its graph refuses
        the shapes of `prepack`.

    Notes
    -----
    Without the native library, or under ``use_backend('portable')``, only folding and dropping are
    done.

    Examples
    --------
    >>> import gluon_convpool
    >>> from mxnet import nd
    >>> from mxnet.gluon import nn
    >>> net = nn.HybridSequential(prefix='')
    >>> net.add(nn.Conv2D(8, 3, prefix='conv_'), nn.BatchNorm(prefix='norm_'), nn.Dropout(0.5))
    >>> net.initialize()
    >>> x = nd.ones((1, 3, 16, 16))
    >>> y = net(x)
    >>> fast = gluon_convpool.optimize(net)
    >>> fast(x).shape
    (1, 8, 14, 14)
    >>> fast.verify(x).agrees
    True
    >>> print(fast.report.rewrites[1])
    norm_fwd: BatchNorm folded into conv_fwd
    """
    original, run = _read(model, inputs)
    graph = run.graph.copy()
    wanted = rules.RULES
    native = backends.info().backend == 'native'
    if native:
        wanted += rules.NATIVE_RULES
    done = OptimizationReport(*rules.apply(graph, wanted))
    if prepack is not None:
        shapes = _input_shapes(prepack, run.inputs)
        files.check_input_shapes(graph, shapes)
        if native:
            done.rewrites.extend(rules.pack_weights(graph, shapes))
    if report:
        print(done)
    return OptimizedModel(original, run._replace(graph=graph), done)
