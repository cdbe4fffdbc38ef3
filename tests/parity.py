"""The one way in which this suite compares a layer with what it must give.

`measure` runs a block in one of three modes and returns its output and every gradient by name;
`assert_same` compares two such results. `assert_layers_match` does both for two blocks.
"""

from __future__ import annotations

import contextlib

import mxnet as mx
import numpy as np
from mxnet import autograd, npx

MODES = ('imperative', 'hybridized', 'static')
TOLERANCE = 1e-5


def array_kind():
    """MXNet's module of arrays for the semantics in force: `mx.np` or the legacy `mx.nd`."""
    return mx.np if mx.util.is_np_array() else mx.nd


def empty_arrays(wanted=True):
    """A scope in which legacy arrays too may have an axis of size 0, which else means unknown."""
    return mx.util.np_shape(wanted or mx.util.is_np_shape())


@contextlib.contextmanager
def array_semantics(kind):
    """Switch to 'np' or 'nd' arrays, and back to what was before."""
    before = mx.util.is_np_shape(), mx.util.is_np_array()
    if kind == 'np':
        npx.set_np()
    else:
        npx.reset_np()
    try:
        yield kind
    finally:
        npx.reset_np()
        if any(before):
            npx.set_np(shape=before[0], array=before[1])


def set_mode(block, mode):
    """Let the block run imperatively, hybridized, or hybridized with memory planned once."""
    flags = {'static_alloc': True, 'static_shape': True} if mode == 'static' else {}
    block.hybridize(mode != 'imperative', **flags)


def parameters(block):
    """The parameters of a block by the names that `save_parameters` writes."""
    return block._collect_params_with_prefix()


def _as_tuple(value):
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _once(block, inputs, heads):
    arrays = [array_kind().array(value, dtype=value.dtype) for value in inputs]
    for array in arrays:
        array.attach_grad()
    with autograd.record():
        outputs = _as_tuple(block(*arrays))
    autograd.backward(list(outputs), [array_kind().array(head, dtype=head.dtype) for head in heads])
    names = ['x'] if len(arrays) == 1 else ['x%d' % i for i in range(len(arrays))]
    outcome = {'output' if i == 0 else 'output%d' % i: y for i, y in enumerate(outputs)}
    outcome.update((name, array.grad) for name, array in zip(names, arrays))
    outcome.update(
        (name, parameter.grad())
        for name, parameter in parameters(block).items()
        if parameter.grad_req != 'null'
    )
    return {name: array.asnumpy() for name, array in outcome.items()}


def measure(block, inputs, heads, mode='imperative'):
    """Run the block forwards and backwards once.

    Parameters
    ----------
    block : gluon.Block
        Initialized, with its parameters set.
    inputs, heads : numpy.ndarray or list of them
        What the block is called with, and the gradients of its outputs.
    mode : {'imperative', 'hybridized', 'static'}
        In static mode other numbers go through the same buffers first.

    Returns
    -------
    dict
        NumPy arrays: 'output', and the gradients 'x' and one under each parameter's name.
    """
    inputs, heads = _as_tuple(inputs), _as_tuple(heads)
    set_mode(block, mode)
    if mode == 'static':
        _once(block, [value[::-1] + 1 for value in inputs], [head[::-1] - 1 for head in heads])
    return _once(block, inputs, heads)


def assert_same(actual, expected, tolerance=TOLERANCE):
    """Each named array equals the expected one to `tolerance` of the largest expected value.

    Shapes are equal, and what is not finite stands at the same places with the same sign.
    """
    assert set(actual) == set(expected)
    for name in expected:
        assert_close(name, actual[name], expected[name], tolerance)


def assert_close(name, actual, expected, tolerance=TOLERANCE):
    """One array equals the expected one to `tolerance` of the largest expected value."""
    actual, expected = np.asarray(actual, 'float64'), np.asarray(expected, 'float64')
    assert actual.shape == expected.shape, '%s: shape %s, expected %s' % (
        name,
        actual.shape,
        expected.shape,
    )
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite], err_msg=name)
    if not finite.any():
        return
    largest = np.abs(expected[finite]).max()
    difference = np.where(finite, np.abs(np.where(finite, actual - expected, 0.0)), 0.0)
    worst = np.unravel_index(
        np.argmax(np.where(np.isnan(difference), np.inf, difference)), difference.shape
    )
    assert difference[worst] <= tolerance * largest, (
        '%s%s is %r, expected %r: off by %.2g of the largest value, %.2g'
        % (
            name,
            list(map(int, worst)),
            float(actual[worst]),
            float(expected[worst]),
            difference[worst] / largest if largest else np.inf,
            largest,
        )
    )


def copy_parameters(source, target):
    """Give `target` the parameters of `source`, matched by structure."""
    values = parameters(source)
    assert list(values) == list(parameters(target))
    for name, parameter in parameters(target).items():
        parameter.set_data(values[name].data())


def assert_layers_match(layer, reference, *inputs, modes=MODES, tolerance=TOLERANCE):
    """The layer gives the output and every gradient of the reference layer, in each mode.

    Both are initialized, and the layer gets the reference's parameters. Head gradients are drawn at
    random.
    """
    arrays = [array_kind().array(value, dtype=value.dtype) for value in inputs]
    outputs = _as_tuple(reference(*arrays))
    layer(*arrays)
    copy_parameters(reference, layer)
    generator = np.random.RandomState(0)
    heads = [generator.normal(size=y.shape).astype(y.dtype) for y in outputs]
    expected = measure(reference, inputs, heads)
    for mode in modes:
        assert_same(measure(layer, inputs, heads, mode), expected, tolerance)
