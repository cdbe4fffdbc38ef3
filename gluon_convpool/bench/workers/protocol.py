"""The worker's side of the conversation with the benchmark: one line of JSON each way.

The benchmark asks and the worker answers, and in between the worker sleeps::

    {"do": "load", "layer": {...}, "arrays": FILE, "outputs": FILE}
        builds the layer, or reads the network whose 'file' is named in its place, runs each pass
        once, and saves the results as PASS/ARRAY
        -> {"passes": [...]}  or {"unsupported": REASON}
    {"do": "run", "pass": "forward", "calls": 20}
        -> {"seconds": 0.031}
    {"do": "quit"}

The worker begins with {"version": ...}. Any answer may be {"error": SENTENCE} instead.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, Callable, Dict, NamedTuple

import numpy


class Unsupported(Exception):
    """Why the peer cannot do a layer."""


class Problem(NamedTuple):
    """A layer and its arrays: 'x', 'head' (the gradient of the output), 'weight' and 'bias'."""

    layer: Dict[str, Any]
    arrays: Dict[str, numpy.ndarray]
    threads: int


class Pass(NamedTuple):
    """One pass of a layer: `call` runs it to its end, `results` gives the arrays of the last call.

    'output' is what a forward pass gives; the gradients are called like the arrays they belong to.
    """

    call: Callable[[], Any]
    results: Callable[[], Dict[str, numpy.ndarray]]


Load = Callable[[Problem], Dict[str, Pass]]

LONGEST_ERROR = 200  # characters; some libraries write pages
# How long to wait for threads that go on spinning after the work is done.
LONGEST_REST = 0.25
REST_STEP = 0.002


def rest() -> None:
    """Wait until no thread of this process spins any more, so that the others have the processor.

    Runtimes let their threads spin for a while after a call, which makes the next call start
    sooner. That is theirs to decide, and it is not switched off; but the burst of another side must
    not begin before it has ended.
    """
    end = time.perf_counter() + LONGEST_REST
    while time.perf_counter() < end:
        begin, used = time.perf_counter(), time.process_time()
        time.sleep(REST_STEP)
        if time.process_time() - used < 0.1 * (time.perf_counter() - begin):
            return


def timed(call: Callable[[], Any], calls: int) -> float:
    """Return the seconds that `calls` calls take, after one more that wakes threads and caches.

    A single call is one that takes so long that waking is nothing to it.
    """
    if calls > 1:
        call()
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    seconds = time.perf_counter() - begin
    rest()
    return seconds


def serve(version: str, load: Load) -> None:
    """Answer the benchmark until it says quit or closes the pipe.

    The thread count is the script's one argument.
    """
    # What libraries print must not come between the answers: it goes to the error stream.
    answers = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + '\n')
        answers.flush()

    threads = int(sys.argv[1])
    passes: Dict[str, Pass] = {}
    answer(version=version)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            if question['do'] == 'quit':
                return
            if question['do'] == 'load':
                passes.clear()  # frees the layer before
                with numpy.load(question['arrays']) as file:
                    arrays = {name: file[name] for name in file.files}
                passes.update(load(Problem(question['layer'], arrays, threads)))
                results = {}
                for name, one in passes.items():
                    one.call()
                    for array, value in one.results().items():
                        results[f'{name}/{array}'] = value
                numpy.savez(question['outputs'], **results)
                rest()
                answer(passes=list(passes))
            else:
                answer(seconds=timed(passes[question['pass']].call, question['calls']))
        except Unsupported as reason:
            answer(unsupported=str(reason))
        except Exception as error:
            answer(error=' '.join(f'{type(error).__name__}: {error}'.split())[:LONGEST_ERROR])
