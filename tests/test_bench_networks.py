"""The benchmark of whole networks: what it compares and what it prints. No test looks at a time."""

from __future__ import annotations

import json

import mxnet as mx
import pytest

from gluon_convpool import cli, nn
from gluon_convpool.bench import machine, measure, networks

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
    assert 'built-in, ms' in head and 'built-in / optimized' in head
    row = next(line for line in first.splitlines() if line.startswith('mobilenet1.0'))
    assert row.split()[1:3] == ['65x65', '1']
    assert cli.main(['bench', '--show', str(tmp_path / 'results.json')]) == 0
    assert capsys.readouterr().out == first


def test_ours_that_is_wrong_is_not_timed(capsys, monkeypatch):
    def wrong(self, x):
        return super(nn.Conv2D, self).forward(x) * 1.01

    monkeypatch.setattr(nn.Conv2D, 'forward', wrong, raising=False)
    assert bench('--forward-only', '--json', '-') == 1
    (record,) = json.loads(capsys.readouterr().out)['networks']
    assert record['sides']['swapped']['wrong'] and 'median' not in record['sides']['swapped']
    assert record['sides']['builtin']['median'] > 0


@pytest.mark.parametrize('option', [['--suite', 'vgg'], ['--peers'], ['--plot', 'x.png']])
def test_options_of_layers_are_refused(option, capsys):
    assert bench(*option) == 2
    assert f'--models: cannot be used with {option[0]}' in capsys.readouterr().err


def test_the_list(capsys):
    assert bench('--list') == 0
    assert capsys.readouterr().out.splitlines() == [
        'mobilenet1.0, batch 1, inference',
        'mobilenet1.0, batch 8, training step',
    ]
