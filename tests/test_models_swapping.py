"""Layers swapped in whole networks: same numbers, same objects, and what stays as it is."""

from __future__ import annotations

import copy
import pickle

import mxnet as mx
import numpy as np
import pytest
from models_common import data, flat, graph_of, operators, started
from mxnet import autograd, gluon
from mxnet.gluon import nn as builtin
from mxnet.gluon.contrib import nn as contrib
from mxnet.gluon.nn import conv_layers

import gluon_convpool
from gluon_convpool import nn, swap
from gluon_convpool.models import concatenation, swapping
from gluon_convpool.testing import MODES, array_kind, assert_close, assert_same, measure, parameters


class Renamed(builtin.Conv2D):
    """A subclass that computes as its base does."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.note = 'kept'

    def __repr__(self):
        return 'Renamed!'

    def weight_size(self):
        return self.weight.shape


class Doubled(builtin.Conv2D):
    """A subclass that computes otherwise."""

    def hybrid_forward(self, F, x, weight, bias=None):
        return 2 * super().hybrid_forward(F, x, weight, bias)


class Loud(builtin.MaxPool2D):
    """A subclass with a forward of its own."""

    def forward(self, x):
        return super().forward(x)


class Residual(gluon.HybridBlock):
    """What real networks have: nesting, a shared layer, plain attributes, a subclass."""

    def __init__(self, **keywords):
        super().__init__(**keywords)
        with self.name_scope():
            self.first = builtin.Conv2D(8, 3, padding=1, use_bias=False)
            self.norm = builtin.BatchNorm()
            self.shared = builtin.Conv2D(8, 3, padding=1, activation='relu')
            self.pools = builtin.HybridSequential()
            self.pools.add(builtin.MaxPool2D(2), builtin.AvgPool2D(3, 1, 1))
            self.end = builtin.HybridSequential()
            self.end.add(Renamed(4, 1), builtin.GlobalAvgPool2D(), builtin.Dense(3))
        self.unregistered = [self.first]

    def hybrid_forward(self, F, x):
        x = self.norm(self.first(x))
        x = (F.npx if mx.util.is_np_array() else F).relu(x)
        return self.end(self.pools(self.shared(self.shared(x)) + x))


PATHS = ['first', 'norm', 'shared', 'pools.0', 'pools.1', 'end.0', 'end.1']
SHAPE = (2, 3, 12, 12)


def residual(**keywords):
    return started(Residual(**keywords), data(*SHAPE))


def head():
    return data(2, 3, seed=1).asnumpy()


def computed(net, mode='imperative'):
    return measure(net, data(*SHAPE).asnumpy(), head(), mode)


def branches(kind, axis=1):
    """A concurrent block of MXNet's, with a convolution and a pooling side by side."""
    net = kind(axis=axis)
    net.add(builtin.Conv2D(4, 3, padding=1), builtin.MaxPool2D(3, 1, 1))
    return net


# --------------------------------------------------------------------------- the same network


@pytest.mark.parametrize('mode', MODES)
def test_a_swapped_network_gives_the_same_numbers(mode, any_backend, np_or_nd):
    net = residual()
    expected = computed(net)
    report = swap(net)
    assert report.net is net and not report.left
    assert [one.path for one in report.replaced] == PATHS
    assert_same(computed(net, mode), expected)
    assert_same(computed(net, mode), expected)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('axis', [1, -3])
def test_concurrent_blocks_concatenate_plain_arrays(axis, mode, native, nd_arrays):
    net = started(branches(contrib.HybridConcurrent, axis), data(*SHAPE))
    head = data(2, 7, 12, 12, seed=1).asnumpy()
    expected = measure(net, data(*SHAPE).asnumpy(), head, 'imperative')
    report = swap(net)
    assert [one.path for one in report.replaced] == ['(itself)', '0', '1']
    assert isinstance(net, contrib.HybridConcurrent)
    assert_same(measure(net, data(*SHAPE).asnumpy(), head, mode), expected)
    if net._active:
        assert '_npi_concatenate' in operators(net._cached_graph[1])
    swap(net, to='mxnet')
    assert type(net) is contrib.HybridConcurrent
    assert_same(measure(net, data(*SHAPE).asnumpy(), head, mode), expected)


def test_concurrent_blocks_without_graphs_concatenate_too(native, nd_arrays):
    net = started(branches(contrib.Concurrent), data(*SHAPE))
    expected = net(data(*SHAPE)).asnumpy()
    swap(net)
    assert isinstance(net, concatenation.Concurrent)
    assert_close('output', net(data(*SHAPE)).asnumpy(), expected)


def test_concurrent_blocks_of_ours_take_numpy_arrays_too(native, np_arrays):
    net = swap(branches(contrib.HybridConcurrent)).net
    net.initialize()
    parts = [layer(data(*SHAPE)).asnumpy() for layer in net]
    net.hybridize()
    assert_close('output', net(data(*SHAPE)).asnumpy(), np.concatenate(parts, axis=1))


def test_weights_are_put_in_the_order_that_ours_read(native, np_or_nd, monkeypatch):
    """MXNet's convolutions rearrange them in place, where each call of ours would copy them."""
    seen = []
    monkeypatch.setattr(swapping, 'put_in_plain_order', seen.append)
    net = residual()
    with autograd.record():
        net(data(*SHAPE))
    swap(net)
    for layer in (net.first, net.shared, net.end[0], net.norm):
        for parameter in layer._reg_params.values():
            arrays = parameter.list_data()
            arrays += parameter.list_grad() if parameter.grad_req != 'null' else []
            assert all(any(one is array for one in seen) for array in arrays)


@pytest.mark.parametrize('mode', MODES[1:])
def test_a_network_that_runs_hybridized_is_traced_anew(mode, native, np_or_nd):
    net = residual()
    expected = computed(net, mode)
    swap(net)
    assert_same(computed(net, mode), expected)
    ours = [op for op in operators(net._cached_graph[1]) if 'convpool' in op]
    assert len(ours) == 8  # the shared one twice
    swap(net, to='mxnet')
    assert net._active
    assert_same(computed(net, mode), expected)
    assert not any('convpool' in op for op in operators(net._cached_graph[1]))


def test_layers_and_parameters_stay_the_same_objects():
    net = residual()
    layers = [net.first, net.shared, *net.pools, *net.end]
    names = [(layer.name, layer.prefix, list(layer.params)) for layer in layers]
    values = list(net.collect_params().items())
    swap(net)
    assert [net.first, net.shared, *net.pools, *net.end] == layers
    assert [(layer.name, layer.prefix, list(layer.params)) for layer in layers] == names
    assert net.unregistered[0] is net.first and type(net.first) is nn.Conv2D
    after = net.collect_params().items()
    assert all(a == b and one is other for (a, one), (b, other) in zip(values, after))


def test_the_way_back_leaves_no_trace():
    net = residual()
    before = {key: set(vars(block)) for key, block in net._children.items()}
    classes = [type(block) for block in (net.first, net.shared, *net.pools, *net.end)]
    swap(net)
    net.hybridize()
    net(data(*SHAPE))
    report = swap(net, to='mxnet')
    assert [one.path for one in report.replaced] == PATHS and not report.left
    assert [type(block) for block in (net.first, net.shared, *net.pools, *net.end)] == classes
    assert {key: set(vars(block)) for key, block in net._children.items()} == before
    assert {type(one) for one in net.collect_params().values()} == {gluon.Parameter}
    assert type(net.shared.act) is builtin.Activation


def test_swapping_twice_changes_nothing_more():
    net = residual()
    swap(net)
    assert swap(net) == swapping.SwapReport(net, [], [])
    swap(net, to='mxnet')
    assert swap(net, to='mxnet') == swapping.SwapReport(net, [], [])


def test_hooks_go_on():
    net = residual()
    heard = []
    net.first.register_forward_hook(lambda block, inputs, output: heard.append(output.shape))
    net.first.register_forward_pre_hook(lambda block, inputs: heard.append(block.name))
    swap(net)
    net(data(*SHAPE))
    assert heard == [net.first.name, (2, 8, 12, 12)]


def test_gradients_are_added_where_that_is_asked_for(any_backend, np_or_nd):
    net = residual()
    once = computed(net)
    net.hybridize()
    net(data(*SHAPE))
    swap(net)
    net(data(*SHAPE))
    for parameter in net.collect_params().values():
        if parameter.grad_req != 'null':
            parameter.grad_req = 'add'
    x = data(*SHAPE)
    for _ in range(3):
        with autograd.record():
            y = net(x)
        y.backward(array_kind().array(head()))
    for name, parameter in parameters(net).items():
        if parameter.grad_req == 'add':
            assert_close(name, parameter.grad().asnumpy(), 3 * once[name])


def test_training_goes_on_with_the_state_of_the_trainer(np_or_nd):
    x, label = data(8, 3, 12, 12), array_kind().array(np.arange(8) % 3)
    loss_function = gluon.loss.SoftmaxCrossEntropyLoss()
    losses = []
    for swapping_at in (None, 7):
        net = started(Residual(), x)
        rule = {'learning_rate': 0.05, 'momentum': 0.9}
        trainer = gluon.Trainer(net.collect_params(), 'sgd', rule)
        losses.append([])
        for step in range(20):
            if step == swapping_at:
                assert len(swap(net).replaced) == len(PATHS)
            with autograd.record():
                loss = loss_function(net(x), label).mean()
            loss.backward()
            trainer.step(1)
            losses[-1].append(loss.asnumpy().item())
    assert losses[0][-1] < 0.5 * losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


# --------------------------------------------------------------------------- copies


@pytest.mark.parametrize('hybridized', [False, True])
def test_a_copy_has_the_same_parameters_and_leaves_the_original_alone(hybridized, np_or_nd):
    net = residual()
    if hybridized:
        net.hybridize(static_alloc=True)
        net(data(*SHAPE))
    expected = flat(net(data(*SHAPE)))
    report = swap(net, inplace=False)
    assert report.net is not net and len(report.replaced) == len(PATHS)
    assert type(net.first) is builtin.Conv2D and type(report.net.first) is nn.Conv2D
    assert report.net.unregistered[0] is report.net.first
    assert report.net._active is hybridized
    mine, theirs = (one.collect_params() for one in (report.net, net))
    assert list(mine) == list(theirs) and all(mine[name] is theirs[name] for name in mine)
    for one in (report.net, net):
        assert_close('output', flat(one(data(*SHAPE)))[0], expected[0])
    net.first.weight.set_data(net.first.weight.data() * 2)
    assert_close('output', flat(report.net(data(*SHAPE)))[0], flat(net(data(*SHAPE)))[0])


def test_a_copy_back_leaves_ours_alone():
    net = residual()
    swap(net)
    report = swap(net, to='mxnet', inplace=False)
    assert type(net.end[0]).__mro__[2] is nn.Conv2D and type(report.net.end[0]) is Renamed
    assert type(net.first.weight) is not gluon.Parameter


def test_what_cannot_be_copied_is_named():
    net = residual()
    net.lines = (line for line in ())
    with pytest.raises(TypeError, match=r'swap: residual\d+ \(Residual\) cannot be copied'):
        swap(net, inplace=False)
    assert swap(net).replaced


@pytest.mark.parametrize('copied', [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_swapped_layers_can_be_copied_and_pickled(copied, np_or_nd):
    net = builtin.HybridSequential()
    net.add(Renamed(4, 3), builtin.MaxPool2D())
    started(net, data(*SHAPE))
    swap(net)
    again = copied(net)
    assert isinstance(again[0], nn.Conv2D) and isinstance(again[0], Renamed)
    assert_close('output', flat(again(data(*SHAPE)))[0], flat(net(data(*SHAPE)))[0])


# --------------------------------------------------------------------------- which layers


def test_a_subclass_that_changes_nothing_of_the_computation_stays_one():
    layer = Renamed(4, 3, in_channels=2, prefix='mine_')
    swap(layer)
    assert isinstance(layer, Renamed) and isinstance(layer, nn.Conv2D)
    assert type(layer).__name__ == 'Renamed' and repr(layer) == 'Renamed!'
    assert layer.note == 'kept' and layer.weight_size() == (4, 2, 3, 3)


def test_layers_are_found_in_lists_dicts_and_attributes():
    net = builtin.Sequential()
    inner = gluon.Block()
    inner.heads = {'a': [builtin.Conv2D(4, 3), (builtin.MaxPool2D(),)]}
    net.add(inner, builtin.AvgPool2D())
    assert [one.path for one in swap(net).replaced] == [
        "0.heads['a'][0]",
        "0.heads['a'][1][0]",
        '1',
    ]


def test_the_general_layers_behind_the_named_ones_are_replaced(native, np_or_nd):
    pool = conv_layers._Pooling((3, 2), (2, 1), (1, 0), True, False, 'sum', 'NCHW')
    op_name = 'convolution' if np_or_nd == 'np' else 'Convolution'
    conv = conv_layers._Conv(4, (3, 3), 1, 0, 1, 1, 'NCHW', op_name=op_name)
    net = builtin.HybridSequential()
    net.add(conv, pool)
    started(net, data(*SHAPE))
    expected = flat(net(data(*SHAPE)))[0]
    assert len(swap(net).replaced) == 2
    assert isinstance(conv, nn.Conv2D) and isinstance(pool, gluon_convpool.Pool2D)
    assert_close('output', flat(net(data(*SHAPE)))[0], expected)
    assert not swap(net, to='mxnet').left
    assert_close('output', flat(net(data(*SHAPE)))[0], expected)


@pytest.mark.parametrize('mode', ['max', 'avg', 'sum', 'lp'])
def test_ours_of_every_mode_goes_back_to_a_builtin_that_computes_the_same(mode, native, np_or_nd):
    layer = gluon_convpool.Pool2D((3, 2), 2, 1, mode)
    x = array_kind().array(abs(data(2, 3, 9, 9).asnumpy()))
    expected = layer(x).asnumpy()
    assert not swap(layer, to='mxnet').left and type(layer) is conv_layers._Pooling
    assert_close('output', layer(x).asnumpy(), expected)


def test_a_forced_algorithm_is_forgotten_on_the_way_back(native, np_or_nd):
    layer = nn.Conv2D(4, 3, algorithm='implicit_gemm')
    layer.initialize()
    expected = layer(data(*SHAPE)).asnumpy()
    swap(layer, to='mxnet')
    assert_close('output', layer(data(*SHAPE)).asnumpy(), expected)


def cast(layer, dtype):
    layer.cast(dtype)
    return layer


def same_convention():
    layer = builtin.MaxPool2D(2)
    layer._kwargs['pooling_convention'] = 'same'
    return layer


@pytest.mark.parametrize(
    'make, reason',
    [
        (
            lambda: builtin.Conv2DTranspose(4, 3),
            'transposed convolutions of ours are not faster',
        ),
        (lambda: Doubled(4, 3), 'Doubled has a hybrid_forward of its own'),
        (lambda: Loud(), 'Loud has a forward of its own'),
        (
            lambda: cast(builtin.Conv2D(4, 3), 'float16'),
            'the native convolution has no kernel for float16',
        ),
        (same_convention, "its pooling_convention is 'same'"),
        (
            lambda: builtin.MaxPool2D(2, padding=2),
            'MaxPool2D: padding=(2, 2) must be smaller than pool_size=(2, 2) on every axis',
        ),
    ],
)
def test_what_would_not_be_faster_or_is_not_there_is_left_and_says_why(make, reason, native):
    net = builtin.HybridSequential()
    net.add(make())
    before = type(net[0]), set(vars(net[0]))
    report = swap(net)
    assert not report.replaced
    assert report.left == [('0', before[0].__name__, reason)]
    assert (type(net[0]), set(vars(net[0]))) == before
    assert f'0: {before[0].__name__} left, {reason}' in str(report)


def test_what_the_native_backend_does_not_compute_in_float16_is_left(native):
    net = builtin.HybridSequential()
    net.add(builtin.Conv2D(4, 3), builtin.MaxPool2D())
    net.cast('float16')
    report = swap(net)
    assert [(one.path, one.reason.split()[-1]) for one in report.left] == [('0', 'float16')]
    assert [one.path for one in report.replaced] == ['1']


def test_a_block_that_holds_a_graph_is_left_and_named(native, nd_arrays):
    graph = graph_of(residual())
    net = builtin.HybridSequential()
    net.add(gluon.SymbolBlock(graph, mx.sym.var('data')), builtin.Conv2D(4, 3))
    report = swap(net)
    assert [one.path for one in report.replaced] == ['1']
    ((path, layer, reason),) = report.left
    assert (path, layer) == ('0', 'SymbolBlock')
    assert reason == 'it holds a graph with 7 of them, which optimize() takes'


def test_a_subclass_of_ours_has_no_way_back():
    class Mine(nn.Conv2D):
        pass

    report = swap(Mine(4, 3), to='mxnet')
    assert [one.reason for one in report.left] == ['Mine is a subclass of Conv2D of ours']


def test_without_the_library_nothing_is_replaced(monkeypatch):
    missing = gluon_convpool._mxnet.NativeStatus(False, 'the native library was not built')
    monkeypatch.setattr(gluon_convpool._mxnet, 'native_status', lambda: missing)
    gluon_convpool.use_backend('auto')
    report = swap(residual())
    assert not report.replaced
    assert {one.reason for one in report.left} == {'the native library was not built'}
    gluon_convpool.use_backend('portable')
    assert len(swap(residual()).replaced) == len(PATHS)


def test_a_layer_alone_and_one_that_is_not_initialised(np_or_nd):
    layer = builtin.Conv2D(4, 3)
    assert swap(layer).replaced == [('(itself)', 'Conv2D', 'gluon_convpool Conv2D')]
    layer.initialize()
    assert layer(data(1, 2, 5, 5)).shape == (1, 4, 3, 3)


@pytest.mark.parametrize(
    'call, error, sentence',
    [
        (lambda: swap(nn), TypeError, 'swap: net must be a gluon.Block, not module'),
        (lambda: swap(nn.Conv2D(4, 3), to='torch'), ValueError, "swap: to='torch' is unknown"),
    ],
)
def test_swap_refuses_what_it_cannot_take(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()


# --------------------------------------------------------------------------- exports


def test_an_export_after_a_swap_runs_in_symbol_block_and_module(native, nd_arrays, tmp_path):
    net, x = residual(), data(*SHAPE)
    expected = flat(net(x))[0]
    swap(net)
    net.hybridize()
    net(x)
    prefix = str(tmp_path / 'net')
    net.export(prefix)
    block = gluon.SymbolBlock.imports(f'{prefix}-symbol.json', ['data'], f'{prefix}-0000.params')
    assert_close('SymbolBlock', flat(block(x))[0], expected)
    module = mx.mod.Module.load(prefix, 0, label_names=None)
    module.bind([('data', x.shape)], for_training=False)
    module.forward(mx.io.DataBatch([x]), is_train=False)
    assert_close('Module', flat(module.get_outputs())[0], expected)
