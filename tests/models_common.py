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

# By how much what ends a residual branch is smaller than other weights, in `with_small_branches`.
BRANCH = 0.25


def with_small_branches(net, x):
    """Start a network with residual branches that add little to what passes by them.

    Deep residual networks are trained from such weights: the scale of the last batch norm of each
    branch is 0 at first (Goyal et al. 2017, arXiv:1706.02677, section 5.1), or the branch is
    multiplied by no more than one over the square root of the number of blocks, 1/4 for the 16 of
    ResNet-50 (De and Smith 2020, arXiv:2002.10444). With weights around 1 there, which `started`
    draws otherwise, a network of 50 branches magnifies rounding some thousand times.
    """
    return started(net, x, branch=BRANCH)


def started(net, x, seed=0, branch=1.0):
    """Give a network random weights, and its batch norms the statistics of the data `x`.

    Scales and shifts are drawn too: with ones and zeros, mistakes in them would not be seen.
    Those that end a residual branch are drawn `branch` times as large.
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
    if branch != 1.0:
        parameters = net.collect_params()
        for name in branch_ends(graph_of(net)):
            parameters[name].set_data(branch * parameters[name].data())
    take_statistics(net, x)
    return net


CONVOLUTION, NORM = 'Convolution', 'BatchNorm'
ADDITIONS = ('elemwise_add', 'broadcast_add', '_npi_add')
# What may stand between the end of a branch and the addition: a squeeze and excitation multiplies.
BETWEEN = ('Activation', 'Dropout', 'broadcast_mul', '_npi_multiply')


def branch_ends(symbol):
    """The names of the parameters that scale what each residual branch of a graph adds.

    An addition has such a branch if both of its sides were computed from the same array, and one
    of them by more convolutions than the other, which passes by. The last batch norm or
    convolution of that side scales it, by its gamma or its weight.
    """
    graph = json.loads(symbol.tojson())['nodes']
    inputs = [[source for source, *_ in node['inputs']] for node in graph]
    ops = [node['op'].replace('_npx_', '') for node in graph]
    # What each node is computed from, with itself, without parameters. Nodes are stored behind
    # their inputs.
    before = []
    for number, node in enumerate(graph):
        own = {number} if ops[number] != 'null' or node['name'] == 'data' else set()
        before.append(own.union(*(before[source] for source in inputs[number])))

    found = []
    for number, op in enumerate(ops):
        sides = inputs[number]
        if op not in ADDITIONS:
            continue
        common = before[sides[0]] & before[sides[1]]
        counts = [sum(ops[one] == CONVOLUTION for one in before[side] - common) for side in sides]
        if not common or counts[0] == counts[1]:
            continue
        end = sides[counts.index(max(counts))]
        while ops[end] in BETWEEN:
            end = inputs[end][0]
        # Otherwise it is arithmetic with the network's answers, such as corners of boxes.
        if ops[end] in (CONVOLUTION, NORM):
            found.append(graph[inputs[end][1]]['name'])
    return found


def moved_by_rounding(outputs, x):
    """How far each of `outputs(x)` moves when the last digits of `x` change, of three changes.

    In shares of its largest value. Two right networks may each be that far from the exact result.
    """
    expected, moved = outputs(x), []
    for seed in range(3):
        changes = 1 + 1e-7 * np.random.RandomState(seed).choice([-1, 1], x.shape)
        changed = outputs(array_kind().array((x.asnumpy() * changes).astype('float32')))
        moved.append([difference(one, other) for one, other in zip(changed, expected)])
    return np.max(moved, axis=0)


def difference(actual, expected, at_least=0.0):
    """The largest difference, as a share of the largest expected value."""
    assert actual.shape == expected.shape
    return float(abs(actual - expected).max() / max(abs(expected).max(), at_least, 1e-30))


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
    outputs = net(variable.as_np_ndarray() if mx.util.is_np_array() else variable)
    return mx.sym.Group(_flat_symbols(outputs)) if isinstance(outputs, (list, tuple)) else outputs


def _flat_symbols(outputs):
    if isinstance(outputs, (list, tuple)):
        return [symbol for one in outputs for symbol in _flat_symbols(one)]
    return [outputs]
