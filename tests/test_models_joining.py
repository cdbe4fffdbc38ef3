"""What stands before a pointwise convolution becomes its first step: scales, and joined arrays."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from models_common import data, flat, graph_of, nodes, operators, started
from mxnet import gluon
from mxnet.gluon import nn as builtin

from gluon_convpool import nn, optimize
from gluon_convpool.testing import assert_close

pytestmark = pytest.mark.usefixtures('native')

CONVOLUTION = 'convpool_convolution'
POOLING = 'convpool_pooling'


class Net(gluon.HybridBlock):
    """Layers by name, and a function of them that computes."""

    def __init__(self, function, **layers):
        super().__init__(prefix='')
        self.function = function
        with self.name_scope():
            for name, layer in layers.items():
                setattr(self, name, layer)

    def hybrid_forward(self, F, x):
        return self.function(self, Functions(F), x)


class Functions:
    """The same functions for both kinds of arrays."""

    def __init__(self, F):
        self.plain, self.numpy = F, mx.util.is_np_array()

    def join(self, *arrays, axis=1):
        if self.numpy:
            return self.plain.np.concatenate(arrays, axis=axis)
        return self.plain.concat(*arrays, dim=axis)

    def relu(self, x):
        return self.plain.npx.relu(x) if self.numpy else self.plain.relu(x)


def conv(channels=8, kernel=1, **keywords):
    return builtin.Conv2D(channels, kernel, padding=kernel // 2, **keywords)


def branches(function):
    """A network of two convolutions 'a' and 'b' of the data, and further layers."""
    return Net(
        function,
        a=conv(5, 3),
        b=conv(6),
        c=conv(7),
        d=conv(4),
        wide=conv(4, 3),
        norm=builtin.BatchNorm(),
        other=builtin.BatchNorm(),
        pool=builtin.MaxPool2D(3, 2, 1),
        average=builtin.AvgPool2D(3, 1, 1, count_include_pad=False),
    )


def optimized(net, shape=(2, 3, 13, 12)):
    """The optimized network, which gives what the network gives, and its operators."""
    x = data(*shape)
    started(net, x)
    expected = flat(net(x))
    model = optimize(net)
    for one, other in zip(flat(model(x)), expected):
        assert_close('output', one, other, 1e-5)
    return model, nodes(graph_of(model))


def attributes(found, name, otherwise):
    return [node.get('attrs', {}).get(name, otherwise) for node in found]


def kinds(found):
    return [node['op'].replace('_npx_', '') for node in found]


@pytest.mark.parametrize('activated', [True, False])
def test_a_batch_norm_before_a_pointwise_convolution_is_its_first_step(activated, np_or_nd):
    def function(net, F, x):
        y = net.norm(net.pool(x))
        return net.c(F.relu(y) if activated else y)

    _, found = optimized(branches(function))
    assert kinds(found) == [POOLING, CONVOLUTION]
    assert found[1]['attrs']['with_scale'] == 'True'
    assert found[1]['attrs']['data_act_type'] == ('relu' if activated else 'none')


@pytest.mark.parametrize(
    'function',
    [
        lambda net, F, x: net.wide(F.relu(net.norm(net.pool(x)))),
        lambda net, F, x: (lambda y: net.c(y) + net.c(y * 2))(F.relu(net.norm(net.pool(x)))),
        lambda net, F, x: (lambda y: F.join(y, net.c(y)))(F.relu(net.norm(net.pool(x)))),
    ],
    ids=['3x3', 'two users', 'used elsewhere'],
)
def test_a_batch_norm_before_something_else_stays(function, np_or_nd):
    _, found = optimized(branches(function))
    assert 'True' not in attributes(found, 'with_scale', 'False')


def test_two_batch_norms_in_a_row_are_one_first_step_and_a_layer(np_or_nd):
    net = branches(lambda net, F, x: net.c(F.relu(net.norm(F.relu(net.other(net.pool(x)))))))
    _, found = optimized(net)
    assert attributes(found, 'with_scale', 'False') == ['False', 'False', 'True']


def test_arrays_joined_for_a_pointwise_convolution_stay_where_they_are(np_or_nd):
    _, found = optimized(branches(lambda net, F, x: net.c(F.join(net.a(x), x, net.b(x)))))
    assert kinds(found) == [CONVOLUTION] * 3
    assert attributes(found, 'num_data', '1') == ['1', '1', '3']


def test_dense_blocks_copy_nothing(np_or_nd):
    def function(net, F, x):
        first = F.join(x, net.a(x))
        second = F.join(first, net.c(F.relu(net.norm(first))))
        return net.d(F.relu(net.other(second)))

    _, found = optimized(branches(function))
    assert kinds(found) == [CONVOLUTION] * 3
    assert attributes(found, 'num_data', '1') == ['1', '2', '3']
    assert attributes(found, 'with_scale', 'False') == ['False', 'True', 'True']


def test_the_last_of_nested_joins_may_be_one_that_others_need(np_or_nd):
    def function(net, F, x):
        first = F.join(x, net.a(x))
        return net.wide(F.join(first, net.c(first)))

    _, found = optimized(branches(function))
    assert kinds(found).count(CONVOLUTION) == 3 and len(found) == 4
    joins = [node for node in found if 'oncat' in node['op']]
    assert len(joins[0]['inputs']) == 3


@pytest.mark.parametrize('name', ['pool', 'average'])
def test_a_pooling_of_joined_arrays_is_one_of_each(name, np_or_nd):
    net = branches(lambda net, F, x: net.c(getattr(net, name)(F.join(net.a(x), net.b(x)))))
    _, found = optimized(net)
    assert sorted(kinds(found)) == [CONVOLUTION] * 3 + [POOLING] * 2


def test_branches_as_those_of_inception(np_or_nd):
    def function(net, F, x):
        joined = F.join(net.a(x), net.b(x))
        return F.join(net.c(joined), net.d(net.average(joined)))

    _, found = optimized(branches(function))
    assert sorted(kinds(found))[-6:] == [CONVOLUTION] * 4 + [POOLING] * 2
    assert len(found) == 7  # the last join is the output


@pytest.mark.parametrize(
    'function',
    [
        lambda net, F, x: (lambda y: [net.c(y), y])(F.join(net.a(x), net.b(x))),
        lambda net, F, x: (lambda y: [net.c(y), net.wide(y)])(F.join(net.a(x), net.b(x))),
        lambda net, F, x: net.c(F.join(net.a(x), net.a(x), axis=2)),
        lambda net, F, x: net.c(F.join(net.a(x), net.a(x), axis=0)),
        lambda net, F, x: net.wide(net.pool(F.join(net.a(x), net.b(x)))),
        lambda net, F, x: (lambda y: net.e(y) + y)(F.join(net.a(x), net.b(x))),
        lambda net, F, x: net.strided(F.join(net.a(x), net.b(x))),
        lambda net, F, x: net.grouped(F.join(net.b(x), net.b(x))),
    ],
    ids=['output', '3x3', 'rows', 'batch', 'pooling', 'sum', 'strided', 'grouped'],
)
def test_arrays_that_others_need_joined_are(function, np_or_nd):
    net = branches(function)
    with net.name_scope():
        net.e = conv(11)
        net.strided = builtin.Conv2D(4, 1, strides=2)
        net.grouped = conv(4, groups=2)
    _, found = optimized(net)
    assert sum('oncat' in node['op'] for node in found) == 1
    assert set(attributes(found, 'num_data', '1')) == {'1'}


def test_an_array_that_is_joined_with_itself(np_or_nd):
    net = branches(lambda net, F, x: net.c((lambda y: F.join(y, y, x))(net.a(x))))
    _, found = optimized(net)
    assert attributes(found, 'num_data', '1') == ['1', '3']


def test_sums_and_activations_are_still_the_last_step(np_or_nd):
    net = branches(lambda net, F, x: F.relu(net.c(F.join(net.a(x), x)) + net.e(x)))
    with net.name_scope():
        net.e = conv(7)
    _, found = optimized(net)
    assert kinds(found) == [CONVOLUTION] * 3
    assert 'relu' in attributes(found, 'act_type', 'none')


@pytest.mark.parametrize('shape', [(1, 3, 8, 9), (5, 3, 21, 7), (0, 3, 8, 9)])
def test_other_batches_and_sizes(shape, np_arrays):
    net = branches(lambda net, F, x: net.c(F.relu(net.norm(F.join(net.a(x), x)))))
    model, _ = optimized(net)
    x = data(*shape)
    (actual,) = flat(model(x))
    if shape[0]:
        assert_close('output', actual, flat(net(x))[0], 1e-5)
    else:  # which MXNet's layers refuse
        assert actual.shape == (0, 7, *shape[2:])


def test_such_a_model_is_stored_and_optimized_again(tmp_path, np_or_nd):
    net = branches(lambda net, F, x: net.c(F.relu(net.norm(F.join(net.a(x), x)))))
    model, _ = optimized(net)
    model.export(str(tmp_path / 'net'))
    again = optimize((str(tmp_path / 'net-symbol.json'), str(tmp_path / 'net-0000.params')))
    assert operators(graph_of(again)) == operators(graph_of(model))
    x = data(2, 3, 13, 12)
    np.testing.assert_array_equal(flat(again(x))[0], flat(model(x))[0])


@pytest.mark.parametrize('axis', [1, 3])
def test_channels_that_come_last_are_not_joined(axis, np_or_nd):
    def run(net, F, x):
        return net.after(F.join(net.one(x), net.two(x), axis=axis))

    layers = {name: nn.Conv2D(6, 1, layout='NHWC') for name in ('one', 'two', 'after')}
    _, found = optimized(Net(run, **layers), (2, 7, 5, 4))
    assert kinds(found).count(CONVOLUTION) == 3
    assert not any(attributes(found, 'num_data', None))
