"""Convolution and pooling as plain loops, to be read.

Nothing here is fast. Each output element is one window of the input, picked out with ``[]``, and
one line of arithmetic: that is all there is to these layers. Works on any array that can be
sliced: ``mxnet.np``, legacy ``mxnet.nd`` and NumPy.
"""

from __future__ import annotations

from typing import Any, List, Tuple, Union

import numpy

from . import geometry
from ._mxnet import ND_ARRAY, NP_ARRAY, kind_of, mx

__all__ = ['Conv2D', 'corr2d', 'pool2d']


def corr2d(X: Any, K: Any) -> Any:
    """Slide `K` over `X` and sum the products: two-dimensional cross-correlation.

    Parameters
    ----------
    X : array, shape (H, W)
        Of ``mxnet.np``, ``mxnet.nd`` or NumPy, with any dtype that can be multiplied.
    K : array, shape (h, w)
        At most as large as `X`, and of the same kind.

    Returns
    -------
    array, shape (H - h + 1, W - w + 1)

    Raises
    ------
    ValueError
        If `X` or `K` is not a matrix, or `K` is larger than `X`.

    Examples
    --------
    >>> import numpy as np
    >>> from gluon_convpool import scratch
    >>> X = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    >>> K = np.array([[0, 1], [2, 3]])
    >>> scratch.corr2d(X, K)     # 0*0 + 1*1 + 3*2 + 4*3 = 19
    array([[19, 25],
           [37, 43]])
    """
    h, w = _matrix_shape('K', K)
    rows, columns = _windows(X, (h, w))
    values = []
    for i in range(rows):
        for j in range(columns):
            values.append((X[i : i + h, j : j + w] * K).sum())
    return _as_matrix(values, (rows, columns))


def pool2d(X: Any, pool_size: Tuple[int, int], mode: str = 'max') -> Any:
    """Slide a window over `X`, one step at a time, and keep its maximum or its mean.

    Parameters
    ----------
    X : array, shape (H, W)
        Of ``mxnet.np``, ``mxnet.nd`` or NumPy.
    pool_size : (int, int)
        Height and width of the window, at most those of `X`.
    mode : {'max', 'avg'}
        Whether a window becomes its maximum or its mean.

    Returns
    -------
    array, shape (H - pool_size[0] + 1, W - pool_size[1] + 1)

    Raises
    ------
    ValueError
        If `X` is not a matrix, the window is larger than `X`, or `mode` is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from gluon_convpool import scratch
    >>> X = np.array([[0., 1, 2], [3, 4, 5], [6, 7, 8]])
    >>> scratch.pool2d(X, (2, 2))
    array([[4., 5.],
           [7., 8.]])
    """
    geometry.choice('pool2d', 'mode', mode, ('max', 'avg'))
    p_h, p_w = geometry.per_axis('pool2d', 'pool_size', pool_size, 2, 1)
    rows, columns = _windows(X, (p_h, p_w))
    values = []
    for i in range(rows):
        for j in range(columns):
            window = X[i : i + p_h, j : j + p_w]
            values.append(window.max() if mode == 'max' else window.mean())
    return _as_matrix(values, (rows, columns))


class Conv2D(mx.gluon.nn.Block):
    """A trainable `corr2d`: one kernel, one bias, one matrix at a time.

    Parameters
    ----------
    kernel_size : int or (int, int)
        Shape of the parameter ``weight``; the parameter ``bias`` has shape (1,).
    **kwargs
        ``prefix`` and ``params``, as in every Gluon block.

    Raises
    ------
    TypeError, ValueError
        For a `kernel_size` that is not one or two integers of at least 1. When called, ValueError
        for data that is no matrix or smaller than the kernel.

    Notes
    -----
    The data is one matrix of shape (H, W), of ``mxnet.np`` or ``mxnet.nd``, float32; the output has
    shape (H - h + 1, W - w + 1).

    Examples
    --------
    >>> from gluon_convpool import scratch
    >>> from mxnet import autograd, nd
    >>> layer = scratch.Conv2D((1, 2))
    >>> layer.initialize()
    >>> with autograd.record():
    ...     loss = layer(nd.ones((3, 3))).sum()
    >>> loss.backward()
    >>> layer.weight.grad().asnumpy()
    array([[6., 6.]], dtype=float32)
    """

    def __init__(self, kernel_size: Union[int, Tuple[int, int]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        shape = geometry.per_axis('Conv2D', 'kernel_size', kernel_size, 2, 1)
        self.weight = self.params.get('weight', shape=shape)
        self.bias = self.params.get('bias', shape=(1,))

    def forward(self, x: Any) -> Any:
        return corr2d(x, self.weight.data()) + self.bias.data()


def _matrix_shape(name: str, X: Any) -> Tuple[int, int]:
    if len(X.shape) != 2:
        raise ValueError(f'{name} must be a matrix, but has shape {X.shape}')
    return X.shape


def _windows(X: Any, size: Tuple[int, int]) -> Tuple[int, int]:
    """How many windows of `size` fit below each other and side by side in `X`."""
    H, W = _matrix_shape('X', X)
    rows, columns = geometry.output_size(H, size[0]), geometry.output_size(W, size[1])
    if rows < 1 or columns < 1:
        raise ValueError(f'a window of {size} does not fit into X of shape {X.shape}')
    return rows, columns


def _as_matrix(values: List[Any], shape: Tuple[int, int]) -> Any:
    # Writing into Y[i, j] one by one would be plainer, but autograd cannot record that.
    kind = kind_of(values[0])
    if kind == NP_ARRAY:
        return mx.np.stack(values).reshape(shape)
    if kind == ND_ARRAY:
        return mx.nd.stack(*values).reshape(shape)
    return numpy.stack(values).reshape(shape)
