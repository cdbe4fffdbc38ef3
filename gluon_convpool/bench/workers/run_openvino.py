"""OpenVINO's CPU plugin, forward only, in float32."""

from __future__ import annotations

from typing import Dict

import openvino
from onnx_file import to_model
from protocol import Pass, Problem, serve

CORE = openvino.Core()


def load(problem: Problem) -> Dict[str, Pass]:
    compiled = CORE.compile_model(
        CORE.read_model(to_model(problem), b''),
        'CPU',
        {
            'INFERENCE_NUM_THREADS': problem.threads,
            'NUM_STREAMS': 1,
            'PERFORMANCE_HINT': 'LATENCY',
            # else it computes in bfloat16 where the processor can
            'INFERENCE_PRECISION_HINT': 'f32',
        },
    )
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(problem.arrays['x'], shared_memory=True))
    call = lambda: request.infer()  # noqa: E731
    return {'forward': Pass(call, lambda: {'output': request.get_output_tensor().data.copy()})}


if __name__ == '__main__':
    serve(openvino.__version__.split('-')[0], load)
