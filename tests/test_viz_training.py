"""Pictures of a training: curves, the confusion matrix, misread images."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from matplotlib.figure import Figure

from gluon_convpool import viz


def test_curves():
    figure = viz.draw_curves({'builtin': [3.0, 2.0], 'ours': mx.nd.array([3, 1])}, 'loss')
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ['builtin', 'ours']
    assert [list(line.get_ydata()) for line in axes.lines] == [[3, 2], [3, 1]]
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 2], [1, 2]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ('epoch', 'loss')
    assert len(axes.get_legend().get_texts()) == 2


def test_one_curve_needs_no_legend():
    assert viz.draw_curves({'ours': [1.0]}, 'loss').axes[0].get_legend() is None


@pytest.mark.parametrize('count', [0, 5])
def test_too_few_or_too_many_curves(count):
    with pytest.raises(ValueError, match=f'curves has {count} entries, but it must have 1 to 4'):
        viz.draw_curves({str(i): [1.0] for i in range(count)}, 'loss')


def test_confusion_counts_images():
    figure = viz.draw_confusion([0, 0, 0, 1, 2], np.array([0, 0, 2, 1, 1]))
    (axes,) = figure.axes
    found = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}
    # a column for what was predicted, a row for what was true
    assert found == {(0, 0): '2', (2, 0): '1', (1, 1): '1', (1, 2): '1'}
    np.testing.assert_allclose(
        axes.images[0].get_array(), np.sqrt([[2, 0, 1], [0, 1, 0], [0, 1, 0]])
    )
    assert (axes.get_xlabel(), axes.get_ylabel()) == ('predicted class', 'true class')


def test_confusion_with_names():
    axes = viz.draw_confusion([0], [1], ['cat', 'dog', 'cow']).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ['cat', 'dog', 'cow']
    with pytest.raises(ValueError, match='must be from 0 to 0, since there are 1 classes'):
        viz.draw_confusion([0], [1], ['cat'])
    with pytest.raises(ValueError, match='must be from 0 to 1'):
        viz.draw_confusion([0, -1], [1, 1])


def test_misread_images():
    images = np.random.RandomState(0).uniform(size=(12, 1, 4, 5))
    labels = np.arange(12) % 10
    predictions = labels.copy()
    predictions[[2, 7, 11]] = 9
    figure = viz.draw_misread(mx.nd.array(images), labels, predictions, most=2)
    (axes,) = figure.axes
    assert axes.get_title() == '3 of 12 images misread'
    assert [inner.get_title() for inner in axes.child_axes] == ['2 read as 9', '7 read as 9']
    for inner, index in zip(axes.child_axes, (2, 7)):
        np.testing.assert_allclose(inner.images[0].get_array(), images[index, 0], rtol=1e-6)


def test_nothing_misread():
    figure = viz.draw_misread(np.ones((1, 1, 4, 4)), [3], [3])
    assert figure.axes[0].get_title() == '0 of 1 images misread'
    assert not figure.axes[0].child_axes


def test_arrays_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r'labels has shape \(2,\) and predictions \(1,\)'):
        viz.draw_confusion([0, 1], [0])
    with pytest.raises(ValueError, match=r'images has shape \(1, 4, 4\), but must hold images'):
        viz.draw_misread(np.ones((1, 4, 4)), [0], [0])
    with pytest.raises(ValueError, match='images has shape'):
        viz.draw_misread(np.ones((2, 1, 4, 4)), [0], [0])


def test_they_are_drawn_where_they_are_wanted():
    figure = Figure()
    curves, confusion, misread, untouched = figure.subplots(1, 4)
    assert viz.draw_curves({'a': [1.0]}, 'loss', ax=curves) is figure
    assert viz.draw_confusion([0], [0], ax=confusion) is figure
    assert viz.draw_misread(np.ones((1, 1, 4, 4)), [0], [1], ax=misread) is figure
    assert curves.lines and confusion.images and misread.child_axes
    assert not untouched.has_data()
    figure.savefig('/dev/null', format='png')
