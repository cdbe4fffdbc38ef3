"""Runs the grid against the built-in layers on this machine, without pytest.

What decides is what decides in the tests: MXNet's layer, or the float64 loops of `reference` where
that layer cannot run a case.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

from .. import backends, geometry, nn
from .arrays import ARRAY_KINDS, array_semantics, empty_arrays
from .cases import Case
from .comparison import TOLERANCE, ParityError, assert_same, worst_differences
from .grid import GRIDS, KINDS, cases_of
from .measurement import measure
from .reproducer import Program

# Static mode runs the graph of hybrid mode, and plans its memory in addition.
MODES = ('imperative', 'static')
BACKENDS = tuple(name for name in backends.CHOICES if name != 'auto')


class Failure(NamedTuple):
    """A case for which a layer gave something else.

    Attributes
    ----------
    backend, arrays, mode : str
        How the layer was run.
    case : str
        The name of the case.
    explanation : str
        What differs, or the error that the layer raised.
    reproducer : str
        A Python program that raises it again.
    """

    backend: str
    arrays: str
    mode: str
    case: str
    explanation: str
    reproducer: str


@dataclasses.dataclass
class Line:
    """What was found for one kind of layer on one backend.

    Attributes
    ----------
    backend, kind : str
    cases, by_loops : int
        How many cases, and for how many of them the float64 loops decide.
    runs, failed : int
        How often they were run, with each kind of arrays and in each mode, and how many of these
        runs failed.
    worst : dict of str to float
        By array, 'output' and each gradient: the largest relative difference of a run that gave
        arrays of the right shapes.
    where : dict of str to str
        The case of that difference.
    """

    backend: str
    kind: str
    cases: int = 0
    by_loops: int = 0
    runs: int = 0
    failed: int = 0
    worst: Dict[str, float] = dataclasses.field(default_factory=dict)
    where: Dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, case: str, differences: Dict[str, float]) -> None:
        """Keep the larger differences."""
        for name, difference in differences.items():
            if difference >= self.worst.get(name, 0.0):
                self.worst[name], self.where[name] = difference, case


@dataclasses.dataclass
class Verification:
    """All that was found.

    Attributes
    ----------
    grid : str
    rtol : float
        What a relative difference may be.
    backends : dict of str to str
        The backends that were verified, and why the others were not.
    lines : list of Line
    failures : list of Failure
    seconds : float
    complete : bool
        False if it was stopped before its end.
    """

    grid: str
    rtol: float
    backends: Dict[str, str]
    lines: List[Line] = dataclasses.field(default_factory=list)
    failures: List[Failure] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    complete: bool = False

    @property
    def good(self) -> bool:
        """Whether every run gave what it must."""
        return not self.failures


class _Run(NamedTuple):
    backend: str
    arrays: str
    case: Case


def _runs(names: Sequence[str], grid: str) -> Iterator[_Run]:
    cases: List[Case] = [
        case for kind, dims in KINDS.items() for n in dims for case in cases_of(kind, n, grid)
    ]
    for backend in names:
        for case in cases:
            if backend != 'native' or _native_serves(case):
                for arrays in ARRAY_KINDS:
                    yield _Run(backend, arrays, case)


def _native_serves(case: Case) -> bool:
    layer = case.build(nn)
    op = getattr(layer, 'op', 'pooling')
    return not backends.obstacle(op, layer._arguments, 'float32', 'cpu')


def verify(
    grid: str = 'quick',
    backend: Optional[str] = None,
    rtol: float = TOLERANCE,
    started: Callable[[int], Any] = lambda total: None,
    done: Callable[[str], Any] = lambda name: None,
) -> Verification:
    """Compare our layers with the built-in ones on this machine.

    Each case of the grid runs on each backend, with both kinds of arrays, imperatively and
    hybridized with static memory; the output and each gradient are compared.

    Parameters
    ----------
    grid : {'quick', 'full'}
    backend : {'native', 'portable'}, optional
        Only this one; by default all that are available.
    rtol : float
        How far a value may be off, as a share of the largest expected value of its array.
    started, done : callable
        For a progress bar: called with the number of steps, and after each step with its name.

    Returns
    -------
    Verification
        After Ctrl-C, with what was found until then.

    Raises
    ------
    ValueError
        If `grid` or `backend` is unknown, or that backend is not available.

    Examples
    --------
    >>> from gluon_convpool.testing.verification import verify
    >>> found = verify('quick')  # doctest: +SKIP
    >>> found.good, found.lines[0].kind, found.lines[0].worst['output'] < 1e-5  # doctest: +SKIP
    (True, 'convolution', True)
    """
    geometry.choice('verify', 'grid', grid, GRIDS)
    if backend is not None:
        geometry.choice('verify', 'backend', backend, BACKENDS)
    found = Verification(grid, rtol, available(backend))
    runs = list(_runs([name for name, reason in found.backends.items() if not reason], grid))
    lines: Dict[Any, Line] = {}
    seen = set()
    begin = time.perf_counter()
    started(len(runs))
    try:
        for run in runs:
            key = run.backend, run.case.kind
            line = lines.setdefault(key, Line(*key))
            if (run.backend, run.case) not in seen:
                seen.add((run.backend, run.case))
                line.cases += 1
                line.by_loops += not run.case.builtin_can_run
            for mode in MODES:
                _verify_one(run, mode, found, line)
            done(str(run.case))
        found.complete = True
    except KeyboardInterrupt:
        pass
    found.lines = list(lines.values())
    found.seconds = time.perf_counter() - begin
    return found


def available(backend: Optional[str] = None) -> Dict[str, str]:
    """Return the backends to verify, each with why it cannot be, or nothing.

    Raises
    ------
    ValueError
        If the one that is asked for is not available.
    """
    reasons = {}
    for name in BACKENDS if backend is None else (backend,):
        try:
            with backends.use_backend(name):
                reasons[name] = ''
        except ValueError as error:
            if backend is not None:
                raise
            reasons[name] = str(error)
    return reasons


def _verify_one(run: _Run, mode: str, found: Verification, line: Line) -> None:
    case = run.case
    head, expected = case.expected()
    line.runs += 1
    with backends.use_backend(run.backend), array_semantics(run.arrays):
        try:
            layer = case.build(nn)
            with empty_arrays(case.batch == 0):
                actual = measure(layer, case.x, head, mode)
            line.add(str(case), worst_differences(actual, expected))
            assert_same(actual, expected, found.rtol)
            return
        except ParityError as error:
            explanation = error.explanation
        except Exception as error:  # whatever the layer raises
            explanation = f'{type(error).__name__}: {str(error).strip().splitlines()[0]}'
        line.failed += 1
        program = Program(
            f'testing.assert_layers_match(layer, case, rtol={found.rtol!r}, modes={(mode,)!r})'
        )
        program.add('case', case)
        program.add_built('layer', case, nn)
        found.failures.append(
            Failure(run.backend, run.arrays, mode, str(case), explanation, program.text())
        )
