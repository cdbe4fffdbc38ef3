"""What the tests of whole networks share: data, statistics, what a graph holds."""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np

from gluon_convpool.bench.networks import take_statistics
from gluon_convpool.testing import array_kind


def data(*shape, seed=0):
    """Normal numbers, of the kind of arrays in force."""
    return array_kind().array(np.random.RandomState(seed).normal(size=shape).astype('float32'))


def walk(net):
    """Every block of a network, itself first."""
    yield net
    for child in net._children.values():
        yield from walk(child)


_OF_A_NORM = {'gamma': 'ones', 'beta': 'zeros', '_mean': 'zeros', '_var': 'ones'}


def started(net, x, seed=0):
    """Give a network random weights, and its batch norms the statistics of the data `x`.

    Scales and shifts are drawn too: with ones and zeros, mistakes in them would not be seen.
    """
    mx.random.seed(seed)
    for name, parameter in net.collect_params().items():
        # Those of a batch norm that was read from a graph have no initializer of their own.
        kind = next((kind for kind in _OF_A_NORM if name.endswith(kind)), None)
        if kind is not None and parameter.init is None:
            parameter.init = _OF_A_NORM[kind]
    net.initialize(mx.init.MSRAPrelu())
    net(x)
    random = np.random.RandomState(seed)
    for name, parameter in net.collect_params().items():
        if parameter.grad_req == 'null' or parameter._deferred_init:
            continue
        if name.endswith('gamma'):
            value = random.uniform(0.5, 1.5, parameter.shape)
        elif name.endswith(('beta', 'bias')):
            value = random.normal(0, 0.2, parameter.shape)
        else:
            continue
        parameter.set_data(array_kind().array(value.astype('float32')))
    take_statistics(net, x)
    return net


def flat(outputs):
    """The arrays of nested outputs, as NumPy's."""
    if isinstance(outputs, (list, tuple)):
        return [array for one in outputs for array in flat(one)]
    return [outputs.asnumpy()]


def nodes(symbol):
    """The operators of a graph, without its variables, as dicts."""
    return [node for node in json.loads(symbol.tojson())['nodes'] if node['op'] != 'null']


def operators(symbol):
    """The names of the operators of a graph, without those of the NumPy world."""
    return [node['op'].replace('_npx_', '') for node in nodes(symbol)]


def graph_of(net):
    """The symbol of a network, or of a block that holds one."""
    if isinstance(net, mx.gluon.SymbolBlock):
        return net._cached_graph[1]
    variable = mx.sym.var('data')
    return net(variable.as_np_ndarray() if mx.util.is_np_array() else variable)
