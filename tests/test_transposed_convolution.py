"""Transposed convolution: as MXNet's own layer gives it, and the exact adjoint of convolution."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

from gluon_convpool import functional, geometry, nn
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
    ({'padding': 'same'}, ["padding='same'", 'integer']),
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
