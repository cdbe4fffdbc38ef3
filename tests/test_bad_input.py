"""Each mistake is met at the call that makes it, by a sentence that a person can act on.

The sentence names the argument, the value it got and what is allowed. Nothing is computed: outputs,
parameters and gradients are as before. In a hybridized network, where shapes come late, MXNet's
error carries the same sentence; on the portable backend with dots for the sizes of the data, which
MXNet adds in words of its own.
"""

from __future__ import annotations

import inspect
import re

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

from gluon_convpool import Conv2D, Pool2D, functional, nn, set_num_threads, use_backend
from gluon_convpool.testing import MODES, array_kind, array_semantics, draw, empty_arrays, set_mode

MISTAKE = (ValueError, TypeError)


def complains(call, *words):
    """Call, and expect a sentence that holds all the words; returns it."""
    with pytest.raises(MISTAKE) as caught:
        call()
    sentence = str(caught.value)
    for word in words:
        assert word in sentence, sentence
    assert '\n' not in sentence and 'Traceback' not in sentence
    return sentence


def in_a_graph(sentence, backend):
    """The sentence as a graph says it: only the native operators know the data's sizes then."""
    if backend == 'native':
        return sentence
    sizes = r'(the data has shape |the data has |has only |in_channels=)(\([^)]*\)|\d+)'
    return re.sub(sizes, r'\1...', sentence)


def network_of(layer, mode):
    """A network of one layer, to which the layer is only a part of a graph."""
    net = gluon.nn.HybridSequential()
    net.add(layer)
    set_mode(net, mode)
    return net


def refuses(net, x, *words):
    """Call, and expect the words somewhere in the error, which may be one of MXNet's."""
    with pytest.raises((mx.base.MXNetError, ValueError, TypeError)) as caught:
        net(x).asnumpy()
    for word in words:
        assert word in str(caught.value)


def ones(*shape, dtype='float32', **arguments):
    return array_kind().ones(shape, dtype=dtype, **arguments)


# -------------------------------------------------------------------------------- constructors

CONV_MISTAKES = [
    ({'groups': 3, 'in_channels': 8, 'channels': 6}, ['groups=3', 'in_channels=8', 'divisible']),
    ({'groups': 3, 'in_channels': 6}, ['groups=3', 'channels=4', 'divisible']),
    ({'groups': 3}, ['groups=3', 'channels=4', 'divisible']),
    ({'groups': 0}, ['groups=0', 'at least 1']),
    ({'groups': -1}, ['groups=-1', 'at least 1']),
    ({'groups': 'two'}, ["groups='two'", 'integer']),
    ({'channels': 0}, ['channels=0', 'at least 1']),
    ({'channels': 2.5}, ['channels=2.5', 'integer']),
    ({'in_channels': -3}, ['in_channels=-3', 'at least 0']),
    ({'kernel_size': 0}, ['kernel_size=0', 'at least 1']),
    ({'kernel_size': (3, 0)}, ['kernel_size=(3, 0)', 'at least 1']),
    ({'kernel_size': -2}, ['kernel_size=-2', 'at least 1']),
    ({'kernel_size': (3,)}, ['kernel_size=(3,)', '2']),
    ({'kernel_size': (3, 3, 3)}, ['kernel_size=(3, 3, 3)', '2']),
    ({'kernel_size': ()}, ['kernel_size=()', '2']),
    ({'kernel_size': '3'}, ["kernel_size='3'", 'integer']),
    ({'kernel_size': 2.5}, ['kernel_size=2.5', 'integer']),
    ({'kernel_size': (3, 1.5)}, ['kernel_size=(3, 1.5)', 'integer']),
    ({'kernel_size': None}, ['kernel_size=None', 'integer']),
    ({'kernel_size': (3, None)}, ['kernel_size=(3, None)', 'integer']),
    ({'kernel_size': True}, ['kernel_size=True', 'integer']),
    ({'strides': 0}, ['strides=0', 'at least 1']),
    ({'strides': (1, 0)}, ['strides=(1, 0)', 'at least 1']),
    ({'strides': -1}, ['strides=-1', 'at least 1']),
    ({'strides': (1, 2, 3)}, ['strides=(1, 2, 3)', '2']),
    ({'strides': 'fast'}, ["strides='fast'", 'integer']),
    ({'strides': None}, ['strides=None', 'integer']),
    ({'padding': -1}, ['padding=-1', 'at least 0']),
    ({'padding': (0, -2)}, ['padding=(0, -2)', 'at least 0']),
    ({'padding': (1,)}, ['padding=(1,)', '2']),
    ({'padding': 0.5}, ['padding=0.5', 'integer']),
    ({'padding': ['a', 'b']}, ["padding=['a', 'b']", 'integer']),
    ({'dilation': 0}, ['dilation=0', 'at least 1']),
    ({'dilation': (0, 1)}, ['dilation=(0, 1)', 'at least 1']),
    ({'dilation': (1, 1, 1, 1)}, ['dilation=(1, 1, 1, 1)', '2']),
    ({'layout': 'NWHC'}, ["layout='NWHC'", "'NCHW'", "'NHWC'"]),
    ({'layout': 'NCW'}, ["layout='NCW'", "'NCHW'"]),
    ({'layout': None}, ['layout=None', "'NCHW'"]),
    ({'activation': 'reluu'}, ["activation='reluu'", "'relu'", "'sigmoid'", "'tanh'"]),
    ({'activation': 3}, ['activation=3', "'relu'"]),
    ({'use_bias': 'x'}, ["use_bias='x'", 'True, False']),
    ({'use_bias': 2}, ['use_bias=2', 'True, False']),
    ({'algorithm': 'fft'}, ["algorithm='fft'", "'auto'", "'implicit_gemm'", "'winograd'"]),
    ({'algorithm': None}, ['algorithm=None', "'auto'", "'depthwise'"]),
    ({'algorithm': 1}, ['algorithm=1', "'auto'"]),
]
POOL_MISTAKES = [
    ({'pool_size': 0}, ['pool_size=0', 'at least 1']),
    ({'pool_size': (2, -1)}, ['pool_size=(2, -1)', 'at least 1']),
    ({'pool_size': (2, 2, 2)}, ['pool_size=(2, 2, 2)', '2']),
    ({'pool_size': (2,)}, ['pool_size=(2,)', '2']),
    ({'pool_size': '2'}, ["pool_size='2'", 'integer']),
    ({'pool_size': None}, ['pool_size=None', 'integer']),
    ({'pool_size': 1.5}, ['pool_size=1.5', 'integer']),
    ({'strides': 0}, ['strides=0', 'at least 1']),
    ({'strides': (2, 0)}, ['strides=(2, 0)', 'at least 1']),
    ({'strides': (1, 2, 3)}, ['strides=(1, 2, 3)', '2']),
    ({'strides': 'x'}, ["strides='x'", 'integer']),
    ({'padding': -1}, ['padding=-1', 'at least 0']),
    ({'padding': (1, 1, 1)}, ['padding=(1, 1, 1)', '2']),
    ({'padding': 2}, ['padding', '(2, 2)', 'pool_size']),
    ({'padding': (0, 5)}, ['padding', '(0, 5)', 'pool_size', '(2, 2)']),
    ({'pool_size': (5, 1), 'padding': 1}, ['padding', '(1, 1)', 'pool_size', '(5, 1)']),
    ({'layout': 'NHCW'}, ["layout='NHCW'", "'NCHW'", "'NHWC'"]),
    ({'ceil_mode': 'yes'}, ["ceil_mode='yes'", 'True']),
]
OWN_POOL_MISTAKES = [
    ({'mode': 'median'}, ["mode='median'", "'max'", "'avg'", "'sum'", "'lp'"]),
    ({'mode': None}, ['mode=None', "'max'"]),
    ({'mode': 'MAX'}, ["mode='MAX'", "'max'"]),
    ({'mode': 'lp', 'p': 4}, ['p=4', '1, 2, 3']),
    ({'mode': 'lp', 'p': 0}, ['p=0', '1, 2, 3']),
    ({'mode': 'lp', 'p': 1.5}, ['p=1.5', '1, 2, 3']),
    ({'count_include_pad': 'no'}, ["count_include_pad='no'", 'True']),
]


def _id(value):
    return ','.join('%s=%r' % item for item in value.items()) if isinstance(value, dict) else ''


REQUIRED = {
    'Conv': {'channels': 4, 'kernel_size': 3},
    'Deformable': {'channels': 4, 'kernel_size': 3},
    'ModulatedDeformable': {'channels': 4, 'kernel_size': 3},
    'Depthwise': {'in_channels': 4, 'kernel_size': 3},
    'Separable': {'channels': 4, 'in_channels': 4, 'kernel_size': 3},
}
EVERY_LAYER = sorted(
    {*nn.OURS} - {nn.HybridSequential},  # whose constructor is MXNet's
    key=lambda layer: layer.__name__,
)


@pytest.mark.parametrize('layer', EVERY_LAYER, ids=lambda layer: layer.__name__)
def test_unknown_keyword(layer):
    name = layer.__name__
    fine = REQUIRED.get(name.split('Conv')[0] or 'Conv', {})
    layer(**fine, prefix='fine_')
    allowed = [word for word in inspect.signature(layer).parameters if word != 'kwargs']
    for keyword in ('paddding', 'return_indices'):
        with pytest.raises(TypeError) as caught:
            layer(**fine, **{keyword: 3})
        sentence = str(caught.value)
        assert sentence.startswith(f'{name}: {keyword}=3 is no argument of it; allowed: ')
        assert sentence.split('allowed: ')[1].split(', ')[: len(allowed)] == allowed
        assert 'prefix' in sentence and 'params' in sentence


@pytest.mark.parametrize(
    'call, words',
    [
        (lambda: nn.DepthwiseConv2D(3, 3, groups=2), ['DepthwiseConv2D: groups=2', 'multiplier']),
        (
            lambda: nn.Conv2DTranspose(4, 3, padding_mode='reflect'),
            ["Conv2DTranspose: padding_mode='reflect'", 'output_padding'],
        ),
        (lambda: nn.Conv2D(4), ['Conv2D: ', 'kernel_size']),
        (lambda: nn.MaxPool2D(*range(2, 10)), ['MaxPool2D: ', 'positional']),
        (lambda: nn.Conv3DTranspose(4, 3, use_bias='no'), ["Conv3DTranspose: use_bias='no'"]),
        (
            lambda: nn.DeformableConvolution(4, 3, offset_use_bias='no'),
            ["DeformableConvolution: offset_use_bias='no'", 'True, False'],
        ),
    ],
)
def test_what_a_constructor_does_not_take(call, words):
    complains(call, *words)


def test_a_layer_that_inherits_may_take_more():
    class Mine(nn.Conv2D):
        def __init__(self, channels, mine, **kwargs):
            super().__init__(channels, 3, **kwargs)
            self.mine = mine

    assert Mine(4, mine=5, padding=1).mine == 5
    complains(lambda: Mine(4, mine=5, yours=6), 'Mine: yours=6', 'padding_mode')


@pytest.mark.parametrize('mistake, words', CONV_MISTAKES, ids=_id)
@pytest.mark.parametrize('layer', [nn.Conv2D, Conv2D], ids=['nn.Conv2D', 'Conv2D'])
def test_convolution_layer(layer, mistake, words):
    complains(lambda: layer(**{'channels': 4, 'kernel_size': 3, **mistake}), 'Conv2D', *words)


@pytest.mark.parametrize('mistake, words', POOL_MISTAKES, ids=_id)
@pytest.mark.parametrize('layer', [nn.MaxPool2D, nn.AvgPool2D, Pool2D], ids=lambda c: c.__name__)
def test_pooling_layer(layer, mistake, words):
    complains(lambda: layer(**mistake), layer.__name__, *words)


@pytest.mark.parametrize('mistake, words', OWN_POOL_MISTAKES, ids=_id)
def test_pooling_block(mistake, words):
    complains(lambda: Pool2D(**mistake), 'Pool2D', *words)


@pytest.mark.parametrize('layer', [nn.GlobalMaxPool2D, nn.GlobalAvgPool2D])
def test_global_pooling_layer(layer):
    complains(lambda: layer(layout='NCW'), layer.__name__, "layout='NCW'", "'NCHW'")


@pytest.mark.parametrize(
    'mistake, words',
    [
        pair
        for pair in CONV_MISTAKES
        if set(pair[0]) <= {'strides', 'padding', 'dilation', 'groups', 'algorithm'}
    ],
    ids=_id,
)
def test_convolution_function(mistake, words, any_backend, np_or_nd):
    x, weight = ones(2, 6, 9, 9), ones(4, 6, 3, 3)
    complains(lambda: functional.convolution(x, weight, **mistake), 'convolution', words[-1])


@pytest.mark.parametrize('mistake, words', POOL_MISTAKES + OWN_POOL_MISTAKES, ids=_id)
def test_pooling_function(mistake, words, any_backend, np_or_nd):
    complains(lambda: functional.pooling(ones(2, 3, 9, 9), **mistake), 'pooling', *words)


# ------------------------------------------------------------------------- arrays that don't fit


def shape_mistakes():
    """(id, layer, good input, bad input, words of the sentence)"""
    conv, pool = nn.Conv2D, nn.MaxPool2D
    good = (2, 3, 9, 9)
    return [
        ('channels', conv(4, 3), good, (2, 5, 9, 9), ['5 channels', '(4, 3, 3, 3)']),
        (
            'one channel',
            conv(4, 3, in_channels=3),
            good,
            (2, 1, 9, 9),
            ['1 channels', '(4, 3, 3, 3)'],
        ),
        (
            'grouped channels',
            conv(6, 3, groups=3),
            good,
            (2, 6, 9, 9),
            ['6 channels', '(6, 1, 3, 3)', 'groups=3'],
        ),
        ('three axes', conv(4, 3), good, (3, 9, 9), ['(3, 9, 9)', 'NCHW', '4']),
        ('five axes', conv(4, 3), good, (2, 3, 9, 9, 9), ['(2, 3, 9, 9, 9)', 'NCHW', '4']),
        ('one axis', conv(4, 3), good, (7,), ['(7,)', 'NCHW', '4']),
        ('wide three axes', conv(4, 3, padding=4), good, (3, 9, 9), ['(3, 9, 9)', 'NCHW', '4']),
        ('small', conv(4, 3), good, (2, 3, 2, 9), ['(3, 3)', '(2, 9)']),
        (
            'small padded',
            conv(4, 7, padding=1),
            good,
            (2, 3, 9, 4),
            ['(7, 7)', '(1, 1)', '(11, 6)'],
        ),
        ('small dilated', conv(4, 3, dilation=(1, 4)), good, (2, 3, 9, 8), ['(1, 4)', '(3, 9)']),
        ('pool three axes', pool(2), good, (3, 9, 9), ['(3, 9, 9)', 'NCHW', '4']),
        ('pool two axes', pool(2), good, (9, 9), ['(9, 9)', 'NCHW', '4']),
        ('pool small', pool(4), good, (2, 3, 9, 3), ['(4, 4)', '(9, 3)']),
        ('pool small padded', pool(5, 1, 1), good, (2, 3, 2, 9), ['(5, 5)', '(1, 1)', '(4, 11)']),
        ('pool small ceil', pool(4, ceil_mode=True), good, (2, 3, 3, 9), ['(4, 4)', '(3, 9)']),
        ('avg small', nn.AvgPool2D(4), good, (2, 3, 3, 9), ['(4, 4)', '(3, 9)']),
        ('global three axes', nn.GlobalAvgPool2D(), good, (3, 9, 9), ['(3, 9, 9)', 'NCHW', '4']),
        ('global nothing', nn.GlobalMaxPool2D(), good, (2, 3, 0, 9), ['(0, 9)']),
        ('nothing', conv(4, 3), good, (2, 3, 0, 9), ['(3, 3)', '(0, 9)']),
    ]


SHAPE_MISTAKES = [mistake[0] for mistake in shape_mistakes()]


def _shape_mistake(name):
    _, layer, good, bad, words = next(m for m in shape_mistakes() if m[0] == name)
    layer.initialize()
    return layer, good, bad, words


@pytest.mark.parametrize('name', SHAPE_MISTAKES)
def test_array_of_a_wrong_shape(name, any_backend, np_or_nd):
    layer, good, bad, words = _shape_mistake(name)
    if np_or_nd == 'nd' and 0 in bad:
        pytest.skip('legacy arrays have no axis of size 0')
    layer(ones(*good))
    before = {p.name: p.data().asnumpy() for p in layer.collect_params().values()}
    for parameter in layer.collect_params().values():
        parameter.grad()[:] = 7
    x = ones(*bad)
    x.attach_grad()
    complains(lambda: layer(x), *words)
    with autograd.record():
        complains(lambda: layer(x), *words)
    for parameter in layer.collect_params().values():
        np.testing.assert_array_equal(parameter.data().asnumpy(), before[parameter.name])
        assert (parameter.grad().asnumpy() == 7).all()
    assert (x.grad.asnumpy() == 0).all()
    assert layer(ones(*good)).shape


@pytest.mark.parametrize('name', SHAPE_MISTAKES)
def test_array_of_a_wrong_shape_before_the_first_good_one(name, any_backend, np_or_nd):
    """A layer that still waits for its first input is left waiting."""
    layer, good, bad, words = _shape_mistake(name)
    if np_or_nd == 'nd' and 0 in bad:
        pytest.skip('legacy arrays have no axis of size 0')
    if name in ('channels', 'grouped channels'):
        pytest.skip('before the first good input these channels are good')
    complains(lambda: layer(ones(*bad)), *[word for word in words if 'channels' not in word][-1:])
    assert layer(ones(*good)).shape
    if 'weight' in layer._reg_params:
        assert layer.weight.shape[1] * layer._kwargs['num_group'] == good[1]


def test_first_input_not_divisible_by_groups(any_backend, np_or_nd):
    layer = nn.Conv2D(6, 3, groups=3)
    layer.initialize()
    complains(lambda: layer(ones(2, 8, 9, 9)), 'groups=3', '8', 'divisible')
    assert layer(ones(2, 9, 9, 9)).shape == (2, 6, 7, 7)


@pytest.mark.parametrize('mode', MODES[1:])
@pytest.mark.parametrize('started', [True, False], ids=['started', 'deferred'])
@pytest.mark.parametrize('name', SHAPE_MISTAKES)
def test_a_hybridized_network_says_the_same_sentence(name, started, mode, any_backend, np_or_nd):
    layer, good, bad, _ = _shape_mistake(name)
    if np_or_nd == 'nd' and 0 in bad:
        pytest.skip('legacy arrays have no axis of size 0')
    if not started and name in ('channels', 'grouped channels'):
        pytest.skip('before the first good input these channels are good')
    if started:
        layer(ones(*good))
    sentence = complains(lambda: layer(ones(*bad)))
    net = network_of(layer, mode)
    if started:
        net(ones(*good))
    refuses(net, ones(*bad), in_a_graph(sentence, any_backend))
    assert net(ones(*good)).asnumpy().size


@pytest.mark.parametrize('mode', MODES[1:])
@pytest.mark.parametrize('name', ['small', 'pool small', 'avg small', 'global nothing'])
def test_an_empty_batch_does_not_hide_a_window_that_does_not_fit(
    name, mode, any_backend, np_arrays
):
    layer, good, bad, _ = _shape_mistake(name)
    layer(ones(*good))
    sentence = complains(lambda: layer(ones(0, *bad[1:])))
    refuses(network_of(layer, mode), ones(0, *bad[1:]), in_a_graph(sentence, any_backend))


@pytest.mark.parametrize('mode', MODES[1:])
def test_channels_that_groups_do_not_divide_in_a_hybridized_network(mode, any_backend, np_or_nd):
    layer = nn.Conv2D(6, 3, groups=3)
    layer.initialize()
    sentence = complains(lambda: layer(ones(2, 8, 9, 9)))
    net = network_of(layer, mode)
    refuses(net, ones(2, 8, 9, 9), in_a_graph(sentence, any_backend))
    assert net(ones(2, 9, 9, 9)).shape == (2, 6, 7, 7)


@pytest.mark.parametrize(
    'call, weight',
    [
        (functional.convolution, (4, 0, 3, 3)),
        (functional.convolution_transpose, (0, 4, 3, 3)),
    ],
)
def test_data_without_channels(call, weight, any_backend, np_arrays):
    words = call.__name__, 'in_channels=0', 'at least 1'
    complains(lambda: call(ones(2, 0, 9, 9), ones(*weight)), *words)

    class Mine(gluon.HybridBlock):
        def hybrid_forward(self, F, x, w):
            return call(x, w, kernel_size=3, channels=4)

    mine = Mine()
    mine.hybridize()
    with pytest.raises(mx.base.MXNetError) as caught:
        mine(ones(2, 0, 9, 9), ones(*weight)).asnumpy()
    if any_backend == 'native':
        assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize('declared', [True, False])
@pytest.mark.parametrize(
    'weight, bias, words',
    [
        ((4, 3, 5, 5), (4,), ['convolution: ', 'weight']),
        ((5, 3, 3, 3), (4,), ['convolution: ', 'weight']),
        ((4, 2, 3, 3), (4,), ['convolution: the data has ', 'takes as many as its input channels']),
        ((4, 3, 3, 3), (5,), ['convolution: bias has shape ', 'expected (4,)']),
        ((4, 3, 3, 3), (1,), ['convolution: bias has shape ', 'expected (4,)']),
    ],
)
def test_weight_and_bias_of_a_wrong_shape_in_a_graph(
    weight, bias, words, declared, any_backend, np_or_nd
):
    """Whether the graph's variables were declared with these shapes or only meet them later."""

    class Mine(gluon.HybridBlock):
        def hybrid_forward(self, F, x, w, b):
            return functional.convolution(x, w, b, kernel_size=3, channels=4)

    with pytest.raises((mx.base.MXNetError, ValueError)) as caught:
        if declared:
            variables = [_variable('x'), _variable('w', weight), _variable('b', bias)]
            Mine()(*variables).infer_shape(x=(2, 3, 9, 9))
        else:
            mine = Mine()
            mine.hybridize()
            mine(ones(2, 3, 9, 9), ones(*weight), ones(*bias))
    for word in words:
        assert word in str(caught.value)


def test_later_messages_of_a_hybridized_network_still_name_their_own_mistake(native, np_or_nd):
    """MXNet repeats old messages of an extension operator in new ones; ours must be in it."""
    net = network_of(nn.Conv2D(4, 3, in_channels=3), 'hybrid')
    net.initialize()
    for bad, word in (((2, 5, 9, 9), '5 channels'), ((2, 6, 9, 9), '6 channels')):
        refuses(net, ones(*bad), word)


# ----------------------------------------------------------------------------- forced algorithms

# What an algorithm can never compute: arguments of a layer over 8 channels, and the words.
UNFIT = [
    (
        {'algorithm': 'winograd', 'kernel_size': 1, 'strides': 3},
        ["algorithm='winograd'", 'kernel_size=(1, 1)', 'strides=(3, 3)', 'it needs a kernel_size'],
    ),
    (
        {'algorithm': 'winograd', 'kernel_size': 3, 'strides': 3, 'dilation': 2},
        ["algorithm='winograd'", 'strides=(3, 3)', 'dilation=(2, 2)', 'it needs', 'strides=1'],
    ),
    (
        {'algorithm': 'depthwise', 'kernel_size': 3},
        ["algorithm='depthwise'", 'groups=1', '(2, 8, 9, 9)', 'it needs groups equal to'],
    ),
]


@pytest.mark.parametrize('hybridized', [False, True])
@pytest.mark.parametrize('arguments, words', UNFIT, ids=_id)
def test_an_algorithm_that_cannot_compute_this_layer(
    arguments, words, hybridized, native, np_or_nd
):
    layer = nn.Conv2D(4, **arguments)
    layer.initialize()
    layer.hybridize(hybridized)
    complains(lambda: layer(ones(2, 8, 9, 9)), 'convolution', *words)
    assert layer.weight.shape[1] in (0, -1)
    layer._kwargs['algorithm'] = 'auto'
    assert layer(ones(2, 8, 9, 9)).shape[:2] == (2, 4)


@pytest.mark.parametrize('arguments, words', UNFIT, ids=_id)
def test_an_algorithm_that_cannot_compute_this_call(arguments, words, native, np_or_nd):
    arguments = dict(arguments)
    kernel = arguments.pop('kernel_size')
    weight = ones(4, 8, kernel, kernel)
    complains(lambda: functional.convolution(ones(2, 8, 9, 9), weight, **arguments), *words)


@pytest.mark.parametrize('mode', MODES[1:])
@pytest.mark.parametrize('started', [True, False], ids=['started', 'deferred'])
@pytest.mark.parametrize('arguments', [pair[0] for pair in UNFIT], ids=_id)
def test_an_algorithm_that_cannot_compute_a_layer_of_a_hybridized_network(
    arguments, started, mode, native, np_or_nd
):
    layer = nn.Conv2D(4, **arguments, in_channels=8 if started else 0)
    layer.initialize()
    sentence = complains(lambda: layer(ones(2, 8, 9, 9)))
    refuses(network_of(layer, mode), ones(2, 8, 9, 9), sentence)


@pytest.mark.parametrize('algorithm', ['implicit_gemm', 'winograd', 'depthwise'])
def test_the_portable_backend_has_no_algorithms(algorithm, np_or_nd):
    use_backend('portable')
    words = ['convolution', f'algorithm={algorithm!r}', 'native', "'portable' was asked for"]
    x, weight = ones(2, 8, 9, 9), ones(4, 8, 3, 3)
    complains(lambda: functional.convolution(x, weight, algorithm=algorithm), *words)
    layer = nn.Conv2D(4, 3, algorithm=algorithm)
    layer.initialize()
    complains(lambda: layer(x), *words)
    layer.hybridize()
    complains(lambda: layer(x), *words)
    complains(lambda: layer(_variable('x')), *words)
    assert layer.weight.shape[1] in (0, -1)


def test_an_algorithm_over_what_only_the_portable_backend_serves(native, np_or_nd):
    use_backend('auto')
    x, weight = ones(2, 8, 9, 9, dtype='float16'), ones(4, 8, 3, 3, dtype='float16')
    words = ["algorithm='implicit_gemm'", 'native', 'float16']
    complains(lambda: functional.convolution(x, weight, algorithm='implicit_gemm'), *words)


def test_the_operator_knows_the_same_algorithms(native):
    with pytest.raises(mx.base.MXNetError) as caught:
        mx.nd.convpool_convolution(
            mx.nd.ones((1, 1, 3, 3)),
            mx.nd.ones((1, 1, 1, 1)),
            kernel=(1, 1),
            num_filter=1,
            no_bias=True,
            algorithm='fft',
        )
    sentence = complains(lambda: Conv2D(1, 1, algorithm='fft')).replace('Conv2D', 'convolution')
    assert sentence in str(caught.value)


# ------------------------------------------------------------------------- weights and biases


@pytest.mark.parametrize(
    'weight, bias, words',
    [
        ((4, 3, 3), None, ['weight', '(4, 3, 3)']),
        ((4, 3, 3, 3, 3), None, ['weight', '(4, 3, 3, 3, 3)']),
        ((4, 2, 3, 3), None, ['3 channels', '(4, 2, 3, 3)']),
        ((4, 3, 3, 3), (5,), ['bias', '(5,)', '(4,)']),
        ((4, 3, 3, 3), (4, 1), ['bias', '(4, 1)', '(4,)']),
        ((4, 3, 10, 3), None, ['(10, 3)', '(9, 9)']),
    ],
)
def test_weight_and_bias_of_a_wrong_shape(weight, bias, words, any_backend, np_or_nd):
    bias = None if bias is None else ones(*bias)
    complains(lambda: functional.convolution(ones(2, 3, 9, 9), ones(*weight), bias), *words)


# --------------------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize('dtype', ['int32', 'int8', 'uint8', 'int64'])
def test_unsupported_dtype(dtype, any_backend, np_or_nd):
    words = [dtype, 'float32']
    x, weight = ones(2, 3, 9, 9, dtype=dtype), ones(4, 3, 3, 3, dtype=dtype)
    complains(lambda: functional.convolution(x, weight), 'convolution', *words)
    complains(lambda: functional.pooling(x, mode='lp'), 'pooling', *words)
    complains(lambda: Pool2D(mode='lp')(x), *words)


@pytest.mark.parametrize('dtype', ['int32', 'float64', 'float16'])
def test_layer_met_with_another_dtype_than_its_parameters(dtype, any_backend, np_or_nd):
    layer = nn.Conv2D(4, 3, in_channels=3)
    layer.initialize()
    complains(lambda: layer(ones(2, 3, 9, 9, dtype=dtype)), dtype, 'float32')
    deferred = nn.Conv2D(4, 3)
    deferred.initialize()
    complains(lambda: deferred(ones(2, 3, 9, 9, dtype=dtype)), dtype, 'float32')
    assert deferred(ones(2, 3, 9, 9)).shape == (2, 4, 7, 7)


@pytest.mark.parametrize('which', range(3))
def test_mixed_dtypes(which, any_backend, np_or_nd):
    shapes = ((2, 3, 9, 9), (4, 3, 3, 3), (4,))
    inputs = [
        ones(*shape, dtype='float64' if i == which else 'float32') for i, shape in enumerate(shapes)
    ]
    complains(lambda: functional.convolution(*inputs), 'float32', 'float64', 'dtype')


@pytest.mark.parametrize('dtype', ['int32', 'float64'])
def test_mixed_dtypes_in_a_hybridized_network(dtype, any_backend, np_or_nd):
    net = network_of(nn.Conv2D(4, 3, in_channels=3), 'hybrid')
    net.initialize()
    net(ones(2, 3, 9, 9))
    refuses(net, ones(2, 3, 9, 9, dtype=dtype), dtype, 'float32')


# ------------------------------------------------------------------- devices, kinds, other things


@pytest.mark.parametrize('which', range(3))
def test_arrays_on_different_devices(which, any_backend, np_or_nd):
    shapes = ((2, 3, 9, 9), (4, 3, 3, 3), (4,))
    inputs = [
        ones(*shape, ctx=mx.cpu(1) if i == which else mx.cpu(0)) for i, shape in enumerate(shapes)
    ]
    complains(lambda: functional.convolution(*inputs), 'device', 'cpu(0)', 'cpu(1)')


def test_layer_met_with_an_array_on_another_device(any_backend, np_or_nd):
    layer = nn.Conv2D(4, 3, in_channels=3)
    layer.initialize(ctx=mx.cpu(0))
    complains(lambda: layer(ones(2, 3, 9, 9, ctx=mx.cpu(1))), 'device', 'cpu(0)', 'cpu(1)')


def test_layer_on_two_devices_runs_on_each(any_backend, np_or_nd):
    (x,) = draw('devices', (2, 3, 9, 9))
    layer = nn.Conv2D(4, 3, in_channels=3)
    layer.initialize(mx.init.Normal(1), ctx=[mx.cpu(0), mx.cpu(1)])
    y = [layer(array_kind().array(x, ctx=mx.cpu(i))) for i in range(2)]
    assert [one.ctx for one in y] == [mx.cpu(0), mx.cpu(1)]
    np.testing.assert_array_equal(y[0].asnumpy(), y[1].asnumpy())


def _variable(name, shape=None):
    variable = mx.sym.var(name, shape=shape)
    return variable.as_np_ndarray() if mx.util.is_np_array() else variable


def test_symbol_mixed_with_an_array(any_backend, np_or_nd):
    x, weight = ones(2, 3, 9, 9), ones(4, 3, 3, 3)
    extra = {'kernel_size': 3, 'channels': 4}
    for inputs in ((_variable('x'), weight), (x, _variable('w')), (x, weight, _variable('b'))):
        complains(lambda inputs=inputs: functional.convolution(*inputs, **extra), 'ymbol', 'array')


def test_np_array_mixed_with_nd_array(any_backend):
    with array_semantics('np'):
        x, weight = ones(2, 3, 9, 9), ones(4, 3, 3, 3)
        complains(lambda: functional.convolution(x, weight.as_nd_ndarray()), 'mx.np', 'mx.nd')
        complains(lambda: functional.convolution(x.as_nd_ndarray(), weight), 'mx.np', 'mx.nd')


@pytest.mark.parametrize('thing', [np.ones((2, 3, 9, 9), 'float32'), [[1.0]], None, 3.0, 'x'])
def test_things_that_are_no_arrays(thing, any_backend, np_or_nd):
    kind = type(thing).__name__
    complains(lambda: functional.pooling(thing), 'pooling', kind if thing is not None else '')
    complains(lambda: functional.convolution(thing, ones(4, 3, 3, 3)), 'convolution')


def test_symbols_need_the_sizes_that_only_arrays_know(any_backend, np_or_nd):
    x, weight = _variable('x'), _variable('w')
    complains(lambda: functional.convolution(x, weight, channels=4), 'kernel_size')
    complains(lambda: functional.convolution(x, weight, kernel_size=3), 'channels')


def test_unknown_backend():
    sentence = complains(lambda: use_backend('cuda'), "'cuda'", "'native'", "'portable'", "'auto'")
    assert 'use_backend' in sentence
    complains(lambda: use_backend(None), 'None', "'native'")


@pytest.mark.parametrize('threads', [0, -1, 1.5, 'two', None, True])
def test_number_of_threads(threads):
    complains(lambda: set_num_threads(threads), repr(threads))


# --------------------------------------------------------------------------- empty and too large


def test_output_of_more_elements_than_an_array_holds(any_backend, np_arrays):
    """Refused before any memory is asked for; the input itself is small."""
    x = ones(1, 1, 1, 1)
    wide = nn.Conv2D(1, 1, padding=40000, in_channels=1)
    wide.initialize()
    complains(lambda: wide(x), '(1, 1, 80001, 80001)')
    complains(
        lambda: functional.pooling(x, 50001, strides=1, padding=50000), '(1, 1, 50001, 50001)'
    )


def test_output_of_too_many_elements_in_a_hybridized_network(native, np_arrays):
    net = network_of(nn.Conv2D(1, 1, padding=40000, in_channels=1), 'hybrid')
    net.initialize()
    refuses(net, ones(1, 1, 1, 1), '(1, 1, 80001, 80001)')


def test_arguments_beyond_32_bits(any_backend, np_arrays):
    x = ones(1, 1, 4, 4)
    for padding in (2**31 - 1, 2**31, 2**62):
        complains(lambda padding=padding: functional.convolution(x, x, padding=padding))
    complains(lambda: functional.convolution(x, x, dilation=2**31), '(2147483648, 2147483648)')
    assert functional.convolution(x, x, strides=2**31 - 1).asnumpy().tolist() == [[[[16]]]]


@pytest.mark.parametrize('mode', MODES)
def test_an_empty_batch_gives_an_empty_output_and_zero_gradients(mode, any_backend, np_or_nd):
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, in_channels=3), nn.MaxPool2D(), nn.AvgPool2D(), nn.GlobalAvgPool2D())
    net.initialize()
    set_mode(net, mode)
    with empty_arrays():
        x = ones(0, 3, 12, 12)
        x.attach_grad()
        for parameter in net.collect_params().values():
            parameter.grad()[:] = 7
        with autograd.record():
            y = net(x)
        y.backward()
        assert y.shape == (0, 4, 1, 1) and x.grad.shape == (0, 3, 12, 12)
        for parameter in net.collect_params().values():
            assert (parameter.grad().asnumpy() == 0).all(), parameter.name
