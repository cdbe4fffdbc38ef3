"""What the package offers, and that everything else of `mxnet.gluon.nn` is there unchanged."""

from __future__ import annotations

import inspect
import re

import pytest
from isolated import run
from mxnet import gluon

import gluon_convpool
from gluon_convpool import functional, nn, scratch

OURS = (
    *(
        f'{kind}{dims}D'
        for kind in ('Conv', 'MaxPool', 'AvgPool', 'GlobalMaxPool', 'GlobalAvgPool')
        for dims in (1, 2, 3)
    ),
    *(f'Conv{dims}DTranspose' for dims in (1, 2, 3)),
    *('BatchNorm', 'HybridSequential', 'ReflectionPad2D'),
)
BUILTIN_NAMES = [name for name in dir(gluon.nn) if not name.startswith('_')]


def test_nn_has_every_name_of_the_builtin_module():
    assert set(BUILTIN_NAMES) <= set(dir(nn))


@pytest.mark.parametrize(
    'name', [n for n in BUILTIN_NAMES if inspect.isclass(getattr(gluon.nn, n)) and n not in OURS]
)
def test_other_layers_are_mxnets_own(name):
    assert getattr(nn, name) is getattr(gluon.nn, name)


@pytest.mark.parametrize('name', OURS)
def test_our_layers_are_ours(name):
    layer = getattr(nn, name)
    assert layer is not getattr(gluon.nn, name)
    assert layer.__module__.startswith('gluon_convpool')
    assert layer.__name__ == name


def test_star_import_brings_our_layers():
    names = {}
    exec('from gluon_convpool.nn import *', names)
    for name in OURS:
        assert names[name] is getattr(nn, name)
    assert names['Dense'] is gluon.nn.Dense


@pytest.mark.parametrize(
    'name',
    [
        *(f'{kind}{dims}D' for kind in ('Conv', 'Pool') for dims in (1, 2, 3)),
        *(f'Conv{dims}DTranspose' for dims in (1, 2, 3)),
        'corr2d',
        'pool2d',
        'functional',
        'nn',
        'scratch',
        'use_backend',
        'set_num_threads',
        'get_num_threads',
        'info',
        '__version__',
    ],
)
def test_package_offers(name):
    assert hasattr(gluon_convpool, name)
    assert name in gluon_convpool.__all__


def test_everything_announced_is_there_and_documented():
    for name in gluon_convpool.__all__:
        value = getattr(gluon_convpool, name)
        assert name == '__version__' or inspect.getdoc(value)
    for value in (functional.convolution, functional.pooling, scratch.corr2d, scratch.Conv2D):
        assert inspect.getdoc(value)
    for name in OURS:
        assert '>>>' in inspect.getdoc(getattr(nn, name))


def test_version_is_a_release_number():
    assert re.match(r'\d+\.\d+\.\d+', gluon_convpool.__version__)


def test_short_names_are_the_layers():
    for name in ('Conv1D', 'Conv2D', 'Conv3D', 'Pool1D', 'Pool2D', 'Pool3D'):
        assert getattr(gluon_convpool, name) is getattr(nn, name)
    first = list(inspect.signature(gluon_convpool.Pool2D).parameters.items())[:4]
    assert [(name, parameter.default) for name, parameter in first] == [
        ('pool_size', (2, 2)),
        ('strides', None),
        ('padding', 0),
        ('mode', 'max'),
    ]


def test_function_signatures():
    def described(function):
        parameters = inspect.signature(function).parameters.values()
        empty = inspect.Parameter.empty
        return {p.name: p.default for p in parameters if p.default is not empty}

    convolution = described(functional.convolution)
    assert convolution == {
        'bias': None,
        'strides': 1,
        'padding': 0,
        'dilation': 1,
        'groups': 1,
        'layout': 'NCHW',
        'kernel_size': None,
        'channels': None,
        'name': None,
        'algorithm': 'auto',
        'padding_mode': 'zeros',
    }
    assert described(functional.pooling) == {
        'pool_size': 2,
        'strides': None,
        'padding': 0,
        'mode': 'max',
        'ceil_mode': False,
        'count_include_pad': True,
        'p': 2,
        'global_pool': False,
        'layout': 'NCHW',
        'name': None,
    }


def test_importing_changes_nothing_in_mxnet():
    run(
        """
        import gluon_convpool, mxnet
        assert not mxnet.util.is_np_array() and not mxnet.util.is_np_shape()
        assert mxnet.gluon.nn.Conv2D.__module__ == "mxnet.gluon.nn.conv_layers"
        assert mxnet.gluon.nn.MaxPool2D.__module__ == "mxnet.gluon.nn.conv_layers"
        """
    )
