"""Means and intervals of a board, by hand."""

from __future__ import annotations

import math

import pytest

from unimatch.experiments.differences import at_seconds, paired, quantile, resolution


def test_a_paired_difference_and_its_interval():
    """Over the seeds that both have; t with two degrees of freedom is 4.303."""
    found = paired({0: 40.0, 1: 42.0, 2: 41.0, 3: 99.0}, {0: 39.0, 1: 40.0, 2: 38.0})
    assert found is not None
    assert (found.mean, found.pairs) == (2.0, 3)
    assert found.half == pytest.approx(4.3027 * 1.0 / math.sqrt(3), rel=1e-4)
    assert found.sure == 0  # 2.0 +- 2.48
    assert paired({0: 1.0}, {1: 1.0}) is None
    alone = paired({0: 5.0}, {0: 1.0})
    assert alone is not None and (alone.mean, alone.half, alone.sure) == (4.0, None, 0)


@pytest.mark.parametrize(("gap", "sure"), [(3.0, 1), (-3.0, -1), (1.0, 0), (-1.0, 0)])
def test_beyond_noise(gap, sure):
    values = {seed: 30.0 + noise for seed, noise in enumerate((-0.5, 0.0, 0.5))}
    found = paired({seed: value + gap for seed, value in values.items()}, dict.fromkeys(values, 30.0))
    assert found is not None and found.half == pytest.approx(4.3027 * 0.5 / math.sqrt(3), rel=1e-4)
    assert found.sure == sure


def test_quantiles_are_students():
    assert [round(quantile(n), 3) for n in (1, 2, 10, 1000)] == [12.706, 4.303, 2.228, 1.962]


def test_the_smallest_difference_that_shows_pools_the_spread_of_all_methods():
    groups = [[1.0, 2.0, 3.0], [-1.0, 0.0, 1.0], [5.0]]  # deviation 1 each, four degrees of freedom
    assert resolution(groups) == pytest.approx(2.7764 / math.sqrt(3), rel=1e-4)
    assert resolution([[1.0], []]) is None


def test_a_figure_after_other_seconds_lies_on_a_line_over_their_logarithm():
    curve = [(400.0, 40.0), (100.0, 30.0)]
    assert at_seconds(curve, 200.0) == pytest.approx(35.0)
    assert at_seconds(curve, 100.0) == 30.0 and at_seconds(curve, 50.0) == 30.0
    assert at_seconds(curve, 404.0) == 40.0, "a few seconds more are the clock's"
    assert at_seconds(curve, 500.0) is None, "what was not trained is not known"
    assert at_seconds([], 1.0) is None
