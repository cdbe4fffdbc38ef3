"""Nothing is kept: after many calls the process is as large as it was after a few.

And no call takes much: beside its arrays a forward pass has at most twice as many bytes as they
have, and at most 64 MiB a thread.
"""

from __future__ import annotations

import pytest
from isolated import run
from test_kernels import AUTO, CHANNELS_LAST, DEPTHWISE, IMPLICIT_GEMM, ONE, WINOGRAD

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


def forward(
    algorithm, channels, size, kernel, stride=ONE, batch=1, groups=1, dilation=ONE, layout=0
):
    pad = tuple(k // 2 * d for k, d in zip(kernel, dilation))
    return (algorithm, layout, (batch, *channels, groups, size, kernel, stride, dilation, pad))


# All arrays of a case together, several MiB, are large beside what stays in cache anyway.
FORWARD = {
    'Winograd, taps transformed first': forward(WINOGRAD, (64, 64), (56, 56), (3, 3), batch=8),
    'Winograd, taps on the spot': forward(WINOGRAD, (256, 256), (14, 14), (3, 3), batch=8),
    'Winograd, few positions': forward(WINOGRAD, (512, 512), (7, 7), (3, 3), batch=8),
    'Winograd, many positions': forward(WINOGRAD, (64, 64), (224, 224), (3, 3)),
    'Winograd, many of both': forward(WINOGRAD, (1024, 1024), (28, 28), (3, 3), batch=4),
    'Winograd, 5x5': forward(WINOGRAD, (48, 64), (70, 70), (5, 5)),
    'Winograd, 1x7': forward(WINOGRAD, (192, 192), (17, 17), (1, 7), batch=8),
    'Winograd, stem': forward(WINOGRAD, (3, 64), (224, 224), (7, 7), (2, 2)),
    'Winograd, parts of channels': forward(WINOGRAD, (256, 256), (28, 28), (3, 3), (2, 2), batch=8),
    'Winograd, channels last': forward(
        WINOGRAD, (64, 64), (56, 56), (3, 3), batch=8, layout=CHANNELS_LAST
    ),
    'pointwise': forward(AUTO, (64, 256), (56, 56), (1, 1)),
    'pointwise, small planes': forward(AUTO, (512, 2048), (7, 7), (1, 1), batch=8),
    'pointwise with a stride': forward(AUTO, (256, 512), (56, 56), (1, 1), (2, 2)),
    'depthwise': forward(DEPTHWISE, (64, 64), (112, 112), (3, 3), batch=4, groups=64),
    'depthwise with a stride': forward(
        DEPTHWISE, (64, 64), (112, 112), (5, 5), (2, 2), batch=4, groups=64
    ),
    'depthwise, channels last': forward(
        DEPTHWISE, (6, 6), (112, 112), (3, 3), batch=8, groups=6, layout=CHANNELS_LAST
    ),
    'implicit GEMM': forward(IMPLICIT_GEMM, (64, 64), (224, 224), (3, 3)),
    'implicit GEMM with a stride': forward(
        IMPLICIT_GEMM, (64, 128), (56, 56), (3, 3), (2, 2), batch=8
    ),
    'implicit GEMM, dilated': forward(IMPLICIT_GEMM, (256, 256), (28, 28), (3, 3), dilation=(2, 2)),
    'implicit GEMM, grouped': forward(IMPLICIT_GEMM, (512, 512), (28, 28), (3, 3), groups=32),
    'implicit GEMM, small planes': forward(IMPLICIT_GEMM, (256, 256), (5, 5), (3, 3), batch=33),
    'implicit GEMM, few outputs': forward(IMPLICIT_GEMM, (64, 4), (256, 256), (7, 7)),
    'implicit GEMM, channels last': forward(
        IMPLICIT_GEMM, (64, 128), (56, 56), (3, 3), (2, 2), batch=8, layout=CHANNELS_LAST
    ),
}

# A forked process begins with the size of its parent as its largest one.
MEASURE = """
    import ctypes, os, pathlib, resource
    import gluon_convpool, mxnet
    import numpy as np
    from test_kernels import convolution_problem, pointer

    path = pathlib.Path(gluon_convpool.__file__).parent / "libconvpool.so"
    library = ctypes.CDLL(str(path))
    library.convpool_set_num_threads(1)

    def largest():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def measure(algorithm, layout, case):
        batch, inputs, outputs, groups, size, kernel = case[:6]
        problem = convolution_problem(case, algorithm)
        problem.layout = layout
        x = np.ones((batch, inputs, *size), "float32")
        weight = np.ones((outputs, inputs // groups, *kernel), "float32")
        y = np.ones((batch, outputs, *problem.window.out_size[:2]), "float32")
        before = largest()
        status = library.convpool_convolution_forward(
            ctypes.byref(problem), pointer(x), pointer(weight), None, pointer(y)
        )
        assert status == 0
        print(largest() - before, x.nbytes + weight.nbytes + y.nbytes, flush=True)

    for case in CASES:
        child = os.fork()
        if child == 0:
            measure(*case)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
"""


@pytest.fixture(scope='module')
def taken(needs_native):
    """Name to the bytes that a forward pass takes beside its arrays, and to those of its arrays."""
    printed = run(MEASURE.replace('CASES', repr(list(FORWARD.values()))), OMP_NUM_THREADS=1)
    return dict(zip(FORWARD, ([int(n) for n in line.split()] for line in printed.splitlines())))


@pytest.mark.parametrize('name', FORWARD)
def test_a_forward_pass_takes_at_most_twice_its_arrays(taken, name):
    beside, arrays = taken[name]
    first_read = 2**20  # of code, and buffers that stay in cache
    assert beside <= min(2 * arrays, 64 * 2**20) + first_read, (
        '%.1f MiB beside %.1f MiB of arrays' % (beside / 2**20, arrays / 2**20)
    )
