"""The samples that a plan numbers, as rows of the shard sets that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unimatch.shardset.archive import ShardSet


@dataclass(frozen=True)
class Samples:
    """Samples of one shard set; ordinal n is row rows[n]."""

    shards: ShardSet
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


class Pool:
    """Samples of several shard sets, numbered through: the ordinals of one follow those of the one before."""

    def __init__(self, sets: Sequence[Samples]) -> None:
        self.sets = list(sets)
        self._ends = np.cumsum([len(one) for one in self.sets])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def at(self, ordinal: int) -> tuple[Samples, int]:
        """The set of a sample, and its ordinal in there."""
        number = int(np.searchsorted(self._ends, ordinal, side="right"))
        one = self.sets[number]
        return one, ordinal - int(self._ends[number]) + len(one)

    def parts(self, ordinals: np.ndarray) -> list[Samples]:
        """Some samples by their set, in this order within each; sets of which there are none are left out."""
        numbers = np.searchsorted(self._ends, ordinals, side="right")
        found = []
        for number in np.unique(numbers).tolist():
            one = self.sets[number]
            inside = ordinals[numbers == number] - int(self._ends[number]) + len(one)
            found.append(Samples(one.shards, one.rows[inside]))
        return found
