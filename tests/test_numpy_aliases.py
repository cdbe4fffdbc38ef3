"""Importing the package makes MXNet importable beside any NumPy, and touches nothing else."""

from __future__ import annotations

import json

import numpy as np
import pytest
from isolated import attempt, run

# What MXNet 1.9.1 reads from NumPy while it is imported and some NumPy no longer has.
NEEDED = [
    'bool',
    'int',
    'float',
    'object',
    'float_',
    'NAN',
    'NaN',
    'Inf',
    'PINF',
    'NINF',
    'infty',
    'Infinity',
    'PZERO',
    'NZERO',
    'product',
    'cumproduct',
    'sometrue',
    'alltrue',
    'round_',
    'in1d',
    'trapz',
    'msort',
    'mirr',
    'npv',
    'pmt',
    'ppmt',
    'pv',
    'rate',
]

AFTER_THE_IMPORT = """
    import warnings
    warnings.simplefilter("ignore")
    import json
    import numpy
    import numpy as np
    before = dict(vars(numpy))
    import gluon_convpool
    import mxnet
    after = dict(vars(numpy))
    added = set(after) - set(before)
    wrong = []

    def holds(name, test):
        if hasattr(np, name) and not test(getattr(np, name)):
            wrong.append(name)

    for name in ("bool", "int", "float", "object"):
        holds(name, lambda v: np.dtype(v) == np.dtype(getattr(__import__("builtins"), name)))
    for name in ("NAN", "NaN"):
        holds(name, np.isnan)
    for name in ("Inf", "PINF", "infty", "Infinity"):
        holds(name, lambda v: v == np.inf)
    holds("NINF", lambda v: v == -np.inf)
    holds("PZERO", lambda v: v == 0 and not np.signbit(v))
    holds("NZERO", lambda v: v == 0 and np.signbit(v))
    holds("float_", lambda v: v is np.float64)
    holds("product", lambda v: v([2, 3]) == 6)
    holds("cumproduct", lambda v: list(v([2, 3])) == [2, 6])
    holds("sometrue", lambda v: v([0, 1]))
    holds("alltrue", lambda v: not v([0, 1]))
    holds("round_", lambda v: v(2.7) == 3)
    holds("in1d", lambda v: list(v([1, 2], [2])) == [False, True])
    holds("trapz", lambda v: v([1, 1, 1]) == 2)
    holds("msort", lambda v: list(v([3, 1])) == [1, 3])
    print(json.dumps({
        "sum": float(mxnet.np.ones(3).sum()),
        "added": [name for name in added if type(after[name]) is not type(numpy)],
        "changed": [name for name in before if after[name] is not before[name]],
        "wrong": wrong,
    }))
"""


@pytest.fixture(scope='module')
def after_the_import():
    """What NumPy and MXNet are like in a process that has imported the package."""
    return json.loads(run(AFTER_THE_IMPORT))


def test_mxnet_can_be_imported_afterwards(after_the_import):
    assert after_the_import['sum'] == 3.0


def test_only_missing_names_are_added(after_the_import):
    assert set(after_the_import['added']) <= set(NEEDED)


def test_names_that_were_there_are_left_alone(after_the_import):
    assert after_the_import['changed'] == []


def test_values_are_what_numpy_meant_by_them(after_the_import):
    assert after_the_import['wrong'] == []


def test_names_that_somebody_else_put_there_stay():
    run(
        """
        import numpy
        mark = numpy.float64
        numpy.bool = numpy.NINF = mark
        import gluon_convpool
        assert numpy.bool is mark and numpy.NINF is mark
        """
    )


MXNET_FIRST = """
    import warnings
    warnings.simplefilter("ignore")
    import numpy
    try:
        import mxnet
    except AttributeError:
        print("failed")
    else:
        print("imported")
    import gluon_convpool
    print(gluon_convpool.functional.pooling(gluon_convpool.nn.Dense and
          __import__("mxnet").nd.ones((1, 1, 2, 2))).asnumpy().tolist())
"""


def test_mxnet_imported_first_works_or_says_to_swap_the_lines():
    """With an old NumPy the order does not matter; with a new one the message names the order."""
    outcome = attempt(MXNET_FIRST)
    if outcome.stdout.startswith('imported'):
        assert outcome.returncode == 0 and '[[[[1.0]]]]' in outcome.stdout, outcome.stderr
        return
    assert outcome.stdout.strip() == 'failed'
    last = outcome.stderr.strip().splitlines()[-1]
    assert last.startswith('ImportError')
    assert 'gluon_convpool' in last and 'mxnet' in last and 'swap' in last and 'first' in last


@pytest.mark.skipif(
    tuple(map(int, np.__version__.split('.')[:2])) < (1, 24),
    reason='this NumPy has every name that MXNet needs',
)
def test_mxnet_imported_first_after_the_names_were_put_back_by_hand():
    run(
        """
        import numpy
        for name, value in {"bool": bool, "int": int, "float": float, "object": object}.items():
            setattr(numpy, name, value)
        try:
            import mxnet
        except AttributeError:
            raise SystemExit(0)  # NumPy 2 lacks more than these
        import gluon_convpool
        assert gluon_convpool.functional.pooling(mxnet.nd.ones((1, 1, 2, 2))).shape == (1, 1, 1, 1)
        """
    )
