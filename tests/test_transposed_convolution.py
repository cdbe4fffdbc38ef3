"""Transposed convolution: as MXNet's own layer gives it, and the exact adjoint of convolution."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

from gluon_convpool import functional, geometry, nn, optimize, swap
from gluon_convpool.testing import (
    MODES,
    ConvolutionTransposeCase,
    array_kind,
    assert_close,
    assert_layers_match,
    assert_same,
    draw,
    empty_arrays,
    measure,
    parity_cases,
    reference,
)


def grid(**only):
    return [case for dims in (1, 2, 3) for case in parity_cases('conv_transpose', dims, **only)]


LOOPS = grid(activation=None)


@pytest.mark.parametrize('case', grid())
def test_matches_the_builtin_layer(case, any_dtype_backend, np_arrays):
    """Static mode runs the graph of hybrid mode, and plans its memory in addition."""
    assert_layers_match(case.build(nn), case, modes=['imperative', 'static'])


@pytest.mark.parametrize('case', grid(grid='quick')[::3])
def test_legacy_arrays_match_too(case, any_dtype_backend, nd_arrays):
    assert_layers_match(case.build(nn), case, modes=['imperative', 'static'])


@pytest.mark.parametrize('case', grid(grid='quick')[::8])
def test_a_new_layer_may_begin_in_any_mode(case, any_dtype_backend, np_or_nd):
    assert_layers_match(lambda: case.build(nn), case)


@pytest.mark.parametrize('case', LOOPS[::3])
def test_the_loops_agree_with_the_builtin_layer(case, np_arrays):
    if case.builtin_can_run:
        _, expected = case.expected()
        assert_same(case.from_loops()[1], expected)


@pytest.mark.parametrize('case', LOOPS[::4])
def test_float64_and_channels_last(case, any_dtype_backend, np_arrays):
    head, expected = case.from_loops()
    last = lambda value: np.moveaxis(value, 1, -1)  # noqa: E731
    layout = geometry.LAYOUTS[case.ndim][1]
    with empty_arrays(case.batch == 0):
        for mode in ('imperative', 'static'):
            layer = getattr(nn, case.layer_name)(**case.arguments, layout=layout)
            layer.initialize()
            layer.cast('float64')
            for name, value in case.parameters.items():
                value = value if name == 'bias' else last(value)
                getattr(layer, name).set_data(array_kind().array(value, dtype='float64'))
            found = measure(
                layer, last(case.x).astype('float64'), last(head).astype('float64'), mode
            )
            wanted = {k: v if k == 'bias' else last(v) for k, v in expected.items()}
            assert_same(found, wanted, rtol=1e-13)


@pytest.mark.parametrize('case', LOOPS[::2])
def test_is_the_exact_adjoint_of_the_convolution(case, any_dtype_backend, np_arrays):
    """<conv(y), x> = <y, convT(x)> for equal arguments, in float64."""
    if case.batch == 0:
        return
    window = case.window
    window.pop('output_padding')
    x, weight = (case.arrays()[name].astype('float64') for name in ('x', 'weight'))
    arrays = [array_kind().array(value, dtype='float64') for value in (x, weight)]
    layout = geometry.LAYOUTS[case.ndim][0]
    up = functional.convolution_transpose(*arrays, **case.window, layout=layout)
    y = draw('adjoint', up.shape)[0].astype('float64')
    down = functional.convolution(
        array_kind().array(y, dtype='float64'), arrays[1], **window, layout=layout
    )
    one, other = (down.asnumpy() * x).sum(), (y * up.asnumpy()).sum()
    scale = np.linalg.norm(y) * np.linalg.norm(up.asnumpy())
    assert abs(one - other) <= 1e-12 * scale
    # so each is the gradient of the other
    y = array_kind().array(y, dtype='float64')
    y.attach_grad()
    with autograd.record():
        out = functional.convolution(y, arrays[1], **window, layout=layout)
    out.backward(arrays[0])
    assert_close('gradient', y.grad.asnumpy(), up.asnumpy(), 1e-12)


@pytest.mark.parametrize('case', LOOPS[::4])
def test_the_function_gives_what_the_layer_gives(case, any_dtype_backend, np_or_nd):
    _, expected = case.expected()
    with empty_arrays(case.batch == 0):
        arrays = {name: array_kind().array(value) for name, value in case.arrays().items()}
        layout = geometry.LAYOUTS[case.ndim][0]
        y = functional.convolution_transpose(**arrays, **case.window, layout=layout)
        assert type(y) is type(arrays['x'])
        assert_close('output', y.asnumpy(), expected['output'])


@pytest.mark.parametrize('layout', ['NCHW', 'NHWC'])
def test_a_layer_finds_its_channels(layout, any_dtype_backend, np_or_nd):
    x = array_kind().array(draw('deferred', (2, 4, 5, 6))[0])
    inputs = x.shape[layout.index('C')]
    for mode in MODES:
        layer = nn.Conv2DTranspose(6, 3, groups=2, layout=layout)
        layer.initialize()
        layer.hybridize(mode != 'imperative')
        layer(x)
        shape = (inputs, 3, 3, 3)
        assert layer.weight.shape == shape


def test_by_hand(any_dtype_backend, np_or_nd):
    x = array_kind().array(np.float32([[[1, 10]]]))
    weight = array_kind().array(np.float32([[[1, 2, 3]]]))

    def up(**arguments):
        found = functional.convolution_transpose(x, weight, layout='NCW', **arguments)
        return found.asnumpy().tolist()[0][0]

    assert up() == [1, 12, 23, 30]
    assert up(strides=2) == [1, 2, 13, 20, 30]
    assert up(strides=2, padding=1) == [2, 13, 20]
    assert up(strides=2, padding=1, output_padding=1) == [2, 13, 20, 30]
    assert up(strides=3, output_padding=2) == [1, 2, 3, 10, 20, 30, 0, 0]
    assert up(dilation=2) == [1, 10, 2, 20, 3, 30]


# --------------------------------------------------------------------------- 'same' and 'valid'

# kernel, strides, dilation
SAME = [(1, 1, 1), (2, 1, 1), (3, 1, 2), (4, 1, 1), (3, 2, 1), (4, 2, 1), (2, 3, 1), (1, 2, 1)]
SAME += [(3, 3, 1), (2, 2, 3), (5, 2, 1), (2, 4, 2)]


def beyond_same(kernel, strides, dilation):
    """What all windows reach beyond ``n * strides`` elements."""
    return dilation * (kernel - 1) + 1 - strides


@pytest.mark.parametrize('ndim', [1, 2, 3])
@pytest.mark.parametrize('layout', ['first', 'last'])
@pytest.mark.parametrize('kernel, strides, dilation', SAME)
def test_same_gives_as_many_elements_as_the_data_times_the_strides(
    kernel, strides, dilation, layout, ndim, any_dtype_backend, np_arrays
):
    """What is beyond is taken away, the smaller half in front, and what is missing added behind."""
    sizes = (4, 3, 2)[:ndim]
    x, weight, bias = draw('same', (2, 4, *sizes), (4, 3, *(kernel,) * ndim), (6,))
    beyond = beyond_same(kernel, strides, dilation)
    window = {'strides': strides, 'dilation': dilation, 'groups': 2}
    whole = {'output_padding': max(0, -beyond), **window}
    full = reference.convolution_transpose(x, weight, bias, **whole)
    first = max(0, beyond) // 2
    inside = (..., *(slice(first, first + n * strides) for n in sizes))
    (head,) = draw('head', (2, 6, *(n * strides for n in sizes)))
    wide = np.zeros(full.shape)
    wide[inside] = head
    gradients = reference.convolution_transpose_gradients(wide, x, weight, **whole)
    move = np.asarray if layout == 'first' else lambda value: np.moveaxis(value, 1, -1)
    expected = dict(zip(('output', 'x', 'weight'), (full[inside], *gradients)))
    expected = {**{k: move(v) for k, v in expected.items()}, 'bias': gradients[2]}
    for mode in ('imperative', 'static'):
        layer = getattr(nn, f'Conv{ndim}DTranspose')(
            6,
            kernel,
            padding='same',
            layout=geometry.LAYOUTS[ndim][layout == 'last'],
            in_channels=4,
            **window,
        )
        layer.initialize()
        layer.weight.set_data(array_kind().array(move(weight)))
        layer.bias.set_data(array_kind().array(bias))
        assert_same(measure(layer, move(x), move(head), mode), expected)


@pytest.mark.parametrize('kernel, strides, dilation', SAME)
def test_same_is_the_exact_adjoint_of_a_convolution(
    kernel, strides, dilation, any_dtype_backend, np_or_nd
):
    """Of the one with 'same' without strides, and else of the one that pads what is taken away."""
    window = {'strides': strides, 'dilation': dilation}
    x, weight, y = (
        array_kind().array(value, dtype='float64')
        for value in draw(
            'adjoint of same',
            (2, 3, 4, 5),
            (3, 2, kernel, kernel),
            (2, 2, 4 * strides, 5 * strides),
        )
    )
    up = functional.convolution_transpose(x, weight, padding='same', **window)
    beyond = max(0, beyond_same(kernel, strides, dilation))
    padding = ((beyond // 2, beyond - beyond // 2),) * 2
    for one in (padding, 'same') if strides == 1 else (padding,):
        down = functional.convolution(y, weight, padding=one, **window)
        assert down.shape == x.shape and up.shape == y.shape
        y.attach_grad()
        with autograd.record():
            out = functional.convolution(y, weight, padding=one, **window)
        out.backward(x)
        assert_close('gradient', y.grad.asnumpy(), up.asnumpy(), 1e-12)


def test_same_and_valid_by_hand(any_dtype_backend, np_or_nd):
    x = array_kind().array(np.float32([[[1, 10]]]))
    weight = array_kind().array(np.float32([[[1, 2, 3]]]))

    def up(**arguments):
        found = functional.convolution_transpose(x, weight, layout='NCW', **arguments)
        return found.asnumpy().tolist()[0][0]

    assert up(padding='valid') == [1, 12, 23, 30]
    assert up(padding='valid', strides=3, output_padding=2) == [1, 2, 3, 10, 20, 30, 0, 0]
    assert up(padding='same') == [12, 23]
    assert up(padding='same', strides=2) == [1, 2, 13, 20]
    assert up(padding='same', strides=3) == [1, 2, 3, 10, 20, 30]
    assert up(padding='same', strides=4) == [1, 2, 3, 0, 10, 20, 30, 0]


def test_same_goes_to_the_operator_with_its_own_padding_where_that_can_do_it():
    for kernel, strides, pad, adj in ((4, 2, 1, 0), (3, 1, 1, 0), (2, 3, 0, 1), (1, 4, 0, 3)):
        layers = [
            nn.Conv1DTranspose(4, kernel, strides, *padding, prefix='up_')
            for padding in (('same',), (pad, adj))
        ]
        assert layers[0]._kwargs == layers[1]._kwargs
        assert layers[0].outpad == (adj,)
    assert nn.Conv1DTranspose(4, 3, 2, 'same')._arguments.cut == (1,)


def test_a_layer_that_takes_away_more_behind(any_dtype_backend, np_or_nd):
    layer = nn.Conv2DTranspose(4, (5, 4), 2, 'same', activation='relu', in_channels=3)
    assert 'padding=((1, 2), (1, 1))' in repr(layer) and repr(layer).count('padding') == 1
    assert 'padding=(1, 1)' in repr(nn.Conv2DTranspose(4, 4, 2, 'same'))
    layer.initialize()
    assert layer(array_kind().ones((2, 3, 4, 5))).shape == (2, 4, 8, 10)
    report = swap(layer, 'mxnet')
    reason = 'MXNet has no padding=((1, 2), (1, 1)) of a transposed convolution'
    assert not report.replaced and report.left[0].reason == reason
    assert swap(nn.Conv2DTranspose(4, 4, 2, 'same'), 'mxnet').replaced


def test_same_in_a_network_that_is_exported_optimized_and_cast(
    tmp_path, any_dtype_backend, np_or_nd
):
    net = gluon.nn.HybridSequential()
    net.add(
        nn.Conv2DTranspose(4, 3, 2, 'same', in_channels=3),
        nn.BatchNorm(in_channels=4),
        gluon.nn.Activation('relu'),
        nn.Conv2DTranspose(2, 4, 1, 'same', in_channels=4),
    )
    net.initialize()
    x = array_kind().array(draw('up', (2, 3, 4, 5))[0])
    expected = net(x).asnumpy()
    assert expected.shape == (2, 2, 8, 10)
    assert optimize(net).verify(x).agrees
    net.hybridize()
    assert_close('output', net(x).asnumpy(), expected, 1e-6)
    net.export(str(tmp_path / 'net'))
    again = gluon.SymbolBlock.imports(
        str(tmp_path / 'net-symbol.json'), ['data'], str(tmp_path / 'net-0000.params')
    )
    assert_close('output', again(x).asnumpy(), expected, 1e-6)
    net.cast('float16')
    half = net(x.astype('float16'))
    assert half.dtype == np.float16
    assert_close('output', half.asnumpy(), expected, 1e-2)


def test_same_of_an_empty_batch(any_dtype_backend, np_or_nd):
    with empty_arrays(True):
        layer = nn.Conv2DTranspose(4, 3, 2, 'same', in_channels=3)
        layer.initialize()
        for hybridized in (False, True):
            layer.hybridize(hybridized)
            assert layer(array_kind().zeros((0, 3, 4, 5))).shape == (0, 4, 8, 10)


def test_a_network_that_goes_down_and_up(any_dtype_backend, np_or_nd):
    def network(layers):
        net = gluon.nn.HybridSequential()
        net.add(
            layers.Conv2D(6, 3, 2, 1, activation='relu'),
            layers.Conv2DTranspose(4, 4, 2, 1, activation='relu'),
            layers.Conv2DTranspose(3, 2, 2),
        )
        net.initialize()
        return net

    assert_layers_match(network(nn), network(gluon.nn), draw('up', (2, 3, 8, 8))[0])


def test_a_gradient_is_added_where_that_is_asked_for(any_dtype_backend, np_or_nd):
    case = ConvolutionTransposeCase(strides=2)
    for mode in MODES:
        layer = case.build(nn)
        once = measure(layer, case.x, case.from_loops()[0], mode)['weight']
        layer.collect_params().setattr('grad_req', 'add')
        layer.collect_params().zero_grad()
        x = array_kind().array(case.x)
        for _ in range(3):
            with autograd.record():
                y = layer(x)
            y.backward(array_kind().array(case.from_loops()[0]))
        assert_close('weight', layer.weight.grad().asnumpy(), 3 * once)


# ------------------------------------------------------------------------------- bad input

WRONG = [
    ({'output_padding': 2, 'strides': 2}, ['output_padding=(2, 2)', 'smaller', 'strides=(2, 2)']),
    ({'output_padding': 1}, ['output_padding=(1, 1)', 'strides=(1, 1)']),
    ({'output_padding': -1}, ['output_padding=-1', 'at least 0']),
    ({'output_padding': 'x'}, ["output_padding='x'", 'integer']),
    ({'kernel_size': (3, 3, 3)}, ['kernel_size=(3, 3, 3)', '2']),
    ({'strides': 0}, ['strides=0', 'at least 1']),
    ({'padding': 'full'}, ["padding='full'", "'same', 'valid'"]),
    ({'padding': ((1, 2), (1, 2))}, ['padding=((1, 2), (1, 2))', 'integer']),
    (
        {'padding': 'same', 'output_padding': 1, 'strides': 2},
        ['output_padding=(1, 1)', "padding='same' decides", 'allowed: output_padding=0'],
    ),
    ({'groups': 3}, ['groups=3', 'channels=4', 'divisible']),
    ({'layout': 'NCW'}, ["layout='NCW'", "'NCHW'"]),
    ({'activation': 'reluu'}, ["activation='reluu'", "'relu'"]),
]


@pytest.mark.parametrize(
    'mistake, words', WRONG, ids=lambda v: str(v) if isinstance(v, dict) else ''
)
def test_a_wrong_argument_is_named(mistake, words):
    with pytest.raises((TypeError, ValueError)) as caught:
        nn.Conv2DTranspose(**{'channels': 4, 'kernel_size': 3, **mistake})
    for word in ['Conv2DTranspose', *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize('hybridized', [False, True])
@pytest.mark.parametrize(
    'arguments, shape, words',
    [
        ({}, (2, 3, 9), ['(2, 3, 9)', 'NCHW', '4']),
        ({}, (2, 5, 4, 4), ['5 channels', '(3, 4, 3, 3)', 'first axis']),
        ({'padding': 3}, (2, 3, 4, 4), ['padding=(3, 3)', 'at least (5, 5)', '(4, 4)']),
        ({}, (2, 3, 0, 4), ['at least (1, 1)', '(0, 4)']),
    ],
)
def test_data_that_does_not_fit(arguments, shape, words, hybridized, any_dtype_backend, np_arrays):
    layer = nn.Conv2DTranspose(4, 3, in_channels=3, **arguments)
    layer.initialize()
    layer.hybridize(hybridized)
    with pytest.raises(ValueError) as caught:
        layer(mx.np.zeros(shape))
    for word in ['convolution_transpose', *words]:
        assert word in str(caught.value)
    net = gluon.nn.HybridSequential()
    net.add(layer)
    net.hybridize()
    sentence = str(caught.value).split(':')[0]
    with pytest.raises((ValueError, mx.base.MXNetError), match=sentence):
        net(mx.np.zeros(shape)).asnumpy()


def test_strides_beyond_the_window_leave_the_bias(any_backend, np_or_nd):
    x, weight = (array_kind().array(value) for value in draw('gaps', (1, 2, 3, 3), (2, 4, 1, 1)))
    bias = array_kind().arange(4)
    found = functional.convolution_transpose(x, weight, bias, strides=2).asnumpy()
    expected = np.einsum('nchw,co->nohw', x.asnumpy(), weight.asnumpy()[:, :, 0, 0])
    assert_close('output', found[:, :, ::2, ::2], expected + np.arange(4)[:, None, None])
    gaps = np.ones(found.shape, bool)
    gaps[:, :, ::2, ::2] = False
    assert (found == np.arange(4)[:, None, None])[gaps].all()
