"""What only this suite needs beside the plugin: MXNet's defaults for each test, and the kernels."""

from __future__ import annotations

# isort: off
import gluon_convpool  # before mxnet, which needs the NumPy names that it puts back
# isort: on

import ctypes
import hashlib
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import time

import hypothesis
import pytest

from gluon_convpool.testing import array_semantics

pytest_plugins = ['gluon_convpool.testing.plugin', 'pytester']

PACKAGE = pathlib.Path(gluon_convpool.__file__).parent

hypothesis.settings.register_profile(
    'suite', max_examples=50, deadline=None, derandomize=True, print_blob=True, database=None
)
hypothesis.settings.register_profile('search', max_examples=2000, deadline=None)
hypothesis.settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'suite'))


@pytest.fixture(autouse=True)
def _switches(mxnet_defaults):
    """Each test starts with MXNet's defaults and the default backend, and leaves them so.

    The same random numbers too, alone or in a row: about one in twenty draws of a network's weights
    lets sums cancel so far that two right layers differ by more than 1e-5.
    """


@pytest.fixture(params=['auto', 'portable'])
def any_dtype_backend(request):
    """The choices that serve every layout and type: what native lacks goes to portable."""
    with gluon_convpool.use_backend(request.param):
        yield request.param


@pytest.fixture
def native(needs_native):
    """The native backend alone."""
    with gluon_convpool.use_backend('native'):
        yield


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
def library(needs_native):
    """The native library as ctypes sees it, which is the one that MXNet has loaded."""
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
    assert library.convpool_set_instruction_set(request.param.encode()) == 0
    assert library.convpool_instruction_set().decode() == request.param
    with gluon_convpool.use_backend('native'):
        yield request.param
    assert library.convpool_set_instruction_set(None) == 0


@pytest.fixture
def thread_count():
    """A function that sets the number of threads; the number from before comes back."""
    before = gluon_convpool.get_num_threads()
    yield gluon_convpool.set_num_threads
    gluon_convpool.set_num_threads(before)


class WideLibrary:
    """The kernels with the widest instruction set's vectors and block sizes, for any CPU.

    Compiling them takes minutes, so that it goes on beside the first tests. What comes out of it
    is kept for the next run. Where several workers share the tests, the first compiles for all.
    """

    FLAGS = ('-std=c++17', '-O1', '-fPIC', '-shared', '-fopenmp', '-Wno-psabi')
    SOURCES = (
        'kernels',
        'dispatch',
        'choice_memo',
        'threads',
        'workspace',
        'large_pages',
        'processor',
        'winograd_switch',
    )

    FOLDER = pathlib.Path(__file__).parents[1] / 'build' / 'tests'

    def __init__(self):
        native = PACKAGE / 'native'
        self.compiler = shutil.which('g++')
        # Each vector is split into those that this CPU has: the fewer the parts, the faster is all.
        wide = ['-mavx2', '-mfma'] if INSTRUCTION_SETS['avx2'] <= _cpu_flags() else []
        self.flags = [*self.FLAGS, *wide, '-DCONVPOOL_VECTOR_BYTES=64']
        self.sources = [str(native / (name + '.cc')) for name in self.SOURCES]
        content = hashlib.sha256(repr((self.flags, self.SOURCES)).encode())
        for path in sorted(native.rglob('*')):
            content.update(path.read_bytes() if path.is_file() else b'')
        self.path = self.FOLDER / (content.hexdigest()[:16] + '.so')
        run = os.environ.get('PYTEST_XDIST_TESTRUNUID', str(os.getpid()))
        self.complaint = self.path.with_suffix(f'.{run}.txt')
        self.process = None

    def start(self):
        first = os.environ.get('PYTEST_XDIST_WORKER', 'gw0') == 'gw0'
        if first and self.compiler and self.process is None and not self.path.exists():
            self.FOLDER.mkdir(parents=True, exist_ok=True)
            self.unfinished = self.path.with_suffix(f'.{os.getpid()}.so')
            build = shlex.join([self.compiler, *self.flags, *self.sources])
            out, unfinished, log = map(
                shlex.quote, map(str, (self.path, self.unfinished, self.complaint))
            )
            self.process = subprocess.Popen(
                f'{build} -o {unfinished} >{log}.part 2>&1'
                f' && mv {unfinished} {out} && rm {log}.part || mv {log}.part {log}',
                shell=True,
                start_new_session=True,
            )

    def load(self):
        if self.compiler is None:
            pytest.skip('there is no g++ to build the kernels with')
        self.start()
        while not self.path.exists():
            assert not self.complaint.exists(), self.complaint.read_text()
            time.sleep(0.1)
        return ctypes.CDLL(str(self.path))

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.unfinished.unlink(missing_ok=True)


def pytest_collection_finish(session):
    session.config.wide_library = WideLibrary()
    needed = any(
        item.callspec.params.get('kernels') == 'wide vectors'
        for item in session.items
        if hasattr(item, 'callspec')
    )
    if needed and not session.config.option.collectonly:
        session.config.wide_library.start()


def pytest_unconfigure(config):
    if hasattr(config, 'wide_library'):
        config.wide_library.stop()


@pytest.fixture(scope='session')
def wide_library(request, needs_native):
    return request.config.wide_library.load()


@pytest.fixture(params=['this CPU', 'wide vectors'])
def kernels(request):
    """The library's kernels as chosen for this CPU, and the widest ones."""
    if request.param == 'wide vectors':
        return request.getfixturevalue('wide_library')
    return request.getfixturevalue('library')
