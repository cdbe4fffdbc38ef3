"""``gluon-convpool demo``: the main job."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .. import backends
from .._program import JsonOutput, add_json_option


def add_parser(commands: Any) -> None:
    """Add the command to the program's subparsers."""
    parser = commands.add_parser(
        'demo',
        help='train LeNet on handwritten digits, beside the same network of built-in layers',
        description='Trains LeNet on the 1,797 handwritten digits of scikit-learn, once with our'
        ' layers and once with those of MXNet, from the same weights and on the same batches, and'
        ' draws loss curves, filters, a confusion matrix and misread digits.',
        epilog='Example: gluon-convpool demo --epochs 5 --output digits.png.  Exit status: 0 all'
        ' is well, 1 the accuracy is too low, 2 a mistake in the call, 130 stopped by Ctrl-C.',
    )
    parser.add_argument(
        '--epochs', type=int, default=20, help='passes over the training images (%(default)s)'
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='seed of everything that is random (%(default)s)'
    )
    parser.add_argument(
        '--output', default='demo.png', help='where to write the picture (%(default)s)'
    )
    parser.add_argument(
        '--threads',
        type=int,
        help='threads for both networks (OMP_NUM_THREADS, or else all that may be used)',
    )
    parser.add_argument(
        '--backend',
        choices=backends.CHOICES,
        default=backends.current(),
        help=f'who computes our layers (%(default)s, from {backends.ENVIRONMENT_VARIABLE})',
    )
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from .. import demo

    output = JsonOutput(options)
    with output.text():
        result = demo.run(
            options.epochs, options.seed, options.output, options.threads, options.backend
        )
    output.write(
        {
            'epochs': options.epochs,
            'seed': options.seed,
            'threads': result.threads,
            **{
                name: dict(zip(('ours', 'mxnet'), getattr(result, name)))
                for name in ('accuracy', 'losses', 'accuracies', 'seconds')
            },
            'outputs': result.outputs._asdict(),
            'gradients': result.gradients._asdict(),
            'picture': str(result.picture),
        }
    )
    if result.accuracy[0] < demo.REQUIRED_ACCURACY:
        print(
            f'gluon-convpool demo: the accuracy, {result.accuracy[0]:.2%}, is below the'
            f' {demo.REQUIRED_ACCURACY:.0%} that this network should reach; more epochs may help',
            file=sys.stderr,
        )
        return 1
    return 0
