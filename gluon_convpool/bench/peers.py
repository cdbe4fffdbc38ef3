"""The libraries to compare with: each in its own environment and its own process.

They cannot live in one process with MXNet, or with each other: they need different versions of
NumPy and bring their own threads. `PEERS` is the one place where their versions stand.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import IO, Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy

from .sides import Arrays, Side, cannot

WORKERS = Path(__file__).resolve().parent / 'workers'
# In a checkout, where `make bench` puts the environments.
FOLDER = Path(__file__).resolve().parents[2] / '.bench'


class Peer(NamedTuple):
    """A library to compare with.

    Attributes
    ----------
    title : str
        Its name, for people.
    requirements : tuple of str
        What pip installs into its environment.
    script : str
        Its worker, in the folder `WORKERS`.
    note : str
        What a reader of its times must know.
    networks : bool
        Whether its worker reads whole networks, as ONNX files.
    """

    title: str
    requirements: Tuple[str, ...]
    script: str
    note: str = ''
    networks: bool = False


_WEIGHTS = 'forward only; weights rearranged or transformed when the model is loaded'

PEERS: Dict[str, Peer] = {
    'pytorch': Peer(
        'PyTorch', ('torch==2.13.0', 'numpy'), 'run_pytorch.py', 'eager, contiguous NCHW tensors'
    ),
    'onnxruntime': Peer(
        'ONNX Runtime',
        ('onnxruntime==1.27.0', 'onnx==1.21.0'),
        'run_onnxruntime.py',
        _WEIGHTS,
        networks=True,
    ),
    'openvino': Peer(
        'OpenVINO',
        ('openvino==2026.2.1', 'onnx==1.21.0'),
        'run_openvino.py',
        _WEIGHTS,
        networks=True,
    ),
    'ncnn': Peer(
        'ncnn',
        ('ncnn==1.0.20260526',),
        'run_ncnn.py',
        f'{_WEIGHTS}; a batch is computed one image after another',
    ),
}

# A layer that takes longer than this for a burst is no layer of ours; a worker is stuck.
PATIENCE = 300.0


class PeerError(Exception):
    """Why a peer's process is of no more use, in one sentence."""


def interpreter(name: str, folder: Path = FOLDER) -> Path:
    """Return the Python of a peer's environment, whether or not it exists."""
    return folder / name / 'bin' / 'python'


class Process:
    """A running worker.

    Parameters
    ----------
    name : str
        Key of `PEERS`, or any other name for a worker of one's own.
    command : sequence of str
        Interpreter and script; the thread count follows as the last argument.
    threads : int

    Raises
    ------
    PeerError
        If it does not start.
    """

    def __init__(self, name: str, command: Sequence[str], threads: int) -> None:
        self.name = name
        self.version = ''
        self._command = [*command, str(threads)]
        self._environment = {**os.environ, 'OMP_NUM_THREADS': str(threads)}
        # LLVM's and Intel's OpenMP spin for 200 ms after a call; no burst has gaps of 5.
        self._environment.setdefault('KMP_BLOCKTIME', '5')
        # The packages of the benchmark's own environment are not for the peer.
        for variable in ('PYTHONPATH', 'PYTHONHOME'):
            self._environment.pop(variable, None)
        self._folder = tempfile.TemporaryDirectory(prefix='convpool-bench-')
        self._errors: IO[Any] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        try:
            self._start()
        except PeerError:
            self.close()
            raise

    def _start(self) -> None:
        self._process: Optional[subprocess.Popen] = None
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=self._environment,
                encoding='utf-8',
            )
        except OSError as error:
            raise PeerError(f'does not start: {error}') from None
        self.version = str(self._answer().get('version'))

    def revive(self) -> None:
        """Start the worker again if it ended: a layer that it cannot bear need not be its last."""
        if self._process is not None and self._process.poll() is None:
            return
        self._end()
        # If this fails, the next question is answered by the reason.
        with contextlib.suppress(PeerError):
            self._start()

    def _answer(self) -> Dict[str, Any]:
        process = self._process
        assert process is not None and process.stdout is not None
        stuck = threading.Timer(PATIENCE, process.kill)
        try:
            # In here, or else Ctrl-C at this moment would leave a thread that Python waits for.
            stuck.start()
            line = process.stdout.readline()
        finally:
            stuck.cancel()
        try:
            return dict(json.loads(line))
        except (TypeError, ValueError):
            # Whatever comes next would be taken for the answer to another question.
            process.kill()
            raise PeerError(self._last_words(line)) from None

    def _last_words(self, line: str = '') -> str:
        """Say why there is no answer."""
        if line:
            return f'said {line.strip()[:80]!r}, which is no answer'
        if self._process is None:
            return 'does not start'
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors='replace').strip().splitlines()[-1:]
        ended = f'was ended by signal {-status}' if status < 0 else f'ended with status {status}'
        return f'{ended}, and last said: {said[0]}' if said else ended

    def ask(self, **question: Any) -> Dict[str, Any]:
        """Return the answer to one question.

        Raises
        ------
        PeerError
            If the process ended, or what it says is no answer.
        """
        if self._process is None or self._process.stdin is None:
            raise PeerError(self._last_words())
        try:
            self._process.stdin.write(json.dumps(question) + '\n')
            self._process.stdin.flush()
        except OSError:
            raise PeerError(self._last_words()) from None
        return self._answer()

    def side(self, description: Dict[str, Any], arrays: Arrays) -> Side:
        """Return the peer as a side of one layer or network, after it has run each pass once.

        Parameters
        ----------
        description : dict
            What `Layer.describe` gives; or 'op': 'network' and the 'file' that holds it.
        arrays : dict
            By name.

        Raises
        ------
        PeerError
            As in `ask`.
        """
        given, taken = (os.path.join(self._folder.name, f'{n}.npz') for n in ('given', 'taken'))
        numpy.savez(given, **arrays)  # type: ignore[arg-type]
        answer = self.ask(do='load', layer=description, arrays=given, outputs=taken)
        if 'passes' not in answer:
            reason = answer.get('unsupported') or answer.get('error') or 'gave no answer'
            return cannot(self.name, str(reason))
        results: Dict[str, Arrays] = {which: {} for which in answer['passes']}
        with numpy.load(taken) as file:
            for key in file.files:
                which, array = key.split('/')
                results[which][array] = file[key]
        return Side(self.name, results, self._run)

    def _run(self, which: str, calls: int) -> float:
        answer = self.ask(**{'do': 'run', 'pass': which, 'calls': calls})
        if 'seconds' not in answer:
            raise PeerError(str(answer.get('error', 'gave no time')))
        return float(answer['seconds'])

    def _end(self, patience: float = 5.0) -> None:
        process = self._process
        if process is None:
            return
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        self._process = None

    def close(self, patience: float = 5.0) -> None:
        """End the process, which may have ended by itself.

        If it does not end within `patience` seconds, as in the middle of a burst, it is killed.
        """
        self._end(patience)
        self._errors.close()
        self._folder.cleanup()


def start(
    names: Sequence[str], threads: int, folder: Optional[Path] = None
) -> Tuple[List[Process], Dict[str, str]]:
    """Start the workers of peers.

    Returns
    -------
    list of Process, dict of str to str
        Those that run, and for each of the others the reason why it does not.
    """
    running: List[Process] = []
    missing: Dict[str, str] = {}
    for name in names:
        python = interpreter(name, folder or FOLDER)
        if not python.exists():
            missing[name] = 'is not installed: make bench installs it'
            continue
        try:
            script = str(WORKERS / PEERS[name].script)
            running.append(Process(name, [str(python), script], threads))
        except PeerError as error:
            missing[name] = str(error)
    return running, missing
