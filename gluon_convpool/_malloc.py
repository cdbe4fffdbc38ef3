"""Has the C library keep the memory of freed arrays for the next ones.

MXNet asks `malloc` for each array. glibc maps pages for a large one and gives them back when it is
freed, or has room for it in the arena of the one thread that freed it; either way the next array
pays for clearing new pages, which takes longer than most layers compute.
"""

from __future__ import annotations

import ctypes
import os

SWITCH = 'GLUON_CONVPOOL_MALLOC'

# glibc's environment variable, the parameter of mallopt(3) that it stands for, and our value
_SETTINGS = (
    ('MALLOC_ARENA_MAX', -8, 1),
    ('MALLOC_MMAP_THRESHOLD_', -3, 32 << 20),  # the most that glibc takes
    ('MALLOC_TRIM_THRESHOLD_', -1, (1 << 31) - 1),
)


def keep_freed_memory() -> bool:
    """Set glibc's `malloc` so, but for what the environment sets; say whether anything was set.

    ``GLUON_CONVPOOL_MALLOC=0`` leaves everything as it is, and so does another C library.
    """
    if os.environ.get(SWITCH) == '0' or 'glibc.malloc.' in os.environ.get('GLIBC_TUNABLES', ''):
        return False
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    mallopt.restype = ctypes.c_int
    done = [
        mallopt(parameter, value)
        for variable, parameter, value in _SETTINGS
        if variable not in os.environ
    ]
    return any(done)
