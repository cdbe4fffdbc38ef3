"""What MXNet asks of gradients beyond their values: requests, sharing, branches, autograd.grad."""

from __future__ import annotations

import itertools

import mxnet as mx
import numpy as np
import pytest
from isolated import run
from mxnet import autograd
from mxnet.gluon import nn as builtin

from gluon_convpool import Pool2D, nn, use_backend
from gluon_convpool.testing import (
    MODES,
    ConvolutionCase,
    PoolingCase,
    array_kind,
    assert_close,
    assert_layers_match,
    assert_same,
    copy_parameters,
    draw,
    measure,
    set_mode,
)

REQUESTS = ('write', 'add', 'null')
CASE = ConvolutionCase(channels=(4, 6), padding=1, groups=2)
PASSES = 3


def _times(request):
    return {'write': 1, 'add': PASSES, 'null': 0}[request]


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('x, weight, bias', itertools.product(REQUESTS, repeat=3))
def test_convolution_honours_each_request(x, weight, bias, mode, any_backend, np_or_nd):
    if (x, weight, bias) == ('null', 'null', 'null'):
        pytest.skip('nothing is asked for')
    head, expected = CASE.expected()
    layer = CASE.build(nn)
    layer.weight.grad_req, layer.bias.grad_req = weight, bias
    set_mode(layer, mode)
    data = array_kind().array(CASE.x)
    data.attach_grad(grad_req=x)
    for _ in range(PASSES):
        with autograd.record():
            y = layer(data)
        y.backward(array_kind().array(head))
    gradients = {'x': (x, lambda: data.grad)}
    gradients.update(
        (name, (request, getattr(layer, name).grad))
        for name, request in (('weight', weight), ('bias', bias))
    )
    for name, (request, gradient) in gradients.items():
        if request == 'null':
            continue
        assert_close(name, gradient().asnumpy(), _times(request) * expected[name])
    if x == 'null':
        assert data.grad is None or (data.grad.asnumpy() == 0).all()


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('request_of_x', ['write', 'add'])
@pytest.mark.parametrize('kind', ['max', 'avg', 'sum', 'lp'])
def test_pooling_honours_each_request(kind, request_of_x, mode, any_backend, np_or_nd):
    case = PoolingCase(kind, pool_size=3, strides=2, padding=1)
    head, expected = case.expected()
    layer = Pool2D(**case.window)
    set_mode(layer, mode)
    x = array_kind().array(case.x)
    x.attach_grad(grad_req=request_of_x)
    for _ in range(PASSES):
        with autograd.record():
            y = layer(x)
        y.backward(array_kind().array(head))
    assert_close('x', x.grad.asnumpy(), _times(request_of_x) * expected['x'])


@pytest.mark.parametrize('mode', MODES)
def test_input_without_gradient(mode, any_backend, np_or_nd):
    head, expected = CASE.expected()
    layer = CASE.build(nn)
    set_mode(layer, mode)
    with autograd.record():
        y = layer(array_kind().array(CASE.x))
    y.backward(array_kind().array(head))
    assert_close('weight', layer.weight.grad().asnumpy(), expected['weight'])
    assert_close('bias', layer.bias.grad().asnumpy(), expected['bias'])


def test_requests_changed_between_calls(any_backend, np_or_nd):
    head, expected = CASE.expected()
    layer = CASE.build(nn)
    for request in ('write', 'add', 'write', 'add'):
        layer.collect_params().setattr('grad_req', request)
        layer.collect_params().zero_grad()
        for _ in range(2):
            with autograd.record():
                y = layer(array_kind().array(CASE.x))
            y.backward(array_kind().array(head))
        times = 2 if request == 'add' else 1
        assert_close('weight', layer.weight.grad().asnumpy(), times * expected['weight'])
        assert_close('bias', layer.bias.grad().asnumpy(), times * expected['bias'])


class _Shared(mx.gluon.HybridBlock):
    """One parameter in three layers, each met with another size."""

    def __init__(self, module):
        super().__init__()
        with self.name_scope():
            self.one = module.Conv2D(4, 3, padding=1, in_channels=4)
            self.two = module.Conv2D(4, 3, strides=2, in_channels=4, params=self.one.params)
            self.three = module.Conv2D(4, 3, padding=2, in_channels=4, params=self.one.params)

    def hybrid_forward(self, F, x):
        return self.three(self.two(self.one(x))) + self.three(self.two(x))


class _Branches(mx.gluon.HybridBlock):
    """One input that four layers use, two of them twice."""

    def __init__(self, module):
        super().__init__()
        with self.name_scope():
            self.conv = module.Conv2D(3, 3, padding=1)
            self.pointwise = module.Conv2D(3, 1)
            self.maximum = module.MaxPool2D(3, 1, 1)
            self.average = module.AvgPool2D(3, 1, 1)

    def hybrid_forward(self, F, x):
        y = self.conv(x) + self.pointwise(x) * self.maximum(x)
        return y + self.average(x) * self.conv(x) + self.maximum(self.average(x)) + x


class _TwoOutputs(mx.gluon.HybridBlock):
    """Two outputs, of which the second is made from the first."""

    def __init__(self, module):
        super().__init__()
        with self.name_scope():
            self.conv = module.Conv2D(5, 3, strides=2)
            self.pool = module.MaxPool2D(2)

    def hybrid_forward(self, F, x):
        y = self.conv(x)
        return y, self.pool(y)


@pytest.mark.parametrize('network', [_Shared, _Branches, _TwoOutputs], ids=lambda n: n.__name__)
def test_networks_match_the_same_networks_of_builtin_layers(network, any_backend, np_or_nd):
    ours, theirs = network(nn), network(builtin)
    for net in (ours, theirs):
        net.initialize(mx.init.Normal(0.5))
    (x,) = draw(network.__name__, (2, 4 if network is _Shared else 3, 9, 11))
    assert_layers_match(ours, theirs, x)


class _Repeated(mx.gluon.HybridBlock):
    """One layer that its own output goes through many times."""

    def __init__(self, module, times, **arguments):
        super().__init__(**arguments)
        self.times = times
        with self.name_scope():
            self.layer = module.Conv2D(2, 3, padding=1, in_channels=2)

    def hybrid_forward(self, F, x):
        for _ in range(self.times):
            x = x + 0.1 * self.layer(x)
        return x


def _gradients(net, x, head):
    data = array_kind().array(x)
    data.attach_grad()
    with autograd.record():
        y = net(data)
    y.backward(array_kind().array(head))
    found = {'x': data.grad, 'weight': net.layer.weight.grad(), 'bias': net.layer.bias.grad()}
    return {name: gradient.asnumpy() for name, gradient in found.items()}


@pytest.mark.parametrize('traced', ['while recording', 'before'])
@pytest.mark.parametrize('times', [6, 7, 12, 13, 31, 32, 33, 70])
def test_many_uses_of_one_parameter_in_a_static_graph(times, traced, native, np_or_nd):
    """MXNet adds up many gradients of one array in place, which needs an operator that can add."""
    _assert_many_uses(times, traced)


@pytest.mark.parametrize('traced', ['while recording', 'before'])
def test_many_uses_of_one_parameter_by_operators_that_can_add(traced, np_arrays):
    """Those of the portable backend are MXNet's own, and add where they are told to."""
    with use_backend('portable'):
        _assert_many_uses(33, traced)


def _assert_many_uses(times, traced):
    (x, head) = draw('repeated', (1, 2, 5, 6), (1, 2, 5, 6))
    for prefix in ('', 'repeated_'):
        ours, theirs = _Repeated(nn, times, prefix=prefix), _Repeated(builtin, times)
        for net in (ours, theirs):
            net.initialize(mx.init.Normal(0.3))
        copy_parameters(theirs, ours)
        expected = _gradients(theirs, x, head)
        set_mode(ours, 'static')
        for _ in range(2):
            if traced == 'before':
                ours(array_kind().array(x))
            assert_same(_gradients(ours, x, head), expected)


def test_many_uses_of_one_parameter_where_mxnet_ran_first(native):
    """MXNet reads how many gradients it adds up in place only once."""
    run(
        """
        import gluon_convpool, mxnet as mx, numpy as np
        from gluon_convpool import nn
        from gluon_convpool.testing import assert_close
        from test_gradients import _gradients, _Repeated
        net = _Repeated(nn, 20)
        net.initialize(mx.init.Normal(0.3))
        x = head = np.random.RandomState(0).normal(size=(1, 2, 5, 6)).astype("float32")
        expected = _gradients(net, x, head)
        net.hybridize(static_alloc=True, static_shape=True)
        net(mx.nd.array(x))
        for name, gradient in _gradients(net, x, head).items():
            assert_close(name, gradient, expected[name])
        """,
        MXNET_EXEC_INPLACE_GRAD_SUM_CAP=8,
    )


@pytest.mark.parametrize('mode', MODES)
def test_shared_parameters_that_accumulate(mode, any_backend, np_or_nd):
    """Three passes with grad_req='add' give three times the gradient of one pass."""
    (x,) = draw('accumulate', (2, 4, 9, 11))
    net = _Shared(nn)
    net.initialize(mx.init.Normal(0.5))
    (head,) = draw('head of accumulate', net(array_kind().array(x)).shape)
    once = measure(net, x, head)
    net.collect_params().setattr('grad_req', 'add')
    net.collect_params().zero_grad()
    set_mode(net, mode)
    data = array_kind().array(x)
    data.attach_grad(grad_req='add')
    for _ in range(PASSES):
        with autograd.record():
            y = net(data)
        y.backward(array_kind().array(head))
    assert_close('x', data.grad.asnumpy(), PASSES * once['x'])
    assert_close('weight', net.one.weight.grad().asnumpy(), PASSES * once['one.weight'])
    assert_close('bias', net.one.bias.grad().asnumpy(), PASSES * once['one.bias'])


@pytest.mark.parametrize('mode', MODES)
def test_autograd_grad_of_a_convolution(mode, any_backend, np_or_nd):
    head, expected = CASE.expected()
    layer = CASE.build(nn)
    set_mode(layer, mode)
    x = array_kind().array(CASE.x)
    x.attach_grad()
    variables = [x, layer.weight.data(), layer.bias.data()]
    with autograd.record():
        y = layer(x)
    gradients = autograd.grad(y, variables, head_grads=array_kind().array(head))
    for name, gradient in zip(('x', 'weight', 'bias'), gradients):
        assert_close(name, gradient.asnumpy(), expected[name])
    assert (x.grad.asnumpy() == 0).all()
    assert (layer.weight.grad().asnumpy() == 0).all()


@pytest.mark.parametrize('kind', ['max', 'avg', 'sum', 'lp'])
def test_autograd_grad_of_a_pooling(kind, any_backend, np_or_nd):
    case = PoolingCase(kind, pool_size=3, strides=2, padding=1)
    head, expected = case.expected()
    x = array_kind().array(case.x)
    x.attach_grad()
    with autograd.record():
        y = Pool2D(**case.window)(x)
    (gradient,) = autograd.grad(y, [x], head_grads=array_kind().array(head))
    assert_close('x', gradient.asnumpy(), expected['x'])


@pytest.mark.parametrize('retain', [True, False])
def test_backward_twice_over_one_record(retain, any_backend, np_or_nd):
    head, expected = CASE.expected()
    layer = CASE.build(nn)
    x = array_kind().array(CASE.x)
    x.attach_grad()
    with autograd.record():
        y = layer(x)
    y.backward(array_kind().array(head), retain_graph=retain)
    if retain:
        y.backward(array_kind().array(2 * head))
        assert_close('x', x.grad.asnumpy(), 2 * expected['x'])
    else:
        with pytest.raises(mx.base.MXNetError):
            y.backward(array_kind().array(head))


@pytest.mark.parametrize('training', [True, False])
def test_output_does_not_depend_on_recording(training, any_backend, np_or_nd):
    layer, (_, expected) = CASE.build(nn), CASE.expected()
    x = array_kind().array(CASE.x)
    with autograd.record(train_mode=training):
        recorded = layer(x)
    assert_close('output', recorded.asnumpy(), expected['output'])
    np.testing.assert_array_equal(recorded.asnumpy(), layer(x).asnumpy())


def test_training_follows_the_builtin_layer_step_by_step(any_backend, np_or_nd):
    def train(module):
        mx.random.seed(0)
        net = module.HybridSequential()
        net.add(module.Conv2D(6, 3, activation='relu'), module.MaxPool2D(2), module.Dense(3))
        net.initialize(mx.init.Xavier())
        net.hybridize()
        trainer = mx.gluon.Trainer(
            net.collect_params(), 'sgd', {'learning_rate': 0.1, 'momentum': 0.9}
        )
        x, target = draw('training', (8, 2, 9, 9), (8, 3))
        loss_of, losses = mx.gluon.loss.L2Loss(), []
        for _ in range(10):
            with autograd.record():
                loss = loss_of(net(array_kind().array(x)), array_kind().array(target))
            loss.backward()
            trainer.step(8)
            losses.append(loss.mean().asnumpy().item())
        return losses

    ours, theirs = train(nn), train(builtin)
    assert ours[-1] < 0.5 * ours[0]
    assert_close('losses', ours, theirs)


def test_same_case_in_all_modes_in_one_process(any_backend, np_or_nd):
    """Switching a layer between modes changes nothing."""
    layer, (head, expected) = CASE.build(nn), CASE.expected()
    for mode in MODES + MODES[::-1]:
        assert_same(measure(layer, CASE.x, head, mode), expected)
