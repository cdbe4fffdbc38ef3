"""Batch norm: its numbers and gradients, the running statistics, and what is left to MXNet."""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from mxnet.gluon import nn as builtin

from gluon_convpool import nn, use_backend
from gluon_convpool.testing import (
    MODES,
    array_kind,
    assert_close,
    assert_layers_match,
    draw,
    set_mode,
)

EPSILON, MOMENTUM = 1e-5, 0.9

# (batch, channels, inner...): around the width of vectors and the number of sums side by side.
SHAPES = [
    (1, 1, 1, 1),
    (2, 3, 4, 5),
    (4, 5, 7, 7),
    (3, 70, 2, 2),
    (1, 2, 31, 33),
    (2, 3, 64, 70),
    (5, 4),
    (5, 4, 6),
    (2, 3, 4, 5, 6),
    (0, 3, 4, 4),
]
TRAINED = [shape for shape in SHAPES if shape[0] > 1]


class Expected:
    """Batch norm and its gradients in float64, as the definition says."""

    def __init__(self, shape, training, fix_gamma=False, seed='batch norm', relu=False):
        channels = shape[1]
        self.x, self.head = draw(seed, shape, shape)
        self.x = (3 * self.x + np.arange(channels).reshape((-1,) + (1,) * (len(shape) - 2))).astype(
            'float32'
        )
        self.parameters = dict(
            zip(
                ('gamma', 'beta', 'running_mean', 'running_var'),
                draw(seed + ' parameters', *[(channels,)] * 4),
            )
        )
        self.parameters['running_var'] = abs(self.parameters['running_var']) + 0.5
        x, head = self.x.astype('float64'), self.head.astype('float64')
        gamma, beta, mean, variance = (
            values.astype('float64') for values in self.parameters.values()
        )
        axes = (0, *range(2, len(shape)))
        if training:
            mean, variance = x.mean(axes), x.var(axes)

        def along(values):
            return values.reshape((-1,) + (1,) * (len(shape) - 2))

        gamma = np.ones_like(gamma) if fix_gamma else gamma
        scale = 1 / np.sqrt(variance + EPSILON)
        normal = (x - along(mean)) * along(scale)
        self.output = along(gamma) * normal + along(beta)
        if relu:
            head = head * (self.output > 0)
            self.output = np.maximum(self.output, 0)
        self.beta = head.sum(axes)
        self.gamma = 0 * gamma if fix_gamma else (head * normal).sum(axes)
        into = head * along(gamma)
        if training:
            into = into - along(into.mean(axes)) - normal * along((into * normal).mean(axes))
        self.data = into * along(scale)
        self.running = {
            name: MOMENTUM * self.parameters[name].astype('float64') + (1 - MOMENTUM) * now
            if training
            else self.parameters[name]
            for name, now in (('running_mean', mean), ('running_var', variance))
        }

    def layer(self, library=nn, **keywords):
        layer = library.BatchNorm(in_channels=self.x.shape[1], momentum=MOMENTUM, **keywords)
        layer.initialize()
        for name, values in self.parameters.items():
            getattr(layer, name).set_data(array_kind().array(values))
        return layer

    def assert_holds_for(self, layer, training, dtype='float32', rtol=1e-5):
        x = array_kind().array(self.x, dtype=dtype)
        x.attach_grad()
        with autograd.record(train_mode=training):
            y = layer(x)
        y.backward(array_kind().array(self.head, dtype=dtype), train_mode=training)
        assert y.dtype == x.grad.dtype == np.dtype(dtype)
        assert_close('output', y.asnumpy(), self.output, rtol)
        assert_close('x', x.grad.asnumpy(), self.data, 3 * rtol)
        for name in ('gamma', 'beta'):
            if getattr(layer, name).grad_req != 'null':
                found = getattr(layer, name).grad().asnumpy()
                assert_close(name, found, getattr(self, name), rtol)
        for name, values in self.running.items():
            assert_close(name, getattr(layer, name).data().asnumpy(), values, rtol)


# --------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('shape', TRAINED, ids=str)
def test_training_has_the_statistics_of_the_batch(shape, mode, native, np_or_nd):
    expected = Expected(shape, training=True)
    layer = expected.layer()
    set_mode(layer, mode)
    expected.assert_holds_for(layer, training=True)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_inference_has_the_running_statistics(shape, mode, native, np_arrays):
    expected = Expected(shape, training=False)
    layer = expected.layer()
    set_mode(layer, mode)
    expected.assert_holds_for(layer, training=False)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('shape', TRAINED[::2], ids=str)
def test_float64_is_computed_in_float64(shape, mode, training, native, np_or_nd):
    expected = Expected(shape, training)
    layer = expected.layer()
    layer.cast('float64')
    set_mode(layer, mode)
    expected.assert_holds_for(layer, training, 'float64', 1e-12)
    if mode != 'imperative':
        assert 'convpool' in layer._cached_graph[1].tojson()


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('shape', [(2, 32, 192, 192), (2, 32, 192, 191)], ids=str)
def test_arrays_larger_than_a_core_keeps_are_the_same(shape, training, native, np_arrays):
    """Of 8 MB and more, in whole aligned vectors or not: the former are stored past the caches."""
    expected = Expected(shape, training)
    assert expected.x.nbytes >= 8 << 20
    expected.assert_holds_for(expected.layer(), training)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('shape', [(4, 5, 7, 7), (2, 3, 64, 70), (3, 70, 2, 2)], ids=str)
def test_every_instruction_set(shape, training, instruction_set, nd_arrays):
    expected = Expected(shape, training)
    expected.assert_holds_for(expected.layer(), training)


@pytest.mark.parametrize('training', [True, False])
def test_a_scale_that_is_fixed_counts_as_one(training, native, np_or_nd):
    expected = Expected((4, 5, 7, 7), training, fix_gamma=True)
    layer = expected.layer(scale=False)
    expected.assert_holds_for(layer, training)
    assert_close('gamma', layer.gamma.data().asnumpy(), expected.parameters['gamma'])


@pytest.mark.parametrize('mode', MODES)
def test_global_statistics_serve_training_too(mode, native, np_or_nd):
    expected = Expected((4, 5, 7, 7), training=False)
    layer = expected.layer(use_global_stats=True)
    set_mode(layer, mode)
    x = array_kind().array(expected.x)
    with autograd.record():
        y = layer(x)
    assert_close('output', y.asnumpy(), expected.output)


def test_values_far_from_zero_keep_their_variance(native, nd_arrays):
    x = draw('far', (4, 3, 20, 20))[0] + np.float32(1000)
    layer = nn.BatchNorm(in_channels=3)
    layer.initialize()
    with autograd.train_mode():
        y = layer(mx.nd.array(x)).asnumpy()
    exact = x.astype('float64')
    expected = (exact - exact.mean((0, 2, 3), keepdims=True)) / np.sqrt(
        exact.var((0, 2, 3), keepdims=True) + EPSILON
    )
    # The mean itself is rounded to a float32 near 1000.
    np.testing.assert_allclose(y, expected, atol=1e-4)


# --------------------------------------------------------------------------- one graph for both


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('arguments', [{}, {'scale': False, 'center': False}], ids=str)
def test_training_and_inference_take_turns_as_with_mxnets_layer(arguments, mode, native, np_or_nd):
    outcomes = []
    for library in (builtin, nn):
        layer = Expected((4, 5, 7, 7), True).layer(library, **arguments)
        set_mode(layer, mode)
        seen = []
        for step in range(4):
            x = array_kind().array(draw(f'step {step}', (4, 5, 7, 7))[0] * (1 + step))
            with autograd.record():
                y = layer(x)
                loss = (y * y * y).sum()
            if layer.gamma.grad_req == 'null':
                seen.append(y.asnumpy())
                continue
            loss.backward()
            seen += [y.asnumpy(), layer(x).asnumpy(), layer.running_var.data().asnumpy()]
        outcomes.append(seen)
    for actual, expected in zip(*outcomes[::-1]):
        assert_close('in its turn', actual, expected, 3e-5)


def test_what_tells_training_from_inference_stands_in_a_graph_once(native, np_or_nd):
    net = network(nn)
    net.initialize()
    net.hybridize()
    net(array_kind().array(draw('images', (4, 3, 12, 12))[0]))
    graph = json.loads(net._cached_graph[1].tojson())
    assert sum(node['op'] == 'BatchNorm' for node in graph['nodes']) == 1


def test_statistics_are_moved_by_the_backward_pass_as_mxnet_does(native, np_or_nd):
    layer = Expected((4, 5, 7, 7), True).layer()
    before = layer.running_mean.data().asnumpy()
    x = array_kind().array(Expected((4, 5, 7, 7), True).x)
    with autograd.train_mode():
        layer(x)
    with autograd.record():
        y = layer(x)
    assert (layer.running_mean.data().asnumpy() == before).all()
    y.backward()
    assert (layer.running_mean.data().asnumpy() != before).all()


def test_two_passes_wait_for_their_gradients(native, np_or_nd):
    """The first backward pass moves the statistics that the second one's forward pass has seen."""
    outcomes = []
    for library in (builtin, nn):
        layer = Expected((4, 5, 7, 7), True).layer(library)
        layer.hybridize()
        inputs = [array_kind().array(draw(f'pass {i}', (4, 5, 7, 7))[0]) for i in range(2)]
        for x in inputs:
            x.attach_grad()
        with autograd.record():
            losses = [(layer(x) ** 3).sum() for x in inputs]
        autograd.backward(losses)
        outcomes.append([x.grad.asnumpy() for x in inputs] + [layer.running_mean.data().asnumpy()])
    for actual, expected in zip(*outcomes[::-1]):
        assert_close('gradient', actual, expected, 3e-5)


# --------------------------------------------------------------------------- around it


def network(library):
    net = library.HybridSequential(prefix='net_')
    with net.name_scope():
        # A bias before a batch norm has no gradient but rounding.
        net.add(
            library.Conv2D(6, 3, use_bias=False), library.BatchNorm(), library.Activation('relu')
        )
        net.add(library.MaxPool2D(), library.Conv2D(4, 1, use_bias=False))
        net.add(library.BatchNorm(scale=False), library.Activation('relu'), library.Dense(3))
    return net


def test_a_network_with_it_matches_mxnets(native, np_or_nd):
    mine, theirs = network(nn), network(builtin)
    for net in (mine, theirs):
        net.initialize(mx.init.Xavier())
    assert_layers_match(mine, theirs, draw('images', (4, 3, 12, 12))[0], rtol=3e-5)


def test_names_are_mxnets(native, np_or_nd):
    nets = [network(library) for library in (builtin, nn)]
    assert list(nets[0].collect_params()) == list(nets[1].collect_params())
    assert repr(nets[0]) == repr(nets[1])
    assert isinstance(nets[1][1], builtin.BatchNorm)


def test_an_exported_network_trains_on(native, np_or_nd, tmp_path):
    net = network(nn)
    net.initialize(mx.init.Xavier())
    net.hybridize()
    x = array_kind().array(draw('images', (4, 3, 12, 12))[0])
    net(x)
    net.export(str(tmp_path / 'net'))
    names = [str(tmp_path / name) for name in ('net-symbol.json', 'net-0000.params')]
    again = gluon.SymbolBlock.imports(names[0], ['data'], names[1])
    assert 'net_batchnorm0_running_mean' in again._cached_graph[1].list_auxiliary_states()
    for training in (False, True, False):
        outputs = []
        for one in (net, again):
            with autograd.record(train_mode=training):
                y = one(x)
            if training:
                y.backward()
            outputs.append(y.asnumpy())
        assert_close('output', *outputs)


@pytest.mark.parametrize('mode', MODES)
def test_gradients_are_added_where_that_is_asked_for(mode, native, np_or_nd):
    expected = Expected((4, 5, 7, 7), True)
    layer = expected.layer()
    set_mode(layer, mode)
    x = array_kind().array(expected.x)
    x.attach_grad('add')
    layer.gamma.grad_req = layer.beta.grad_req = 'add'
    for _ in range(3):
        with autograd.record():
            y = layer(x)
        y.backward(array_kind().array(expected.head))
    assert_close('x', x.grad.asnumpy(), 3 * expected.data, 3e-5)
    assert_close('gamma', layer.gamma.grad().asnumpy(), 3 * expected.gamma)
    assert_close('beta', layer.beta.grad().asnumpy(), 3 * expected.beta)


def test_gradients_are_those_of_what_was_computed(native, np_or_nd):
    """MXNet asks the backward pass, which is a training unless told otherwise."""
    expected = Expected((4, 5, 7, 7), False)
    layer = expected.layer()
    x = array_kind().array(expected.x)
    x.attach_grad()
    with autograd.record(train_mode=False):
        y = layer(x)
    y.backward(array_kind().array(expected.head))
    assert_close('x', x.grad.asnumpy(), expected.data, 3e-5)
    assert_close(
        'running_mean', layer.running_mean.data().asnumpy(), expected.parameters['running_mean']
    )


# --------------------------------------------------------------------------- left to MXNet


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize(
    'arguments, dtype',
    [({'axis': 3}, 'float32'), ({'axis': -1}, 'float64'), ({}, 'float16')],
    ids=str,
)
def test_what_ours_has_no_kernel_for_is_mxnets(arguments, dtype, mode, native, np_or_nd):
    x = array_kind().array(draw('left', (2, 5, 4, 5))[0].astype(dtype), dtype=dtype)
    outputs = []
    for library in (nn, builtin):
        layer = library.BatchNorm(**arguments)
        layer.initialize()
        layer.cast(dtype)
        set_mode(layer, mode)
        with autograd.train_mode():
            outputs.append(layer(x).asnumpy())
    np.testing.assert_array_equal(*outputs)


def test_the_portable_backend_is_mxnets_operator(np_or_nd):
    expected = Expected((4, 5, 7, 7), True)
    with use_backend('portable'):
        layer = expected.layer()
        layer.hybridize()
        expected.assert_holds_for(layer, training=True)
        assert 'convpool' not in layer._cached_graph[1].tojson()


# --------------------------------------------------------------------------- bad input


def test_other_channels_are_refused_at_the_call(native, np_or_nd):
    layer = nn.BatchNorm(in_channels=3)
    layer.initialize()
    with pytest.raises(ValueError, match=r'shape \(2, 4, 5, 5\), but the parameters are for 3'):
        layer(array_kind().ones((2, 4, 5, 5)))


def test_a_graph_refuses_with_the_same_sentence(native, np_or_nd):
    net = nn.HybridSequential()
    net.add(nn.BatchNorm(in_channels=3))
    net.initialize()
    net.hybridize()
    with pytest.raises(Exception, match=r'shape \(2, 4, 5, 5\), but the parameters are for 3'):
        net(array_kind().ones((2, 4, 5, 5))).wait_to_read()


def test_the_operator_refuses_what_it_does_not_know(native, nd_arrays):
    x, c = mx.nd.ones((2, 3, 4, 4)), mx.nd.ones(3)
    with pytest.raises(mx.MXNetError, match="mode='often' is unknown"):
        mx.nd.convpool_batch_norm(x, c, c, c, c, mode='often')
    with pytest.raises(mx.MXNetError, match='unknown attribute axis'):
        mx.nd.convpool_batch_norm(x, c, c, c, c, axis=1)
    with pytest.raises(mx.MXNetError, match='needs two axes or more'):
        mx.nd.convpool_batch_norm(c, c, c, c, c)
