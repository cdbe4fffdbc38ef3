"""The benchmark of whole networks: what it compares and what it prints. No test looks at a time."""

from __future__ import annotations

import json
import sys
import textwrap

import mxnet as mx
import numpy as np
import pytest

from gluon_convpool import cli, nn
from gluon_convpool.bench import command, machine, measure, networks, peers

pytestmark = pytest.mark.usefixtures('native')


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A network that takes milliseconds, measured for as short a time as possible."""
    monkeypatch.setattr(measure, 'BURST_SECONDS', 0.0005)
    monkeypatch.setattr(machine, 'measure_rate', lambda name, seconds: 1e9)
    monkeypatch.setitem(networks.NETWORKS, 'mobilenet1.0', 65)

    def small(name, classes):
        return mx.gluon.model_zoo.vision.MobileNet(0.125, classes=classes)

    monkeypatch.setattr(mx.gluon.model_zoo.vision, 'get_model', small)


def bench(*words):
    return cli.main(['bench', '--models', 'mobilenet1.0', '--seconds', '0.01', *words])


def test_what_is_measured_by_default():
    titles = [task.title for task in networks.select([])]
    assert len(titles) == 2 * len(networks.NETWORKS)
    assert titles[:2] == ['alexnet, batch 1, inference', 'alexnet, batch 8, training step']
    assert [t.title for t in networks.select(['vgg16'], [2, 4], forward_only=True)] == [
        'vgg16, batch 2, inference',
        'vgg16, batch 4, inference',
    ]
    with pytest.raises(ValueError, match='no network is left'):
        networks.select(['vgg16'], text='resnet')


def test_all_sides_run_and_agree(capsys):
    assert bench('--json', '-', '--batch', '2') == 0
    inference, training = json.loads(capsys.readouterr().out)['networks']
    assert (inference['which'], training['which']) == ('inference', 'training step')
    assert set(inference['sides']) == {'builtin', 'fused', 'swapped', 'ours'}
    assert set(training['sides']) == {'builtin', 'swapped'}
    for record in (inference, training):
        assert (record['network'], record['batch'], record['size']) == ('mobilenet1.0', 2, 65)
        for side in record['sides'].values():
            assert side['median'] > 0 and side['difference'] <= 1e-4


def test_the_table(capsys, tmp_path):
    assert bench('--forward-only', '--json', str(tmp_path / 'results.json')) == 0
    first = capsys.readouterr().out
    head = next(line for line in first.splitlines() if line.startswith('network'))
    assert head.split('  ')[0] == 'network' and 'optimized, ms' in head and 'swapped' in head
    row = next(line for line in first.splitlines() if line.startswith('mobilenet1.0'))
    assert row.split()[1:3] == ['65x65', '1']
    assert cli.main(['bench', '--show', str(tmp_path / 'results.json')]) == 0
    assert capsys.readouterr().out == first


ANSWERS_LIKE_MXNET = """
    import os, sys
    import numpy
    sys.path.insert(0, {workers!r})
    from protocol import Pass, serve

    def load(problem):
        assert problem.layer['op'] == 'network' and problem.layer['out'] == [1, 1000]
        assert os.path.getsize(problem.layer['file']) > 100
        assert problem.arrays['x'].shape == (1, 3, 65, 65)
        y = numpy.load({answer!r})
        return dict(forward=Pass(lambda: None, lambda: dict(output=y)))

    serve('1.2', load)
"""


@pytest.mark.parametrize('right', [True, False])
def test_a_peer_gets_the_network_as_a_file_and_is_timed_if_it_is_right(
    right, tmp_path, monkeypatch, capsys
):
    """The file itself is read by ONNX Runtime in test_models_onnx.py."""
    answer = tmp_path / 'answer.npy'

    def export(net, images, folder):
        out = net(images).asnumpy()
        np.save(answer, out if right else out + 1)
        (folder / 'network.onnx').write_bytes(bytes(200))
        return folder / 'network.onnx'

    script = tmp_path / 'worker.py'
    text = ANSWERS_LIKE_MXNET.format(workers=str(peers.WORKERS), answer=str(answer))
    script.write_text(textwrap.dedent(text))
    monkeypatch.setattr(networks, 'export_onnx', export)
    process = peers.Process('openvino', [sys.executable, str(script)], 1)
    monkeypatch.setattr(command, 'start', lambda *_: ([process], {}))
    monkeypatch.setattr(command, 'require_extra', lambda *_: None)
    assert bench('--forward-only', '--peers', 'openvino', '--json', '-') == 0
    (record,) = json.loads(capsys.readouterr().out)['networks']
    entry = record['sides']['openvino']
    if right:
        assert entry['difference'] == 0 and entry['median'] > 0
    else:
        assert entry['wrong'] is False and 'output differs by 1.0e+00' in entry['reason']


@pytest.mark.parametrize('peer', [name for name in peers.PEERS if not peers.PEERS[name].networks])
def test_peers_that_read_no_networks_are_refused(peer, capsys):
    assert bench('--peers', peer) == 2
    sentence = f'--peers={peer}: runs no whole networks; onnxruntime, openvino do'
    assert sentence in capsys.readouterr().err


def test_ours_that_is_wrong_is_not_timed(capsys, monkeypatch):
    def wrong(self, x):
        return super(nn.Conv2D, self).forward(x) * 1.01

    monkeypatch.setattr(nn.Conv2D, 'forward', wrong, raising=False)
    assert bench('--forward-only', '--json', '-') == 1
    (record,) = json.loads(capsys.readouterr().out)['networks']
    assert record['sides']['swapped']['wrong'] and 'median' not in record['sides']['swapped']
    assert record['sides']['builtin']['median'] > 0


@pytest.mark.parametrize('option', [['--suite', 'vgg'], ['--plot', 'x.png']])
def test_options_of_layers_are_refused(option, capsys):
    assert bench(*option) == 2
    assert f'--models: cannot be used with {option[0]}' in capsys.readouterr().err


def test_the_list(capsys):
    assert bench('--list') == 0
    assert capsys.readouterr().out.splitlines() == [
        'mobilenet1.0, batch 1, inference',
        'mobilenet1.0, batch 8, training step',
    ]
