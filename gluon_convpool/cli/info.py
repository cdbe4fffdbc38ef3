"""``gluon-convpool info``: what is in use."""

from __future__ import annotations

import argparse
from typing import Any

from .. import _mxnet, backends
from .._program import JsonOutput, add_json_option


def add_parser(commands: Any) -> None:
    """Add the command to the program's subparsers."""
    parser = commands.add_parser(
        'info',
        help='say which library, instruction set, threads and backend are in use',
        description='Says which library, instruction set, thread count and backend are in use and,'
        ' where the compiled kernels are not, why.',
        epilog='Example: gluon-convpool info --json -.  Exit status: 0 all is well, 2 a mistake in'
        ' the call.',
    )
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    output = JsonOutput(options)
    info = backends.info()
    output.write(info._asdict())
    if output.only:
        return 0
    print(info)
    if not _mxnet.native_status().available:
        print(
            '\nThe compiled kernels are not available, so that every layer runs on the portable'
            ' backend:\nthe results are the same, but it is slower and needs more memory.\n'
            'To have them: apt install g++ (or what the reason above names), and install'
            ' gluon_convpool again.'
        )
    return 0
