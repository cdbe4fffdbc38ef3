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
from .feature_maps import draw_feature_maps
from .filters import draw_filters
from .receptive_field import LayerField, receptive_field, receptive_fields
from .roofline import Measurement, Roof, measure_roof, roofline
from .sliding_window import SlidingWindow
from .training import draw_confusion, draw_curves, draw_misread

__all__ = [
    'LayerField',
    'Measurement',
    'Roof',
    'SlidingWindow',
    'draw_confusion',
    'draw_curves',
    'draw_feature_maps',
    'draw_filters',
    'draw_misread',
    'explain_corr2d',
    'explain_pool2d',
    'measure_roof',
    'receptive_field',
    'receptive_fields',
    'roofline',
]
