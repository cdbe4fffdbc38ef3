"""ncnn on the CPU, forward only, in float32; a batch is computed one image after another."""

from __future__ import annotations

import os
import tempfile
from typing import Any, Dict, List

import ncnn
import numpy
from protocol import Pass, Problem, Unsupported, serve

POOLING = {'max': 0, 'avg': 1}


def describe(layer: Dict[str, Any]) -> str:
    """Return the layer's type and parameters in ncnn's text format: number=value."""
    (kernel_h, kernel_w), (stride_h, stride_w) = layer['kernel'], layer['stride']
    pad_h, pad_w = layer['pad']
    if layer['op'] == 'convolution':
        dilate_h, dilate_w = layer['dilate']
        values = {
            0: layer['channels'],
            1: kernel_w,
            11: kernel_h,
            2: dilate_w,
            12: dilate_h,
            3: stride_w,
            13: stride_h,
            4: pad_w,
            14: pad_h,
            5: 1,  # has a bias
            6: int(numpy.prod(layer['weight'])),
        }
        kind = 'Convolution'
        if layer['groups'] > 1:
            kind, values[7] = 'ConvolutionDepthWise', layer['groups']
    else:
        if layer['mode'] not in POOLING:
            raise Unsupported(f'ncnn has no {layer["mode"]} pooling')
        kind = 'Pooling'
        values = {
            0: POOLING[layer['mode']],
            1: kernel_w,
            11: kernel_h,
            2: stride_w,
            12: stride_h,
            3: pad_w,
            13: pad_h,
            4: int(layer['global_pool']),
            5: 0 if layer['ceil_mode'] else 1,
            6: int(layer['count_include_pad']),
        }
    parameters = ' '.join(f'{key}={value}' for key, value in values.items())
    return f'7767517\n2 2\nInput x 0 1 x\n{kind} layer 1 1 x y {parameters}\n'


def load(problem: Problem) -> Dict[str, Pass]:
    layer, arrays = problem.layer, problem.arrays
    net = ncnn.Net()
    options = net.opt
    options.num_threads = problem.threads
    options.use_vulkan_compute = False
    for name in ('use_fp16_packed', 'use_fp16_storage', 'use_fp16_arithmetic', 'use_bf16_storage'):
        setattr(options, name, False)
    net.opt = options
    with tempfile.TemporaryDirectory() as folder:
        text, binary = os.path.join(folder, 'layer.param'), os.path.join(folder, 'layer.bin')
        with open(text, 'w', encoding='utf-8') as file:
            file.write(describe(layer))
        with open(binary, 'wb') as data:
            if 'weight' in arrays:
                data.write(numpy.uint32(0).tobytes())  # says that float32 follows
                data.write(arrays['weight'].tobytes() + arrays['bias'].tobytes())
        if net.load_param(text) or net.load_model(binary):
            raise RuntimeError('ncnn does not read the model')
    images = [ncnn.Mat(image).clone() for image in arrays['x']]
    last: List[Any] = []

    def forward() -> None:
        last.clear()
        for image in images:
            extractor = net.create_extractor()
            extractor.input('x', image)
            status, out = extractor.extract('y')
            if status:
                raise RuntimeError(f'ncnn ends with status {status}')
            last.append(out)

    def results() -> Dict[str, numpy.ndarray]:
        # global pooling gives a vector
        return {'output': numpy.stack([numpy.array(y) for y in last]).reshape(layer['out'])}

    return {'forward': Pass(forward, results)}


if __name__ == '__main__':
    serve(ncnn.__version__, load)
