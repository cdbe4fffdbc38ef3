"""The pytest plugin: fixtures, the option ``--convpool-grid``, and reproducers in reports.

It is loaded by ``pytest_plugins = ['gluon_convpool.testing.plugin']`` in the topmost conftest.py,
or by ``pytest -p gluon_convpool.testing.plugin``, and not for every run of pytest, since it imports
MXNet.
"""

from __future__ import annotations

import json
from typing import Any, Iterator

import pytest

from .. import _mxnet, backends
from .._mxnet import mx
from . import grid, reproducer
from .arrays import ARRAY_KINDS, array_semantics
from .comparison import ParityError

OPTION = '--convpool-grid'
BACKENDS = tuple(name for name in backends.CHOICES if name != 'auto')


def pytest_addoption(parser: Any) -> None:
    parser.getgroup('gluon_convpool').addoption(
        OPTION,
        choices=grid.GRIDS,
        default='full',
        help='which cases parity_cases() gives: quick has about a tenth of them (%(default)s)',
    )


def pytest_configure(config: Any) -> None:
    # pytest may run inside of pytest
    before = grid.set_default_grid(config.getoption(OPTION)), reproducer.test_root
    reproducer.test_root = str(config.rootpath)

    def restore() -> None:
        grid.set_default_grid(before[0])
        reproducer.test_root = before[1]

    config.add_cleanup(restore)


def pytest_report_header(config: Any) -> str:
    found = backends.info()
    native = found.instruction_set if found.native else 'no native library'
    return f'gluon_convpool: {native}, {config.getoption(OPTION)} grid'


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Iterator[None]:
    """Put the reproducer into a section of its own, where it can be copied as it stands."""
    error = call.excinfo.value if call.excinfo else None
    program = ''
    if isinstance(error, ParityError) and error.reproducer:
        program, error.reproducer = error.reproducer, ''
    outcome = yield
    if program:
        report = outcome.get_result()  # type: ignore[attr-defined]
        report.sections.append(('to reproduce it, run this program', program))


def require_native() -> None:
    """Skip the test if the native library was not built because there was no compiler.

    Whatever else keeps it from being loaded is a failure, and not hidden here.
    """
    try:
        with open(_mxnet.BUILD_REPORT, encoding='utf-8') as file:
            build = json.load(file)
    except FileNotFoundError:
        return
    if not build['built']:
        pytest.skip(f'the native library was not built: {build["reason"]}')


@pytest.fixture(scope='session')
def needs_native() -> None:
    """Skip the test where the native library was not built because there was no compiler."""
    require_native()


@pytest.fixture(params=BACKENDS)
def any_backend(request: Any) -> Iterator[str]:
    """Run the test with each backend in turn; its value is the backend's name."""
    if request.param == 'native':
        require_native()
    with backends.use_backend(request.param):
        yield request.param


@pytest.fixture(params=ARRAY_KINDS)
def np_or_nd(request: Any) -> Iterator[str]:
    """Run the test with each kind of arrays in turn: 'np' for ``mx.np``, 'nd' for ``mx.nd``."""
    with array_semantics(request.param):
        yield request.param


@pytest.fixture
def mxnet_defaults() -> Iterator[None]:
    """Start with MXNet's defaults, the same random numbers and the usual backend, and leave so.

    At the end it waits for all that was asked for: an error that nobody waited for would be raised
    in some later test.
    """
    mx.npx.reset_np()
    mx.random.seed(0)
    before = backends.current()
    yield
    mx.nd.waitall()
    mx.npx.reset_np()
    backends.use_backend(before)
