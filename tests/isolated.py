"""Run a piece of Python in a process of its own, where a hang or a crash is a failed test."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap

import gluon_convpool

TESTS = pathlib.Path(__file__).parent
PATHS = (str(pathlib.Path(gluon_convpool.__file__).parents[1]), str(TESTS))


def run(code, timeout=120, **environment):
    """What the code prints; it must end by itself, without error, within `timeout` seconds.

    Environment variables given as None are removed.
    """
    outcome = attempt(code, timeout, **environment)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome.stdout


def attempt(code, timeout=120, **environment):
    """The finished process, however it ended within `timeout` seconds."""
    variables = dict(os.environ, PYTHONPATH=os.pathsep.join(PATHS))
    for name, value in environment.items():
        variables.pop(name, None)
        if value is not None:
            variables[name] = str(value)
    return subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=variables,
        cwd=str(TESTS),
    )
