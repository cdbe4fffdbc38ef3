"""Winograd's convolution: the matrices are exact, the kernels agree with the loops, the switch."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from test_kernels import (
    AUTO,
    CHANNELS_LAST,
    WINOGRAD,
    convolution_problem,
    convolution_results,
    served,
)

import gluon_convpool
from gluon_convpool.testing import assert_close

NATIVE = pathlib.Path(gluon_convpool.__file__).parent / 'native'
TOOLS = pathlib.Path(__file__).parents[1] / 'tools'


def matrices_of_header():
    """(m, r) to its matrices by name, as exact numbers, from the C++ source."""
    text = (NATIVE / 'conv' / 'winograd_matrices.h').read_text()
    result = {}
    for m, r, body in re.findall(
        r'struct WinogradMatrices<(\d+), (\d+)> \{(.*?)\n\};', text, flags=re.DOTALL
    ):
        result[int(m), int(r)] = {
            name: [
                [Fraction(value.replace('.0', '').replace(' ', '')) for value in row.split(',')]
                for row in re.findall(r'\{([^{}]+)\}', rows)
            ]
            for name, rows in re.findall(
                r'double (k\w+)\[\d+\]\[\d+\] = \{(.*?)\n  \};', body, re.DOTALL
            )
        }
    result.pop((1, 1), None)
    return result


MATRICES = matrices_of_header()


def test_the_header_is_what_the_script_writes():
    specification = importlib.util.spec_from_file_location(
        'winograd_matrices', TOOLS / 'winograd_matrices.py'
    )
    script = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = script
    specification.loader.exec_module(script)
    assert script.HEADER.read_text() == script.header(script.SIZES)
    assert sorted(MATRICES) == sorted(script.SIZES)


@pytest.mark.parametrize('size', sorted(MATRICES), ids=str)
def test_the_matrices_compute_a_correlation_exactly(size):
    m, r = size
    t = m + r - 1
    bt, g, at = (MATRICES[size][name] for name in ('kBt', 'kG', 'kAt'))
    # Both sides are linear in the inputs and in the taps, so one of each at a time says it all.
    for i in range(m):
        for n in range(t):
            for k in range(r):
                product = sum(at[i][j] * g[j][k] * bt[j][n] for j in range(t))
                assert product == (n == i + k), f'output {i}, input {n}, tap {k}'


# Kernel sizes that have a tile; sizes of the output below, at and above whole tiles; channels
# around the vectors of every instruction set; padding below, at and above that of equal size.
KERNELS = [(3, 3), (5, 5), (2, 2), (1, 2), (2, 1), (1, 3), (3, 1), (1, 5), (5, 1), (1, 7), (7, 1)]
SIZES = [(4, 4), (7, 9), (13, 8), (16, 27)]
CHANNELS = [(8, 16), (5, 7), (17, 33), (33, 9), (130, 20)]
ONE = (1, 1)
CASES = (
    [(2, 9, 10, 1, (12, 13), k, ONE, ONE, (k[0] // 2, k[1] // 2)) for k in KERNELS]
    + [(1, 8, 16, 1, s, (3, 3), ONE, ONE, ONE) for s in SIZES]
    + [(2, c, m, 1, (9, 10), (3, 3), ONE, ONE, ONE) for c, m in CHANNELS]
    + [(1, 8, 8, 1, (6, 8), (3, 3), ONE, ONE, p) for p in ((0, 0), (2, 2), (0, 3), (4, 1))]
    + [(3, 8, 12, 2, (10, 9), k, ONE, ONE, (1, 1)) for k in KERNELS[:3]]
    # A stride as more channels, a dilation as more images: sizes that the phases share unevenly.
    + [(2, 3, 9, 1, (30, 33), (7, 7), (2, 2), ONE, (3, 3))]
    + [(1, 5, 8, 1, (17, 20), (5, 5), (2, 2), ONE, (2, 1))]
    # Parts with fewer taps than others, whose planes are left out: channels of whole vectors, which
    # are joined, and others; phases of the gradient that have tiles and one that has none.
    + [
        (2, 16, 24, 1, (21, 18), (3, 3), (2, 2), ONE, ONE),
        (1, 48, 33, 1, (15, 30), (3, 3), (2, 2), ONE, ONE),
        (1, 20, 16, 1, (13, 14), (3, 3), (2, 2), ONE, (0, 1)),
        (2, 32, 18, 2, (16, 15), (4, 4), (2, 2), ONE, ONE),
        (1, 16, 16, 1, (17, 23), (3, 5), (2, 3), ONE, (1, 2)),
        (1, 96, 64, 1, (9, 10), (3, 2), (2, 1), ONE, (1, 0)),
        (8, 32, 48, 1, (40, 41), (3, 3), (2, 2), ONE, ONE),
    ]
    + [(2, 9, 10, 1, (13, 17), (3, 3), ONE, (2, 2), (2, 2))]
    + [(1, 6, 12, 2, (15, 16), (3, 3), ONE, (3, 2), (1, 3))]
    + [(1, 8, 9, 1, (4, 40), (1, 7), ONE, (1, 3), (0, 5))]
    # A kernel longer than a tile's taps as more channels, the last of them with taps of zero.
    + [
        (2, 9, 10, 1, (3, 40), (1, 9), ONE, ONE, (0, 4)),
        (1, 5, 8, 1, (41, 2), (9, 1), ONE, ONE, (3, 0)),
        (1, 6, 9, 1, (1, 150), (1, 80), ONE, ONE, (0, 40)),
        (2, 3, 8, 1, (1, 120), (1, 80), (1, 4), ONE, (0, 37)),
        (1, 6, 12, 2, (2, 60), (1, 13), ONE, (1, 3), (0, 18)),
        (1, 9, 17, 1, (15, 14), (7, 7), ONE, ONE, (3, 3)),
        (2, 8, 9, 1, (13, 12), (6, 9), ONE, ONE, (2, 4)),
        (1, 3, 16, 1, (50, 47), (11, 11), (4, 4), ONE, (2, 2)),
        (1, 4, 8, 1, (20, 23), (10, 5), (2, 1), ONE, (4, 2)),
    ]
    # Many tiles, so that all taps are transformed first and tiles are computed in blocks.
    + [
        (2, 40, 24, 1, (50, 61), (3, 3), ONE, ONE, ONE),
        (1, 20, 9, 1, (3, 400), (5, 5), ONE, ONE, (2, 2)),
    ]
    # So many that the gradient of the weight is added up in parts, which end within an image.
    + [
        (3, 40, 40, 1, (70, 66), (3, 3), ONE, ONE, ONE),
        (2, 48, 40, 1, (1, 3001), (1, 9), ONE, ONE, (0, 4)),
    ]
)


@pytest.mark.parametrize('case', CASES, ids=lambda case: str(case).replace(' ', ''))
def test_forced_winograd_agrees_with_the_loops(kernels, case):
    assert served(kernels, case, WINOGRAD)
    names = ('output', 'dx', 'dweight', 'dbias')
    for name, actual, expected in zip(
        names, *convolution_results(kernels, case, algorithm=WINOGRAD)
    ):
        assert_close(name, actual, expected, rtol=1e-5 if name == 'output' else 2e-5)


@pytest.mark.parametrize('case', CASES, ids=lambda case: str(case).replace(' ', ''))
def test_forced_winograd_in_float64_agrees_with_the_loops(library, instruction_set, case):
    results = convolution_results(library, case, algorithm=WINOGRAD, dtype='float64')
    for name, actual, expected in zip(('output', 'dx', 'dweight', 'dbias'), *results):
        assert actual.dtype == np.float64
        assert_close(name, actual, expected, rtol=1e-13)


@pytest.mark.parametrize('case', CASES, ids=lambda case: str(case).replace(' ', ''))
def test_forced_winograd_with_channels_last_agrees_with_the_loops(kernels, case):
    """What such layers have no transposition for: pixels are vectors of channels as they stand."""
    results = convolution_results(kernels, case, algorithm=WINOGRAD, layout=CHANNELS_LAST)
    for name, actual, expected in zip(('output', 'dx', 'dweight', 'dbias'), *results):
        assert_close(name, actual, expected, rtol=1e-5 if name == 'output' else 2e-5)


@pytest.mark.parametrize('case', CASES[::4], ids=lambda case: str(case).replace(' ', ''))
def test_the_number_of_threads_does_not_change_a_bit(library, thread_count, case):
    results = []
    for threads in (1, 2, 3, 8):
        thread_count(threads)
        results.append(convolution_results(library, case, algorithm=WINOGRAD)[0])
    for other in results[1:]:
        for first, second in zip(results[0], other):
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize('value, served', [('0', AUTO), ('1', WINOGRAD), ('', WINOGRAD)])
def test_the_environment_switches_winograd_off(library, value, served):
    case = (1, 64, 32, 1, (18, 18), (3, 3), ONE, ONE, ONE)
    problem = convolution_problem(case, WINOGRAD)
    program = (
        'import ctypes, sys;'
        'problem = bytes.fromhex(sys.argv[2]);'
        'print(ctypes.CDLL(sys.argv[1]).convpool_convolution_algorithm(problem, 0))'
    )
    done = subprocess.run(
        [sys.executable, '-c', program, library._name, bytes(problem).hex()],
        env={**os.environ, 'GLUON_CONVPOOL_WINOGRAD': value},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert int(done.stdout) == served
