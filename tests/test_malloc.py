"""Importing the package has the C library keep what arrays free, unless the environment objects."""

from __future__ import annotations

import pytest
from isolated import run

# Page faults for each page of an array of 8 MiB that is made, written and freed again and again.
FAULTS = """
    import gluon_convpool
    import mxnet as mx
    import resource

    def turn(times):
        for _ in range(times):
            mx.nd.ones((2, 1 << 20)).wait_to_read()
            mx.nd.waitall()

    turn(20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    turn(20)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / (20 * 2048))
"""


def test_freed_arrays_make_room_for_the_next_ones():
    assert float(run(FAULTS)) < 0.1


@pytest.mark.parametrize(
    'variables',
    [
        {'GLUON_CONVPOOL_MALLOC': '0'},
        {'GLIBC_TUNABLES': 'glibc.malloc.mmap_threshold=131072'},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_the_environment_can_leave_it_as_it_was(variables):
    assert float(run(FAULTS, **variables)) > 0.5


def test_what_the_environment_sets_holds():
    """With its threshold, an array of 8 MiB is mapped, and unmapped when it is freed."""
    assert float(run(FAULTS, MALLOC_MMAP_THRESHOLD_='131072')) > 0.5
