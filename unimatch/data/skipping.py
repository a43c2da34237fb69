"""Samples that are skipped: one that cannot be read is replaced by the next of its split, and counted.

Up to how many is the setting `data.skip_ceiling`; why one cannot be read is what `data.load` raises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

from unimatch.data.samples import Samples
from unimatch.errors import DataError, summary

logger = logging.getLogger(__name__)
Sample = TypeVar("Sample")
Place = tuple[str, int]  # a shard set as text, and a row of it


def readable(
    samples: Samples, ordinal: int, ceiling: int, skipped: dict[Place, str], load: Callable[[int], Sample]
) -> Sample:
    """The sample at a place of a split, or in its place the next readable one: the same on every rank and
    after a resume.

    Those that cannot be read are added to `skipped`, with the reason. DataError: more of them than `ceiling`,
    or no readable one.
    """
    for place in range(ordinal, ordinal + len(samples)):
        row = int(samples.rows[place % len(samples)])
        try:
            return load(row)
        except DataError as error:
            if ceiling == 0:
                raise
            skipped[str(samples.shards.root), row] = str(error)
            _limit(len(skipped), ceiling, str(error))
    raise DataError(f"no sample of the split can be read; {summary(skipped.values(), 1)}")


class Skipped:
    """The different samples that this rank has skipped so far; each is logged once."""

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self._seen: set[Place] = set()

    def add(self, problems: Mapping[Place, str]) -> None:
        """Take note of samples and why they cannot be read. DataError: more than `ceiling` in all."""
        for place, problem in problems.items():
            if place not in self._seen:
                self._seen.add(place)
                logger.warning("skipped sample %d of at most %d: %s", len(self._seen), self.ceiling, problem)
            _limit(len(self._seen), self.ceiling, problem)


def _limit(skipped: int, ceiling: int, last: str) -> None:
    if skipped > ceiling:
        raise DataError(
            f"{skipped} samples cannot be read, data.skip_ceiling allows {ceiling}; the last: {last}"
        )
