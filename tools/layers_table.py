"""Write the table of docs/LAYERS.md: which backends serve each layer, layout and dtype.

Run it after a change to what the native library serves; the tests compare the page with it.
"""

from __future__ import annotations

import pathlib
import re
from typing import Any, Iterator, Optional, Tuple

from gluon_convpool import backends, functional, geometry

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'LAYERS.md'
BEGIN, END = '<!-- begin of the table -->\n', '<!-- end of the table -->\n'
COLUMNS = ('float32', 'float64', 'float16', 'int8, uint8, int32', 'int64')


# The operator, and the layers that it is; none for what no backend but the portable one has.
LAYERS: Tuple[Tuple[Optional[str], Tuple[str, ...]], ...] = (
    ('convolution', ('Conv{n}D',)),
    ('convolution', ('DepthwiseConv2D', 'SeparableConv2D')),
    ('convolution_transpose', ('Conv{n}DTranspose',)),
    (
        'pooling',
        ('MaxPool{n}D', 'AvgPool{n}D', 'GlobalMaxPool{n}D', 'GlobalAvgPool{n}D', 'Pool{n}D'),
    ),
    (None, ('AdaptiveAvgPool{n}D', 'AdaptiveMaxPool{n}D')),
    ('deformable_convolution', ('DeformableConvolution', 'ModulatedDeformableConvolution')),
    (None, ('ReflectionPad2D',)),
)
# What there is in two dimensions alone, and of those what takes the channels first alone.
FLAT = ('DepthwiseConv2D', 'DeformableConvolution', 'ReflectionPad2D')
CHANNELS_FIRST = ('DeformableConvolution', 'ReflectionPad2D')


def arguments_of(op: str, layout: str) -> Any:
    """An ordinary call of one kind of layer."""
    if op == 'convolution_transpose':
        return geometry.convolution_transpose_arguments(op, 4, 2, 1, 0, 1, 8, 1, layout)
    if op == 'pooling':
        return geometry.pooling_arguments(op, 2, None, 0, 'max', layout=layout)
    arguments = geometry.convolution_arguments(op, 3, 1, 1, 1, 8, 1, layout)
    if op == 'deformable_convolution':
        return geometry.deformable_arguments(op, arguments, 1, False)
    return arguments


def servers(op: Optional[str], layers: Tuple[str, ...], layout: str, dtype: str) -> str:
    """Name the backends, and what they compute in where that is another dtype."""
    if dtype not in functional.DTYPES and op != 'pooling':
        return '–'
    wide = functional.COMPUTED_IN.get(dtype, dtype)
    found = ['portable']
    if op is not None:
        taken = backends.choose(op, arguments_of(op, layout), wide, 'cpu')
        names = {backends.builtin: "MXNet's", backends.portable: 'portable'}
        found.insert(0, names.get(taken, 'native'))
    moved_only = layers == ('ReflectionPad2D',)
    computed = '' if wide == dtype or moved_only else f'; in {wide}'
    return ', '.join(dict.fromkeys(found)) + computed


def rows() -> Iterator[Tuple[str, ...]]:
    """Yield the cells of each row."""
    for op, layers in LAYERS:
        for n, layouts in geometry.LAYOUTS.items():
            if layers[0] in FLAT and n != 2:
                continue
            shown = ', '.join(f'`{one.format(n=n)}`' for one in layers)
            for layout in layouts[:1] if layers[0] in CHANNELS_FIRST else layouts:
                dtypes = (column.split(', ')[0] for column in COLUMNS)
                cells = (servers(op, layers, layout, dtype) for dtype in dtypes)
                yield (shown, layout, *cells)


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
