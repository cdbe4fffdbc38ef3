"""Execute notebooks, each from a clean kernel, and save them with what they print and draw.

    python tools/notebooks.py                                    every notebook, in place
    python tools/notebooks.py notebooks/01_convolution.ipynb     one
    python tools/notebooks.py --to FOLDER …                      the results go to FOLDER

The kernel is the Python that runs this file. What depends on the moment and the machine (times of
execution, the version of Python) is not saved.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

FOLDER = Path(__file__).resolve().parents[1] / 'notebooks'
SECONDS_PER_CELL = 120
METADATA = {
    'kernelspec': {'display_name': 'Python 3 (ipykernel)', 'language': 'python', 'name': 'python3'},
    'language_info': {'name': 'python'},
}


def execute(path: Path) -> nbformat.NotebookNode:
    """Return the notebook at `path` with new outputs."""
    notebook = nbformat.read(path, as_version=4)
    # Without the variable, a kernel draws into its notebook.
    environment = {name: value for name, value in os.environ.items() if name != 'MPLBACKEND'}
    client = NotebookClient(
        notebook,
        timeout=SECONDS_PER_CELL,
        kernel_name='python3',
        record_timing=False,
        # How a cell's lines are cut into messages is a matter of timing.
        coalesce_streams=True,
        resources={'metadata': {'path': str(path.parent)}},
    )
    client.execute(env=environment)
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n\n')[0])
    parser.add_argument('notebooks', nargs='*', type=Path, help='(all of notebooks/)')
    parser.add_argument('--to', type=Path, help='folder of the results (in place)')
    options = parser.parse_args()
    for path in options.notebooks or sorted(FOLDER.glob('*.ipynb')):
        print(path.name, flush=True)
        try:
            notebook = execute(path)
        except (CellExecutionError, CellTimeoutError) as error:
            sys.exit(f'{path.name}: {error}')
        nbformat.write(notebook, (options.to or path.parent) / path.name)


if __name__ == '__main__':
    main()
