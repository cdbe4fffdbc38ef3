"""The grid: every shape and argument that the layers are compared on.

A case knows its arrays (drawn from a seed that its name gives), how to build the layer from any
module with Gluon's names, and what the layer must give: MXNet's built-in layer says so, or the
float64 loops of `reference` where the built-in layer cannot run the case.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import zlib
from typing import Optional, Tuple, Union

import mxnet as mx
import numpy as np
import reference
from mxnet.gluon import nn as builtin
from parity import array_kind, measure

Window = Union[int, Tuple[int, int]]
_remembered = functools.lru_cache(maxsize=None)


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def _text(value):
    return str(value) if isinstance(value, int) else 'x'.join(map(str, value))


def draw(name, *shapes, dtype='float32'):
    """Normal numbers of the given shapes, the same in every run for the same name."""
    generator = np.random.RandomState(zlib.crc32(name.encode()))
    return [generator.normal(size=shape).astype(dtype) for shape in shapes]


@dataclasses.dataclass(frozen=True)
class Convolution:
    """One call of a convolution layer."""

    batch: int = 2
    channels: Tuple[int, int] = (3, 4)
    size: Tuple[int, int] = (11, 13)
    kernel: Window = 3
    strides: Window = 1
    padding: Window = 0
    dilation: Window = 1
    groups: int = 1
    use_bias: bool = True
    activation: Optional[str] = None

    def __str__(self):
        text = '{}x{}to{}x{}-k{}'.format(
            self.batch, *self.channels, _text(self.size), _text(self.kernel)
        )
        for letter, value, default in (
            ('s', self.strides, 1),
            ('p', self.padding, 0),
            ('d', self.dilation, 1),
            ('g', self.groups, 1),
        ):
            text += '' if value == default else '-' + letter + _text(value)
        text += '' if self.use_bias else '-nobias'
        return text if self.activation is None else text + '-' + self.activation

    @property
    def window(self):
        return {
            'strides': _pair(self.strides),
            'padding': _pair(self.padding),
            'dilation': _pair(self.dilation),
            'groups': self.groups,
        }

    @property
    def fits(self):
        return all(
            n + 2 * p >= d * (k - 1) + 1
            for n, p, d, k in zip(
                self.size, _pair(self.padding), _pair(self.dilation), _pair(self.kernel)
            )
        )

    @property
    def builtin_can_run(self):
        return self.batch > 0

    @_remembered
    def arrays(self):
        """The input and the parameters, by name."""
        inputs, outputs = self.channels
        x, weight, bias = draw(
            str(self),
            (self.batch, inputs) + self.size,
            (outputs, inputs // self.groups) + _pair(self.kernel),
            (outputs,),
        )
        return {'x': x, 'weight': weight, 'bias': bias if self.use_bias else None}

    def build(self, nn):
        """The layer from `nn`, MXNet's own or ours, with the case's parameters in it."""
        layer = nn.Conv2D(
            self.channels[1],
            self.kernel,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            use_bias=self.use_bias,
            activation=self.activation,
            in_channels=self.channels[0],
        )
        layer.initialize()
        arrays = self.arrays()
        layer.weight.set_data(array_kind().array(arrays['weight']))
        if self.use_bias:
            layer.bias.set_data(array_kind().array(arrays['bias']))
        return layer

    @_remembered
    def from_loops(self):
        """Head gradient, output and gradients by the float64 loops."""
        assert self.activation is None
        arrays = self.arrays()
        y = reference.convolution(arrays['x'], arrays['weight'], arrays['bias'], **self.window)
        (head,) = draw('head of ' + str(self), y.shape)
        dx, dweight, dbias = reference.convolution_gradients(
            head, arrays['x'], arrays['weight'], **self.window
        )
        expected = {'output': y, 'x': dx, 'weight': dweight}
        return head, dict(expected, bias=dbias) if self.use_bias else expected

    @_remembered
    def expected(self):
        """Head gradient, output and gradients that the layer must give."""
        if not self.builtin_can_run:
            return self.from_loops()
        return _from_builtin(self)


@dataclasses.dataclass(frozen=True)
class Pooling:
    """One call of a pooling layer."""

    mode: str = 'max'
    batch: int = 2
    channels: int = 3
    size: Tuple[int, int] = (9, 12)
    pool_size: Window = 2
    strides: Optional[Window] = None
    padding: Window = 0
    ceil_mode: bool = False
    count_include_pad: bool = True
    p: int = 2
    global_pool: bool = False

    def __str__(self):
        text = self.mode + (str(self.p) if self.mode == 'lp' else '')
        text += f'-{self.batch}x{self.channels}x{_text(self.size)}'
        if self.global_pool:
            return text + '-global'
        text += '-k' + _text(self.pool_size)
        text += '' if self.strides is None else '-s' + _text(self.strides)
        text += '' if self.padding == 0 else '-p' + _text(self.padding)
        text += '-ceil' if self.ceil_mode else ''
        return text if self.count_include_pad else text + '-inside'

    @property
    def window(self):
        return {
            name: getattr(self, name)
            for name in (
                'pool_size',
                'strides',
                'padding',
                'mode',
                'ceil_mode',
                'count_include_pad',
                'p',
                'global_pool',
            )
        }

    def _last_windows(self):
        """Start and end of the last window of each axis, and the size and padding of the axis."""
        strides = _pair(self.pool_size if self.strides is None else self.strides)
        for n, p, k, s in zip(self.size, _pair(self.padding), _pair(self.pool_size), strides):
            steps = n + 2 * p - k
            start = (-(-steps // s) if self.ceil_mode else steps // s) * s - p
            yield start, start + k, n, p

    @property
    def builtin_can_run(self):
        """Whether MXNet's layer runs the case, and with a gradient that belongs to its output.

        It does not run an empty batch, and has no sane answer for a window without any input, both
        left to us to define. Where ceil mode cuts a window short, its average divides by the cut
        size and its gradient by the whole one.
        """
        if self.batch == 0:
            return False
        if self.global_pool:
            return True
        last = list(self._last_windows())
        empty = any(start >= n for start, _, n, _ in last)
        cut = any(stop > n + p for _, stop, n, p in last)
        return not empty and not (cut and self.mode == 'avg' and self.count_include_pad)

    @_remembered
    def arrays(self):
        """The input, by name. Without signs for lp, whose odd powers would cancel."""
        (x,) = draw(str(self), (self.batch, self.channels) + self.size)
        return {'x': np.abs(x) if self.mode == 'lp' else x}

    def build(self, nn):
        """The layer from `nn`; the modes that Gluon has no layer for are named `Pool2D`."""
        name = {'max': 'MaxPool2D', 'avg': 'AvgPool2D'}.get(self.mode)
        if name is None:
            return nn.Pool2D(**self.window)
        if self.global_pool:
            return getattr(nn, 'Global' + name)()
        arguments = {} if self.mode == 'max' else {'count_include_pad': self.count_include_pad}
        return getattr(nn, name)(
            self.pool_size,
            strides=self.strides,
            padding=self.padding,
            ceil_mode=self.ceil_mode,
            **arguments,
        )

    @_remembered
    def from_loops(self):
        """Head gradient, output and gradient by the float64 loops."""
        x = self.arrays()['x']
        y = reference.pooling(x, **self.window)
        (head,) = draw('head of ' + str(self), y.shape)
        return head, {'output': y, 'x': reference.pooling_gradient(head, x, **self.window)}

    @_remembered
    def expected(self):
        """Head gradient, output and gradient that the layer must give."""
        if not self.builtin_can_run:
            return self.from_loops()
        return _from_builtin(self)


class _PoolingOperator(mx.gluon.HybridBlock):
    """MXNet's own pooling operator, for the modes that Gluon has no layer for."""

    def __init__(
        self, pool_size, strides, padding, mode, ceil_mode, count_include_pad, p, global_pool
    ):
        super().__init__()
        self.attributes = {
            'kernel': _pair(pool_size),
            'stride': _pair(pool_size if strides is None else strides),
            'pad': _pair(padding),
            'pool_type': mode,
            'pooling_convention': 'full' if ceil_mode else 'valid',
            'count_include_pad': count_include_pad,
            'p_value': p,
            'global_pool': global_pool,
        }

    def hybrid_forward(self, F, x):
        pooling = F.npx.pooling if mx.util.is_np_array() else F.Pooling
        return pooling(x, **self.attributes)


class BUILTIN:
    """MXNet's own layers under the names that a case builds from."""

    Conv2D = builtin.Conv2D
    MaxPool2D = builtin.MaxPool2D
    AvgPool2D = builtin.AvgPool2D
    GlobalMaxPool2D = builtin.GlobalMaxPool2D
    GlobalAvgPool2D = builtin.GlobalAvgPool2D
    Pool2D = _PoolingOperator


def _from_builtin(case):
    layer, x = case.build(BUILTIN), case.arrays()['x']
    (head,) = draw('head of ' + str(case), layer(array_kind().array(x)).shape)
    return head, measure(layer, x, head)


# ------------------------------------------------------------------------- convolution: the grid

KERNELS = (1, 2, 3, 5, 7, (1, 3), (3, 1), (2, 5), (7, 1), (1, 7), (5, 3))
STRIDES = (1, 2, 3, (1, 2), (2, 1), (3, 1), (2, 3))
PADDINGS = (0, 1, 2, 3, 5, (0, 1), (1, 0), (3, 1), (2, 4))
DILATIONS = (2, 3, (1, 2), (2, 1), (3, 2))


def _windows():
    for kernel, (at, strides) in itertools.product(KERNELS, enumerate(STRIDES)):
        padding = PADDINGS[(at + sum(_pair(kernel))) % len(PADDINGS)]
        yield Convolution(kernel=kernel, strides=strides, padding=padding)
    for kernel, (at, padding) in itertools.product(KERNELS[:8], enumerate(PADDINGS)):
        strides = STRIDES[(at + sum(_pair(kernel))) % len(STRIDES)]
        yield Convolution(kernel=kernel, strides=strides, padding=padding)


def _dilated():
    for (at, kernel), dilation in itertools.product(enumerate(KERNELS), DILATIONS):
        yield Convolution(
            size=(19, 21),
            kernel=kernel,
            dilation=dilation,
            padding=PADDINGS[at % len(PADDINGS)],
            strides=STRIDES[at % len(STRIDES)],
        )
    yield Convolution(size=(7, 7), kernel=3, dilation=3)
    yield Convolution(size=(6, 5), kernel=3, dilation=3, padding=3)


def _grouped():
    for kernel, strides in itertools.product((1, 3, 5, (1, 3)), (1, (2, 1))):
        for groups, channels in (
            (2, (4, 6)),
            (3, (3, 3)),
            (4, (8, 4)),
            (4, (4, 8)),
            (8, (8, 8)),
            (17, (17, 17)),
            (5, (5, 15)),
        ):
            padding = sum(_pair(kernel)) // 4
            yield Convolution(
                channels=channels, kernel=kernel, strides=strides, padding=padding, groups=groups
            )
    yield Convolution(channels=(16, 16), kernel=3, padding=2, dilation=2, groups=16)
    yield Convolution(channels=(6, 12), kernel=3, padding=2, dilation=(1, 2), groups=3)
    yield Convolution(channels=(32, 33 * 2), kernel=3, padding=1, groups=2)


def _around_channel_blocks():
    edges = (1, 2, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16, 17, 18, 27, 28, 29, 31, 32, 33, 48, 49)
    for channels in edges:
        yield Convolution(channels=(3, channels), size=(5, 9), padding=1)
        yield Convolution(channels=(channels, 3), size=(5, 9), padding=1)
        yield Convolution(channels=(channels, channels), size=(6, 6), kernel=1)


def _around_position_blocks():
    for width in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32, 33, 47, 48, 49, 64, 65):
        yield Convolution(size=(1, width), kernel=1, batch=1)
        yield Convolution(size=(3, width), kernel=3, padding=1)
        yield Convolution(size=(5, 2 * width), kernel=3, padding=1, strides=2)
    for height in (1, 2, 7, 8, 9, 17):
        yield Convolution(size=(height, 1), kernel=(3, 1), padding=(1, 0))
    for positions in (95, 96, 97, 127, 128, 129, 191, 192, 193, 239, 240, 241, 255, 256, 257, 385):
        yield Convolution(batch=1, channels=(5, 7), size=(1, positions), kernel=(1, 3), padding=1)
    for batch, size in ((3, (5, 5)), (7, (4, 4)), (7, (7, 7)), (5, (13, 10))):
        yield Convolution(batch=batch, channels=(9, 15), size=size, padding=1)


def _around_reduction_blocks():
    for channels in (127, 128, 129, 255, 256, 257, 383, 384, 385, 511, 512, 513):
        yield Convolution(batch=1, channels=(channels, 3), size=(3, 5), kernel=1)
        yield Convolution(batch=1, channels=(3, channels), size=(3, 5), kernel=1)
    for channels in (14, 15, 28, 29, 42, 43, 56, 57):
        yield Convolution(batch=1, channels=(channels, 5), size=(4, 9), padding=1)
        yield Convolution(batch=1, channels=(5, channels), size=(4, 9), padding=1)
    for channels in (10, 11, 20, 21):
        yield Convolution(batch=1, channels=(channels, 8), size=(7, 6), kernel=5, padding=2)
    for batch, size in (
        (1, (15, 17)),
        (1, (16, 16)),
        (1, (257, 1)),
        (2, (16, 16)),
        (7, (6, 6)),
        (3, (9, 19)),
        (4, (16, 16)),
        (5, (5, 41)),
    ):
        yield Convolution(batch=batch, channels=(2, 6), size=size, kernel=1)
        yield Convolution(batch=batch, channels=(2, 6), size=size, padding=1)
    yield Convolution(batch=1, channels=(130, 70), size=(6, 7), padding=1)
    yield Convolution(batch=1, channels=(64, 64), size=(14, 14), padding=1)


def _batches():
    for batch in (0, 1, 7):
        yield Convolution(batch=batch)
        yield Convolution(batch=batch, kernel=1)
        yield Convolution(batch=batch, kernel=(2, 5), strides=(2, 1), padding=(3, 1))
        yield Convolution(batch=batch, channels=(4, 4), groups=4, padding=1, strides=2)


def _without_bias_and_with_activation():
    for kernel in (1, 3):
        yield Convolution(kernel=kernel, use_bias=False)
        yield Convolution(kernel=kernel, channels=(6, 6), groups=6, use_bias=False)
    for activation in ('relu', 'sigmoid', 'tanh', 'softrelu', 'softsign'):
        yield Convolution(padding=1, activation=activation)
        yield Convolution(padding=1, activation=activation, use_bias=False)


def _unique(*groups):
    return list(dict.fromkeys(case for case in itertools.chain(*groups) if case.fits))


CONVOLUTIONS = _unique(
    _windows(),
    _dilated(),
    _grouped(),
    _around_channel_blocks(),
    _around_position_blocks(),
    _around_reduction_blocks(),
    _batches(),
    _without_bias_and_with_activation(),
)

CONVOLUTION_TAILS = _unique(
    _around_channel_blocks(), _around_position_blocks(), _around_reduction_blocks()
)


# ----------------------------------------------------------------------------- pooling: the grid

POOL_MODES = (
    {'mode': 'max'},
    {'mode': 'avg'},
    {'mode': 'avg', 'count_include_pad': False},
    {'mode': 'sum'},
    {'mode': 'lp', 'p': 1},
    {'mode': 'lp', 'p': 2},
    {'mode': 'lp', 'p': 3},
)
POOL_SIZES = (1, 2, 3, 5, 7, (2, 3), (3, 1), (1, 4))


def _pool_paddings(pool_size):
    height, width = _pair(pool_size)
    return dict.fromkeys((0, (height // 2, width // 2), (height - 1, 0), (height - 1, width - 1)))


# One mode for each kind of inner loop; the others share theirs with one of these.
POOL_LOOPS = ({'mode': 'max'}, {'mode': 'avg'}, {'mode': 'lp', 'p': 2})


def _poolings():
    widths = (3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65)
    for mode in POOL_MODES:
        at = 0
        for pool_size in POOL_SIZES:
            for padding in _pool_paddings(pool_size):
                for ceil_mode in (False, True):
                    strides = ((None,) + STRIDES)[at % (len(STRIDES) + 1)]
                    at += 1
                    yield Pooling(
                        pool_size=pool_size,
                        strides=strides,
                        padding=0 if padding == (0, 0) else padding,
                        ceil_mode=ceil_mode,
                        **mode,
                    )
        for strides, ceil_mode in itertools.product((None,) + STRIDES, (False, True)):
            yield Pooling(pool_size=3, strides=strides, ceil_mode=ceil_mode, **mode)
            yield Pooling(pool_size=3, strides=strides, padding=(1, 2), ceil_mode=ceil_mode, **mode)
        for width in widths if mode in POOL_LOOPS else widths[1::4]:
            yield Pooling(size=(3, width), pool_size=3, strides=2, padding=1, **mode)
            yield Pooling(size=(2, 2 * width), pool_size=2, **mode)
            yield Pooling(size=(1, width), pool_size=(1, 3), strides=1, **mode)
        for batch in (0, 1, 7):
            yield Pooling(batch=batch, **mode)
            yield Pooling(batch=batch, channels=17, pool_size=3, strides=2, padding=1, **mode)
            yield Pooling(batch=batch, global_pool=True, **mode)
        for size in ((1, 1), (1, 9), (7, 7), (8, 8), (16, 17), (33, 2)):
            yield Pooling(size=size, global_pool=True, **mode)


def _beyond_the_input():
    """Ceil mode can put the last window where there is only padding, or nothing at all."""
    for mode in POOL_MODES:
        yield Pooling(size=(5, 5), pool_size=1, strides=3, ceil_mode=True, **mode)
        yield Pooling(size=(6, 9), pool_size=(2, 1), strides=(3, 5), ceil_mode=True, **mode)


POOLINGS = list(dict.fromkeys(itertools.chain(_poolings(), _beyond_the_input())))
