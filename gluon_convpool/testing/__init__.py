"""The parity harness: does a layer give what it must give, the output and every gradient?

It is what this package's own tests call, and it serves layers of others as well; docs/TESTING.md
shows how. The pytest plugin is `gluon_convpool.testing.plugin`. Nothing here needs pytest but that
plugin and `parity_cases`.
"""

from __future__ import annotations

from . import reference
from .arrays import array_kind, array_semantics, draw, empty_arrays
from .cases import BUILTIN, ConvolutionCase, ConvolutionTransposeCase, PoolingCase
from .comparison import (
    TOLERANCE,
    Difference,
    ParityError,
    assert_close,
    assert_same,
    find_difference,
    relative_difference,
)
from .grid import parity_cases
from .measurement import MODES, copy_parameters, measure, parameters, set_mode
from .numeric import assert_gradients_numeric
from .parity import assert_layers_match

__all__ = [
    'BUILTIN',
    'MODES',
    'TOLERANCE',
    'ConvolutionCase',
    'ConvolutionTransposeCase',
    'Difference',
    'ParityError',
    'PoolingCase',
    'array_kind',
    'array_semantics',
    'assert_close',
    'assert_gradients_numeric',
    'assert_layers_match',
    'assert_same',
    'copy_parameters',
    'draw',
    'empty_arrays',
    'find_difference',
    'measure',
    'parameters',
    'parity_cases',
    'reference',
    'relative_difference',
    'set_mode',
]
