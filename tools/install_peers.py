"""Set up one virtual environment for each library that the benchmark compares with.

Run inside the environment that `install.py` makes: ``make bench`` calls both. What is installed
stands in gluon_convpool/bench/peers.py. A library that cannot be installed, as where it has no
build for this Python, is left out with a message, and the benchmark goes on without it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from install import make_environment

from gluon_convpool.bench.peers import FOLDER, PEERS, Peer, interpreter


def install(name: str, peer: Peer, folder: Path) -> bool:
    """Make one environment hold what `peer` requires; say whether it does."""
    stamp = folder / name / 'installed.txt'
    wanted = '\n'.join([sys.version, *peer.requirements])
    if stamp.exists() and stamp.read_text(encoding='utf-8') == wanted:
        return True
    print(f'installing {peer.title}', flush=True)
    python = make_environment(interpreter(name, folder).parents[1])
    pip = [str(python), '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
    if subprocess.call([*pip, *peer.requirements]) != 0:
        # Without its environment the benchmark says that the peer is missing.
        shutil.rmtree(folder / name)
        return False
    stamp.write_text(wanted, encoding='utf-8')
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n\n')[0])
    parser.add_argument('names', nargs='*', help=f'of {", ".join(PEERS)} (all)')
    parser.add_argument('--folder', type=Path, default=FOLDER, help='(%(default)s)')
    options = parser.parse_args()
    for name in options.names or PEERS:
        if name not in PEERS:
            parser.error(f'there is no peer {name!r}; there are {", ".join(PEERS)}')
        if not install(name, PEERS[name], options.folder.resolve()):
            print(
                f'{PEERS[name].title} could not be installed (see above); the benchmark leaves it'
                ' out. Another Python may do: make bench PYTHON=…',
                file=sys.stderr,
            )


if __name__ == '__main__':
    main()
