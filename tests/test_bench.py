"""The benchmark: what it counts, whom it believes, and what it prints. No test looks at a time."""

from __future__ import annotations

import json
import re
import signal
import stat
import sys
import textwrap

import mxnet as mx
import numpy as np
import pytest
from conftest import PACKAGE
from isolated import attempt, run

from gluon_convpool import cli as program
from gluon_convpool import geometry, nn
from gluon_convpool.bench import command, machine, measure, peers, report, sides, suites
from gluon_convpool.testing.plugin import require_native

LAYERS = suites.select([suites.ALL])
TINY = ['bench', '--suite', 'seed', '--filter', 'max 2x2/2 1', '--seconds', '0.01']


def only(suite, text, batch=1):
    """The one layer that is meant."""
    ((_, layer),) = suites.select([suite], [batch], text)
    return layer


@pytest.fixture
def quick(monkeypatch):
    """Measure for as short a time as possible."""
    monkeypatch.setattr(measure, 'BURST_SECONDS', 0.0005)
    monkeypatch.setattr(machine, 'measure_rate', lambda name, seconds: 1e9)
    monkeypatch.setattr(machine, 'measure_bandwidth', lambda threads, seconds: {2**20: 1e9})


@pytest.fixture
def in_numpy_mode():
    with mx.util.np_shape(True), mx.util.np_array(True):
        yield


# --------------------------------------------------------------------------- suites


def test_every_layer_has_its_own_title():
    titles = [layer.title for _, layer in LAYERS]
    assert len(titles) == len(set(titles)) > 100


@pytest.mark.parametrize('suite', suites.SUITES)
def test_suites_are_well_formed(suite):
    layers = suites.SUITES[suite]
    assert layers
    for layer in layers:
        assert layer.batch in (1, 8, 32)
        assert min(layer.out) >= 1  # `out` also checks that the shapes fit
        assert layer.out[0] == layer.batch
        assert json.loads(json.dumps(layer.describe()))['out'] == list(layer.out)


def test_convolutions_keep_the_size_unless_said_otherwise():
    for _, layer in LAYERS:
        if layer.op != 'convolution' or set(layer.arguments.stride) != {1}:
            continue
        if ' unpadded' not in layer.name and all(k % 2 for k in layer.arguments.kernel):
            sizes = [
                geometry.split_shape('test', shape, layer.arguments.layout)[2]
                for shape in (layer.data, layer.out)
            ]
            assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ('suite', 'text', 'operations'),
    [
        ('resnet', '3x3 64 to 64', 2 * 64 * 64 * 9 * 56 * 56),
        ('resnet', '7x7/2 3 to 64', 2 * 64 * 3 * 49 * 112 * 112),
        ('resnet', '1x1/2 256 to 512', 2 * 512 * 256 * 28 * 28),
        ('mobilenet', 'depthwise 3x3/2 64', 2 * 64 * 9 * 56 * 56),
        ('grouped', '128 to 128 in 32 groups', 2 * 128 * 4 * 9 * 56 * 56),
        ('inception', '1x7 192', 2 * 192 * 192 * 7 * 17 * 17),
        ('lenet', '5x5 unpadded 6 to 16', 2 * 16 * 6 * 25 * 10 * 10),
        ('conv1d', '9 64 to 64', 2 * 64 * 64 * 9 * 16000),
        ('conv3d', '3x3x3 64 to 64', 2 * 64 * 64 * 27 * 16 * 56 * 56),
        ('deconv', '2x2/2 256 to 128', 2 * 256 * 128 * 4 * 28 * 28),
        ('float64', '1x1 256', 2 * 256 * 256 * 28 * 28),
        ('nhwc', 'depthwise', 2 * 128 * 9 * 56 * 56),
        ('seed', '3x5', 2 * 15 * 2 * 2),
    ],
)
def test_operations_counted_on_paper(suite, text, operations):
    layer = only(suite, text)
    assert layer.operations('forward') == operations
    assert layer.operations('forward+backward') == 3 * operations


def test_bytes_counted_on_paper():
    layer = only('pooling', 'max 3x3/2 padded', 8)
    once = 4 * 8 * 64 * (112 * 112 + 56 * 56)
    assert (layer.bytes_moved('forward'), layer.operations('forward')) == (once, 0)
    assert layer.bytes_moved('forward+backward') == 2 * once
    doubles = only('float64', '1x1 256')
    assert doubles.bytes_moved('forward') == 8 * 2 * 256 * 28 * 28


def test_select_by_suite_batch_and_name():
    assert {suite for suite, _ in suites.select()} == {suites.DEFAULT_SUITE}
    found = suites.select(['lenet', 'seed'], [32], '5X5')
    assert [suite for suite, _ in found] == ['lenet'] * 3
    with pytest.raises(ValueError, match="no suite 'alexnet'; there are resnet"):
        suites.select(['alexnet'])
    with pytest.raises(ValueError, match='no layer of seed is left'):
        suites.select(['seed'], [8])


# --------------------------------------------------------------------------- the machine


def test_names_of_algorithms_and_passes_are_those_of_the_header():
    header = (PACKAGE / 'native' / 'convpool.h').read_text()
    for names, end in ((machine.ALGORITHMS, 'algorithm'), (machine.PASSES, 'pass')):
        body = re.search(r'typedef enum \{([^}]*)\} convpool_%s;' % end, header).group(1)
        found = re.findall(r'CONVPOOL_(\w+) = (\d+)', body)
        assert [(name.upper(), str(i)) for i, name in enumerate(names)] == found


def test_algorithm_of(native):
    layer = only('resnet', '3x3 64 to 64')
    for name in machine.PASSES:
        assert machine.algorithm_of(layer, name) in machine.ALGORITHMS[1:]
    assert machine.algorithm_of(layer, forced='implicit_gemm') == 'implicit_gemm'
    assert machine.algorithm_of(layer, forced='depthwise') is None
    assert machine.algorithm_of(only('pooling', 'max 2x2/2 64, 56')) is None


def test_bandwidth():
    rates = machine.measure_bandwidth(2, 0.01, [2**18, 2**20])
    assert set(rates) == {2**18, 2**20}
    assert min(rates.values()) > 0
    table = {100: 1.0, 10: 2.0}
    assert [machine.bandwidth_for(n, table) for n in (5, 50, 500)] == [2.0, 1.0, 1.0]
    assert machine.bandwidth_for(5, {}) is None


# --------------------------------------------------------------------------- sides


def small(layer):
    """The layer on small data."""
    return layer._replace(data=(2, layer.data[1] if layer.weight else 3, 13, 12))


SMALL_LAYERS = {
    layer.name: small(layer)
    for suite in ('pooling', 'lenet', 'mobilenet', 'inception', 'dilated', 'seed')
    for layer in suites.SUITES[suite]
    if layer.data[1] <= 64 and '5 to' not in layer.name
}
SMALL_LAYERS.update((small(x).name, small(x)) for x in suites.SUITES['pooling'])


def small_everywhere(layer):
    """A layer of any layout on small data, and with few channels."""
    channels = min(layer.in_channels, 8)
    groups = channels if layer.arguments.groups > 1 else 1
    arguments = layer.arguments._replace(channels=8, groups=groups)
    sizes = (90,) if len(layer.arguments.kernel) == 1 else (5, 9, 8)[-len(layer.arguments.kernel) :]
    shape = geometry.join_shape(2, channels, sizes, arguments.layout)
    return layer._replace(arguments=arguments, data=shape)


OTHER_SUITES = ('conv1d', 'conv3d', 'deconv', 'float64', 'nhwc')
SMALL_LAYERS.update(
    (f'{suite} {layer.name}', small_everywhere(layer))
    for suite in OTHER_SUITES
    for layer in suites.SUITES[suite]
)


@pytest.mark.parametrize('suite', OTHER_SUITES)
def test_peers_get_only_what_they_can_build(suite):
    assert not any(layer.is_for_peers for layer in suites.SUITES[suite])
    assert all(layer.is_for_peers for layer in suites.SUITES['resnet'] + suites.SUITES['pooling'])


@pytest.mark.parametrize('layer', SMALL_LAYERS.values(), ids=SMALL_LAYERS)
def test_ours_and_the_built_in_layer_agree(layer, in_numpy_mode):
    ours, builtin = sides.local_sides(layer, sides.make_arrays(layer), algorithms=False)[:2]
    for which in suites.PASSES:
        assert sides.disagreement(ours.results[which], builtin.results[which]) is None
    assert builtin.results['forward']['output'].shape == layer.out
    gradients = {'x', 'weight', 'bias'} if layer.weight else {'x'}
    assert set(builtin.results['forward+backward']) == gradients


def test_each_algorithm_can_be_forced_or_says_why_not(native, in_numpy_mode):
    layer = only('lenet', '5x5 unpadded 6 to 16')
    found = sides.local_sides(layer, sides.make_arrays(layer), algorithms=True)
    names = [f'ours:{name}' for name in machine.ALGORITHMS[1:]]
    assert [side.name for side in found] == ['ours', 'builtin', 'ours:prepacked', *names]
    gemm, winograd, depthwise = found[3:]
    for which in suites.PASSES:
        for side in (gemm, winograd):
            assert sides.disagreement(side.results[which], found[1].results[which]) is None
            assert side.run(which, 2) > 0
    assert depthwise.obstacle == 'depthwise cannot do this layer'


def test_a_packed_weight_has_a_side_where_it_helps(native, in_numpy_mode):
    layer = only('inception', '1x7 192 to 192')
    builtin, packed = sides.local_sides(layer, sides.make_arrays(layer), False)[1:]
    assert packed.name == 'ours:prepacked' and not packed.obstacle
    assert sides.disagreement(packed.results['forward'], builtin.results['forward']) is None
    assert packed.run('forward', 2) > 0
    assert 'forward+backward' not in packed.results
    layer = only('lenet', '5x5 1 to 6')
    packed = sides.local_sides(layer, sides.make_arrays(layer), False)[2]
    assert packed.obstacle == 'packing the weight brings nothing'


def test_hybridized_sides_agree_too(in_numpy_mode):
    layer = only('seed', '3x3/2')
    ours, builtin = sides.local_sides(layer, sides.make_arrays(layer), False, hybridize=True)[:2]
    for which in suites.PASSES:
        assert sides.disagreement(ours.results[which], builtin.results[which]) is None
        assert ours.run(which, 2) > 0


def test_arrays_are_the_same_in_each_run():
    layer = only('lenet', '5x5 1 to 6')
    one, other = sides.make_arrays(layer), sides.make_arrays(layer)
    assert all((one[name] == other[name]).all() for name in one)
    assert {name: value.dtype for name, value in one.items()} == dict.fromkeys(one, np.float32)


@pytest.mark.parametrize(
    ('actual', 'sentence'),
    [
        ({'y': np.array([1.0, 2.0])}, None),
        ({'y': np.array([1.0, 2.0001])}, None),
        ({'y': np.array([1.0, 2.001])}, r'y differs by 1.0e-03, where the largest value is 2.0'),
        ({'y': np.array([1.0, np.nan])}, 'y differs by nan'),
        ({'y': np.array([[1.0, 2.0]])}, r'y has shape \(1, 2\) instead of \(2,\)'),
        ({}, 'y is missing'),
    ],
)
def test_disagreement(actual, sentence):
    found = sides.disagreement(actual, {'y': np.array([1.0, 2.0])})
    assert found is None if sentence is None else re.match(sentence, found)


# --------------------------------------------------------------------------- turns


def test_sides_take_turns_and_another_one_begins_each_round():
    order = []

    def side(name):
        def go(calls):
            order.append(name)
            return 0.02 * calls

        return go

    outcome = measure.alternate({name: side(name) for name in 'abc'}, 0.0)
    assert ''.join(order[6:]) == 'abcbcacababcbca'
    assert outcome['a'] == {
        'median': pytest.approx(0.02),
        'quartiles': pytest.approx([0.02, 0.02]),
        'least': pytest.approx(0.02),
        'rounds': measure.FEWEST_ROUNDS,
        'calls': 1,
    }


def test_a_side_that_is_lost_does_not_stop_the_others():
    def lost(calls):
        raise peers.PeerError('ended')

    outcome = measure.alternate({'a': lost, 'b': lambda calls: 0.01 * calls}, 0.0)
    assert outcome['a'] == {'reason': 'ended'}
    assert outcome['b']['rounds'] == measure.FEWEST_ROUNDS


# --------------------------------------------------------------------------- peers

WORKER = """
    import os, sys
    sys.path.insert(0, {workers!r})
    from protocol import Pass, Unsupported, serve

    BEHAVIOUR = {behaviour!r}

    def load(problem):
        if BEHAVIOUR == 'unsupported':
            raise Unsupported('no such layer')
        if BEHAVIOUR == 'fails':
            raise ValueError('two\\nlines')
        if BEHAVIOUR == 'right':
            print('noise between the answers')
        x = problem.arrays['x']
        assert problem.layer['op'] == 'pooling' and problem.threads == 2
        n, c, h, w = x.shape
        calls = []

        def call():
            calls.append(1)
            if BEHAVIOUR == 'crashes' and len(calls) > 2:
                os._exit(3)

        def results():
            y = x.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))
            return dict(output=y + (BEHAVIOUR == 'wrong'))

        return dict(forward=Pass(call, results))

    if BEHAVIOUR == 'mute':
        sys.exit('no licence')
    serve('1.2', load)
"""


@pytest.fixture
def worker(tmp_path):
    """A function that starts a worker of the given behaviour."""
    running = []

    def make(behaviour):
        script = tmp_path / f'{behaviour}.py'
        text = WORKER.format(workers=str(peers.WORKERS), behaviour=behaviour)
        script.write_text(textwrap.dedent(text))
        running.append(peers.Process('fake', [sys.executable, str(script)], 2))
        return running[-1]

    yield make
    for process in running:
        process.close()


@pytest.fixture
def pool():
    return only('seed', 'max 2x2/2 1')


def compare(process, layer):
    """What the benchmark makes of a worker."""
    arrays = sides.make_arrays(layer)
    found = [
        *sides.local_sides(layer, arrays, algorithms=False),
        process.side(layer.describe(), arrays),
    ]
    record = measure.measure_layer(layer, found, suites.PASSES, 0.01)
    return {which: one['sides']['fake'] for which, one in record['passes'].items()}


def test_a_peer_that_is_right_is_timed(worker, pool, quick, in_numpy_mode):
    process = worker('right')
    assert process.version == '1.2'
    entries = compare(process, pool)
    assert entries['forward']['rounds'] >= measure.FEWEST_ROUNDS
    assert entries['forward']['difference'] == {'output': 0.0}
    assert entries['forward+backward'] == {'reason': 'has no forward+backward pass'}


def test_a_peer_that_is_wrong_is_not_timed(worker, pool, quick, in_numpy_mode):
    entry = compare(worker('wrong'), pool)['forward']
    assert entry['wrong'] is True
    assert 'output differs by 1.0e+00' in entry['reason']
    assert 'median' not in entry


@pytest.mark.parametrize(
    ('behaviour', 'reason'),
    [('unsupported', 'no such layer'), ('fails', 'ValueError: two lines')],
)
def test_a_peer_that_cannot_do_a_layer(worker, pool, behaviour, reason, quick, in_numpy_mode):
    assert compare(worker(behaviour), pool)['forward'] == {'reason': reason}


def test_a_peer_that_crashes_is_started_again(worker, pool, quick, in_numpy_mode):
    process = worker('crashes')
    assert compare(process, pool)['forward']['reason'] == 'ended with status 3'
    with pytest.raises(peers.PeerError, match='ended with status 3'):
        process.ask(do='load')
    process.revive()
    assert process.side(pool.describe(), sides.make_arrays(pool)).results['forward']


def test_a_peer_that_does_not_start(worker, tmp_path):
    with pytest.raises(peers.PeerError, match='ended with status 1, and last said: no licence'):
        worker('mute')
    with pytest.raises(peers.PeerError, match='does not start'):
        peers.Process('fake', [str(tmp_path / 'nobody')], 1)


@pytest.mark.parametrize('name', peers.PEERS)
def test_peers_are_pinned_and_have_a_worker(name):
    peer = peers.PEERS[name]
    assert re.fullmatch(r'[a-z]+==[\w.]+', peer.requirements[0])
    script = peers.WORKERS / peer.script
    compile(script.read_text(), str(script), 'exec')


# --------------------------------------------------------------------------- results

MACHINE = {
    'cpu': 'Paper CPU',
    'architecture': 'paper',
    'processors': 2,
    'load': 0.5,
    'instruction_set': 'avx2',
    'gluon_convpool': '0.1.0',
    'backend': 'native',
    'mxnet': '1.9.1',
}


def timed(median):
    return {'median': median, 'quartiles': [0.9 * median, 1.1 * median]}


def stored(layer, suite, forward, backward, **work):
    record = {'suite': suite, 'title': layer, 'name': layer, 'batch': 1}
    record['algorithms'] = {'forward': 'winograd' if work.get('operations') else None}
    record['passes'] = {
        'forward': {'operations': 0.0, 'bytes': 1.0, **work, 'sides': forward},
        'forward+backward': {'operations': 0.0, 'bytes': 1.0, **work, 'sides': backward},
    }
    return record


@pytest.fixture
def results():
    """Results made by hand: a peak of 2 threads times 100 GFLOP/s, copies at 10 GB/s."""
    forward = {
        'ours': timed(0.001),
        'builtin': timed(0.002),
        'ncnn': timed(0.0005),
        'ours:implicit_gemm': timed(0.004),
        'ours:depthwise': {'reason': 'depthwise cannot do this layer'},
    }
    pooled = {'ours': timed(0.002), 'builtin': timed(0.001)}
    pooled['ncnn'] = {'reason': 'output differs', 'wrong': True}
    both = {'ours': timed(0.003), 'builtin': timed(0.003)}
    both['ncnn'] = {'reason': 'has no forward+backward pass'}
    return {
        'format': command.FORMAT,
        'date': 'today',
        'command': 'python -m gluon_convpool bench',
        'threads': 2,
        'engine': 'NaiveEngine',
        'hybridized': False,
        'machine': MACHINE,
        'peak': {'registers': 1e11, 'micro_kernel': 9e10},
        'bandwidth': {'1048576': 1e10},
        'peers': {
            'ncnn': {'title': 'ncnn', 'version': '1.0', 'note': 'forward only'},
            'openvino': {'title': 'OpenVINO', 'note': '', 'reason': 'is not installed'},
        },
        'layers': [
            stored('3x3', 'resnet', forward, both, operations=3e8),
            stored('max', 'pooling', pooled, both, bytes=1e6),
        ],
        'wrong': False,
        'complete': True,
    }


def test_times_with_packed_weights_have_a_column(results):
    assert 'packed, ms' not in report.comparison(results, 'forward')[0]
    results['layers'][0]['passes']['forward']['sides']['ours:prepacked'] = timed(0.0008)
    head, convolution, pooling, _ = report.comparison(results, 'forward')
    at = head.index('packed, ms')
    assert (convolution[at], pooling[at]) == ('0.8', '-')
    assert head[-2:] == ['built-in', 'ncnn'] and convolution[-2:] == ['2.00', '0.50']
    assert 'packed, ms' not in report.comparison(results, 'forward+backward')[0]


def test_tables_of_stored_results(results):
    head, convolution, pooling, mean = report.comparison(results, 'forward')
    assert head[-2:] == ['built-in', 'ncnn']
    numbers = ['resnet', '3x3', '1', '1', '10 %', '300 GFLOP/s', '150%', 'winograd', '2.00', '0.50']
    assert convolution == numbers
    assert pooling[3:] == ['2', '10 %', '0.5 GB/s', '5%', '-', '0.50', '-']
    assert mean[-2:] == ['1.00', '0.50']
    assert report.comparison(results, 'forward+backward')[1][-2:] == ['1.00', '-']
    rows = report.algorithms(results, 'forward')
    assert rows[1:] == [['resnet', '3x3', '1', 'winograd', '1', '4', '-', '-']]
    assert report.reasons(results) == ['ncnn: output differs (max)']


def show(results, tmp_path, *options):
    path = tmp_path / 'results.json'
    path.write_text(json.dumps(results))
    return program.main(['bench', '--show', str(path), *options])


def test_show_prints_tables_and_draws(results, tmp_path, capsys):
    picture = tmp_path / 'picture.png'
    assert show(results, tmp_path, '--plot', str(picture)) == 0
    printed = capsys.readouterr().out
    for text in ('Paper CPU', 'OpenVINO: is not installed', 'forward+backward:', '300 GFLOP/s'):
        assert text in printed
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_show_prints_markdown_of_some_layers(results, tmp_path, capsys):
    assert show(results, tmp_path, '--markdown', '--suite', 'pooling') == 0
    printed = capsys.readouterr().out
    assert '| pooling | max' in re.sub(' +', ' ', printed)
    assert 'resnet' not in printed


# --------------------------------------------------------------------------- the command


def test_a_run_with_a_peer_and_a_missing_one(tmp_path, quick, capfd):
    script = tmp_path / 'right.py'
    script.write_text(textwrap.dedent(WORKER.format(workers=str(peers.WORKERS), behaviour='right')))
    python = peers.interpreter('ncnn', tmp_path)
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$2"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    where = ['--peers', 'ncnn', 'openvino', '--peer-folder', str(tmp_path), '--threads', '2']
    kept, picture = tmp_path / 'kept.json', tmp_path / 'picture.svg'
    files = ['--json', str(kept), '--plot', str(picture)]
    assert program.main([*TINY, *where, *files]) == 0
    printed = capfd.readouterr()
    assert 'OpenVINO is not installed: make bench installs it' in printed.err
    assert 'max 2x2/2 1, 4x4' in printed.out
    found = json.loads(kept.read_text())
    assert found['peers']['ncnn']['version'] == '1.2'
    assert found['peers']['openvino']['reason'].startswith('is not installed')
    assert found['command'].startswith('python -m gluon_convpool bench --suite seed')
    assert (found['threads'], found['complete'], found['wrong']) == (2, True, False)
    (layer,) = found['layers']
    measured = layer['passes']['forward']['sides']
    assert set(measured) == {'ours', 'builtin', 'ncnn'}
    assert all('median' in entry for entry in measured.values())
    assert picture.exists()
    assert program.main(['bench', '--show', str(kept)]) == 0


STOPPED = ['bench', '--suite', 'seed', '--seconds', '0.01', '--threads', '1']


def stop_at(monkeypatch, owner, name, call):
    """Let the call with this number be the one in which Ctrl-C comes."""
    function, calls = getattr(owner, name), []

    def stopped(*arguments, **options):
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, stopped)


@pytest.fixture
def files(tmp_path):
    """The options that write results, and a function that reads them and looks at the picture."""
    kept, picture = tmp_path / 'kept.json', tmp_path / 'picture.png'

    def read():
        names = sorted(path.name for path in tmp_path.iterdir() if path.suffix != '.py')
        assert names == [kept.name, picture.name]  # and nothing half written
        assert picture.read_bytes().startswith(b'\x89PNG')
        return json.loads(kept.read_text())

    return ['--json', str(kept), '--plot', str(picture)], read


def test_what_was_measured_before_ctrl_c_is_shown_written_and_drawn(
    quick, files, monkeypatch, capfd
):
    options, read = files
    stop_at(monkeypatch, measure, 'measure_layer', 2)
    assert program.main([*STOPPED, *options]) == 130
    printed = capfd.readouterr()
    assert printed.err == 'stopped\n'
    assert 'stopped before all layers were measured' in printed.out
    found = read()
    assert (found['complete'], found['wrong'], len(found['layers'])) == (False, False, 1)
    assert found['layers'][0]['name'] in printed.out
    assert program.main(['bench', '--show', options[1]]) == 0


def test_before_the_first_layer_ctrl_c_leaves_nothing(quick, files, tmp_path, monkeypatch, capfd):
    options, _ = files
    stop_at(monkeypatch, measure, 'measure_layer', 1)
    assert program.main([*STOPPED, *options]) == 130
    assert capfd.readouterr() == ('', 'stopped\n')
    assert list(tmp_path.iterdir()) == []
    stop_at(monkeypatch, measure, 'measure_layer', 1)
    assert program.main([*STOPPED, '--json', '-']) == 130
    assert capfd.readouterr() == ('', 'stopped\n')


def test_a_second_ctrl_c_does_not_stop_the_writing(quick, files, monkeypatch):
    options, read = files
    draw, before = report.draw, signal.getsignal(signal.SIGINT)

    def again(*arguments):
        signal.raise_signal(signal.SIGINT)
        draw(*arguments)

    monkeypatch.setattr(report, 'draw', again)
    stop_at(monkeypatch, measure, 'measure_layer', 2)
    assert program.main([*STOPPED, *options]) == 130
    assert len(read()['layers']) == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_that_ends_the_reader_too_loses_nothing(quick, files, tmp_path):
    """As in ``bench ... 2>&1 | tee FILE``: nobody reads the output and the errors any more."""
    options, read = files
    code = f"""
import os, sys
from gluon_convpool import cli
from gluon_convpool.bench import measure
right, calls = measure.measure_layer, []

def stopped(*arguments):
    calls.append(1)
    if len(calls) == 2:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        raise KeyboardInterrupt
    return right(*arguments)

measure.measure_layer = stopped
cli.start_again_with_threads = lambda: None
sys.argv = ['gluon-convpool', *{[*STOPPED, *options]!r}]
cli.run_as_program()
"""
    assert attempt(code).returncode == 130
    assert len(read()['layers']) == 1


@pytest.fixture
def peer(worker, monkeypatch):
    """A running worker that the command takes for one of its peers."""
    process = worker('right')
    process.name = 'ncnn'
    monkeypatch.setattr(command, 'start', lambda *arguments: ([process], {}))
    return process


POOLING_WITH_PEER = [*STOPPED, '--filter', 'max 2x2/2', '--peers', 'ncnn']


def test_ctrl_c_while_a_peer_is_busy(peer, quick, files, monkeypatch):
    options, read = files
    loaded = []

    def ask(**question):
        if question['do'] == 'load':
            loaded.append(question['layer'])
        if len(loaded) == 2 and question['do'] == 'run':
            # a burst of hours: the peer does not see that nobody waits for its answer
            stop_at(monkeypatch, peer, '_answer', 1)
            question['calls'] = 10**12
        return peers.Process.ask(peer, **question)

    monkeypatch.setattr(peer, 'ask', ask)
    running = peer._process
    assert program.main([*POOLING_WITH_PEER, *options]) == 130
    assert running.returncode == -signal.SIGKILL
    found = read()
    assert (found['complete'], len(found['layers'])) == (False, 1)
    assert 'median' in found['layers'][0]['passes']['forward']['sides']['ncnn']


def test_ctrl_c_while_a_peer_ends_comes_too_late_to_stop_anything(peer, quick, files, monkeypatch):
    options, read = files
    stop_at(monkeypatch, peer, '_end', 1)
    running = peer._process
    assert program.main([*POOLING_WITH_PEER, *options]) == 0
    assert running.returncode is not None
    assert (read()['complete'], len(read()['layers'])) == (True, 2)


def test_wrong_numbers_of_ours_are_exit_status_1(quick, monkeypatch, capsys):
    monkeypatch.setattr(sides, 'our_block', lambda layer: nn.AvgPool2D(2))
    assert program.main([*TINY, '--forward-only']) == 1
    assert 'ours: output differs by' in capsys.readouterr().out


def test_the_command_itself_with_json_on_the_standard_output():
    """In a process of its own, which must start again with the threads and the engine."""
    require_native()
    words = [*TINY, '--filter', '2x2 1 to 1', '--threads', '1', '--engine', 'naive', '--json', '-']
    printed = run(
        f"""
        import subprocess, sys
        words = [sys.executable, '-m', 'gluon_convpool', *{words!r}]
        print(subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True).stdout)
        """,
        OMP_NUM_THREADS=2,
    )
    found = json.loads(printed)
    assert (found['threads'], found['engine']) == (1, 'NaiveEngine')
    assert found['peak']['registers'] > 1e8
    assert found['layers'][0]['algorithms']['forward'] in machine.ALGORITHMS[1:]


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['--seconds', '0'], '--seconds=0: must be more than 0'),
        (['--threads', '0'], '--threads=0: must be at least 1'),
        (['--filter', 'nothing'], 'no layer of resnet is left by --batch and --filter'),
        (['--json', '/nowhere/a.json'], '--json=/nowhere/a.json: there is no folder /nowhere'),
        (['--plot', 'a.txt'], '--plot=a.txt: the name must end in one of'),
        (['--show', 'nowhere.json'], '--show=nowhere.json: No such file or directory'),
        (['--show', __file__], 'is no JSON file'),
    ],
)
def test_mistakes_in_a_call_are_exit_status_2(words, sentence, capsys):
    assert program.main(['bench', *words]) == 2
    assert sentence in capsys.readouterr().err


def test_show_refuses_other_files(results, tmp_path, capsys):
    assert show({'format': 0}, tmp_path) == 2
    assert 'holds no results' in capsys.readouterr().err
    assert show(results, tmp_path, '--filter', 'nothing') == 2
    assert 'holds no layer that is asked for' in capsys.readouterr().err


def test_show_names_what_is_missing_in_a_damaged_file(results, tmp_path, capsys):
    assert show({'format': 1}, tmp_path) == 2
    assert capsys.readouterr().err.endswith(".json: is damaged: it has no 'date'\n")
    for key in set(results) - {'format', 'seconds', 'tolerance', 'networks'}:
        for damaged in ({k: v for k, v in results.items() if k != key}, {**results, key: None}):
            assert show(damaged, tmp_path) == 2
            assert capsys.readouterr().err.endswith(f'.json: is damaged: it has no {key!r}\n')
    (tmp_path / 'deep.json').write_text('[' * 100_000)
    assert program.main(['bench', '--show', str(tmp_path / 'deep.json')]) == 2
    assert 'is no JSON file' in capsys.readouterr().err


def test_list_measures_nothing(capsys):
    assert program.main(['bench', '--list', '--suite', 'seed']) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(suites.SUITES['seed'])


def test_without_the_extra_it_says_what_to_install():
    outcome = attempt(
        """
        import sys
        from gluon_convpool import _program, cli
        _program.find_spec = lambda name: None if name == 'tabulate' else name
        sys.exit(cli.main(['bench']))
        """
    )
    assert outcome.returncode == 2
    assert 'needs tabulate: pip install "gluon_convpool[bench]"' in outcome.stderr
