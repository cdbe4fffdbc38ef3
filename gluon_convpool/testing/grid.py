"""The grid: every shape and argument on which the layers are compared."""

from __future__ import annotations

import functools
import itertools
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Set, Tuple

from .. import geometry
from .cases import Case, ConvolutionCase, ConvolutionTransposeCase, PoolingCase, Window
from .reference import per_axis

GRIDS = ('quick', 'full')

Cases = Iterator[Any]

# ------------------------------------------------------------------------- convolution: the grid

KERNELS: Tuple[Window, ...] = (1, 2, 3, 5, 7, (1, 3), (3, 1), (2, 5), (7, 1), (1, 7), (5, 3))
STRIDES: Tuple[Window, ...] = (1, 2, 3, (1, 2), (2, 1), (3, 1), (2, 3))
PADDINGS: Tuple[Window, ...] = (0, 1, 2, 3, 5, (0, 1), (1, 0), (3, 1), (2, 4))
DILATIONS: Tuple[Window, ...] = (2, 3, (1, 2), (2, 1), (3, 2))


def _windows() -> Cases:
    for kernel in KERNELS:
        for at, strides in enumerate(STRIDES, sum(per_axis(kernel))):
            padding = PADDINGS[at % len(PADDINGS)]
            yield ConvolutionCase(kernel_size=kernel, strides=strides, padding=padding)
    for kernel in KERNELS[:8]:
        for at, padding in enumerate(PADDINGS, sum(per_axis(kernel))):
            strides = STRIDES[at % len(STRIDES)]
            yield ConvolutionCase(kernel_size=kernel, strides=strides, padding=padding)


def _dilated() -> Cases:
    for at, kernel in enumerate(KERNELS):
        for dilation in DILATIONS:
            yield ConvolutionCase(
                size=(19, 21),
                kernel_size=kernel,
                dilation=dilation,
                padding=PADDINGS[at % len(PADDINGS)],
                strides=STRIDES[at % len(STRIDES)],
            )
    yield ConvolutionCase(size=(7, 7), kernel_size=3, dilation=3)
    yield ConvolutionCase(size=(6, 5), kernel_size=3, dilation=3, padding=3)


def _grouped() -> Cases:
    kernels: Tuple[Window, ...] = (1, 3, 5, (1, 3))
    strides: Tuple[Window, ...] = (1, (2, 1))
    channels = ((2, 4, 6), (3, 3, 3), (4, 8, 4), (4, 4, 8), (8, 8, 8), (17, 17, 17), (5, 5, 15))
    for kernel, stride, (groups, inputs, outputs) in itertools.product(kernels, strides, channels):
        yield ConvolutionCase(
            channels=(inputs, outputs),
            kernel_size=kernel,
            strides=stride,
            padding=sum(per_axis(kernel)) // 4,
            groups=groups,
        )
    yield ConvolutionCase(channels=(16, 16), kernel_size=3, padding=2, dilation=2, groups=16)
    yield ConvolutionCase(channels=(6, 12), kernel_size=3, padding=2, dilation=(1, 2), groups=3)
    yield ConvolutionCase(channels=(32, 33 * 2), kernel_size=3, padding=1, groups=2)


def _around_channel_blocks() -> Cases:
    edges = (1, 2, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16, 17, 18, 27, 28, 29, 31, 32, 33, 48, 49)
    for channels in edges:
        yield ConvolutionCase(channels=(3, channels), size=(5, 9), padding=1)
        yield ConvolutionCase(channels=(channels, 3), size=(5, 9), padding=1)
        yield ConvolutionCase(channels=(channels, channels), size=(6, 6), kernel_size=1)


def _around_position_blocks() -> Cases:
    for width in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32, 33, 47, 48, 49, 64, 65):
        yield ConvolutionCase(size=(1, width), kernel_size=1, batch=1)
        yield ConvolutionCase(size=(3, width), kernel_size=3, padding=1)
        yield ConvolutionCase(size=(5, 2 * width), kernel_size=3, padding=1, strides=2)
    for height in (1, 2, 7, 8, 9, 17):
        yield ConvolutionCase(size=(height, 1), kernel_size=(3, 1), padding=(1, 0))
    for positions in (95, 96, 97, 127, 128, 129, 191, 192, 193, 239, 240, 241, 255, 256, 257, 385):
        yield ConvolutionCase(
            batch=1, channels=(5, 7), size=(1, positions), kernel_size=(1, 3), padding=1
        )
    for batch, size in ((3, (5, 5)), (7, (4, 4)), (7, (7, 7)), (5, (13, 10))):
        yield ConvolutionCase(batch=batch, channels=(9, 15), size=size, padding=1)


def _around_reduction_blocks() -> Cases:
    for channels in (127, 128, 129, 255, 256, 257, 383, 384, 385, 511, 512, 513):
        yield ConvolutionCase(batch=1, channels=(channels, 3), size=(3, 5), kernel_size=1)
        yield ConvolutionCase(batch=1, channels=(3, channels), size=(3, 5), kernel_size=1)
    for channels in (14, 15, 28, 29, 42, 43, 56, 57):
        yield ConvolutionCase(batch=1, channels=(channels, 5), size=(4, 9), padding=1)
        yield ConvolutionCase(batch=1, channels=(5, channels), size=(4, 9), padding=1)
    for channels in (10, 11, 20, 21):
        yield ConvolutionCase(
            batch=1, channels=(channels, 8), size=(7, 6), kernel_size=5, padding=2
        )
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
        yield ConvolutionCase(batch=batch, channels=(2, 6), size=size, kernel_size=1)
        yield ConvolutionCase(batch=batch, channels=(2, 6), size=size, padding=1)
    yield ConvolutionCase(batch=1, channels=(130, 70), size=(6, 7), padding=1)
    yield ConvolutionCase(batch=1, channels=(64, 64), size=(14, 14), padding=1)


def _batches() -> Cases:
    for batch in (0, 1, 7):
        yield ConvolutionCase(batch=batch)
        yield ConvolutionCase(batch=batch, kernel_size=1)
        yield ConvolutionCase(batch=batch, kernel_size=(2, 5), strides=(2, 1), padding=(3, 1))
        yield ConvolutionCase(batch=batch, channels=(4, 4), groups=4, padding=1, strides=2)


def _without_bias_and_with_activation() -> Cases:
    for kernel in (1, 3):
        yield ConvolutionCase(kernel_size=kernel, use_bias=False)
        yield ConvolutionCase(kernel_size=kernel, channels=(6, 6), groups=6, use_bias=False)
    for activation in ('relu', 'sigmoid', 'tanh', 'softrelu', 'softsign'):
        yield ConvolutionCase(padding=1, activation=activation)
        yield ConvolutionCase(padding=1, activation=activation, use_bias=False)


# ----------------------------------------------------------------------------- pooling: the grid

POOL_MODES: Tuple[Dict[str, Any], ...] = (
    {'mode': 'max'},
    {'mode': 'avg'},
    {'mode': 'avg', 'count_include_pad': False},
    {'mode': 'sum'},
    {'mode': 'lp', 'p': 1},
    {'mode': 'lp', 'p': 2},
    {'mode': 'lp', 'p': 3},
)
POOL_SIZES: Tuple[Window, ...] = (1, 2, 3, 5, 7, (2, 3), (3, 1), (1, 4))


def _pool_paddings(pool_size: Window) -> List[Window]:
    height, width = per_axis(pool_size)
    halves, ends = (height // 2, width // 2), (height - 1, width - 1)
    paddings: Tuple[Window, ...] = (0, halves, (height - 1, 0), ends)
    return list(dict.fromkeys(paddings))


# One mode for each kind of inner loop; the others share theirs with one of these.
POOL_LOOPS: Tuple[Dict[str, Any], ...] = ({'mode': 'max'}, {'mode': 'avg'}, {'mode': 'lp', 'p': 2})


def _poolings() -> Cases:
    for mode in POOL_MODES:
        at = 0
        for pool_size in POOL_SIZES:
            for padding in _pool_paddings(pool_size):
                for ceil_mode in (False, True):
                    strides = ((None,) + STRIDES)[at % (len(STRIDES) + 1)]
                    at += 1
                    yield PoolingCase(
                        pool_size=pool_size,
                        strides=strides,
                        padding=0 if padding == (0, 0) else padding,
                        ceil_mode=ceil_mode,
                        **mode,
                    )
        for strides, ceil_mode in itertools.product((None,) + STRIDES, (False, True)):
            yield PoolingCase(pool_size=3, strides=strides, ceil_mode=ceil_mode, **mode)
            yield PoolingCase(
                pool_size=3, strides=strides, padding=(1, 2), ceil_mode=ceil_mode, **mode
            )
        for batch in (0, 1, 7):
            yield PoolingCase(batch=batch, **mode)
            yield PoolingCase(batch=batch, channels=17, pool_size=3, strides=2, padding=1, **mode)
        if mode.get('count_include_pad', True):  # nothing is padded
            for batch in (0, 1, 7):
                yield PoolingCase(batch=batch, global_pool=True, **mode)
            for size in ((1, 1), (1, 9), (7, 7), (8, 8), (16, 17), (33, 2)):
                yield PoolingCase(size=size, global_pool=True, **mode)


def _around_vectors() -> Cases:
    widths = (3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65)
    for mode in POOL_MODES:
        for width in widths if mode in POOL_LOOPS else widths[1::4]:
            yield PoolingCase(size=(3, width), pool_size=3, strides=2, padding=1, **mode)
            yield PoolingCase(size=(2, 2 * width), pool_size=2, **mode)
            yield PoolingCase(size=(1, width), pool_size=(1, 3), strides=1, **mode)


def _beyond_the_input() -> Cases:
    """Ceil mode can put the last window where there is only padding, or nothing at all."""
    for mode in POOL_MODES:
        yield PoolingCase(size=(5, 5), pool_size=1, strides=3, ceil_mode=True, **mode)
        yield PoolingCase(size=(6, 9), pool_size=(2, 1), strides=(3, 5), ceil_mode=True, **mode)


# ----------------------------------------------------------------- one and three spatial axes


def _convolutions_along(ndim: int) -> Cases:
    """The arguments one by one and mixed, over one or three axes; two have the large grid."""
    size = {1: (23,), 3: (5, 6, 7)}[ndim]
    kernel: Window = {1: (5,), 3: (2, 3, 1)}[ndim]
    uneven: Window = {1: (3,), 3: (1, 2, 3)}[ndim]
    for padding, strides in itertools.product((0, 1, 2), (1, 2, 3)):
        yield ConvolutionCase(size=size, padding=padding, strides=strides)
    for kernel_size, step in itertools.product((1, 2, kernel), (1, uneven)):
        yield ConvolutionCase(size=size, kernel_size=kernel_size, strides=step, padding=1)
    for dilation, strides in itertools.product((2, uneven), (1, 2)):
        yield ConvolutionCase(size=size, dilation=dilation, strides=strides, padding=2)
    for groups, inputs, outputs in ((2, 4, 6), (3, 3, 3), (5, 5, 15)):
        for strides in (1, 2):
            yield ConvolutionCase(
                size=size, channels=(inputs, outputs), groups=groups, strides=strides, padding=1
            )
    for batch in (0, 1, 5):
        yield ConvolutionCase(batch=batch, size=size, kernel_size=kernel, padding=1)
    yield ConvolutionCase(size=size, use_bias=False)
    yield ConvolutionCase(size=size, padding=1, activation='relu')
    yield ConvolutionCase(size=size, padding=1, activation='tanh', use_bias=False)


def _poolings_along(ndim: int) -> Cases:
    size = {1: (23,), 3: (5, 6, 7)}[ndim]
    window = {1: (4,), 3: (1, 3, 2)}[ndim]
    for mode in POOL_MODES:
        for ceil_mode in (False, True):
            yield PoolingCase(size=size, ceil_mode=ceil_mode, **mode)
            yield PoolingCase(
                size=size, pool_size=3, strides=2, padding=1, ceil_mode=ceil_mode, **mode
            )
            yield PoolingCase(size=size, pool_size=window, strides=1, ceil_mode=ceil_mode, **mode)
        for batch in (0, 1, 5):
            yield PoolingCase(batch=batch, size=size, pool_size=window, **mode)
            if mode.get('count_include_pad', True):
                yield PoolingCase(batch=batch, size=size, global_pool=True, **mode)
        yield PoolingCase(size=(4,) * ndim, pool_size=1, strides=3, ceil_mode=True, **mode)


# ----------------------------------------------------------------------- transposed convolution


def _transposed(ndim: int) -> Cases:
    size = {1: (9,), 2: (5, 6), 3: (3, 4, 2)}[ndim]
    kernel: Window = {1: (4,), 2: (4, 1), 3: (2, 3, 1)}[ndim]
    uneven: Window = {1: (3,), 2: (1, 3), 3: (1, 2, 3)}[ndim]
    ends: Window = {1: (2,), 2: (0, 2), 3: (0, 1, 2)}[ndim]

    def case(**arguments: Any) -> ConvolutionTransposeCase:
        return ConvolutionTransposeCase(size=size, **arguments)

    for strides, padding, more in itertools.product((1, 2, 3), (0, 1), (0, 1)):
        yield case(strides=strides, padding=padding, output_padding=more)
    for kernel_size, step in itertools.product((1, 2, kernel), (1, 2, uneven)):
        yield case(kernel_size=kernel_size, strides=step)
    yield case(strides=uneven, padding=1, output_padding=ends)
    yield case(kernel_size=4, strides=2, padding=1)
    yield case(kernel_size=2, strides=3, output_padding=2)
    yield case(kernel_size=1, strides=4, output_padding=3)
    yield case(kernel_size=5, padding=2)
    for dilation, strides in itertools.product((2, uneven), (1, 2)):
        yield case(dilation=dilation, strides=strides, padding=1)
    for groups, inputs, outputs in ((2, 4, 6), (3, 3, 3), (5, 15, 5)):
        yield case(channels=(inputs, outputs), groups=groups, strides=2, padding=1)
    yield case(channels=(4, 6), groups=2, strides=3, kernel_size=4)
    for batch in (0, 1, 5):
        yield case(batch=batch, kernel_size=kernel, strides=2)
    yield case(use_bias=False, strides=2)
    yield case(padding=1, strides=2, activation='relu')
    yield case(padding=1, activation='tanh', use_bias=False)


# ------------------------------------------------------------------------------------ the grids


def _convolutions() -> Cases:
    yield from _windows()
    yield from _dilated()
    yield from _grouped()
    yield from _batches()
    yield from _without_bias_and_with_activation()


def _convolution_tails() -> Cases:
    yield from _around_channel_blocks()
    yield from _around_position_blocks()
    yield from _around_reduction_blocks()


def _all_poolings() -> Cases:
    yield from _poolings()
    yield from _beyond_the_input()


def _none() -> Cases:
    yield from ()


Part = Callable[[], Cases]
# Of each kind and number of spatial axes the cases for every argument, and those whose sizes lie
# around blocks.
KINDS: Dict[str, Dict[int, Tuple[Part, Part]]] = {
    'conv': {
        1: (functools.partial(_convolutions_along, 1), _none),
        2: (_convolutions, _convolution_tails),
        3: (functools.partial(_convolutions_along, 3), _none),
    },
    'conv_transpose': {n: (functools.partial(_transposed, n), _none) for n in (1, 2, 3)},
    'pool': {
        1: (functools.partial(_poolings_along, 1), _none),
        2: (_all_poolings, _around_vectors),
        3: (functools.partial(_poolings_along, 3), _none),
    },
}


def _quick(cases: Iterable[Case]) -> Cases:
    """The cases with a value of an argument that no case before them had, and every tenth case.

    Sizes and numbers of channels, which are nearly all different, are left to the tenth cases.
    """
    seen: Set[Any] = set()
    for i, case in enumerate(cases):
        fields = vars(case).items()
        values = {(case.kind, *item) for item in fields if item[0] not in ('size', 'channels')}
        if i % 10 == 0 or not values <= seen:
            yield case
        seen |= values


_default_grid = 'full'


def set_default_grid(grid: str) -> str:
    """Choose the grid of those who ask for none, as the pytest plugin does; returns the old one."""
    global _default_grid
    before = _default_grid
    _default_grid = geometry.choice('set_default_grid', 'grid', grid, GRIDS)
    return before


def cases_of(
    kind: str = 'conv',
    dims: int = 2,
    grid: Optional[str] = None,
    tails: Optional[bool] = None,
    **only: Any,
) -> List[Case]:
    """Return the cases of the grid without pytest; everything else is as in `parity_cases`."""
    op = 'parity_cases'
    of_kind = KINDS[geometry.choice(op, 'kind', kind, tuple(KINDS))]
    parts: Tuple[Part, ...] = of_kind[geometry.choice(op, 'dims', dims, tuple(of_kind))]
    grid = geometry.choice(op, 'grid', grid or _default_grid, GRIDS)
    if tails is not None:
        parts = parts[1:] if geometry.flag(op, 'tails', tails) else parts[:1]
    cases = [case for part in parts for case in part() if getattr(case, 'fits', True)]
    for name, value in only.items():
        if cases and not hasattr(cases[0], name):
            allowed = ', '.join(vars(cases[0]))
            raise TypeError(f'{op}: there is no field {name!r}; the cases have {allowed}')
        found = ((case, getattr(case, name)) for case in cases)
        cases = [case for case, has in found if (value(has) if callable(value) else has == value)]
    cases = list(dict.fromkeys(cases))
    return cases if grid == 'full' else list(_quick(cases))


def parity_cases(
    kind: str = 'conv',
    dims: int = 2,
    grid: Optional[str] = None,
    tails: Optional[bool] = None,
    **only: Any,
) -> List[Any]:
    """Return the grid of cases as parameters of a pytest test, each named after its case.

    Parameters
    ----------
    kind : {'conv', 'conv_transpose', 'pool'}
        Convolutions, transposed ones, or poolings of every mode.
    dims : {1, 2, 3}
        Spatial axes. The grid for two is the largest.
    grid : {'quick', 'full'}, optional
        'quick' has each value of each argument at least once, and a tenth of the rest. By default
        what pytest's option ``--convpool-grid`` says; 'full' without the plugin.
    tails : bool, optional
        True for only those cases whose sizes lie around the block sizes of fast kernels, which
        layers made of other layers need not mind; False for only the others.
    **only
        Values that the cases must have, such as ``groups=1`` or ``mode='max'``, for layers that
        cannot do everything; or functions that say whether a value will do, such as
        ``batch=lambda n: n > 0``. Names are the fields of `ConvolutionCase`,
        `ConvolutionTransposeCase` and `PoolingCase`.

    Returns
    -------
    list of pytest.param

    Raises
    ------
    TypeError, ValueError
        If an argument, or a name in `only`, is unknown.

    Examples
    --------
    >>> from gluon_convpool.testing import parity_cases
    >>> len(parity_cases('conv', grid='full')), len(parity_cases('conv', grid='quick'))
    (512, 91)
    >>> [parameter.id for parameter in parity_cases('pool', grid='quick', mode='max', batch=0)]
    ['max-0x3x9x12-k2', 'max-0x17x9x12-k3-s2-p1', 'max-0x3x9x12-global']
    """
    import pytest

    cases = cases_of(kind, dims, grid, tails, **only)
    return [pytest.param(case, id=str(case)) for case in cases]
