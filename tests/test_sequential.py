"""A batch norm and the ReLU behind it, computed as one, are what they are one by one."""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn as builtin
from test_batch_norm import TRAINED, Expected

import gluon_convpool
from gluon_convpool import nn, use_backend
from gluon_convpool.testing import MODES, array_kind, assert_layers_match, draw, set_mode


def in_a_row(*blocks, library=nn):
    net = library.HybridSequential(prefix='')
    net.add(*blocks)
    if any(parameter._data is None for parameter in net.collect_params().values()):
        net.initialize()
    return net


def joined(net, *inputs):
    """Return how many batch norms of the graph of `net` have a ReLU as their last step."""
    if inputs:
        net.hybridize()
        net(*inputs)
    nodes = json.loads(net._cached_graph[1].tojson())['nodes']
    return sum(
        node.get('attrs', {}).get('act_type') == 'relu' and 'norm' in node['op'] for node in nodes
    )


def expected_row(shape, training):
    expected = Expected(shape, training, relu=True)
    norm = expected.layer()
    row = in_a_row(norm, nn.Activation('relu'))
    for name in ('gamma', 'beta', 'running_mean', 'running_var'):
        object.__setattr__(row, name, getattr(norm, name))
    return expected, row


# --------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('shape', TRAINED, ids=str)
def test_outputs_and_gradients_are_those_of_the_definition(shape, mode, training, native, np_or_nd):
    expected, row = expected_row(shape, training)
    set_mode(row, mode)
    expected.assert_holds_for(row, training)
    if mode != 'imperative':
        assert joined(row) == 1


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('shape', [(4, 5, 7, 7), (2, 3, 64, 70), (3, 70, 2, 2)], ids=str)
def test_every_instruction_set(shape, training, instruction_set, nd_arrays):
    expected, row = expected_row(shape, training)
    expected.assert_holds_for(row, training)


def test_float64_is_computed_in_float64(native, np_or_nd):
    expected, row = expected_row((4, 5, 7, 7), training=True)
    row.cast('float64')
    expected.assert_holds_for(row, True, 'float64', 1e-12)


def test_nan_stays_nan_and_nothing_else_is_below_zero(native, nd_arrays):
    x = np.linspace(-2, 2, 36, dtype='float32').reshape((2, 2, 3, 3))
    x[0, 0, 1, 1], x[1, 1, 0, 0], x[1, 1, 2, 2] = np.nan, np.inf, -np.inf
    y = in_a_row(nn.BatchNorm(epsilon=0, in_channels=2), nn.Activation('relu'))(mx.nd.array(x))
    np.testing.assert_array_equal(y.asnumpy(), np.where(x < 0, 0, x))


@pytest.mark.parametrize('mode', MODES)
def test_gradients_are_added_where_that_is_asked_for(mode, native, np_or_nd):
    expected, row = expected_row((4, 5, 7, 7), training=True)
    row.collect_params().setattr('grad_req', 'add')
    set_mode(row, mode)
    x, head = (array_kind().array(one) for one in (expected.x, expected.head))
    for _ in range(3):
        with autograd.record():
            y = row(x)
        y.backward(head)
    found = row.gamma.grad().asnumpy()
    np.testing.assert_allclose(found, 3 * expected.gamma, rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------------------- the blocks


def network(library):
    net = library.HybridSequential(prefix='net_')
    with net.name_scope():
        for activation in ('relu', 'sigmoid', 'relu'):
            net.add(library.Conv2D(6, 3, use_bias=False), library.BatchNorm())
            net.add(library.Activation(activation))
        net.add(library.Dense(3))
    return net


def test_a_network_matches_mxnets(any_backend, np_or_nd):
    mine, theirs = network(nn), network(builtin)
    for net in (mine, theirs):
        net.initialize(mx.init.Xavier())
    assert_layers_match(mine, theirs, draw('images', (4, 3, 12, 12))[0], rtol=3e-5)
    assert repr(mine) == repr(theirs)


def test_only_a_relu_behind_a_batch_norm_is_joined(native, np_or_nd):
    net = network(nn)
    net.initialize()
    assert joined(net, array_kind().ones((4, 3, 12, 12))) == 2


def test_the_operator_has_the_name_of_the_relu(native, np_or_nd):
    names = []
    for library in (builtin, nn):
        net = network(library)
        net.initialize()
        net.hybridize()
        net(array_kind().ones((4, 3, 12, 12)))
        names.append(net._cached_graph[1].get_internals().list_outputs())
    assert 'net_relu0_fwd_output' in names[0]
    assert 'net_relu0_fwd_output0' in names[1]


@pytest.mark.parametrize('watched', [0, 1])
def test_a_block_with_a_hook_is_called(watched, native, np_or_nd):
    net = in_a_row(nn.BatchNorm(in_channels=3), nn.Activation('relu'))
    seen = []
    net[watched].register_forward_hook(lambda block, inputs, out: seen.append(out.asnumpy()))
    x = array_kind().array(draw('hooks', (2, 3, 4, 4))[0])
    y = net(x).asnumpy()
    scaled = x.asnumpy() / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(seen[0], np.maximum(scaled, 0) if watched else scaled, rtol=1e-5)
    np.testing.assert_allclose(y, np.maximum(scaled, 0), rtol=1e-5)


def test_a_batch_norm_that_is_hybridized_alone_keeps_its_graph(native, np_or_nd):
    net = in_a_row(nn.BatchNorm(in_channels=3), nn.Activation('relu'))
    net[0].hybridize()
    x = array_kind().array(draw('alone', (2, 3, 4, 4))[0])
    before = net(x).asnumpy()
    assert (net[0](x).asnumpy() < 0).any()
    np.testing.assert_array_equal(net(x).asnumpy(), before)
    assert (before >= 0).all()


def test_a_hook_may_call_the_batch_norm(native, nd_arrays):
    net = in_a_row(nn.BatchNorm(in_channels=3), nn.BatchNorm(in_channels=3), nn.Activation('relu'))
    seen = []
    net[1].register_forward_pre_hook(lambda block, inputs: seen.append(net[0](inputs[0]).asnumpy()))
    x = mx.nd.array(draw('hooks', (2, 3, 4, 4))[0])
    assert (net(x).asnumpy() >= 0).all()
    assert (seen[0] < 0).any()


def test_what_mxnets_operator_serves_is_computed_one_by_one(native, np_or_nd):
    x = array_kind().array(draw('axis', (2, 4, 4, 3))[0])
    rows = [
        in_a_row(
            library.BatchNorm(axis=3, in_channels=3), library.Activation('relu'), library=library
        )
        for library in (nn, builtin)
    ]
    np.testing.assert_array_equal(*(row(x).asnumpy() for row in rows))


# --------------------------------------------------------------------------- networks


def test_swap_replaces_the_block_and_puts_it_back(native, np_or_nd):
    net = network(builtin)
    net.initialize()
    x = array_kind().ones((4, 3, 12, 12))
    net(x)
    report = gluon_convpool.swap(net)
    assert ('(itself)', 'HybridSequential', 'gluon_convpool HybridSequential') in report.replaced
    assert joined(net, x) == 2
    gluon_convpool.swap(net, to='mxnet')
    assert type(net) is builtin.HybridSequential
    assert joined(net, x) == 0


def test_swap_leaves_a_block_without_such_a_pair(native, np_or_nd):
    net = in_a_row(builtin.Conv2D(4, 3), builtin.Activation('relu'), library=builtin)
    assert [one.before for one in gluon_convpool.swap(net).replaced] == ['Conv2D']
    assert type(net) is builtin.HybridSequential


def test_an_exported_network_is_optimized(native, np_or_nd, tmp_path):
    net = network(nn)
    net.initialize(mx.init.Xavier())
    net.hybridize()
    x = array_kind().array(draw('images', (4, 3, 12, 12))[0])
    y = net(x).asnumpy()
    net.export(str(tmp_path / 'net'))
    names = ('net-symbol.json', 'net-0000.params')
    model = gluon_convpool.optimize(tuple(str(tmp_path / name) for name in names))
    assert {'net_relu0_fwd', 'net_relu1_fwd'} == {
        one.node for one in model.report.rewrites if one.action == 'split'
    }
    np.testing.assert_allclose(model(x).asnumpy(), y, rtol=1e-4, atol=1e-5)


def test_the_portable_backend_refuses_the_joined_operator_nowhere(np_or_nd):
    net = network(nn)
    net.initialize()
    with use_backend('portable'):
        assert joined(net, array_kind().ones((4, 3, 12, 12))) == 0
