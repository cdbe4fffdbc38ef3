"""Convolution and pooling composed from MXNet's own array operators.

Works wherever MXNet works: on GPU arrays, in float32 and float64, on arrays and symbols of both
worlds, differentiable. Every loop below is over the taps of a kernel, never over pixels, and no
shape is ever read, so that the same lines serve symbols.

Inside, everything is a legacy array or symbol (the same object, seen through another type), since
the legacy operators are the ones that both worlds share. `_Operators` holds the few places where
the worlds differ.
"""

from __future__ import annotations

import itertools
import math
from operator import sub
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import numpy

from .. import _mxnet, geometry
from .._mxnet import Kind, mx
from ..geometry import Ints


class _Operators:
    """MXNet's operators for one kind of input."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.F = mx.sym if kind.symbol else mx.nd

    def enter(self, x: Any) -> Any:
        return x.as_nd_ndarray() if self.kind.numpy else x

    def leave(self, x: Any) -> Any:
        return x.as_np_ndarray() if self.kind.numpy else x

    def reshape(self, x: Any, legacy: Ints, numpy: Ints, name: Optional[str] = None) -> Any:
        """Reshape by special codes, which differ between the worlds (`legacy`, `numpy`).

        The legacy operator refuses empty arrays, so only legacy arrays take it, which `convolution`
        and `pooling` know not to be empty.
        """
        if self.kind == _mxnet.ND_ARRAY:
            return self.F.reshape(x, shape=legacy, name=name)
        x = x.as_np_ndarray()
        if self.kind.symbol:
            return mx.symbol.numpy_extension.reshape(x, numpy, name=name).as_nd_ndarray()
        return mx.npx.reshape(x, numpy).as_nd_ndarray()

    def sum(self, x: Any, axes: Ints) -> Any:
        """Sum over the last axes, `axes`, which are kept with size 1."""
        if self.kind == _mxnet.ND_ARRAY:
            return self.F.sum(x, axis=axes, keepdims=True)
        # a product with ones, since reductions refuse empty arrays
        columns = x
        for _ in axes[1:]:
            columns = self.reshape(columns, (0, 0, -3, -2), (-2, -2, -5, -4))
        ones = self.F.ones_like(self.F.contrib.arange_like(columns, axis=2))
        total = self.F.dot(columns, self.F.BlockGrad(ones))
        for axis in axes:
            total = self.F.expand_dims(total, axis=axis)
        return total

    def pad(
        self, x: Any, before: Ints, after: Ints, value: float = 0.0, mode: str = 'constant'
    ) -> Any:
        """Pad the axes from the third one on with `value`, or in another of MXNet's modes."""
        if not any(before) and not any(after):
            return x
        if len(before) == 1:
            # MXNet pads two or three axes
            x = self.pad(self.F.expand_dims(x, axis=2), (0,) + before, (0,) + after, value, mode)
            return self.F.squeeze(x, axis=2)
        width = [0, 0, 0, 0]
        for pair in zip(before, after):
            width.extend(pair)
        return self.F.pad(x, mode=mode, pad_width=tuple(width), constant_value=value)

    def take_every(self, x: Any, starts: Ints, tails: Ints, steps: Ints) -> Any:
        """``x[..., start : size - tail : step]`` on the last axes, one triple per axis."""
        if not any(starts) and not any(tails) and all(step == 1 for step in steps):
            return x
        leading = (None, None)
        return self.F.slice(
            x,
            begin=leading + starts,
            end=leading + tuple(-tail if tail else None for tail in tails),
            step=(1, 1) + steps,
        )

    def add(self, a: Any, b: Any) -> Any:
        # not `a + b`: for symbols that is another operator, which refuses empty arrays
        return self.F.broadcast_add(a, b)

    def move_axes(self, x: Any, axes: Ints, name: Optional[str] = None) -> Any:
        if axes == tuple(range(len(axes))):
            return x
        return self.F.transpose(x, axes=axes, name=name)


_OPERATORS: Dict[Kind, _Operators] = {
    kind: _Operators(kind)
    for kind in (_mxnet.NP_ARRAY, _mxnet.ND_ARRAY, _mxnet.NP_SYMBOL, _mxnet.ND_SYMBOL)
}


def operators(kind: Kind) -> _Operators:
    """MXNet's operators for inputs of one kind."""
    return _OPERATORS[kind]


def _check(node: str, key: str, **values: Any) -> str:
    """The name of a node that fails exactly where data does not fit.

    The node learns sizes when the graph is inferred, and all of it that MXNet's error shows is its
    name. So the name holds the sentence, with dots in the place of those sizes, and MXNet's own
    words, which follow it, have them.
    """
    return f'{node} ({geometry.unfinished_message(key, **values)})'


def _with_checked_sizes(
    ops: _Operators, x: Any, op: str, layout: str, least: Ints, key: str, values: Dict[str, Any]
) -> Any:
    """`x`, seen through nodes that fail where it has other axes or fewer than `least` elements.

    Without them, slices that reach over the end are cut short, silently. They look at one channel
    of one image and at rows as long as an axis; those that `x` goes through leave its memory as it
    is. `key` and `values` are the sentence for an axis that is too short.
    """
    F = ops.F

    def too_short(node: str) -> str:
        return _check(node, key, op=op, **values)

    x, plane = _with_checked_axes(ops, x, op, layout)
    for axis, count in zip(layout.strip('NC'), least):
        if count < 1:
            continue
        row = F.contrib.arange_like(plane, axis=layout.index(axis))
        end = too_short(f'end_{axis}')
        last = F.slice_axis(row, axis=0, begin=count - 1, end=count, name=end)
        # a slice of an empty row is empty, which `_after` refuses
        x = _after(ops, x, last, too_short(f'fits_{axis}'), too_short(f'checked_{axis}'))
    return x


def _with_checked_axes(
    ops: _Operators, x: Any, op: str, layout: str, key: str = 'wrong_axes', **values: Any
) -> Tuple[Any, Any]:
    """`x`, seen through nodes that fail where it has other axes, and one channel of one image."""
    F = ops.F

    def axes(node: str) -> str:
        return _check(node, key, op=op, layout=layout, expected=len(layout), **values)

    ends = tuple(1 if axis in 'NC' else None for axis in layout)
    begins = tuple(0 if axis in 'NC' else None for axis in layout)
    plane = F.slice(x, begin=begins, end=ends, name=axes('plane'))
    order = tuple(range(len(layout)))
    plane = F.transpose(F.BlockGrad(plane), axes=order, name=axes('axes'))
    one = F.slice_axis(F.shape_array(plane), axis=0, begin=0, end=1)
    return _after(ops, x, one, axes('order'), axes('checked')), plane


def _with_equal_rows(ops: _Operators, x: Any, pairs: Sequence[Any], key: str, **values: Any) -> Any:
    """`x`, seen through nodes that fail where the two rows of one of `pairs` differ in length.

    In the place of a row there may be its length. `key` and `values` are the sentence for it.
    """
    F = ops.F
    for number, pair in enumerate(pairs):
        first, second = (
            F.zeros(shape=(row,), dtype='float64')
            if isinstance(row, int)
            else F.cast(F.BlockGrad(row), dtype='float64')
            for row in pair
        )
        both = F.elemwise_add(first, second, name=_check(f'equal_{number}', key, **values))
        fits, checked = (_check(f'{node}_{number}', key, **values) for node in ('fits', 'checked'))
        x = _after(ops, x, _one_element(ops, both), fits, checked)
    return x


def _one_element(ops: _Operators, x: Any) -> Any:
    """A row of one element, of the dtype of `x`, whatever the shape of `x` is."""
    return ops.F.contrib.arange_like(ops.F.BlockGrad(ops.F.expand_dims(x, axis=0)), axis=0)


def _with_fitting_window(
    ops: _Operators, x: Any, op: str, layout: str, kernel: Ints, pad: Ints, dilation: Ints
) -> Any:
    """`x`, seen through nodes that fail where the window does not fit."""
    extents = tuple(map(geometry.extent, kernel, dilation))
    least = tuple(n - 2 * p for n, p in zip(extents, pad))
    values = {'kernel_size': kernel, 'dilation': dilation, 'padding': pad, 'extent': extents}
    return _with_checked_sizes(ops, x, op, layout, least, 'kernel_too_large', values)


def with_fitting_pooling(x: Any, arguments: geometry.Pooling, kind: Kind, op: str) -> Any:
    """The symbol `x`, seen through nodes that fail where a window of a pooling does not fit."""
    ops, ones = _OPERATORS[kind], (1,) * arguments.ndim
    x = ops.enter(x)
    if arguments.global_pool:
        zeros = (0,) * arguments.ndim
        return ops.leave(_with_fitting_window(ops, x, op, arguments.layout, ones, zeros, ones))
    kernel = arguments.kernel
    least = tuple(k - b - a for k, b, a in zip(kernel, *arguments.sides))
    values = {
        'kernel_size': kernel,
        'dilation': ones,
        'padding': arguments.padding,
        'extent': kernel,
    }
    x = _with_checked_sizes(ops, x, op, arguments.layout, least, 'kernel_too_large', values)
    return ops.leave(x)


def _after(ops: _Operators, x: Any, one: Any, fits: str, checked: str) -> Any:
    """`x`, in a graph where it cannot be computed without `one`, a row of one element."""
    F = ops.F
    x = F.reshape_like(
        F.expand_dims(x, axis=0),
        F.BlockGrad(one),
        lhs_begin=0,
        lhs_end=1,
        rhs_begin=0,
        rhs_end=1,
        name=fits,
    )
    return F.squeeze(x, axis=0, name=checked)


def with_checked_dtype(
    x: Any,
    kind: Kind,
    op: str,
    dtype: Optional[str],
    allowed: Sequence[str],
    key: str = 'graph_dtype',
    **values: Any,
) -> Any:
    """The symbol `x`, seen through nodes that fail where its dtype is another one than `dtype`.

    Without a `dtype`, where it is none of `allowed`: real types, with float16 or without, or
    integers. `key` and `values` are the sentence for it.
    """
    ops = _OPERATORS[kind]
    F, x = ops.F, ops.enter(x)
    words = {'op': op, 'allowed': ', '.join(allowed) if dtype is None else dtype, **values}

    def wrong(node: str) -> str:
        return _check(node, key, **words)

    # what adds only to an array of the same dtype
    zero = _one_element(ops, x)
    if dtype is not None:
        one = F.zeros(shape=(1,), dtype=dtype)
    elif 'float32' not in allowed:
        # which real types do not have
        one = _numpy_only(ops, 'bitwise_or_scalar', zero, scalar=0, name=wrong('integer'))
    else:
        # a quotient of integers is float32
        one = _numpy_only(ops, 'true_divide_scalar', zero, scalar=1.0)
        if 'float16' not in allowed:
            # which is wider than float16, and leaves the others as they are
            one = F.amp_multicast(one, F.zeros(shape=(1,), dtype='float32'), num_outputs=2)[0]
    one = F.elemwise_add(one, zero, name=wrong('dtype'))
    return ops.leave(_after(ops, x, one, wrong('fits'), 'checked_dtype'))


def _numpy_only(ops: _Operators, operator: str, x: Any, **arguments: Any) -> Any:
    """An operator of symbols that the NumPy world has and the legacy one lacks."""
    call = getattr(mx.symbol.numpy._internal, operator)
    return call(x.as_np_ndarray(), **arguments).as_nd_ndarray()


def legacy_and_empty(x: Any, kind: Kind) -> bool:
    # Legacy arrays can be empty under np_shape, but few legacy operators take them.
    return kind == _mxnet.ND_ARRAY and 0 in x.shape


def inverse(axes: Ints) -> Ints:
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))


# --------------------------------------------------------------------------- dtypes


def cast(x: Any, dtype: Any, kind: Kind, name: Optional[str] = None) -> Any:
    """`x` in another dtype."""
    ops = _OPERATORS[kind]
    return ops.leave(ops.F.cast(ops.enter(x), dtype=dtype, name=name))


def to_integers(x: Any, dtype: Any, kind: Kind, floor: bool) -> Any:
    """The float64 `x`, rounded down if `floor`, within the range of an integer dtype."""
    ops = _OPERATORS[kind]
    x = ops.F.BlockGrad(ops.enter(x))
    if floor:
        x = ops.F.floor(x)
    range_ = numpy.iinfo(dtype)
    return ops.leave(ops.F.minimum(ops.F.maximum(x, int(range_.min)), int(range_.max)))


# --------------------------------------------------------------------------- convolution


def convolution(
    x: Any,
    weight: Any,
    bias: Optional[Any],
    arguments: geometry.Convolution,
    kind: Kind,
    name: Optional[str] = None,
    adds: Any = None,
) -> Any:
    """One convolution on inputs of one `kind`, arguments already checked.

    One matrix product per tap of the kernel: ``(channels, in_channels)`` times
    ``(in_channels, positions)``, accumulated. What autograd must keep of a product is its right
    side. So with stride 1 the product is taken over the whole image, kept once for all taps, and
    its result is shifted; with larger strides, where that would compute what is then thrown away,
    the image is thinned out first. Never is there a matrix as large as kernel times image, except
    in the second case while recording, where it is smaller by the product of the strides.
    """
    if legacy_and_empty(x, kind):
        x, weight = _mxnet.to_world(x, True), _mxnet.to_world(weight, True)
        bias = None if bias is None else _mxnet.to_world(bias, True)
        out = convolution(x, weight, bias, arguments, _mxnet.NP_ARRAY)
        return _mxnet.to_world(out, False)
    ops = _OPERATORS[kind]
    ndim = arguments.ndim
    layout, plain = arguments.layout, 'CN' + arguments.layout.strip('NC')
    x, weight = ops.enter(x), ops.enter(weight)
    if kind.symbol:
        x = _with_fitting_window(
            ops, x, 'convolution', layout, arguments.kernel, arguments.pad, arguments.dilate
        )
    x = ops.move_axes(x, tuple(layout.index(axis) for axis in plain))
    if kind.symbol:
        weight = _with_checked_shape(ops, weight, x, arguments, 0)
    # the weight's axes are those of the layout with O for N and I for C; taps come first here
    weight = ops.move_axes(weight, tuple(layout.index(axis) for axis in layout.strip('NC') + 'NC'))
    x = ops.pad(x, arguments.pad, arguments.pad)

    reaches = tuple(geometry.extent(k, d) - 1 for k, d in zip(arguments.kernel, arguments.dilate))
    shift_last = all(step == 1 for step in arguments.stride)
    if shift_last:
        image = _Positions(ops, x, arguments.groups, ndim)
    total = None
    for tap in itertools.product(*map(range, arguments.kernel)):
        starts = tuple(i * d for i, d in zip(tap, arguments.dilate))
        tails = tuple(reach - start for reach, start in zip(reaches, starts))
        matrix = _tap_matrix(ops, weight, tap, arguments)
        if shift_last:
            product = ops.take_every(image.times(matrix), starts, tails, (1,) * ndim)
        else:
            thinned = ops.take_every(x, starts, tails, arguments.stride)
            image = _Positions(ops, thinned, arguments.groups, ndim)
            product = image.times(matrix)
        total = product if total is None else ops.add(total, product)

    if bias is not None:
        total = _with_bias(ops, total, bias, weight, arguments)
    back = inverse(tuple(layout.index(axis) for axis in plain))
    return ops.leave(ops.move_axes(total, back, name=name))


def convolution_transpose(
    x: Any,
    weight: Any,
    bias: Optional[Any],
    arguments: geometry.ConvolutionTranspose,
    kind: Kind,
    name: Optional[str] = None,
    adds: Any = None,
) -> Any:
    """One transposed convolution on inputs of one `kind`, arguments already checked.

    One matrix product per tap of the kernel, as in `convolution`, over the data as it is: nothing
    is multiplied with zeros in between.
    """
    if legacy_and_empty(x, kind):
        x, weight = _mxnet.to_world(x, True), _mxnet.to_world(weight, True)
        bias = None if bias is None else _mxnet.to_world(bias, True)
        out = convolution_transpose(x, weight, bias, arguments, _mxnet.NP_ARRAY)
        return _mxnet.to_world(out, False)
    ops = _OPERATORS[kind]
    ndim = arguments.ndim
    layout, plain = arguments.layout, 'CN' + arguments.layout.strip('NC')
    x, weight = ops.enter(x), ops.enter(weight)
    if kind.symbol:
        x, weight = with_checked_inputs(ops, x, weight, arguments)
    x = ops.move_axes(x, tuple(layout.index(axis) for axis in plain))
    # the weight's axes are those of the layout with I for N and O for C; taps come first here
    weight = ops.move_axes(weight, tuple(layout.index(axis) for axis in layout.strip('NC') + 'NC'))

    image = _Positions(ops, x, arguments.groups, ndim)

    def piece(tap: Ints) -> Any:
        matrix = _tap_matrix(ops, weight, tap, arguments)
        return image.times(ops.F.swapaxes(matrix, dim1=1, dim2=2))

    total = _spread(ops, piece, arguments, arguments.adj)
    if bias is not None:
        total = _with_bias(ops, total, bias, weight, arguments)
    back = inverse(tuple(layout.index(axis) for axis in plain))
    if back == tuple(range(len(back))):
        return ops.leave(ops.F.identity(total, name=name) if kind.symbol else total)
    return ops.leave(ops.move_axes(total, back, name=name))


def as_pointwise(x: Any, weight: Any, arguments: geometry.Convolution, kind: Kind) -> Any:
    """The weight of a convolution of `x` as that of one over its windows' elements as channels."""
    ops = _OPERATORS[kind]
    weight = ops.enter(weight)
    if kind.symbol:
        weight = _with_checked_shape(ops, weight, ops.enter(x), arguments, 1)
    for _ in arguments.kernel:
        weight = ops.reshape(weight, (0, -3, -2), (-2, -5, -4))
    return ops.leave(ops.F.expand_dims(ops.F.expand_dims(weight, axis=2), axis=3))


def with_checked_convolution(
    x: Any, weight: Any, arguments: geometry.Convolution, kind: Kind
) -> Tuple[Any, Any]:
    """`x` and `weight` of a graph, seen through nodes that fail where they don't fit."""
    ops, layout = _OPERATORS[kind], arguments.layout
    x, weight = ops.enter(x), ops.enter(weight)
    x = _with_fitting_window(
        ops, x, 'convolution', layout, arguments.kernel, arguments.pad, arguments.dilate
    )
    weight = _with_checked_shape(ops, weight, x, arguments, layout.index('C'))
    return ops.leave(x), ops.leave(weight)


def with_checked_inputs(
    ops: _Operators, x: Any, weight: Any, arguments: geometry.ConvolutionTranspose
) -> Tuple[Any, Any]:
    """`x` and `weight` of a graph, seen through nodes that fail where they don't fit."""
    least = geometry.least_for_transposed(arguments)
    values = {'padding': arguments.pad, 'least': least}
    op, layout = 'convolution_transpose', arguments.layout
    x = _with_checked_sizes(ops, x, op, layout, least, 'nothing_left', values)
    return x, _with_checked_shape(ops, weight, x, arguments, layout.index('C'))


def _spread(
    ops: _Operators,
    piece: Callable[[Ints], Any],
    window: Union[geometry.Convolution, geometry.ConvolutionTranspose],
    adj: Ints,
) -> Any:
    """The sum of ``piece(tap)`` over the taps, each put where the tap of every window lies.

    Element i of a piece goes to element ``i * stride + tap * dilation - pad``. Elements whose
    places leave the same rest when divided by the stride get theirs from the same taps; so each
    rest is an image of its own, in which pieces are only shifted, and in the end the images are
    laced into one another. `adj` elements are there beyond the last that a window reaches.
    """
    stride = window.stride
    extents = tuple(map(geometry.extent, window.kernel, window.dilate))
    # elements that each image needs behind those of a piece, for the taps and for `adj`
    room = tuple(
        max((e - 1) // s, -((p - e - a) // s) - 1)
        for e, s, p, a in zip(extents, stride, window.pad, adj)
    )
    images: Dict[Ints, Any] = {}
    for tap in itertools.product(*map(range, window.kernel)):
        places = tuple(i * d for i, d in zip(tap, window.dilate))
        rest = tuple(place % s for place, s in zip(places, stride))
        shift = tuple(place // s for place, s in zip(places, stride))
        behind = tuple(r - n for r, n in zip(room, shift))
        shifted = ops.pad(piece(tap), shift, behind)
        images[rest] = ops.add(images[rest], shifted) if rest in images else shifted
    total = laced(ops, images, stride, 'CN' + window.layout.strip('NC'))
    tails = tuple(
        s * (r + 1) + p - e - a for s, r, p, e, a in zip(stride, room, window.pad, extents, adj)
    )
    return ops.take_every(total, window.pad, tails, (1,) * window.ndim)


def laced(
    ops: _Operators, images: Dict[Ints, Any], stride: Ints, layout: str, rest: Ints = ()
) -> Any:
    """One image of several: element ``i * stride + rest`` is element i of ``images[rest]``.

    Where there is no image there are zeros; there is one for the rest 0 along each axis.
    """
    axis, F = len(rest), ops.F
    if axis == len(stride):
        return images[rest]
    if stride[axis] == 1:
        return laced(ops, images, stride, layout, rest + (0,))
    at = layout.index(layout.strip('NC')[axis])
    there = sorted({place[axis] for place in images if place[:axis] == rest})
    parts: List[Any] = []
    for i, behind in zip(there, there[1:] + [stride[axis]]):
        part = F.expand_dims(laced(ops, images, stride, layout, rest + (i,)), axis=at + 1)
        if behind > i + 1:
            # of zeros, however many, one array
            zeros = F.BlockGrad(F.zeros_like(part))
            part = F.concat(
                part, F.broadcast_axis(zeros, axis=at + 1, size=behind - i - 1), dim=at + 1
            )
        parts.append(part)
    together = F.concat(*parts, dim=at + 1) if len(parts) > 1 else parts[0]
    return ops.reshape(together, (0,) * at + (-3, -2), (-2,) * at + (-5, -4))


def slice_axes(
    ops: _Operators,
    x: Any,
    layout: str,
    begins: Sequence[int],
    ends: Sequence[Optional[int]],
    steps: Sequence[int],
    name: Optional[str] = None,
) -> Any:
    """``x[begin:end:step]`` on each spatial axis of `layout`."""
    spatial = layout.strip('NC')

    def along(values: Sequence[Any], other: Any) -> Tuple[Any, ...]:
        return tuple(other if axis in 'NC' else values[spatial.index(axis)] for axis in layout)

    sides = {'begin': along(begins, None), 'end': along(ends, None), 'step': along(steps, 1)}
    return ops.F.slice(x, name=name, **sides)


def picked(
    x: Any,
    layout: str,
    first: Ints,
    left: Ints,
    step: Ints,
    kind: Kind,
    name: Optional[str] = None,
) -> Any:
    """``x[first : size - left : step]`` on each spatial axis of `layout`."""
    if legacy_and_empty(x, kind):
        out = picked(_mxnet.to_world(x, True), layout, first, left, step, _mxnet.NP_ARRAY)
        return _mxnet.to_world(out, False)
    ops, ends = _OPERATORS[kind], [-n if n else None for n in left]
    return ops.leave(slice_axes(ops, ops.enter(x), layout, first, ends, step, name))


def _with_bias(
    ops: _Operators, total: Any, bias: Any, weight: Any, arguments: geometry.AnyConvolution
) -> Any:
    """`total`, with axes ``(C, N, ...)``, plus one number for each channel."""
    bias = ops.enter(bias)
    if ops.kind.symbol:
        bias = _with_checked_bias(ops, bias, weight, arguments)
    # added by a product with ones: the sum in a broadcast's gradient refuses empty arrays
    first = ops.F.BlockGrad(ops.F.slice_axis(total, axis=0, begin=0, end=1))
    column = ops.F.reshape(bias, shape=(arguments.channels, 1))
    return ops.add(total, ops.F.dot(column, ops.F.ones_like(first)))


_PAD_MODES = {'zeros': 'constant', 'reflect': 'reflect', 'replicate': 'edge'}


def border(
    x: Any,
    around: geometry.Border,
    layout: str,
    kind: Kind,
    op: str = 'convolution',
    name: Optional[str] = None,
) -> Any:
    """`x` with `around` around it, on every spatial axis of `layout`."""
    if legacy_and_empty(x, kind):
        out = border(_mxnet.to_world(x, True), around, layout, _mxnet.NP_ARRAY)
        return _mxnet.to_world(out, False)
    ops = _OPERATORS[kind]
    x = ops.enter(x)
    if kind.symbol:
        least = geometry.least_for_border(around)
        values = {'padding': around.pairs, 'mode': repr(around.mode), 'least': least}
        x = _with_checked_sizes(ops, x, op, layout, least, 'border_too_large', values)
    if around.mode == 'circular':
        for axis, before, after in zip(layout.strip('NC'), around.before, around.after):
            at = layout.index(axis)
            parts = [x]
            if before:
                parts.insert(0, ops.F.slice_axis(x, axis=at, begin=-before, end=None))
            if after:
                parts.append(ops.F.slice_axis(x, axis=at, begin=0, end=after))
            x = ops.F.concat(*parts, dim=at) if len(parts) > 1 else x
        return ops.leave(ops.F.identity(x, name=name) if kind.symbol else x)
    axes = tuple(layout.index(axis) for axis in 'NC' + layout.strip('NC'))
    x = ops.pad(ops.move_axes(x, axes), around.before, around.after, mode=_PAD_MODES[around.mode])
    x = ops.move_axes(x, inverse(axes))
    return ops.leave(ops.F.identity(x, name=name) if kind.symbol else x)


class _Positions:
    """An image ``(C, N, *sizes)`` as the right side of matrix products, one per group."""

    def __init__(self, ops: _Operators, x: Any, groups: int, ndim: int) -> None:
        self._ops = ops
        self._image = x
        self._ndim = ndim
        columns = ops.reshape(x, (-4, groups, -1, -2), (-6, groups, -1, -4))
        for _ in range(ndim):
            columns = ops.reshape(columns, (0, 0, -3, -2), (-2, -2, -5, -4))
        self._columns = columns

    def times(self, matrices: Any) -> Any:
        """``(groups, M, C / groups)`` matrices times this image: ``(groups * M, N, *sizes)``."""
        product = self._ops.F.batch_dot(matrices, self._columns)
        product = self._ops.reshape(product, (-3, -2), (-5, -4))
        return self._ops.F.reshape_like(
            product,
            self._image,
            lhs_begin=1,
            lhs_end=2,
            rhs_begin=1,
            rhs_end=self._ndim + 2,
        )


def _tap_matrix(ops: _Operators, weight: Any, tap: Ints, arguments: geometry.AnyConvolution) -> Any:
    """The weights ``(*kernel, O, I)`` of one tap as ``(groups, O / groups, I)``.

    With O and I exchanged where the convolution is transposed.
    """
    matrix = ops.F.slice(weight, begin=tap, end=tuple(i + 1 for i in tap))
    for _ in range(len(tap) - 1):
        matrix = ops.reshape(matrix, (-3, -2), (-5, -4))
    # the one axis of size 1 that is left splits off the groups from the first channels
    matrix = ops.reshape(matrix, (-3, -2), (-5, -4))
    return ops.reshape(matrix, (-4, arguments.groups, -1, -2), (-6, arguments.groups, -1, -4))


def _with_checked_shape(
    ops: _Operators, weight: Any, x: Any, arguments: geometry.AnyConvolution, channel_axis: int
) -> Any:
    """`weight`, tied to the shape that follows from the channels of the data.

    Shapes do not flow backwards through slices and products, so without this the weight of a
    layer whose initialisation waits for the data would stay unknown. A slice of a larger weight
    would fit where the weight does not.
    """
    F, groups, ndim = ops.F, arguments.groups, arguments.ndim
    inner_axis = geometry.free_axis(arguments)
    transposed = isinstance(arguments, geometry.ConvolutionTranspose)
    op = 'convolution_transpose' if transposed else 'convolution'
    shape = _known_shape(weight)
    if shape is not None:
        geometry.check_weight(arguments, shape, op)

    def not_divisible(node: str) -> str:
        return _check(node, 'channels_not_divisible', op=op, groups=groups, name='in_channels')

    def mismatch(node: str) -> str:
        return _check(
            node,
            'channels_mismatch_transposed' if transposed else 'channels_mismatch',
            op=op,
            weight_shape=shape or geometry.weight_text(arguments, '...'),
            groups=groups,
        )

    # a row as long as there are channels in the data, and of that what one group has
    row = F.BlockGrad(F.contrib.arange_like(x, axis=channel_axis))
    name = (mismatch if shape else not_divisible)('groups')
    row = F.reshape(row, shape=(-4, groups, -1), name=name)
    if transposed:
        inner = F.reshape(F.reshape(row, shape=(-3,)), shape=(1, -1))
    else:
        inner = F.slice_axis(row, axis=0, begin=0, end=1)
    if shape is not None:
        return F.reshape_like(
            weight,
            inner,
            lhs_begin=inner_axis,
            lhs_end=inner_axis + 1,
            rhs_begin=1,
            rhs_end=2,
            name=mismatch('weight'),
        )
    inner = F.reshape(inner, shape=tuple(-1 if i == inner_axis else 1 for i in range(ndim + 2)))
    full = geometry.weight_shape(arguments, 0)
    others = tuple(i for i in range(ndim + 2) if i != inner_axis)
    like = F.broadcast_axis(inner, axis=others, size=tuple(full[i] for i in others))
    return F._internal._identity_with_attr_like_rhs(weight, like, name=mismatch('weight'))


def _with_checked_bias(
    ops: _Operators, bias: Any, weight: Any, arguments: geometry.AnyConvolution
) -> Any:
    """`bias`, tied to its shape: no other operator of the graph demands it."""
    transposed = isinstance(arguments, geometry.ConvolutionTranspose)
    op = 'convolution_transpose' if transposed else 'convolution'
    shape = _known_shape(bias)
    if shape is not None:
        geometry.check_bias(arguments, shape, op)
        return bias
    wrong = _check('bias', 'bias_shape', op=op, expected=(arguments.channels,))
    flat = ops.F.reshape(weight, shape=(-1,))
    like = ops.F.slice_axis(flat, axis=0, begin=0, end=arguments.channels)
    return ops.F._internal._identity_with_attr_like_rhs(bias, like, name=wrong)


def _known_shape(symbol: Any) -> Optional[Ints]:
    """The shape with which a variable was declared, or None where it is not known."""
    sizes = (symbol.attr('__shape__') or '').strip('()[], ').split(',')
    if not all(size.strip().isdigit() and int(size) > 0 for size in sizes):
        return None
    return tuple(map(int, sizes))


# --------------------------------------------------------------------------- windows as columns


def unfold(x: Any, arguments: geometry.Convolution, kind: Kind, name: Optional[str] = None) -> Any:
    """The windows of `x`, of layout NC..., as columns ``(N, C * taps, windows)``."""
    if legacy_and_empty(x, kind):
        out = unfold(_mxnet.to_world(x, True), arguments, _mxnet.NP_ARRAY)
        return _mxnet.to_world(out, False)
    ops, ndim = _OPERATORS[kind], arguments.ndim
    x = ops.enter(x)
    if kind.symbol:
        window = (arguments.kernel, arguments.pad, arguments.dilate)
        x = _with_fitting_window(ops, x, 'unfold', arguments.layout, *window)
    x = ops.pad(x, arguments.pad, arguments.pad)
    reaches = tuple(geometry.extent(k, d) - 1 for k, d in zip(arguments.kernel, arguments.dilate))
    columns = []
    for tap in itertools.product(*map(range, arguments.kernel)):
        starts = tuple(i * d for i, d in zip(tap, arguments.dilate))
        tails = tuple(reach - start for reach, start in zip(reaches, starts))
        seen = ops.take_every(x, starts, tails, arguments.stride)
        for _ in range(ndim - 1):
            seen = ops.reshape(seen, (0, 0, -3, -2), (-2, -2, -5, -4))
        columns.append(seen)
    # not concat: two views of what that gives fail, where oneDNN computes it
    together = ops.F.stack(*columns, axis=2)
    return ops.leave(ops.reshape(together, (0, -3, -2), (-2, -5, -4), name=name))


def fold(
    x: Any,
    sizes: Ints,
    windows: Ints,
    arguments: geometry.Convolution,
    kind: Kind,
    name: Optional[str] = None,
) -> Any:
    """The adjoint of `unfold`: columns are added up to images of `sizes`."""
    if legacy_and_empty(x, kind):
        out = fold(_mxnet.to_world(x, True), sizes, windows, arguments, _mxnet.NP_ARRAY)
        return _mxnet.to_world(out, False)
    ops = _OPERATORS[kind]
    taps = list(itertools.product(*map(range, arguments.kernel)))
    x = ops.enter(x)
    if kind.symbol:
        x = _with_fitting_columns(ops, x, sizes, math.prod(windows), len(taps))
    # (N, C, taps, windows), and of each tap (N, C, *windows)
    x = ops.reshape(x, (0, -4, -1, len(taps), -2), (-2, -6, -1, len(taps), -4))
    ends = [n - 1 for n in windows]

    def piece(tap: Ints) -> Any:
        at = taps.index(tap)
        one = ops.F.slice_axis(x, axis=2, begin=at, end=at + 1)
        # the axis of the tap is the first of the windows' axes
        one = ops.reshape(one, (0, 0, -3, -2), (-2, -2, -5, -4))
        for n in windows[:0:-1]:
            one = ops.reshape(one, (0, 0, -4, -1, n, -2), (-2, -2, -6, -1, n, -4))
        return one

    reached = tuple(
        end * s + geometry.extent(k, d)
        for end, s, k, d in zip(ends, arguments.stride, arguments.kernel, arguments.dilate)
    )
    # what the padded image has behind the last window
    adj = tuple(n + 2 * p - r for n, p, r in zip(sizes, arguments.pad, reached))
    out = _spread(ops, piece, arguments, adj)
    return ops.leave(ops.F.identity(out, name=name) if kind.symbol else out)


def _with_fitting_columns(ops: _Operators, x: Any, sizes: Ints, windows: int, taps: int) -> Any:
    """`x`, seen through nodes that fail where it has not `windows` columns, or no rows for taps."""
    F = ops.F
    wrong: Dict[str, Any] = {'op': 'fold', 'window': taps}
    x, _ = _with_checked_axes(ops, x, layout='NCW', key='columns_mismatch', **wrong)
    rows = F.BlockGrad(F.contrib.arange_like(x, axis=1))
    rows = F.reshape(rows, shape=(-4, -1, taps), name=_check('rows', 'columns_mismatch', **wrong))
    of_one = F.reshape(F.slice_axis(rows, axis=0, begin=0, end=1), shape=(-1,))
    x = _with_equal_rows(ops, x, [(of_one, taps)], 'columns_mismatch', **wrong)
    columns = F.contrib.arange_like(x, axis=2)
    words = {'op': 'fold', 'output_size': sizes, 'expected': windows}
    return _with_equal_rows(ops, x, [(columns, windows)], 'windows_mismatch', **words)


# --------------------------------------------------------------------------- moved windows


def deformable_columns(
    x: Any,
    offset: Any,
    mask: Optional[Any],
    sampling: geometry.Sampling,
    kind: Kind,
    adds: Any = None,
) -> Any:
    """What moved windows see, ``(N, C * taps, *windows)``, from data ``(N, C, H, W)``.

    Each element of a window is interpolated from the four around its place, all at once.
    """
    ops = _OPERATORS[kind]
    F = ops.F
    x, offset = ops.enter(x), ops.enter(offset)
    mask = None if mask is None else ops.enter(mask)
    if kind.symbol:
        x = _with_fitting_places(ops, x, offset, mask, sampling)

    def by_group(array: Any) -> Any:
        groups = sampling.groups
        return ops.reshape(array, (0, -4, groups, -1, -2), (-2, -6, groups, -1, -4))

    # (N, groups, H, W, C / groups), and of offset and mask (N, groups, taps, *windows)
    x, offset = by_group(x), by_group(offset)
    ends = [
        F.reshape(
            F.slice_axis(F.contrib.arange_like(x, axis=axis), axis=0, begin=-1, end=None),
            shape=(1, 1, 1, 1, 1),
        )
        for axis in (3, 4)
    ]
    x = F.transpose(x, axes=(0, 1, 3, 4, 2))

    def line(axis: int) -> Any:
        numbers = F.contrib.arange_like(moved[0], axis=axis)
        return F.reshape(numbers, shape=tuple(-1 if i == axis else 1 for i in range(5)))

    moved = [
        F.slice(offset, begin=(None, None, i), end=(None, None, None), step=(1, 1, 2))
        for i in range(2)
    ]
    row = F.floor(line(2) / sampling.kernel[1])
    taps = row, line(2) - row * sampling.kernel[1]
    places = []
    for axis, (by, tap) in enumerate(zip(moved, taps)):
        start = line(3 + axis) * sampling.stride[axis] - sampling.pad[axis]
        start = F.broadcast_add(start, tap * sampling.dilate[axis])
        places.append(F.broadcast_add(by, F.BlockGrad(start)))
    seen = _interpolated(ops, x, line(0), line(1), places, ends, sampling.modulated)
    if mask is not None:
        seen = F.broadcast_mul(seen, F.expand_dims(by_group(mask), axis=5))
    seen = F.transpose(seen, axes=(0, 1, 5, 2, 3, 4))
    for _ in range(2):
        seen = ops.reshape(seen, (0, -3, -2), (-2, -5, -4))
    return ops.leave(seen)


def _with_fitting_places(
    ops: _Operators, x: Any, offset: Any, mask: Optional[Any], sampling: geometry.Sampling
) -> Any:
    """`x`, seen through nodes that fail where offsets and mask are not those of its windows."""
    F, op = ops.F, 'deformable_convolution'
    kernel, pad, dilate = sampling.kernel, sampling.pad, sampling.dilate
    x = _with_fitting_window(ops, x, op, sampling.layout, kernel, pad, dilate)
    row = F.BlockGrad(F.contrib.arange_like(x, axis=1))
    words: Dict[str, Any] = {'op': op, 'groups': sampling.groups}
    parts = _check('parts', 'deformable_channels', **words)
    of_group = F.reshape(row, shape=(-4, sampling.groups, -1), name=parts)
    fits, checked = (_check(node, 'deformable_channels', **words) for node in ('fits', 'checked'))
    x = _after(ops, x, _one_element(ops, of_group), fits, checked)

    windows = []
    for axis, (k, d, p, s) in enumerate(zip(kernel, dilate, pad, sampling.stride)):
        row = F.cast(F.contrib.arange_like(x, axis=axis + 2), dtype='float64')
        if p:
            around = F.zeros(shape=(p,), dtype='float64')
            row = F.concat(around, row, around, dim=0)
        reach = geometry.extent(k, d) - 1
        windows.append(F.slice(row, begin=(0,), end=(-reach if reach else None,), step=(s,)))
    for name, array in (('offset', offset), ('mask', mask)):
        if array is None:
            continue
        same = F.elemwise_add(
            _one_element(ops, x), _one_element(ops, array), name=_check(name, 'mixed_dtypes', op=op)
        )
        fits, checked = (_check(f'{name}_{node}', 'mixed_dtypes', op=op) for node in ('fits', 'is'))
        x = _after(ops, x, same, fits, checked)
        each, count = geometry.numbers_of_places(sampling, name)
        words = {'op': op, 'name': name, 'each': each, 'expected': f'(..., {count}, ..., ...)'}
        sizes = (F.contrib.arange_like(x, axis=0), count, *windows)
        pairs = [(F.contrib.arange_like(array, axis=i), n) for i, n in enumerate(sizes)]
        x = _with_equal_rows(ops, x, pairs, 'deformable_input', **words)
    return x


def _interpolated(
    ops: _Operators,
    x: Any,
    image: Any,
    group: Any,
    places: Sequence[Any],
    ends: Sequence[Any],
    surrounded: bool,
) -> Any:
    """``(N, groups, taps, *windows, C)``: `x`, ``(N, groups, H, W, C)``, between its elements.

    `places` are rows and columns ``(N, groups, taps, *windows)``, `ends` the numbers of the last
    ones. What an element without a share in a place holds, be it NaN, has no influence.
    """
    F = ops.F
    inside, corners = None, []
    for place, end in zip(places, ends):
        from_first = place > -1 if surrounded else place >= 0
        there = F.broadcast_logical_and(from_first, F.broadcast_lesser(place, end + 1))
        inside = there if inside is None else F.broadcast_logical_and(inside, there)
        if not surrounded:
            place = F.broadcast_minimum(place, end)
        low = F.BlockGrad(F.floor(place))
        part = place - low
        pairs = []
        for number, weight in ((low, 1 - part), (low + 1, part)):
            if not surrounded:
                # the last element is its own neighbour
                number = F.broadcast_minimum(number, end)
            there = F.broadcast_logical_and(number >= 0, F.broadcast_lesser_equal(number, end))
            pairs.append((F.where(there, number, F.zeros_like(number)), there, weight))
        corners.append(pairs)
    total = None
    for (row, above, by_row), (column, beside, by_column) in itertools.product(*corners):
        there = F.broadcast_logical_and(F.broadcast_logical_and(above, beside), inside)
        weight = F.expand_dims(F.where(there, by_row * by_column, F.zeros_like(there)), axis=5)
        indices = [F.broadcast_add(F.zeros_like(row), one) for one in (image, group)]
        elements = F.gather_nd(x, F.BlockGrad(F.stack(*indices, row, column, axis=0)))
        # finite elements stay, whatever their weight: the gradient by the weight is theirs
        seen = F.broadcast_logical_or(F.abs(elements) < float('inf'), weight != 0)
        elements = F.where(F.BlockGrad(seen), elements, F.zeros_like(elements))
        part = F.broadcast_mul(elements, weight)
        total = part if total is None else ops.add(total, part)
    return total


# --------------------------------------------------------------------------- adaptive pooling


def adaptive_pooling(
    x: Any,
    output_size: Ints,
    mode: str,
    layout: str,
    kind: Kind,
    name: Optional[str] = None,
) -> Any:
    """Pooling to `output_size`, arguments already checked.

    Each axis is reduced by itself: by a product with the matrix that says which elements are in
    which window, or by the largest of what it lets through.
    """
    if legacy_and_empty(x, kind):
        out = adaptive_pooling(_mxnet.to_world(x, True), output_size, mode, layout, _mxnet.NP_ARRAY)
        return _mxnet.to_world(out, False)
    ops = _OPERATORS[kind]
    F = ops.F
    x = ops.enter(x)
    if kind.symbol:
        ones = (1,) * len(output_size)
        op = 'adaptive_pooling'
        x = _with_checked_sizes(ops, x, op, layout, ones, 'nothing_to_pool', {})
    for letter, count in reversed(list(zip(layout.strip('NC'), output_size))):
        # the axis last, where products and maxima are taken
        axis = layout.index(letter)
        order = tuple(i for i in range(len(layout)) if i != axis) + (axis,)
        x = ops.move_axes(x, order)
        inside = _windows_along(ops, x, len(layout) - 1, count)
        if mode == 'avg':
            x = _averages(ops, x, inside)
        else:
            x = _largest_inside(ops, x, inside, count, len(layout))
        x = ops.move_axes(x, inverse(order))
    return ops.leave(F.identity(x, name=name) if kind.symbol else x)


def _windows_along(ops: _Operators, x: Any, axis: int, count: int) -> Any:
    """A matrix (count, n), 1 where an element of the axis of size n is in a window, 0 elsewhere.

    Computed without knowing n, in float64: of integers below 2**53, quotients are rounded to the
    right side of every integer.
    """
    F = ops.F
    row = F.BlockGrad(F.contrib.arange_like(x, axis=axis))
    place = _places_along(ops, x, axis)
    n = F.slice_axis(place, axis=0, begin=-1, end=None) + 1
    ones = F.ones_like(n)
    window = F.concat(*[ones * i for i in range(count)], dim=0) if count > 1 else ones * 0
    first = F.floor(F.broadcast_div(F.broadcast_mul(window, n), ones * count))
    last = F.ceil(F.broadcast_div(F.broadcast_mul(window + 1, n), ones * count))
    place = F.expand_dims(place, axis=0)
    from_first = F.broadcast_greater_equal(place, F.expand_dims(first, axis=1))
    to_last = F.broadcast_lesser(place, F.expand_dims(last, axis=1))
    # of the dtype of the data, which is not known here
    outside = F.broadcast_axis(F.expand_dims(F.zeros_like(row), axis=0), axis=0, size=count)
    marks = F.broadcast_logical_and(from_first, to_last)
    return F.BlockGrad(F.where(marks, F.ones_like(outside), outside))


def _places_along(ops: _Operators, x: Any, axis: int) -> Any:
    """The number of each element along an axis of `x`, in float64."""
    image = ops.F.BlockGrad(ops.F.slice(x, begin=(0,), end=(1,)))
    wide = ops.F.cast(image, dtype='float64')
    return ops.F.contrib.arange_like(wide, axis=axis)


def _averages(ops: _Operators, x: Any, inside: Any) -> Any:
    """The mean of what each row of `inside` lets through of the last axis of `x`.

    It is a product of matrices, in which 0 times NaN or infinity would be NaN: so elements that are
    not finite count as 0 there, and are then put into the windows that hold them. Their own
    gradient is 0.
    """
    F = ops.F
    infinity = float('inf')
    shares = F.broadcast_div(inside, F.sum(inside, axis=1, keepdims=True))
    total = F.dot(F.where(F.abs(x) < infinity, x, F.zeros_like(x)), shares, transpose_b=True)
    data = F.BlockGrad(x)
    for below, value in ((data < infinity, infinity), (data > -infinity, -infinity)):
        # NaN is neither, and infinity minus infinity is NaN again
        there = F.dot(F.ones_like(below) - below, inside, transpose_b=True) > 0
        zeros = F.BlockGrad(F.zeros_like(total))
        total = ops.add(total, F.where(there, zeros + value, zeros))
    return total


def _largest_inside(ops: _Operators, x: Any, inside: Any, count: int, ndim: int) -> Any:
    """The maximum, or the first NaN, of what each row of `inside` lets through of the last axis."""
    F = ops.F
    x = F.expand_dims(x, axis=ndim - 1)
    for _ in range(ndim - 1):
        inside = F.expand_dims(inside, axis=0)
    marks = F.BlockGrad(F.broadcast_add(F.zeros_like(x), inside))
    # not broadcast, whose gradient refuses empty arrays
    wide = F.concat(*[x] * count, dim=ndim - 1) if count > 1 else x
    seen = F.where(marks, wide, F.zeros_like(wide) - float('inf'))
    return F.squeeze(_largest_along(ops, seen, ndim), axis=ndim)


# --------------------------------------------------------------------------- pooling


def pooling(
    x: Any,
    arguments: geometry.Pooling,
    kind: Kind,
    name: Optional[str] = None,
    adds: Any = None,
) -> Any:
    """One pooling on an input of `kind`, arguments already checked.

    Windows are boxes, so each mode is folded axis by axis: a window of h x w costs h + w steps.
    """
    if legacy_and_empty(x, kind):
        out = pooling(_mxnet.to_world(x, True), arguments, _mxnet.NP_ARRAY)
        return _mxnet.to_world(out, False)
    ops = _OPERATORS[kind]
    layout = arguments.layout
    plain = 'NC' + layout.strip('NC')
    axes = tuple(layout.index(axis) for axis in plain)
    if kind.symbol:
        x = with_fitting_pooling(x, arguments, kind, 'pooling')
    x = ops.move_axes(ops.enter(x), axes)
    fold = _MODES[arguments.mode]
    out = fold(ops, x, arguments)
    if kind.symbol and layout == plain:
        # whichever operator came last, the graph's node gets the name that was asked for
        out = ops.F.identity(out, name=name)
    return ops.leave(ops.move_axes(out, inverse(axes), name=name))


def _spatial(arguments: geometry.Pooling) -> Ints:
    return tuple(range(2, arguments.ndim + 2))


def _padding(arguments: geometry.Pooling) -> Tuple[Ints, Ints]:
    """Padding before and after each axis; ceil mode makes room for one more, incomplete window."""
    extra = tuple(step - 1 if arguments.ceil_mode else 0 for step in arguments.stride)
    before, after = arguments.sides
    return before, tuple(map(sum, zip(after, extra)))


def _taps(ops: _Operators, x: Any, axis: int, arguments: geometry.Pooling) -> List[Any]:
    """What each tap of the window sees along one spatial axis, in order."""
    here = axis - 2
    taps = []
    for i in range(arguments.kernel[here]):
        starts, tails, steps = ([0] * arguments.ndim for _ in range(3))
        starts[here], tails[here] = i, arguments.kernel[here] - 1 - i
        steps = [1] * arguments.ndim
        steps[here] = arguments.stride[here]
        taps.append(ops.take_every(x, tuple(starts), tuple(tails), tuple(steps)))
    return taps


def _max(ops: _Operators, x: Any, arguments: geometry.Pooling) -> Any:
    # The last axis first: then the one that wins a tie is the first in row-major order.
    if arguments.global_pool:
        for axis in reversed(_spatial(arguments)):
            x = _largest_along(ops, x, axis)
        return x
    x = ops.pad(x, *_padding(arguments), float('-inf'))
    for axis in reversed(_spatial(arguments)):
        taps = _taps(ops, x, axis, arguments)
        x = taps[0]
        for tap in taps[1:]:
            x = ops.F.where(_keeps(ops, x, tap), x, tap)
    return x


def _keeps(ops: _Operators, x: Any, tap: Any) -> Any:
    """Where `x` is the maximum of both; NaN is more than any number, and the first of equals."""
    return ops.F.broadcast_logical_or(
        ops.F.broadcast_greater_equal(x, tap), ops.F.broadcast_not_equal(x, x)
    )


def _largest_along(ops: _Operators, x: Any, axis: int) -> Any:
    """The first NaN along `axis`, or else the first maximum; the axis is kept with size 1."""
    is_nan = ops.F.broadcast_not_equal(x, x)
    first_nan = ops.F.argmax(is_nan, axis=axis, keepdims=True)
    # a NaN compares as unordered: where there is one, look among the marks instead
    marks = ops.F.where(is_nan, ops.F.zeros_like(x), x)
    first_max = ops.F.argmax(marks, axis=axis, keepdims=True)
    any_nan = ops.F.pick(is_nan, first_nan, axis=axis, keepdims=True)
    first = ops.F.where(any_nan, first_nan, first_max)
    return ops.F.pick(x, first, axis=axis, keepdims=True)


def _box_sum(ops: _Operators, x: Any, arguments: geometry.Pooling) -> Any:
    """Sums over windows of an already padded `x`."""
    for axis in reversed(_spatial(arguments)):
        taps = _taps(ops, x, axis, arguments)
        x = taps[0]
        for tap in taps[1:]:
            x = ops.add(x, tap)
    return x


def _sum(ops: _Operators, x: Any, arguments: geometry.Pooling) -> Any:
    if arguments.global_pool:
        return ops.sum(x, _spatial(arguments))
    return _box_sum(ops, ops.pad(x, *_padding(arguments)), arguments)


def _avg(ops: _Operators, x: Any, arguments: geometry.Pooling) -> Any:
    total = _sum(ops, x, arguments)
    padded = any(map(any, arguments.sides))
    whole = not arguments.ceil_mode and (arguments.count_include_pad or not padded)
    if not arguments.global_pool and whole:
        count = 1
        for k in arguments.kernel:
            count *= k
        return total / count
    # how many elements each window averages is what the same window sums up over ones
    ones = ops.F.ones_like(_one_plane(ops, x, arguments.ndim))
    if arguments.global_pool:
        counts = ops.sum(ones, _spatial(arguments))
        return ops.F.broadcast_div(total, counts)
    before, after = _padding(arguments)
    if arguments.count_include_pad:
        ones = ops.pad(ones, *arguments.sides, 1.0)
        before, after = (0,) * arguments.ndim, tuple(map(sub, after, arguments.sides[1]))
    counts = _box_sum(ops, ops.pad(ones, before, after), arguments)
    # a window wholly outside has nothing to divide by, and sums up to 0
    return ops.F.broadcast_div(total, ops.F.broadcast_maximum(counts, ops.F.ones_like(counts)))


def _one_plane(ops: _Operators, x: Any, ndim: int) -> Any:
    """An array (1, 1, *sizes) with the spatial sizes of `x`, even where `x` is empty."""
    plane = None
    for axis in range(2, ndim + 2):
        line = ops.F.contrib.arange_like(x, axis=axis)
        line = ops.F.reshape(line, shape=tuple(-1 if i == axis else 1 for i in range(ndim + 2)))
        plane = line if plane is None else ops.F.broadcast_add(plane, line)
    return ops.F.BlockGrad(plane)


def _lp(ops: _Operators, x: Any, arguments: geometry.Pooling) -> Any:
    if arguments.p == 1:
        return _sum(ops, x, arguments)
    root = {2: ops.F.sqrt, 3: ops.F.cbrt}[arguments.p]
    power = ops.F.square(x)
    if arguments.p == 3:
        power = ops.F.broadcast_mul(power, x)
    total = _sum(ops, power, arguments)
    # a root has no derivative at 0: there, 1 takes its place, and the result and its gradient are 0
    zeros = ops.F.zeros_like(total)
    nothing = ops.F.broadcast_equal(total, zeros)
    safe = root(ops.F.where(nothing, ops.F.ones_like(total), total))
    return ops.F.where(nothing, zeros, safe)


_MODES = {'max': _max, 'avg': _avg, 'sum': _sum, 'lp': _lp}


# --------------------------------------------------------------------------- 64-bit integers

# The lowest of them, and where their upper halves begin.
_LOWEST, _HALF = -(2.0**63), 2**32


def pooling_of_int64(
    x: Any, arguments: geometry.Pooling, kind: Kind, name: Optional[str] = None
) -> Any:
    """One pooling of int64, arguments already checked: forward only, as that of all integers.

    float64 does not hold them, so all of it is computed in int64 itself. A sum that int64 does not
    hold becomes its largest or smallest value, and an average is exact whatever its sum is.
    """
    if legacy_and_empty(x, kind):
        out = pooling_of_int64(_mxnet.to_world(x, True), arguments, _mxnet.NP_ARRAY)
        return _mxnet.to_world(out, False)
    ops, layout = _OPERATORS[kind], arguments.layout
    axes = tuple(layout.index(axis) for axis in 'NC' + layout.strip('NC'))
    if kind.symbol:
        x = with_fitting_pooling(x, arguments, kind, 'pooling')
    x = ops.F.BlockGrad(ops.move_axes(ops.enter(x), axes))
    x = _int64_max(ops, x, arguments) if arguments.mode == 'max' else _int64_sum(ops, x, arguments)
    x = ops.move_axes(x, inverse(axes))
    return ops.leave(ops.F.identity(x, name=name) if kind.symbol else x)


def _surrounded(ops: _Operators, x: Any, before: Ints, after: Ints, value: float) -> Any:
    """`x` with `value` around it on each spatial axis: MXNet's padding takes no integers."""
    F = ops.F
    for axis, sides in enumerate(zip(before, after), start=2):
        if any(sides):
            one = F.zeros_like(F.slice_axis(x, axis=axis, begin=0, end=1)) + value
            first, last = ([F.broadcast_axis(one, axis=axis, size=n)] if n else [] for n in sides)
            x = F.concat(*first, x, *last, dim=axis)
    return x


def _int64_max(ops: _Operators, x: Any, arguments: geometry.Pooling) -> Any:
    if arguments.global_pool:
        # not the legacy one, which refuses empty arrays
        maximum = mx.sym.np.max if ops.kind.symbol else mx.np.max
        return maximum(x.as_np_ndarray(), _spatial(arguments), keepdims=True).as_nd_ndarray()
    x = _surrounded(ops, x, *_padding(arguments), _LOWEST)
    for axis in reversed(_spatial(arguments)):
        taps = _taps(ops, x, axis, arguments)
        x = taps[0]
        for tap in taps[1:]:
            x = ops.F.broadcast_maximum(x, tap)
    return x


def _int64_box_sum(ops: _Operators, x: Any, arguments: geometry.Pooling) -> Any:
    """Sums over windows of an already padded `x`, none of which may be beyond int64."""
    if not arguments.global_pool:
        return _box_sum(ops, x, arguments)
    for axis in _spatial(arguments):
        # the last of the sums so far, since reductions refuse empty arrays
        x = ops.F.slice_axis(ops.F.cumsum(x, axis=axis), axis=axis, begin=-1, end=None)
    return x


def _floor_divided(ops: _Operators, x: Any, by: Any) -> Tuple[Any, Any]:
    """The quotient by a number or an array, rounded down, and the rest."""
    F = ops.F

    def times(x: Any) -> Any:
        return x * by if isinstance(by, int) else F.broadcast_mul(x, by)

    # rounded towards 0
    quotient = x / by if isinstance(by, int) else F.broadcast_div(x, by)
    rest = F.broadcast_sub(x, times(quotient))
    negative = rest < 0
    return F.broadcast_sub(quotient, negative), F.broadcast_add(rest, times(negative))


def _int64_sum(ops: _Operators, x: Any, arguments: geometry.Pooling) -> Any:
    """Sums or averages, by way of the sums of the upper and of the lower halves."""
    F = ops.F
    sides = ((0,) * arguments.ndim,) * 2 if arguments.global_pool else _padding(arguments)
    halves = _floor_divided(ops, _surrounded(ops, x, *sides, 0), _HALF)
    upper, lower = (_int64_box_sum(ops, one, arguments) for one in halves)
    carry, lower = _floor_divided(ops, lower, _HALF)
    upper = F.broadcast_add(upper, carry)
    if arguments.mode == 'avg':
        counts = _int64_counts(ops, x, arguments)
        upper, rest = _floor_divided(ops, upper, counts)
        # less than the count times 2^32, so that it fits
        rest = F.broadcast_add(rest * _HALF, lower)
        return F.broadcast_add(upper * _HALF, F.broadcast_div(rest, counts))
    largest = _HALF // 2 - 1
    lower = F.where(upper > largest, F.zeros_like(lower) + (_HALF - 1), lower)
    lower = F.where(upper < -largest - 1, F.zeros_like(lower), lower)
    upper = F.maximum(F.minimum(upper, largest), -largest - 1)
    return F.broadcast_add(upper * _HALF, lower)


def _int64_counts(ops: _Operators, x: Any, arguments: geometry.Pooling) -> Any:
    """How many elements each window averages, at least 1."""
    ones = ops.F.ones_like(_one_plane(ops, x, arguments.ndim))
    if arguments.global_pool:
        return _int64_box_sum(ops, ones, arguments)
    before, after = _padding(arguments)
    if arguments.count_include_pad:
        ones = _surrounded(ops, ones, *arguments.sides, 1)
        before, after = (0,) * arguments.ndim, tuple(map(sub, after, arguments.sides[1]))
    counts = _box_sum(ops, _surrounded(ops, ones, before, after, 0), arguments)
    return ops.F.broadcast_maximum(counts, ops.F.ones_like(counts))


# --------------------------------------------------------------------------- unpooling


def _flat_places(ops: _Operators, x: Any, ndim: int) -> Any:
    """The place of each element of `x`, (N, C, *sizes), in its row-major plane, in float64."""
    F = ops.F
    plane = scale = None
    for axis in range(ndim + 1, 1, -1):
        line = _places_along(ops, x, axis)
        size = F.slice_axis(line, axis=0, begin=-1, end=None) + 1
        shape = tuple(-1 if i == axis else 1 for i in range(ndim + 2))
        line = F.reshape(line, shape=shape)
        size = F.reshape(size, shape=(1,) * (ndim + 2))
        if plane is None:
            plane, scale = line, size
        else:
            plane = F.broadcast_add(plane, F.broadcast_mul(line, scale))
            scale = F.broadcast_mul(scale, size)
    zeros = F.zeros_like(F.cast(x, dtype='float64'))
    return F.BlockGrad(F.broadcast_add(zeros, plane))


def max_pooling_with_indices(x: Any, arguments: geometry.Pooling, kind: Kind) -> Tuple[Any, Any]:
    """Maxima of windows, as `pooling` gives them, and their places."""
    if legacy_and_empty(x, kind):
        both = max_pooling_with_indices(_mxnet.to_world(x, True), arguments, _mxnet.NP_ARRAY)
        return _mxnet.to_world(both[0], False), _mxnet.to_world(both[1], False)
    ops, layout = _OPERATORS[kind], arguments.layout
    if kind.symbol:
        x = with_fitting_pooling(x, arguments, kind, 'max_pooling_with_indices')
    axes = tuple(layout.index(axis) for axis in 'NC' + layout.strip('NC'))
    x = ops.move_axes(ops.enter(x), axes)
    places = _flat_places(ops, x, arguments.ndim)
    x = ops.pad(x, *_padding(arguments), float('-inf'))
    places = ops.pad(places, *_padding(arguments), -1.0)
    for axis in reversed(_spatial(arguments)):
        taps = list(zip(_taps(ops, x, axis, arguments), _taps(ops, places, axis, arguments)))
        x, places = taps[0]
        for tap, its_places in taps[1:]:
            # padding never wins over an element, be it -inf
            inside = ops.F.broadcast_logical_or(places >= 0, its_places < 0)
            keep = _keeps(ops, x, tap)
            keep = ops.F.where(inside, keep, ops.F.zeros_like(keep))
            x, places = ops.F.where(keep, x, tap), ops.F.where(keep, places, its_places)
    indices = ops.F.cast(ops.F.BlockGrad(places), dtype='int32')
    back = inverse(axes)
    return ops.leave(ops.move_axes(x, back)), ops.leave(ops.move_axes(indices, back))


def max_unpooling(
    x: Any,
    indices: Any,
    sizes: Ints,
    windows: Ints,
    arguments: geometry.Pooling,
    kind: Kind,
) -> Any:
    """Each element of `x` where its index says, in images of `sizes`.

    One piece for each tap of the window: the elements whose maximum was there. A tap in the padding
    may have the number of another place, but what it gives is cut off with the padding.
    """
    if legacy_and_empty(x, kind):
        both = (_mxnet.to_world(x, True), _mxnet.to_world(indices, True))
        out = max_unpooling(*both, sizes, windows, arguments, _mxnet.NP_ARRAY)
        return _mxnet.to_world(out, False)
    ops, ndim, layout = _OPERATORS[kind], arguments.ndim, arguments.layout
    F = ops.F
    x, indices = ops.enter(x), ops.enter(indices)
    if kind.symbol:
        x = _with_fitting_indices(ops, x, indices, sizes, windows, layout)
    axes = tuple(layout.index(axis) for axis in 'NC' + layout.strip('NC'))
    x = ops.move_axes(x, axes)
    indices = F.cast(ops.move_axes(indices, axes), dtype='float64')
    zeros = F.BlockGrad(F.zeros_like(x))

    def piece(tap: Ints) -> Any:
        plane = None
        scale = 1
        for axis in range(ndim - 1, -1, -1):
            line = F.cast(F.contrib.arange_like(x, axis=axis + 2), dtype='float64')
            line = (line * arguments.stride[axis] + (tap[axis] - arguments.pad[axis])) * scale
            line = F.reshape(line, shape=tuple(-1 if i == axis + 2 else 1 for i in range(ndim + 2)))
            plane = line if plane is None else F.broadcast_add(plane, line)
            scale *= sizes[axis]
        here = F.broadcast_equal(indices, F.BlockGrad(plane))
        return F.where(here, x, zeros)

    ones = (1,) * ndim
    window = geometry.Convolution(
        arguments.kernel, arguments.stride, ones, arguments.pad, 1, 1, 'NC' + layout.strip('NC')
    )
    adj = tuple(
        n + 2 * p - (o - 1) * s - k
        for n, p, o, s, k in zip(sizes, arguments.pad, windows, arguments.stride, arguments.kernel)
    )
    return ops.leave(ops.move_axes(_spread(ops, piece, window, adj), inverse(axes)))


def _with_fitting_indices(
    ops: _Operators, x: Any, indices: Any, sizes: Ints, windows: Ints, layout: str
) -> Any:
    """`x`, seen through nodes that fail where it does not have `windows`, or `indices` differ."""
    F, op = ops.F, 'max_unpooling'
    x, plane = _with_checked_axes(ops, x, op, layout)
    words = {'op': op, 'output_size': sizes, 'expected': windows}
    pairs = [
        (F.contrib.arange_like(plane, axis=layout.index(axis)), n)
        for axis, n in zip(layout.strip('NC'), windows)
    ]
    x = _with_equal_rows(ops, x, pairs, 'unpooled_shape', **words)
    pairs = [
        tuple(F.contrib.arange_like(one, axis=i) for one in (x, indices))
        for i in range(len(layout))
    ]
    return _with_equal_rows(ops, x, pairs, 'indices_shape', op=op)
