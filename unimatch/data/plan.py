"""Who reads which sample when: a pure function of step, seed and split sizes, without I/O or torch.

A split's samples are numbered 0 to N-1 by *ordinals*, grouped by shard. A global batch has G *slots*; slot j
of batch t of an epoch has the *position* t*G + j. The sample of a position does not depend on ranks, workers
or accumulation: these only decide who prepares it. So every global batch is the same on any machine, and
resuming is arithmetic.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Generic, Literal, TypeVar

import numpy as np

from unimatch import keyed
from unimatch.errors import ConfigError, DataError

PartnerSource = Literal["same", "shuffled", "batch"]
Key = TypeVar("Key")


class Tag(IntEnum):
    """First part, after the seed, of every key of the data plane: no two uses of randomness share a key."""

    LABELED_ORDER = 1
    UNLABELED_ORDER = 2
    PARTNER_ORDER = 3
    LABELED_VIEW = 4
    UNLABELED_VIEW = 5
    LABELED_NOISE = 6
    UNLABELED_NOISE = 7


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

    def __init__(self, shard_sizes: Sequence[int] | np.ndarray, batch: int, seed: int, tag: int) -> None:
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


@dataclass(frozen=True)
class Slots:
    """One rank's part of a stream in one micro-batch; all arrays have one entry per sample."""

    ordinals: np.ndarray  # int64: which sample of the split
    slots: np.ndarray  # int64: place in the global batch
    positions: np.ndarray  # int64: place in the epoch
    view_keys: tuple[int, ...]  # 64-bit keys of (seed, stream, epoch, position), for augmentation
    noise_keys: np.ndarray  # int64 of (seed, stream, step, slot), for perturbation of features
    partners: np.ndarray | None = None  # int64: samples of a second, independent order, if the plan has one


@dataclass(frozen=True)
class MicroPlan:
    """What one rank reads for one forward pass."""

    step: int
    epoch: int
    labeled: Slots
    unlabeled: Slots | None


class Plan:
    """The samples of every step of a run.

    `labeled`, `unlabeled`: how many samples of the split lie in each shard (`ShardSet.shard_sizes`). An epoch
    is one pass over the unlabelled split, its last incomplete batch dropped. Without one (`unlabeled=None`)
    it is `epoch_samples // batch_labeled` steps, at least one; `epoch_samples` defaults to the labelled
    split's size. `partner="shuffled"` adds a second order of the unlabelled split. DataError: fewer
    unlabelled samples than a batch, or an empty labelled split.
    """

    def __init__(
        self,
        labeled: Sequence[int] | np.ndarray,
        unlabeled: Sequence[int] | np.ndarray | None,
        batch_labeled: int,
        batch_unlabeled: int | None = None,
        *,
        seed: int = 0,
        partner: PartnerSource | None = None,
        epoch_samples: int | None = None,
    ) -> None:
        self.num_labeled = int(np.sum(labeled))
        self.num_unlabeled = 0 if unlabeled is None else int(np.sum(unlabeled))
        self.batch_labeled = batch_labeled
        self.batch_unlabeled = batch_unlabeled if unlabeled is not None and batch_unlabeled is not None else 0
        self.seed = seed
        self.partner = partner
        self._unlabeled: Lanes | None = None
        self._partners: Lanes | None = None
        if batch_labeled < 1 or (unlabeled is not None and self.batch_unlabeled < 1):
            raise ConfigError(
                f"global batch sizes must be at least 1, found labeled {batch_labeled}, "
                f"unlabeled {batch_unlabeled}"
            )
        if self.num_labeled == 0:
            raise DataError("the labelled split has no samples")
        if unlabeled is None:
            samples = self.num_labeled if epoch_samples is None else epoch_samples
            self.steps_per_epoch = max(1, samples // batch_labeled)
        else:
            if self.num_unlabeled < self.batch_unlabeled:
                raise DataError(
                    f"the unlabelled split has {self.num_unlabeled} samples, fewer than one global batch of "
                    f"{self.batch_unlabeled}; lower batch.unlabeled or use a larger split"
                )
            self._unlabeled = Lanes(unlabeled, self.batch_unlabeled, seed, Tag.UNLABELED_ORDER)
            self.steps_per_epoch = self._unlabeled.length
            if partner == "shuffled":
                self._partners = Lanes(unlabeled, self.batch_unlabeled, seed, Tag.PARTNER_ORDER)
        repeated = self.num_labeled < self.steps_per_epoch * batch_labeled
        self._labeled: Lanes | Repeats = (
            Repeats(self.num_labeled, batch_labeled, seed, Tag.LABELED_ORDER)
            if repeated
            else Lanes(labeled, batch_labeled, seed, Tag.LABELED_ORDER)
        )

    def check(self, world: int, accumulation: int = 1) -> None:
        """ConfigError unless the global batches divide over ranks and micro-batches."""
        parts = world * accumulation
        for name, batch in (("labeled", self.batch_labeled), ("unlabeled", self.batch_unlabeled)):
            if batch % parts:
                raise ConfigError(
                    f"batch.{name} is {batch}, which does not divide over {world} process(es) x "
                    f"{accumulation} micro-batch(es); use a multiple of {parts}"
                )

    def slots(self, step: int, rank: int = 0, world: int = 1, accumulation: int = 1) -> list[MicroPlan]:
        """One MicroPlan per micro-batch of this rank.

        Its slots are contiguous, rank after rank, and in each rank micro-batch after micro-batch.
        """
        self.check(world, accumulation)
        tags = (Tag.LABELED_VIEW, Tag.LABELED_NOISE)
        labeled = self._parts(self._labeled, None, tags, step, rank, world, accumulation)
        unlabeled: list[Slots] | list[None] = [None] * accumulation
        if self._unlabeled is not None:
            tags = (Tag.UNLABELED_VIEW, Tag.UNLABELED_NOISE)
            unlabeled = self._parts(self._unlabeled, self._partners, tags, step, rank, world, accumulation)
        epoch = step // self.steps_per_epoch
        return [MicroPlan(step, epoch, x, u) for x, u in zip(labeled, unlabeled, strict=True)]

    def _parts(
        self,
        order: Lanes | Repeats,
        partners: Lanes | None,
        tags: tuple[Tag, Tag],
        step: int,
        rank: int,
        world: int,
        accumulation: int,
    ) -> list[Slots]:
        """A rank's slots of one stream, cut into micro-batches."""
        epoch, t = divmod(step, self.steps_per_epoch)
        slots = np.arange(rank * order.batch // world, (rank + 1) * order.batch // world)
        ordinals = order.ordinals(epoch, t, slots)
        others = None if partners is None else partners.ordinals(epoch, t, slots)
        view = keyed.key(self.seed, tags[0], epoch)
        noise = keyed.key(self.seed, tags[1], step)
        parts = []
        for part in np.split(np.arange(len(slots)), accumulation):
            mine = slots[part]
            positions = t * order.batch + mine
            parts.append(
                Slots(
                    ordinals=ordinals[part],
                    slots=mine,
                    positions=positions,
                    view_keys=tuple(keyed.extended(view, positions).tolist()),
                    noise_keys=keyed.extended(noise, mine).view(np.int64),
                    partners=None if others is None else others[part],
                )
            )
        return parts
