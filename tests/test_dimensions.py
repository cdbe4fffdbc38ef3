"""One, two and three spatial axes, both layouts, every dtype: the same layers, the same answers."""

from __future__ import annotations

import inspect

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

from gluon_convpool import functional, nn
from gluon_convpool.testing import (
    MODES,
    ConvolutionCase,
    PoolingCase,
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

DROP_INS = [layer for layer in nn.OURS if hasattr(gluon.nn, layer.__name__)]
LAYOUTS = {1: 'NWC', 2: 'NHWC', 3: 'NDHWC'}


def arguments_of(layer):
    return (4, 3) if 'Conv' in layer.__name__ else ()


def over_axes(kind, **only):
    return [case for dims in (1, 3) for case in parity_cases(kind, dims, **only)]


# ------------------------------------------------------------------------- as MXNet's own layers


@pytest.mark.parametrize('layer', DROP_INS, ids=lambda layer: layer.__name__)
def test_a_layer_looks_like_the_builtin_one(layer):
    builtin = getattr(gluon.nn, layer.__name__)
    ours, theirs = layer(*arguments_of(layer)), builtin(*arguments_of(layer))
    assert isinstance(ours, builtin)
    assert repr(ours) == repr(theirs)
    assert ours.prefix.rstrip('0123456789_') == theirs.prefix.rstrip('0123456789_')
    names = [
        {p.name[len(one.prefix) :] for p in one.collect_params().values()} for one in (ours, theirs)
    ]
    assert names[0] == names[1]
    own = {'algorithm', 'padding_mode'}
    mine = {k: v for k, v in inspect.signature(layer).parameters.items() if k not in own}
    described = inspect.signature(builtin).parameters
    assert list(mine) == list(described)
    assert all(mine[name].default == described[name].default for name in mine)


@pytest.mark.parametrize('layer', ['Conv1D', 'Conv3D', 'Conv1DTranspose', 'Conv3DTranspose'])
def test_parameter_files_are_exchanged_both_ways(layer, any_dtype_backend, np_or_nd, tmp_path):
    shape = (2, 3, 8) if '1D' in layer else (2, 3, 6, 5, 4)
    x = array_kind().array(draw('exchange', shape)[0])
    for source, target in ((nn, gluon.nn), (gluon.nn, nn)):
        one, other = (gluon.nn.HybridSequential() for _ in range(2))
        one.add(getattr(source, layer)(4, 3, activation='relu'))
        other.add(getattr(target, layer)(4, 3, activation='relu', in_channels=3))
        one.initialize()
        expected = one(x)
        one.save_parameters(str(tmp_path / 'file'))
        other.load_parameters(str(tmp_path / 'file'))
        assert_close('output', other(x).asnumpy(), expected.asnumpy())


@pytest.mark.parametrize('case', over_axes('conv'))
def test_convolution_matches_the_builtin_layer(case, any_dtype_backend, np_arrays):
    assert_layers_match(case.build(nn), case, modes=['imperative', 'static'])


@pytest.mark.parametrize('case', over_axes('pool'))
def test_pooling_matches_the_builtin_layer(case, any_dtype_backend, np_arrays):
    assert_layers_match(case.build(nn), case, modes=['imperative', 'static'])


@pytest.mark.parametrize(
    'case', over_axes('conv', grid='quick')[::3] + over_axes('pool', grid='quick')[::3]
)
def test_legacy_arrays_match_too(case, any_dtype_backend, nd_arrays):
    assert_layers_match(case.build(nn), case, modes=['imperative', 'static'])


@pytest.mark.parametrize(
    'case', over_axes('conv', grid='quick')[::3] + over_axes('pool', grid='quick')[::3]
)
def test_a_new_layer_may_begin_in_any_mode(case, any_dtype_backend, np_or_nd):
    assert_layers_match(lambda: case.build(nn), case)


@pytest.mark.parametrize('case', over_axes('conv', activation=None)[::4])
def test_the_loops_agree_with_the_builtin_convolution(case, np_arrays):
    if case.builtin_can_run:
        _, expected = case.expected()
        assert_same(case.from_loops()[1], expected)


@pytest.mark.parametrize('case', over_axes('pool')[::4])
def test_the_loops_agree_with_the_builtin_pooling(case, np_arrays):
    if case.builtin_can_run:
        _, expected = case.expected()
        assert_same(case.from_loops()[1], expected)


# ---------------------------------------------------------------------------- layouts and dtypes

CONVOLUTIONS = [
    ConvolutionCase(channels=(4, 6), size=size, strides=2, padding=1, groups=2, kernel_size=kernel)
    for size, kernel in (((9,), 3), ((7, 8), (3, 2)), ((5, 6, 4), (2, 3, 1)))
]
POOLINGS = [
    PoolingCase(mode, size=size, pool_size=3, strides=2, padding=1, global_pool=whole)
    for mode, whole in (('max', False), ('avg', True), ('lp', False))
    for size in ((9,), (7, 8), (5, 6, 4))
]
DTYPES = {'float32': 1e-5, 'float64': 1e-13}


def last(value):
    return np.moveaxis(value, 1, -1)


@pytest.mark.parametrize('dtype', list(DTYPES))
@pytest.mark.parametrize('layout', ['first', 'last'])
@pytest.mark.parametrize('case', CONVOLUTIONS, ids=str)
def test_convolution_in_every_layout_and_dtype(case, layout, dtype, any_dtype_backend, np_or_nd):
    move = last if layout == 'last' else np.asarray
    head, expected = case.from_loops()
    expected = {k: v if k == 'bias' else move(v) for k, v in expected.items()}
    name = LAYOUTS[case.ndim] if layout == 'last' else functional.geometry.LAYOUTS[case.ndim][0]
    for mode in MODES:
        layer = getattr(nn, case.layer_name)(**case.arguments, layout=name)
        layer.initialize()
        layer.cast(dtype)
        for key, value in case.parameters.items():
            value = value if key == 'bias' else move(value)
            getattr(layer, key).set_data(array_kind().array(value, dtype=dtype))
        found = measure(layer, move(case.x).astype(dtype), move(head).astype(dtype), mode)
        assert found['output'].dtype == dtype
        assert_same(found, expected, rtol=DTYPES[dtype])


@pytest.mark.parametrize('dtype', list(DTYPES))
@pytest.mark.parametrize('layout', ['first', 'last'])
@pytest.mark.parametrize('case', POOLINGS, ids=str)
def test_pooling_in_every_layout_and_dtype(case, layout, dtype, any_dtype_backend, np_or_nd):
    move = last if layout == 'last' else np.asarray
    head, expected = case.from_loops()
    expected = {k: move(v) for k, v in expected.items()}
    name = LAYOUTS[case.ndim] if layout == 'last' else functional.geometry.LAYOUTS[case.ndim][0]
    for mode in MODES:
        layer = getattr(nn, f'Pool{case.ndim}D')(**case.window, layout=name)
        found = measure(layer, move(case.x).astype(dtype), move(head).astype(dtype), mode)
        assert found['output'].dtype == dtype
        assert_same(found, expected, rtol=DTYPES[dtype])


@pytest.mark.parametrize('ndim', [1, 2, 3])
def test_a_layer_with_channels_last_finds_its_channels(ndim, any_dtype_backend, np_or_nd):
    layer = getattr(nn, f'Conv{ndim}D')(4, 2, groups=2, layout=LAYOUTS[ndim])
    layer.initialize()
    x = array_kind().array(draw('last', (2,) + (5,) * ndim + (6,))[0])
    for hybridized in (False, True):
        layer.hybridize(hybridized)
        assert layer(x).shape == (2,) + (4,) * (ndim + 1)
    assert layer.weight.shape == (4,) + (2,) * ndim + (3,)


@pytest.mark.parametrize('ndim', [1, 3])
def test_functions_take_any_number_of_axes(ndim, any_dtype_backend, np_or_nd):
    for layout in functional.geometry.LAYOUTS[ndim]:
        x, w, b = draw('functions', (2, 3) + (6,) * ndim, (4, 3) + (2,) * ndim, (4,))
        move = np.asarray if layout[1] == 'C' else last
        arrays = [array_kind().array(value) for value in (move(x), move(w), b)]
        found = functional.convolution(*arrays, strides=2, padding=1, layout=layout)
        expected = reference.convolution(x, w, b, strides=2, padding=1)
        assert_close('convolution', found.asnumpy(), move(expected))
        for mode in ('max', 'avg', 'sum'):
            found = functional.pooling(arrays[0], 3, 1, 1, mode=mode, layout=layout)
            expected = reference.pooling(x, 3, 1, 1, mode=mode)
            assert_close(mode, found.asnumpy(), move(expected))


def test_the_reference_agrees_with_plain_arithmetic_over_one_and_three_axes():
    """Ones, so that every sum is the number of elements in a window."""
    y = reference.convolution(np.ones((1, 1, 4)), np.ones((1, 1, 3)), padding=1)
    assert y.tolist() == [[[2, 3, 3, 2]]]
    y = reference.convolution(np.ones((1, 2, 2, 2, 2)), np.ones((1, 2, 2, 2, 2)))
    assert y.tolist() == [[[[[16]]]]]
    y = reference.pooling(np.arange(8.0).reshape(1, 1, 2, 2, 2), 2, mode='avg')
    assert y.tolist() == [[[[[3.5]]]]]


def test_a_network_over_sequences_trains(any_dtype_backend, np_or_nd):
    """A filter is learned from what it does to noise."""
    x, weight = draw('sequences', (8, 2, 20), (3, 2, 5))
    y = array_kind().array(reference.convolution(x, weight, padding=2).astype('float32'))
    x = array_kind().array(x)
    layer = nn.Conv1D(3, 5, padding=2, use_bias=False)
    layer.initialize()
    layer.hybridize()
    trainer = gluon.Trainer(layer.collect_params(), 'adam', {'learning_rate': 0.1})
    for _ in range(150):
        with mx.autograd.record():
            loss = ((layer(x) - y) ** 2).mean()
        loss.backward()
        trainer.step(1)
    np.testing.assert_allclose(layer.weight.data().asnumpy(), weight, atol=1e-2)


# ------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize('ndim', [1, 3])
def test_mistakes_are_named(ndim, any_dtype_backend, np_or_nd):
    layout = functional.geometry.LAYOUTS[ndim][0]
    conv, pool = (getattr(nn, f'{name}{ndim}D') for name in ('Conv', 'MaxPool'))
    wrong = (3,) * (ndim + 1)
    with pytest.raises(ValueError, match=rf'Conv{ndim}D: kernel_size=.* a tuple of {ndim}'):
        conv(4, wrong)
    with pytest.raises(ValueError, match=rf"Conv{ndim}D: layout='NCHW' is unknown; .*'{layout}'"):
        conv(4, 3, layout='NCHW')
    with pytest.raises(ValueError, match=rf'MaxPool{ndim}D: padding=.* smaller than pool_size'):
        pool(2, padding=2)
    layer = conv(4, 3)
    layer.initialize()
    for hybridized in (False, True):
        for block in (layer, pool(4)):
            block.hybridize(hybridized)
            with pytest.raises(ValueError, match='the window must fit'):
                block(array_kind().zeros((1, 2) + (2,) * ndim))
            with pytest.raises(ValueError, match=f'layout {layout} needs {ndim + 2} axes'):
                block(array_kind().zeros((1, 2, 9, 9)))


@pytest.mark.parametrize('ndim', [1, 3])
def test_an_empty_batch_of_legacy_arrays(ndim, any_dtype_backend, nd_arrays):
    with empty_arrays(True):
        for name in ('MaxPool', 'GlobalAvgPool'):
            layer = getattr(nn, f'{name}{ndim}D')()
            assert layer(mx.nd.zeros((0, 2) + (4,) * ndim)).shape[:2] == (0, 2)
