"""Whole networks: layers swapped both ways, and graphs rewritten for inference."""

from __future__ import annotations

import copy
import json

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn as builtin
from mxnet.gluon.model_zoo import vision

import gluon_convpool
from gluon_convpool import nn, optimize, swap

pytestmark = pytest.mark.usefixtures('nd_arrays')


class Residual(mx.gluon.HybridBlock):
    """What real networks have: nesting, a shared layer, plain attributes, a subclass."""

    def __init__(self):
        super().__init__()
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
        x = F.Activation(self.norm(self.first(x)), act_type='relu')
        return self.end(self.pools(self.shared(self.shared(x)) + x))


class Renamed(builtin.Conv2D):
    """A subclass that computes as its base does."""


class Doubled(builtin.Conv2D):
    """A subclass that computes otherwise."""

    def hybrid_forward(self, F, x, weight, bias=None):
        return 2 * super().hybrid_forward(F, x, weight, bias)


def data(*shape):
    return mx.nd.array(np.random.RandomState(0).normal(size=shape))


def made(net, x):
    net.initialize(mx.init.Normal(0.3))
    net(x)
    return net


def results(net, x):
    x.attach_grad()
    with autograd.record():
        y = net(x)
    y.backward(data(*y.shape))
    gradients = [p.grad().asnumpy() for p in net.collect_params().values() if p.grad_req != 'null']
    return [y.asnumpy(), x.grad.asnumpy(), *gradients]


def assert_close(actual, expected, tolerance=1e-5):
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * abs(other).max())


def operators(symbol):
    return [node['op'] for node in json.loads(symbol.tojson())['nodes'] if node['op'] != 'null']


# --------------------------------------------------------------------------- swap


@pytest.mark.parametrize('mode', ['imperative', 'hybrid', 'static'])
def test_a_swapped_network_gives_the_same_numbers(mode, backend):
    x = data(2, 3, 12, 12)
    net = made(Residual(), x)
    before = results(net, x)
    if mode != 'imperative':
        net.hybridize(static_alloc=mode == 'static', static_shape=mode == 'static')
        net(x)
    report = swap(net)
    assert report.net is net and not report.left
    assert [one.path for one in report.replaced] == [
        'first',
        'shared',
        'pools.0',
        'pools.1',
        'end.0',
        'end.1',
    ]
    assert_close(results(net, x), before)
    assert_close(results(net, x), before)


def test_layers_and_parameters_stay_the_same_objects():
    net = made(Residual(), data(2, 3, 12, 12))
    first, parameters = net.first, list(net.collect_params().values())
    swap(net)
    assert net.first is first and net.unregistered[0] is first
    assert isinstance(first, nn.Conv2D) and isinstance(net.end[0], Renamed)
    assert all(a is b for a, b in zip(parameters, net.collect_params().values()))
    swap(net, to='mxnet')
    assert net.first is first and type(first) is builtin.Conv2D
    assert type(net.end[0]) is Renamed and type(net.pools[0]) is builtin.MaxPool2D
    assert {type(p) for p in parameters} == {mx.gluon.Parameter}


def test_the_way_back_leaves_no_trace_in_graph_or_state():
    x = data(2, 3, 12, 12)
    net = made(Residual(), x)
    before, keys = results(net, x), {k: set(vars(b)) for k, b in net._children.items()}
    swap(net)
    net.hybridize()
    net(x)
    report = swap(net, to='mxnet')
    assert len(report.replaced) == 6 and not report.left
    assert {k: set(vars(b)) for k, b in net._children.items()} == keys
    assert not any('convpool' in op for op in operators(net(mx.sym.var('data'))))
    assert_close(results(net, x), before)


def test_a_copy_leaves_the_original_alone():
    x = data(2, 3, 12, 12)
    net = made(Residual(), x)
    report = swap(net, inplace=False)
    assert type(net.first) is builtin.Conv2D and type(report.net.first) is nn.Conv2D
    assert_close(results(report.net, x), results(net, x))


def test_what_cannot_be_replaced_is_left_and_named():
    net = builtin.HybridSequential()
    half = builtin.Conv2D(4, 3)
    half.cast('float16')
    net.add(
        builtin.Conv1D(4, 3), builtin.Conv2DTranspose(4, 3), Doubled(4, 3), half, nn.Conv2D(4, 3)
    )
    report = swap(net)
    assert not report.replaced
    assert [(one.path, one.layer, one.reason) for one in report.left] == [
        ('0', 'Conv1D', 'gluon_convpool has no Conv1D'),
        ('1', 'Conv2DTranspose', 'gluon_convpool has no Conv2DTranspose'),
        ('2', 'Doubled', 'Doubled has a hybrid_forward of its own'),
        ('3', 'Conv2D', 'its weight is float16; ours are float32 or float64'),
    ]
    assert '2: Doubled left, Doubled has a hybrid_forward of its own' in str(report)


def test_a_layer_alone_and_one_that_is_not_initialised():
    layer = builtin.Conv2D(4, 3)
    assert swap(layer).net is layer and type(layer) is nn.Conv2D
    layer.initialize()
    assert layer(data(1, 2, 5, 5)).shape == (1, 4, 3, 3)


def test_ours_of_every_mode_goes_back_to_a_builtin_that_computes_the_same():
    x = data(2, 3, 9, 9)
    for mode in ('max', 'avg', 'sum', 'lp'):
        layer = gluon_convpool.Pool2D((3, 2), 2, 1, mode)
        before = layer(x).asnumpy()
        assert not swap(layer, to='mxnet').left
        np.testing.assert_allclose(layer(x).asnumpy(), before, rtol=1e-5)


def test_training_goes_on_with_the_state_of_the_trainer():
    x, label = data(8, 3, 12, 12), mx.nd.array(np.arange(8) % 3)
    loss_function = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    losses = []
    for swapping in (False, True):
        mx.random.seed(0)
        net = made(Residual(), x)
        trainer = mx.gluon.Trainer(
            net.collect_params(), 'sgd', {'learning_rate': 0.05, 'momentum': 0.9}
        )
        losses.append([])
        for step in range(20):
            if swapping and step == 7:
                assert len(swap(net).replaced) == 6
            with autograd.record():
                loss = loss_function(net(x), label).mean()
            loss.backward()
            trainer.step(1)
            losses[-1].append(loss.asscalar())
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


@pytest.mark.parametrize(
    'call, error',
    [(lambda: swap(nn), TypeError), (lambda: swap(nn.Conv2D(4, 3), to='torch'), ValueError)],
)
def test_swap_refuses_what_it_cannot_take(call, error):
    with pytest.raises(error, match='swap: '):
        call()


# --------------------------------------------------------------------------- optimize


class Everything(mx.gluon.HybridBlock):
    """Each pattern that a rule looks for, and what looks alike and must be left."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.stem = builtin.Conv2D(8, 3, padding=1, use_bias=False)
            self.stem_norm = builtin.BatchNorm(epsilon=1e-2, scale=False)
            self.left = builtin.Conv2D(8, 3, padding=1)
            self.left_norm = builtin.BatchNorm()
            self.twice = builtin.Conv2D(8, 1)
            self.twice_norm = builtin.BatchNorm()
            self.leaky = builtin.LeakyReLU(0.2)
            self.late_norm = builtin.BatchNorm(center=False)
            self.depthwise = builtin.Conv2D(8, 3, groups=8)
            self.drop = builtin.Dropout(0.5)
            self.pool = builtin.MaxPool2D(2, ceil_mode=True)
            self.whole = builtin.GlobalAvgPool2D()
            self.end = builtin.Dense(5)

    def hybrid_forward(self, F, x):
        x = F.relu(self.stem_norm(self.stem(x)))
        x = F.Activation(self.left_norm(self.left(x)) + x, act_type='relu')
        y = self.twice(x)
        x = self.twice_norm(y) + F.sin(y)
        x = self.leaky(self.late_norm(self.pool(x)))
        x = F.clip(self.depthwise(x), 0, 6) * 0.5
        return self.end(self.whole(self.drop(x)))


def with_statistics(net, x):
    """Batch norms whose statistics and parameters are those of data, not 0 and 1."""
    made(net, x)
    random = np.random.RandomState(1)
    for name, parameter in net.collect_params().items():
        value = None
        if name.endswith(('gamma', 'running_var')):
            value = random.uniform(0.5, 1.5, parameter.shape)
        elif name.endswith(('beta', 'running_mean')):
            value = random.normal(0, 0.3, parameter.shape)
        if value is not None and not (name.endswith('gamma') and parameter.grad_req == 'null'):
            parameter.set_data(mx.nd.array(value))
    return net


def test_each_rule_finds_its_pattern_and_keeps_the_numbers(native):
    x = data(2, 3, 13, 12)
    net = with_statistics(Everything(), x)
    before = net(x).asnumpy()
    model = optimize(net)
    assert_close([model(x).asnumpy()], [before])
    done = ' | '.join(model.rewrites)
    for words in (
        'batchnorm0_fwd: folded into everything0_conv0_fwd',
        'batchnorm1_fwd: folded into everything0_conv1_fwd',
        'conv1_fwd',
        'relu0: applied by everything0_conv0_fwd',
        'added by everything0_conv1_fwd',
        'activation0: applied by everything0_conv1_fwd',
        'batchnorm2_fwd: BatchNorm is a convolution of each channel',
        'batchnorm3_fwd: BatchNorm is a convolution of each channel',
        'applied by everything0_batchnorm3_fwd',
        'clip0: applied by everything0_conv3_fwd',
        'dropout0_fwd: dropped',
        'pool0_fwd: Pooling is ours',
    ):
        assert words in done.replace('hybridsequential', ''), (words, done)
    left = operators(model._rewritten.symbol())
    assert 'BatchNorm' not in left and 'Dropout' not in left and 'sin' in left
    # nothing says that what follows an operator without a rule is an image
    assert left.count('Pooling') == 1
    # what two nodes use is not folded: the sine sees the convolution itself
    assert left.count('convpool_convolution') == 6


def test_the_portable_backend_folds_and_drops(nd_arrays):
    x = data(2, 3, 13, 12)
    net = with_statistics(Everything(), x)
    before = net(x).asnumpy()
    with gluon_convpool.use_backend('portable'):
        model = optimize(net)
    assert_close([model(x).asnumpy()], [before])
    left = operators(model._rewritten.symbol())
    assert not any('convpool' in op for op in left)
    assert left.count('BatchNorm') == 2 and 'Dropout' not in left


def test_other_batches_and_sizes_run_too(native):
    net = with_statistics(Everything(), data(2, 3, 13, 12))
    model = optimize(net)
    for shape in ((1, 3, 8, 9), (5, 3, 13, 12), (2, 3, 21, 7)):
        x = data(*shape)
        assert_close([model(x).asnumpy()], [net(x).asnumpy()])


def test_a_network_of_numpy_arrays(native):
    mx.npx.set_np()
    net = builtin.HybridSequential()
    net.add(
        builtin.Conv2D(8, 3, use_bias=False),
        builtin.BatchNorm(),
        builtin.Activation('relu'),
        builtin.MaxPool2D(),
        builtin.Dense(3),
    )
    net.initialize(mx.init.Normal(0.3))
    x = mx.np.array(data(2, 3, 9, 9).asnumpy())
    before = net(x)
    model = optimize(net)
    after = model(x)
    assert isinstance(after, mx.np.ndarray)
    assert_close([after.asnumpy()], [before.asnumpy()])
    assert operators(model._rewritten.symbol())[:2] == [
        '_npx_convpool_convolution',
        '_npx_convpool_pooling',
    ]


def test_verify_compares_with_the_original(native):
    x = data(4, 3, 13, 12)
    net = with_statistics(Everything(), x)
    model = optimize(net)
    agreement = model.verify(x)
    assert agreement.same_ranking and agreement.difference <= 1e-5 * agreement.scale
    assert agreement.scale == pytest.approx(abs(net(x).asnumpy()).max())
    for parameter in model._run.collect_params().values():
        parameter.set_data(parameter.data() * 1.5)
    assert model.verify(x).difference > 0.01 * agreement.scale


def test_files_in_and_out(native, tmp_path):
    x = data(2, 3, 13, 12)
    net = with_statistics(Everything(), x)
    before = net(x).asnumpy()
    net.hybridize()
    net(x)
    net.export(str(tmp_path / 'plain'))
    files = tmp_path / 'plain-symbol.json', tmp_path / 'plain-0000.params'
    model = optimize(files)
    assert_close([model(x).asnumpy()], [before])
    names = model.export(str(tmp_path / 'fast'))
    loaded = mx.gluon.SymbolBlock.imports(names[0], ['data'], names[1])
    assert_close([loaded(x).asnumpy()], [before])
    module = mx.mod.Module.load(str(tmp_path / 'fast'), 0, label_names=None)
    module.bind([('data', x.shape)], for_training=False)
    module.forward(mx.io.DataBatch([x]), is_train=False)
    assert_close([module.get_outputs()[0].asnumpy()], [before])


def test_bad_files_are_named(native, tmp_path):
    x = data(2, 3, 13, 12)
    net = made(Everything(), x)
    net.hybridize()
    net(x)
    net.export(str(tmp_path / 'good'))
    symbol, parameters = tmp_path / 'good-symbol.json', tmp_path / 'good-0000.params'
    cut, text = tmp_path / 'cut.params', tmp_path / 'text.json'
    cut.write_bytes(parameters.read_bytes()[:200])
    text.write_text('no graph')
    other = made(builtin.Dense(3), data(2, 4))
    other.save_parameters(str(tmp_path / 'other.params'))
    for files, sentence in (
        ((tmp_path / 'none.json', parameters), 'there is no file .*none.json'),
        ((symbol, tmp_path / 'none.params'), 'there is no file .*none.params'),
        ((text, parameters), 'text.json holds no graph'),
        ((symbol, cut), 'cut.params holds no parameters, or is cut short'),
        ((symbol, tmp_path / 'other.params'), 'other.params does not fit .*good-symbol.json'),
    ):
        with pytest.raises(ValueError, match=sentence):
            optimize(files)


def test_bad_calls_are_refused(native):
    with pytest.raises(ValueError, match='is not initialized'):
        optimize(builtin.Conv2D(4, 3, in_channels=2))
    with pytest.raises(TypeError, match='HybridBlock only, not of Sequential'):
        optimize(builtin.Sequential())
    with pytest.raises(TypeError, match='must be a HybridBlock or the paths'):
        optimize(3)
    x = data(2, 3, 13, 12)
    model = optimize(with_statistics(Everything(), x))
    with pytest.raises(ValueError, match='has no gradient'), autograd.record():
        model(x)
    with pytest.raises(ValueError, match=r'takes 1 inputs \(data\), not 2'):
        model(x, x)


ZOO = ['resnet18_v1', 'resnet18_v2', 'mobilenet0.25', 'mobilenetv2_0.25']


@pytest.mark.parametrize('name', ZOO)
def test_networks_of_the_model_zoo_agree(name, native):
    mx.random.seed(0)
    x = data(2, 3, 65, 64)
    net = vision.get_model(name, classes=10)
    with_statistics(net, x)
    with autograd.train_mode():  # statistics of the data
        for _ in range(20):
            net(x)
    expected = net(x).asnumpy()
    scale = abs(expected).max()
    swapped = swap(copy.deepcopy(net)).net
    swapped.hybridize(static_alloc=True, static_shape=True)
    for model in (optimize(net), swapped):
        actual = model(x).asnumpy()
        assert abs(actual - expected).max() <= 1e-4 * scale
        assert (actual.argmax(axis=1) == expected.argmax(axis=1)).all()
