"""The one door to MXNet: makes it importable, and loads the native operators into it.

Everything else in the package gets `mx` from here, so that this module's preparations always come
before the import.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import sys
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy

from ._malloc import keep_freed_memory

HERE = os.path.dirname(os.path.abspath(__file__))
LIBRARY = os.path.join(HERE, 'libconvpool.so')
BUILD_REPORT = os.path.join(HERE, '_build.json')
SUPPORTED_MXNET = (1, 9)


def _gone(name: str) -> Any:
    def gone(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(f'numpy.{name} was removed from NumPy')

    gone.__name__ = name
    return gone


def _removed_names() -> Dict[str, Any]:
    """The names that MXNet 1.9 reads from NumPy while it is imported, as NumPy defined them."""
    names: Dict[str, Any] = {
        'bool': bool,
        'int': int,
        'float': float,
        'object': object,
        'float_': numpy.float64,
        'PZERO': 0.0,
        'NZERO': -0.0,
        'PINF': numpy.inf,
        'NINF': -numpy.inf,
    }
    renamed = {
        'NAN': 'nan',
        'NaN': 'nan',
        'Inf': 'inf',
        'Infinity': 'inf',
        'infty': 'inf',
        'product': 'prod',
        'cumproduct': 'cumprod',
        'sometrue': 'any',
        'alltrue': 'all',
        'round_': 'round',
        'in1d': 'isin',
        'trapz': 'trapezoid',
    }
    for old, new in renamed.items():
        if hasattr(numpy, new):
            names[old] = getattr(numpy, new)
    names['msort'] = lambda a: numpy.sort(a, axis=0)
    for old in ('mirr', 'npv', 'pmt', 'ppmt', 'pv', 'rate'):
        names[old] = _gone(old)
    return names


def add_numpy_names() -> List[str]:
    """Give NumPy the names that MXNet needs and that this NumPy lacks; returns those added."""
    version = tuple(int(part) for part in numpy.__version__.split('.')[:2])
    if version < (1, 24):
        return []
    added = []
    for name, value in _removed_names().items():
        if name not in vars(numpy):
            setattr(numpy, name, value)
            added.append(name)
    return added


# In a graph with static memory, MXNet turns a sum of more gradients than this into in-place
# additions, which an extension operator cannot do: it is never told to add. 8 is MXNet's default.
GRADIENT_SUM_CAP = 32


def _import_mxnet() -> Any:
    # Before MXNet starts threads, each of which would get an arena of its own.
    keep_freed_memory()
    os.environ.setdefault('MXNET_EXEC_INPLACE_GRAD_SUM_CAP', str(GRADIENT_SUM_CAP))
    # A failed import takes `mxnet` out of sys.modules again but leaves submodules behind, and a
    # second attempt on top of them fails in confusing places.
    half_imported = 'mxnet' not in sys.modules and any(
        name.startswith('mxnet.') for name in sys.modules
    )
    if half_imported:
        raise ImportError(
            'mxnet was imported before gluon_convpool and failed (MXNet 1.9 needs names that this'
            f' NumPy, {numpy.__version__}, no longer has). Start Python again and swap the two'
            ' lines: import gluon_convpool first, then mxnet.'
        )
    if sys.version_info >= (3, 12) and importlib.util.find_spec('distutils') is None:
        # importing setuptools installs its own copy of distutils
        try:
            import setuptools  # noqa: F401
        except ImportError as error:
            raise ImportError(
                'MXNet imports distutils, which Python 3.12 removed and the package setuptools'
                ' supplies. It is missing here: pip install setuptools'
            ) from error
    add_numpy_names()
    try:
        import mxnet
    except ModuleNotFoundError as error:
        if error.name == 'mxnet':
            raise ImportError(
                'gluon_convpool needs MXNet 1.9: pip install "mxnet>=1.9,<2"'
            ) from error
        raise
    version = tuple(int(part) for part in mxnet.__version__.split('.')[:2])
    if version != SUPPORTED_MXNET:
        raise ImportError(
            f'gluon_convpool needs MXNet 1.9, but {mxnet.__version__} is installed:'
            ' pip install "mxnet>=1.9,<2"'
        )
    return mxnet


mx = _import_mxnet()


# --------------------------------------------------------------------------- kinds of input


class Kind(NamedTuple):
    """What an input is: its array world (NumPy or legacy) and whether it is symbolic."""

    numpy: bool
    symbol: bool
    name: str


NP_ARRAY = Kind(True, False, 'mx.np.ndarray')
ND_ARRAY = Kind(False, False, 'mx.nd.NDArray')
NP_SYMBOL = Kind(True, True, 'NumPy symbol')
ND_SYMBOL = Kind(False, True, 'symbol')

_NpSymbol = type(mx.sym.var('x').as_np_ndarray())
_KINDS: Dict[type, Optional[Kind]] = {}


def kind_of(value: Any) -> Optional[Kind]:
    """The kind of `value`, or None if it is neither an array nor a symbol of MXNet."""
    cls = type(value)
    try:
        return _KINDS[cls]
    except KeyError:
        pass
    kind = None
    for base, candidate in (
        (mx.np.ndarray, NP_ARRAY),
        (mx.nd.NDArray, ND_ARRAY),
        (_NpSymbol, NP_SYMBOL),
        (mx.sym.Symbol, ND_SYMBOL),
    ):
        if issubclass(cls, base):
            kind = candidate
            break
    _KINDS[cls] = kind
    return kind


def to_world(value: Any, numpy_world: bool) -> Any:
    """`value` seen as an array or symbol of the NumPy or of the legacy world, without a copy."""
    return value.as_np_ndarray() if numpy_world else value.as_nd_ndarray()


@contextlib.contextmanager
def in_world(numpy_world: bool) -> Iterator[None]:
    """Make MXNet's semantics those of the NumPy or of the legacy world for a while."""
    # array semantics need shape semantics, so that one goes first on the way in, and last out
    with contextlib.ExitStack() as scopes:
        switches = [mx.util.np_shape, mx.util.np_array]
        for switch in switches if numpy_world else reversed(switches):
            scopes.enter_context(switch(numpy_world))
        yield


# --------------------------------------------------------------------------- the native library


class NativeStatus(NamedTuple):
    """Whether the native operators can be called, and if not, why."""

    available: bool
    reason: str


_status: Optional[NativeStatus] = None
_library: Optional[ctypes.CDLL] = None
_engine_has_threads = os.environ.get('MXNET_ENGINE_TYPE') != 'NaiveEngine'
_operators: Dict[Tuple[str, Kind], Any] = {}


def _register_numpy_names() -> None:
    """Make ``_npx_`` operators of a loaded library callable; `mx.library.load` leaves them out."""
    from mxnet.base import _init_np_op_module
    from mxnet.ndarray.register import _make_ndarray_function
    from mxnet.symbol.register import _make_symbol_function

    _init_np_op_module('mxnet', 'numpy_extension', None, _make_ndarray_function)
    _init_np_op_module('mxnet', 'numpy_extension', 'ndarray', _make_ndarray_function)
    _init_np_op_module('mxnet', 'numpy_extension', 'symbol', _make_symbol_function)


def _missing_reason() -> str:
    try:
        with open(BUILD_REPORT, encoding='utf-8') as file:
            reason = json.load(file).get('reason')
    except (OSError, ValueError):
        reason = None
    return reason or 'the native library was not built'


# Of the native library, without their prefix.
OPERATORS = (
    'convolution',
    'convolution_transpose',
    'pooling',
    'deformable_columns',
    'batch_norm',
)


def _load() -> NativeStatus:
    global _library
    if not os.path.exists(LIBRARY):
        return NativeStatus(False, _missing_reason())
    try:
        mx.library.load(LIBRARY, verbose=False)
        _register_numpy_names()
        library = ctypes.CDLL(LIBRARY)
        library.convpool_set_num_threads.argtypes = [ctypes.c_int]
        library.convpool_set_num_threads.restype = None
        library.convpool_get_num_threads.restype = ctypes.c_int
        library.convpool_release_threads.argtypes = []
        library.convpool_release_threads.restype = None
        library.convpool_instruction_set.restype = ctypes.c_char_p
        library.convpool_set_instruction_set.argtypes = [ctypes.c_char_p]
        library.convpool_set_instruction_set.restype = ctypes.c_int
        library.convpool_convolution_algorithm.argtypes = [ctypes.c_void_p, ctypes.c_int]
        library.convpool_convolution_algorithm.restype = ctypes.c_int
        packed = library.convpool_packed_weight
        packed.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        packed.restype = ctypes.c_void_p
        for name in OPERATORS:
            _operators[name, ND_ARRAY] = getattr(mx.nd, f'convpool_{name}')
            _operators[name, ND_SYMBOL] = getattr(mx.sym, f'convpool_{name}')
            for kind, world in ((NP_ARRAY, 'ndarray'), (NP_SYMBOL, 'symbol')):
                module = sys.modules[f'mxnet.{world}.numpy_extension._op']
                _operators[name, kind] = getattr(module, f'convpool_{name}')
    except (OSError, AttributeError, mx.base.MXNetError) as error:
        _operators.clear()
        first_line = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        return NativeStatus(False, f'{LIBRARY} could not be loaded: {first_line[0]}')
    _library = library
    return NativeStatus(True, '')


def native_status() -> NativeStatus:
    """Load the native library on the first call; say whether it can be used, and if not, why."""
    global _status
    if _status is None:
        _status = _load()
    return _status


def native_library() -> Optional[ctypes.CDLL]:
    """The library's plain C functions, or None where it is not available."""
    native_status()
    return _library


def put_in_plain_order(array: Any) -> None:
    """Undo what MXNet's convolutions make of a weight: values in blocks, as oneDNN likes them.

    They do so in place, and it stays. Each call of an extension operator would then put a copy of
    it in order (ResNet-50, two threads: 53 ms, and 37 with weights in order). MXNet does it in
    place before it gives the address of an array's values away.
    """
    if array.context.device_type == 'cpu' and array.stype == 'default' and 0 not in array.shape:
        address = ctypes.c_void_p()
        mx.base.check_call(mx.base._LIB.MXNDArrayGetData(array.handle, ctypes.byref(address)))


def release_threads() -> None:
    """End the OpenMP threads that wait for this thread, if its work is done by MXNet's engine.

    Copies of large arrays to and from NumPy compute in the thread that asks for them, and leave
    threads waiting there. While there are more of them than processors, GNU's OpenMP has every
    thread of the process go to sleep as soon as it is idle: a network of small layers took 5.2 ms,
    and without those threads 3.0 (MobileNet V2, two threads).
    """
    if _library is not None and _engine_has_threads:
        _library.convpool_release_threads()


def native_operator(name: str, kind: Kind) -> Any:
    """MXNet's function for the native operator `name` on inputs of `kind`."""
    if not kind.symbol:
        release_threads()
    return _operators[name, kind]
