"""The samples that a plan numbers, as rows of the shard sets that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unimatch.shardset.archive import ShardSet
from unimatch.shardset.label_set import LabelSet


class Pseudo:
    """Labels out of label sets for samples of one shard set, which then count and not what it has itself."""

    def __init__(self, sets: Sequence[tuple[LabelSet, np.ndarray]]) -> None:
        """Of each set the row of every label's image; no row may occur twice."""
        rows = np.concatenate([rows for _, rows in sets])
        order = np.argsort(rows)
        self.sets = [one for one, _ in sets]
        self.rows = rows[order]
        self._set = np.repeat(np.arange(len(sets)), [len(rows) for _, rows in sets])[order]
        self._place = np.concatenate([np.arange(len(rows)) for _, rows in sets])[order]

    def read(self, row: int) -> tuple[bytes, str] | None:
        """The label of an image's row, as LabelSet.read_label; None: it has none here."""
        at = int(np.searchsorted(self.rows, row))
        if at == len(self.rows) or self.rows[at] != row:
            return None
        return self.sets[self._set[at]].read_label(int(self._place[at]))

    def parts(self, rows: np.ndarray) -> list[Samples]:
        """The labels of those of `rows` that have one, as samples of their sets."""
        at = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        at = at[self.rows[at] == rows]
        numbers = self._set[at]
        return [Samples(self.sets[n], self._place[at[numbers == n]]) for n in np.unique(numbers).tolist()]


@dataclass(frozen=True)
class Samples:
    """Samples of one shard set; ordinal n is row rows[n], which may stand for several.

    pseudo: labels of some of them, in place of their own.
    """

    shards: ShardSet
    rows: np.ndarray
    pseudo: Pseudo | None = None

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
