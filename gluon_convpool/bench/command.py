"""``python -m gluon_convpool bench``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from .._program import (
    CommandError,
    JsonOutput,
    add_json_option,
    choose_threads,
    drop_output,
    one_interrupt,
    picture_path,
    replacing,
    require_extra,
)
from . import networks
from .networks import NETWORKS
from .peers import FOLDER, PEERS, PeerError, Process, start
from .suites import ALL, DEFAULT_SUITE, PASSES, SUITES, Layer, select

# Import names, and what pip calls them.
EXTRAS = {'matplotlib': 'matplotlib', 'tabulate': 'tabulate', 'tqdm': 'tqdm'}
FORMAT = 1
# What all results have, and as what.
KINDS: Dict[str, type] = {
    'date': str,
    'command': str,
    'threads': int,
    'engine': str,
    'hybridized': bool,
    'machine': dict,
    'peak': dict,
    'bandwidth': dict,
    'peers': dict,
    'layers': list,
    'wrong': bool,
    'complete': bool,
}
ONLY_PLAIN = 'gets only layers over two axes, channels first and float32'
# MXNet reads this variable when it is imported.
ENGINE_VARIABLE = 'MXNET_ENGINE_TYPE'
ENGINES = {'threaded': 'ThreadedEnginePerDevice', 'naive': 'NaiveEngine'}


def environment(options: argparse.Namespace) -> Dict[str, str]:
    """Return the variables, beside the thread count, that MXNet must see when it is imported."""
    return {ENGINE_VARIABLE: ENGINES[options.engine]} if options.engine else {}


def add_parser(commands: Any) -> None:
    """Add the command to the program's subparsers."""
    parser = commands.add_parser(
        'bench',
        help="measure our layers against MXNet's own and other libraries",
        description="Times our layers against MXNet's own, and with --peers against"
        f' {", ".join(peer.title for peer in PEERS.values())}: alternating, with the same number of'
        ' threads, and only those whose results agree. docs/BENCHMARK.md says more.',
        epilog='Example: gluon-convpool bench --suite resnet --batch 1 --threads 2.  Exit status: 0'
        " all is well, 1 our layer gave other numbers than MXNet's, 2 a mistake in the call, 130"
        ' stopped by Ctrl-C (what was measured until then is shown, written and drawn).',
    )
    what = parser.add_argument_group('what to measure')
    what.add_argument(
        '--suite',
        nargs='+',
        metavar='NAME',
        choices=[*SUITES, ALL],
        help=f'suites of layers: {", ".join([*SUITES, ALL])} ({DEFAULT_SUITE})',
    )
    what.add_argument(
        '--models',
        nargs='*',
        metavar='NAME',
        choices=list(NETWORKS),
        help='whole networks in the place of layers, or the named ones of them:'
        f' {", ".join(NETWORKS)}',
    )
    what.add_argument('--batch', nargs='+', type=int, metavar='N', help='only these batch sizes')
    what.add_argument('--filter', default='', metavar='TEXT', help='only layers with this name')
    what.add_argument('--list', action='store_true', help='list the layers and stop')
    what.add_argument('--forward-only', action='store_true', help='no backward passes')
    what.add_argument(
        '--algorithms',
        action='store_true',
        help='also time our convolution by each algorithm, not only the one that is chosen',
    )
    against = parser.add_argument_group('against whom')
    against.add_argument(
        '--peers',
        nargs='*',
        metavar='NAME',
        choices=list(PEERS),
        help=f'also {", ".join(PEERS)}, or the named ones of them; make bench installs them',
    )
    against.add_argument(
        '--peer-folder',
        type=Path,
        default=FOLDER,
        metavar='FOLDER',
        help='where their environments are (%(default)s)',
    )
    how = parser.add_argument_group('how')
    how.add_argument(
        '--threads',
        type=int,
        help='threads of every side (OMP_NUM_THREADS, or else all that may be used)',
    )
    how.add_argument(
        '--hybridize',
        action='store_true',
        help="hybridize our and MXNet's layers, with static memory; else they are called"
        ' imperatively',
    )
    how.add_argument(
        '--engine',
        choices=list(ENGINES),
        help="MXNet's engine: threaded, its own choice, hands each call to another thread;"
        ' naive computes at once'
        f' ({ENGINE_VARIABLE}, or else threaded)',
    )
    how.add_argument(
        '--seconds',
        type=float,
        default=2.0,
        help='time for each layer, all passes and sides together (%(default)s)',
    )
    out = parser.add_argument_group('results')
    add_json_option(out)
    out.add_argument('--plot', metavar='FILE', help='draw a picture; the ending says the format')
    out.add_argument('--markdown', action='store_true', help='print the tables as Markdown')
    out.add_argument('--show', metavar='FILE', help='show stored results instead of measuring anew')


def run(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    options : argparse.Namespace
        As parsed by what `add_parser` added.
    command : sequence of str
        The arguments as they were typed, to be kept with the results.

    Raises
    ------
    CommandError
        If something that was asked for cannot be done.
    """
    require_extra('the benchmark', 'bench', EXTRAS)
    plot = picture_path('--plot', options.plot) if options.plot else None
    output = JsonOutput(options)
    if options.show:
        results = filtered(load(options.show), options)
    else:
        layers, tasks = chosen(options)
        if options.list:
            lines = [f'{suite:10s} {layer.title}' for suite, layer in layers]
            print('\n'.join(lines + [task.title for task in tasks]))
            return 0
        if not options.seconds > 0:
            raise CommandError(f'--seconds={options.seconds:g}: must be more than 0')
        with one_interrupt() as stopped:
            results = measure(layers, options, command, tasks, stopped)
            if not results['complete']:
                hand_over_stopped(results, options, output, plot)
                return 130
    hand_over(results, options, output, plot)
    return 1 if results['wrong'] else 0


def hand_over(
    results: Dict[str, Any], options: argparse.Namespace, output: JsonOutput, plot: Optional[Path]
) -> None:
    """Write, draw and print results.

    The files come first: printing ends the command where nobody reads any more.
    """
    from . import report

    if not output.only:
        output.write(results)
    if plot and results['layers']:
        with replacing(plot) as new:
            report.draw(results, new)
    if output.only:
        output.write(results)
    else:
        print(report.text(results, options.markdown))


def hand_over_stopped(
    results: Dict[str, Any], options: argparse.Namespace, output: JsonOutput, plot: Optional[Path]
) -> None:
    """Do the same after Ctrl-C; where not one layer or network was measured, there is nothing."""
    with contextlib.suppress(BrokenPipeError):
        print('stopped', file=sys.stderr)
    try:
        if results['layers'] or results['networks']:
            hand_over(results, options, output, plot)
            sys.stdout.flush()
    except BrokenPipeError:
        # Ctrl-C has ended whoever read the output through a pipe, such as `tee`, as well.
        drop_output()


def chosen(options: argparse.Namespace) -> Tuple[List[Tuple[str, Layer]], List[networks.Task]]:
    """Return the layers or the networks that the options ask for.

    Raises
    ------
    CommandError
        If nothing is left, or options that are for the other are given.
    """
    try:
        if options.models is None:
            return select(options.suite or [DEFAULT_SUITE], options.batch, options.filter), []
        tasks = networks.select(options.models, options.batch, options.forward_only, options.filter)
        for option in ('suite', 'plot'):
            if getattr(options, option) is not None:
                raise CommandError(f'--models: cannot be used with --{option}')
        for name in options.peers or ():
            if not PEERS[name].networks:
                able = ', '.join(able_peers(tasks))
                raise CommandError(f'--peers={name}: runs no whole networks; {able} do')
        if options.peers is not None and not options.list:
            require_extra('--models with --peers', 'onnx', {'onnx': 'onnx'})
        return [], tasks
    except ValueError as error:
        raise CommandError(str(error)) from None


def load(name: str) -> Dict[str, Any]:
    """Return the results of a file that the command wrote."""
    try:
        results = json.loads(Path(name).read_text(encoding='utf-8'))
    except OSError as error:
        raise CommandError(f'--show={name}: {error.strerror}') from None
    except (ValueError, RecursionError):
        raise CommandError(f'--show={name}: is no JSON file') from None
    if not isinstance(results, dict) or results.get('format') != FORMAT:
        raise CommandError(
            f'--show={name}: holds no results of this command, or of another version of it'
        )
    for key, kind in KINDS.items():
        if not isinstance(results.get(key), kind):
            raise CommandError(f'--show={name}: is damaged: it has no {key!r}')
    return results


def filtered(results: Dict[str, Any], options: argparse.Namespace) -> Dict[str, Any]:
    """Return results with only the layers and networks that the options ask for."""
    suites = options.suite if options.suite and ALL not in options.suite else list(SUITES)
    layers = [
        record
        for record in results['layers']
        if record['suite'] in suites
        and (not options.batch or record['batch'] in options.batch)
        and options.filter.lower() in record['name'].lower()
    ]
    models = [
        record
        for record in results.get('networks', ())
        if record['network'] in (options.models or NETWORKS)
        and (not options.batch or record['batch'] in options.batch)
        and options.filter.lower() in record['network'].lower()
    ]
    if not layers and not models:
        raise CommandError(f'--show={options.show}: holds no layer that is asked for')
    return {**results, 'layers': layers, 'networks': models}


# --------------------------------------------------------------------------- measuring


def able_peers(tasks: Sequence[networks.Task]) -> List[str]:
    """Return the names of the peers that can do layers, or networks where there are some."""
    return [name for name, peer in PEERS.items() if peer.networks or not tasks]


def measure(
    layers: List[Tuple[str, Layer]],
    options: argparse.Namespace,
    command: Sequence[str],
    tasks: Sequence[networks.Task] = (),
    stopped: Callable[[], None] = lambda: None,
) -> Dict[str, Any]:
    """Measure the layers or networks and return everything that there is to know about it.

    Ctrl-C ends it, and `stopped` is called; what was measured until then is returned.
    """
    import gluon_convpool

    from .._mxnet import mx
    from . import machine
    from .sides import TOLERANCE

    threads = choose_threads(options.threads)
    names = [] if options.peers is None else (options.peers or able_peers(tasks))
    previous = gluon_convpool.get_num_threads()
    gluon_convpool.set_num_threads(threads)
    processes, missing = start(names, threads, options.peer_folder)
    for name, reason in missing.items():
        print(f'gluon-convpool bench: {PEERS[name].title} {reason}', file=sys.stderr)
    peers: Dict[str, Dict[str, str]] = {}
    for name in names:
        peers[name] = {'title': PEERS[name].title, 'note': PEERS[name].note}
        if name in missing:
            peers[name]['reason'] = missing[name]
    for process in processes:
        peers[process.name]['version'] = process.version

    results: Dict[str, Any] = {
        'format': FORMAT,
        'date': datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        'command': shlex.join(['python', '-m', 'gluon_convpool', *command]),
        'threads': threads,
        'engine': os.environ.get(ENGINE_VARIABLE, ENGINES['threaded']),
        'hybridized': options.hybridize,
        'seconds': options.seconds,
        'tolerance': TOLERANCE,
        'machine': machine.describe(),
        'peak': {
            'registers': machine.measure_rate('peak', 0.5),
            'micro_kernel': machine.measure_rate('micro_kernel', 0.5),
        },
        'bandwidth': {},
        'peers': peers,
        'layers': [],
        'networks': [],
        'wrong': False,
        'complete': False,
    }
    try:
        if any(not layer.weight for _, layer in layers):
            results['bandwidth'] = machine.measure_bandwidth(threads, 0.2)
        with mx.util.np_shape(True), mx.util.np_array(True):
            _measure_layers(layers, options, results, processes, threads)
        _measure_networks(tasks, options, results, processes)
        results['complete'] = True
        for process in processes:
            process.close()
    except KeyboardInterrupt:
        stopped()
    finally:
        # After Ctrl-C, one of them may be in the middle of a burst, for which nobody is to wait.
        for process in processes:
            process.close(patience=0)
        gluon_convpool.set_num_threads(previous)
    # as it will be read from a file
    return dict(json.loads(json.dumps(results)))


def _measure_layers(
    layers: List[Tuple[str, Layer]],
    options: argparse.Namespace,
    results: Dict[str, Any],
    processes: List[Process],
    threads: int,
) -> None:
    from tqdm import tqdm

    from .measure import measure_layer, ours_is_wrong
    from .sides import cannot, local_sides, make_arrays

    passes = PASSES[:1] if options.forward_only else PASSES
    with tqdm(total=len(layers) * len(passes), unit='pass', leave=False, disable=None) as bar:
        for suite, layer in layers:
            bar.set_description(f'{suite}: {layer.title}')
            arrays = make_arrays(layer)
            sides = local_sides(layer, arrays, options.algorithms, options.hybridize)
            for process in processes:
                if not layer.is_for_peers:
                    sides.append(cannot(process.name, ONLY_PLAIN))
                    continue
                try:
                    sides.append(process.side(layer.describe(), arrays))
                except PeerError as error:
                    sides.append(cannot(process.name, str(error)))
            record = measure_layer(layer, sides, passes, options.seconds, bar.update)
            results['layers'].append({'suite': suite, **record})
            results['wrong'] = results['wrong'] or ours_is_wrong(record)
            for process in processes:
                process.revive()


def _measure_networks(
    tasks: Sequence[networks.Task],
    options: argparse.Namespace,
    results: Dict[str, Any],
    processes: List[Process],
) -> None:
    from tqdm import tqdm

    with tqdm(total=len(tasks), unit='network', leave=False, disable=None) as bar:
        for task in tasks:
            bar.set_description(task.title)
            record = networks.measure_task(task, options.seconds, processes)
            results['networks'].append(record)
            results['wrong'] = results['wrong'] or networks.ours_is_wrong(record)
            for process in processes:
                process.revive()
            bar.update()
