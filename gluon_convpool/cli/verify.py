"""``python -m gluon_convpool verify``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import os
import sys
import tempfile
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, Tuple

import gluon_convpool

from .._program import CommandError, JsonOutput, add_json_option, choose_threads, require_extra
from ..testing.grid import GRIDS
from ..testing.verification import BACKENDS, MODES, Verification, available, verify

if TYPE_CHECKING:
    from rich.console import Console

# Import names, and what pip calls them.
EXTRAS = {'rich': 'rich'}
FORMAT = 1
# What is compared, and the headings: all but the output are gradients.
ARRAYS = {'output': 'output', 'x': 'd input', 'weight': 'd weight', 'bias': 'd bias'}
# A mistake in a kernel fails in hundreds of cases; the file has them all.
SHOWN_FAILURES = 5
REMARK = b'MKLDNN Pooling: training with prop_kind is forward_scoring'


def add_parser(commands: Any) -> None:
    """Add the command to the program's subparsers."""
    parser = commands.add_parser(
        'verify',
        help="compare our layers with MXNet's own on this machine",
        description='Runs the parity grid on this machine: convolutions and poolings of every kind,'
        ' on each backend, with both kinds of arrays, imperatively and hybridized. Output and every'
        " gradient are compared with those of MXNet's own layers, or with loops in float64 where"
        ' MXNet cannot run a case.',
        epilog='Example: gluon-convpool verify --backend native --json verified.json.'
        '  Exit status: 0 all agree, 1 some differ (each with a program that shows it), 2 a'
        ' mistake in the call, 130 stopped by Ctrl-C (what was found is shown).',
    )
    parser.add_argument(
        '--grid',
        choices=GRIDS,
        default='quick',
        help='quick has each value of each argument at least once, full all cases (%(default)s)',
    )
    parser.add_argument(
        '--backend', choices=BACKENDS, help='only this backend (all that are available)'
    )
    parser.add_argument(
        '--threads',
        type=int,
        help='threads of all layers (OMP_NUM_THREADS, or else all that may be used)',
    )
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    options : argparse.Namespace
        As parsed by what `add_parser` added.

    Raises
    ------
    CommandError
        If something that was asked for cannot be done.
    """
    require_extra('verify', 'cli', EXTRAS)
    from rich.console import Console

    output = JsonOutput(options)
    threads = choose_threads(options.threads)
    try:
        available(options.backend)
    except ValueError as error:
        raise CommandError(f'--backend={options.backend}: {error}') from None
    console = Console(stderr=output.only)
    previous = gluon_convpool.get_num_threads()
    gluon_convpool.set_num_threads(threads)
    try:
        with _progress(console) as (started, done), _without_remarks():
            found = verify(options.grid, options.backend, started=started, done=done)
    finally:
        gluon_convpool.set_num_threads(previous)
    results = describe(found, threads)
    show(results, console)
    output.write(results)
    if not found.complete:
        return 130
    return 0 if found.good else 1


def describe(found: Verification, threads: int) -> Dict[str, Any]:
    """Return what was found, and by what, as it is written to a file.

    Differences that are not finite, where a shape or a NaN is wrong, are None.
    """
    results = dataclasses.asdict(found)
    for line in results['lines']:
        worst = line['worst']
        line['worst'] = {name: x if math.isfinite(x) else None for name, x in worst.items()}
    results['failures'] = [failure._asdict() for failure in found.failures]
    return {
        'format': FORMAT,
        'date': datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        'threads': threads,
        'modes': list(MODES),
        'good': found.good,
        'info': gluon_convpool.info()._asdict(),
        **results,
    }


@contextlib.contextmanager
def _progress(
    console: Console,
) -> Iterator[Tuple[Callable[[int], None], Callable[[str], None]]]:
    """Show a bar on a terminal; yields what `verify` calls at the start and after each step."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        TextColumn('{task.completed}/{task.total}'),
        TimeRemainingColumn(),
        TextColumn('{task.description}', markup=False),
    )
    # MXNet's remarks are kept back from the standard error, and a bar there would be too
    disable = console.stderr or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=disable) as bar:
        task = bar.add_task('', total=None)
        yield (
            lambda total: bar.update(task, total=total),
            lambda name: bar.update(task, advance=1, description=name),
        )


@contextlib.contextmanager
def _without_remarks() -> Iterator[None]:
    """Keep back what MXNet writes each time that its average pooling is trained."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            for line in file:
                if REMARK not in line:
                    os.write(2, line)


def show(results: Dict[str, Any], console: Console) -> None:
    """Print the table, and the failures each with a program that reproduces it."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    def text(value: str, style: str = '') -> None:
        console.print(Text(value, style), soft_wrap=True)

    for name, reason in results['backends'].items():
        if reason:
            text(f'{name} was not verified: {reason}', 'yellow')
    table = Table(
        box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=_caption(results), caption_justify='left'
    )
    for heading in ('backend', 'layer'):
        table.add_column(heading, no_wrap=True)
    for heading in ('cases', 'failed', *ARRAYS.values()):
        table.add_column(heading, justify='right', no_wrap=True)
    for line in results['lines']:
        counts = [str(line[name]) for name in ('cases', 'failed')]
        worst = [_difference(line['worst'], name) for name in ARRAYS]
        style = 'bold red' if line['failed'] else ''
        table.add_row(line['backend'], line['kind'], *counts, *worst, style=style)
    console.print(table)

    failures = results['failures']
    for failure in failures[:SHOWN_FAILURES]:
        where = ', '.join(failure[name] for name in ('backend', 'arrays', 'mode'))
        text(f'\n{failure["case"]} ({where})', 'bold red')
        text(f'{failure["explanation"]}\n\nTo reproduce it, run this program:\n')
        text(failure['reproducer'])
    if len(failures) > SHOWN_FAILURES:
        text(
            f'\n{len(failures) - SHOWN_FAILURES} more failures; --json FILE writes them all', 'red'
        )
    runs = sum(line['runs'] for line in results['lines'])
    if not results['complete']:
        text('\nstopped', 'bold red')
    verdict = f'{len(failures)} of {runs} runs failed' if failures else f'all {runs} runs agree'
    text(f'\n{verdict} ({results["seconds"]:.0f} s)', 'bold red' if failures else 'bold green')


def _caption(results: Dict[str, Any]) -> str:
    by_loops = sum(line['by_loops'] for line in results['lines'])
    cases = sum(line['cases'] for line in results['lines'])
    return (
        'output and gradients: the largest difference, as a share of the largest value of the'
        f' array; up to {results["rtol"]:g} is allowed. Loops in float64 decided {by_loops} of'
        f" {cases} cases, MXNet's own layers the others."
    )


def _difference(worst: Dict[str, Any], name: str) -> str:
    if name not in worst:
        return ''
    if worst[name] is None:
        return 'infinite'
    return f'{worst[name]:.1e}' if worst[name] else '0'
