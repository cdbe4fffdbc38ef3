"""A layer or network as an ONNX model, for the peers that read such files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

from onnx import TensorProto, helper, numpy_helper
from protocol import Problem, Unsupported

# Old enough for every reader, new enough for each attribute used here.
OPSET = 19
IR_VERSION = 9

POOLING = {'max': 'MaxPool', 'avg': 'AveragePool', 'lp': 'LpPool'}


def to_model(problem: Problem) -> bytes:
    """Return the serialised model: one input, one output, the weights stored in it."""
    layer, arrays = problem.layer, problem.arrays
    if layer['op'] == 'network':
        return Path(layer['file']).read_bytes()
    attributes: Dict[str, Any] = {}
    if layer['op'] == 'convolution':
        operator, constants = 'Conv', ['weight', 'bias']
        attributes.update(dilations=layer['dilate'], group=layer['groups'])
    else:
        mode, constants = layer['mode'], []
        if mode not in POOLING:
            raise Unsupported(f'ONNX has no {mode} pooling')
        operator = ('Global' if layer['global_pool'] else '') + POOLING[mode]
        if mode == 'lp':
            attributes['p'] = layer['p']
        if not layer['global_pool']:
            attributes['ceil_mode'] = int(layer['ceil_mode'])
            if mode == 'avg':
                attributes['count_include_pad'] = int(layer['count_include_pad'])
    if layer['op'] == 'convolution' or not layer['global_pool']:
        attributes.update(
            kernel_shape=layer['kernel'], strides=layer['stride'], pads=layer['pad'] * 2
        )
    graph = helper.make_graph(
        [helper.make_node(operator, ['x', *constants], ['y'], **attributes)],
        'layer',
        [helper.make_tensor_value_info('x', TensorProto.FLOAT, layer['data'])],
        [helper.make_tensor_value_info('y', TensorProto.FLOAT, layer['out'])],
        [numpy_helper.from_array(arrays[name], name) for name in constants],
    )
    opset = helper.make_opsetid('', OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    return model.SerializeToString()
