"""The command line: ``python -m gluon_convpool`` and ``gluon-convpool``, a module each command.

A command's module has `add_parser(commands)` and `run(options)`, which returns the exit status:
0 when all is well, 1 when a result is not good enough (the demo's accuracy, or the numbers of a
layer), 2 when something that was asked for cannot be done. Ctrl-C makes it 130.
"""

from __future__ import annotations

import _thread
import argparse
import os
import sys
import threading
from types import ModuleType
from typing import Any, Dict, List, Optional

import gluon_convpool

from .._program import CommandError, choose_threads, drop_output
from ..bench import command as bench
from . import demo, explain, info, model, verify

COMMANDS: Dict[str, ModuleType] = {
    'demo': demo,
    'info': info,
    'verify': verify,
    'explain': explain,
    'model': model,
}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole program."""
    parser = argparse.ArgumentParser(
        prog='gluon-convpool',
        description='Convolution and pooling layers for MXNet Gluon: see them work, check them'
        ' and measure them on this machine.',
        epilog='gluon-convpool COMMAND --help says more, with an example.  Exit status: 0 all is'
        ' well, 1 a result is not good enough, 2 a mistake in the call, 130 stopped by Ctrl-C.',
    )
    parser.add_argument('--version', action='version', version=gluon_convpool.__version__)
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    for command in COMMANDS.values():
        command.add_parser(commands)
    bench.add_parser(commands)
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run one command in this process and return its exit status."""
    options = make_parser().parse_args(argv)
    try:
        if options.command == 'bench':
            return bench.run(options, sys.argv[1:] if argv is None else argv)
        return int(COMMANDS[options.command].run(options))
    except CommandError as error:
        print(f'gluon-convpool {options.command}: {error}', file=sys.stderr)
        return 2


def start_again_with_threads() -> None:
    """Replace the process by one whose MXNet uses as many threads as our kernels.

    That is for the commands that run MXNet's layers beside ours: they have the option --threads.
    MXNet reads ``OMP_NUM_THREADS`` while it is imported, and that has happened already: Python
    imports the package before this file. The same goes for the benchmark's choice of an engine.
    """
    options = make_parser().parse_args()
    if not hasattr(options, 'threads'):
        return
    try:
        variables = {'OMP_NUM_THREADS': str(choose_threads(options.threads))}
    except CommandError:
        return  # main() will say it
    if options.command == 'bench':
        variables.update(bench.environment(options))
    if all(os.environ.get(name) == value for name, value in variables.items()):
        return
    environment = {**os.environ, **variables}
    as_module = os.path.basename(sys.argv[0]) == '__main__.py'
    program = ['-m', 'gluon_convpool'] if as_module else [sys.argv[0]]
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *program, *sys.argv[1:]], environment)


def keep_interrupts() -> None:
    """Let no Ctrl-C be lost that comes while Python cannot raise, as in MXNet's ``__del__``.

    What is raised in there Python hands to a hook, prints and forgets.
    """
    print_it = sys.unraisablehook

    def again(what: Any) -> None:
        if what.exc_type is KeyboardInterrupt:
            # from another thread: here it would come at once, and be lost again
            threading.Timer(0.01, _thread.interrupt_main).start()
        else:
            print_it(what)

    sys.unraisablehook = again


def run_as_program() -> None:
    """Be the program: the entry point of ``gluon-convpool`` and of ``python -m``."""
    keep_interrupts()
    try:
        start_again_with_threads()
        status = main()
    except KeyboardInterrupt:
        print('stopped', file=sys.stderr)
        status = 130
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has enough of it.
        drop_output()
        status = 0
    sys.exit(status)
