"""Whole networks: built-in layers replaced by ours and back, graphs made faster for inference."""

from __future__ import annotations

from .optimization import OptimizedModel, optimize
from .swapping import SwapReport, swap

__all__ = ['OptimizedModel', 'SwapReport', 'optimize', 'swap']
