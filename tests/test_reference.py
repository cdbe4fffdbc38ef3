"""The float64 loops, by which the layers are judged, agree with paper and with MXNet's layers."""

from __future__ import annotations

import numpy as np
import pytest

from gluon_convpool.testing import assert_same, parity_cases, reference

IMAGE = np.arange(9.0).reshape(1, 1, 3, 3)
BUILTIN_CASES = [
    parameter
    for parameter in parity_cases('conv', activation=None) + parity_cases('pool')
    if parameter.values[0].builtin_can_run
]


def test_convolution_of_the_starting_document():
    kernel = np.arange(4.0).reshape(1, 1, 2, 2)
    assert reference.convolution(IMAGE, kernel).tolist() == [[[[19, 25], [37, 43]]]]


@pytest.mark.parametrize('mode, expected', [('max', [[4, 5], [7, 8]]), ('avg', [[2, 3], [5, 6]])])
def test_pooling_of_the_starting_document(mode, expected):
    assert reference.pooling(IMAGE, 2, strides=1, mode=mode).tolist() == [[expected]]


def test_average_counts_padding_unless_told_otherwise():
    ones = np.ones((1, 1, 2, 2))
    assert reference.pooling(ones, 2, 2, 1, 'avg').tolist() == [[[[0.25, 0.25], [0.25, 0.25]]]]
    inside = reference.pooling(ones, 2, 2, 1, 'avg', count_include_pad=False)
    assert inside.tolist() == [[[[1, 1], [1, 1]]]]


def test_maximum_sends_its_gradient_to_the_first_of_equals_and_to_the_first_nan():
    head = np.ones((1, 1, 1, 1))
    equal = np.array([[[[1.0, 2.0], [2.0, 2.0]]]])
    assert reference.pooling_gradient(head, equal).tolist() == [[[[0, 1], [0, 0]]]]
    nans = np.array([[[[np.inf, 2.0], [np.nan, np.nan]]]])
    assert reference.pooling_gradient(head, nans).tolist() == [[[[0, 0], [1, 0]]]]


@pytest.mark.parametrize('case', BUILTIN_CASES)
def test_loops_agree_with_the_builtin_layer(case, np_arrays):
    assert_same(case.from_loops()[1], case.expected()[1], rtol=2e-6)
