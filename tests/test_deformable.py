"""Deformable convolution: as MXNet's layers give it, and as loops in float64 where they cannot."""

from __future__ import annotations

import inspect
import itertools

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from mxnet.gluon.contrib import cnn

import gluon_convpool
from gluon_convpool import functional, nn, use_backend
from gluon_convpool.testing import (
    array_kind,
    assert_close,
    assert_gradients_numeric,
    assert_same,
    draw,
    empty_arrays,
    measure,
)

NAMES = ['DeformableConvolution', 'ModulatedDeformableConvolution']
SHAPE = (2, 4, 7, 6)
# What a layer is given beside its 6 channels.
CASES = [
    {'kernel_size': 3, 'padding': 1},
    {'kernel_size': (3, 2), 'strides': (2, 1), 'padding': (1, 0), 'use_bias': False},
    {'kernel_size': 3, 'dilation': 2, 'padding': 2, 'num_deformable_group': 2},
    {'kernel_size': 2, 'groups': 2, 'num_deformable_group': 2, 'activation': 'relu'},
    {'kernel_size': 1, 'offset_use_bias': False},
    {'kernel_size': 5, 'strides': 3, 'padding': 4, 'num_deformable_group': 4},
]

each_name = pytest.mark.parametrize('name', NAMES)
each_case = pytest.mark.parametrize('case', CASES, ids=lambda case: 'x'.join(map(str, case)))


def start(layer, shape=SHAPE, dtype='float32'):
    """A layer whose offsets are large enough to leave the image."""
    layer.initialize()
    with autograd.pause():
        layer(array_kind().zeros(shape))
    layer.cast(dtype)
    for name, parameter in layer._collect_params_with_prefix().items():
        (value,) = draw(f'deformable {name}', parameter.shape)
        scale = 1.5 if name == 'offset_bias' else 0.5
        parameter.set_data(array_kind().array(scale * value, dtype=dtype))
    return layer


def data(shape=SHAPE, dtype='float32'):
    return draw('deformable data', shape)[0].astype(dtype)


# ---------------------------------------------------------------------------------- the yardstick


def interpolated(image, y, x, surrounded):
    """`image`, (C, H, W), at one place between its elements."""
    height, width = image.shape[1:]
    if not surrounded:
        if not (0 <= y < height and 0 <= x < width):
            return np.zeros(len(image))
        y, x = min(y, height - 1), min(x, width - 1)
    top, left = int(np.floor(y)), int(np.floor(x))
    total = np.zeros(len(image))
    for row, column in itertools.product((top, top + 1), (left, left + 1)):
        if 0 <= row < height and 0 <= column < width:
            total += (1 - abs(y - row)) * (1 - abs(x - column)) * image[:, row, column]
    return total


def loops(x, offset, weight, mask, strides, padding, dilation, groups, parts):
    """The output in float64, without a bias; strides and so on are the same for both axes."""
    x, offset, weight = (one.astype('float64') for one in (x, offset, weight))
    outer, inner, height, width = weight.shape
    windows = offset.shape[2:]
    y = np.zeros((len(x), outer, *windows))
    size = x.shape[1] // parts
    for n, i, j in itertools.product(range(len(x)), *map(range, windows)):
        seen = np.zeros((x.shape[1], height, width))
        for part, a, b in itertools.product(range(parts), range(height), range(width)):
            tap = (part * height + a) * width + b
            channels = slice(part * size, (part + 1) * size)
            seen[channels, a, b] = interpolated(
                x[n, channels],
                i * strides - padding + a * dilation + offset[n, 2 * tap, i, j],
                j * strides - padding + b * dilation + offset[n, 2 * tap + 1, i, j],
                mask is not None,
            ) * (1 if mask is None else mask[n, tap, i, j])
        for o in range(outer):
            first = o // (outer // groups) * inner
            y[n, o, i, j] = (weight[o] * seen[first : first + inner]).sum()
    return y


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('modulated', [False, True])
@pytest.mark.parametrize(
    'size, strides, padding, dilation, groups, parts',
    [(3, 1, 1, 1, 1, 1), (2, 2, 0, 1, 2, 4), (3, 1, 2, 2, 1, 2), (1, 1, 0, 1, 4, 1)],
)
def test_function(
    size, strides, padding, dilation, groups, parts, modulated, dtype, any_dtype_backend, np_or_nd
):
    x, weight = data(), draw('deformable weight', (8, 4 // groups, size, size))[0]
    windows = [(n + 2 * padding - dilation * (size - 1) - 1) // strides + 1 for n in SHAPE[2:]]
    offset = 3 * draw('offset', (2, 2 * parts * size**2, *windows))[0]
    # whole numbers too, and places exactly on the edges
    offset[:, ::3] = np.round(offset[:, ::3])
    mask = draw('mask', (2, parts * size**2, *windows))[0] if modulated else None
    given = [array_kind().array(one, dtype=dtype) for one in (x, offset, weight)]
    found = functional.deformable_convolution(
        *given,
        mask=array_kind().array(mask, dtype=dtype) if modulated else None,
        strides=strides,
        padding=padding,
        dilation=dilation,
        groups=groups,
        num_deformable_group=parts,
    )
    expected = loops(x, offset, weight, mask, strides, padding, dilation, groups, parts)
    assert_close('output', found.asnumpy(), expected, 1e-13 if dtype == 'float64' else 1e-5)


@pytest.mark.parametrize('modulated', [False, True])
def test_each_instruction_set(modulated, instruction_set, np_arrays):
    """Several chunks of windows, and channels that end within a block of a gradient's task."""
    x = draw('deformable data', (1, 19, 18, 17))[0]
    weight = draw('deformable weight', (3, 19, 3, 3))[0]
    offset = 3 * draw('offset', (1, 18, 18, 17))[0]
    mask = draw('mask', (1, 9, 18, 17))[0] if modulated else None
    inputs = [array_kind().array(one) for one in (x, offset, weight)]
    masks = [array_kind().array(mask)] if modulated else []

    def run(backend):
        for one in inputs + masks:
            one.attach_grad()
        with use_backend(backend), autograd.record():
            y = functional.deformable_convolution(*inputs, None, *masks, padding=1)
        y.backward()
        found = {str(i): one.grad.asnumpy() for i, one in enumerate(inputs + masks)}
        return {'output': y.asnumpy(), **found}

    found = run('native')
    expected = loops(x, offset, weight, mask, 1, 1, 1, 1, 1)
    assert_close('output', found['output'], expected)
    assert_same(found, run('portable'))


# ------------------------------------------------------------------------------ MXNet's own layers


@each_case
@pytest.mark.parametrize('mode', ['imperative', 'static'])
@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_layer_beside_mxnets(case, mode, dtype, any_dtype_backend, nd_arrays):
    """Output and every gradient."""
    ours, theirs = (
        start(module.DeformableConvolution(6, **case), dtype=dtype) for module in (nn, cnn)
    )
    x = data(dtype=dtype)
    (head,) = draw('head', theirs(array_kind().array(x, dtype=dtype)).shape)
    expected = measure(theirs, x, head.astype(dtype))
    found = measure(ours, x, head.astype(dtype), mode)
    assert_same(found, expected, rtol=1e-12 if dtype == 'float64' else 1e-5)


def before_training(layer):
    """Offsets of zeros, so that every place is that of an element, or of one in the padding."""
    layer = start(layer, dtype='float64')
    layer.offset_weight.set_data(layer.offset_weight.data() * 0)
    layer.offset_bias.set_data(layer.offset_bias.data() * 0)
    return layer


def test_gradients_before_training(any_dtype_backend, nd_arrays):
    ours, theirs = (
        before_training(module.DeformableConvolution(6, 3, padding=1)) for module in (nn, cnn)
    )
    x = data(dtype='float64')
    (head,) = draw('head', (2, 6, 7, 6))
    found, expected = (measure(layer, x, head.astype('float64')) for layer in (ours, theirs))
    assert np.abs(expected['offset_bias']).max() > 1
    assert_same(found, expected, rtol=1e-12)


def slopes_at_elements(x, head, weight):
    """What `before_training` has as gradients of its offsets' bias, of a 3x3 window padded by 1.

    With a mask of 1, an element at (y, x) has the slope of the square behind it, whose far side is
    0 behind the last element; places in the padding lie at -1 or behind it, where nothing is.
    """
    wide = np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1)))
    slopes = np.zeros((3, 3, 2))
    height, width = x.shape[2:]
    for a, b, i, j in itertools.product(range(3), range(3), range(height), range(width)):
        y, z = i + a - 1, j + b - 1
        if 0 <= y < height and 0 <= z < width:
            here = wide[:, :, y, z]
            seen = np.einsum('no,oc->nc', head[:, :, i, j], weight[:, :, a, b])
            slopes[a, b, 0] += (seen * (wide[:, :, y + 1, z] - here)).sum()
            slopes[a, b, 1] += (seen * (wide[:, :, y, z + 1] - here)).sum()
    return slopes.ravel()


def test_gradients_before_training_with_a_mask(any_dtype_backend, np_or_nd):
    layer = before_training(nn.ModulatedDeformableConvolution(6, 3, padding=1))
    x = data(dtype='float64')
    head = draw('head', (2, 6, 7, 6))[0].astype('float64')
    weight = layer.weight.data().asnumpy()
    plain = nn.Conv2D(6, 3, padding=1, in_channels=4)
    plain.initialize()
    plain.cast('float64')
    plain.weight.set_data(layer.weight.data())
    for mode in ('imperative', 'static'):
        found, expected = (measure(one, x, head, mode) for one in (layer, plain))
        # the mask, twice a sigmoid of 0, is 1
        assert_close('x', found['x'], expected['x'], 1e-12)
        assert_close('weight', found['deformable_conv_weight'], expected['weight'], 1e-12)
        slopes = slopes_at_elements(x, head, weight)
        assert np.abs(slopes).max() > 1
        assert_close('offsets', found['offset_bias'][:18], slopes, 1e-12)
        # the sigmoid has the slope 1/2, and each tap of the mask what the tap contributes
        taps = np.einsum('ocab,ocab->ab', weight, expected['weight'])
        assert_close('mask', found['offset_bias'][18:], taps.ravel() / 2, 1e-12)


def test_places_around_the_edges_with_a_mask(any_dtype_backend, np_or_nd):
    """There are zeros around the data; nothing is interpolated at -1, or before it, or at 3."""
    kind = array_kind()
    x, weight, mask = (kind.array(v) for v in ([[[[1, 2, 4]]]], [[[[1]]]], [[[[1] * 5]]]))
    # the windows are at -1, 0, 1, 2 and 3
    columns = np.array([-1.5, -1, -0.5, 3, 2.5]) - np.arange(-1, 4)
    offset = np.stack([np.zeros(5), columns]).reshape(1, 2, 1, 5)
    offset = kind.array(offset, dtype='float32')
    for one in (x, offset, mask):
        one.attach_grad()
    with autograd.record():
        y = functional.deformable_convolution(x, offset, weight, mask=mask, padding=(0, 1))
    y.backward()
    assert y.asnumpy().ravel().tolist() == [0, 0, 0.5, 0, 2]
    assert mask.grad.asnumpy().ravel().tolist() == [0, 0, 0.5, 0, 2]
    assert x.grad.asnumpy().ravel().tolist() == [0.5, 0, 0.5]
    # downwards there are zeros, too
    assert offset.grad.asnumpy().reshape(2, 5).tolist() == [[0, 0, -0.5, 0, -2], [0, 0, 1, 0, -4]]


@pytest.mark.parametrize('modulated', [False, True])
def test_nan_stays_in_the_windows_that_see_it(modulated, any_dtype_backend, np_or_nd):
    """In a corner, where 4 windows of 3x3 lie, and beside places that are whole numbers."""
    kind = array_kind()
    for corner in ((0, 0), (4, 4)):
        x = np.ones((1, 1, 5, 5), 'float32')
        x[(0, 0, *corner)] = np.nan
        given = [kind.array(x), kind.zeros((1, 18, 5, 5)), kind.ones((1, 1, 3, 3))]
        mask = kind.ones((1, 9, 5, 5)) if modulated else None
        y = functional.deformable_convolution(*given, mask=mask, padding=1).asnumpy()[0, 0]
        expected = functional.convolution(given[0], given[2], padding=1).asnumpy()[0, 0]
        assert np.isnan(expected).sum() == 4
        np.testing.assert_array_equal(y, expected)


@each_case
@pytest.mark.parametrize('mode', ['imperative', 'static'])
def test_modulated_layer_beside_mxnets(case, mode, any_dtype_backend, nd_arrays):
    """The output: on the CPU, MXNet's layer has no gradients."""
    # the number of channels must be one that MXNet's layer divides by num_deformable_group
    ours, theirs = (start(module.ModulatedDeformableConvolution(8, **case)) for module in (nn, cnn))
    expected = theirs(array_kind().array(data())).asnumpy()
    found = measure(ours, data(), np.ones_like(expected), mode)
    assert_close('output', found['output'], expected)


@each_name
@each_case
def test_gradients_by_finite_differences(name, case, any_dtype_backend, np_or_nd):
    layer = start(getattr(nn, name)(6, **case))
    assert assert_gradients_numeric(layer, data(), modes=['imperative', 'hybrid']) == 'float64'


@each_name
def test_without_offsets_it_is_convolution(name, any_dtype_backend, np_or_nd):
    layer = getattr(nn, name)(6, 3, padding=1, in_channels=4)
    layer.initialize()
    x = array_kind().array(data())
    y = layer(x)
    plain = nn.Conv2D(6, 3, padding=1, in_channels=4)
    plain.initialize()
    plain.weight.set_data(layer.deformable_conv_weight.data())
    # offsets and what the sigmoid is of are zeros at first: the mask is 1
    assert_close('output', y.asnumpy(), plain(x).asnumpy())


@each_name
def test_is_a_drop_in(name):
    ours, theirs = getattr(nn, name), getattr(cnn, name)
    assert issubclass(ours, theirs)
    assert inspect.signature(ours) == inspect.signature(theirs)
    for case in CASES:
        one, other = (kind(6, in_channels=4, prefix='same_', **case) for kind in (ours, theirs))
        parameters, expected = one.collect_params(), other.collect_params()
        assert list(parameters) == list(expected)
        for found, wanted in zip(parameters.values(), expected.values()):
            assert tuple(found.shape) == tuple(wanted.shape)
        if name == NAMES[0]:
            assert repr(one) == repr(other)


@each_name
def test_files_are_exchanged(name, tmp_path, nd_arrays):
    ours, theirs = (start(getattr(module, name)(6, 3)) for module in (nn, cnn))
    for source, target in ((ours, theirs), (theirs, ours)):
        source.collect_params().zero_grad()
        first = next(iter(source.collect_params().values()))
        first.set_data(first.data() + 1)
        source.save_parameters(str(tmp_path / 'file'))
        target.load_parameters(str(tmp_path / 'file'))
        for one, other in zip(ours.collect_params().values(), theirs.collect_params().values()):
            assert (one.data() == other.data()).asnumpy().all()


# -------------------------------------------------------------------------------------- in networks


def network(name):
    net = gluon.nn.HybridSequential()
    net.add(nn.Conv2D(4, 3), getattr(nn, name)(6, 3, padding=1), nn.GlobalAvgPool2D())
    net.initialize(mx.init.Normal(0.3))
    return net


@each_name
def test_a_hybridized_network_finds_its_shapes_and_is_exported(
    name, tmp_path, any_dtype_backend, np_or_nd
):
    net = network(name)
    net.hybridize()
    x = array_kind().array(data())
    expected = net(x).asnumpy()
    net.export(str(tmp_path / 'net'))
    path = str(tmp_path / 'net')
    loaded = gluon.SymbolBlock.imports(f'{path}-symbol.json', ['data'], f'{path}-0000.params')
    assert_close('output', loaded(x).asnumpy(), expected)
    net.hybridize(False)
    assert_close('imperative', net(x).asnumpy(), expected)


@each_name
def test_an_empty_batch(name, any_dtype_backend, np_or_nd):
    layer = start(getattr(nn, name)(6, 3))
    x = np.zeros((0, *SHAPE[1:]), 'float32')
    with empty_arrays(True):
        for mode in ('imperative', 'hybrid'):
            found = measure(layer, x, np.zeros((0, 6, 5, 4), 'float32'), mode)
            assert found['output'].shape == (0, 6, 5, 4)
            assert all((value == 0).all() for value in found.values())


@each_name
def test_float16_is_computed_in_float32(name, any_dtype_backend, np_or_nd):
    half, single = (start(getattr(nn, name)(6, 3), dtype=dtype) for dtype in ('float16', 'float32'))
    for one, other in zip(half.collect_params().values(), single.collect_params().values()):
        other.set_data(one.data().astype('float32'))
    x = data(dtype='float16')
    found = half(array_kind().array(x, dtype='float16'))
    expected = single(array_kind().array(x, dtype='float32'))
    assert found.dtype == np.float16
    # the offsets are rounded to float16 in between
    assert_close('output', found.asnumpy(), expected.asnumpy(), 1e-2)


@each_name
def test_swap_there_and_back(name, nd_arrays):
    net = gluon.nn.HybridSequential()
    net.add(start(getattr(cnn, name)(6, 3)))
    x = array_kind().array(data())
    expected = net(x).asnumpy()
    gluon_convpool.swap(net)
    assert type(net[0]) is getattr(nn, name)
    assert_close('output', net(x).asnumpy(), expected)
    gluon_convpool.swap(net, to='mxnet')
    assert type(net[0]) is getattr(cnn, name)
    assert_close('output', net(x).asnumpy(), expected)


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    'arguments, sentence',
    [
        ({'channels': 6, 'groups': 4}, r'\(groups=4\): channels=6 is not divisible by groups'),
        (
            {'in_channels': 4, 'num_deformable_group': 3},
            r'\(num_deformable_group=3\): in_channels=4 is not divisible',
        ),
        ({'layout': 'NHWC'}, "layout='NHWC' is not supported; allowed: 'NCHW'"),
        ({'adj': (1, 1)}, r'adj=\(1, 1\) is not supported'),
        ({'kernel_size': 0}, 'kernel_size=0, but every value must be at least 1'),
        ({'padding': -1}, 'padding=-1, but every value must be at least 0'),
        ({'activation': 'relu7'}, "activation='relu7' is unknown"),
        ({'num_deformable_group': 0}, 'num_deformable_group=0'),
    ],
    ids=lambda value: '-'.join(value) if isinstance(value, dict) else '',
)
@each_name
def test_wrong_arguments_of_a_layer(name, arguments, sentence):
    with pytest.raises(ValueError, match=f'{name}.*{sentence}'):
        getattr(nn, name)(**{'channels': 8, **arguments})


def call(x=SHAPE, offset=(2, 18, 5, 4), weight=(6, 4, 3, 3), mask=None, **arguments):
    given = [array_kind().ones(shape) for shape in (x, offset, weight)]
    mask = None if mask is None else array_kind().ones(mask)
    return functional.deformable_convolution(*given, mask=mask, **arguments)


@pytest.mark.parametrize(
    'arguments, sentence',
    [
        ({'offset': (2, 9, 5, 4)}, r'offset has shape \(2, 9, 5, 4\); expected \(2, 18, 5, 4\)'),
        ({'offset': (2, 18, 7, 6)}, r'offset has shape \(2, 18, 7, 6\); expected \(2, 18, 5, 4\)'),
        ({'mask': (2, 18, 5, 4)}, r'mask has shape \(2, 18, 5, 4\); expected \(2, 9, 5, 4\)'),
        ({'weight': (6, 3, 3, 3)}, r'weight of shape \(6, 3, 3, 3\)'),
        ({'num_deformable_group': 3}, r'num_deformable_group=3\): in_channels=4'),
        ({'x': (2, 4, 2, 6)}, 'the window must fit'),
        ({'padding': 'same'}, "padding='same'"),
    ],
    ids=lambda value: '-'.join(value) if isinstance(value, dict) else '',
)
def test_wrong_arguments_of_the_function(arguments, sentence, any_dtype_backend, np_or_nd):
    with pytest.raises((TypeError, ValueError), match=f'deformable_convolution.*{sentence}'):
        call(**arguments)


@each_name
def test_a_layer_refuses_data_before_it_starts(name, np_or_nd):
    layer = getattr(nn, name)(6, 3, num_deformable_group=2)
    layer.initialize()
    for shape, sentence in (((2, 3, 7, 6), 'in_channels=3'), ((2, 4, 7), '4 axes')):
        with pytest.raises(ValueError, match=sentence):
            layer(array_kind().ones(shape))
    assert layer(array_kind().ones(SHAPE)).shape == (2, 6, 5, 4)


def test_no_higher_order():
    asked = use_backend('portable', higher_order=True)
    with asked, pytest.raises(ValueError, match='no higher-order gradients of deformable'):
        call()


def test_offsets_that_are_not_finite_do_no_harm(any_dtype_backend, np_or_nd):
    x, weight = (array_kind().ones(shape) for shape in (SHAPE, (6, 4, 3, 3)))
    for value in (np.nan, np.inf, -np.inf, 1e30, -1e30):
        offset = array_kind().full((2, 18, 5, 4), value)
        for array in (x, offset, weight):
            array.attach_grad()
        with autograd.record():
            y = functional.deformable_convolution(x, offset, weight)
        y.backward()
        assert (y.asnumpy() == 0).all() and (x.grad.asnumpy() == 0).all()


class Moved(gluon.HybridBlock):
    def hybrid_forward(self, F, x, offset, weight, mask=None):
        return functional.deformable_convolution(
            x, offset, weight, None, mask, (2, 1), (1, 0), kernel_size=(3, 2), channels=6
        )


FITTING = {'x': SHAPE, 'offset': (2, 12, 4, 5), 'weight': (6, 4, 3, 2), 'mask': (2, 6, 4, 5)}


@pytest.mark.parametrize(
    'wrong, words',
    [
        ({'offset': (2, 12, 4, 4)}, ['offset has shape', 'two numbers for each element']),
        ({'offset': (2, 12, 5, 5)}, ['offset has shape', 'two numbers for each element']),
        ({'offset': (2, 11, 4, 5)}, ['offset has shape', '12', 'two numbers for each element']),
        ({'offset': (1, 12, 4, 5)}, ['offset has shape', 'two numbers for each element']),
        ({'mask': (2, 6, 4, 1)}, ['mask has shape', 'one number for each element']),
        ({'mask': (2, 1, 4, 5)}, ['mask has shape', '6', 'one number for each element']),
        ({'x': (2, 4, 0, 1)}, ['window of size (3, 2)', 'the window must fit']),
    ],
    ids=lambda value: '-'.join(value) if isinstance(value, dict) else '',
)
def test_wrong_shapes_in_a_graph(wrong, words, any_dtype_backend, np_arrays):
    block = Moved()
    block.hybridize()

    def run(shapes):
        return block(*(array_kind().ones(shape) for shape in shapes.values())).asnumpy()

    with pytest.raises(mx.base.MXNetError) as caught:
        run({**FITTING, **wrong})
    for word in ['deformable_convolution', *words]:
        assert word in str(caught.value)
    assert run(FITTING).shape == (2, 6, 4, 5)
    block = Moved()
    block.hybridize()
    assert run({name: shape for name, shape in FITTING.items() if name != 'mask'}).any()


def test_offsets_of_another_dtype_in_a_graph(any_dtype_backend, np_or_nd):
    block = Moved()
    block.hybridize()
    given = [array_kind().ones(shape) for shape in FITTING.values()]
    given[1] = given[1].astype('float64')
    words = 'deformable_convolution.* all inputs must have the same dtype'
    with pytest.raises(mx.base.MXNetError, match=words):
        block(*given).asnumpy()
