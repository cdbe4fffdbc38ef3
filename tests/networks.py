"""The networks of MXNet's model zoo as the tests run them, and these networks made smooth."""

from __future__ import annotations

import contextlib

import mxnet as mx
from models_common import data, walk, with_small_branches
from mxnet.gluon.model_zoo import vision

from gluon_convpool import nn

# The smallest odd sizes that end in a pooling which still fits.
SIZES = {'densenet': (225, 231), 'inception': (301, 303), 'squeezenet': (225, 229)}
OTHERWISE = (67, 75)

NETWORKS = (
    'alexnet',
    *(f'densenet{n}' for n in (121, 161, 169, 201)),
    'inceptionv3',
    *(f'mobilenet{n}' for n in ('0.25', '0.5', '0.75', '1.0')),
    *(f'mobilenetv2_{n}' for n in ('0.25', '0.5', '0.75', '1.0')),
    *(f'resnet{n}_v{version}' for version in (1, 2) for n in (18, 34, 50, 101, 152)),
    *(f'squeezenet{n}' for n in ('1.0', '1.1')),
    *(f'vgg{n}{norm}' for norm in ('', '_bn') for n in (11, 13, 16, 19)),
)
# Their concatenations, and mobilenetv2's clipping, take legacy arrays only, in MXNet's own code.
LEGACY_ONLY = ('densenet', 'inception', 'mobilenetv2', 'squeezenet')


def size_of(name):
    """Height and width of the images for a network."""
    return next((size for start, size in SIZES.items() if name.startswith(start)), OTHERWISE)


def images(name, batch, seed=0):
    return data(batch, 3, *size_of(name), seed=seed)


def network(name, start=with_small_branches, batch=5):
    """A network of ten classes with weights drawn at random and statistics of images.

    With `start=started` residual branches are not small, and deep networks magnify rounding.
    """
    mx.random.seed(0)
    return start(vision.get_model(name, classes=10), images(name, batch))


# --------------------------------------------------------------------------- smooth networks


def _softplus(function):
    def activation(*arguments, **keywords):
        if keywords.get('act_type') == 'relu':
            keywords['act_type'] = 'softrelu'
        return function(*arguments, **keywords)

    return activation


@contextlib.contextmanager
def smooth_operators(monkeypatch):
    """Let every network use smooth functions in the place of ReLU and of clipping.

    The gradient of a ReLU jumps where its input is 0. One input that another order of summation
    moves over 0 changes the gradient of a deep network by up to some percent, whoever computes;
    docs/MODELS.md has numbers. Only without such jumps can gradients be compared.
    """
    with monkeypatch.context() as patch:
        # computed together, a batch norm and a ReLU ask no operator that is replaced here
        patch.setattr(nn.BatchNorm, 'takes_relu', lambda norm, x: False)
        for world in (mx.nd, mx.sym):
            legacy, numpy = _softplus(world.Activation), _softplus(world.npx.activation)
            patch.setattr(world, 'Activation', legacy)
            patch.setattr(world.npx, 'activation', numpy)
            patch.setattr(
                world, 'relu', lambda x, legacy=legacy, **kw: legacy(x, act_type='relu', **kw)
            )
            patch.setattr(
                world,
                'clip',
                lambda x, low, high, world=world, **kw: high * world.sigmoid(x, **kw),
            )
            patch.setattr(
                world.np,
                'clip',
                lambda x, low, high, world=world, **kw: high * world.npx.sigmoid(x, **kw),
            )
        yield


def smoothed(net):
    """Without what jumps or is random: a maximum of windows is their average, no dropout."""
    for block in walk(net):
        if type(block).__name__ == 'Dropout':
            block._rate = 0
        if getattr(block, '_kwargs', {}).get('pool_type') == 'max':
            block._kwargs['pool_type'] = 'avg'
    return net
