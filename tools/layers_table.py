"""Write the table of docs/LAYERS.md: what serves each layer, layout and dtype on the CPU.

Run it after a change to what the native library serves; the tests compare the page with it.
"""

from __future__ import annotations

import pathlib
import re
from typing import Any, Dict, Iterator, List, Tuple

from gluon_convpool import backends, functional, geometry

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'LAYERS.md'
BEGIN, END = '<!-- begin of the table -->\n', '<!-- end of the table -->\n'
COLUMNS = ('float32', 'float64', 'float16', 'int8, uint8, int32')


def arguments_of(op: str, layout: str) -> Any:
    """An ordinary call of one kind of layer."""
    if op == 'convolution':
        return geometry.convolution_arguments(op, 3, 1, 1, 1, 8, 1, layout)
    if op == 'convolution_transpose':
        return geometry.convolution_transpose_arguments(op, 4, 2, 1, 0, 1, 8, 1, layout)
    return geometry.pooling_arguments(op, 2, None, 0, 'max', layout=layout)


def server(op: str, layout: str, dtype: str) -> str:
    """Name the backend, and what it computes in where that is another dtype."""
    if dtype in functional.INTEGERS and op != 'pooling':
        return '–'
    wide = functional.COMPUTED_IN.get(dtype, dtype)
    obstacle = backends.obstacle(op, arguments_of(op, layout), wide, 'cpu')
    return ('portable' if obstacle else 'native') + ('' if wide == dtype else f', in {wide}')


def rows() -> Iterator[Tuple[str, ...]]:
    """Yield the cells of each row."""
    names: Dict[str, List[str]] = {
        'convolution': ['Conv{n}D'],
        'convolution_transpose': ['Conv{n}DTranspose'],
        'pooling': [
            'MaxPool{n}D',
            'AvgPool{n}D',
            'GlobalMaxPool{n}D',
            'GlobalAvgPool{n}D',
            'Pool{n}D',
        ],
    }
    for op, templates in names.items():
        for n, layouts in geometry.LAYOUTS.items():
            shown = ', '.join(f'`{one.format(n=n)}`' for one in templates)
            for layout in layouts:
                dtypes = (*functional.DTYPES, functional.INTEGERS[0])
                yield (shown, layout, *(server(op, layout, dtype) for dtype in dtypes))


def table() -> str:
    """Return the table as Markdown."""
    head = ('layer', 'layout', *COLUMNS)
    lines = [head, ('---',) * len(head), *rows()]
    return ''.join('| ' + ' | '.join(line) + ' |\n' for line in lines)


def main() -> None:
    """Put the table into the page."""
    text = PAGE.read_text(encoding='utf-8')
    pattern = re.escape(BEGIN) + '.*?' + re.escape(END)
    text = re.sub(pattern, lambda _: BEGIN + '\n' + table() + '\n' + END, text, flags=re.DOTALL)
    PAGE.write_text(text, encoding='utf-8')


if __name__ == '__main__':
    main()
