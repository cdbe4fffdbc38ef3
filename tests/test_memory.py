"""Nothing is kept: after many calls the process is as large as it was after a few."""

from __future__ import annotations

import pytest
from isolated import run

from gluon_convpool.testing.plugin import require_native

MARGIN_MIB = 4

CALLS = """
    import gluon_convpool, mxnet as mx
    from gluon_convpool import functional, nn, Pool2D
    from mxnet import autograd
    import numpy as np

    def resident():
        mx.nd.waitall()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 2**20

    draw = np.random.RandomState(0)
    shapes = []
    for _ in range(25):
        n, c, o = draw.randint(1, 4), draw.randint(1, 33), draw.randint(1, 33)
        h, w, k = draw.randint(4, 30), draw.randint(4, 30), draw.randint(1, 3)
        shapes.append(((n, c, h, w), (o, c, k, k)))
    inputs = []
    for x, weight in shapes:
        pair = mx.nd.random.normal(shape=x), mx.nd.random.normal(shape=weight)
        for array in pair:
            array.attach_grad()
        inputs.append(pair)
"""


@pytest.mark.parametrize('backend_name', ['native', 'portable'])
def test_ten_thousand_calls_of_varying_shapes(backend_name):
    """As large at the end as after the first thousand; every fourth call runs backwards too."""
    if backend_name == 'native':
        require_native()
    printed = run(
        CALLS
        + """
    for i in range(10000):
        x, weight = inputs[draw.randint(len(inputs))]
        backwards = draw.randint(4) == 0
        with autograd.record() if backwards else autograd.pause():
            if i % 2:
                y = functional.convolution(x, weight, padding=1)
            else:
                y = functional.pooling(x, 2, mode=draw.choice(["max", "avg", "sum", "lp"]))
        if backwards:
            y.backward()
        if i % 50 == 0:
            mx.nd.waitall()
        if i + 1 == 1000:
            early = resident()
    print(early, resident())
    """,
        timeout=300,
        GLUON_CONVPOOL_BACKEND=backend_name,
    )
    early, late = map(float, printed.split())
    assert late - early <= MARGIN_MIB, 'grew from %.1f to %.1f MiB' % (early, late)


def test_layers_made_and_dropped(native):
    printed = run(
        CALLS
        + """
    for i in range(400):
        layer = nn.Conv2D(4, 3, padding=1, in_channels=3)
        layer.initialize()
        layer.hybridize()
        with autograd.record():
            y = layer(mx.nd.ones((2, 3, 5 + i % 7, 9)))
        y.backward()
        if i + 1 == 100:
            early = resident()
    print(early, resident())
    """
    )
    early, late = map(float, printed.split())
    assert late - early <= MARGIN_MIB, 'grew from %.1f to %.1f MiB' % (early, late)


def test_peak_memory_holds_no_im2col_matrix(native):
    """A 7x7 kernel on 64 channels would need 3136 rows of 256 x 256 positions, 0.8 GiB."""
    printed = run(
        """
    import resource
    import gluon_convpool, mxnet as mx
    from gluon_convpool import functional
    from mxnet import autograd
    x, weight = mx.nd.ones((1, 64, 256, 256)), mx.nd.ones((4, 64, 7, 7))
    for array in (x, weight):
        array.attach_grad()
    mx.nd.waitall()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with autograd.record():
        y = functional.convolution(x, weight, padding=3)
    y.backward()
    mx.nd.waitall()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    """
    )
    assert float(printed) < 150
