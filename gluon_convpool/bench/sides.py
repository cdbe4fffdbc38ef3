"""The two sides that live in this process: our layer and MXNet's, as one interface with the peers.

A side knows how to run a pass of one layer many times and how long that took, and which arrays the
pass gives.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, NamedTuple, Optional
from zlib import crc32

import numpy

import gluon_convpool

from .. import functional, geometry
from .._mxnet import mx
from . import machine
from .suites import PASSES, Layer
from .workers.protocol import timed

OURS, BUILTIN = 'ours', 'builtin'
PREPACKED = f'{OURS}:prepacked'
Arrays = Dict[str, numpy.ndarray]


class Side(NamedTuple):
    """One who computes a layer.

    Attributes
    ----------
    name : str
        'ours', 'builtin', 'ours:prepacked', 'ours:ALGORITHM' or the name of a peer.
    results : dict
        By pass: the arrays that it gave, by name.
    run : callable
        ``run(pass, calls)`` gives seconds.
    obstacle : str
        Why the side cannot do the layer; empty if it can.
    """

    name: str
    results: Dict[str, Arrays]
    run: Callable[[str, int], float]
    obstacle: str = ''


def cannot(name: str, reason: str) -> Side:
    """Return the side that cannot do the layer, and says why."""

    def run(which: str, calls: int) -> float:
        raise AssertionError(f'{name} was asked to run {which} that it cannot do')

    return Side(name, {}, run, reason)


def make_arrays(layer: Layer) -> Arrays:
    """Return 'x', 'head' and, for a convolution, 'weight' and 'bias': the same in each run.

    The weight is scaled as at the start of a training, so that outputs are of the data's size.
    """
    random = numpy.random.RandomState(crc32(layer.title.encode()))

    def normal(shape: Any, scale: float = 1.0) -> numpy.ndarray:
        return (scale * random.standard_normal(shape)).astype(layer.dtype)

    arrays = {'x': normal(layer.data), 'head': normal(layer.out)}
    if layer.weight:
        fan_in = float(numpy.prod(layer.weight[1:]))
        arrays['weight'] = normal(layer.weight, (2 / fan_in) ** 0.5)
        assert not isinstance(layer.arguments, geometry.Pooling)
        arrays['bias'] = normal(layer.arguments.channels, 0.1)
    return arrays


# --------------------------------------------------------------------------- layers


def _convolution(nn: Any, arguments: Any, in_channels: int, layout: str) -> Any:
    named = {
        'channels': arguments.channels,
        'kernel_size': arguments.kernel,
        'strides': arguments.stride,
        'padding': arguments.pad,
        'dilation': arguments.dilate,
        'groups': arguments.groups,
        'layout': layout,
        'in_channels': in_channels,
    }
    kind = f'Conv{len(arguments.kernel)}D'
    if isinstance(arguments, geometry.ConvolutionTranspose):
        return getattr(nn, kind + 'Transpose')(**named, output_padding=arguments.adj)
    return getattr(nn, kind)(**named)


def our_block(layer: Layer) -> Any:
    """Return our layer, without values."""
    arguments = layer.arguments
    if not isinstance(arguments, geometry.Pooling):
        return _convolution(gluon_convpool.nn, arguments, layer.in_channels, arguments.layout)
    return gluon_convpool.Pool2D(
        arguments.kernel,
        arguments.stride,
        arguments.pad,
        arguments.mode,
        arguments.ceil_mode,
        arguments.count_include_pad,
        arguments.p,
        arguments.global_pool,
    )


def _channels_first(layout: str) -> str:
    return 'NC' + layout.replace('N', '').replace('C', '')


def builtin_block(layer: Layer) -> Any:
    """Return MXNet's layer, without values."""
    from mxnet.gluon.nn import conv_layers

    arguments = layer.arguments
    if not isinstance(arguments, geometry.Pooling):
        layout = _channels_first(arguments.layout)
        return _convolution(mx.gluon.nn, arguments, layer.in_channels, layout)
    # Its public layers pass on no mode but max and avg to this one, which takes all.
    block = conv_layers._Pooling(
        arguments.kernel,
        arguments.stride,
        arguments.pad,
        arguments.ceil_mode,
        arguments.global_pool,
        arguments.mode,
        'NCHW',
        arguments.count_include_pad if arguments.mode == 'avg' else None,
    )
    if arguments.mode == 'lp':
        block._kwargs['p_value'] = arguments.p
    return block


def _forced_convolution(layer: Layer, arrays: Dict[str, Any], algorithm: str) -> Callable[..., Any]:
    """Return the convolution by one algorithm as a function of x."""
    arguments = layer.arguments
    assert isinstance(arguments, geometry.Convolution)
    return lambda x: functional.convolution(
        x,
        arrays['weight'],
        arrays['bias'],
        arguments.stride,
        arguments.pad,
        arguments.dilate,
        arguments.groups,
        arguments.layout,
        algorithm=algorithm,
    )


# --------------------------------------------------------------------------- sides


def _side(name: str, function: Callable[[Any], Any], tracked: Dict[str, Any], head: Any) -> Side:
    """Return the side that computes `function` of ``tracked['x']``.

    `tracked` holds the arrays by whose gradients it is asked.
    """
    x = tracked['x']
    gradients = [array.grad for array in tracked.values()]

    def forward() -> Any:
        out = function(x)
        out.wait_to_read()
        return out

    def both() -> None:
        with mx.autograd.record():
            out = function(x)
        out.backward(head)
        for gradient in gradients:
            gradient.wait_to_read()

    calls = dict(zip(PASSES, (forward, both)))
    results = {PASSES[0]: {'output': forward().asnumpy()}}
    both()
    results[PASSES[1]] = {array: tracked[array].grad.asnumpy() for array in tracked}
    return Side(name, results, lambda which, count: timed(calls[which], count))


def block_side(name: str, block: Any, arrays: Arrays, hybridize: bool = False) -> Side:
    """Return the side that calls a Gluon block, imperatively or hybridized.

    Every side gets arrays of its own. MXNet's convolution rearranges its weight in place into an
    order that suits it, and whoever shares the array pays for putting it back.
    """
    dtype = arrays['x'].dtype
    x = mx.np.array(arrays['x'], dtype=dtype)
    x.attach_grad()
    tracked = {'x': x}
    block.initialize()
    block.cast(dtype)
    for array in ('weight', 'bias'):
        if array in arrays:
            parameter = getattr(block, array)
            parameter.set_data(mx.np.array(arrays[array], dtype=dtype))
            tracked[array] = parameter.data()
    if hybridize:
        block.hybridize(static_alloc=True, static_shape=True)
    return _side(name, block, tracked, mx.np.array(arrays['head'], dtype=dtype))


def builtin_side(layer: Layer, arrays: Arrays, hybridize: bool = False) -> Side:
    """Return the side of MXNet's layer; with channels first, whatever the layout.

    It has none with channels last on CPUs. What it gives is put into the order of the layer.
    """
    block = builtin_block(layer)
    if layer.arguments.layout[1] == 'C':
        return block_side(BUILTIN, block, arrays, hybridize)
    turned = {
        key: numpy.ascontiguousarray(numpy.moveaxis(value, -1, 1)) if value.ndim > 1 else value
        for key, value in arrays.items()
    }
    side = block_side(BUILTIN, block, turned, hybridize)
    results = {
        which: {
            key: numpy.moveaxis(value, 1, -1) if value.ndim > 1 else value
            for key, value in found.items()
        }
        for which, found in side.results.items()
    }
    return side._replace(results=results)


def algorithm_side(layer: Layer, arrays: Arrays, algorithm: str) -> Side:
    """Return the side of our convolution by one algorithm, whichever would be chosen."""
    name = f'{OURS}:{algorithm}'
    if machine.algorithm_of(layer, forced=algorithm) is None:
        return cannot(name, f'{algorithm} cannot do this layer')
    dtype = layer.dtype
    tracked = {
        key: mx.np.array(value, dtype=dtype) for key, value in arrays.items() if key != 'head'
    }
    for value in tracked.values():
        value.attach_grad()
    function = _forced_convolution(layer, tracked, algorithm)
    return _side(name, function, tracked, mx.np.array(arrays['head'], dtype=dtype))


def prepacked_side(layer: Layer, arrays: Arrays) -> Side:
    """Return the side of our convolution with its weight packed, which only has a forward pass.

    It is what `optimize` makes of the layer, as runtimes for inference make something of a model.
    """
    block = our_block(layer)
    block.initialize()
    block.cast(layer.dtype)
    for name in ('weight', 'bias'):
        getattr(block, name).set_data(mx.np.array(arrays[name], dtype=layer.dtype))
    model = gluon_convpool.optimize(block, prepack=layer.data)
    if not any(one.action == 'packed' for one in model.report.rewrites):
        return cannot(PREPACKED, 'packing the weight brings nothing')
    x = mx.np.array(arrays['x'], dtype=layer.dtype)

    def forward() -> Any:
        out = model(x)
        out.wait_to_read()
        return out

    results = {PASSES[0]: {'output': forward().asnumpy()}}
    return Side(PREPACKED, results, lambda which, count: timed(forward, count))


def local_sides(
    layer: Layer, arrays: Arrays, algorithms: bool, hybridize: bool = False
) -> List[Side]:
    """List ours, with a packed weight too, MXNet's and, if wanted, ours by each algorithm."""
    sides = [
        block_side(OURS, our_block(layer), arrays, hybridize),
        builtin_side(layer, arrays, hybridize),
    ]
    if isinstance(layer.arguments, geometry.Convolution):
        sides.append(prepacked_side(layer, arrays))
    if algorithms and isinstance(layer.arguments, geometry.Convolution):
        sides += [algorithm_side(layer, arrays, name) for name in machine.ALGORITHMS[1:]]
    return sides


# --------------------------------------------------------------------------- the same numbers

# Of the largest value. Sums of thousands of products in another order differ by some 1e-6, and
# fast algorithms by some 1e-5; a layer that computes something else differs by some 1.
TOLERANCE = 1e-4


def disagreement(actual: Arrays, expected: Arrays) -> Optional[str]:
    """Say how the arrays of a side differ from the expected ones by more than `TOLERANCE`.

    Returns None where they agree.
    """
    for name, wanted in expected.items():
        found = actual.get(name)
        if found is None:
            return f'{name} is missing'
        if found.shape != wanted.shape:
            return f'{name} has shape {found.shape} instead of {wanted.shape}'
        largest = float(numpy.abs(wanted).max())
        difference = difference_of(found, wanted)
        if not difference <= TOLERANCE * largest:  # NaN is no agreement either
            return f'{name} differs by {difference:.1e}, where the largest value is {largest:.1e}'
    return None


def difference_of(actual: numpy.ndarray, expected: numpy.ndarray) -> float:
    """Return the largest absolute difference of two arrays of one shape."""
    return float(numpy.abs(actual.astype('float64') - expected).max())
