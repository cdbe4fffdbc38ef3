"""Whole networks: built-in layers replaced by ours and back, graphs made faster for inference.

=============  ===================================================================
swapping       layers of Gluon networks
graph          a graph of operators that can be taken apart
operators      MXNet's operators as the rules know them
shapes         shapes in a graph whose input sizes are unknown
dtypes         types in a graph, from those of its parameters
rules          the rewrites, one by one
files          models as MXNet stores them, and what is wrong with a file
stored_arrays  files of arrays, walked without loading them
tracing        from a Gluon network to its graph
optimization   all of these together: a model for inference
=============  ===================================================================
"""

from __future__ import annotations

from .files import ModelError
from .optimization import Agreement, OptimizationReport, OptimizedModel, optimize
from .swapping import SwapReport, swap

__all__ = [
    'Agreement',
    'ModelError',
    'OptimizationReport',
    'OptimizedModel',
    'SwapReport',
    'optimize',
    'swap',
]
