"""Takes turns: every side runs a burst of calls, round after round, and medians are kept.

Whatever else the machine does slows all sides down alike, because their bursts are milliseconds
apart. A side whose arrays differ from those of MXNet's layer is not timed at all.
"""

from __future__ import annotations

import statistics
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import numpy

from . import machine
from .peers import PeerError
from .sides import BUILTIN, OURS, Side, difference_of, disagreement
from .suites import Layer

# Long enough that reading the clock and waking the threads are nothing beside it, and short enough
# that a disturbance which lasts hits all sides.
BURST_SECONDS = 0.03
# Threads that are out of work look for more for some milliseconds, in whichever process they are,
# and whoever computes meanwhile has fewer processors.
REST_SECONDS = 0.005
FEWEST_ROUNDS = 5
MOST_CALLS = 1000

Run = Callable[[int], float]


def calls_in_burst(run: Run, burst: Optional[float] = None) -> int:
    """Return how many calls make a burst of so many seconds; the second of two calls tells."""
    run(1)
    time.sleep(REST_SECONDS)
    seconds = BURST_SECONDS if burst is None else burst
    return max(1, min(MOST_CALLS, int(seconds / max(run(1), 1e-9))))


def alternate(
    runs: Mapping[str, Run], seconds: float, burst: Optional[float] = None
) -> Dict[str, Dict[str, Any]]:
    """Let each side run bursts in turn until the time is over.

    Parameters
    ----------
    runs : dict
        By name: a function that makes so many calls and returns the seconds that they took.
    seconds : float
        For all sides together; `FEWEST_ROUNDS` are made even if they take longer.
    burst : float, optional
        How long a burst takes; `BURST_SECONDS` by default.

    Returns
    -------
    dict of str to dict
        For each side `summary` of its times, or the 'reason' why it has none.
    """
    alive = dict(runs)
    outcome: Dict[str, Dict[str, Any]] = {}
    calls: Dict[str, int] = {}
    times: Dict[str, List[float]] = {name: [] for name in runs}

    def lost(name: str, error: PeerError) -> None:
        outcome[name] = {'reason': str(error)}
        del alive[name]

    for name, run in runs.items():
        try:
            calls[name] = calls_in_burst(run, burst)
        except PeerError as error:
            lost(name, error)
    end = time.perf_counter() + seconds
    rounds = 0
    while alive and (rounds < FEWEST_ROUNDS or time.perf_counter() < end):
        # Another side begins each round, so that no one is always the first.
        names = list(alive)
        first = rounds % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(REST_SECONDS)
            try:
                times[name].append(alive[name](calls[name]) / calls[name])
            except PeerError as error:
                lost(name, error)
        rounds += 1
    for name in alive:
        outcome[name] = summary(times[name], calls[name])
    return outcome


def summary(times: Sequence[float], calls: int) -> Dict[str, Any]:
    """Return median, quartiles and least of the seconds of a call, over rounds of `calls`."""
    low, high = (float(value) for value in numpy.percentile(times, [25, 75]))
    return {
        'median': statistics.median(times),
        'quartiles': [low, high],
        'least': min(times),
        'rounds': len(times),
        'calls': calls,
    }


def no_pass(which: str) -> str:
    """Say that a side does not do a pass at all, as inference runtimes have no gradients."""
    return f'has no {which} pass'


def measure_pass(which: str, sides: Sequence[Side], seconds: float) -> Dict[str, Dict[str, Any]]:
    """Compare what the sides give in one pass, and time those that give the same.

    Returns
    -------
    dict of str to dict
        By side: its times (see `summary`) and 'difference', by array the largest one from MXNet's
        layer as a share of the largest value; or a 'reason', and 'wrong': True where that is the
        numbers.
    """
    expected = next(side for side in sides if side.name == BUILTIN).results[which]
    entries: Dict[str, Dict[str, Any]] = {}
    runs: Dict[str, Run] = {}
    for side in sides:
        if side.obstacle:
            entries[side.name] = {'reason': side.obstacle}
            continue
        if which not in side.results:
            entries[side.name] = {'reason': no_pass(which)}
            continue
        actual = side.results[which]
        wrong = disagreement(actual, expected)
        if wrong:
            entries[side.name] = {'reason': wrong, 'wrong': True}
            continue
        entries[side.name] = {
            'difference': {
                name: difference_of(actual[name], expected[name])
                / max(float(numpy.abs(expected[name]).max()), 1e-30)
                for name in expected
            }
        }
        runs[side.name] = lambda calls, side=side: side.run(which, calls)  # type: ignore[misc]
    for name, outcome in alternate(runs, seconds).items():
        entries[name].update(outcome)
    return entries


def measure_layer(
    layer: Layer,
    sides: Sequence[Side],
    passes: Sequence[str],
    seconds: float,
    after_pass: Callable[[], Any] = lambda: None,
) -> Dict[str, Any]:
    """Measure one layer.

    Parameters
    ----------
    layer : Layer
    sides : sequence of Side
        MXNet's among them, with whose numbers the others are compared.
    passes : sequence of str
        Of `suites.PASSES`.
    seconds : float
        For all passes and sides together.
    after_pass : callable
        For a progress bar.

    Returns
    -------
    dict
        The layer's description, its operations and bytes, the algorithms that serve it, and by
        pass and side what `measure_pass` gives.
    """
    record = layer.describe()
    record['title'] = layer.title
    record['algorithms'] = {name: machine.algorithm_of(layer, name) for name in machine.PASSES}
    record['passes'] = {}
    for which in passes:
        record['passes'][which] = {
            'operations': layer.operations(which),
            'bytes': layer.bytes_moved(which),
            'sides': measure_pass(which, sides, seconds / len(passes)),
        }
        after_pass()
    return record


def ours_is_wrong(record: Dict[str, Any]) -> bool:
    """Say whether our layer gave other numbers than MXNet's, by any algorithm."""
    return any(
        entry.get('wrong')
        for one in record['passes'].values()
        for name, entry in one['sides'].items()
        if name.split(':')[0] == OURS
    )
