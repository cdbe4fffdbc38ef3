"""Pictures of kernels and of feature maps: each panel, each pixel, and where it is drawn."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from isolated import run
from matplotlib.figure import Figure
from mxnet import autograd, gluon
from mxnet.gluon import nn as builtin

from gluon_convpool import nn, viz
from gluon_convpool.demo import build_lenet


def panels(figure):
    """The axes of a figure that are no colour bars."""
    return [axes for axes in figure.axes if axes.images]


def images_in(axes, count, height, width):
    """The first images of a mosaic, in reading order, cut out again where their frames are."""
    (image,) = axes.images
    canvas = np.ma.filled(image.get_array(), np.nan)
    (frames,) = axes.collections
    found = []
    for path in frames.get_paths():
        left, top = np.round(path.vertices.min(axis=0) + 0.5).astype(int)
        right, bottom = np.round(path.vertices.max(axis=0) + 0.5).astype(int)
        found.append(canvas[top:bottom, left:right])
    assert len(found) == count
    assert {part.shape for part in found} == {(height, width)}
    assert np.isfinite(canvas).sum() == count * height * width  # and nothing between them
    return np.stack(found)


def initialised(layer):
    layer.initialize(mx.init.Normal(1))
    return layer


def weights_of(layer):
    return layer.weight.data().asnumpy()


# --------------------------------------------------------------------------- filters


@pytest.mark.parametrize('module', [nn, builtin], ids=['ours', "MXNet's"])
@pytest.mark.parametrize('count', [1, 6, 7, 20])
def test_kernels_of_one_input_channel_stand_in_reading_order(module, count, np_or_nd):
    layer = initialised(module.Conv2D(count, (5, 3), in_channels=1))
    figure = viz.draw_filters(layer)
    (axes,) = panels(figure)
    np.testing.assert_array_equal(images_in(axes, count, 5, 3), weights_of(layer)[:, 0])
    assert axes.get_title() == f'Conv2D: {count} kernel{"" if count == 1 else "s"} of 5x3'


@pytest.mark.parametrize(('inputs', 'outputs'), [(2, 5), (5, 2), (3, 3)])
def test_kernels_of_several_input_channels_stand_in_rows_and_columns(inputs, outputs):
    layer = initialised(nn.Conv2D(outputs, 3, in_channels=inputs))
    (axes,) = panels(viz.draw_filters(layer))
    found = images_in(axes, inputs * outputs, 3, 3)
    weights = weights_of(layer)
    if outputs >= inputs:
        weights = weights.swapaxes(0, 1)
        labels = ('output channel', 'input channel')
    else:
        labels = ('input channel', 'output channel')
    np.testing.assert_array_equal(found, weights.reshape(-1, 3, 3))
    assert (axes.get_xlabel(), axes.get_ylabel()) == labels
    ticks = [text.get_text() for text in axes.get_xticklabels()]
    assert ticks == [str(i) for i in range(max(inputs, outputs))]


def test_other_layouts_groups_and_one_axis():
    last = initialised(nn.Conv2D(2, (3, 2), in_channels=1, layout='NHWC'))
    (axes,) = panels(viz.draw_filters(last))
    np.testing.assert_array_equal(images_in(axes, 2, 3, 2), weights_of(last)[..., 0])
    depthwise = initialised(nn.Conv2D(4, 3, in_channels=4, groups=4))
    (axes,) = panels(viz.draw_filters(depthwise))
    np.testing.assert_array_equal(images_in(axes, 4, 3, 3), weights_of(depthwise)[:, 0])
    grouped = initialised(nn.Conv2D(4, 3, in_channels=6, groups=2))
    (axes,) = panels(viz.draw_filters(grouped))
    assert axes.get_ylabel() == 'input channel of the group'
    line = initialised(builtin.Conv1D(3, 5, in_channels=1))
    (axes,) = panels(viz.draw_filters(line))
    np.testing.assert_array_equal(images_in(axes, 3, 1, 5), weights_of(line))


def test_the_scale_of_weights_is_symmetric_and_labelled():
    layer = initialised(nn.Conv2D(4, 3, in_channels=1))
    figure = viz.draw_filters(layer)
    (image,) = panels(figure)[0].images
    largest = abs(weights_of(layer)).max()
    assert image.get_clim() == (-largest, largest)
    assert image.get_cmap().name == 'gray'
    assert [axes.get_ylabel() for axes in figure.axes if not axes.images] == ['weight']


def test_only_the_first_of_many_kernels_are_drawn_and_the_picture_says_so():
    layer = initialised(nn.Conv2D(10, 3, in_channels=1))
    (axes,) = panels(viz.draw_filters(layer, most=3))
    np.testing.assert_array_equal(images_in(axes, 9, 3, 3), weights_of(layer)[:9, 0])
    assert axes.get_title() == 'Conv2D: first 9 of 10 kernels of 3x3'
    layer = initialised(nn.Conv2D(5, 3, in_channels=4))
    (axes,) = panels(viz.draw_filters(layer, most=3))
    images_in(axes, 9, 3, 3)
    assert axes.get_xlabel() == 'output channel (first 3 of 5)'
    assert axes.get_ylabel() == 'input channel (first 3 of 4)'


@pytest.mark.parametrize(
    'layer', [nn.Dense(3, in_units=4), nn.MaxPool2D(), builtin.Conv3D(2, 3), nn.HybridSequential()]
)
def test_what_has_no_kernels_is_refused(layer):
    name = type(layer).__name__
    with pytest.raises(TypeError, match=f'draw_filters: {name} has no kernels to draw; allowed: a'):
        viz.draw_filters(layer)


def test_a_layer_without_values_is_refused():
    layer = nn.Conv2D(3, 3)
    with pytest.raises(ValueError, match='the weight of Conv2D has no values yet'):
        viz.draw_filters(layer)
    layer.initialize()
    with pytest.raises(ValueError, match='the weight of Conv2D has no values yet'):
        viz.draw_filters(layer)


@pytest.mark.parametrize('most', [0, 'all'])
def test_most_must_be_a_number(most):
    with pytest.raises((TypeError, ValueError), match='most='):
        viz.draw_filters(initialised(nn.Conv2D(3, 3, in_channels=1)), most=most)


# --------------------------------------------------------------------------- feature maps


@pytest.fixture
def lenet(np_or_nd):
    """LeNet, and a batch of digits' size."""
    net = build_lenet(nn)
    net.initialize(mx.init.Xavier())
    x = np.random.RandomState(0).uniform(size=(3, 1, 8, 8)).astype('float32')
    batch = (mx.np if np_or_nd == 'np' else mx.nd).array(x)
    net(batch)
    return net, batch


@pytest.mark.parametrize('hybridize', [False, True])
def test_a_network_gives_a_panel_for_its_input_and_each_layer(lenet, hybridize):
    net, x = lenet
    if hybridize:
        net.hybridize()
        net(x)
    found = panels(viz.draw_feature_maps(net, x))
    assert [axes.get_title() for axes in found] == [
        'input: 1 map of 8x8',
        '0 Conv2D: 20 maps of 8x8',
        '1 MaxPool2D: 20 maps of 4x4',
        '2 Conv2D: 50 maps of 4x4',
        '3 MaxPool2D: 50 maps of 2x2',
        '4 Dense: 120 units',
        '5 Dense: 84 units',
        '6 Dense: 10 units',
    ]
    for axes, layer in zip(found, [None, *net]):
        x = x if layer is None else layer(x)
        expected = x.asnumpy()[0]
        expected = expected.reshape(expected.shape + (1,) * (3 - expected.ndim))
        count, height, width = expected.shape
        np.testing.assert_allclose(images_in(axes, count, height, width), expected, rtol=1e-6)


def test_a_layer_gives_one_panel(np_or_nd):
    layer = initialised(nn.Conv2D(6, 3, in_channels=2))
    x = np.random.RandomState(0).normal(size=(2, 2, 7, 9)).astype('float32')
    (axes,) = panels(viz.draw_feature_maps(layer, x))
    expected = layer((mx.np if np_or_nd == 'np' else mx.nd).array(x)).asnumpy()[0]
    np.testing.assert_array_equal(images_in(axes, 6, 5, 7), expected.astype('float64'))
    assert axes.get_title() == 'Conv2D: 6 maps of 5x7'


def test_the_scale_begins_at_zero_or_has_it_in_the_middle(lenet):
    net, x = lenet
    found = panels(viz.draw_feature_maps(net, x))
    for axes, value in zip(found[1:], [net[:1](x), net[:2](x)]):
        assert axes.images[0].get_clim() == (0, value[0].asnumpy().max())
    logits = net(x)[0].asnumpy()
    assert logits.min() < 0
    largest = abs(logits).max()
    assert found[-1].images[0].get_clim() == (-largest, largest)


def test_layers_can_be_chosen(lenet):
    net, x = lenet
    found = panels(viz.draw_feature_maps(net, x, layers=[3, 0], most=16))
    assert [axes.get_title() for axes in found] == [
        'input: 1 map of 8x8',
        '3 MaxPool2D: first 16 of 50 maps of 2x2',
        '0 Conv2D: first 16 of 20 maps of 8x8',
    ]


def test_layers_after_the_chosen_ones_are_not_run():
    net = nn.HybridSequential()
    net.add(nn.MaxPool2D(2), nn.Conv2D(1, 30))
    net.initialize()
    assert len(panels(viz.draw_feature_maps(net, mx.nd.ones((1, 1, 8, 8)), layers=[0]))) == 2


def test_other_blocks_count_as_one_layer():
    class Twice(gluon.Block):
        def forward(self, x):
            return 2 * x

    net = nn.Sequential()
    net.add(nn.Sequential(), Twice())
    net[0].add(nn.Activation('relu'))
    found = panels(viz.draw_feature_maps(net, mx.nd.array([[[[1, -2], [3, 4]]]])))
    titles = [axes.get_title().split(':')[0] for axes in found]
    assert titles == ['input', '0.0 Activation', '1 Twice']
    np.testing.assert_array_equal(images_in(found[2], 1, 2, 2)[0], [[2, 0], [6, 8]])


def test_channels_last(any_dtype_backend, np_arrays):
    layer = initialised(nn.Conv2D(4, 3, layout='NHWC', in_channels=2))
    x = mx.np.random.normal(size=(1, 5, 6, 2))
    net = nn.HybridSequential()
    net.add(layer)
    source, maps = panels(viz.draw_feature_maps(net, x))
    np.testing.assert_array_equal(images_in(source, 2, 5, 6), np.moveaxis(x.asnumpy()[0], -1, 0))
    expected = np.moveaxis(layer(x).asnumpy()[0], -1, 0)
    np.testing.assert_array_equal(images_in(maps, 4, 3, 4), expected)


def test_drawing_records_nothing_and_is_no_training(np_arrays):
    dropout = nn.Dropout(0.9)
    with autograd.record():
        (axes,) = panels(viz.draw_feature_maps(dropout, mx.np.ones((1, 1, 8, 8))))
    np.testing.assert_array_equal(images_in(axes, 1, 8, 8), np.ones((1, 8, 8)))


def test_nothing_but_nan_can_be_drawn():
    figure = viz.draw_feature_maps(nn.Activation('relu'), np.full((1, 2, 3, 3), np.nan))
    figure.savefig('/dev/null', format='png')


def test_feature_maps_refuse_what_they_cannot_draw(lenet):
    net, x = lenet
    with pytest.raises(ValueError, match=r'layers=\[7\], but the network has layers 0 to 6'):
        viz.draw_feature_maps(net, x, layers=[7])
    with pytest.raises(ValueError, match='with ax only one layer can be drawn, but there are 7'):
        viz.draw_feature_maps(net, x, ax=Figure().subplots())
    with pytest.raises(ValueError, match=r"layer 'input' has shape \(8,\)"):
        viz.draw_feature_maps(nn.Activation('relu'), mx.nd.ones(8))


# --------------------------------------------------------------------------- where it is drawn


@pytest.mark.parametrize('nested', [False, True], ids=['figure', 'subfigure'])
def test_pictures_are_drawn_where_they_are_wanted(lenet, nested):
    net, x = lenet
    figure = Figure()
    part = figure.subfigures(1, 2)[0] if nested else figure
    first, second, untouched = part.subplots(1, 3)
    assert viz.draw_filters(net[0], ax=first) is figure
    assert viz.draw_feature_maps(net, x, layers=[1], ax=second) is figure
    assert first.get_title() == 'Conv2D: 20 kernels of 5x5'
    assert second.get_title() == '1 MaxPool2D: 20 maps of 4x4'
    assert not untouched.has_data()


def test_pyplot_which_shows_pictures_stays_out_of_it():
    """Nothing that draws even imports it; a figure is held by the caller alone."""
    run(
        """
        import sys, numpy as np
        from gluon_convpool import nn, viz
        layer = nn.Conv2D(2, 3, in_channels=1)
        layer.initialize()
        x = np.ones((2, 1, 8, 8))
        roof = viz.Roof(1e9, {1024: 1e9})
        for figure in (
            viz.draw_filters(layer),
            viz.draw_feature_maps(layer, x),
            viz.receptive_field(layer, x),
            viz.roofline([viz.Measurement('a', 1.0, 1.0, 1.0)], roof),
            viz.draw_curves({'a': [1.0, 2.0]}, 'loss'),
            viz.draw_confusion([0, 1], [1, 1]),
            viz.draw_misread(x, [0, 1], [1, 1]),
        ):
            figure.savefig('/dev/null', format='png')
        assert 'matplotlib.pyplot' not in sys.modules
        """
    )
