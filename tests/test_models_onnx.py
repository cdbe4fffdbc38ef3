"""Back to MXNet's layers, through MXNet's ONNX exporter, into ONNX Runtime."""

from __future__ import annotations

import pytest
from models_common import flat
from networks import images, network

from gluon_convpool import optimize, swap
from gluon_convpool.bench.networks import export_onnx
from gluon_convpool.testing import assert_close

onnx = pytest.importorskip('onnx', reason='onnx is not installed: make test-models installs it')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

pytestmark = [pytest.mark.networks, pytest.mark.usefixtures('native', 'nd_arrays')]


@pytest.mark.parametrize('name', ['resnet18_v1', 'mobilenet0.25', 'squeezenet1.1'])
def test_onnx_runtime_gives_what_ours_gives(name, tmp_path):
    net, x = network(name), images(name, 2)
    swap(net)
    expected = flat(net(x))[0]
    swap(net, to='mxnet')
    net.hybridize()
    net(x)
    path = str(export_onnx(net, x, tmp_path))
    onnx.checker.check_model(path)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    (actual,) = session.run(None, {session.get_inputs()[0].name: x.asnumpy()})
    assert_close('ONNX Runtime', actual, expected, 1e-4)
    assert_close('optimized', flat(optimize(net)(x))[0], actual, 1e-4)
