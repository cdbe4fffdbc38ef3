"""Who computes: the native library, MXNet's own convolution, or a composition of its operators.

`choose` decides for one call. With ``'auto'``, the default, the native backend serves whatever it
can; of the rest, MXNet's operator serves what it is fast at, and the portable backend everything
else; ``'native'`` turns "cannot" into an error that says why, and ``'portable'`` never asks. Where
gradients of gradients are asked for, another composition takes the place of the portable one.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any, NamedTuple, Optional

from .. import _mxnet, geometry
from .._mxnet import mx
from . import builtin, higher_order, native, portable

CHOICES = ('auto', 'native', 'portable')
ENVIRONMENT_VARIABLE = 'GLUON_CONVPOOL_BACKEND'


def _from_environment() -> str:
    value = os.environ.get(ENVIRONMENT_VARIABLE, '').strip().lower() or 'auto'
    return geometry.choice('environment', ENVIRONMENT_VARIABLE, value, CHOICES)


_current = _from_environment()
_higher_order = False


class use_backend:
    """Choose the backend, for good or for a ``with`` block.

    The choice holds for the whole process, all threads included. A hybridized network keeps the
    backend with which its graph was traced: call ``hybridize()`` again to trace it anew.

    Parameters
    ----------
    name : {'auto', 'native', 'portable'}
        'auto', the default of the package, takes the native library where it can serve a call and
        the portable backend otherwise. 'native' does so for what the library has no operator for:
        adaptive pooling, unfold and fold, maxima with their indices, unpooling, and padding with
        other values than zeros; other calls that it cannot serve raise ValueError. 'portable' never
        takes the library.
    higher_order : bool
        Only with 'portable': compute so that gradients can be differentiated again, after
        ``mxnet.autograd.grad(..., create_graph=True)``, as those of the other backends and of
        MXNet's own layers cannot. Slower, and for arrays alone, not for hybridized networks.

    Raises
    ------
    ValueError
        If `name` is unknown, 'native' is asked for and the library is not available, or
        `higher_order` with another backend than 'portable'; or if that is no bool.

    Examples
    --------
    >>> import gluon_convpool
    >>> with gluon_convpool.use_backend('portable'):
    ...     print(gluon_convpool.info().backend)
    portable

    The second derivative of a sum of squares of two products:

    >>> from gluon_convpool import functional
    >>> from mxnet import autograd, np
    >>> x, k = np.array([[[2.0, 3.0]]]), np.array([[[10.0]]])
    >>> x.attach_grad()
    >>> with autograd.record(), gluon_convpool.use_backend('portable', higher_order=True):
    ...     y = np.square(functional.convolution(x, k, layout='NCW'))
    ...     slope = autograd.grad(y, x, create_graph=True)[0]
    >>> slope.backward()
    >>> x.grad
    array([[[200., 200.]]])
    """

    def __init__(self, name: str, higher_order: bool = False) -> None:
        global _current, _higher_order
        name = geometry.choice('use_backend', 'name', name, CHOICES)
        if name == 'native':
            status = _mxnet.native_status()
            if not status.available:
                raise ValueError(f"use_backend('native'): {status.reason}")
        if geometry.flag('use_backend', 'higher_order', higher_order) and name != 'portable':
            geometry.refuse('higher_order_backend', name=repr(name))
        self._previous = _current, _higher_order
        _current, _higher_order = name, higher_order

    def __enter__(self) -> use_backend:
        return self

    def __exit__(self, *_: Any) -> None:
        global _current, _higher_order
        _current, _higher_order = self._previous


def current() -> str:
    """The choice in force: 'auto', 'native' or 'portable'."""
    return _current


def composition() -> ModuleType:
    """The module that composes MXNet's operators to what no backend has as a whole."""
    return higher_order if _higher_order else portable


def check_activation(act_type: str) -> None:
    """Refuse MXNet's activation where higher-order gradients are asked for and it has none.

    Raises
    ------
    ValueError
        Naming the activation.
    """
    if _higher_order and act_type not in higher_order.ACTIVATIONS:
        geometry.refuse('higher_order_lacks', op='activation', what=repr(act_type))


def check_order(op: str, what: str) -> None:
    """Refuse `what` while autograd records for higher-order gradients, of which it has none.

    Raises
    ------
    ValueError
        Naming it.
    """
    if _higher_order and mx.autograd.is_recording():
        geometry.refuse('higher_order_lacks', op=op, what=what)


def obstacle(
    op: str,
    arguments: geometry.Arguments,
    dtype: Optional[str] = None,
    device: Optional[str] = None,
) -> str:
    """Why the native backend cannot serve a call, or an empty string where it can."""
    status = _mxnet.native_status()
    if not status.available:
        return status.reason
    return native.obstacle(op, arguments, dtype, device)


def is_native() -> bool:
    """Say whether the native library is there, and may compute what it has kernels for."""
    return _current != 'portable' and _mxnet.native_status().available


def choose(
    op: str,
    arguments: geometry.Arguments,
    dtype: Optional[str] = None,
    device: Optional[str] = None,
) -> ModuleType:
    """The backend module for one call.

    `dtype` and `device` ('cpu', 'gpu') are None where they are not known, as for symbols.

    Raises
    ------
    ValueError
        If the native backend, or one of its algorithms, was asked for and cannot serve the call.
    """
    if _current == 'portable':
        return _portable(op, arguments, "the backend 'portable' was asked for")
    reason = obstacle(op, arguments, dtype, device)
    if not reason:
        return native
    if _current == 'native':
        raise ValueError(f"{op}: the backend 'native' was asked for, but {reason}")
    algorithm = getattr(arguments, 'algorithm', 'auto')
    if (
        algorithm == 'auto'
        and _mxnet.native_status().available
        and not builtin.obstacle(op, arguments, dtype, device)
    ):
        return builtin
    return _portable(op, arguments, reason)


def needs_border(
    arguments: geometry.Convolution, dtype: Optional[str] = None, device: Optional[str] = None
) -> bool:
    """Whether the border of a convolution must be put around its data before a backend has it.

    The native backend has zeros around data that it reads where they are, whatever their number on
    each side.
    """
    if arguments.border is None:
        return False
    zeros = arguments.border.mode == 'zeros'
    return not zeros or choose('convolution', arguments, dtype, device) is not native


def _portable(op: str, arguments: geometry.Arguments, reason: str) -> ModuleType:
    algorithm = getattr(arguments, 'algorithm', 'auto')
    if algorithm != 'auto':
        geometry.refuse('algorithm_without_native', op=op, algorithm=repr(algorithm), reason=reason)
    return composition()


def check_algorithm(
    arguments: geometry.Convolution,
    data: geometry.Ints,
    dtype: Optional[str] = None,
    device: Optional[str] = None,
) -> None:
    """Refuse a forced algorithm that cannot compute this convolution of data of shape `data`.

    Raises
    ------
    ValueError
        Saying what the algorithm needs, or that the native backend is not in use.
    """
    if arguments.algorithm != 'auto':
        if arguments.border is not None and arguments.border.mode != 'zeros':
            arguments, data = geometry.without_border(arguments, data)
        choose('convolution', arguments, dtype, device)
        native.check_algorithm(arguments, data, dtype)


# --------------------------------------------------------------------------- threads and a report


def set_num_threads(n: int) -> None:
    """Use `n` threads for convolution and pooling.

    Without the native library this sets the threads of MXNet's own operators, of which the
    portable backend is made.

    Parameters
    ----------
    n : int
        At least 1. It holds for the whole process; in a forked child, the native library computes
        with one thread whatever is asked for.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer of at least 1.

    Examples
    --------
    >>> import gluon_convpool
    >>> before = gluon_convpool.get_num_threads()
    >>> gluon_convpool.set_num_threads(2)
    >>> gluon_convpool.get_num_threads()
    2
    >>> gluon_convpool.set_num_threads(before)
    """
    global _portable_threads
    n = geometry.integer('set_num_threads', 'n', n, 1)
    library = _mxnet.native_library()
    if library is not None:
        library.convpool_set_num_threads(n)
    else:
        mx.base.check_call(mx.base._LIB.MXSetNumOMPThreads(n))
        _portable_threads = n


def get_num_threads() -> int:
    """How many threads convolution and pooling use.

    Returns
    -------
    int
        What `set_num_threads` was given. Before the first such call: ``OMP_NUM_THREADS``, or else
        as many as there are processors that the process may use (without the native library: half
        of the machine's, which is MXNet's default).

    Examples
    --------
    >>> import gluon_convpool
    >>> gluon_convpool.get_num_threads() >= 1
    True
    """
    library = _mxnet.native_library()
    if library is not None:
        return library.convpool_get_num_threads()
    if _portable_threads:
        return _portable_threads
    given = os.environ.get('OMP_NUM_THREADS', '')
    # MXNet's own default is half of the logical processors
    return int(given) if given.isdigit() and int(given) else max(1, (os.cpu_count() or 1) // 2)


_portable_threads = 0


class Info(NamedTuple):
    """What computes here, as `info` returns it; ``str`` of it is a report to read.

    Parameters
    ----------
    version, mxnet, numpy : str
        Versions of this package, of MXNet and of NumPy.
    backend : {'native', 'portable'}
        What computes float32 and float64 arrays on the CPU now.
    native : bool
        Whether the native library could be loaded.
    reason : str
        Why it could not; empty where it could.
    library : str
        Path of the native library; empty where it could not be loaded.
    instruction_set : {'baseline', 'avx2', 'avx512', ''}
        For what its kernels in use were compiled; empty where it could not be loaded.
    threads : int
        How many convolution and pooling use.

    Examples
    --------
    >>> import gluon_convpool
    >>> found = gluon_convpool.info()
    >>> print(found)  # doctest: +ELLIPSIS
    gluon_convpool  ... (MXNet 1.9.1, NumPy ...)
    backend         ...
    native library  ...
    threads         ...
    """

    version: str
    mxnet: str
    numpy: str
    backend: str
    native: bool
    reason: str
    library: str
    instruction_set: str
    threads: int

    def __str__(self) -> str:
        if self.native:
            native = f'{self.library} ({self.instruction_set})'
        else:
            native = f'not available: {self.reason}'
        return '\n'.join(
            (
                f'gluon_convpool  {self.version} (MXNet {self.mxnet}, NumPy {self.numpy})',
                f'backend         {self.backend}',
                f'native library  {native}',
                f'threads         {self.threads}',
            )
        )


def info() -> Info:
    """Which library, instruction set, thread count and backend are in use, and if not native, why.

    Returns
    -------
    Info
        A named tuple; print it for a report.

    Examples
    --------
    >>> import gluon_convpool
    >>> gluon_convpool.info().mxnet
    '1.9.1'
    """
    from .. import __version__

    status = _mxnet.native_status()
    library = _mxnet.native_library()
    return Info(
        version=__version__,
        mxnet=mx.__version__,
        numpy=_mxnet.numpy.__version__,
        backend='native' if is_native() else 'portable',
        native=status.available,
        reason=status.reason,
        library=_mxnet.LIBRARY if status.available else '',
        instruction_set=library.convpool_instruction_set().decode() if library else '',
        threads=get_num_threads(),
    )
