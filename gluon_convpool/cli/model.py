"""``gluon-convpool model``: what `optimize` makes of a stored model, layer by layer, with times."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .._program import (
    CommandError,
    JsonOutput,
    add_json_option,
    choose_threads,
    output_path,
    require_extra,
)

EXTRAS = {'tabulate': 'tabulate', 'tqdm': 'tqdm'}
NOTHING = '-'


def add_parser(commands: Any) -> None:
    """Add the command to the program's subparsers."""
    parser = commands.add_parser(
        'model',
        help='show what is made faster in a stored model, and by how much; save the result',
        description='Reads a model that MXNet wrote (HybridBlock.export, Module.save_checkpoint),'
        ' makes it faster for inference (gluon_convpool.optimize), compares its outputs with those'
        ' of the original on random data, and times both, layer by layer and as a whole.',
        epilog='Example: gluon-convpool model net-symbol.json net-0000.params --input 1,3,224,224'
        ' --save fast.  Exit status: 0 all is well, 1 the outputs differ by more than 1e-4 of the'
        ' largest one, 2 a mistake in the call or in a file.',
    )
    parser.add_argument('symbol', metavar='SYMBOL', help='PREFIX-symbol.json')
    parser.add_argument('parameters', metavar='PARAMS', help='PREFIX-0000.params')
    parser.add_argument(
        '--input',
        action='append',
        required=True,
        metavar='[NAME=]SIZES',
        help='the shape of the input, such as 1,3,224,224; once for each input',
    )
    parser.add_argument(
        '--save', metavar='PREFIX', help='write PREFIX-symbol.json and PREFIX-0000.params'
    )
    parser.add_argument(
        '--prepack',
        action='store_true',
        help='pack the weights for the shapes of --input: faster for few images at a time, in up to'
        ' five times the memory; what --save writes has them too',
    )
    parser.add_argument(
        '--force', action='store_true', help='overwrite the files of --save and --json'
    )
    parser.add_argument(
        '--threads',
        type=int,
        help='threads of both models (OMP_NUM_THREADS, or else all that may be used)',
    )
    parser.add_argument(
        '--seconds',
        type=float,
        default=2.0,
        help='time for the two models as a whole; 0 measures nothing (%(default)s)',
    )
    add_json_option(parser)


# --------------------------------------------------------------------------- what was asked


def _sizes(text: str) -> Tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.strip().strip('()').split(','))
    except ValueError:
        raise CommandError(
            f'--input={text}: must be whole numbers with commas between, such as 1,3,224,224'
        ) from None
    if min(sizes) < 1:
        raise CommandError(f'--input={text}: every size must be at least 1')
    return sizes


def input_shapes(given: Sequence[str], names: Sequence[str]) -> Dict[str, Tuple[int, ...]]:
    """Return the shape of each input of a graph from what was typed behind ``--input``.

    Raises
    ------
    CommandError
        If a shape is none, or they are not those of the graph's inputs.
    """
    listed = ', '.join(names) or 'none'
    if len(given) != len(names):
        raise CommandError(
            f'--input: given {len(given)} times, but the graph has {len(names)} inputs: {listed}'
        )
    shapes: Dict[str, Tuple[int, ...]] = {}
    for text, place in zip(given, names):
        name, equals, sizes = text.rpartition('=')
        name = name if equals else place
        if name not in names or name in shapes:
            raise CommandError(f'--input={text}: the inputs of the graph are {listed}, each once')
        shapes[name] = _sizes(sizes)
    return {name: shapes[name] for name in names}


def saved_paths(options: argparse.Namespace) -> List[Path]:
    """Return the files that ``--save`` will write, after a look whether it can.

    Raises
    ------
    CommandError
        If it names no files, or their folder cannot be written to.
    """
    from ..models.files import ModelError, model_paths

    if options.save is None:
        return []
    try:
        paths = model_paths(options.save)
    except ModelError as error:
        raise CommandError(f'--save={error}') from None
    return [output_path('--save', str(path)) for path in paths]


def check_targets(options: argparse.Namespace, saved: Sequence[Path], json: Optional[Path]) -> None:
    """Refuse to write one file twice, or over files that are there unless ``--force`` is given.

    Raises
    ------
    CommandError
        Naming the option and the file.
    """
    if json in saved:
        raise CommandError(f'--json={options.json}: is a file that --save={options.save} writes')
    for option, given, path in (
        *(('--save', options.save, path) for path in saved),
        *([('--json', options.json, json)] if json else []),
    ):
        if path.exists() and not options.force:
            raise CommandError(f'{option}={given}: {path} is there already; --force overwrites')


# --------------------------------------------------------------------------- the work


def examine(options: argparse.Namespace) -> Tuple[Dict[str, Any], Any]:
    """Read, optimize, compare and time a model.

    Returns
    -------
    dict, OptimizedModel
        The results as plain values, and the model.

    Raises
    ------
    CommandError, ModelError
        If a file cannot be read, or the graph refuses the shapes.
    """
    import numpy

    from .._mxnet import in_world, mx, to_world
    from ..models import files, optimize
    from ..models.dtypes import input_dtypes
    from ..models.optimization import GraphBlock
    from ..models.tracing import trace_of_graph

    with in_world(files.written_under_numpy(options.symbol)):
        graph = files.read_model(options.symbol, options.parameters)
        original = trace_of_graph(graph)
        shapes = input_shapes(options.input, original.inputs)
        files.check_input_shapes(graph, shapes)
        model = optimize(
            (options.symbol, options.parameters),
            prepack=list(shapes.values()) if options.prepack else None,
        )
        random = numpy.random.RandomState(0)
        dtypes = input_dtypes(graph)
        arrays = {
            name: to_world(
                mx.nd.array(random.standard_normal(shape), dtype=dtypes[name]), graph.numpy
            )
            for name, shape in shapes.items()
        }
        results: Dict[str, Any] = {
            'symbol': options.symbol,
            'parameters': options.parameters,
            'inputs': {name: list(shape) for name, shape in shapes.items()},
            'agreement': model.verify(*arrays.values())._asdict(),
            'rewrites': [one._asdict() for one in model.report.rewrites],
            'left': [one._asdict() for one in model.report.left],
        }
        results['agreement']['agrees'] = model.verify(*arrays.values()).agrees
        if options.seconds > 0:
            from tqdm import tqdm

            from ..bench import model as bench

            count = sum(not node.is_variable for node in graph.nodes())
            with tqdm(total=count, unit='layer', leave=False, disable=None) as bar:
                results['layers'] = bench.measure_nodes(
                    graph, model.graph, model.report, arrays, bar.update
                )
            results['whole'] = bench.measure_whole(
                GraphBlock(original), model, list(arrays.values()), options.seconds
            )
    return results, model


# --------------------------------------------------------------------------- in words


def _milliseconds(seconds: Optional[float]) -> str:
    return NOTHING if seconds is None else f'{1e3 * seconds:.3f}'


def _total(layers: Sequence[Dict[str, Any]], side: str) -> float:
    return float(sum(layer[side] or 0.0 for layer in layers))


def _rows(results: Dict[str, Any]) -> List[List[str]]:
    from ..bench.model import AFTER, BEFORE

    layers = results['layers']
    rows = [
        [
            layer['layer'],
            layer['operator'],
            'x'.join(map(str, layer['shape'])),
            layer['action'],
            _milliseconds(layer[BEFORE]),
            _milliseconds(layer[AFTER]),
        ]
        for layer in layers
    ]
    sums = [_milliseconds(_total(layers, side)) for side in (BEFORE, AFTER)]
    whole = [_milliseconds(results['whole'][side]['median']) for side in (BEFORE, AFTER)]
    return [
        *rows,
        ['all layers, each alone', '', '', '', *sums],
        ['the whole model', '', '', '', *whole],
    ]


def text(results: Dict[str, Any]) -> str:
    """Return all of it as a person reads it."""
    from tabulate import tabulate

    inputs = ', '.join(
        f'{name} {"x".join(map(str, shape))}' for name, shape in results['inputs'].items()
    )
    agreement = results['agreement']
    lines = [f'{results["symbol"]}: {inputs}', '']
    if 'layers' in results:
        lines += [
            tabulate(
                _rows(results),
                headers=['layer', 'operator', 'output', 'optimized', 'before, ms', 'after, ms'],
                colalign=['left'] * 4 + ['right'] * 2,
                disable_numparse=True,
            ),
            '',
        ]
    else:
        lines += [f'{one["node"]}: {one["action"]} {one["words"]}' for one in results['rewrites']]
    lines += [f'{one["node"]}: left, {one["reason"]}' for one in results['left']]
    lines.append(
        f'largest difference of the outputs: {agreement["difference"]:.2g}, where the largest value'
        f' is {agreement["scale"]:.4g}'
    )
    lines += [f'wrote {path}' for path in results.get('saved', ())]
    return '\n'.join(lines)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    import gluon_convpool

    from .._mxnet import mx
    from ..models import ModelError
    from ..models.files import reason_of

    require_extra('the command', 'cli', EXTRAS)
    output = JsonOutput(options)
    if not 0 <= options.seconds < math.inf:
        raise CommandError(f'--seconds={options.seconds:g}: must be at least 0, and finite')
    paths = saved_paths(options)
    check_targets(options, paths, output.path)
    threads = choose_threads(options.threads)
    previous = gluon_convpool.get_num_threads()
    gluon_convpool.set_num_threads(threads)
    try:
        results, model = examine(options)
        results['threads'] = threads
        if paths:
            model.export(options.save)
            results['saved'] = [os.fspath(path) for path in paths]
    except ModelError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f'--save={options.save}: {error.strerror}') from None
    except (mx.MXNetError, MemoryError) as error:
        # What MXNet notices only when it computes, such as that memory is out.
        shapes = ' '.join(f'--input={shape}' for shape in options.input)
        reason = reason_of(error) or 'out of memory'
        raise CommandError(f'{options.symbol}: cannot be run with {shapes}: {reason}') from None
    finally:
        # What is wrong with arrays that nobody has waited for, MXNet would say again at the end.
        with contextlib.suppress(mx.MXNetError):
            mx.nd.waitall()
        gluon_convpool.set_num_threads(previous)
    output.write(results)
    if not output.only:
        print(text(results))
    return 0 if results['agreement']['agrees'] else 1
