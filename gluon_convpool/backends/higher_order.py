"""Convolution and pooling whose gradients can be differentiated again, as often as one likes.

Of MXNet's operators, most have a gradient that MXNet cannot differentiate: slices, padding,
reshapes, sums, products with broadcasting, `dot`, and every operator for layers. `gather_nd`,
`scatter_nd`, `batch_dot`, `transpose`, `elemwise_add` and a few functions of one element can be
differentiated any number of times, and all of this module is composed of them: what moves elements
gives the place of each, what multiplies is a `batch_dot`. Places follow from shapes, so only arrays
can be computed with, not symbols; and their tables take more memory than the elements.
"""

from __future__ import annotations

import itertools
from typing import Any, Iterable, Iterator, List, NoReturn, Optional, Sequence, Tuple

import numpy

from .. import geometry
from .._mxnet import Kind, mx
from ..geometry import Ints
from .portable import cast, inverse, to_integers

__all__ = [
    'adaptive_pooling',
    'border',
    'cast',
    'convolution',
    'convolution_transpose',
    'deformable_columns',
    'fold',
    'max_pooling_with_indices',
    'max_unpooling',
    'pooling',
    'to_integers',
    'unfold',
]

# Those that MXNet can differentiate again.
ACTIVATIONS = ('relu', 'sigmoid', 'tanh')


def _check_array(op: str, kind: Kind) -> None:
    if kind.symbol:
        geometry.refuse('higher_order_symbols', op=op)


def _enter(op: str, x: Any, kind: Kind, layout: str) -> Any:
    """`x` as a legacy array whose axes are N, C (of a weight: O, I) and the spatial ones."""
    _check_array(op, kind)
    if 0 in x.shape:
        geometry.refuse('higher_order_empty', op=op, shape=x.shape)
    x = x.as_nd_ndarray() if kind.numpy else x
    return mx.nd.transpose(x, axes=_plain(layout))


def _leave(x: Any, kind: Kind, layout: str) -> Any:
    x = mx.nd.transpose(x, axes=inverse(_plain(layout)))
    return x.as_np_ndarray() if kind.numpy else x


def _plain(layout: str) -> Ints:
    return tuple(layout.index(axis) for axis in 'NC' + layout.strip('NC'))


# --------------------------------------------------------------------------- moving elements


def _gather(x: Any, *places: Any) -> Any:
    """``x[places]``, with integers for each axis of `x`, broadcast to the shape of the result."""
    table = numpy.stack(numpy.broadcast_arrays(*places)).astype('int32')
    return mx.nd.gather_nd(x, mx.nd.array(table, ctx=x.ctx, dtype='int32'))


def _scatter(x: Any, shape: Ints, *places: Any) -> Any:
    """Zeros of `shape` but for the elements of `x` at `places`, of which no two are equal."""
    table = numpy.stack([numpy.broadcast_to(place, x.shape) for place in places]).astype('int32')
    return mx.nd.scatter_nd(x, mx.nd.array(table, ctx=x.ctx, dtype='int32'), shape=shape)


def _along(shape: Ints) -> List[Any]:
    """For each axis of an array of `shape`, the number of each element along it."""
    return list(numpy.ogrid[tuple(map(slice, shape))])


def _flat(places: Iterable[Any], shape: Ints) -> Any:
    """The number of elements, counted in row-major order, that stand before `places`."""
    number: Any = 0
    for place, size in zip(places, shape):
        number = number * size + place
    return number


def _positions(sizes: Ints) -> List[Any]:
    """The coordinates of an image's elements, one after another in row-major order."""
    return [place.reshape(-1) for place in numpy.indices(sizes)]


def _from(x: Any, starts: Ints, sizes: Ints) -> Any:
    """``x[:, :, start : start + size, ...]``."""
    image, channel, *at = _along(x.shape[:2] + sizes)
    return _gather(x, image, channel, *(place + start for place, start in zip(at, starts)))


def _within(x: Any, before: Ints, after: Ints) -> Any:
    """`x` with zeros around it on each spatial axis."""
    sizes = tuple(n + b + a for n, b, a in zip(x.shape[2:], before, after))
    image, channel, *at = _along(x.shape)
    places = [place + b for place, b in zip(at, before)]
    return _scatter(x, x.shape[:2] + sizes, image, channel, *places)


def _added(parts: Iterator[Any]) -> Any:
    total = next(parts)
    for part in parts:
        total = mx.nd.elemwise_add(total, part)
    return total


def _constant(values: Any, like: Any) -> Any:
    return mx.nd.array(values, ctx=like.ctx, dtype=like.dtype)


def border(
    x: Any,
    around: geometry.Border,
    layout: str,
    kind: Kind,
    op: str = 'convolution',
    name: Optional[str] = None,
) -> Any:
    """`x` with `around` around it, on every spatial axis of `layout`."""
    x = _enter(op, x, kind, layout)
    if around.mode == 'zeros':
        return _leave(_within(x, around.before, around.after), kind, layout)
    mode: Any = {'reflect': 'reflect', 'replicate': 'edge', 'circular': 'wrap'}[around.mode]
    sources = [
        numpy.pad(numpy.arange(n), (before, after), mode=mode)
        for n, before, after in zip(x.shape[2:], around.before, around.after)
    ]
    image, channel, *at = _along(x.shape[:2] + tuple(map(len, sources)))
    places = [source[place] for source, place in zip(sources, at)]
    return _leave(_gather(x, image, channel, *places), kind, layout)


# --------------------------------------------------------------------------- convolution


def _taps(kernel: Ints) -> Iterator[Ints]:
    return itertools.product(*map(range, kernel))


def _seen(arguments: Any, at: Sequence[Any], tap: Sequence[Any]) -> List[Any]:
    """The coordinates, in the padded image, of what a tap of the windows `at` sees."""
    return [
        place * stride + i * dilation
        for place, stride, i, dilation in zip(at, arguments.stride, tap, arguments.dilate)
    ]


def _grouped(groups: int, images: int, sizes: Ints) -> List[Any]:
    """Group, image and coordinates of rows ``(groups, images * positions, 1)``."""
    places = numpy.indices((groups, images, *sizes))
    return [place.reshape(groups, -1, 1) for place in places]


def _with_bias(x: Any, bias: Optional[Any], kind: Kind) -> Any:
    if bias is None:
        return x
    bias = bias.as_nd_ndarray() if kind.numpy else bias
    channels = numpy.broadcast_to(_along(x.shape)[1], x.shape)
    return mx.nd.elemwise_add(x, _gather(bias, channels))


def convolution(
    x: Any,
    weight: Any,
    bias: Optional[Any],
    arguments: geometry.Convolution,
    kind: Kind,
    name: Optional[str] = None,
    adds: Any = None,
) -> Any:
    """One convolution of arrays, arguments already checked: a product of matrices for each tap."""
    op, layout, groups = 'convolution', arguments.layout, arguments.groups
    _check_array(op, kind)
    shape = geometry.convolution_shape(arguments, x.shape, weight.shape)
    x, weight = _enter(op, x, kind, layout), _enter(op, weight, kind, layout)
    _, _, windows = geometry.split_shape(op, shape, layout)
    images, (outer, inner) = x.shape[0], (arguments.channels // groups, weight.shape[1])
    x = _within(x, arguments.pad, arguments.pad)
    group, image, *at = _grouped(groups, images, windows)
    channel = numpy.arange(inner)
    out_group, out_channel, _ = _along((groups, outer, inner))

    def product(tap: Ints) -> Any:
        data = _gather(x, image, group * inner + channel, *_seen(arguments, at, tap))
        matrices = _gather(weight, out_group * outer + out_channel, channel, *tap)
        return mx.nd.batch_dot(matrices, data, transpose_b=True)

    total = _added(map(product, _taps(arguments.kernel)))
    image, channel, *at = _along((images, arguments.channels, *windows))
    position = _flat([image, *at], (images, *windows))
    total = _gather(total, channel // outer, channel % outer, position)
    return _leave(_with_bias(total, bias, kind), kind, layout)


def convolution_transpose(
    x: Any,
    weight: Any,
    bias: Optional[Any],
    arguments: geometry.ConvolutionTranspose,
    kind: Kind,
    name: Optional[str] = None,
    adds: Any = None,
) -> Any:
    """One transposed convolution of arrays: the product of each tap is put where it belongs."""
    op, layout, groups = 'convolution_transpose', arguments.layout, arguments.groups
    _check_array(op, kind)
    shape = geometry.convolution_transpose_shape(arguments, x.shape, weight.shape)
    x, weight = _enter(op, x, kind, layout), _enter(op, weight, kind, layout)
    _, _, sizes = geometry.split_shape(op, shape, layout)
    images, (inner, outer) = x.shape[0], (weight.shape[0] // groups, weight.shape[1])
    reached = (n + 2 * p + c for n, p, c in zip(sizes, arguments.pad, arguments.cut))
    whole = (images, arguments.channels, *reached)
    group, image, *at = _grouped(groups, images, x.shape[2:])
    data = _gather(x, image, group * inner + numpy.arange(inner), *at)
    in_group, in_channel, out_channel = _along((groups, inner, outer))

    def piece(tap: Ints) -> Any:
        matrices = _gather(weight, in_group * inner + in_channel, out_channel, *tap)
        places = (image, group * outer + numpy.arange(outer), *_seen(arguments, at, tap))
        return _scatter(mx.nd.batch_dot(data, matrices), whole, *places)

    total = _from(_added(map(piece, _taps(arguments.kernel))), arguments.pad, sizes)
    return _leave(_with_bias(total, bias, kind), kind, layout)


# --------------------------------------------------------------------------- windows as columns


def unfold(x: Any, arguments: geometry.Convolution, kind: Kind, name: Optional[str] = None) -> Any:
    """The windows of `x`, of layout NC..., as columns ``(N, C * taps, windows)``."""
    x = _within(_enter('unfold', x, kind, arguments.layout), arguments.pad, arguments.pad)
    windows = tuple(
        geometry.output_size(n, k, s, 0, d)
        for n, k, s, d in zip(x.shape[2:], arguments.kernel, arguments.stride, arguments.dilate)
    )
    image, channel, tap, at = _columns(x.shape[:2], arguments.kernel, windows)
    columns = _gather(x, image, channel, *_seen(arguments, at, tap))
    return columns.as_np_ndarray() if kind.numpy else columns


def _columns(leading: Ints, kernel: Ints, windows: Ints) -> Tuple[Any, Any, List[Any], List[Any]]:
    """Image, channel, tap and window of columns ``(images, channels * taps, windows)``."""
    taps = _positions(kernel)
    image, row, _ = _along((leading[0], leading[1] * len(taps[0]), 1))
    tap = [place[row % len(place)] for place in taps]
    return image, row // len(taps[0]), tap, _positions(windows)


def fold(
    x: Any,
    sizes: Ints,
    windows: Ints,
    arguments: geometry.Convolution,
    kind: Kind,
    name: Optional[str] = None,
) -> Any:
    """The adjoint of `unfold`: columns are added up to images of `sizes`."""
    x = _enter('fold', x, kind, 'NCW')
    count = int(numpy.prod(arguments.kernel))
    channels = x.shape[1] // count
    whole = (x.shape[0], channels, *(n + 2 * p for n, p in zip(sizes, arguments.pad)))
    image, channel, _ = _along((x.shape[0], channels, x.shape[2]))
    at = _positions(windows)

    def piece(numbered: Tuple[int, Ints]) -> Any:
        number, tap = numbered
        one = _gather(x, image, channel * count + number, numpy.arange(x.shape[2]))
        return _scatter(one, whole, image, channel, *_seen(arguments, at, tap))

    total = _added(map(piece, enumerate(_taps(arguments.kernel))))
    total = _from(total, arguments.pad, sizes)
    return total.as_np_ndarray() if kind.numpy else total


# --------------------------------------------------------------------------- pooling


def _boxes(
    x: Any, kernel: Ints, starts: Sequence[Any], ends: Sequence[Any]
) -> Tuple[List[Any], Any]:
    """Coordinates ``(windows, taps)`` of what windows see, and which taps of them there are.

    `kernel` is how large windows are at most; `starts` and `ends` are, for each axis, where its
    windows begin, and where the taps of each end.
    """
    at = _positions(tuple(map(len, starts)))
    taps = _positions(kernel)
    places, there = [], numpy.array(True)
    for n, start, end, place, tap in zip(x.shape[2:], starts, ends, at, taps):
        seen = start[place][:, None] + tap
        there = there & (seen >= 0) & (seen < numpy.minimum(end, n)[place][:, None])
        places.append(numpy.clip(seen, 0, n - 1))
    return places, there


def _summed(x: Any, places: Sequence[Any], there: Any, factors: Any) -> Any:
    """``(windows, images * channels, 1)``: sums over taps times `factors`, (windows, taps)."""
    images, channels = x.shape[:2]
    image, channel = (place.reshape(-1, 1) for place in numpy.indices((images, channels)))
    if not there.all():
        # a tap that is not there sees an element of a border: 0 times one of `x` may be NaN
        places = [numpy.where(there, place, n) for n, place in zip(x.shape[2:], places)]
        x = _within(x, (0,) * len(places), (1,) * len(places))
    inside = _gather(x, image, channel, *(place[:, None, :] for place in places))
    return mx.nd.batch_dot(inside, _constant(factors[:, :, None], x))


def _largest(x: Any, places: Sequence[Any], there: Any) -> Any:
    """``(windows, images * channels, 1)``: the first NaN, or else the first maximum.

    Which one it is does not change when the data changes a little, so its place is a constant.
    """
    images, channels = x.shape[:2]
    image, channel = (place.reshape(-1, 1) for place in numpy.indices((images, channels)))
    values = x.detach().asnumpy()[(image, channel, *(place[:, None, :] for place in places))]
    values = numpy.where(there[:, None, :], values, -numpy.inf)
    # `argmax` takes the first NaN for the largest
    first = values.argmax(axis=2)[:, :, None]
    windows = numpy.arange(len(there))[:, None, None]
    spot = [place[windows, first] for place in places]
    image, channel = image[None], channel[None]
    empty = ~there.any(axis=1)
    if not empty.any():
        return _gather(x, image, channel, *spot)
    # a window that holds nothing sees an element of a border, which is no one's, and is -inf
    bordered = _within(x, (0,) * len(spot), (1,) * len(spot))
    spot = [numpy.where(empty[:, None, None], n, s) for n, s in zip(x.shape[2:], spot)]
    largest = _gather(bordered, image, channel, *spot)
    lowest = numpy.where(empty[:, None, None], -numpy.inf, 0) + numpy.zeros(largest.shape)
    return mx.nd.elemwise_add(largest, _constant(lowest, x))


def _as_images(x: Any, leading: Ints, windows: Ints) -> Any:
    """``(windows, images * channels, 1)`` as ``(images, channels, *windows)``."""
    image, channel, *at = _along(leading + windows)
    return _gather(x, _flat(at, windows), image * leading[1] + channel, 0)


def pooling(
    x: Any,
    arguments: geometry.Pooling,
    kind: Kind,
    name: Optional[str] = None,
    adds: Any = None,
) -> Any:
    """One pooling of an array, arguments already checked."""
    op, layout, mode = 'pooling', arguments.layout, arguments.mode
    _check_array(op, kind)
    if mode == 'lp' and arguments.p == 3:
        _refuse(op, "mode='lp' with p=3")
    shape = geometry.pooling_shape(arguments, x.shape)
    x = _enter(op, x, kind, layout)
    _, _, windows = geometry.split_shape(op, shape, layout)
    if arguments.global_pool:
        arguments = arguments._replace(
            kernel=x.shape[2:], stride=(1,) * arguments.ndim, pad=(0,) * arguments.ndim
        )
    starts = [numpy.arange(n) * s - p for n, s, p in zip(windows, arguments.stride, arguments.pad)]
    ends = [start + k for start, k in zip(starts, arguments.kernel)]
    places, there = _boxes(x, arguments.kernel, starts, ends)
    if mode == 'max':
        out = _largest(x, places, there)
    else:
        factors = there.astype('float64')
        if mode == 'avg':
            factors /= _counts(x, starts, ends, arguments)
        squared = mode == 'lp' and arguments.p == 2
        out = _summed(mx.nd.square(x) if squared else x, places, there, factors)
        if squared:
            out = _root(out)
    return _leave(_as_images(out, x.shape[:2], windows), kind, layout)


def _counts(x: Any, starts: Sequence[Any], ends: Sequence[Any], arguments: Any) -> Any:
    """``(windows, 1)``: how many elements each window averages, at least 1."""
    count: Any = 1
    at = _positions(tuple(map(len, starts)))
    zeros = (0,) * arguments.ndim
    sides = arguments.sides if arguments.count_include_pad else (zeros, zeros)
    for n, before, after, start, end, place in zip(x.shape[2:], *sides, starts, ends, at):
        inside = numpy.minimum(end, n + after) - numpy.maximum(start, -before)
        count = count * numpy.maximum(inside, 0)[place]
    return numpy.maximum(count, 1)[:, None]


def _root(x: Any) -> Any:
    """The square root, for which 0 is a constant: it has no derivative there."""
    nothing = (x.detach() == 0).astype(x.dtype)
    return mx.nd.elemwise_add(mx.nd.sqrt(mx.nd.elemwise_add(x, nothing)), -nothing)


def adaptive_pooling(
    x: Any,
    output_size: Ints,
    mode: str,
    layout: str,
    kind: Kind,
    name: Optional[str] = None,
) -> Any:
    """Pooling to `output_size`, arguments already checked."""
    x = _enter('adaptive_pooling', x, kind, layout)
    sizes = x.shape[2:]
    starts = [numpy.arange(m) * n // m for n, m in zip(sizes, output_size)]
    ends = [-(-numpy.arange(1, m + 1) * n // m) for n, m in zip(sizes, output_size)]
    kernel = tuple(int((end - start).max()) for start, end in zip(starts, ends))
    places, there = _boxes(x, kernel, starts, ends)
    if mode == 'max':
        out = _largest(x, places, there)
    else:
        out = _summed(x, places, there, there / there.sum(axis=1, keepdims=True))
    return _leave(_as_images(out, x.shape[:2], output_size), kind, layout)


# --------------------------------------------------------------------------- what there is not


def _refuse(op: str, what: str) -> NoReturn:
    geometry.refuse('higher_order_lacks', op=op, what=what)


def max_pooling_with_indices(x: Any, arguments: geometry.Pooling, kind: Kind) -> Any:
    """There are none: `pooling` has them."""
    _refuse('max_pooling_with_indices', 'maxima with their indices')


def deformable_columns(*_: Any) -> Any:
    """There are none."""
    _refuse('deformable_convolution', 'deformable convolution')


def max_unpooling(*_: Any) -> Any:
    """There are none."""
    _refuse('max_unpooling', 'unpooling')
