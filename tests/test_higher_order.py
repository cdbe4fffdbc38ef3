"""Gradients of gradients, against finite differences of gradients that other tests have proved."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

import gluon_convpool
from gluon_convpool import functional, nn, use_backend
from gluon_convpool._mxnet import to_world
from gluon_convpool.testing import (
    array_kind,
    assert_gradients_numeric,
    assert_same,
    draw,
)
from gluon_convpool.testing.measurement import initialize, parameters, run_forwards

# An input, and a layer or a function of it.
LAYERS = {
    'conv1d': ((2, 3, 9), lambda: nn.Conv1D(4, 3, strides=2, padding=2)),
    'conv1d-last': ((2, 9, 3), lambda: nn.Conv1D(4, 3, dilation=3, layout='NWC')),
    'conv2d': ((2, 3, 5, 6), lambda: nn.Conv2D(4, (3, 2), padding=(1, 0))),
    'conv2d-no-bias': ((2, 3, 5, 6), lambda: nn.Conv2D(4, 3, strides=(2, 1), use_bias=False)),
    'conv2d-groups': ((2, 4, 5, 6), lambda: nn.Conv2D(6, 3, dilation=(1, 2), groups=2)),
    'conv2d-depthwise': ((1, 3, 5, 6), lambda: nn.Conv2D(3, 3, padding=1, groups=3)),
    'conv2d-last': ((2, 5, 6, 4), lambda: nn.Conv2D(2, 2, groups=2, layout='NHWC')),
    'conv2d-same': ((1, 2, 5, 6), lambda: nn.Conv2D(2, (2, 3), strides=2, padding='same')),
    'conv2d-relu': ((1, 2, 5, 6), lambda: nn.Conv2D(2, 3, activation='relu')),
    'conv2d-sigmoid': ((1, 2, 5, 6), lambda: nn.Conv2D(2, 3, activation='sigmoid')),
    'conv2d-tanh': ((1, 2, 5, 6), lambda: nn.Conv2D(2, 3, activation='tanh')),
    **{
        f'conv2d-{mode}': (
            (1, 2, 5, 6),
            lambda mode=mode: nn.Conv2D(2, 3, padding=((1, 2), (0, 3)), padding_mode=mode),
        )
        for mode in ('zeros', 'reflect', 'replicate', 'circular')
    },
    'conv3d': ((1, 2, 4, 3, 5), lambda: nn.Conv3D(3, (2, 1, 3), strides=(1, 2, 2), padding=1)),
    'transposed1d': ((2, 3, 4), lambda: nn.Conv1DTranspose(2, 3, strides=2, output_padding=1)),
    'transposed2d': ((2, 4, 3, 4), lambda: nn.Conv2DTranspose(6, 3, 2, (1, 0), groups=2)),
    'transposed2d-last': ((2, 3, 4, 2), lambda: nn.Conv2DTranspose(3, 3, layout='NHWC')),
    'transposed2d-same': ((1, 2, 3, 4), lambda: nn.Conv2DTranspose(2, (3, 2), (2, 1), 'same')),
    'transposed3d': ((1, 2, 2, 3, 2), lambda: nn.Conv3DTranspose(2, 2, dilation=2)),
    'max1d': ((2, 3, 9), lambda: nn.MaxPool1D(3, 2, ceil_mode=True)),
    'max2d': ((2, 3, 5, 6), lambda: nn.MaxPool2D(3, 2, 1)),
    'max2d-last': ((2, 5, 6, 3), lambda: nn.MaxPool2D((2, 3), layout='NHWC')),
    'max3d-global': ((2, 3, 2, 3, 4), lambda: nn.GlobalMaxPool3D()),
    'avg2d': ((2, 3, 5, 6), lambda: nn.AvgPool2D(3, 2, 1)),
    'avg2d-ceil': ((2, 3, 5, 6), lambda: nn.AvgPool2D(3, 2, 1, ceil_mode=True)),
    'avg2d-without-padding': (
        (2, 3, 5, 6),
        lambda: nn.AvgPool2D(3, 2, 1, ceil_mode=True, count_include_pad=False),
    ),
    'avg2d-global': ((2, 3, 5, 6), lambda: nn.GlobalAvgPool2D()),
    'avg3d': ((1, 2, 4, 3, 5), lambda: nn.AvgPool3D(2, 1)),
    'max2d-same': ((2, 3, 5, 6), lambda: nn.MaxPool2D(2, (2, 1), 'same')),
    'avg2d-pairs': ((2, 3, 5, 6), lambda: nn.AvgPool2D(3, 2, ((2, 0), (0, 1)))),
    'avg2d-same-without-padding': (
        (2, 3, 5, 6),
        lambda: nn.AvgPool2D((2, 4), 1, 'same', count_include_pad=False),
    ),
    'lp2-same': ((2, 3, 5, 6), lambda: gluon_convpool.Pool2D(2, 1, 'same', mode='lp', p=2)),
    'sum2d': ((2, 3, 5, 6), lambda: gluon_convpool.Pool2D(2, mode='sum')),
    'lp1': ((2, 3, 5, 6), lambda: gluon_convpool.Pool2D(2, mode='lp', p=1)),
    'lp2': ((2, 3, 5, 6), lambda: gluon_convpool.Pool2D(2, mode='lp', p=2)),
    'adaptive-avg': ((2, 3, 5, 6), lambda: nn.AdaptiveAvgPool2D((3, 4))),
    'adaptive-max': ((2, 3, 5, 6), lambda: nn.AdaptiveMaxPool2D((3, 4))),
    'reflection': ((2, 3, 5, 6), lambda: nn.ReflectionPad2D(2)),
    'unfold': ((2, 3, 5, 6), lambda: Function(functional.unfold, (2, 3), strides=2, padding=1)),
    'fold': ((2, 12, 12), lambda: Function(functional.fold, (4, 5), 2)),
    'pad': ((2, 3, 5, 6), lambda: Function(functional.pad, ((0, 2), (1, 0)))),
}


class Function(gluon.Block):
    """A function of one array as a block."""

    def __init__(self, function, *args, **kwargs):
        super().__init__()
        self._call = lambda x: function(x, *args, **kwargs)

    def forward(self, x):
        return self._call(x)


class Slopes(gluon.Block):
    """The gradients of the squares of a layer's output, by its input and its parameters.

    While recording, in such a way that they can be differentiated; otherwise with the backend that
    is the default.
    """

    def __init__(self, layer, create_graph=True):
        super().__init__()
        self.layer = layer
        self._create_graph = create_graph

    def forward(self, x):
        recording = autograd.is_recording()
        if not recording:
            x.attach_grad()
        with autograd.record(train_mode=False):
            if recording and self._create_graph:
                with use_backend('portable', higher_order=True):
                    y = self.layer(x)
            else:
                y = self.layer(x)
            squares = to_world(mx.nd.square(to_world(y, False)), array_kind() is mx.np)
        variables = [x] + [parameter.data() for parameter in parameters(self.layer).values()]
        # MXNet's function returns legacy arrays, whatever it is given
        found = autograd.grad(squares, variables, create_graph=recording, train_mode=False)
        return tuple(to_world(slope, array_kind() is mx.np) for slope in found)


def slopes(name):
    shape, build = LAYERS[name]
    (x,) = draw(f'higher order {name}', shape)
    block = Slopes(build())
    initialize(block)
    return block, x


@pytest.mark.parametrize('name', LAYERS)
def test_gradients_of_gradients(name, np_or_nd):
    block, x = slopes(name)
    assert assert_gradients_numeric(block, x, modes=['imperative']) == 'float64'


@pytest.mark.parametrize('name', LAYERS)
def test_gradients_themselves(name, np_or_nd):
    block, x = slopes(name)
    expected = run_forwards(block, [x])
    x = array_kind().array(x)
    x.attach_grad()
    with autograd.record():
        found = block(x)
    assert_same(dict(zip(expected, (one.asnumpy() for one in found))), expected)


def test_third_derivative(np_or_nd):
    x = array_kind().array([[[2.0, -3.0]]])
    kernel = array_kind().array([[[10.0]]])
    x.attach_grad()
    with autograd.record(), use_backend('portable', higher_order=True):
        y = to_world(functional.convolution(x, kernel, layout='NCW'), False)
        quartic = mx.nd.square(mx.nd.square(y))
        slope = autograd.grad(quartic, x, create_graph=True)[0]
        bend = autograd.grad(slope, x, create_graph=True)[0]
    bend.backward()
    # of (10 x)**4: 240000 x
    assert x.grad.asnumpy().tolist() == [[[480000.0, -720000.0]]]


def test_the_other_backends_have_none():
    for backend in ('auto', 'portable'):
        block = Slopes(nn.Conv2D(2, 3), create_graph=False)
        initialize(block)
        x = array_kind().ones((1, 2, 5, 5))
        x.attach_grad()
        with use_backend(backend), autograd.record():
            slope = block(x)[0]
        # as docs/MXNET.md quotes it
        words = r"Operator _backward_\w+ is non-differentiable because it didn't register FGradient"
        with pytest.raises(mx.base.MXNetError, match=words):
            slope.backward()


def ones(*shape):
    return array_kind().ones(shape)


def started(layer):
    layer.initialize()
    return layer


@pytest.mark.parametrize(
    'call, words',
    [
        (
            lambda: functional.pooling(ones(1, 1, 4, 4), mode='lp', p=3),
            "pooling: there are no higher-order gradients of mode='lp' with p=3",
        ),
        (
            lambda: started(nn.Conv2D(2, 3, activation='softsign'))(ones(1, 1, 4, 4)),
            "activation: there are no higher-order gradients of 'softsign'",
        ),
        (
            lambda: functional.max_pooling_with_indices(ones(1, 1, 4, 4)),
            'max_pooling_with_indices: there are no higher-order gradients',
        ),
        (
            lambda: functional.pooling(ones(0, 1, 4, 4)),
            r'pooling: an array of shape \(0, 1, 4, 4\) has no elements',
        ),
        (
            lambda: functional.pooling(mx.sym.var('x')),
            r'pooling: higher-order gradients are for arrays, not .* hybridize\(False\)',
        ),
    ],
    ids=['lp3', 'softsign', 'indices', 'empty', 'symbols'],
)
def test_what_there_is_not(call, words):
    asked = use_backend('portable', higher_order=True)
    with asked, mx.util.np_shape(True), pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    'layer, name',
    [
        (lambda: nn.BatchNorm(in_channels=1), 'batch normalisation'),
        (lambda: nn.DeformableConvolution(2, 3), 'deformable convolution'),
        (lambda: nn.ModulatedDeformableConvolution(2, 3), 'deformable convolution'),
    ],
)
def test_layers_that_have_none_say_so_where_they_are_recorded(layer, name):
    layer, asked = started(layer()), use_backend('portable', higher_order=True)
    refused = pytest.raises(ValueError, match=f'there are no higher-order gradients of {name}')
    with asked, autograd.record(), refused:
        layer(ones(2, 1, 4, 4))
    with autograd.record():
        layer(ones(2, 1, 4, 4)).backward()


def test_batch_normalisation_is_computed_where_nothing_is_recorded():
    layer, x = started(nn.BatchNorm(in_channels=1)), ones(2, 1, 4, 4)
    with use_backend('portable', higher_order=True):
        found = layer(x).asnumpy()
    np.testing.assert_array_equal(found, layer(x).asnumpy())


@pytest.mark.parametrize('backend', ['auto', 'native'])
def test_only_the_portable_backend_takes_it(backend, native):
    with pytest.raises(ValueError, match=r"higher_order=True is for the backend 'portable' alone"):
        use_backend(backend, higher_order=True)
    assert gluon_convpool.info().backend == 'native'


def test_a_flag_must_be_one():
    with pytest.raises(ValueError, match="higher_order='yes' is unknown; allowed: True, False"):
        use_backend('portable', higher_order='yes')


def test_it_ends_with_the_block(np_or_nd):
    with use_backend('portable'):
        with use_backend('portable', higher_order=True):
            pass
        assert functional.pooling(ones(1, 1, 4, 4), mode='lp', p=3).shape == (1, 1, 2, 2)


def test_what_is_not_finite_stays_in_its_windows(np_or_nd):
    """Padding adds 0, not 0 times an element."""
    x = array_kind().array([[[float('inf'), 1, 2, float('nan')]]])
    with use_backend('portable', higher_order=True):
        y = functional.pooling(x, 2, 1, 1, 'avg', layout='NCW').asnumpy()
    np.testing.assert_array_equal(y, [[[np.inf, np.inf, 1.5, np.nan, np.nan]]])
