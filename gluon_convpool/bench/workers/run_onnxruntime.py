"""ONNX Runtime's CPU provider, forward only, with input and output bound once."""

from __future__ import annotations

from typing import Dict

import numpy
import onnxruntime
from onnx_file import to_model
from protocol import Pass, Problem, serve


def load(problem: Problem) -> Dict[str, Pass]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = problem.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        to_model(problem), options, providers=['CPUExecutionProvider']
    )
    # Bound once, so that a call neither copies the data nor makes an array for the output.
    x = onnxruntime.OrtValue.ortvalue_from_numpy(problem.arrays['x'])
    shape = tuple(problem.layer['out'])
    y = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, numpy.float32)
    binding = session.io_binding()
    binding.bind_ortvalue_input(session.get_inputs()[0].name, x)
    binding.bind_ortvalue_output(session.get_outputs()[0].name, y)
    call = lambda: session.run_with_iobinding(binding)  # noqa: E731
    return {'forward': Pass(call, lambda: {'output': y.numpy()})}


if __name__ == '__main__':
    serve(onnxruntime.__version__, load)
