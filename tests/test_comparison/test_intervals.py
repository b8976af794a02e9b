# SPDX-License-Identifier: Apache-2.0
"""Means and intervals are those computed by hand, with the quantiles of a printed table of Student's t."""

import pytest

from mmcarafe.comparison.intervals import Difference, paired_difference, summarise

T2, T4 = 4.302653, 2.776445  # 0.975 quantiles for 2 and 4 degrees of freedom


def test_interval_of_three_pairs():
    # differences 1, 2, 3: mean 2, standard deviation 1
    found = paired_difference({0: 11, 1: 22, 2: 33}, {0: 10, 1: 20, 2: 30})
    half = T2 / 3**0.5
    assert (found.mean, found.count) == (2, 3)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), abs=1e-6)
    assert not found.seen, "2 - 2.48 < 0"


def test_interval_of_five_pairs():
    # differences 1, 2, 3, 2, 2: mean 2, sum of squares around it 2, standard deviation (2 / 4) ** 0.5
    found = paired_difference(dict(enumerate([1, 2, 3, 2, 2])), dict.fromkeys(range(5), 0))
    half = T4 * 0.5**0.5 / 5**0.5
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), abs=1e-6)
    assert found.seen
    assert paired_difference(dict.fromkeys(range(5), 0), dict(enumerate([1, 2, 3, 2, 2]))).seen, "a loss, too"


def test_equal_differences_of_rounded_values_are_not_exact():
    ours, theirs = {0: 0.403, 1: 0.413}, {0: 0.4, 1: 0.41}
    found = paired_difference(ours, theirs, step=0.001)
    half = 12.7062 * 0.001 / 6**0.5 / 2**0.5  # the quantile for 1 degree of freedom
    assert (found.low, found.high) == pytest.approx((0.003 - half, 0.003 + half), abs=1e-6)
    assert not found.seen
    far = paired_difference({0: 0.45, 1: 0.42}, {0: 0.4, 1: 0.4}, step=0.001)
    assert far == paired_difference({0: 0.45, 1: 0.42}, {0: 0.4, 1: 0.4}), "more than rounding"


def test_pairs_are_of_equal_seeds():
    found = paired_difference({0: 1.0, 3: 5.0, 7: 9.0}, {7: 8.0, 0: 2.0, 5: 0.0})
    assert (found.mean, found.count) == (0, 2)  # 1 - 2 and 9 - 8
    assert not found.seen


def test_one_pair_has_no_interval_and_none_no_difference():
    found = paired_difference({0: 5.0}, {0: 1.0})
    assert found == Difference(4.0, 1, None, None)
    assert not found.seen
    assert paired_difference({0: 5.0}, {1: 1.0}) is None


def test_mean_and_deviation():
    found = summarise({0: 2.0, 1: 4.0, 2: 9.0}, None)
    # (9 + 1 + 16) / 2
    assert found == dict(mean=5.0, std=pytest.approx(13**0.5), median=4.0, count=3, difference=None)
    assert summarise({0: 2.0}, {0: 1.0})["std"] is None
