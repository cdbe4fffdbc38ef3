"""The pages: their code runs and prints what they say, and what they point to is there."""

from __future__ import annotations

import contextlib
import doctest
import importlib.util
import io
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import layers_table
import mxnet as mx
import numpy as np
import pytest
from isolated import attempt

import gluon_convpool
from gluon_convpool import cli, geometry, nn, use_backend

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(
    page
    for pattern in ('*.md', '*/*.md')
    for page in ROOT.glob(pattern)
    if not page.relative_to(ROOT).parts[0].startswith(('.', 'build'))
)
FENCE = re.compile(r'^```(\S*)\n(.*?)^```', re.MULTILINE | re.DOTALL)


def blocks(page, *languages):
    """The code blocks of a page in one of the languages, each behind as many empty lines as it has
    lines above it, so that errors name the page's lines.
    """
    text = page.read_text(encoding='utf-8')
    return [
        '\n' * text.count('\n', 0, found.start(2)) + found.group(2)
        for found in FENCE.finditer(text)
        if found.group(1) in languages
    ]


def files(page):
    """The Python files that a page shows, each named in the line above it; by name."""
    text = page.read_text(encoding='utf-8')
    return dict(re.findall(r'`(\w+\.py)`:\n\n```python\n(.*?)^```', text, re.MULTILINE | re.DOTALL))


def page_name(page):
    return str(page.relative_to(ROOT))


def pages_with(*languages):
    return [page for page in PAGES if blocks(page, *languages)]


def all_pages(check):
    return pytest.mark.parametrize('page', PAGES, ids=page_name)(check)


# --------------------------------------------------------------------------------- Python


class Printed:
    """A `print` that remembers what each line of a page printed."""

    def __init__(self):
        self.by_line = {}

    def __call__(self, *values, **options):
        text = io.StringIO()
        print(*values, **{**options, 'file': text})
        line = sys._getframe(1).f_lineno
        self.by_line[line] = self.by_line.get(line, '') + text.getvalue()


def run_plain(code, page, names):
    """Run a block; what it prints on a line with a comment behind it is what the comment says."""
    printed = names['print'] = Printed()
    exec(compile(code, page_name(page), 'exec'), names)
    for number, line in enumerate(code.splitlines(), 1):
        promised = re.search(r'^ *print\(.*\)  # (.*)$', line)
        if promised:
            assert printed.by_line.get(number, '').split() == promised.group(1).split(), line


def run_session(code, page, names):
    """Run a block of ``>>>`` lines."""
    names.pop('print', None)
    example = doctest.DocTestParser().get_doctest(code, names, page_name(page), page_name(page), 0)
    report = io.StringIO()
    doctest.DocTestRunner().run(example, out=report.write, clear_globs=False)
    names.update(example.globs)
    assert not report.getvalue(), report.getvalue()


def run_tests(page, folder):
    """Run the files of a page that are tests."""
    for name, code in files(page).items():
        (folder / name).write_text(code, encoding='utf-8')
    done = attempt(f'import pytest; raise SystemExit(pytest.main([{str(folder)!r}, "-q"]))')
    assert done.returncode == 0, page_name(page) + done.stdout + done.stderr


@pytest.mark.parametrize('page', pages_with('python', 'pycon'), ids=page_name)
def test_python_on_the_page_runs_and_prints_what_it_says(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = {'__name__': 'page'}
    for code in blocks(page, 'python', 'pycon'):
        if code.lstrip('\n') in files(page).values():
            continue
        if re.search(r'^>>> ', code, re.MULTILINE):
            run_session(code, page, names)
        else:
            run_plain(code, page, names)
    if files(page):
        run_tests(page, tmp_path)


# --------------------------------------------------------------------------------- commands


def commands(page, *beginnings):
    """The arguments of every command on a page that begins with one of the beginnings."""
    for code in blocks(page, ''):
        for line in code.splitlines():
            for beginning in beginnings:
                if line.startswith(beginning + ' '):
                    yield shlex.split(line[len(beginning) :], comments=True)


def help_text(*arguments):
    """What the program says to these arguments and --help, or None if it has no such command."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        try:
            cli.main([*arguments, '--help'])
        except SystemExit as end:
            return None if end.code else said.getvalue()
    return said.getvalue()


@all_pages
def test_program_has_the_commands_and_options_of_the_page(page):
    for arguments in commands(page, 'python -m gluon_convpool', 'gluon-convpool'):
        known = help_text(arguments[0])
        assert known is not None, f'there is no command {arguments[0]}'
        for option in arguments[1:]:
            if option.startswith('-'):
                assert re.search(re.escape(option.split('=')[0]) + r'\b', known), option


@all_pages
def test_make_has_the_targets_of_the_page(page):
    targets = re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    text = page.read_text(encoding='utf-8')
    named = {arguments[0] for arguments in commands(page, 'make')}
    named.update(re.findall(r'`make\s+([\w-]+)', text))
    assert named <= set(targets)


# --------------------------------------------------------------------------------- links


def anchors(page):
    """The headings of a page as the addresses that Markdown's renderers make of them."""
    text = FENCE.sub('', page.read_text(encoding='utf-8'))
    titles = re.findall(r'^#+ (.*)$', text, re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', title.lower()).strip().replace(' ', '-') for title in titles}


@all_pages
def test_links_lead_somewhere(page):
    text = FENCE.sub('', page.read_text(encoding='utf-8'))
    for target in re.findall(r'\]\(([^()\s]+)\)', text):
        if re.match(r'\w+:', target):
            continue
        path, _, anchor = target.partition('#')
        to = (page.parent / path).resolve() if path else page
        assert to.exists(), target
        assert not anchor or anchor in anchors(to), target


# --------------------------------------------------------------------------------- statements


def variables_that_the_code_reads():
    """Names of environment variables: what calls that read the environment name, and all words in
    quotes that look like one. (The benchmark's workers have such words for OpenVINO.)
    """
    sources = [ROOT / 'setup.py', *(ROOT / 'tools').glob('*.py')]
    for ending in ('py', 'cc', 'h'):
        sources += (ROOT / 'gluon_convpool').rglob('*.' + ending)
    reading = r'(?:environ\.\w+\(|environ\[|getenv\(|enabled\()\s*["\']([A-Z][A-Z0-9_]+)["\']'
    word = r'["\']([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+_?)["\']'
    found = set()
    for source in sources:
        text = re.sub(
            r'^__all__ = \[.*?\]', '', source.read_text(encoding='utf-8'), flags=re.M | re.S
        )
        found.update(re.findall(reading, text))
        if source.parent.name != 'workers':
            found.update(re.findall(word, text))
    return found


def test_users_page_lists_every_environment_variable():
    table = (ROOT / 'docs' / 'USERS.md').read_text(encoding='utf-8')
    listed = set(re.findall(r'^\| `([A-Z_]+)` \|', table, re.MULTILINE))
    assert listed == variables_that_the_code_reads()


def test_changelog_begins_with_what_is_not_released_or_this_version():
    text = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    titles = re.findall(r'^## (.*)$', text, re.MULTILINE)
    assert gluon_convpool.__version__ in titles[:2]


def test_layers_page_says_what_serves_each_layer(needs_native):
    """`python tools/layers_table.py` writes it anew."""
    text = (ROOT / 'docs' / 'LAYERS.md').read_text(encoding='utf-8')
    assert layers_table.table() in text


REQUIRED = {
    'DepthwiseConv2D': (2, 3),
    'SeparableConv2D': (4, 2, 3),
    'ReflectionPad2D': (1,),
}


@pytest.mark.parametrize('row', layers_table.rows(), ids=lambda row: f'{row[0]}-{row[1]}')
def test_layers_page_says_the_truth(row, needs_native):
    """Each layer is computed by each backend that is named, and refuses what none is named for."""
    shown, layout, *cells = row
    pairs = [
        (dtype, cell)
        for column, cell in zip(layers_table.COLUMNS, cells)
        for dtype in column.split(', ')
    ]
    shape = geometry.join_shape(1, 2, (5,) * (len(layout) - 2), layout)
    for name in re.findall('`(.*?)`', shown):
        if name == 'ReflectionPad2D':
            layer = nn.ReflectionPad2D(1)
        else:
            given = REQUIRED.get(name, () if 'Pool' in name else (4, 3))
            layer = getattr(nn, name)(*given, layout=layout)
        layer.initialize(mx.init.One())
        layer(mx.nd.ones(shape))
        for dtype, cell in pairs:
            for backend in ('native', 'portable'):
                with use_backend(backend):
                    if cell == '–':
                        with pytest.raises((TypeError, ValueError), match=dtype):
                            layer(mx.nd.ones(shape, dtype=dtype))
                    elif backend in cell:
                        layer.cast(dtype)
                        assert layer(mx.nd.ones(shape, dtype=dtype)).dtype == np.dtype(dtype)
                        layer.cast('float32')


# --------------------------------------------------------------------------------- C++


@pytest.mark.parametrize('numpy_arrays', [False, True], ids=['nd', 'np'])
def test_program_on_the_users_page_computes_an_exported_network(
    numpy_arrays, native, tmp_path, monkeypatch
):
    if shutil.which('g++') is None:
        pytest.skip('there is no g++ to compile the program with')
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / 'docs' / 'USERS.md', 'c++')
    assert 'numpy_arrays = false;' in code
    value = 'true' if numpy_arrays else 'false'
    source = tmp_path / 'predict.cc'
    source.write_text(code.replace('numpy_arrays = false;', f'numpy_arrays = {value};'))
    folder = mx.__path__[0]
    subprocess.run(
        [
            *('g++', '-std=c++17', source, f'-I{folder}/include', f'{folder}/libmxnet.so'),
            *(f'-Wl,-rpath,{folder}', '-o', 'predict'),
        ],
        check=True,
    )
    with mx.util.np_shape(numpy_arrays), mx.util.np_array(numpy_arrays):
        net = nn.HybridSequential()
        net.add(nn.Conv2D(4, 3, padding=1, activation='relu'), nn.MaxPool2D(), nn.Dense(2))
        net.initialize()
        net.hybridize()
        expected = net((mx.np if numpy_arrays else mx.nd).ones((1, 3, 8, 8))).asnumpy()
        net.export('net')
    done = subprocess.run(
        ['./predict', gluon_convpool.info().library], stdout=subprocess.PIPE, text=True, check=True
    )
    assert list(map(float, done.stdout.split())) == pytest.approx(list(expected[0]), rel=1e-5)


# --------------------------------------------------------------------------------- the whole


def test_sphinx_builds_pages_and_reference_without_a_warning(tmp_path):
    for module in ('sphinx', 'furo', 'myst_parser'):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f'{module} is not installed')
    source = tmp_path / 'docs'
    shutil.copytree(ROOT / 'docs', source, ignore=shutil.ignore_patterns('_build', '_api'))
    done = subprocess.run(
        [
            *(sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-b', 'html'),
            *(source, tmp_path / 'html'),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert done.returncode == 0, done.stdout
    reference = (tmp_path / 'html' / '_api' / 'gluon_convpool.nn.html').read_text(encoding='utf-8')
    assert 'id="gluon_convpool.nn.Conv2D"' in reference
