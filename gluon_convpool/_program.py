"""What the commands of the command line share: threads, extras, and how results are written."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence

from . import backends


class CommandError(Exception):
    """Why a command cannot run, in a sentence for the person who started it."""


def choose_threads(threads: Optional[int]) -> int:
    """Return the thread count of a command: asked for, else from the environment, else all.

    MXNet reads ``OMP_NUM_THREADS`` once, when it is imported; ``python -m gluon_convpool`` sees to
    it that it has the right value then.
    """
    if threads is None:
        # OpenMP also takes a list, one entry for each level of nesting.
        asked = os.environ.get('OMP_NUM_THREADS', '').split(',')[0].strip()
        threads = int(asked) if asked.isdigit() and int(asked) else backends.get_num_threads()
    if threads < 1:
        raise CommandError(f'--threads={threads}: must be at least 1')
    return threads


def require_extra(command: str, extra: str, modules: Mapping[str, str]) -> None:
    """Refuse to start a command that lacks packages of its extra.

    Parameters
    ----------
    command : str
        What the sentence begins with, such as ``'the demo'``.
    extra : str
        The extra of pyproject.toml.
    modules : mapping of str to str
        Import names, and the names under which pip knows them.
    """
    missing = [package for module, package in modules.items() if find_spec(module) is None]
    if missing:
        raise CommandError(
            f'{command} needs {", ".join(missing)}: pip install "gluon_convpool[{extra}]"'
        )


def output_path(option: str, value: str, endings: Optional[Sequence[str]] = None) -> Path:
    """Return the absolute path of a file to write, after a look whether it can be written.

    `option` is what the person typed before `value`; `endings`, without a dot, are those allowed.
    """
    path = Path(value).expanduser().resolve()
    if endings is not None and path.suffix[1:].lower() not in endings:
        raise CommandError(f'{option}={value}: the name must end in one of .{", .".join(endings)}')
    if not path.parent.is_dir():
        raise CommandError(f'{option}={value}: there is no folder {path.parent}')
    if path.is_dir():
        raise CommandError(f'{option}={value}: is a folder, not a file')
    if not os.access(path.parent, os.W_OK):
        raise CommandError(f'{option}={value}: the folder {path.parent} cannot be written to')
    return path


def picture_path(option: str, value: str) -> Path:
    """Return the absolute path of a picture, whose ending Matplotlib must know."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    return output_path(option, value, sorted(FigureCanvasAgg.get_supported_filetypes()))


# --------------------------------------------------------------------------- results

STDOUT = '-'


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a new file to write that takes the place of `path` once it is whole.

    If the block fails or is stopped, `path` is left as it was.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix='.' + path.stem, suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(name)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


@contextlib.contextmanager
def one_interrupt() -> Iterator[Callable[[], None]]:
    """Give a function to call when Ctrl-C has stopped the work; it is the last one that is heard.

    Until the block ends others are ignored: someone who presses it again, or a program that passes
    it on although the terminal has done so, would stop the results from being written.
    """
    before: Any = None

    def stopped() -> None:
        nonlocal before
        if before is None and threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)

    try:
        yield stopped
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def drop_output() -> None:
    """Send what is still to be printed nowhere, after whoever read it has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def add_json_option(parser: Any) -> None:
    """Add ``--json FILE`` to a command's parser, or to a group of it."""
    parser.add_argument(
        '--json',
        metavar='FILE',
        help=f'write the results as JSON too ({STDOUT}: print them, and nothing else)',
    )


class JsonOutput:
    """Where ``--json`` sends a command's results; looked at before any work is done.

    Attributes
    ----------
    only : bool
        Whether the results are printed, and nothing else.
    path : Path, optional
        The file that will be written.

    Raises
    ------
    CommandError
        If the file cannot be written.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.only = options.json == STDOUT
        self._given = options.json
        self.path: Optional[Path] = None
        if options.json is not None and not self.only:
            self.path = output_path('--json', options.json)

    def text(self) -> Any:
        """Return a scope in which the command may print; what it prints is not among the JSON."""
        return contextlib.redirect_stdout(sys.stderr if self.only else sys.stdout)

    def write(self, results: Any) -> None:
        """Print or write the results, if that was asked for.

        Raises
        ------
        CommandError
            If there is no space for them.
        """
        text = json.dumps(results, indent=1)
        if self.only:
            print(text)
        elif self.path:
            try:
                with replacing(self.path) as new:
                    new.write_text(text + '\n', encoding='utf-8')
            except OSError as error:
                raise CommandError(f'--json={self._given}: {error.strerror}') from None
