"""The two kinds of MXNet's arrays, `mx.np` and legacy `mx.nd`, and numbers to put into them."""

from __future__ import annotations

import contextlib
import zlib
from typing import Any, ContextManager, Iterator, List, Sequence

import numpy as np

from .. import geometry
from .._mxnet import mx

ARRAY_KINDS = ('np', 'nd')


def array_kind() -> Any:
    """Return MXNet's module of arrays for the semantics in force: `mx.np` or legacy `mx.nd`.

    Returns
    -------
    module

    Examples
    --------
    >>> from gluon_convpool import testing
    >>> with testing.array_semantics('np'):
    ...     testing.array_kind().__name__
    'mxnet.numpy'
    """
    return mx.np if mx.util.is_np_array() else mx.nd


def to_array(values: Any) -> Any:
    """Return `values`, a NumPy array, as an MXNet array of the kind in force and the same dtype."""
    return array_kind().array(values, dtype=values.dtype)


def empty_arrays(wanted: bool = True) -> ContextManager[Any]:
    """Return a scope in which legacy arrays too may have an axis of size 0.

    Outside of it MXNet reads that size as unknown.

    Parameters
    ----------
    wanted : bool
        False changes nothing.

    Returns
    -------
    context manager

    Examples
    --------
    >>> from gluon_convpool import testing
    >>> from mxnet import nd
    >>> with testing.empty_arrays():
    ...     nd.ones((0, 3)).shape
    (0, 3)
    """
    scope: ContextManager[Any] = mx.util.np_shape(wanted or mx.util.is_np_shape())
    return scope


@contextlib.contextmanager
def array_semantics(kind: str) -> Iterator[str]:
    """Switch to one kind of arrays, and back to what was before.

    Parameters
    ----------
    kind : {'np', 'nd'}
        ``mx.np`` arrays with NumPy's semantics, or legacy ``mx.nd`` arrays.

    Raises
    ------
    ValueError
        If `kind` is unknown.

    Examples
    --------
    >>> import mxnet
    >>> from gluon_convpool import testing
    >>> with testing.array_semantics('np'):
    ...     mxnet.util.is_np_array()
    True
    >>> mxnet.util.is_np_array()
    False
    """
    geometry.choice('array_semantics', 'kind', kind, ARRAY_KINDS)
    before = mx.util.is_np_shape(), mx.util.is_np_array()
    if kind == 'np':
        mx.npx.set_np()
    else:
        mx.npx.reset_np()
    try:
        yield kind
    finally:
        mx.npx.reset_np()
        if any(before):
            mx.npx.set_np(shape=before[0], array=before[1])


def draw(name: str, *shapes: Sequence[int], dtype: str = 'float32') -> List[np.ndarray]:
    """Return normal numbers, the same in every run and on every machine for the same name.

    Parameters
    ----------
    name : str
        The seed.
    *shapes : tuple of int
        Of the arrays, which are drawn one after another.
    dtype : str

    Returns
    -------
    list of numpy.ndarray

    Examples
    --------
    >>> from gluon_convpool import testing
    >>> image, kernel = testing.draw('an image and a kernel', (1, 3, 8, 8), (4, 3, 3, 3))
    >>> image.shape, image.dtype
    ((1, 3, 8, 8), dtype('float32'))
    >>> bool((testing.draw('an image and a kernel', (1, 3, 8, 8))[0] == image).all())
    True
    """
    generator = np.random.RandomState(zlib.crc32(name.encode()))
    return [generator.normal(size=shape).astype(dtype) for shape in shapes]
