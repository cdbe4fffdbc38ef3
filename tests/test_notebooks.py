"""Each notebook runs from a clean kernel, and what is committed is what it prints and draws.

A cell with the tag ``document-3`` is cell 3 of the starting document.
"""

from __future__ import annotations

import ast
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from isolated import PATHS
from starting_document import cells, with_our_layers

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))
LARGEST = 1_000_000  # bytes
MACHINE_PATH = re.compile(r'(?<![\w.])/(home|root|tmp|usr|opt|work|Users)/|site-packages')

by_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return json.loads(path.read_text(encoding='utf-8'))


def code_cells(notebook):
    return [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']


def texts(cell):
    """What a cell prints, and the representation of its last expression."""
    printed, value = '', ''
    for output in cell['outputs']:
        if output['output_type'] == 'stream':
            printed += ''.join(output['text'])
        elif output['output_type'] == 'execute_result':
            value += ''.join(output['data']['text/plain'])
    return printed, value


def document_cells(notebook):
    """The cells of the starting document in a notebook, by their numbers."""
    found = [
        (int(tag.partition('-')[2]), cell)
        for cell in code_cells(notebook)
        for tag in cell['metadata'].get('tags', [])
        if tag.startswith('document-')
    ]
    assert len(dict(found)) == len(found), 'a number is there twice'
    return dict(found)


def assert_prints_what_the_document_prints(notebook):
    document = cells()
    for number, cell in document_cells(notebook).items():
        printed, value = texts(cell)
        assert printed.split() == document[number].printed.split(), 'cell %d' % number
        assert value.split() == document[number].value.split(), 'cell %d' % number


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
    """A function that executes a notebook, once, and returns it with its outputs."""
    for module in ('nbclient', 'ipykernel', 'matplotlib', 'sklearn'):
        pytest.importorskip(module, reason=module + ' is missing: see the extra notebooks')
    folder = tmp_path_factory.mktemp('notebooks')

    def execute(path):
        if not (folder / path.name).exists():
            command = [sys.executable, ROOT / 'tools' / 'notebooks.py', '--to', folder, path]
            outcome = subprocess.run(
                [str(part) for part in command],
                capture_output=True,
                text=True,
                timeout=600,
                env=dict(os.environ, PYTHONPATH=os.pathsep.join(PATHS)),
            )
            assert outcome.returncode == 0, outcome.stdout + outcome.stderr
        return read(folder / path.name)

    return execute


@by_notebook
def test_runs_from_a_clean_kernel(path, executed):
    notebook = executed(path)
    assert [cell['source'] for cell in notebook['cells']] == [
        cell['source'] for cell in read(path)['cells']
    ]
    assert_prints_what_the_document_prints(notebook)


@by_notebook
def test_shows_the_same_kinds_of_outputs_as_are_committed(path, executed):
    def kinds(notebook):
        return [
            [
                (output['output_type'], sorted(output.get('data', {})))
                for output in cell['outputs']
                if output.get('name') != 'stderr'
            ]
            for cell in code_cells(notebook)
        ]

    assert kinds(executed(path)) == kinds(read(path))


@by_notebook
def test_is_committed_as_executed_from_the_top_without_errors(path):
    notebook = read(path)
    numbers = [cell['execution_count'] for cell in code_cells(notebook)]
    assert numbers == list(range(1, len(numbers) + 1))
    for cell in code_cells(notebook):
        for output in cell['outputs']:
            assert output['output_type'] != 'error' and output.get('name') != 'stderr'
    assert_prints_what_the_document_prints(notebook)


@by_notebook
def test_committed_file_is_small_and_tells_nothing_about_a_machine(path):
    assert path.stat().st_size < LARGEST
    notebook = read(path)
    assert notebook['metadata']['kernelspec']['name'] == 'python3'
    for cell in notebook['cells']:
        assert not MACHINE_PATH.search(''.join(cell['source']))
        for output in cell.get('outputs', []):
            shown = json.dumps([output.get('text'), output.get('data', {})])
            without_pictures = re.sub(r'[A-Za-z0-9+/\\=]{200,}', '', shown)
            assert not MACHINE_PATH.search(without_pictures)


@by_notebook
def test_links_between_notebooks_lead_somewhere(path):
    sources = '\n'.join(''.join(cell['source']) for cell in read(path)['cells'])
    for link in re.findall(r'\]\(([^)#:]+\.ipynb)\)', sources):
        assert (path.parent / link).exists(), link


def test_every_cell_of_the_starting_document_is_in_one_of_the_notebooks():
    document, found = cells(), {}
    for path in NOTEBOOKS:
        for number, cell in document_cells(read(path)).items():
            assert number not in found
            found[number] = cell
    assert sorted(found) == sorted(document)
    for number, cell in found.items():
        expected = ast.parse(with_our_layers(document[number].code))
        assert ast.dump(ast.parse(''.join(cell['source']))) == ast.dump(expected), number
