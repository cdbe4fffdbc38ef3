"""Networks of the package gluoncv, one or two of each kind, swapped and optimized."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from models_common import data, difference, flat, moved_by_rounding, with_small_branches

from gluon_convpool import optimize, swap
from gluon_convpool.bench.networks import FEWEST_FOR_STATISTICS

gluoncv = pytest.importorskip(
    'gluoncv', reason='gluoncv is not installed: make test-models installs it'
)
from gluoncv import model_zoo  # noqa: E402

pytestmark = [pytest.mark.networks, pytest.mark.usefixtures('native', 'nd_arrays')]

CLASSIFICATION = {
    'resnet18_v1b': (67, 75),
    'resnet50_v1d': (67, 75),
    'resnext50_32x4d': (67, 75),
    'se_resnext50_32x4d': (67, 75),
    'mobilenetv3_small': (67, 75),
    'xception': (131, 135),
    'googlenet': (227, 231),
}
SEGMENTATION = {
    'fcn_resnet50_voc': (96, 96),
    'psp_resnet50_ade': (96, 96),
    'deeplab_resnet50_ade': (96, 96),
}
DETECTION = {
    'ssd_512_mobilenet1.0_voc': (128, 160),
    'yolo3_mobilenet1.0_voc': (128, 160),
    'center_net_resnet18_v1b_voc': (128, 160),
}


# Which of the outputs are compared, where not all: classes whose scores nearly tie change places.
COMPARED = {'center_net_resnet18_v1b_voc': slice(1, 2)}


def start(net, x):
    """Give a network weights, and the statistics of images like `x` but of no fewer than 8.

    A batch norm behind a global pooling sees one value of each image. Of two images, some of its
    channels would hardly vary, and dividing by that magnifies rounding.
    """
    return with_small_branches(net, data(max(len(x), FEWEST_FOR_STATISTICS), *x.shape[1:]))


def agree(net, x, tolerance=1e-4, compared=slice(None)):
    """Swapped and optimized, the network gives what it gave, but for what it magnifies itself."""
    expected = flat(net(x))[compared]
    swapped, fast = swap(net, inplace=False), optimize(net)
    assert swapped.replaced
    ours = [flat(model(x))[compared] for model in (swapped.net, fast)]
    found = [[difference(*pair) for pair in zip(outputs, expected)] for outputs in ours]
    if np.max(found) <= tolerance:
        return
    # Both are rounded, and the network may magnify that.
    moved = moved_by_rounding(lambda x: flat(net(x))[compared], x)
    assert (np.max(found, axis=0) <= np.maximum(tolerance, 2 * moved)).all()


@pytest.mark.parametrize('name', CLASSIFICATION)
def test_classification(name):
    x = data(3, 3, *CLASSIFICATION[name])
    agree(start(model_zoo.get_model(name, classes=10), x), x)


@pytest.mark.parametrize('name', SEGMENTATION)
def test_segmentation(name):
    x = data(2, 3, *SEGMENTATION[name])
    net = model_zoo.get_model(name, pretrained_base=False, crop_size=x.shape[2])
    agree(start(net, x), x)


@pytest.mark.parametrize('name', DETECTION)
def test_detection(name):
    x = data(2, 3, *DETECTION[name])
    net = model_zoo.get_model(name, pretrained_base=False)
    if hasattr(net, 'set_nms'):
        net.set_nms(nms_thresh=0, post_nms=-1)  # boxes that nearly tie may change places
    mx.random.seed(0)
    agree(start(net, x), x, compared=COMPARED.get(name, slice(None)))
