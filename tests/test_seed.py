"""Every numbered cell of the starting document runs here and prints what it prints there.

All expected results are read from the document.
"""

from __future__ import annotations

import ast
import contextlib
import io

import pytest
from starting_document import cells, with_our_layers

import gluon_convpool
from gluon_convpool import scratch


def run(code, names, given=()):
    """Run a cell as a notebook does; definitions of names in `given` are left out.

    Returns what it prints and the representation of its last expression.
    """
    tree = ast.parse(with_our_layers(code))
    body = [node for node in tree.body if getattr(node, 'name', None) not in given]
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), '<cell>', 'exec'), names)
        value = (
            None
            if last is None
            else eval(compile(ast.Expression(last.value), '<cell>', 'eval'), names)
        )
    return printed.getvalue(), '' if value is None else repr(value)


def test_the_document_has_ten_cells_with_the_results_that_it_shows():
    document = cells()
    assert list(document) == list(range(1, 11))
    assert [n for n, cell in document.items() if cell.value] == [3, 6, 7, 8, 9, 10]
    assert [n for n, cell in document.items() if cell.printed.strip()] == [9, 10]
    assert '19., 25.' in document[3].value and '37., 43.' in document[3].value
    assert 'Input shape : (1, 2, 4, 4)' in document[10].printed


def _run_all(names, given=()):
    document = cells()
    for number in range(1, 11):
        if number == 9:
            # a matrix of two more axes: here the name stands for the layer
            names['pool2d'] = gluon_convpool.pool2d
        printed, value = run(document[number].code, names, given)
        assert printed.split() == document[number].printed.split(), 'cell %d' % number
        assert value.split() == document[number].value.split(), 'cell %d' % number


@pytest.mark.parametrize(
    'source', [gluon_convpool, scratch], ids=['gluon_convpool', 'gluon_convpool.scratch']
)
def test_every_cell_prints_what_the_document_prints(source, any_backend):
    names = {'corr2d': source.corr2d, 'pool2d': source.pool2d, 'Conv2D': scratch.Conv2D}
    _run_all(dict(names), given=tuple(names))


def test_every_cell_as_it_is_written_there(any_backend):
    """The document's own definitions too; its last `pool2d` stands for a layer and is ours."""
    _run_all({})


def test_layers_in_the_document_are_ours():
    names = {}
    run(cells()[1].code, names)
    assert names['nn'] is gluon_convpool.nn
