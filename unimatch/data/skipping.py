"""Samples that are skipped: one that cannot be read is replaced by the next of its split, and counted.

Up to how many is the setting `data.skip_ceiling`; why one cannot be read is what `data.load` raises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from unimatch.errors import DataError, summary

logger = logging.getLogger(__name__)
Sample = TypeVar("Sample")


def readable(
    rows: np.ndarray, ordinal: int, ceiling: int, skipped: dict[int, str], load: Callable[[int], Sample]
) -> Sample:
    """The sample at a place of a split, or in its place the next readable one: the same on every rank and
    after a resume.

    Those that cannot be read are added to `skipped`, with the reason. DataError: more of them than `ceiling`,
    or no readable one.
    """
    for place in range(ordinal, ordinal + len(rows)):
        row = int(rows[place % len(rows)])
        try:
            return load(row)
        except DataError as error:
            if ceiling == 0:
                raise
            skipped[row] = str(error)
            _limit(len(skipped), ceiling, skipped[row])
    raise DataError(f"no sample of the split can be read; {summary(skipped.values(), 1)}")


class Skipped:
    """The different samples that this rank has skipped so far; each is logged once."""

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self._seen: set[int] = set()

    def add(self, problems: Mapping[int, str]) -> None:
        """Take note of rows and why they cannot be read. DataError: more than `ceiling` in all."""
        for row, problem in problems.items():
            if row not in self._seen:
                self._seen.add(row)
                logger.warning("skipped sample %d of at most %d: %s", len(self._seen), self.ceiling, problem)
            _limit(len(self._seen), self.ceiling, problem)


def _limit(skipped: int, ceiling: int, last: str) -> None:
    if skipped > ceiling:
        raise DataError(
            f"{skipped} samples cannot be read, data.skip_ceiling allows {ceiling}; the last: {last}"
        )
