"""Fixtures: the backend, the kind of arrays, and MXNet's switches put back after every test."""

from __future__ import annotations

# isort: off
import gluon_convpool  # before mxnet, which needs the NumPy names that it puts back
# isort: on

import ctypes
import json
import os
import pathlib
import shutil
import subprocess

import hypothesis
import mxnet as mx
import pytest
from mxnet import npx
from parity import array_semantics

PACKAGE = pathlib.Path(gluon_convpool.__file__).parent
BACKENDS = ('native', 'portable')

hypothesis.settings.register_profile(
    'suite', max_examples=50, deadline=None, derandomize=True, print_blob=True, database=None
)
hypothesis.settings.register_profile('search', max_examples=2000, deadline=None)
hypothesis.settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'suite'))


def require_native():
    """Skip if the build says that it found no compiler. Whatever else is missing is a failure."""
    record = PACKAGE / '_build.json'
    build = json.loads(record.read_text()) if record.exists() else {'built': True}
    if not build['built']:
        pytest.skip('the native library was not built: ' + str(build['reason']))


def default_backend():
    return os.environ.get('GLUON_CONVPOOL_BACKEND', 'auto')


@pytest.fixture(autouse=True)
def _switches():
    """Each test starts with MXNet's defaults and the default backend, and leaves them so.

    It also starts with the same random numbers, alone or in a row: about one in twenty draws of a
    network's weights lets sums cancel so far that two right layers differ by more than 1e-5.

    It also waits for all that it asked for: an error that nobody waited for would be raised in some
    later test.
    """
    npx.reset_np()
    gluon_convpool.use_backend(default_backend())
    mx.random.seed(0)
    yield
    mx.nd.waitall()
    npx.reset_np()
    gluon_convpool.use_backend(default_backend())


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend in turn."""
    if request.param == 'native':
        require_native()
    gluon_convpool.use_backend(request.param)
    return request.param


@pytest.fixture(params=['auto', 'portable'])
def any_dtype_backend(request):
    """The choices that serve every layout and type: what native lacks goes to portable."""
    gluon_convpool.use_backend(request.param)
    return request.param


@pytest.fixture
def native():
    """The native backend alone."""
    require_native()
    gluon_convpool.use_backend('native')


@pytest.fixture(params=['np', 'nd'])
def arrays(request):
    """Each kind of arrays in turn: 'np' (mx.np) and 'nd' (legacy mx.nd)."""
    with array_semantics(request.param):
        yield request.param


@pytest.fixture
def np_arrays():
    """Arrays of mx.np only."""
    with array_semantics('np'):
        yield


@pytest.fixture
def nd_arrays():
    """Legacy arrays of mx.nd only."""
    with array_semantics('nd'):
        yield


@pytest.fixture(scope='session')
def library():
    """The native library as ctypes sees it, which is the one that MXNet has loaded."""
    require_native()
    handle = ctypes.CDLL(str(PACKAGE / 'libconvpool.so'))
    handle.convpool_instruction_set.restype = ctypes.c_char_p
    handle.convpool_set_instruction_set.argtypes = [ctypes.c_char_p]
    return handle


INSTRUCTION_SETS = {
    'baseline': set(),
    'avx2': {'avx2', 'fma'},
    'avx512': {'avx512f', 'avx512bw', 'avx512dq', 'avx512vl'},
}


def _cpu_flags():
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('flags'):
            return set(line.split(':')[1].split())
    return set()


@pytest.fixture(params=list(INSTRUCTION_SETS))
def instruction_set(request, library):
    """Each build of the kernels that this CPU can run."""
    if not INSTRUCTION_SETS[request.param] <= _cpu_flags():
        pytest.skip('this CPU has no ' + request.param)
    gluon_convpool.use_backend('native')
    before = library.convpool_instruction_set()
    assert library.convpool_set_instruction_set(request.param.encode()) == 0
    assert library.convpool_instruction_set().decode() == request.param
    yield request.param
    assert library.convpool_set_instruction_set(before) == 0


@pytest.fixture
def thread_count():
    """A function that sets the number of threads; the number from before comes back."""
    before = gluon_convpool.get_num_threads()
    yield gluon_convpool.set_num_threads
    gluon_convpool.set_num_threads(before)


@pytest.fixture(scope='session')
def wide_library(tmp_path_factory):
    """The kernels with the widest instruction set's vectors and block sizes, for any CPU."""
    require_native()
    compiler = shutil.which('g++')
    if compiler is None:
        pytest.skip('there is no g++ to build the kernels with')
    target = tmp_path_factory.mktemp('wide') / 'wide.so'
    native = PACKAGE / 'native'
    names = ('kernels', 'dispatch', 'threads', 'workspace', 'winograd_switch')
    sources = [native / (name + '.cc') for name in names]
    flags = ['-std=c++17', '-O2', '-fPIC', '-shared', '-fopenmp', '-Wno-psabi']
    subprocess.run(
        [compiler, *flags, '-DCONVPOOL_VECTOR_BYTES=64', *map(str, sources), '-o', str(target)],
        check=True,
    )
    return ctypes.CDLL(str(target))


@pytest.fixture(params=['this CPU', 'wide vectors'])
def kernels(request):
    """The library's kernels as chosen for this CPU, and the widest ones."""
    if request.param == 'wide vectors':
        return request.getfixturevalue('wide_library')
    return request.getfixturevalue('library')
