"""Receptive fields: the arithmetic against gradients, what cannot be read, and the picture."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mxnet import autograd, gluon
from mxnet.gluon import nn as builtin

from gluon_convpool import geometry, nn, viz
from gluon_convpool.demo import build_lenet


def chain(*layers):
    net = nn.HybridSequential()
    net.add(*layers)
    return net


class Residual(gluon.HybridBlock):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2D(3, 3, padding=1)

    def hybrid_forward(self, F, x):
        return x + self.body(x)


class Doubling(nn.HybridSequential):
    def hybrid_forward(self, F, x):
        return 2 * super().hybrid_forward(F, x)


# name: network, and the shape of an image
NETWORKS = {
    'one convolution': (lambda: nn.Conv2D(2, 3), (3, 9, 8)),
    'strides and padding': (
        lambda: chain(nn.Conv2D(2, 3, strides=2, padding=1), nn.Conv2D(2, 3, strides=2)),
        (1, 17, 19),
    ),
    'each axis its own': (
        lambda: chain(
            nn.Conv2D(2, (1, 5), strides=(2, 1), padding=(0, 2)),
            nn.MaxPool2D((3, 2), strides=(1, 2), padding=(1, 0)),
            nn.Conv2D(2, (3, 1), dilation=(2, 1)),
        ),
        (2, 19, 14),
    ),
    'dilation': (
        lambda: chain(nn.Conv2D(2, 3, dilation=3), nn.Conv2D(2, 2, dilation=2, strides=2)),
        (1, 16, 15),
    ),
    'poolings whose sides differ': (
        lambda: chain(nn.MaxPool2D(2, padding='same'), nn.AvgPool2D(4, 2, ((0, 2), (3, 0)))),
        (1, 13, 15),
    ),
    'convolutions whose sides differ': (
        lambda: chain(
            nn.Conv2D(2, (4, 2), strides=(2, 1), padding='same'),
            nn.Conv2D(2, 3, strides=2, padding=((0, 2), (1, 0))),
        ),
        (1, 13, 11),
    ),
    'data mirrored around data': (
        lambda: chain(
            nn.Conv2D(2, 3, strides=2, padding=1, padding_mode='reflect'),
            nn.Conv2D(2, (3, 2), padding=((1, 0), (0, 1)), padding_mode='replicate'),
        ),
        (1, 12, 11),
    ),
    'groups': (lambda: chain(nn.Conv2D(4, 3, groups=4), nn.AvgPool2D(3, 2)), (4, 12, 12)),
    'ceil mode': (
        lambda: chain(nn.AvgPool2D(3, 2, ceil_mode=True), nn.MaxPool2D(2, 2, ceil_mode=True)),
        (1, 10, 12),
    ),
    'global pooling': (
        lambda: chain(nn.Conv2D(2, 3, strides=2), nn.GlobalAvgPool2D()),
        (1, 12, 9),
    ),
    'layers that change nothing': (
        lambda: chain(
            nn.Conv2D(2, 3, activation='sigmoid'),
            nn.BatchNorm(in_channels=2),
            nn.Activation('tanh'),
            nn.LeakyReLU(0.1),
            nn.PReLU(),
            nn.ELU(),
            nn.SELU(),
            nn.Swish(),
            nn.GELU(),
            nn.Dropout(0.5),
            gluon.contrib.nn.Identity(),
            nn.MaxPool2D(),
        ),
        (1, 8, 8),
    ),
    'chains in chains': (
        lambda: chain(chain(nn.Conv2D(2, 3), chain(nn.Pool2D(2, mode='lp'))), nn.Conv2D(1, 2)),
        (1, 11, 11),
    ),
    "MXNet's layers": (
        lambda: chain(builtin.Conv2D(2, 3, padding=1), builtin.MaxPool2D(3, 2, ceil_mode=True)),
        (1, 10, 11),
    ),
    'LeNet': (lambda: build_lenet(nn), (1, 8, 8)),
    'Flatten': (lambda: chain(nn.MaxPool2D(3, 2), nn.Flatten(), nn.Dense(3)), (1, 8, 9)),
    'channels last': (
        lambda: chain(nn.Conv2D(2, 3, strides=2, layout='NHWC'), nn.MaxPool2D(3, 1, layout='NHWC')),
        (13, 12, 2),
    ),
    'one axis': (
        lambda: chain(builtin.Conv1D(2, 5, strides=2, padding=2), builtin.MaxPool1D(3)),
        (1, 30),
    ),
    'three axes': (
        lambda: chain(builtin.Conv3D(1, 2, strides=(1, 2, 1)), builtin.AvgPool3D(2, 1)),
        (1, 5, 8, 6),
    ),
}


def seen(net, images, position, layout, training):
    """The first and the last element, on each axis, on which the output at `position` depends."""
    x = mx.np.array(images)
    x.attach_grad()
    with autograd.record(train_mode=training):
        y = net(x)
        if y.ndim == x.ndim:
            where = [slice(None)] * y.ndim
            for axis, i in zip([i for i, name in enumerate(layout) if name not in 'NC'], position):
                where[axis] = slice(i, i + 1)
            y = y[tuple(where)]
        total = y.sum()
    total.backward(train_mode=training)
    gradient = abs(x.grad.asnumpy())
    # Winograd's transforms leave rounding errors where a gradient is zero.
    touched = (gradient > 1e-5 * gradient.max()).any(axis=(0, layout.index('C')))
    axes = range(touched.ndim)
    ends = [np.flatnonzero(touched.any(axis=tuple(set(axes) - {axis}))) for axis in axes]
    return tuple(int(end[0]) for end in ends), tuple(int(end[-1]) for end in ends)


def spots(shape, layout):
    """A batch with one bright element in each image, at every place in turn.

    So each element of a window is the largest in some image, as max pooling needs it.
    """
    sizes = geometry.split_shape('test', (1, *shape), layout)[2]
    images = np.random.RandomState(0).uniform(0, 1e-3, (np.prod(sizes), *shape))
    for image, place in zip(images, np.ndindex(*sizes)):
        image[(slice(None), *place) if layout[1] == 'C' else place] += 1
    return images.astype('float32')


def inside(field, position, sizes):
    """The same from a `LayerField`, without what lies in the padding."""
    first = field.first(position)
    last = [start + size - 1 for start, size in zip(first, field.size)]
    return tuple(max(0, i) for i in first), tuple(min(n - 1, i) for n, i in zip(sizes, last))


@pytest.mark.parametrize('name', NETWORKS)
def test_the_field_is_where_the_gradient_is_not_zero(name, np_arrays):
    """For every layer, in the corners of its output and in the middle."""
    build, image = NETWORKS[name]
    net = build()
    net.initialize(mx.init.Uniform(1))
    layout = 'NHWC' if name == 'channels last' else geometry.LAYOUTS[len(image) - 1][0]
    images = spots(image, layout)
    net(mx.np.array(images[:1]))
    for parameter in net.collect_params().values():
        # positive weights: nothing cancels, and no unit stays silent
        parameter.set_data(mx.np.abs(parameter.data()) + 0.1)
    # A BatchNorm that learns mixes all positions, and the gradient of MXNet's max pooling is wrong
    # in inference.
    training = name != 'layers that change nothing'
    sizes = geometry.split_shape('test', images.shape, layout)[2]
    fields = viz.receptive_fields(net, images.shape)
    flat = [net] if not isinstance(net, nn.HybridSequential) else list(_flatten(net))
    assert len(fields) == len(flat)
    for count, field in enumerate(fields, start=1):
        part = chain(*flat[:count])
        if isinstance(flat[count - 1], nn.Flatten):
            continue  # its output has no positions
        last = tuple(n - 1 for n in field.sizes)
        for position in {(0,) * len(last), last, field.middle}:
            found = seen(part, images, position, layout, training)
            assert found == inside(field, position, sizes), field


def _flatten(net):
    for child in net._children.values():
        if isinstance(child, nn.HybridSequential):
            yield from _flatten(child)
        else:
            yield child


# What each axis of a 9x8 image becomes, on paper: (n + before + behind - extent) // stride + 1
# elements, of which the first sees from -before on.
SIDES = [
    # the layer, the sizes of its output, the first pixels and the size of its first field
    (lambda: nn.Conv2D(1, 2, padding='same'), (9, 8), (0, 0), (2, 2)),
    (lambda: nn.Conv2D(1, (4, 6), padding='same'), (9, 8), (-1, -2), (4, 6)),
    (lambda: nn.Conv2D(1, (4, 3), strides=(2, 3), padding='same'), (5, 3), (-1, -1), (4, 3)),
    (lambda: nn.Conv2D(1, 2, padding='same', dilation=(3, 1)), (9, 8), (-1, 0), (4, 2)),
    (lambda: nn.Conv2D(1, 2, padding='valid'), (8, 7), (0, 0), (2, 2)),
    (lambda: nn.Conv2D(1, (3, 2), padding=((1, 2), (0, 1))), (10, 8), (-1, 0), (3, 2)),
    (lambda: nn.Conv2D(1, 3, strides=2, padding=((2, 0), (0, 3))), (5, 5), (-2, 0), (3, 3)),
    (lambda: nn.Conv2D(1, 3, padding=1, padding_mode='reflect'), (9, 8), (-1, -1), (3, 3)),
    (lambda: nn.Conv2D(1, 5, padding=(1, 2), padding_mode='circular'), (7, 8), (-1, -2), (5, 5)),
    (
        lambda: nn.Conv2D(1, 4, padding='same', padding_mode='replicate', layout='NHWC'),
        (9, 8),
        (-1, -1),
        (4, 4),
    ),
]


@pytest.mark.parametrize(('layer', 'sizes', 'first', 'size'), SIDES)
def test_what_is_put_around_the_data_counts_on_either_side(layer, sizes, first, size):
    layer = layer()
    shape = (1, 9, 8, 1) if layer._kwargs['layout'] == 'NHWC' else (1, 1, 9, 8)
    (field,) = viz.receptive_fields(layer, shape)
    assert (field.sizes, field.first((0, 0)), field.size) == (sizes, first, size)


def test_sides_that_differ_add_up_from_layer_to_layer():
    net = chain(
        nn.Conv1D(1, 4, strides=2, padding='same'),
        nn.Conv1D(1, 2, padding=((2, 0),), padding_mode='circular'),
        nn.MaxPool1D(4, 3, padding='same'),
    )
    found = [
        (field.sizes, field.first((0,)), field.size, field.jump)
        for field in viz.receptive_fields(net, (1, 1, 16))
    ]
    # Fields grow by (kernel - 1) times the jump before, and begin that many times what is before.
    assert found == [
        ((8,), (-1,), (4,), (2,)),
        ((9,), (-5,), (6,), (2,)),
        ((3,), (-7,), (12,), (6,)),
    ]


def test_zeros_that_are_added_after_construction_count_too():
    layer = nn.Conv2D(1, 2, padding='same')
    layer._kwargs['pad'] = (1, 0)
    layer.initialize()
    (field,) = viz.receptive_fields(layer, (1, 1, 5, 6))
    # (5 + 0 + 1 + 2 * 1 - 2) + 1 and (6 + 0 + 1 - 2) + 1
    assert (field.sizes, field.first((0, 0))) == ((7, 6), (-1, 0))
    assert layer(mx.nd.ones((1, 1, 5, 6))).shape == (1, 1, 7, 6)


def test_sizes_are_those_of_the_outputs(np_arrays):
    net = build_lenet(nn)
    net.initialize()
    x = mx.np.ones((2, 1, 8, 8))
    for layer, field in zip(net, viz.receptive_fields(net, x.shape)):
        x = layer(x)
        assert field.sizes == (x.shape[2:] or (1, 1))


@pytest.mark.parametrize(
    ('name', 'size', 'jump'),
    [('alexnet', 195, 32), ('vgg16', 212, 32), ('mobilenet1_0', 315, 32)],
)
def test_fields_of_published_networks(name, size, jump):
    """As A. Araujo, W. Norris and J. Sim list them (Distill, 2019, doi:10.23915/distill.00021)."""
    net = getattr(gluon.model_zoo.vision, name)()
    fields = viz.receptive_fields(net.features, (1, 3, 224, 224))
    spatial = [field for field in fields if field.sizes != (1, 1)][-1]
    assert (spatial.size, spatial.jump) == ((size, size), (jump, jump))


@pytest.mark.parametrize(
    ('layer', 'name'),
    [
        (lambda: Residual(), 'Residual'),
        (lambda: Doubling(), 'Doubling'),
        (lambda: nn.Conv2DTranspose(2, 3), 'Conv2DTranspose'),
        (lambda: nn.InstanceNorm(), 'InstanceNorm'),
        (lambda: nn.HybridLambda('relu'), 'HybridLambda'),
        (lambda: nn.Dense(2, flatten=False), 'Dense'),
        (lambda: nn.ReflectionPad2D(1), 'ReflectionPad2D'),
    ],
)
@pytest.mark.parametrize('call', ['receptive_fields', 'receptive_field'])
def test_what_cannot_be_read_is_refused_by_name(call, layer, name):
    net = chain(nn.Conv2D(2, 3), layer())
    argument = (1, 1, 8, 8) if call == 'receptive_fields' else np.zeros((1, 1, 8, 8))
    with pytest.raises(TypeError, match=f"{call}: layer '1 {name}' cannot be read; allowed: Sequ"):
        getattr(viz, call)(net, argument)


def test_layers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match='the window must fit'):
        viz.receptive_fields(nn.Conv2D(2, 9), (1, 1, 8, 8))
    with pytest.raises(ValueError, match=r'the data has shape \(1, 8, 8\), but layout NCHW'):
        viz.receptive_fields(nn.Conv2D(2, 3), (1, 8, 8))
    with pytest.raises(TypeError, match="layer '1 Conv2D'"):
        viz.receptive_fields(chain(nn.Dense(3), nn.Conv2D(2, 3)), (1, 1, 8, 8))


# --------------------------------------------------------------------------- the picture


def frames(axes):
    """Position and size of the frames, in rows and columns, without their white lines."""
    return [
        ((patch.get_y() + 0.5, patch.get_x() + 0.5), (patch.get_height(), patch.get_width()))
        for patch in axes.patches
        if isinstance(patch, Rectangle) and patch.get_linewidth() == 1.6
    ]


def test_the_picture_has_a_frame_and_a_line_for_each_layer_that_widens_the_field():
    net = chain(
        nn.Conv2D(6, 5, padding=2),
        nn.Activation('relu'),
        nn.MaxPool2D(2),
        nn.Conv2D(16, (3, 1), padding=(1, 0)),
    )
    image = np.random.RandomState(0).uniform(size=(2, 1, 12, 10))
    figure = viz.receptive_field(net, image)
    assert isinstance(figure, Figure)
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.images[0].get_array(), image[0, 0])
    # On paper: the middles are (5, 4), (2, 2) and (2, 2) of outputs of 12x10, 6x5 and 6x5.
    assert frames(axes) == [((3, 2), (5, 5)), ((2, 2), (6, 6)), ((0, 2), (10, 6))]
    lines = [text.get_text().split() for text in figure.legends[0].get_texts()]
    assert lines == [
        ['layer', 'field', 'step', 'middle'],
        ['0', 'Conv2D', '5x5', '1x1', '5.0,', '4.0'],
        ['2', 'MaxPool2D', '6x6', '2x2', '4.5,', '4.5'],
        ['3', 'Conv2D', '10x6', '2x2', '4.5,', '4.5'],
    ]
    looks = {
        (f.get_linestyle(), f.get_edgecolor()) for f in axes.patches if f.get_linewidth() == 1.6
    }
    assert len(looks) == 3


def test_the_picture_of_a_convolution_whose_sides_differ():
    axes = viz.receptive_field(nn.Conv2D(1, (4, 2), padding='same'), np.zeros((1, 1, 9, 7))).axes[0]
    # The middle (4, 3) of an output of 9x7 sees from row 4 - 1 and column 3 on.
    assert frames(axes) == [((3, 3), (4, 2))]


def test_the_picture_is_drawn_where_it_is_wanted():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    x = mx.nd.ones((1, 3, 9, 9))
    assert viz.receptive_field(nn.Conv2D(2, 3), x, ax=right) is figure
    assert not left.has_data()
    assert frames(right) == [((3, 3), (3, 3))]
    assert len(right.get_legend().get_texts()) == 2
    assert figure.axes == [left, right]


def test_the_picture_of_channels_last():
    image = np.random.RandomState(0).uniform(size=(1, 6, 7, 3))
    net = nn.Conv2D(2, 3, layout='NHWC')
    axes = viz.receptive_field(net, image).axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), image[0].mean(axis=-1))
    assert frames(axes) == [((1, 2), (3, 3))]


@pytest.mark.parametrize('shape', [(8, 8), (0, 1, 8, 8), (1, 1, 8, 8, 8)])
def test_the_picture_needs_an_image(shape):
    with pytest.raises(ValueError, match='must hold images'):
        viz.receptive_field(nn.Conv2D(2, 3), np.zeros(shape))
