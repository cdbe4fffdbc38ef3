"""Times our layers against MXNet's own, in one process, alternating, with the same threads.

    python tools/compare_layers.py --threads 1

prints, for each layer, the median time of a forward pass of both, the ratio of the medians, the
arithmetic that ours does per second as a share of the processor's multiply-add peak (which the
library measures in registers, and for its micro-kernel on packed panels), and the largest
difference of the outputs.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import time
from typing import Any, List, NamedTuple, Tuple


class Layer(NamedTuple):
    """A layer by its name in `nn`, its arguments and the shape of its data."""

    text: str
    name: str
    arguments: dict
    data: Tuple[int, int, int, int]

    def operations(self, out: Tuple[int, ...]) -> float:
        """Multiplications and additions of a forward pass; 0 for pooling."""
        if self.name != 'Conv2D':
            return 0.0
        taps = self.arguments['kernel_size'] ** 2
        return 2.0 * out[0] * out[1] * out[2] * out[3] * self.data[1] * taps


def convolution(
    text: str, batch: int, channels: Tuple[int, int], size: int, kernel: int, stride: int = 1
) -> Layer:
    arguments = {
        'channels': channels[1],
        'kernel_size': kernel,
        'strides': stride,
        'padding': kernel // 2,
        'in_channels': channels[0],
    }
    return Layer(text, 'Conv2D', arguments, (batch, channels[0], size, size))


LAYERS = [
    convolution('3x3 64 to 64, 56x56', 1, (64, 64), 56, 3),
    convolution('3x3 128 to 128, 28x28', 1, (128, 128), 28, 3),
    convolution('3x3 256 to 256, 14x14', 1, (256, 256), 14, 3),
    convolution('3x3 512 to 512, 7x7', 1, (512, 512), 7, 3),
    convolution('7x7/2 3 to 64, 224x224', 1, (3, 64), 224, 7, 2),
    convolution('1x1 64 to 64, 56x56', 1, (64, 64), 56, 1),
    convolution('1x1 256 to 1024, 14x14, batch 8', 8, (256, 1024), 14, 1),
    convolution('5x5 1 to 6, 28x28, batch 32', 32, (1, 6), 28, 5),
    convolution('3x3 64 to 64, 56x56, batch 8', 8, (64, 64), 56, 3),
    Layer('max 3x3/2, 64x112x112', 'MaxPool2D', {'pool_size': 3, 'strides': 2, 'padding': 1},
          (1, 64, 112, 112)),
    Layer('max 2x2/2, 64x56x56, batch 8', 'MaxPool2D', {}, (8, 64, 56, 56)),
    Layer('avg 3x3/1, 192x35x35', 'AvgPool2D', {'pool_size': 3, 'strides': 1, 'padding': 1},
          (1, 192, 35, 35)),
    Layer('global avg, 512x7x7, batch 8', 'GlobalAvgPool2D', {}, (8, 512, 7, 7)),
]  # fmt: skip


def alternate(calls: List[Any], seconds: float) -> List[float]:
    """The median time of each call, in seconds, the calls taking turns."""
    times: List[List[float]] = [[] for _ in calls]
    for call in calls:
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for call, one in zip(calls, times):
            start = time.perf_counter()
            call()
            one.append(time.perf_counter() - start)
    return [statistics.median(one) for one in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--seconds', type=float, default=2.0, help='for each layer')
    options = parser.parse_args()
    # MXNet reads it once, when it is imported.
    os.environ['OMP_NUM_THREADS'] = str(options.threads)

    # Before mxnet, which it makes importable.
    import gluon_convpool

    # isort: split
    from mxnet import np, npx
    from mxnet.gluon import nn as builtin

    npx.set_np()
    gluon_convpool.use_backend('native')
    gluon_convpool.set_num_threads(options.threads)
    library = ctypes.CDLL(gluon_convpool.info().library)
    rates = []
    for name in ('convpool_measure_peak', 'convpool_measure_micro_kernel'):
        measure = getattr(library, name)
        measure.restype, measure.argtypes = ctypes.c_double, [ctypes.c_double]
        rates.append(measure(1.0) / 1e9)
    peak, kernel = rates
    print(f'{gluon_convpool.info().instruction_set}, {options.threads} thread(s)')
    print(f'peak {peak:.1f} GFLOP/s a thread, micro-kernel {kernel:.1f} ({kernel / peak:.0%})\n')
    print('| layer | built-in, ms | ours, ms | ratio | ours, of peak | difference |')
    print('| --- | --- | --- | --- | --- | --- |')
    for layer in LAYERS:
        x = np.random.normal(size=layer.data)
        theirs = getattr(builtin, layer.name)(**layer.arguments)
        ours = getattr(gluon_convpool.nn, layer.name)(**layer.arguments)
        for block in (theirs, ours):
            block.initialize()
        for mine, other in zip(ours.collect_params().values(), theirs.collect_params().values()):
            mine.set_data(other.data())
        expected, actual = theirs(x), ours(x)
        difference = float(np.abs(expected - actual).max() / np.abs(expected).max())
        their_time, our_time = alternate(
            [lambda: theirs(x).wait_to_read(), lambda: ours(x).wait_to_read()],  # noqa: B023
            options.seconds,
        )
        rate = layer.operations(actual.shape) / our_time / 1e9
        share = f'{rate / (peak * options.threads):.0%}' if rate else ''
        print(
            f'| {layer.text} | {their_time * 1e3:.3f} | {our_time * 1e3:.3f} |'
            f' {their_time / our_time:.2f} | {share} | {difference:.0e} |',
            flush=True,
        )


if __name__ == '__main__':
    main()
