"""The starting document as cells: the code of each, and what it prints there.

The document lost the indentation of its code and one printed word; both are given back here.
"""

from __future__ import annotations

import pathlib
import re

DOCUMENT = pathlib.Path(__file__).parent / 'data' / 'starting_document.txt'

# The depth of each line of code, blank lines left out; a cell has as many lines as are given here.
DEPTHS = {
    1: (0, 0, 0),
    2: (0, 1, 1, 1, 2, 3, 1),
    3: (0, 0, 0),
    4: (0, 1, 2, 2, 2, 1, 2),
    5: (0, 1, 1, 1, 1, 1, 1),
    6: (0, 0, 0),
    7: (0, 0, 0),
    8: (0, 1, 1, 1, 2, 3, 4, 3, 4, 1, 0, 0),
    9: (0, 0, 0),
    10: (0, 0, 0, 0),
}
LOST_WORD = ('\nshape :', '\nInput shape :')
RESULT_LINE = re.compile(r'array\(|[\[( ]|Input shape|$')


class Cell:
    """The code of one cell, what it prints, and the value of its last expression."""

    def __init__(self, text, depths):
        lines = text.split('\n')
        code, rest = [], 0
        for rest, line in enumerate(lines):  # noqa: B007
            if len(code) == len(depths):
                break
            if line.strip():
                code.append('    ' * depths[len(code)] + line)
        self.code = '\n'.join(code)
        results = []
        for line in lines[rest:]:
            if not RESULT_LINE.match(line) and not line.startswith('Out['):
                break
            results.append(line)
        printed, _, value = '\n'.join(results).partition('Out[')
        self.printed, self.value = printed, value.partition(':')[2]


def cells():
    text = DOCUMENT.read_text(encoding='utf-8').replace('\u00a0', ' ').replace(*LOST_WORD)
    parts = re.split(r'^In \[(\d+)\]:\n', text, flags=re.MULTILINE)[1:]
    numbers, texts = map(int, parts[::2]), parts[1::2]
    return {number: Cell(text, DEPTHS[number]) for number, text in zip(numbers, texts)}


def with_our_layers(code):
    """The code with the one import changed."""
    return code.replace('from mxnet.gluon import', 'from gluon_convpool import')
