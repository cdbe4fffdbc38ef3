"""The pictures of a sliding window: they say the layers' numbers, one window to a frame."""

from __future__ import annotations

import io
import re
from functools import partial

import mxnet as mx
import numpy as np
import pytest
from isolated import run
from scipy import signal

pytest.importorskip('matplotlib', reason='Matplotlib is missing: see the extra viz')

import matplotlib.pyplot as plt
from PIL import Image

from gluon_convpool import viz
from gluon_convpool.testing import reference

X = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
K = [[0, 1], [2, 3]]


def texts_of(ax):
    return [text.get_text() for text in ax.texts]


def texts(window, axes=0):
    return texts_of(window.figure.axes[axes])


def frames_of_gif(path):
    with Image.open(path) as picture:
        return picture.n_frames


def frames_of_page(html):
    return len(re.findall(r'frames\[\d+\] = "data:image/png;base64,', html))


# --------------------------------------------------------------------------------- the numbers

CONVOLUTIONS = [
    {},
    {'padding': 1},
    {'padding': (2, 0), 'strides': (1, 2)},
    {'dilation': 2},
    {'dilation': (1, 2), 'padding': 1, 'strides': 2},
]
POOLINGS = [
    {},
    {'pool_size': (1, 3)},
    {'pool_size': 3, 'strides': 2, 'padding': 1},
    {'pool_size': 2, 'strides': 2, 'ceil_mode': True},
    {'pool_size': 3, 'strides': 2, 'padding': 1, 'count_include_pad': False},
    {'pool_size': 3, 'strides': 3, 'padding': 1, 'ceil_mode': True},
    {
        'pool_size': 3,
        'strides': 2,
        'padding': (1, 0),
        'ceil_mode': True,
        'count_include_pad': False,
    },
    {'pool_size': 1, 'strides': 3, 'ceil_mode': True},
]


# Arguments, a kernel's size, and what stands before and behind the data along each axis: 'same'
# adds the extent of the window less one, the smaller half before.
CONVOLUTIONS_WITH_SIDES = [
    ({'padding': 'valid'}, (2, 3), ((0, 0), (0, 0))),
    ({'padding': 'same'}, (2, 3), ((0, 1), (1, 1))),
    ({'padding': 'same', 'strides': (3, 2)}, (4, 2), ((1, 2), (0, 1))),
    ({'padding': 'same', 'dilation': (3, 1)}, (2, 4), ((1, 2), (1, 2))),
    ({'padding': ((2, 0), (0, 3)), 'strides': (1, 2)}, (3, 2), ((2, 0), (0, 3))),
    ({'padding': [(1, 1), [0, 2]], 'dilation': 2}, (2, 2), ((1, 1), (0, 2))),
]
POOLINGS_WITH_SIDES = [
    ({'padding': 'valid'}, (2, 3), ((0, 0), (0, 0))),
    ({'padding': 'same'}, (2, 3), ((0, 1), (1, 1))),
    ({'padding': 'same', 'strides': (3, 2)}, (4, 2), ((1, 2), (0, 1))),
    ({'padding': ((2, 0), (0, 1)), 'strides': (1, 2)}, (3, 2), ((2, 0), (0, 1))),
    ({'padding': [(1, 1), [0, 2]], 'strides': 2}, (3, 4), ((1, 1), (0, 2))),
]


def by_arguments(arguments):
    return ','.join('%s=%s' % item for item in arguments.items()) or 'plain'


@pytest.mark.parametrize('arguments', CONVOLUTIONS, ids=by_arguments)
def test_output_is_the_convolution(arguments):
    random = np.random.RandomState(0)
    x, k = random.randn(5, 6), random.randn(2, 3)
    expected = reference.convolution(x[None, None], k[None, None], **arguments)[0, 0]
    np.testing.assert_allclose(viz.explain_corr2d(x, k, **arguments).Y, expected, rtol=1e-12)


@pytest.mark.parametrize('mode', ['max', 'avg', 'sum'])
@pytest.mark.parametrize('arguments', POOLINGS, ids=by_arguments)
def test_output_is_the_pooling(arguments, mode):
    x = np.random.RandomState(0).randn(5, 6) - 3
    expected = reference.pooling(
        x[None, None], **{'pool_size': 2, 'strides': 1, **arguments}, mode=mode
    )[0, 0]
    np.testing.assert_allclose(
        viz.explain_pool2d(x, mode=mode, **arguments).Y, expected, rtol=1e-12
    )


@pytest.mark.parametrize('arguments, kernel, pairs', CONVOLUTIONS_WITH_SIDES, ids=str)
def test_output_is_the_convolution_where_the_sides_differ(arguments, kernel, pairs):
    random = np.random.RandomState(0)
    x, k = random.randn(5, 6), random.randn(*kernel)
    (d, e), (s, t) = (np.broadcast_to(arguments.get(n, 1), 2) for n in ('dilation', 'strides'))
    holes = np.zeros((d * (kernel[0] - 1) + 1, e * (kernel[1] - 1) + 1))
    holes[::d, ::e] = k
    expected = signal.correlate(np.pad(x, pairs), holes, 'valid', 'direct')[::s, ::t]
    found = viz.explain_corr2d(x, k, **arguments).Y
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize('mode', ['max', 'avg', 'avg of the data', 'sum'])
@pytest.mark.parametrize('arguments, kernel, pairs', POOLINGS_WITH_SIDES, ids=str)
def test_output_is_the_pooling_where_the_sides_differ(arguments, kernel, pairs, mode):
    x = np.random.RandomState(0).randn(5, 6) - 3
    s, t = np.broadcast_to(arguments.get('strides', 1), 2)

    def added(matrix):
        return signal.correlate(np.pad(matrix, pairs), np.ones(kernel), 'valid', 'direct')[::s, ::t]

    if mode == 'max':
        wide = np.pad(x, pairs, constant_values=-np.inf)
        windows = np.lib.stride_tricks.sliding_window_view(wide, kernel)[::s, ::t]
        expected = windows.max(axis=(-2, -1))
    else:
        counts = {'sum': 1, 'avg': np.prod(kernel), 'avg of the data': added(np.ones_like(x))}
        expected = added(x) / counts[mode]
    found = viz.explain_pool2d(
        x, kernel, mode[:3], **arguments, count_include_pad=mode != 'avg of the data'
    )
    np.testing.assert_allclose(found.Y, expected, rtol=1e-12)


def test_padding_behind_the_data_alone_is_written_out():
    window = viz.explain_corr2d(X, K, padding='same', steps=2)
    assert window.Y.tolist() == [[19, 25, 10], [37, 43, 16], [7, 8, 0]]
    assert 'Y[0, 2] = 2·0 + 0·1 + 5·2 + 0·3 = 10' in texts(window)


def test_padding_before_the_data_alone_is_written_out():
    window = viz.explain_corr2d(X, K, padding=((1, 0), (1, 0)))
    assert window.Y.tolist() == [[0, 3, 8], [9, 19, 25], [21, 37, 43]]
    assert 'Y[0, 0] = 0·0 + 0·1 + 0·2 + 0·3 = 0' in texts(window)


def hatched_cells(window):
    """Rows and columns of the padding, counted from the corner of the first window."""
    patches = window.figure.axes[0].patches
    # Of the two thick frames, the output's is filled.
    frame = next(p for p in patches if p.get_linewidth() == 2.6 and p.get_facecolor()[3] == 0)
    hatched = [p for p in patches if p.get_hatch()]
    left, top = frame.get_xy()
    return sorted((round(p.get_y() - top), round(p.get_x() - left)) for p in hatched)


@pytest.mark.parametrize(
    'padding, pairs',
    [
        (0, ((0, 0), (0, 0))),
        ((0, 1), ((0, 0), (1, 1))),
        ('same', ((0, 1), (0, 1))),
        (((1, 0), (0, 1)), ((1, 0), (0, 1))),
        (((1, 0), (1, 1)), ((1, 0), (1, 1))),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    'explain',
    [partial(viz.explain_corr2d, X, K), partial(viz.explain_pool2d, X)],
    ids=['corr2d', 'pool2d'],
)
def test_padding_is_drawn_on_the_sides_where_it_is(explain, padding, pairs):
    (top, bottom), (left, right) = pairs
    around = [
        (row, column)
        for row in range(top + 3 + bottom)
        for column in range(left + 3 + right)
        if not (top <= row < top + 3 and left <= column < left + 3)
    ]
    assert hatched_cells(explain(padding=padding)) == around


@pytest.mark.parametrize(
    'padding, named',
    [
        (1, 'padding 1'),
        ((1, 0), 'padding (1, 0)'),
        ('valid', None),
        ('same', 'padding ((0, 1), (0, 1))'),
        (((1, 0), (1, 0)), 'padding ((1, 0), (1, 0))'),
        (((0, 1), (0, 0)), 'padding ((0, 1), (0, 0))'),
        (((1, 1), (0, 0)), 'padding (1, 0)'),
        (((0, 0), (0, 0)), None),
    ],
    ids=str,
)
def test_padding_is_named(padding, named):
    """One number for each axis, or a pair for each where the sides of one differ."""
    for window, more in (
        (viz.explain_corr2d(X, K, padding=padding), ''),
        (viz.explain_pool2d(X, padding=padding), ''),
        (viz.explain_pool2d(X, mode='avg', padding=padding), ', padding counts'),
    ):
        notes = f' \u00b7 {named}{more}' if named else ''
        assert f'window 1 of {len(window)}{notes}' in texts(window)
        assert any('padding hatched' in text for text in texts(window)) == bool(named)


def test_each_of_the_documents_four_sums_is_written():
    window = viz.explain_corr2d(X, K, steps=range(4))
    sums = [
        'Y[0, 0] = 0·0 + 1·1 + 3·2 + 4·3 = 19',
        'Y[0, 1] = 1·0 + 2·1 + 4·2 + 5·3 = 25',
        'Y[1, 0] = 3·0 + 4·1 + 6·2 + 7·3 = 37',
        'Y[1, 1] = 4·0 + 5·1 + 7·2 + 8·3 = 43',
    ]
    assert [sum_ in texts(window, at) for at, sum_ in enumerate(sums)] == [True] * 4


def test_output_is_written_up_to_the_window():
    for step in range(4):
        shown = texts(viz.explain_corr2d(X, K, steps=step))
        assert [str(y) in shown for y in (19, 25, 37, 43)] == [at <= step for at in range(4)]


def test_patch_shows_the_weights_that_its_cells_meet():
    window = viz.explain_corr2d(X, K, steps=-1)
    ax = window.figure.axes[0]
    weights = [(text.get_text(), text.get_position()) for text in ax.texts]
    cells = {text.get_text(): text.get_position() for text in ax.texts if text.get_text() in '4578'}
    for cell, weight in zip('4578', ('×0', '×1', '×2', '×3')):
        (x, y), (left, top) = dict(weights)[weight], cells[cell]
        assert abs(x - left) < 0.5 and abs(y - top) < 0.5


@pytest.mark.parametrize(
    'mode, arguments, formula',
    [
        ('max', {}, 'Y[0, 0] = max(0, 1, 3, 4) = 4'),
        ('avg', {}, 'Y[0, 0] = (0 + 1 + 3 + 4) / 4 = 2'),
        ('sum', {}, 'Y[0, 0] = 0 + 1 + 3 + 4 = 8'),
        ('max', {'padding': 1}, 'Y[0, 0] = max(−∞, −∞, −∞, 0) = 0'),
        ('avg', {'padding': 1, 'steps': 3}, 'Y[0, 3] = (0 + 0 + 2 + 0) / 4 = 0.5'),
        ('avg', {'padding': 1, 'steps': 3, 'count_include_pad': False}, 'Y[0, 3] = (2) / 1 = 2'),
        ('max', {'padding': 'same', 'steps': 2}, 'Y[0, 2] = max(2, −∞, 5, −∞) = 5'),
        ('avg', {'padding': 'same', 'steps': 2}, 'Y[0, 2] = (2 + 0 + 5 + 0) / 4 = 1.75'),
        (
            'avg',
            {'padding': 'same', 'steps': 2, 'count_include_pad': False},
            'Y[0, 2] = (2 + 5) / 2 = 3.5',
        ),
        (
            'avg',
            {'padding': ((1, 0), (0, 1)), 'steps': 2, 'count_include_pad': False},
            'Y[0, 2] = (2) / 1 = 2',
        ),
        ('avg', {'strides': 2, 'ceil_mode': True, 'steps': 1}, 'Y[0, 1] = (2 + 5) / 2 = 3.5'),
        ('avg', {'pool_size': (1, 3)}, 'Y[0, 0] = (0 + 1 + 2) / 3 = 1'),
        ('avg', {'pool_size': (3, 1), 'steps': 0}, 'Y[0, 0] = (0 + 3 + 6) / 3 = 3'),
    ],
)
def test_pooling_is_written_out(mode, arguments, formula):
    assert formula in texts(viz.explain_pool2d(X, mode=mode, **arguments))


def test_negative_numbers_stand_in_parentheses_after_an_operator():
    assert 'Y[0, 0] = (−1)·(−2) = 2' in texts(viz.explain_corr2d([[-1]], [[-2]]))
    shown = texts(viz.explain_pool2d([[-1, -2]], (1, 2), 'avg'))
    assert 'Y[0, 0] = (−1 + (−2)) / 2 = −1.5' in shown


def test_rounded_numbers_are_only_about_equal():
    assert 'Y[0, 0] = 0.333·1 ≈ 0.333' in texts(viz.explain_corr2d([[1 / 3]], [[1]]))
    assert 'Y[0, 0] = (1 + 1 + 0) / 3 ≈ 0.667' in texts(
        viz.explain_pool2d([[1, 1, 0]], (1, 3), 'avg')
    )


@pytest.mark.parametrize('kernel', [3, 5])
def test_long_formulas_have_a_line_for_each_row_and_very_long_ones_are_cut(kernel):
    x = np.arange(64.0).reshape(8, 8) / 7
    shown = texts(viz.explain_corr2d(x, np.ones((kernel, kernel)) / 3))
    assert len([text for text in shown if '·' in text and '0.333' in text]) == kernel
    shown = texts(viz.explain_corr2d(x, np.ones((7, 7)) / 3))
    assert [text.count('·') for text in shown if '…' in text] == [3]


@pytest.mark.parametrize(
    'kind', [mx.np.array, mx.nd.array, np.array, list], ids=['mx.np', 'mx.nd', 'numpy', 'list']
)
def test_takes_every_kind_of_matrix(kind):
    assert viz.explain_corr2d(kind(X), kind(K)).Y.tolist() == [[19, 25], [37, 43]]


# --------------------------------------------------------------------------- frames and files


@pytest.mark.parametrize(
    'window, frames',
    [
        (lambda: viz.explain_corr2d(X, K), 4),
        (lambda: viz.explain_corr2d(X, K, padding=(1, 0)), 8),
        (lambda: viz.explain_corr2d(X, K, padding='same'), 9),
        (lambda: viz.explain_pool2d(X, 3), 1),
        (lambda: viz.explain_pool2d(X, 2, strides=2, ceil_mode=True), 4),
        (lambda: viz.explain_pool2d(X, (1, 2)), 6),
    ],
    ids=[
        'corr2d',
        'corr2d padded',
        'corr2d padded behind',
        'pool2d of everything',
        'pool2d in ceil mode',
        'pool2d of rows',
    ],
)
def test_one_frame_for_each_element_of_the_output(window, frames, tmp_path):
    window = window()
    assert window.Y.size == len(window) == frames
    assert frames_of_page(window._repr_html_()) == frames
    window.save(tmp_path / 'window.gif', dpi=40)
    assert frames_of_gif(tmp_path / 'window.gif') == frames


def test_saves_what_the_ending_says(tmp_path):
    window = viz.explain_corr2d(X, K)
    for ending, begin in (('gif', b'GIF89a'), ('png', b'\x89PNG'), ('svg', b'<?xml')):
        path = tmp_path / ('window.' + ending)
        window.save(path, dpi=40)
        assert path.read_bytes().startswith(begin)
    window.save(str(tmp_path / 'window.html'), dpi=40)
    assert frames_of_page((tmp_path / 'window.html').read_text(encoding='utf-8')) == 4
    for wrong in ('window.docx', 'window'):
        with pytest.raises(ValueError, match=r"'(docx)?' is unknown; allowed: 'gif', 'html'"):
            window.save(tmp_path / wrong)
        assert not (tmp_path / wrong).exists()


def test_player_needs_nothing_from_the_network():
    html = viz.explain_corr2d(X, K)._repr_html_()
    assert not re.search(r'https?:', html)
    assert 'class="fa' not in html
    assert html.count('<button') == 9
    assert len(re.findall(r'anim[0-9a-f]{32}\.play_animation\(\);', html)) == 1
    assert re.search(r'<img [^>]*src="data:image/png;base64,', html)


def test_player_has_the_same_name_in_every_run_and_another_on_each_page():
    code = """
        from gluon_convpool import viz
        import re
        for _ in range(2):
            html = viz.explain_corr2d([[1]], [[2]])._repr_html_()
            print(*set(re.findall(r"anim\\w*?([0-9a-f]{32})", html)))
        """
    first, second = run(code), run(code)
    assert first == second
    assert len(set(first.split())) == len(first.split()) == 2


def test_still_figure_is_that_of_the_chosen_windows():
    assert len(viz.explain_corr2d(X, K).figure.axes) == 1
    assert len(viz.explain_corr2d(X, K, steps=[3, 0]).figure.axes) == 2
    last = viz.explain_corr2d(X, K, steps=-1)
    assert 'window 4 of 4' in texts(last)
    last._repr_html_()
    assert 'window 4 of 4' in texts(last)


def test_draws_into_ax_and_nowhere_else():
    figure, axes = plt.subplots(1, 2)
    try:
        window = viz.explain_pool2d(X, 2, 'avg', steps=1, ax=axes[1])
        assert window.figure is figure and figure.axes == list(axes)
        assert 'Y[0, 1] = (1 + 2 + 4 + 5) / 4 = 3' in texts_of(axes[1])
        assert not axes[0].texts and not axes[0].patches
        with pytest.raises(ValueError, match=r'steps=\[0, 1\].* ax '):
            viz.explain_pool2d(X, 2, steps=[0, 1], ax=axes[0])
        assert not axes[0].texts
    finally:
        plt.close(figure)


def test_opens_no_window_and_leaves_pyplot_alone():
    printed = run(
        """
        import gluon_convpool.viz as viz, sys
        window = viz.explain_corr2d([[1, 2], [3, 4]], [[1]], steps=[0, 1])
        window._repr_html_()
        assert 'matplotlib.pyplot' not in sys.modules
        import matplotlib.pyplot as plt
        plt.show = lambda *args, **kwargs: print('shown')
        viz.explain_pool2d([[1, 2], [3, 4]], 1)._repr_html_()
        print(plt.get_fignums())
        """,
        MPLBACKEND='agg',
    )
    assert printed == '[]\n'


@pytest.mark.parametrize('size', [(3, 1.5), (6, 4)], ids=str)
@pytest.mark.parametrize(
    'draw',
    [
        lambda ax: viz.explain_corr2d(X, K, padding=1, strides=2, steps=1, ax=ax),
        lambda ax: viz.explain_corr2d(np.random.randn(7, 7), np.random.randn(3, 3), ax=ax),
        lambda ax: viz.explain_pool2d(
            np.arange(9).reshape(3, 3) - 1000, 3, 'avg', padding=1, count_include_pad=False, ax=ax
        ),
        lambda ax: viz.explain_pool2d([[1]], 1, ax=ax),
        lambda ax: viz.explain_pool2d(
            X, 2, 'avg', (1, 2), ((0, 1), (1, 0)), count_include_pad=False, ax=ax
        ),
    ],
    ids=['padding', 'long numbers', 'average', 'one cell', 'pairs'],
)
def test_nothing_overlaps_and_nothing_is_cut_off(draw, size):
    """No two texts share a pixel, and all lie within the axes, whatever the figure's size."""
    figure, ax = plt.subplots(figsize=size)
    try:
        draw(ax)
        figure.savefig(io.BytesIO(), dpi=100)
        boxes = [text.get_window_extent() for text in ax.texts]
        frame = ax.get_window_extent()
        for at, box in enumerate(boxes):
            assert frame.x0 <= box.x0 and box.x1 <= frame.x1, ax.texts[at]
            assert frame.y0 <= box.y0 and box.y1 <= frame.y1, ax.texts[at]
            for other in boxes[:at]:
                apart = min(box.x1, other.x1) - max(box.x0, other.x0)
                over = min(box.y1, other.y1) - max(box.y0, other.y0)
                assert apart < 1 or over < 1, ax.texts[at]
    finally:
        plt.close(figure)


# ------------------------------------------------------------------------------------ mistakes

CORR2D_MISTAKES = [
    ({'K': [[1, 2, 3, 4]]}, ['(1, 4)', 'the window must fit', '(3, 3)']),
    ({'K': [[1, 2], [3, 4]], 'dilation': 3}, ['dilation=(3, 3)', '(4, 4)', '(3, 3)']),
    ({'X': [1, 2, 3]}, ['X has shape (3,)', 'matrix']),
    ({'K': [[[1]]]}, ['K has shape (1, 1, 1)', 'matrix']),
    ({'K': np.zeros((0, 2))}, ['kernel_size=(0, 2)', 'at least 1']),
    ({'X': np.zeros((33, 8))}, ['X has shape (33, 8)', 'only 32', 'take a part']),
    ({'padding': 15}, ['X with its padding has shape (33, 33)', 'only 32']),
    ({'X': [['a', 'b']]}, ['<U1', 'real numbers']),
    ({'padding': ((30, 0), (0, 0))}, ['X with its padding has shape (33, 3)', 'only 32']),
    ({'padding': -1}, ['padding=-1', 'at least 0']),
    ({'padding': ((0, -1), (0, 0))}, ['padding=((0, -1), (0, 0))', 'at least 0']),
    ({'padding': ((1, 0), 1)}, ['padding=((1, 0), 1)', "'same', 'valid'", 'a pair']),
    ({'padding': 'full'}, ["padding='full'", "'same', 'valid'"]),
    ({'K': np.ones((5, 2)), 'padding': ((0, 1), (0, 0))}, ['padding=((0, 1), (0, 0))', '(4, 3)']),
    ({'strides': 0}, ['strides=0', 'at least 1']),
    ({'strides': 1.5}, ['strides=1.5', 'integer']),
    ({'dilation': (1, 2, 3)}, ['dilation=(1, 2, 3)', '2']),
    ({'steps': 4}, ['steps=4', '4 windows']),
    ({'steps': -5}, ['steps=-5', 'at least -4']),
    ({'steps': []}, ['steps=[]', '4 windows']),
    ({'steps': 'all'}, ["steps='all'", 'integer']),
]
POOL2D_MISTAKES = [
    ({'mode': 'median'}, ["mode='median'", "'max', 'avg', 'sum'"]),
    ({'pool_size': 0}, ['pool_size=0', 'at least 1']),
    ({'pool_size': 4}, ['(4, 4)', 'the window must fit', '(3, 3)']),
    ({'padding': 2}, ['padding=(2, 2)', 'pool_size=(2, 2)']),
    ({'padding': ((0, 2), (0, 0))}, ['padding=((0, 2), (0, 0))', 'pool_size=(2, 2)']),
    ({'padding': (1, (0, 1))}, ['padding=(1, (0, 1))', "'same', 'valid'", 'a pair']),
    ({'padding': 'full'}, ["padding='full'", "'same', 'valid'"]),
    ({'padding': 'same', 'ceil_mode': True}, ['ceil_mode=True', 'padding=((0, 1), (0, 1))']),
    ({'strides': (1,)}, ['strides=(1,)', '2']),
    ({'ceil_mode': 'yes'}, ["ceil_mode='yes'", 'True']),
    ({'count_include_pad': 'no'}, ["count_include_pad='no'", 'True']),
    ({'pool_size': 1, 'strides': 40, 'ceil_mode': True}, ['(41, 41)', 'only 32']),
    ({'X': 5}, ['X has shape ()', 'matrix']),
    ({'steps': (0, 9)}, ['steps=9', '4 windows']),
]


def assert_complains(function, arguments, mistake, words):
    with pytest.raises((ValueError, TypeError)) as caught:
        function(**{**arguments, **mistake})
    for word in (function.__name__, *words):
        assert word in str(caught.value)


@pytest.mark.parametrize('mistake, words', CORR2D_MISTAKES, ids=str)
def test_corr2d_says_what_does_not_fit(mistake, words):
    assert_complains(viz.explain_corr2d, {'X': X, 'K': K}, mistake, words)


@pytest.mark.parametrize('mistake, words', POOL2D_MISTAKES, ids=str)
def test_pool2d_says_what_does_not_fit(mistake, words):
    assert_complains(viz.explain_pool2d, {'X': X}, mistake, words)


def test_without_matplotlib_the_package_works_and_viz_says_what_is_missing():
    run(
        """
        import sys
        sys.modules['matplotlib'] = None
        import gluon_convpool
        try:
            import gluon_convpool.viz
        except ImportError as error:
            assert 'gluon_convpool[viz]' in str(error)
        else:
            raise AssertionError('viz was imported')
        """
    )
