"""The command line: ``python -m gluon_convpool`` and ``gluon-convpool``.

Exit statuses: 0 when all is well, 1 when a result is not good enough (the demo's accuracy, or the
numbers of a benchmarked or verified layer), 2 when something that was asked for cannot be done, 130
when stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import List, Optional

import gluon_convpool
from gluon_convpool import _mxnet, backends
from gluon_convpool._program import CommandError, choose_threads
from gluon_convpool.bench import command as bench
from gluon_convpool.cli import verify


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='gluon-convpool',
        description='Convolution and pooling layers for MXNet Gluon.',
        epilog='Exit status: 0 all is well, 1 a result is not good enough, 2 a mistake in a call.',
    )
    parser.add_argument('--version', action='version', version=gluon_convpool.__version__)
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)

    demo = commands.add_parser(
        'demo',
        help='train LeNet on handwritten digits, beside the same network of built-in layers',
        description='Trains LeNet on the 1,797 handwritten digits of scikit-learn, once with our'
        ' layers and once with those of MXNet, from the same weights and on the same batches.',
    )
    demo.add_argument(
        '--epochs', type=int, default=20, help='passes over the training images (%(default)s)'
    )
    demo.add_argument(
        '--seed', type=int, default=0, help='seed of everything that is random (%(default)s)'
    )
    demo.add_argument(
        '--output', default='demo.png', help='where to write the picture (%(default)s)'
    )
    demo.add_argument(
        '--threads',
        type=int,
        help='threads for both networks (OMP_NUM_THREADS, or else all that may be used)',
    )
    demo.add_argument(
        '--backend',
        choices=backends.CHOICES,
        default=backends.current(),
        help=f'who computes our layers (%(default)s, from {backends.ENVIRONMENT_VARIABLE})',
    )

    bench.add_parser(commands)
    verify.add_parser(commands)

    commands.add_parser(
        'info', help='say which library, instruction set, threads and backend are in use'
    )
    return parser


def show_info() -> int:
    print(gluon_convpool.info())
    status = _mxnet.native_status()
    if not status.available:
        print(
            '\nThe compiled kernels are not available, so that every layer runs on the portable'
            ' backend:\nthe results are the same, but it is slower and needs more memory.\n'
            'To have them: apt install g++ (or what the reason above names), and install'
            ' gluon_convpool again.'
        )
    return 0


def run_demo(options: argparse.Namespace) -> int:
    from gluon_convpool import demo

    result = demo.run(
        options.epochs,
        options.seed,
        options.output,
        options.threads,
        options.backend,
    )
    if result.accuracy[0] < demo.REQUIRED_ACCURACY:
        print(
            f'gluon-convpool demo: the accuracy, {result.accuracy[0]:.2%}, is below the'
            f' {demo.REQUIRED_ACCURACY:.0%} that this network should reach; more epochs may help',
            file=sys.stderr,
        )
        return 1
    return 0


def main(argv: Optional[List[str]] = None) -> int:
    """Run one command in this process and return its exit status."""
    options = make_parser().parse_args(argv)
    try:
        if options.command == 'demo':
            return run_demo(options)
        if options.command == 'bench':
            return bench.run(options, sys.argv[1:] if argv is None else argv)
        if options.command == 'verify':
            return verify.run(options)
    except CommandError as error:
        print(f'gluon-convpool {options.command}: {error}', file=sys.stderr)
        return 2
    return show_info()


def start_again_with_threads() -> None:
    """Replace the process by one whose MXNet uses as many threads as our kernels.

    That is for the commands that time MXNet's layers beside ours: they have the option --threads.
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


def run_as_program() -> None:
    """Be the program: the entry point of ``gluon-convpool`` and of ``python -m``."""
    try:
        start_again_with_threads()
        status = main()
    except KeyboardInterrupt:
        print('stopped', file=sys.stderr)
        status = 130
    sys.exit(status)


if __name__ == '__main__':
    run_as_program()
