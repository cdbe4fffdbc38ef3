"""Networks of MXNet's model zoo, swapped and optimized, agree with the originals.

A sample of them runs with the suite, all of them with ``make test-models``.
"""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from models_common import (
    branch_ends,
    data,
    difference,
    flat,
    graph_of,
    moved_by_rounding,
    started,
)
from mxnet import autograd, gluon
from mxnet.gluon.model_zoo import vision
from mxnet.gluon.model_zoo.vision import resnet
from networks import LEGACY_ONLY, NETWORKS, images, network, smooth_operators, smoothed

from gluon_convpool import optimize, swap
from gluon_convpool.testing import array_kind, set_mode

SAMPLE = ('resnet18_v1', 'resnet18_v2', 'mobilenet0.25', 'mobilenetv2_0.25', 'squeezenet1.1')
OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3
# Of the largest logit. Winograd's convolutions move those of a deep network by half as much, and
# resnet34_v1 has two for one image that are a third as far apart.
TIE = 1e-5
# A bias before a batch norm has no influence: its gradient is rounding, and compared with those of
# other parameters.
SMALLEST_GRADIENT = 1e-2

pytestmark = pytest.mark.usefixtures('native', 'np_or_nd')


def each(names):
    return [
        pytest.param(name, marks=() if name in SAMPLE else pytest.mark.networks) for name in names
    ]


@pytest.fixture(autouse=True)
def _has_this_world(request, np_or_nd):
    name = request.node.callspec.params.get('name', '')
    if np_or_nd == 'np' and name.startswith(LEGACY_ONLY):
        pytest.skip("MXNet's own network takes legacy arrays only")


def ranking_kept(actual, expected):
    """Logits so near that rounding decides which comes first count as equal."""
    apart = expected[:, :, None] - expected[:, None, :] > TIE * np.abs(expected).max()
    return (actual[:, :, None] > actual[:, None, :])[apart].all()


def test_a_ranking_that_is_not_kept_is_seen():
    expected = np.array([[3.0, 1.0, 2.0, 2.00001]])
    assert ranking_kept(np.array([[3.0, 1.0, 2.00002, 2.0]]), expected)
    assert not ranking_kept(np.array([[3.0, 1.0, 2.0002, 2.00001]]), expected + [[0, 0, 0, 1e-4]])
    assert not ranking_kept(np.array([[1.0, 3.0, 2.0, 2.00001]]), expected)


def left_by_optimize(name):
    """A batch norm of the images themselves has nothing before it that could take it over."""
    return ['BatchNorm'] if name.startswith('resnet') and name.endswith('_v2') else []


@pytest.mark.parametrize('name', each(NETWORKS))
def test_outputs_agree(name, np_or_nd, record_property):
    net = network(name)
    swapped, fast = swap(net, inplace=False), optimize(net)
    assert swapped.replaced and not swapped.left
    assert [one.operator for one in fast.report.left] == left_by_optimize(name)
    largest = 0.0
    for batch, mode in ((1, 'imperative'), (5, 'hybrid'), (1, 'static'), (5, 'static')):
        x = images(name, batch, seed=batch)
        (expected,) = flat(net(x))
        set_mode(swapped.net, mode)
        for model in (swapped.net, fast):
            (actual,) = flat(model(x))
            largest = max(largest, difference(actual, expected))
            assert ranking_kept(actual, expected)
    record_property('output', largest)
    assert largest <= OUTPUT_TOLERANCE
    assert fast.verify(x).agrees


@pytest.mark.parametrize(
    'name, ends',
    [
        ('resnet18_v1', 8 * ['gamma']),
        ('resnet101_v2', 33 * ['weight']),
        ('mobilenetv2_0.25', 10 * ['gamma']),
        ('densenet121', []),
    ],
)
def test_the_ends_of_branches_are_found(name, ends, np_or_nd):
    """Each once: `with_small_branches` makes them smaller."""
    found = branch_ends(graph_of(vision.get_model(name)))
    assert len(set(found)) == len(found)
    assert [one.rsplit('_', 1)[1] for one in found] == ends


@pytest.mark.networks
def test_a_network_that_magnifies_rounding(np_or_nd, record_property):
    """Ours move its output no more than ten times as far as a last digit of its images does.

    Its residual branches are not small, and its output moves some hundred times as far as its
    images. How far two right layers may be apart there, only such a change can say.
    """
    name = 'resnet101_v2'
    net = network(name, start=started)
    x = images(name, 5, seed=5)
    (expected,) = flat(net(x))
    (moved,) = moved_by_rounding(lambda x: flat(net(x)), x)
    ours = [difference(*flat(model(x)), expected) for model in (optimize(net), swap(net).net)]
    record_property('moved', float(moved))
    record_property('output', max(ours))
    assert moved > 1e-6
    assert max(ours) <= 10 * moved


def gradients(net, x):
    """The output in training, and the gradients of the image and of each parameter."""
    x = x.copy()
    x.attach_grad()
    with autograd.record():
        y = net(x)
    y.backward(data(*y.shape, seed=3).astype(y.dtype))
    found = {'output': y, 'image': x.grad}
    for name, parameter in net.collect_params().items():
        if parameter.grad_req != 'null':
            found[name] = parameter.grad()
    return {name: array.asnumpy() for name, array in found.items()}


def exact_gradients(name, x):
    """The same of MXNet's network in float64, with the same weights, drawn anew."""
    exact = smoothed(network(name))
    exact.cast('float64')
    return gradients(exact, x.astype('float64'))


@pytest.mark.parametrize('name', each(NETWORKS))
def test_gradients_agree(name, np_or_nd, monkeypatch, record_property):
    with smooth_operators(monkeypatch):
        net = smoothed(network(name))
        swapped = swap(net, inplace=False).net
        largest = 0.0
        for batch, mode in ((1, 'imperative'), (5, 'hybrid'), (1, 'static')):
            x = images(name, batch, seed=batch)
            expected = gradients(net, x)
            set_mode(swapped, mode)
            actual = gradients(swapped, x)
            assert list(actual) == list(expected)
            top = max(abs(expected[p]).max() for p in net.collect_params() if p in expected)
            for one in expected:
                floor = 0.0 if one in ('output', 'image') else SMALLEST_GRADIENT * top
                found = difference(actual[one], expected[one], floor)
                if found > GRADIENT_TOLERANCE:
                    # A sum in which most cancels, of which MXNet's rounding may leave more.
                    exact = dict(zip(expected, exact_gradients(name, x).values()))[one]
                    assert difference(expected[one], exact, floor) > GRADIENT_TOLERANCE
                    found = difference(actual[one], exact, floor)
                assert found <= GRADIENT_TOLERANCE, (one, mode, batch)
                largest = max(largest, found)
    record_property('gradient', largest)


@pytest.mark.parametrize('mode', ['imperative', 'static'])
def test_a_training_follows_the_original_one(mode, np_or_nd, record_property):
    generator = np.random.RandomState(0)
    # Four batches again and again, so that there is something to learn.
    x = [data(16, 3, 32, 32, seed=seed % 4) for seed in range(20)]
    labels = 5 * [array_kind().array(generator.randint(0, 10, 16)) for _ in range(4)]
    loss_function = gluon.loss.SoftmaxCrossEntropyLoss()
    losses = []
    for swapping in (False, True):
        mx.random.seed(0)
        net = resnet.ResNetV1(
            resnet.BasicBlockV1, [1, 1, 1], [16, 16, 32, 64], classes=10, thumbnail=True
        )
        net.initialize(mx.init.MSRAPrelu())
        if swapping:
            assert not swap(net).left
        set_mode(net, mode)
        rule = {'learning_rate': 0.005, 'momentum': 0.9}
        trainer = gluon.Trainer(net.collect_params(), 'sgd', rule)
        losses.append([])
        for image, label in zip(x, labels):
            with autograd.record():
                loss = loss_function(net(image), label).mean()
            loss.backward()
            trainer.step(1)
            losses[-1].append(loss.asnumpy().item())
    record_property('loss', max(abs(a - b) / b for a, b in zip(*losses[::-1])))
    assert np.mean(losses[0][-4:]) < 0.9 * np.mean(losses[0][:4])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
