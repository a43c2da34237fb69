"""Orders of a set's samples: which of them stands in a slot of a batch. Pure functions, without I/O or torch.

`Lanes` for one set, `Mixture` for several in given shares, `Repeats` for one that is smaller than an epoch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from unimatch import keyed
from unimatch.errors import ConfigError

Key = TypeVar("Key")
Sizes = Sequence[int] | np.ndarray  # samples in each shard
FINEST = 1_000_000  # a set's share of what is left to it and the sets behind it, as a fraction: denominator


class Tag(IntEnum):
    """First part, after the seed, of every key of the data plane: no two uses of randomness share a key."""

    LABELED_ORDER = 1
    UNLABELED_ORDER = 2
    PARTNER_ORDER = 3
    LABELED_VIEW = 4
    UNLABELED_VIEW = 5
    LABELED_NOISE = 6
    UNLABELED_NOISE = 7
    SET = 8
    TURNS = 9


class _Recent(Generic[Key]):
    """The values computed last, at most `capacity` of them: a bounded memory of a pure function."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.values: OrderedDict[Key, np.ndarray] = OrderedDict()

    def get(self, key: Key, compute: Callable[[], np.ndarray]) -> np.ndarray:
        if key in self.values:
            self.values.move_to_end(key)
            return self.values[key]
        value = self.values[key] = compute()
        if len(self.values) > self.capacity:
            self.values.popitem(last=False)
        return value


class Lanes:
    """Each epoch a new permutation of shards and of the samples inside each, read in `batch` parallel lanes.

    line(e): the shards permuted by (seed, tag, e), the samples of shard s by (seed, tag, e, s). The line is
    cut into `batch` equal contiguous lanes; slot j of batch t is place t of lane j; the remainder is dropped
    for that epoch. So each lane reads its shards one after the other, and a batch has no sample twice.
    """

    def __init__(self, shard_sizes: Sizes, batch: int, seed: int, tag: int) -> None:
        self.sizes = np.asarray(shard_sizes, np.int64)
        self.batch = batch
        self.seed = seed
        self.tag = tag
        self.length = int(self.sizes.sum()) // batch
        self._first = np.cumsum(self.sizes) - self.sizes  # ordinal of each shard's first sample
        self._lines: _Recent[int] = _Recent(2)
        # A step touches one shard per slot that is asked for; the next one mostly the same.
        self._shards: _Recent[tuple[int, int]] = _Recent(0)

    def ordinals(self, epoch: int, t: int, slots: np.ndarray) -> np.ndarray:
        """int64: the samples of some slots of batch t < length.

        The cost does not depend on t, and on the split only by the permutations of the shards in use, which
        are kept.
        """
        self._shards.capacity = max(self._shards.capacity, 2 * len(slots) + 2)
        order, ends = self._lines.get(epoch, partial(self._line, epoch))
        places = slots * self.length + t
        turns = np.searchsorted(ends, places, side="right")
        shards = order[turns]
        inside = places - (ends[turns] - self.sizes[shards])
        result = self._first[shards]
        for shard in np.unique(shards).tolist():
            here = shards == shard
            permutation = self._shards.get((epoch, shard), partial(self._permutation, epoch, shard))
            result[here] += permutation[inside[here]]
        return result

    def _line(self, epoch: int) -> np.ndarray:
        """int64 [2, shards]: the order of the shards, and where in the line each of them ends."""
        order = keyed.permutation(keyed.key(self.seed, self.tag, epoch), len(self.sizes))
        return np.stack([order, np.cumsum(self.sizes[order])])

    def _permutation(self, epoch: int, shard: int) -> np.ndarray:
        order = keyed.permutation(keyed.key(self.seed, self.tag, epoch, shard), int(self.sizes[shard]))
        return order.astype(np.int32)  # a worker keeps some per slot


class Mixture:
    """Several sets in one stream: each slot reads all of them in turn, as often as their shares say.

    Every set has lanes of its own (`Lanes`), one a slot. At each step a slot takes the next place of its lane
    in one of the sets; at that lane's end it goes on in the set's next order. So each pass over a set has
    every sample once, but for the remainder, each slot reads its shards one after the other, and a step is
    computed, not replayed.

    After n steps a slot has been at the first set floor or ceil of n times its share; the sets behind it
    divide the other steps likewise. Slots are evenly spread over these turns, so that a batch, too, has floor
    or ceil of its share of the first set, and of the others about that. Which slot begins where is drawn, so
    neighbours are of one set or of two. The ordinals of a set follow those of the set before. A batch may
    have a sample twice only where some of its slots have ended a pass and others have not.
    ConfigError: a share below a millionth.
    """

    def __init__(
        self, sets: Sequence[Sizes], weights: Sequence[float], batch: int, seed: int, tag: int
    ) -> None:
        if min(weights) * FINEST < sum(weights):
            raise ConfigError(f"weights {list(weights)}: a share below a millionth would hardly ever be read")
        counts = [int(np.sum(sizes)) for sizes in sets]
        self.batch = batch
        self.length = sum(counts) // batch  # steps of an epoch: as many samples as all sets have
        self._sets = [
            Lanes(sizes, batch, keyed.key(seed, Tag.SET, number), tag) for number, sizes in enumerate(sets)
        ]
        self._first = np.cumsum(counts) - counts
        self._shares = [
            Fraction(weight / sum(weights[number:])).limit_denominator(FINEST)
            for number, weight in enumerate(weights)
        ]
        self._begin = [
            keyed.permutation(keyed.key(seed, Tag.TURNS, tag, number), batch) * share.denominator // batch
            for number, share in enumerate(self._shares)
        ]

    def ordinals(self, epoch: int, t: int, slots: np.ndarray) -> np.ndarray:
        """int64: the samples of some slots of batch t < length."""
        result = np.empty(len(slots), np.int64)
        turns = np.full(len(slots), epoch * self.length + t)  # of this set and those behind it, until now
        left = np.ones(len(slots), bool)
        for lanes, first, share, begin in zip(
            self._sets, self._first, self._shares, self._begin, strict=True
        ):
            had, after = (
                (number * share.numerator + begin[slots]) // share.denominator
                for number in (turns, turns + 1)
            )
            mine = left & (after > had)
            for place in np.unique(had[mine]).tolist():
                here = mine & (had == place)
                own_epoch, inside = divmod(place, lanes.length)
                result[here] = first + lanes.ordinals(own_epoch, inside, slots[here])
            left &= ~mine
            turns = turns - had
        return result


@dataclass(frozen=True)
class Mix:
    """Unlabelled sets: of each the samples in its shards, and its weight; None: as many as it has samples."""

    sets: Sequence[Sizes]
    weights: Sequence[float] | None = None

    @property
    def counts(self) -> list[int]:
        return [int(np.sum(sizes)) for sizes in self.sets]

    def order(self, batch: int, seed: int, tag: int) -> Lanes | Mixture:
        """One set alone is read as it would be without any weight."""
        if len(self.sets) == 1:
            return Lanes(self.sets[0], batch, seed, tag)
        return Mixture(self.sets, self.weights or self.counts, batch, seed, tag)


class Repeats:
    """A small set repeated by successive permutations, dealt one sample after the other.

    Slot j of batch t of an epoch is place t*batch + j of the permutations by (seed, tag, epoch, pass).
    Each sample is used floor or ceil of the mean number of times per epoch, and while the set has at least
    `batch` samples, no batch has a sample twice: where a batch spans two permutations, the samples which it
    took from the first are moved behind it in the second.
    """

    def __init__(self, size: int, batch: int, seed: int, tag: int) -> None:
        self.size = size
        self.batch = batch
        self.seed = seed
        self.tag = tag
        self._passes: _Recent[tuple[int, int]] = _Recent(2 + batch // size)

    def ordinals(self, epoch: int, t: int, slots: np.ndarray) -> np.ndarray:
        """int64: the samples of some slots of batch t."""
        turns, inside = np.divmod(t * self.batch + slots, self.size)
        result = np.empty(len(slots), np.int64)
        for turn in np.unique(turns).tolist():
            here = turns == turn
            result[here] = self._pass(epoch, turn)[inside[here]]
        return result

    def _pass(self, epoch: int, turn: int) -> np.ndarray:
        """The order of one pass. Below 2*batch samples it depends on the pass before, and so on, but never
        beyond the last pass that began together with a batch, at most `batch` passes ago.
        """
        first = turn
        if self.size < 2 * self.batch:
            while self._taken(first) > 0 and (epoch, first) not in self._passes.values:
                first -= 1
        for one in range(first, turn):
            self._passes.get((epoch, one), partial(self._order, epoch, one))
        return self._passes.get((epoch, turn), partial(self._order, epoch, turn))

    def _taken(self, turn: int) -> int:
        """How many samples the batch under way when a pass begins has taken from the pass before."""
        return turn * self.size % self.batch if self.size >= self.batch else 0

    def _order(self, epoch: int, turn: int) -> np.ndarray:
        plain = self._permutation(epoch, turn)
        taken = self._taken(turn)
        if taken == 0:
            return plain
        # Moving changes the first `batch` places only: the end of a long pass is the plain permutation's.
        long = self.size >= 2 * self.batch
        before = self._permutation(epoch, turn - 1) if long else self._passes.values[epoch, turn - 1]
        allowed = np.flatnonzero(~np.isin(plain, before[-taken:]))[: self.batch - taken]
        return np.concatenate([plain[allowed], np.delete(plain, allowed)])

    def _permutation(self, epoch: int, turn: int) -> np.ndarray:
        return keyed.permutation(keyed.key(self.seed, self.tag, epoch, turn), self.size)
