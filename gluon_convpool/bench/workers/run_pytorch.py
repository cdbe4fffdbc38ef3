"""PyTorch, eager, on contiguous NCHW tensors: forward, and forward and backward."""

from __future__ import annotations

import sys
from typing import Any, Callable, Dict, Tuple

import numpy
import torch
import torch.nn.functional as F
from protocol import Pass, Problem, Unsupported, serve


def build(layer: Dict[str, Any]) -> Callable[..., Any]:
    """Return the layer as a function of x, and of weight and bias for a convolution."""
    if layer['op'] == 'convolution':
        return lambda x, weight, bias: F.conv2d(
            x, weight, bias, layer['stride'], layer['pad'], layer['dilate'], layer['groups']
        )
    mode = layer['mode']
    if layer['global_pool']:
        if mode not in ('max', 'avg'):
            raise Unsupported(f'PyTorch has no global {mode} pooling')
        pool = F.adaptive_max_pool2d if mode == 'max' else F.adaptive_avg_pool2d
        return lambda x: pool(x, 1)
    kernel, stride, pad, ceil = (layer[k] for k in ('kernel', 'stride', 'pad', 'ceil_mode'))
    if mode == 'max':
        return lambda x: F.max_pool2d(x, kernel, stride, pad, ceil_mode=ceil)
    if mode == 'avg':
        counted = layer['count_include_pad']
        return lambda x: F.avg_pool2d(x, kernel, stride, pad, ceil, counted)
    if mode == 'sum':
        return lambda x: F.avg_pool2d(x, kernel, stride, pad, ceil, divisor_override=1)
    if any(pad):
        raise Unsupported("PyTorch's lp pooling has no padding")
    return lambda x: F.lp_pool2d(x, float(layer['p']), kernel, stride, ceil)


def load(problem: Problem) -> Dict[str, Pass]:
    function = build(problem.layer)
    inputs: Dict[str, Any] = {
        name: torch.from_numpy(value) for name, value in problem.arrays.items() if name != 'head'
    }
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    head = torch.from_numpy(problem.arrays['head'])
    last: Dict[str, Any] = {}

    def arguments(values: Dict[str, Any]) -> Tuple[Any, ...]:
        return tuple(values[name] for name in ('x', 'weight', 'bias') if name in values)

    plain, tracked = arguments(inputs), arguments(leaves)

    def forward() -> None:
        with torch.inference_mode():
            last['output'] = function(*plain)

    def both() -> None:
        for leaf in tracked:
            leaf.grad = None
        function(*tracked).backward(head)

    def gradients() -> Dict[str, numpy.ndarray]:
        return {name: leaf.grad.numpy() for name, leaf in leaves.items()}

    return {
        'forward': Pass(forward, lambda: {'output': last['output'].numpy()}),
        'forward+backward': Pass(both, gradients),
    }


if __name__ == '__main__':
    torch.set_num_threads(int(sys.argv[1]))
    serve(torch.__version__, load)
