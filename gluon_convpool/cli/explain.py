"""``gluon-convpool explain``: what one layer does to an image, with the arithmetic."""

from __future__ import annotations

import argparse
import math
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

from .. import backends, geometry
from .._program import CommandError, JsonOutput, add_json_option, require_extra

EXTRAS = {'tabulate': 'tabulate'}
AXES = ('height', 'width')
BYTES = 4  # of a float32
# More than this is not drawn.
MOST_ROWS, MOST_COLUMNS = 24, 60

Arguments = Union[geometry.Convolution, geometry.Pooling]


def add_parser(commands: Any) -> None:
    """Add the command to the program's subparsers."""
    parser = commands.add_parser(
        'explain',
        help='show what one layer does to an image: sizes, arithmetic, a drawing',
        description='Works out what a convolution or pooling layer does to an image: the size of'
        ' the output with its arithmetic, the receptive field, parameters, multiply-adds and'
        ' memory, and draws the padded image with its first two windows.',
        epilog='Examples: gluon-convpool explain "8,8" --kernel 3 --stride 2 --padding 1;'
        ' gluon-convpool explain 64,56,56 --kernel 3 --padding 1 --channels 128;'
        ' gluon-convpool explain 8,8 --pool max --kernel 3 --stride 2 --ceil-mode.'
        '  Exit status: 0 all is well, 2 a mistake in the call.',
    )
    parser.add_argument(
        'size',
        metavar='SIZE',
        help='height,width of the image; or channels,height,width; or batch,channels,height,width',
    )
    window = parser.add_argument_group('the window: one number, or height,width')
    window.add_argument('--kernel', default='3', metavar='K', help='its size (%(default)s)')
    window.add_argument(
        '--stride', metavar='S', help='its step (1; for pooling the size of the window)'
    )
    window.add_argument('--padding', default='0', metavar='P', help='on both sides (%(default)s)')
    window.add_argument(
        '--dilation', metavar='D', help='distance of its elements, for a convolution (1)'
    )
    convolution = parser.add_argument_group('a convolution')
    convolution.add_argument(
        '--channels', type=int, metavar='N', help='output channels (as many as the input has)'
    )
    convolution.add_argument('--groups', type=int, metavar='N', help='groups of channels (1)')
    convolution.add_argument('--no-bias', action='store_true', help='without a bias')
    pooling = parser.add_argument_group('a pooling')
    pooling.add_argument('--pool', choices=geometry.POOL_MODES, help='pool instead of convolving')
    pooling.add_argument('--ceil-mode', action='store_true', help="round the output's size up")
    add_json_option(parser)


# --------------------------------------------------------------------------- what was asked


def _numbers(option: str, text: str) -> Tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.strip().strip('()').split(','))
    except ValueError:
        raise CommandError(f'{option}={text}: must be whole numbers with commas between') from None


def _window(option: str, text: Optional[str]) -> Any:
    if text is None:
        return None
    numbers = _numbers(option, text)
    return numbers[0] if len(numbers) == 1 else numbers


class Layer(NamedTuple):
    """A layer and what it is applied to."""

    arguments: Arguments
    data: geometry.Ints  # (batch, channels, height, width)
    bias: bool


def _layer(options: argparse.Namespace) -> Layer:
    size = _numbers('SIZE', options.size)
    if not 2 <= len(size) <= 4 or min(size) < 1:
        raise CommandError(
            f'SIZE={options.size}: must be two to four numbers of at least 1, such as 8,8 or'
            ' 3,224,224'
        )
    data = (1,) * (4 - len(size)) + size
    kernel, padding = _window('--kernel', options.kernel), _window('--padding', options.padding)
    stride, dilation = _window('--stride', options.stride), _window('--dilation', options.dilation)
    if options.pool:
        for name in ('dilation', 'channels', 'groups'):
            if getattr(options, name) is not None:
                raise CommandError(f'--{name}={getattr(options, name)}: a pooling has none')
        return Layer(
            geometry.pooling_arguments(
                'explain', kernel, stride, padding, options.pool, options.ceil_mode, ndim=2
            ),
            data,
            False,
        )
    if options.ceil_mode:
        raise CommandError('--ceil-mode: is for a pooling, which --pool asks for')
    arguments = geometry.convolution_arguments(
        'explain',
        kernel,
        1 if stride is None else stride,
        padding,
        1 if dilation is None else dilation,
        data[1] if options.channels is None else options.channels,
        1 if options.groups is None else options.groups,
        'NCHW',
        data[1],
        ndim=2,
    )
    return Layer(arguments, data, not options.no_bias)


# --------------------------------------------------------------------------- what follows


def _dilation(arguments: Arguments) -> geometry.Ints:
    return arguments.dilate if isinstance(arguments, geometry.Convolution) else (1, 1)


def _up(arguments: Arguments) -> bool:
    return isinstance(arguments, geometry.Pooling) and arguments.ceil_mode


def _served_by(arguments: Arguments, data: geometry.Ints) -> str:
    info = backends.info()
    if info.backend != 'native':
        return 'portable backend'
    if isinstance(arguments, geometry.Pooling):
        return f'native backend ({info.instruction_set})'
    from ..backends.native import serving_algorithm

    return f'native backend ({info.instruction_set}): {serving_algorithm(arguments, data)}'


def explain(layer: Layer) -> Dict[str, Any]:
    """Return everything that there is to say about a layer, as plain numbers and texts."""
    arguments, data = layer.arguments, layer.data
    window_size = math.prod(arguments.kernel)
    results: Dict[str, Any] = {
        'input': list(data),
        'kernel_size': list(arguments.kernel),
        'strides': list(arguments.stride),
        'padding': list(arguments.pad),
        'dilation': list(_dilation(arguments)),
    }
    if isinstance(arguments, geometry.Convolution):
        output = geometry.convolution_shape(arguments, data, op='explain')
        inner = data[1] // arguments.groups
        weights = arguments.channels * inner * window_size
        biases = arguments.channels if layer.bias else 0
        results.update(
            layer='convolution',
            groups=arguments.groups,
            parameters=weights + biases,
            multiply_adds=math.prod(output) * inner * window_size,
        )
    else:
        output = geometry.pooling_shape(arguments, data, op='explain')
        weights = biases = 0
        results.update(layer=arguments.mode + ' pooling', ceil_mode=arguments.ceil_mode)
        results.update(parameters=0, elements_read=math.prod(output) * window_size)
    results['output'] = list(output)
    results['receptive_field'] = [
        geometry.extent(k, d) for k, d in zip(arguments.kernel, _dilation(arguments))
    ]
    elements = {
        'input': math.prod(data),
        'parameters': weights + biases,
        'output': math.prod(output),
    }
    results['bytes'] = {name: BYTES * count for name, count in elements.items()}
    results['bytes']['total'] = sum(results['bytes'].values())
    results['computed_by'] = _served_by(arguments, data)
    return results


# --------------------------------------------------------------------------- in words


def _product(*factors: int) -> str:
    return '·'.join(map(str, factors))


def _sizes(values: List[int]) -> str:
    return ' x '.join(map(str, values))


def _axis_lines(layer: Layer, results: Dict[str, Any]) -> List[str]:
    left, right = '⌈⌉' if _up(layer.arguments) else '⌊⌋'
    lines = []
    for i, name in enumerate(AXES):
        n, k = layer.data[i + 2], layer.arguments.kernel[i]
        p, s = layer.arguments.pad[i], layer.arguments.stride[i]
        span, out = results['receptive_field'][i], results['output'][i + 2]
        room = n + 2 * p - span
        dilated = f', spans {_dilation(layer.arguments)[i]}·({k} - 1) + 1 = {span}'
        lines.append(
            f'  {name + ":":8s}{left}({n} + 2·{p} - {span}) / {s}{right} + 1'
            f' = {left}{room} / {s}{right} + 1 = {out}' + (dilated if span != k else '')
        )
        left_over = n + 2 * p - (span + (out - 1) * s)
        if left_over > 0:
            lines.append(f'          at the end, {left_over} of {n + 2 * p} under no window')
        elif left_over < 0:
            lines.append(f'          the last window reaches {-left_over} over the edge')
    return lines


def _bytes(count: int) -> str:
    size, units = float(count), ['bytes', 'KiB', 'MiB', 'GiB', 'TiB']
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f'{count} bytes' if units[0] == 'bytes' else f'{size:.4g} {units[0]}'


def _rows(layer: Layer, results: Dict[str, Any]) -> List[List[str]]:
    arguments, data, output = layer.arguments, layer.data, results['output']
    field = results['receptive_field']
    rows = [['output', _sizes(output), 'batch x channels x height x width']]
    rows.append(['receptive field', _sizes(field), 'elements of the image that an output sees'])
    if isinstance(arguments, geometry.Convolution):
        inner = data[1] // arguments.groups
        shape = _product(arguments.channels, inner, *arguments.kernel)
        bias = f' + {arguments.channels}' if layer.bias else ''
        count = results['parameters']
        rows.append(['parameters', f'{count:,}', f'weight {shape}{bias}'])
        work = _product(*output) + ' outputs · ' + _product(inner, *arguments.kernel)
        rows.append(['multiply-adds', f'{results["multiply_adds"]:,}', work])
    else:
        work = _product(*output) + ' outputs · ' + _product(*arguments.kernel)
        rows.append(['elements read', f'{results["elements_read"]:,}', work])
    sizes = results['bytes']
    parts = ' + '.join(
        f'{name} {_bytes(count)}' for name, count in sizes.items() if name != 'total' and count
    )
    rows.append(['memory (float32)', _bytes(sizes['total']), parts])
    if 'multiply_adds' in results:
        per_byte = 2 * results['multiply_adds'] / sizes['total']
        rows.append(['operations per byte', f'{per_byte:.3g}', 'two for each multiply-add'])
    rows.append(['computed by', results['computed_by'], ''])
    return rows


def drawing(layer: Layer, results: Dict[str, Any]) -> str:
    """Return the padded image as text, with the first two windows of its first row.

    An element of padding is ``.``, one of the image ``o``; ``1`` and ``2`` are elements that the
    first and the second window read, ``*`` those that both do.
    """
    arguments = layer.arguments
    (height, width), (top, left) = layer.data[2:], arguments.pad
    rows = [
        [
            'o' if top <= r < top + height and left <= c < left + width else '.'
            for c in range(width + 2 * left)
        ]
        for r in range(height + 2 * top)
    ]
    for window in range(min(2, results['output'][3])):
        for i in range(arguments.kernel[0]):
            for j in range(arguments.kernel[1]):
                r = i * _dilation(arguments)[0]
                c = j * _dilation(arguments)[1] + window * arguments.stride[1]
                if r < len(rows) and c < len(rows[r]):
                    rows[r][c] = '*' if rows[r][c] == '1' else str(window + 1)
    cut = len(rows) > MOST_ROWS or len(rows[0]) > MOST_COLUMNS
    lines = ['  ' + ' '.join(row[:MOST_COLUMNS]) for row in rows[:MOST_ROWS]]
    lines.append('')
    lines.append('  . padding   o image   1 first window   2 the next one   * both')
    if cut:
        lines.append('  (the upper left corner)')
    return '\n'.join(lines)


def text(layer: Layer, results: Dict[str, Any]) -> str:
    """Return all of it as a person reads it."""
    from tabulate import tabulate

    names = ['kernel_size', 'strides', 'padding']
    names += ['dilation', 'groups'] if results['layer'] == 'convolution' else ['ceil_mode']
    values = ', '.join(
        f'{name}={tuple(v) if isinstance(v, list) else v}'
        for name, v in ((name, results[name]) for name in names)
    )
    return '\n'.join(
        [
            f'{results["layer"].capitalize()} over {_sizes(results["input"])}'
            ' (batch x channels x height x width)',
            f'  {values}',
            '',
            'Output size',
            *_axis_lines(layer, results),
            '',
            tabulate(_rows(layer, results), tablefmt='plain', disable_numparse=True),
            '',
            drawing(layer, results),
        ]
    )


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    require_extra('the command', 'cli', EXTRAS)
    output = JsonOutput(options)
    try:
        layer = _layer(options)
        results = explain(layer)
    except (TypeError, ValueError) as error:
        raise CommandError(str(error).replace('explain: ', '', 1)) from None
    output.write(results)
    if not output.only:
        print(text(layer, results))
    return 0
