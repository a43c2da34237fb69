"""Who reads which sample when: a pure function of step, seed and split sizes, without I/O or torch.

A split's samples are numbered 0 to N-1 by *ordinals*, grouped by shard. A global batch has G *slots*; slot j
of batch t of an epoch has the *position* t*G + j. The sample of a position does not depend on ranks, workers
or accumulation: these only decide who prepares it. So every global batch is the same on any machine, and
resuming is arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from unimatch import keyed
from unimatch.data.orders import Lanes, Mix, Mixture, Repeats, Sizes, Tag
from unimatch.errors import ConfigError, DataError

PartnerSource = Literal["same", "shuffled", "batch"]


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
    is one pass over the unlabelled split, its last incomplete batch dropped. Of several unlabelled sets
    (`Mix`) it is as many samples as they have together, and each set has passes of its own, see `Mixture`.
    Without one (`unlabeled=None`) it is `epoch_samples // batch_labeled` steps, at least one; `epoch_samples`
    defaults to the labelled split's size. `partner="shuffled"` adds a second order of the unlabelled split.
    DataError: fewer samples in an unlabelled set than in a batch, or an empty labelled split.
    """

    def __init__(
        self,
        labeled: Sizes,
        unlabeled: Sizes | Mix | None,
        batch_labeled: int,
        batch_unlabeled: int | None = None,
        *,
        seed: int = 0,
        partner: PartnerSource | None = None,
        epoch_samples: int | None = None,
    ) -> None:
        self.num_labeled = int(np.sum(labeled))
        mix = unlabeled if isinstance(unlabeled, Mix) or unlabeled is None else Mix([unlabeled])
        self.num_unlabeled = 0 if mix is None else sum(mix.counts)
        self.batch_labeled = batch_labeled
        self.batch_unlabeled = batch_unlabeled if mix is not None and batch_unlabeled is not None else 0
        self.seed = seed
        self.partner = partner
        self._unlabeled: Lanes | Mixture | None = None
        self._partners: Lanes | Mixture | None = None
        if batch_labeled < 1 or (mix is not None and self.batch_unlabeled < 1):
            raise ConfigError(
                f"global batch sizes must be at least 1, found labeled {batch_labeled}, "
                f"unlabeled {batch_unlabeled}"
            )
        if self.num_labeled == 0:
            raise DataError("the labelled split has no samples")
        if mix is None:
            samples = self.num_labeled if epoch_samples is None else epoch_samples
            self.steps_per_epoch = max(1, samples // batch_labeled)
        else:
            _require_batches(mix, self.batch_unlabeled)
            self._unlabeled = mix.order(self.batch_unlabeled, seed, Tag.UNLABELED_ORDER)
            self.steps_per_epoch = self._unlabeled.length
            if partner == "shuffled":
                self._partners = mix.order(self.batch_unlabeled, seed, Tag.PARTNER_ORDER)
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
        order: Lanes | Mixture | Repeats,
        partners: Lanes | Mixture | None,
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


def _require_batches(mix: Mix, batch: int) -> None:
    """DataError if a set has fewer samples than a global batch: each of its slots reads its own part."""
    for number, count in enumerate(mix.counts):
        if count < batch:
            which = "the unlabelled split" if len(mix.counts) == 1 else f"data.unlabeled[{number}]"
            raise DataError(
                f"{which} has {count} samples, fewer than one global batch of {batch}; lower batch.unlabeled "
                "or use a larger split"
            )
