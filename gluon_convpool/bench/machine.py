"""What this machine can do at most, and what the native library does with a layer.

The limits are measured in the same run as the layers, with as many threads.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import time
from typing import Any, Dict, List, Optional, Sequence

import numpy

from .. import _mxnet, backends, geometry
from ..backends import native
from .suites import Layer

ALGORITHMS, PASSES = geometry.ALGORITHMS, native.PASSES


def algorithm_of(layer: Layer, which: str = 'forward', forced: str = 'auto') -> Optional[str]:
    """Return the name of the algorithm that serves a pass of a convolution.

    Parameters
    ----------
    layer : Layer
    which : str
        One of `PASSES`.
    forced : str
        One of `ALGORITHMS`.

    Returns
    -------
    str or None
        None for pooling, where the native library does not serve the layer, and where the forced
        algorithm cannot do it.
    """
    arguments = layer.arguments
    if (
        _mxnet.native_library() is None
        or backends.current() == 'portable'
        or not isinstance(arguments, geometry.Convolution)
    ):
        return None
    return native.serving_algorithm(arguments._replace(algorithm=forced), layer.data, which)


def measure_rate(name: str, seconds: float) -> Optional[float]:
    """Return the operations per second of one thread, or None without the native library.

    `name` is 'peak', multiply-adds in registers, or 'micro_kernel', those of the micro-kernel on
    packed panels that stay in cache.
    """
    library = _mxnet.native_library()
    if library is None:
        return None
    measure = getattr(library, f'convpool_measure_{name}')
    measure.restype, measure.argtypes = ctypes.c_double, [ctypes.c_double]
    return measure(seconds)


COPIED_BYTES = tuple(2**exponent for exponent in range(18, 29, 2))  # 256 KiB to 256 MiB


def measure_bandwidth(
    threads: int, seconds: float, sizes: Sequence[int] = COPIED_BYTES
) -> Dict[int, float]:
    """Return bytes per second, read and written, of a plain copy, by the bytes that it moves.

    Each of `threads` threads copies its own part, again and again, with NumPy's copy (the C
    library's, which does not hold Python's lock). What fits into a cache is copied faster, so a
    layer is to be compared with the copy of about as many bytes.
    """
    rates = {}
    for size in sizes:
        part = size // 2 // threads // 4
        arrays = [
            (numpy.ones(part, 'float32'), numpy.ones(part, 'float32')) for _ in range(threads)
        ]
        counts: List[int] = [0] * threads
        start = threading.Barrier(threads + 1)
        stop = threading.Event()

        def work(index: int) -> None:
            to, source = arrays[index]  # noqa: B023 (joined before the next size)
            start.wait()  # noqa: B023
            while not stop.is_set():  # noqa: B023
                numpy.copyto(to, source)
                counts[index] += 1  # noqa: B023

        workers = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(threads)]
        for worker in workers:
            worker.start()
        start.wait()
        begin = time.perf_counter()
        time.sleep(seconds)
        stop.set()
        for worker in workers:
            worker.join()
        elapsed = time.perf_counter() - begin
        rates[size] = sum(counts) * part * 4 * 2 / elapsed
    return rates


def bandwidth_for(layer_bytes: float, rates: Dict[int, float]) -> Optional[float]:
    """Return the rate of the smallest measured copy that moves at least `layer_bytes`."""
    if not rates:
        return None
    fitting = [size for size in sorted(rates) if size >= layer_bytes]
    return rates[fitting[0] if fitting else max(rates)]


def _cpu_model() -> str:
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            for line in file:
                if line.lower().startswith('model name'):
                    return line.split(':', 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe() -> Dict[str, Any]:
    """Return what a reader of the results must know about the machine and the versions."""
    import gluon_convpool

    info = gluon_convpool.info()
    return {
        'cpu': _cpu_model(),
        'architecture': platform.machine(),
        'processors': os.cpu_count(),
        'load': round(os.getloadavg()[0], 2),  # before the first layer
        'instruction_set': info.instruction_set,
        'system': f'{platform.system()} {platform.release()}',
        'python': platform.python_version(),
        'numpy': info.numpy,
        'mxnet': info.mxnet,
        'gluon_convpool': info.version,
        'backend': info.backend,
    }
