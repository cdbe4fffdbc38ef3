"""Threads and forked processes: each test runs alone, so that a hang or a crash is a failure."""

from __future__ import annotations

import pytest
from isolated import run

from gluon_convpool.testing.plugin import require_native

BACKENDS = ('native', 'portable')

NETWORKS = """
    import gluon_convpool
    from gluon_convpool import nn
    import mxnet as mx
    import numpy as np
    from gluon_convpool.testing import assert_close, assert_same, measure

    def network(width, kernel):
        net = nn.HybridSequential()
        net.add(
            nn.Conv2D(width, kernel, padding=1, activation="relu", in_channels=3),
            nn.MaxPool2D(3, 2),
            nn.Conv2D(width, 1, in_channels=width, groups=2),
            nn.AvgPool2D(2, padding=1),
        )
        net.initialize(mx.init.Normal(0.3))
        return net

    def problem(seed, size, width, kernel):
        draw = np.random.RandomState(seed)
        net = network(width, kernel)
        x = draw.normal(size=size).astype("float32")
        head = draw.normal(size=net(mx.nd.array(x)).shape).astype("float32")
        return net, x, head, measure(net, x, head)
"""


@pytest.fixture(params=BACKENDS)
def backend_name(request):
    if request.param == 'native':
        require_native()
    return request.param


def test_python_threads_running_different_networks(backend_name):
    run(
        NETWORKS
        + """
    import threading
    problems = [problem(0, (4, 3, 15, 17), 8, 3), problem(1, (2, 3, 23, 9), 14, 2)]
    failures, rounds = [], []

    def work(net, x, head, expected):
        try:
            for _ in range(20):
                assert_same(measure(net, x, head), expected)
                rounds.append(net)
        except BaseException as error:
            failures.append(error)

    for threads in (1, 2):
        gluon_convpool.set_num_threads(threads)
        workers = [threading.Thread(target=work, args=one) for one in problems]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not failures, failures
    assert len(rounds) == 80
    """,
        GLUON_CONVPOOL_BACKEND=backend_name,
    )


def test_data_loader_whose_workers_run_a_layer_after_the_parent_did(backend_name):
    """First with forked workers, then with threads."""
    run(
        NETWORKS
        + """
    from mxnet import gluon
    gluon_convpool.set_num_threads(2)
    net, x, head, expected = problem(0, (12, 3, 15, 17), 8, 3)

    def transform(image):
        return net(image.expand_dims(0))[0]

    dataset = gluon.data.SimpleDataset([mx.nd.array(image) for image in x]).transform(transform)
    for thread_pool in (False, False, True, True):
        loader = gluon.data.DataLoader(
            dataset, 4, num_workers=2, thread_pool=thread_pool, timeout=60
        )
        batches = [batch.asnumpy() for batch in loader]
        assert_close("output", np.concatenate(batches), expected["output"])
        assert_same(measure(net, x, head), expected)
    """,
        timeout=150,
        GLUON_CONVPOOL_BACKEND=backend_name,
    )


def test_forked_child_computes_while_the_parent_goes_on(backend_name):
    run(
        NETWORKS
        + """
    import os
    gluon_convpool.set_num_threads(2)
    net, x, head, expected = problem(0, (8, 3, 15, 17), 8, 3)
    for _ in range(3):
        mx.nd.waitall()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert_same(measure(net, x, head), expected)
                code = 0
            finally:
                os._exit(code)
        assert_same(measure(net, x, head), expected)
        assert os.waitpid(child, 0)[1] == 0
    """,
        GLUON_CONVPOOL_BACKEND=backend_name,
    )


def test_spawned_child_imports_the_package_anew():
    run(
        NETWORKS
        + """
    import subprocess, sys
    net, x, head, expected = problem(0, (8, 3, 15, 17), 8, 3)
    code = (
        "import gluon_convpool, mxnet as mx;"
        "y = gluon_convpool.functional.pooling(mx.nd.ones((1, 1, 2, 2)), mode='sum');"
        "print(y.asnumpy().sum())"
    )
    assert subprocess.check_output([sys.executable, "-c", code], timeout=60).strip() == b"4.0"
    """
    )


def test_interpreter_ends_cleanly_with_work_in_flight(backend_name):
    run(
        NETWORKS
        + """
    net = network(8, 3)
    x = mx.nd.ones((16, 3, 64, 64))
    for _ in range(20):
        y = net(x)
    """,
        GLUON_CONVPOOL_BACKEND=backend_name,
    )


DIGESTS = """
    import hashlib
    import gluon_convpool, mxnet as mx
    from gluon_convpool import nn
    from gluon_convpool.testing import measure
    import numpy as np

    def conv(channels, kernel, algorithm, inputs, **more):
        return nn.Conv2D(
            channels, kernel, algorithm=algorithm, padding="same", in_channels=inputs, **more
        )

    layers = {
        "winograd 3x3": (conv(48, 3, "winograd", 40), (3, 40, 57, 50)),
        "winograd 5x5": (conv(64, 5, "winograd", 48), (2, 48, 35, 35)),
        "winograd, few positions": (conv(256, 3, "winograd", 256), (2, 256, 7, 7)),
        "depthwise": (conv(64, 3, "depthwise", 64, groups=64), (4, 64, 56, 56)),
        "implicit gemm": (conv(48, 3, "implicit_gemm", 40), (3, 40, 57, 50)),
        "implicit gemm, small planes": (conv(200, 3, "implicit_gemm", 90), (33, 90, 5, 5)),
        "few outputs": (conv(2, 3, "implicit_gemm", 64), (2, 64, 90, 70)),
        "pointwise": (conv(96, 1, "implicit_gemm", 128), (3, 128, 28, 28)),
        "max pooling": (nn.MaxPool2D(3, 2, 1), (4, 64, 57, 57)),
        "average pooling": (nn.AvgPool2D(3, 2, 1), (4, 64, 57, 57)),
    }
    for name, (layer, shape) in layers.items():
        draw = np.random.RandomState(0)
        layer.initialize()
        for parameter in layer.collect_params().values():
            parameter.set_data(mx.nd.array(draw.normal(size=parameter.shape)))
        x = draw.normal(size=shape).astype("float32")
        head = draw.normal(size=layer(mx.nd.array(x)).shape).astype("float32")
        for array, values in sorted(measure(layer, x, head).items()):
            print(name + ":", array, hashlib.sha256(values.tobytes()).hexdigest())
"""


def test_the_same_bits_in_every_process_and_for_any_number_of_threads(needs_native):
    """The addresses of the arrays differ, too."""
    first, second, threads = (
        run(DIGESTS, GLUON_CONVPOOL_BACKEND='native', OMP_NUM_THREADS=n).splitlines()
        for n in (1, 1, 2)
    )
    assert len(set(first)) == 8 * 4 + 2 * 2
    assert second == first
    assert threads == first


def test_threads_that_a_large_copy_left_waiting_end_with_the_next_layer():
    """What oneDNN has rearranged is put in order by the thread that asks for it."""
    require_native()
    run(
        """
    import ctypes, os
    import gluon_convpool
    import mxnet as mx
    from gluon_convpool import nn

    def threads():
        return len(os.listdir("/proc/self/task"))

    layers = [module.Conv2D(64, 3, padding=1, in_channels=64) for module in (nn, mx.gluon.nn)]
    x = mx.nd.ones((4, 64, 32, 32))
    for layer in layers:
        layer.initialize()
        layer(x).wait_to_read()
    ours, builtin = layers
    y = builtin(x)
    y.wait_to_read()
    before = threads()
    y.asnumpy()
    assert threads() > before
    ours(x).wait_to_read()
    can_end = hasattr(ctypes.CDLL(gluon_convpool._mxnet.LIBRARY), "omp_pause_resource_all")
    assert threads() == (before if can_end else before + 1)

    y = builtin(x)
    y.asnumpy()
    child = os.fork()
    if child == 0:
        gluon_convpool._mxnet.release_threads()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    """,
        OMP_NUM_THREADS='2',
    )
