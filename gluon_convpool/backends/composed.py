"""Transposed convolution, composed of convolutions that the native library computes.

Element i of the data and tap t of the window meet in element ``i * stride + t * dilation - pad`` of
the output. Elements of the output whose places leave the same rest when divided by the stride get
theirs from the same taps, whose shifts are evenly spaced. So each rest is a convolution with
stride 1 by some of the taps, in reverse order, and the images of all rests are laced into one
another. Nothing is multiplied with zeros in between.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .. import geometry
from .._mxnet import Kind
from ..geometry import Ints
from . import native, portable

# With more users of one array than this, MXNet may add up their gradients in place, which a native
# operator is not told.
_USERS_WITHOUT_DETOUR = 6

# axes of an array that MXNet transposes
_MOST_TRANSPOSED = 6


class _Taps(NamedTuple):
    """The taps of one rest along one axis: which, how they are spaced, and where they shift to."""

    first: int
    step: int
    number: int
    shift: int
    dilation: int


def _taps(rest: int, kernel: int, stride: int, dilation: int) -> Optional[_Taps]:
    step = stride // math.gcd(stride, dilation)
    for first in range(min(step, kernel)):
        if first * dilation % stride == rest:
            count = -(-(kernel - first) // step)
            return _Taps(first, step, count, first * dilation // stride, step * dilation // stride)
    return None


class _Plan(NamedTuple):
    """What is computed for one rest: taps for each axis, the convolution, what is cut off of it."""

    taps: Tuple[_Taps, ...]
    arguments: geometry.Convolution
    starts: Ints
    tails: Ints


def _image_range(arguments: geometry.ConvolutionTranspose) -> Tuple[Ints, Ints]:
    """Of the image of each rest: the first element that is needed, and how many behind the data."""
    first = tuple(p // s for p, s in zip(arguments.pad, arguments.stride))
    room = tuple(
        -((p - geometry.extent(k, d) - a) // s) - 1
        for p, k, d, a, s in zip(
            arguments.pad, arguments.kernel, arguments.dilate, arguments.adj, arguments.stride
        )
    )
    return first, room


def _plans(arguments: geometry.ConvolutionTranspose) -> Optional[Dict[Ints, _Plan]]:
    """A plan for each rest; None where one of them has no tap at all."""
    first, room = _image_range(arguments)
    plans = {}
    for rest in itertools.product(*map(range, arguments.stride)):
        taps = tuple(map(_taps, rest, arguments.kernel, arguments.stride, arguments.dilate))
        known = [one for one in taps if one is not None]
        if len(known) < len(taps):
            return None
        before = [t.shift + t.dilation * (t.number - 1) - f for t, f in zip(known, first)]
        after = [r - t.shift for t, r in zip(known, room)]
        pad = tuple(max(0, b, a) for b, a in zip(before, after))
        convolution = geometry.Convolution(
            tuple(t.number for t in known),
            (1,) * len(known),
            tuple(t.dilation for t in known),
            pad,
            arguments.channels,
            arguments.groups,
            arguments.layout,
        )
        starts = tuple(p - b for p, b in zip(pad, before))
        tails = tuple(p - a for p, a in zip(pad, after))
        plans[rest] = _Plan(tuple(known), convolution, starts, tails)
    return plans


def serves(arguments: geometry.ConvolutionTranspose) -> bool:
    """Whether this is the way to compute it, and not the operator of the native library.

    Over three axes, lacing images into one another takes longer than computing them.
    """
    return arguments.ndim < 3


def obstacle(
    arguments: geometry.ConvolutionTranspose, dtype: Optional[str], device: Optional[str]
) -> str:
    """Why convolutions of the native library cannot make this one, or an empty string."""
    plans = _plans(arguments)
    if plans is None:
        return 'the native library has no convolution_transpose with strides beyond the window'
    reasons = (native.obstacle('convolution', p.arguments, dtype, device) for p in plans.values())
    return next((reason for reason in reasons if reason), '')


def convolution_transpose(
    x: Any,
    weight: Any,
    bias: Optional[Any],
    arguments: geometry.ConvolutionTranspose,
    kind: Kind,
    name: Optional[str] = None,
    adds: native.Adds = (None, None, None),
) -> Any:
    """One transposed convolution on inputs of one `kind`, arguments already checked."""
    if portable.legacy_and_empty(x, kind):
        return portable.convolution_transpose(x, weight, bias, arguments, kind, name)
    ops = portable.operators(kind)
    layout, stride = arguments.layout, arguments.stride
    plans = _plans(arguments)
    assert plans is not None
    x, weight = ops.enter(x), ops.enter(weight)
    if kind.symbol:
        x, weight = portable.with_checked_inputs(ops, x, weight, arguments)
    weight = _as_of_a_convolution(ops, weight, arguments)
    weights = [
        # from the last tap down to the first, which no step is left before
        portable.slice_axes(
            ops,
            weight,
            layout,
            [t.first + t.step * (t.number - 1) for t in plan.taps],
            [None] * arguments.ndim,
            [-t.step for t in plan.taps],
        )
        for plan in plans.values()
    ]
    one = next(iter(plans.values()))
    if arguments.groups == 1 and all(plan[1:] == one[1:] for plan in plans.values()):
        out = _at_once(ops, x, weights, bias, one, arguments, adds)
    else:
        users = len(plans)
        alone = (None if users > _USERS_WITHOUT_DETOUR else adds[0], False, None)
        images = {
            rest: _cut(
                ops, _convolved(ops, x, taps, bias, plan.arguments, alone), layout, *plan[2:]
            )
            for (rest, plan), taps in zip(plans.items(), weights)
        }
        out = portable.laced(ops, images, stride, layout)
    first, room = _image_range(arguments)
    tails = [
        s * (r + 1) + p - geometry.extent(k, d) - a
        for s, r, p, k, d, a in zip(stride, room, arguments.pad, *_window(arguments))
    ]
    out = _cut(
        ops, out, layout, [p - s * f for p, s, f in zip(arguments.pad, stride, first)], tails
    )
    return ops.leave(ops.F.identity(out, name=name) if kind.symbol else out)


def _convolved(
    ops: Any,
    x: Any,
    weight: Any,
    bias: Any,
    arguments: geometry.Convolution,
    adds: native.Adds,
) -> Any:
    x, weight = ops.leave(x), ops.leave(weight)
    return ops.enter(native.convolution(x, weight, bias, arguments, ops.kind, None, adds))


def _at_once(
    ops: Any,
    x: Any,
    weights: List[Any],
    bias: Any,
    plan: _Plan,
    arguments: geometry.ConvolutionTranspose,
    adds: native.Adds,
) -> Any:
    """All rests by one convolution, whose output has the channels of one after those of another."""
    layout, count = arguments.layout, len(weights)
    if count > 1:
        weight = ops.F.concat(*weights, dim=0)
        if bias is not None:
            bias = ops.leave(ops.F.concat(*[ops.enter(bias)] * count, dim=0))
        adds = (adds[0], False, False)
    else:
        weight, adds = weights[0], (adds[0], False, adds[2])
    whole = plan.arguments._replace(channels=arguments.channels * count)
    image = _cut(ops, _convolved(ops, x, weight, bias, whole, adds), layout, *plan[2:])
    if count == 1:
        return image
    strides = [(axis, s) for axis, s in zip(layout.strip('NC'), arguments.stride) if s > 1]
    if len(layout) + len(strides) <= _MOST_TRANSPOSED:
        return _spread(ops, image, layout, strides)
    for one in strides:
        image = _spread(ops, image, layout, [one])
    return image


def _spread(ops: Any, image: Any, layout: str, strides: List[Tuple[str, int]]) -> Any:
    """Images that follow one another as channels, laced into one along these axes.

    The axis of channels becomes one axis for each stride, and channels. Each of the former is moved
    behind the spatial axis that it is the stride of, and merged with it.
    """
    at, more = layout.index('C'), len(strides)
    for i, (_, s) in enumerate(strides):
        leading = at + i
        image = ops.reshape(
            image, (0,) * leading + (-4, s, -1, -2), (-2,) * leading + (-6, s, -1, -4)
        )
    order: List[int] = []
    for i, letter in enumerate(layout):
        order.append(i + more if i >= at else i)
        order += [at + j for j, (axis, _) in enumerate(strides) if axis == letter]
    image = ops.move_axes(image, tuple(order))
    for letter, _ in strides:
        leading = layout.index(letter)
        image = ops.reshape(image, (0,) * leading + (-3, -2), (-2,) * leading + (-5, -4))
    return image


def _window(arguments: geometry.ConvolutionTranspose) -> Tuple[Ints, Ints, Ints]:
    return arguments.kernel, arguments.dilate, arguments.adj


def _cut(ops: Any, x: Any, layout: str, starts: Any, tails: Any) -> Any:
    if not any(starts) and not any(tails):
        return x
    ends: List[Optional[int]] = [-tail if tail else None for tail in tails]
    return portable.slice_axes(ops, x, layout, starts, ends, [1] * len(starts))


def _as_of_a_convolution(ops: Any, weight: Any, arguments: geometry.ConvolutionTranspose) -> Any:
    """The weight with output channels in the place of N and input channels in that of C."""
    layout = arguments.layout
    order = tuple(layout.index(axis) for axis in 'NC' + layout.strip('NC'))
    groups = arguments.groups
    if groups == 1:
        swapped = {'N': 'C', 'C': 'N'}
        return ops.move_axes(weight, tuple(layout.index(swapped.get(a, a)) for a in layout))
    weight = ops.move_axes(weight, order)
    weight = ops.reshape(weight, (-4, groups, -1, -2), (-6, groups, -1, -4))
    weight = ops.F.swapaxes(weight, dim1=1, dim2=2)
    weight = ops.reshape(weight, (-3, -2), (-5, -4))
    return ops.move_axes(weight, portable.inverse(order))
