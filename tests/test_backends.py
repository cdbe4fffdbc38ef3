"""Which backend computes, how many threads it takes, and what `info` says about it."""

from __future__ import annotations

import json
import os
import threading

import mxnet as mx
import numpy as np
import pytest
from conftest import PACKAGE
from isolated import attempt, run

import gluon_convpool
from gluon_convpool import (
    backends,
    functional,
    get_num_threads,
    info,
    nn,
    set_num_threads,
    use_backend,
)
from gluon_convpool.testing import (
    MODES,
    ConvolutionCase,
    PoolingCase,
    array_kind,
    assert_close,
    assert_layers_match,
    draw,
    reference,
    set_mode,
)
from gluon_convpool.testing.plugin import require_native


def _graph(kind='nd'):
    data, weight = mx.sym.var('x'), mx.sym.var('w')
    y = functional.convolution(data, weight, kernel_size=3, channels=4)
    return functional.pooling(y).tojson()


def test_native_graphs_hold_our_operators(native):
    assert 'convpool_convolution' in _graph() and 'convpool_pooling' in _graph()


def test_portable_graphs_hold_only_operators_that_mxnet_ships():
    use_backend('portable')
    assert 'convpool' not in _graph()


def test_portable_graphs_do_not_grow_with_the_image():
    """No loop over pixels: the graph has as many nodes whatever the input."""
    use_backend('portable')
    counts = set()
    for size in (8, 64):
        net = nn.HybridSequential()
        net.add(nn.Conv2D(4, 3, in_channels=3), nn.MaxPool2D(3, 2))
        net.initialize()
        net.hybridize()
        net(mx.nd.ones((1, 3, size, size)))
        symbol = net(mx.sym.var('data'))
        counts.add(len(json.loads(symbol.tojson())['nodes']))
    assert len(counts) == 1


class Counted:
    """Counts the calls that reach a backend."""

    def __init__(self, monkeypatch, *modules):
        self.calls = {module.__name__.rsplit('.', 1)[1]: 0 for module in modules}
        for module in modules:
            for name in ('convolution', 'pooling'):
                monkeypatch.setattr(module, name, self._counting(module, getattr(module, name)))

    def _counting(self, module, function):
        def counted(*arguments, **keywords):
            self.calls[module.__name__.rsplit('.', 1)[1]] += 1
            return function(*arguments, **keywords)

        return counted


@pytest.fixture
def counted(monkeypatch):
    return Counted(monkeypatch, backends.native, backends.portable)


def _both(dtype='float32', layout='NCHW'):
    x = mx.nd.ones((1,) + (4,) * (len(layout) - 1), dtype=dtype)
    window = (3,) * (len(layout) - 2)
    weight = mx.nd.ones((2, 4, *window) if layout[1] == 'C' else (2, *window, 4), dtype=dtype)
    functional.convolution(x, weight, layout=layout)
    functional.pooling(x, layout=layout)


def test_the_chosen_backend_computes(counted, any_backend):
    _both()
    other = 'portable' if any_backend == 'native' else 'native'
    assert counted.calls == {any_backend: 2, other: 0}


@pytest.mark.parametrize('layout', ['NCW', 'NWC', 'NCHW', 'NHWC', 'NCDHW', 'NDHWC'])
@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_auto_takes_native_for_what_it_can(dtype, layout, counted, native):
    use_backend('auto')
    _both(dtype, layout)
    assert counted.calls == {'native': 2, 'portable': 0}


def test_auto_takes_portable_for_the_rest(counted, monkeypatch, native):
    monkeypatch.setattr(backends.native, 'DTYPES', ('float64',))
    use_backend('auto')
    _both(layout='NHWC')  # with channels first, MXNet's own layer would be asked
    assert counted.calls == {'native': 0, 'portable': 2}


def test_native_says_what_it_lacks(monkeypatch, native):
    monkeypatch.setattr(backends.native, 'DTYPES', ('float64',))
    with pytest.raises(ValueError, match=r'(?s)native.*float32'):
        _both()


def test_use_backend_as_a_context_ends_with_it():
    use_backend('portable')
    with use_backend('auto'):
        inside = info().backend
    assert info().backend == 'portable'
    use_backend('auto')
    assert info().backend == inside


def test_a_context_ends_with_an_error_too():
    use_backend('auto')
    before = info().backend
    with pytest.raises(KeyError), use_backend('portable'):
        raise KeyError
    assert info().backend == before


@pytest.mark.parametrize('name', ['native', 'portable'])
def test_environment_variable_chooses(name):
    if name == 'native':
        require_native()
    printed = run(
        'import gluon_convpool; print(gluon_convpool.info().backend)', GLUON_CONVPOOL_BACKEND=name
    )
    assert printed.split() == [name]


def test_environment_variable_with_an_unknown_name():
    outcome = attempt('import gluon_convpool', GLUON_CONVPOOL_BACKEND='cuda')
    assert outcome.returncode != 0
    last = outcome.stderr.strip().splitlines()[-1]
    for word in ('GLUON_CONVPOOL_BACKEND', "'cuda'", "'native'", "'portable'", "'auto'"):
        assert word in last


# ------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize('n', [1, 2, 3, 64])
def test_number_of_threads_is_what_was_set(n, thread_count):
    thread_count(n)
    assert get_num_threads() == n == info().threads
    case = ConvolutionCase(batch=3, padding=1)
    assert_layers_match(case.build(nn), case, gradients=False, modes=['imperative'])


def test_numpy_integers_count_threads(thread_count):
    thread_count(np.int64(2))
    assert get_num_threads() == 2


@pytest.mark.parametrize('n', [1, 3])
def test_omp_num_threads_is_respected(n):
    printed = run(
        'import gluon_convpool; print(gluon_convpool.get_num_threads())', OMP_NUM_THREADS=n
    )
    assert printed.split() == [str(n)]


def test_default_is_what_the_process_may_use(native):
    printed = run(
        """
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        import gluon_convpool
        print(gluon_convpool.get_num_threads())
        """,
        OMP_NUM_THREADS=None,
    )
    assert printed.split() == ['1']
    printed = run(
        'import gluon_convpool; print(gluon_convpool.get_num_threads())', OMP_NUM_THREADS=None
    )
    assert 1 <= int(printed) <= len(os.sched_getaffinity(0))


# ---------------------------------------------------------------------------------------- info


def test_info_names_the_library_the_instruction_set_the_threads_and_the_backend(native, library):
    report = info()
    assert report.backend == 'native' and report.native and not report.reason
    assert report.library == str(PACKAGE / 'libconvpool.so')
    assert report.instruction_set == library.convpool_instruction_set().decode()
    assert report.instruction_set in ('baseline', 'avx2', 'avx512')
    assert report.threads == get_num_threads() == library.convpool_get_num_threads()
    assert report.version == gluon_convpool.__version__
    assert report.mxnet == mx.__version__ and report.numpy == np.__version__
    for value in (report.library, report.instruction_set, str(report.threads), 'native'):
        assert value in str(report)


def test_an_unknown_instruction_set_is_refused(library):
    before = library.convpool_instruction_set()
    assert library.convpool_set_instruction_set(b'avx9000') != 0
    assert library.convpool_instruction_set() == before


def test_without_a_name_the_instruction_set_is_the_best_again(library):
    best = library.convpool_instruction_set()
    assert library.convpool_set_instruction_set(b'baseline') == 0
    assert library.convpool_set_instruction_set(None) == 0
    assert library.convpool_instruction_set() == best


def test_without_the_library_everything_works_and_info_says_why(tmp_path):
    """A copy of the package without its library is what an install without a compiler leaves."""
    import shutil

    target = tmp_path / 'gluon_convpool'
    ignored = shutil.ignore_patterns('*.so', 'native', '__pycache__')
    shutil.copytree(str(PACKAGE), str(target), ignore=ignored)
    reason = 'no C++ compiler was found'
    (target / '_build.json').write_text(json.dumps({'built': False, 'reason': reason}))
    outcome = attempt(
        f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import gluon_convpool, mxnet as mx
        assert gluon_convpool.__file__.startswith({str(tmp_path)!r})
        report = gluon_convpool.info()
        print(report.backend, report.native)
        print(report)
        y = gluon_convpool.functional.pooling(mx.nd.ones((1, 1, 2, 2)), mode="sum")
        print(y.asnumpy().tolist())
        gluon_convpool.set_num_threads(2)
        print(gluon_convpool.get_num_threads())
        try:
            gluon_convpool.use_backend("native")
        except ValueError as error:
            print(error)
        """,
        GLUON_CONVPOOL_BACKEND=None,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.startswith('portable False')
    assert outcome.stdout.count(reason) >= 2
    assert '[[[[4.0]]]]\n2\n' in outcome.stdout
    assert reason in outcome.stderr and 'g++' in outcome.stderr


# -------------------------------------------------------------------- graphs of every dtype


@pytest.mark.parametrize('mode', MODES)
def test_a_network_cast_to_float64_runs_in_float64(mode, any_dtype_backend, np_or_nd):
    net = nn.HybridSequential()
    net.add(
        nn.Conv2D(4, 3, in_channels=3), nn.MaxPool2D(), nn.AvgPool2D(2, 1), nn.GlobalAvgPool2D()
    )
    net.initialize()
    net.cast('float64')
    set_mode(net, mode)
    y = net(array_kind().ones((2, 3, 12, 12), dtype='float64'))
    assert y.dtype == np.float64 and y.shape == (2, 4, 1, 1)


def test_a_graph_finds_its_dtype_from_what_arrives(native, nd_arrays):
    """Symbols do not know their dtype: the parameters and data that are bound to them do."""
    x, weight = draw('bound', (1, 3, 8, 8), (4, 3, 3, 3))
    known = {'kernel_size': 3, 'channels': 4}
    out = functional.pooling(
        functional.convolution(mx.sym.var('x'), mx.sym.var('weight'), padding=1, **known),
        2,
        mode='avg',
    )
    results = {}
    for dtype in ('float32', 'float64'):
        given = {'x': mx.nd.array(x, dtype=dtype), 'weight': mx.nd.array(weight, dtype=dtype)}
        results[dtype] = out.bind(mx.cpu(), given).forward()[0].asnumpy()
        assert results[dtype].dtype == dtype
    expected = reference.pooling(reference.convolution(x, weight, padding=1), 2, mode='avg')
    assert_close('output', results['float64'], expected, rtol=1e-13)
    assert_close('output', results['float32'], expected)


@pytest.mark.parametrize('which', ['x', 'weight', 'bias'])
def test_a_graph_refuses_mixed_dtypes(which, native, nd_arrays):
    shapes = {'x': (1, 3, 8, 8), 'weight': (4, 3, 3, 3), 'bias': (4,)}
    out = functional.convolution(*map(mx.sym.var, shapes), kernel_size=3, channels=4)
    given = {
        name: mx.nd.ones(shape, dtype='float64' if name == which else 'float32')
        for name, shape in shapes.items()
    }
    with pytest.raises(mx.base.MXNetError, match=r'convolution: .*float(32|64), .*float(32|64)'):
        out.bind(mx.cpu(), given).forward()


@pytest.mark.parametrize('dtypes', [('float32', 'float64'), ('float64', 'float32')])
def test_a_hybridized_layer_takes_one_dtype_after_another(dtypes, any_dtype_backend, np_or_nd):
    layer = nn.MaxPool2D()
    layer.hybridize()
    for dtype in dtypes:
        y = layer(array_kind().array(PoolingCase().x.astype(dtype), dtype=dtype))
        assert y.dtype == np.dtype(dtype)
        assert_close('output', y.asnumpy(), PoolingCase().from_loops()[1]['output'], rtol=1e-6)


def test_a_choice_holds_in_every_thread(native):
    use_backend('portable')
    seen = []
    thread = threading.Thread(target=lambda: seen.append(info().backend))
    thread.start()
    thread.join()
    assert seen == ['portable']
    assert set_num_threads(get_num_threads()) is None
