"""Means over seeds, and differences between runs of the same seed with their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences; `half`: half the width of its 95 % interval (Student's t); None: one
    pair.
    """

    mean: float
    half: float | None
    pairs: int

    @property
    def sure(self) -> int:
        """1: above 0 beyond noise; -1: below; 0: the interval holds 0, or there is none."""
        if self.half is None or abs(self.mean) <= self.half:
            return 0
        return 1 if self.mean > 0 else -1


def quantile(freedom: int) -> float:
    """Of Student's t, which 95 % of the values are nearer to 0 than."""
    return float(stdtrit(freedom, 0.5 + LEVEL / 2))


def paired(one: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """one - other over the seeds that both have; None: none."""
    values = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
    if not values:
        return None
    half = None
    if len(values) > 1:
        half = quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Difference(fmean(values), half, len(values))


def resolution(groups: Sequence[Sequence[float]]) -> float | None:
    """The half width of a 95 % interval of a mean of paired differences, by the spread of all of them
    together: the smallest true difference that shows in half of such tables. None: no group has two values.

    groups: of each method its differences, all with as many seeds.
    """
    groups = [values for values in groups if len(values) > 1]
    freedom = sum(len(values) - 1 for values in groups)
    if not freedom:
        return None
    squares = sum((value - fmean(values)) ** 2 for values in groups for value in values)
    count = fmean(len(values) for values in groups)
    return quantile(freedom) * math.sqrt(squares / freedom / count)


def at_seconds(curve: Sequence[tuple[float, float]], seconds: float) -> float | None:
    """The figure of runs (seconds, figure) of other lengths at a time, on a line over its logarithm; the
    shortest one's before it, None behind the longest one.
    """
    points = sorted(curve)
    if not points or seconds > points[-1][0] * 1.02:  # two per cent are noise of the clock
        return None
    if seconds <= points[0][0]:
        return points[0][1]
    for (low, first), (high, second) in zip(points, points[1:], strict=False):
        if seconds <= high:
            part = math.log(seconds / low) / math.log(high / low)
            return first + part * (second - first)
    return points[-1][1]
