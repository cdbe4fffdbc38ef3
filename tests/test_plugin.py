"""The pytest plugin, in runs of pytest inside of this one; and the page that shows its use."""

from __future__ import annotations

import json
import pathlib
import re

import mxnet as mx
import pytest
from isolated import attempt

import gluon_convpool
from gluon_convpool import _mxnet
from gluon_convpool.testing import ConvolutionCase, parity_cases

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / 'docs' / 'TESTING.md').read_text(encoding='utf-8')
CONFTEST = "pytest_plugins = ['gluon_convpool.testing.plugin']"


@pytest.fixture
def inner(pytester):
    """A folder with the plugin in its conftest.py; call it to run pytest there."""
    pytester.makeconftest(CONFTEST)

    def run(*options, **files):
        pytester.makepyfile(**files)
        return pytester.runpytest_inprocess('-p', 'no:cacheprovider', *options)

    return run


def test_any_backend_and_np_or_nd_give_all_and_leave_nothing(inner, np_arrays):
    gluon_convpool.use_backend('auto')
    outcome = inner(
        '-v',
        test_fixtures="""
        import gluon_convpool, mxnet

        def test_it(any_backend, np_or_nd):
            assert gluon_convpool.info().backend == any_backend
            assert mxnet.util.is_np_array() == mxnet.util.is_np_shape() == (np_or_nd == 'np')
            gluon_convpool.use_backend('portable')
            mxnet.npx.set_np()
        """,
    )
    outcome.assert_outcomes(passed=4)
    for name in ('native-np', 'native-nd', 'portable-np', 'portable-nd'):
        outcome.stdout.fnmatch_lines([f'*test_it?{name}? PASSED*'])
    assert gluon_convpool.backends.current() == 'auto' and mx.util.is_np_array()


def test_mxnet_defaults_hold_before_and_after(inner):
    outcome = inner(
        test_defaults="""
        import gluon_convpool, mxnet, pytest

        @pytest.mark.parametrize('i', [0, 1])
        def test_it(i, mxnet_defaults):
            assert not mxnet.util.is_np_array()
            drawn = mxnet.nd.random.uniform(shape=(1,)).asscalar()
            test_it.drawn = getattr(test_it, 'drawn', drawn)
            assert drawn == test_it.drawn
            mxnet.npx.set_np()
            gluon_convpool.use_backend('portable')
        """
    )
    outcome.assert_outcomes(passed=2)
    assert not mx.util.is_np_array()


@pytest.mark.parametrize('built', [True, False])
def test_native_is_skipped_only_where_nothing_was_compiled(built, inner, tmp_path, monkeypatch):
    report = tmp_path / 'build.json'
    report.write_text(json.dumps({'built': built, 'reason': 'no C++ compiler was found'}))
    monkeypatch.setattr(_mxnet, 'BUILD_REPORT', str(report))
    monkeypatch.setattr(_mxnet, '_status', _mxnet.NativeStatus(False, 'it could not be loaded'))
    outcome = inner('-rs', test_skip='def test_it(any_backend): pass')
    if built:
        outcome.assert_outcomes(passed=1, errors=1)
        outcome.stdout.fnmatch_lines(['*it could not be loaded*'])
    else:
        outcome.assert_outcomes(passed=1, skipped=1)
        outcome.stdout.fnmatch_lines(['*no C++ compiler was found*'])


@pytest.mark.parametrize('options, grid', [((), 'full'), (('--convpool-grid=quick',), 'quick')])
def test_the_option_chooses_the_grid(options, grid, inner):
    before = len(parity_cases('conv'))
    outcome = inner(
        *options,
        '--collect-only',
        test_grid="""
        import pytest
        from gluon_convpool.testing import parity_cases

        @pytest.mark.parametrize('case', parity_cases('conv', groups=1))
        def test_it(case):
            pass
        """,
    )
    count = len(parity_cases('conv', groups=1, grid=grid))
    outcome.stdout.fnmatch_lines([f'*{count} tests collected*'])
    assert len(parity_cases('conv')) == before


def test_a_failure_shows_where_and_a_program_that_can_be_copied(inner):
    outcome = inner(
        test_wrong="""
        from gluon_convpool.testing import BUILTIN, ConvolutionCase, assert_layers_match

        class Wrong(BUILTIN.Conv2D):
            def hybrid_forward(self, F, *arrays, **parameters):
                return super().hybrid_forward(F, *arrays, **parameters) + 1

        def test_it():
            case = ConvolutionCase(size=(3, 3))
            assert_layers_match(case.build(Wrong), case)
        """
    )
    outcome.assert_outcomes(failed=1)
    (expected,) = (
        value for value in ConvolutionCase(size=(3, 3)).expected()[1]['output'][0, 0].ravel()
    )
    outcome.stdout.fnmatch_lines(
        [
            "E *ParityError: mode 'imperative': output: 8 of 8 values differ",
            f'E *first at ?0, 0, 0, 0?: *, expected {float(expected)!r}',
            'E *tolerance: * (rtol=1e-05 of the largest expected value, *)',
            '*- to reproduce it, run this program -*',
            'import gluon_convpool',
            '    reference = testing.ConvolutionCase(size=(3, 3))',
            '    layer = reference.build(test_wrong.Wrong)',
            "    testing.assert_layers_match(*, modes=('imperative',))",
        ]
    )
    assert 'to reproduce it, run this program' in outcome.stdout.str()
    outcome.stdout.no_fnmatch_line('E *import gluon_convpool')


def test_other_runs_of_pytest_do_not_import_mxnet(pytester):
    """No entry point loads the plugin: it would in every run of pytest in its environment."""
    assert 'pytest11' not in (ROOT / 'pyproject.toml').read_text(encoding='utf-8')
    pytester.makepyfile(
        "import sys\ndef test_it():\n    assert not {'mxnet', 'gluon_convpool'} & set(sys.modules)"
    )
    pytester.runpytest_subprocess('-p', 'no:cacheprovider').assert_outcomes(passed=1)


# ---------------------------------------------------------------------------------- the page


def files_of_the_page():
    """The files that the page shows, by name."""
    found = re.findall(r'`(\w+\.py)`:\n\n```python\n(.*?)```', PAGE, flags=re.DOTALL)
    assert [name for name, _ in found] == ['my_layers.py', 'test_my_layers.py', 'conftest.py']
    return dict(found)


def test_the_test_of_the_page_has_ten_lines():
    lines = files_of_the_page()['test_my_layers.py'].splitlines()
    assert len([line for line in lines if line]) <= 10


def test_the_layer_of_the_page_passes_and_fails_as_the_page_says(pytester):
    files = files_of_the_page()
    for name, text in files.items():
        pytester.path.joinpath(name).write_text(text)
    count = len(re.findall(r'test_pointwise\[', collected(pytester)))
    assert count > 50
    passing = pytester.runpytest_subprocess('-q', '-W', 'ignore', '--convpool-grid=quick')
    assert re.search(r'\d+ passed', passing.stdout.lines[-1]), passing.stdout.str()

    pytester.path.joinpath('my_layers.py').write_text(
        files['my_layers.py'].replace('F.reshape(bias,', 'F.reshape(bias * 1.001,')
    )
    failing = pytester.runpytest_subprocess('-x', '-W', 'ignore')
    (shown,) = re.findall(r'```\n(E  .*?)```', PAGE, flags=re.DOTALL)
    folder = re.compile(r'^sys\.path.*')
    printed = [folder.sub('sys.path', line) for line in failing.stdout.lines]
    for line in shown.splitlines():
        if 'set_num_threads' not in line:
            assert folder.sub('sys.path', line) in printed

    lines = failing.stdout.lines
    start = 1 + next(i for i, line in enumerate(lines) if 'run this program' in line)
    end = next(i for i, line in enumerate(lines) if 'short test summary' in line)
    (pytester.path / 'reproduce.py').write_text('\n'.join(lines[start:end]))
    outcome = attempt(f'import runpy; runpy.run_path({str(pytester.path / "reproduce.py")!r})')
    assert outcome.returncode == 1
    first, second = shown.splitlines()[:2]
    assert first[1:].strip() in outcome.stderr and second[1:].strip() in outcome.stderr


def collected(pytester):
    return pytester.runpytest_inprocess('--collect-only', '-q').stdout.str()


def test_the_other_code_of_the_page_runs(np_or_nd):
    (code,) = [
        text for text in re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL) if 'draw' in text
    ]
    exec(code, {})
