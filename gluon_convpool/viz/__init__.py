"""Pictures of what convolution and pooling do, drawn with Matplotlib (the extra ``viz``).

Nothing is shown or written unasked: every function returns what it drew. All pictures can be read
in black and white.
"""

from __future__ import annotations

try:
    import matplotlib as _matplotlib  # noqa: F401
except ImportError as _error:
    raise ImportError(
        'gluon_convpool.viz draws with Matplotlib, which is not installed: pip install'
        " 'gluon_convpool[viz]'"
    ) from _error

from .explain_corr2d import explain_corr2d
from .explain_pool2d import explain_pool2d
from .sliding_window import SlidingWindow

__all__ = ['SlidingWindow', 'explain_corr2d', 'explain_pool2d']
