"""Rooflines: where the points stand, and the roof above them. No test looks at a time."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from matplotlib.figure import Figure

from gluon_convpool import viz
from gluon_convpool.bench import machine

BENCHMARKS = pathlib.Path(__file__).parents[1] / 'benchmarks'
ROOF = viz.Roof(peak=1e11, bandwidth={2**20: 5e10, 2**22: 4e10, 2**28: 1e10})
POINTS = [viz.Measurement('loops', 1e9, 1e7, 10.0), viz.Measurement('fast', 1e9, 2e7, 0.02)]


def record(weight, operations, data_and_output, **seconds):
    """A layer as the benchmark writes it; seconds by side, None where there is no time."""
    sides = {
        name: {'reason': 'differs'} if value is None else {'median': value}
        for name, value in seconds.items()
    }
    passes = {
        which: {'operations': operations * factor, 'bytes': data_and_output * more, 'sides': sides}
        for which, factor, more in (('forward', 1, 1), ('forward+backward', 3, 2))
    }
    return {'weight': weight, 'passes': passes}


@pytest.fixture
def results():
    return {
        'threads': 2,
        'peak': {'registers': 5e10, 'micro_kernel': 4e10},
        'bandwidth': {'1048576': 5e10, '268435456': 1e10},
        'peers': {
            'ncnn': {'title': 'ncnn', 'version': '1'},
            'openvino': {'title': 'OpenVINO', 'reason': 'is not installed'},
        },
        'layers': [
            # 100 weights of 4 bytes beside 600 bytes of data and output: 2 operations for each byte
            record([5, 5, 2, 2], 2000.0, 600.0, ours=1e-6, builtin=2e-6, ncnn=None),
            record([5, 5, 2, 2], 4000.0, 600.0, ours=1e-6, builtin=4e-6, ncnn=1e-6),
            record([], 0.0, 1000.0, ours=1e-6, builtin=1e-6),
        ],
    }


def series(figure):
    """The points by their labels, and the lines of the roof by theirs."""
    points, roof = {}, {}
    for line in figure.axes[0].lines:
        kind = roof if line.get_marker() in ('None', None, '') else points
        kind[line.get_label()] = [tuple(map(float, xy)) for xy in line.get_xydata()]
    return points, roof


def test_points_stand_at_their_intensity_and_speed():
    points, _ = series(viz.roofline(POINTS, ROOF))
    assert points == {'fast: 50 GFLOP/s': [(50, 50)], 'loops: 0.1 GFLOP/s': [(100, 0.1)]}


def test_points_of_one_name_share_a_marker():
    figure = viz.roofline([*POINTS, viz.Measurement('fast', 1e9, 1e8, 0.01)], ROOF)
    assert series(figure)[0] == {'loops': [(100, 0.1)], 'fast': [(50, 50), (10, 100)]}


def test_the_roof_is_the_lower_of_peak_and_bandwidth():
    _, roof = series(viz.roofline(POINTS, ROOF))
    peak = roof['peak: 100 GFLOP/s']
    # 100 GFLOP/s over 50 GB/s: the corner is at 2 operations for each byte.
    assert peak[0] == (2, 100) and peak[1][1] == 100
    assert peak[1][0] > 100
    cache = roof['copy in cache (1 MiB): 50 GB/s']
    memory = roof['copy in memory (256 MiB): 10 GB/s']
    assert (cache[1], memory[1]) == ((2, 100), (10, 100))
    for (intensity, speed), rate in ((cache[0], 50), (memory[0], 10)):
        assert speed == pytest.approx(rate * intensity)
    assert len(roof) == 3


@pytest.mark.parametrize(
    ('roof', 'labels'),
    [
        (viz.Roof(None, {2**20: 5e10}), ['copy in cache (1 MiB): 50 GB/s']),
        (viz.Roof(1e11, {}), ['peak: 100 GFLOP/s']),
        (viz.Roof(None, {}), []),
    ],
)
def test_what_is_not_known_of_the_machine_is_left_out(roof, labels):
    figure = viz.roofline(POINTS, roof)
    assert list(series(figure)[1]) == labels
    figure.savefig('/dev/null', format='png')


def test_results_of_the_benchmark(results):
    points, roof = series(viz.roofline(results))
    assert points == {
        'ours': [(2, 2), (4, 4)],
        'built-in': [(2, 1), (4, 1)],
        'ncnn': [(4, 4)],
    }
    assert list(roof) == [
        'peak: 100 GFLOP/s',  # of two threads
        'copy in cache (1 MiB): 50 GB/s',
        'copy in memory (256 MiB): 10 GB/s',
    ]


def test_the_backward_pass_also_writes_the_gradient_of_the_weights(results):
    points, _ = series(viz.roofline(results, which='forward+backward'))
    assert points['ours'] == [(3, 6), (6, 12)]


def test_another_roof_can_be_asked_for(results):
    assert 'peak: 7 GFLOP/s' in series(viz.roofline(results, viz.Roof(7e9, {})))[1]


KEPT = {path.stem: json.loads(path.read_text()) for path in sorted(BENCHMARKS.glob('*.json'))}


@pytest.mark.parametrize('name', [name for name, kept in KEPT.items() if kept['layers']])
def test_the_results_that_are_kept(name):
    kept = KEPT[name]
    figure = viz.roofline(kept)
    points, _ = series(figure)
    # The roof is that of float32, and pooling does not multiply.
    under_it = [
        layer
        for layer in kept['layers']
        if layer['op'] != 'pooling' and layer['dtype'] == 'float32'
    ]
    assert len(points['ours']) == len(points['built-in']) == len(under_it)
    peers = {'PyTorch', 'ONNX Runtime', 'OpenVINO', 'ncnn'} if kept['peers'] else set()
    assert set(points) == peers | {'ours', 'built-in'}
    # The markers differ in shape or filling, not only in colour.
    looks = [
        (line.get_marker(), line.get_markerfacecolor())
        for line in figure.axes[0].lines
        if line.get_label() in points
    ]
    assert len(set(looks)) == len(points)


def test_axes_are_labelled_and_logarithmic():
    figure = viz.roofline(POINTS, ROOF)
    (axes,) = figure.axes
    assert axes.get_xlabel() == 'arithmetic intensity (operations per byte)'
    assert axes.get_ylabel() == 'speed (GFLOP/s)'
    assert (axes.get_xscale(), axes.get_yscale()) == ('log', 'log')
    low, high = axes.get_xlim()
    assert low < 2 and high > 100  # all corners and all points are seen
    assert len(figure.legends[0].get_texts()) == 5


def test_it_is_drawn_where_it_is_wanted():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert viz.roofline(POINTS, ROOF, ax=right) is figure
    assert len(right.lines) == len(right.get_legend().get_texts()) == 5
    assert not left.has_data() and not figure.legends


def test_mistakes(results):
    with pytest.raises(ValueError, match=r'roof=None.*allowed: measure_roof\(\) or a Roof'):
        viz.roofline(POINTS)
    with pytest.raises(ValueError, match="which='backward' is unknown; allowed: 'forward'"):
        viz.roofline(results, which='backward')
    with pytest.raises(ValueError, match='results hold nothing to draw in pass forward; layers'):
        viz.roofline({**results, 'layers': results['layers'][2:]})
    with pytest.raises(ValueError, match='results hold nothing to draw'):
        viz.roofline([], ROOF)
    with pytest.raises(ValueError, match='threads=0'):
        viz.measure_roof(threads=0)


def test_the_roof_of_this_machine(monkeypatch):
    monkeypatch.setattr(machine, 'measure_rate', lambda name, seconds: 2e9)
    monkeypatch.setattr(machine, 'measure_bandwidth', lambda threads, seconds: {8: threads * 1.0})
    assert viz.measure_roof(threads=3) == viz.Roof(6e9, {8: 3.0})
    monkeypatch.setattr(machine, 'measure_rate', lambda name, seconds: None)
    assert viz.measure_roof(threads=1).peak is None


def test_intensity_and_rate():
    point = viz.Measurement('x', operations=6e9, bytes=3e9, seconds=2.0)
    assert np.isclose(point.intensity, 2) and np.isclose(point.rate, 3e9)
