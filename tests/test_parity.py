"""The comparison accepts a right layer, rejects one that is a little wrong, and says where."""

from __future__ import annotations

import itertools
import re
import textwrap

import mxnet as mx
import numpy as np
import pytest
from isolated import run
from mxnet.gluon import nn

from gluon_convpool.testing import (
    BUILTIN,
    MODES,
    ConvolutionCase,
    ConvolutionTransposeCase,  # noqa: F401, what some cases are written as
    ParityError,
    PoolingCase,
    array_kind,
    assert_close,
    assert_gradients_numeric,
    assert_layers_match,
    assert_same,
    draw,
    parity_cases,
    relative_difference,
)

CASE = ConvolutionCase(padding=1)
NAMES = {'layer.weight': 'weight', 'layer.bias': 'bias'}


class Wrong(mx.gluon.HybridBlock):
    """A layer with one mistake after it."""

    def __init__(self, mistake, layer):
        super().__init__()
        self.mistake, self.layer = mistake, layer

    def hybrid_forward(self, F, x):
        y = self.layer(x)
        return getattr(self, '_' + self.mistake)(F, x, y)

    def _nothing(self, F, x, y):
        return y

    def _output_scaled(self, F, x, y):
        return y * (1 + 5e-5)

    def _output_shifted(self, F, x, y):
        return y + 1e-3

    def _gradient_scaled(self, F, x, y):
        return y * (1 + 5e-5) - F.BlockGrad(y * 5e-5)

    def _gradient_lost(self, F, x, y):
        return F.BlockGrad(y)

    def _gradient_twice(self, F, x, y):
        return y + y - F.BlockGrad(y)

    def _tap_lost(self, F, x, y):
        return F.broadcast_sub(y, F.slice_axis(x, axis=1, begin=0, end=1) * 1e-3)

    def _shape(self, F, x, y):
        return F.expand_dims(y, axis=0)


class Shifted(BUILTIN.Conv2D):
    """MXNet's convolution, with an output that is a little too large."""

    def hybrid_forward(self, F, x, weight, bias=None):
        return super().hybrid_forward(F, x, weight, bias) + 1e-3


class Kernel(mx.gluon.HybridBlock):
    """A right convolution whose parameters have names of their own, and no bias."""

    def __init__(self, channels, size):
        super().__init__()
        with self.name_scope():
            self.kernel = self.params.get('kernel', shape=(channels, 3, size, size))

    def hybrid_forward(self, F, x, kernel):
        size = kernel.shape[2:] if hasattr(kernel, 'shape') else (3, 3)
        return F.Convolution(x, kernel, kernel=size, num_filter=4, no_bias=True)


def wrong(mistake):
    return Wrong(mistake, CASE.build(BUILTIN))


# ---------------------------------------------------------------------------------- whole layers


def test_accepts_the_layer_itself(nd_arrays):
    assert_layers_match(wrong('nothing'), CASE, names=NAMES)
    assert_layers_match(wrong('nothing'), CASE.build(BUILTIN), CASE.x, names=NAMES)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize(
    'mistake, where',
    [
        ('output_scaled', 'output'),
        ('output_shifted', 'output'),
        ('gradient_scaled', '(x|weight|bias)'),
        ('gradient_lost', '(x|weight|bias)'),
        ('gradient_twice', '(x|weight|bias)'),
        ('tap_lost', 'output'),
        ('shape', r'output: has shape \(1, 2, 4, 11, 13\), expected \(2, 4, 11, 13\)'),
    ],
)
@pytest.mark.parametrize('reference', ['case', 'layer'])
def test_rejects_a_layer_with_a_mistake(reference, mistake, where, mode, nd_arrays):
    against = (CASE,) if reference == 'case' else (CASE.build(BUILTIN), CASE.x)
    with pytest.raises(ParityError, match=f'^mode {mode!r}: {where}'):
        assert_layers_match(wrong(mistake), *against, modes=[mode], names=NAMES)


def test_a_mistake_in_one_mode_alone_is_found(nd_arrays):
    class OnlyHybrid(Wrong):
        def hybrid_forward(self, F, x):
            self.mistake = 'nothing' if F is mx.nd else 'output_shifted'
            return super().hybrid_forward(F, x)

    layer = OnlyHybrid('nothing', CASE.build(BUILTIN))
    assert_layers_match(layer, CASE, modes=['imperative'], names=NAMES)
    with pytest.raises(ParityError, match=r"^mode 'hybrid': output"):
        assert_layers_match(layer, CASE, names=NAMES)


def test_without_gradients_only_the_output_counts(nd_arrays):
    assert_layers_match(wrong('gradient_twice'), CASE, gradients=False, names=NAMES)
    with pytest.raises(ParityError, match='output'):
        assert_layers_match(wrong('output_shifted'), CASE, gradients=False, names=NAMES)


def test_the_tolerance_is_what_was_asked_for(nd_arrays):
    assert_layers_match(wrong('output_scaled'), CASE, rtol=1e-4, names=NAMES)


def test_a_lost_gradient_of_a_parameter_is_found(np_or_nd):
    layer = CASE.build(BUILTIN)
    layer.weight.grad_req = 'null'
    with pytest.raises(ParityError, match='weight: is missing'):
        assert_layers_match(layer, CASE)


def test_rejects_another_layer(np_or_nd):
    (x,) = draw('another layer', (2, 3, 6, 6))
    with pytest.raises(ParityError, match='output'):
        assert_layers_match(nn.Conv2D(4, 3, activation='relu'), nn.Conv2D(4, 3), x)
    with pytest.raises(ParityError, match='output'):
        assert_layers_match(nn.MaxPool2D(2, ceil_mode=True), nn.AvgPool2D(2), x)


def test_names_of_parameters_may_differ(nd_arrays):
    case = ConvolutionCase(use_bias=False)
    assert_layers_match(Kernel(4, 3), case, names={'kernel': 'weight'})
    with pytest.raises(ValueError, match=r"\['kernel'\], the reference \['weight'\]; say which"):
        assert_layers_match(Kernel(4, 3), case)


def test_a_function_makes_a_new_layer_for_each_mode(np_or_nd):
    made = []

    def make():
        made.append(CASE.build(BUILTIN))
        return made[-1]

    assert_layers_match(make, CASE)
    assert len(made) == len(set(map(id, made))) == len(MODES)


def test_layers_of_several_inputs_outputs_and_indices(np_or_nd):
    class Looked(mx.gluon.HybridBlock):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor
            with self.name_scope():
                self.table = nn.Embedding(5, 3)

        def hybrid_forward(self, F, indices, x):
            y = self.table(indices)
            return y * self.factor, y * x

    indices, (x,) = np.array([[1, 4], [0, 1]], 'int32'), draw('factors', (2, 2, 3))
    assert_layers_match(Looked(2), Looked(2), indices, x)
    assert_layers_match(Looked(2), Looked(2), indices, array_kind().array(x))
    with pytest.raises(ParityError, match='output:'):
        assert_layers_match(Looked(2.001), Looked(2), indices, x)


def test_statistics_that_training_changes_do_not_matter(np_or_nd):
    def network():
        net = nn.HybridSequential()
        net.add(nn.Conv2D(4, 3), nn.BatchNorm(), nn.Dense(2))
        net.initialize(mx.init.Normal(1))
        return net

    assert_layers_match(network(), network(), draw('statistics', (4, 3, 6, 6))[0])


@pytest.mark.parametrize('batch', [0, 2])
def test_float64_and_empty_batches(batch, np_or_nd):
    x = draw('doubles', (batch, 3, 6, 6))[0].astype('float64')
    assert_layers_match(nn.Lambda(lambda y: y * 2), nn.Lambda(lambda y: y + y), x, rtol=0)


@pytest.mark.parametrize(
    'arguments, options, sentence',
    [
        ((nn.MaxPool2D(), 3), {}, 'reference must be a Gluon block or a case of the grid, not int'),
        (('x', CASE), {}, 'layer must be a Gluon block or a function that returns one, not str'),
        ((nn.MaxPool2D(), PoolingCase(), np.ones(3)), {}, 'brings its own input, but 1 inputs'),
        ((nn.MaxPool2D(), PoolingCase()), {'modes': ['fast']}, "modes='fast' is unknown; allowed"),
    ],
    ids=['reference', 'layer', 'inputs', 'modes'],
)
def test_calls_that_make_no_sense(arguments, options, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        assert_layers_match(*arguments, **options)


# ---------------------------------------------------------------------------------- single arrays


@pytest.mark.parametrize(
    'actual, expected',
    [
        ([1.0, 2.0], [1.0, 2.0001]),
        ([1.0, np.nan], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, np.nan]),
        ([np.inf, 2.0], [-np.inf, 2.0]),
        ([np.inf, 2.0], [1.0, 2.0]),
        ([3e38, 2.0], [np.inf, 2.0]),
        ([1e-30, 0.0], [0.0, 0.0]),
        ([[1.0, 2.0]], [1.0, 2.0]),
        ([], [1.0]),
    ],
    ids=str,
)
def test_rejects_arrays_that_differ(actual, expected):
    with pytest.raises(ParityError):
        assert_close('array', actual, expected)


@pytest.mark.parametrize(
    'array', [[1.0, 2.0], [np.nan, np.inf, -np.inf, 3.0], [np.nan], [0.0, 0.0], []], ids=str
)
def test_accepts_arrays_that_are_equal(array):
    assert_close('array', array, array)
    assert_close('array', np.float32(array), array)


@pytest.mark.parametrize('arrays', [('output',), ('output', 'x', 'weight')], ids=str)
def test_rejects_a_missing_array_and_one_too_many(arrays):
    with pytest.raises(ParityError, match=r'(x: is missing|weight: is there)'):
        assert_same({name: [1.0] for name in arrays}, {'output': [1.0], 'x': [1.0]})


def test_the_message_says_where_and_by_how_much():
    """On paper: the largest expected value is 8, so that 8 * 1e-2 is allowed."""
    with pytest.raises(ParityError) as caught:
        assert_close('weight', [[8, 2.05], [3.25, 4.5]], [[8, 2], [3, 4]], rtol=1e-2)
    assert str(caught.value) == textwrap.dedent(
        """\
        weight: 2 of 4 values differ
          first at [1, 0]: 3.25, expected 3.0
          most at [1, 1]: 4.5, expected 4.0
          tolerance: 0.08 (rtol=0.01 of the largest expected value, 8)"""
    )


@pytest.mark.parametrize(
    'actual, expected, difference',
    [
        ([1, 2, 3], [1, 2, 4], 0.25),
        ([0, 0], [0, 0], 0),
        ([], [], 0),
        ([1, 0], [0, 0], np.inf),
        ([np.nan, 1], [np.nan, 2], 0.5),
        ([np.nan, 1], [1, 1], np.inf),
    ],
    ids=str,
)
def test_relative_difference_on_paper(actual, expected, difference):
    assert relative_difference(actual, expected) == difference


# ---------------------------------------------------------------------------------- the grid


def test_every_case_draws_arrays_of_its_own():
    one, other = PoolingCase().x, PoolingCase(mode='avg').x
    assert one.shape == other.shape and not np.array_equal(one, other)


def test_every_case_has_its_own_name_and_is_written_as_it_is_made():
    for kind, dims in itertools.product(('conv', 'conv_transpose', 'pool'), (1, 2, 3)):
        cases = [parameter.values[0] for parameter in parity_cases(kind, dims, grid='full')]
        assert len(set(map(str, cases))) == len(cases)
        assert all(eval(repr(case)) == case for case in cases)


@pytest.mark.parametrize('kind', ['conv', 'pool'])
def test_the_quick_grid_is_a_small_part_with_every_value_of_every_argument(kind):
    def values(grid):
        cases = [parameter.values[0] for parameter in parity_cases(kind, grid=grid)]
        items = {item for case in cases for item in vars(case).items()}
        return set(cases), {item for item in items if item[0] not in ('size', 'channels')}

    (quick, quick_values), (full, full_values) = values('quick'), values('full')
    assert quick < full and len(quick) < len(full) / 4
    assert quick_values == full_values


def test_only_the_cases_that_are_asked_for():
    cases = [parameter.values[0] for parameter in parity_cases('pool', mode='max', padding=0)]
    assert cases and {(case.mode, case.padding) for case in cases} == {('max', 0)}
    tails = {parameter.id for parameter in parity_cases('conv', grid='full', tails=True)}
    others = {parameter.id for parameter in parity_cases('conv', grid='full', tails=False)}
    assert tails | others == {parameter.id for parameter in parity_cases('conv', grid='full')}


@pytest.mark.parametrize(
    'arguments, sentence',
    [
        ({'kind': 'dense'}, "kind='dense' is unknown; allowed: 'conv', 'conv_transpose', 'pool'"),
        ({'dims': 4}, 'dims=4 is unknown; allowed: 1, 2, 3'),
        ({'grid': 'huge'}, "grid='huge' is unknown; allowed: 'quick', 'full'"),
        ({'kernel': 3}, "there is no field 'kernel'; the cases have batch, channels, size"),
    ],
    ids=lambda value: '' if isinstance(value, str) else next(iter(value)),
)
def test_unknown_choices_of_cases(arguments, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        parity_cases(**arguments)


# ---------------------------------------------------------------------------------- reproducers


def failure(call, *arguments, **options):
    with pytest.raises(ParityError) as caught:
        call(*arguments, **options)
    return caught.value


def network(layer):
    net = nn.HybridSequential()
    net.add(layer, nn.BatchNorm(), nn.Dense(2))
    net.initialize(mx.init.Normal(1))
    return net


def test_programs_reproduce_what_they_came_with(tmp_path):
    """A layer of the grid; a whole network, which has to be stored; and a numeric gradient."""
    (x,) = draw('a network', (2, 3, 11, 13))
    failures = [
        failure(assert_layers_match, CASE.build(Shifted), CASE),
        failure(
            assert_layers_match,
            network(Shifted(4, 3)),
            network(nn.Conv2D(4, 3)),
            x,
            modes=['static'],
        ),
        failure(assert_layers_match, lambda: CASE.build(Shifted), CASE.build(BUILTIN), CASE.x),
        failure(assert_gradients_numeric, wrong('gradient_twice'), CASE.x, dtype='float32'),
    ]
    assert 'pickle' not in failures[0].reproducer and 'pickle' in failures[1].reproducer
    for i, error in enumerate(failures):
        assert error.reproducer in str(error)
        (tmp_path / f'{i}.py').write_text(error.reproducer)
    printed = run(
        f"""
        import runpy
        for i in range({len(failures)}):
            try:
                runpy.run_path({str(tmp_path)!r} + f'/{{i}}.py', run_name='__main__')
            except AssertionError as error:
                print(error.explanation)
        """
    )
    assert printed.rstrip() == '\n'.join(error.explanation for error in failures)


def test_a_program_says_how_the_layer_was_run(any_backend, np_or_nd):
    layer = CASE.build(nn)
    layer.hybridize()
    case = ConvolutionCase(padding=1, strides=2)
    text = failure(
        assert_layers_match, Shifted(**case.arguments), case, modes=['hybrid']
    ).reproducer
    assert f'with gluon_convpool.use_backend({any_backend!r})' in text
    assert f'testing.array_semantics({np_or_nd!r})' in text
    assert 'reference = testing.ConvolutionCase(strides=2, padding=1)' in text
    assert "modes=('hybrid',)" in text


def test_a_layer_that_was_changed_is_stored_and_not_built_anew(nd_arrays):
    layer = CASE.build(Shifted)
    assert (
        'reference.build(test_parity.Shifted)'
        in failure(assert_layers_match, layer, CASE).reproducer
    )
    layer._kwargs['pad'] = (0, 0)
    assert 'pickle' in failure(assert_layers_match, layer, CASE).reproducer


def test_a_layer_that_cannot_be_stored_is_reproduced_by_its_test(nd_arrays, request):
    class Local(Shifted):
        pass

    text = failure(assert_layers_match, CASE.build(Local), CASE).reproducer
    assert re.match(r'# Nothing smaller reproduces it: .*Local.* cannot be imported', text)
    assert f'pytest.main([{request.node.nodeid!r}])' in text
