"""Batches of training: the plan says which samples, the shard set gives their bytes, the transform the views.

Every batch is a pure function of the step, so neither the number of workers nor a resume changes a pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypedDict

import numpy as np
import torch

from unimatch.codecs import compiled
from unimatch.codecs.part import Part, Rect
from unimatch.data.decoded import Decoded
from unimatch.data.images import rgb
from unimatch.data.load import Choose, Decode, load_image, load_pair
from unimatch.data.plan import MicroPlan, Plan, Slots
from unimatch.data.samples import Pool, Samples
from unimatch.data.shared_memory import shared_empty
from unimatch.data.skipping import Place, Skipped, readable
from unimatch.data.stages import Monitor, stage
from unimatch.data.workers import ahead
from unimatch.errors import summary
from unimatch.shardset.archive import ShardSet
from unimatch.views import resize
from unimatch.views.base import Role

EXPECT_STEPS = 100  # so long before it is read is a shard behind a URL fetched, if there is room for it
Arrays = dict[str, np.ndarray]
Make = Callable[..., Arrays]  # a transform's method that only waits for `out`


class Transform(Protocol):
    """Makes the views of one sample; all randomness comes from `key`. Picklable.

    `region` says which pixels of an image of a size are read, and only these are given. Results may be
    written to the arrays of `out`, which are of their names, shapes and types.
    """

    def region(self, width: int, height: int, key: int, role: Role) -> Rect: ...

    def labeled(self, image: Part, label: np.ndarray, key: int, out: Arrays | None = None) -> Arrays: ...

    def unlabeled(
        self, image: Part, key: int, partner_image: Part | None = None, out: Arrays | None = None
    ) -> Arrays: ...


class RawMicro(TypedDict):
    """One micro-batch: the transform's arrays, stacked, and `noise_key` int64 [B]; all on the CPU."""

    labeled: dict[str, torch.Tensor]
    unlabeled: dict[str, torch.Tensor] | None
    skipped: int  # unreadable samples that were replaced in it
    counts: list[int]  # what the loader's `count` says of it; empty where nobody asks


Count = Callable[[RawMicro], list[int]]


def _to_tensors(arrays: Arrays, pin_memory: bool = False) -> dict[str, torch.Tensor]:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {name: tensor.pin_memory() for name, tensor in tensors.items()} if pin_memory else tensors


@dataclass
class _TrainingStep:
    """Computes a rank's micro-batches of a step, as arrays, with the samples that had to be skipped."""

    labeled: Samples
    unlabeled: Pool | None
    plan: Plan
    transform: Transform
    rank: int
    world: int
    accumulation: int
    num_classes: int
    skip_ceiling: int
    decode: Decode
    decoded: Decoded | None
    count: Count | None

    def __post_init__(self) -> None:
        """ConfigError: the plan's batches do not divide over ranks and micro-batches."""
        self.plan.check(self.world, self.accumulation)
        assert len(self.labeled) == self.plan.num_labeled, "the plan was made for another labelled split"
        num_unlabeled = 0 if self.unlabeled is None else len(self.unlabeled)
        assert num_unlabeled == self.plan.num_unlabeled, "the plan was made for another unlabelled split"

    def __call__(self, step: int) -> list[dict[str, Any]]:
        sets = [self.labeled, *(() if self.unlabeled is None else self.unlabeled.sets)]
        if any(one.shards.is_remote for one in sets):
            self._expect(step)
            self._expect(step + EXPECT_STEPS)
        return [self._micro(micro) for micro in self._plans(step)]

    def _plans(self, step: int) -> list[MicroPlan]:
        return self.plan.slots(step, self.rank, self.world, self.accumulation)

    def _micro(self, micro: MicroPlan) -> dict[str, Any]:
        skipped: dict[Place, str] = {}
        labeled, unlabeled = micro.labeled, micro.unlabeled
        rows: list[int] = []
        stacked = self._stack(labeled, self._labeled_views(labeled, skipped, rows))
        if self.labeled.pseudo is not None:
            stacked["pseudo"] = np.isin(rows, self.labeled.pseudo.rows)
        result: dict[str, Any] = {"labeled": stacked, "unlabeled": None}
        if unlabeled is not None:
            result["unlabeled"] = self._stack(unlabeled, self._unlabeled_views(unlabeled, skipped))
        return {**result, "skipped": skipped, "counts": self._counts(result)}

    def _counts(self, arrays: dict[str, Arrays | None]) -> list[int]:
        if self.count is None:
            return []
        halves: Any = {name: part and _to_tensors(part) for name, part in arrays.items()}
        return self.count(halves)

    def _labeled_views(self, slots: Slots, skipped: dict[Place, str], rows: list[int]) -> Iterator[Make]:
        """Of each slot; `rows` gets those read: not the plan's where one is skipped."""
        for ordinal, key in zip(slots.ordinals.tolist(), slots.view_keys, strict=True):
            choose = partial(self.transform.region, key=key, role="labeled")
            load = partial(self._load_pair, choose=choose)
            image, label, row = readable(self.labeled, ordinal, self.skip_ceiling, skipped, load)
            rows.append(row)
            yield partial(self.transform.labeled, image, label, key)

    def _load_pair(self, row: int, choose: Choose) -> tuple[Part, np.ndarray, int]:
        """As `load_pair`, and the row; from memory where that keeps the sample, all of it."""
        side = self.labeled
        if self.decoded is None or row not in self.decoded:
            pair = load_pair(side.shards, row, self.num_classes, self.decode, choose, side.pseudo)
            return *pair, row
        with stage("read"):
            found = self.decoded.get(row)
        if found is not None:
            return Part.whole(found[0]), found[1], row
        image, label = load_pair(side.shards, row, self.num_classes, self.decode, pseudo=side.pseudo)
        self.decoded.put(row, image.pixels, label)
        return image, label, row

    def _unlabeled_views(self, slots: Slots, skipped: dict[Place, str]) -> Iterator[Make]:
        assert self.unlabeled is not None
        partners = [None] * len(slots.ordinals) if slots.partners is None else slots.partners.tolist()
        for ordinal, key, other in zip(slots.ordinals.tolist(), slots.view_keys, partners, strict=True):
            images = []
            wanted: tuple[tuple[int | None, Role], ...] = ((ordinal, "unlabeled"), (other, "partner"))
            for place, role in wanted:
                if place is not None:
                    samples, inside = self.unlabeled.at(place)
                    choose = partial(self.transform.region, key=key, role=role)
                    load = partial(load_image, samples.shards, decode=self.decode, choose=choose)
                    images.append(readable(samples, inside, self.skip_ceiling, skipped, load))
            yield partial(self.transform.unlabeled, images[0], key, images[1] if len(images) > 1 else None)

    @staticmethod
    def _stack(slots: Slots, samples: Iterator[Make]) -> Arrays:
        """The arrays of all samples, stacked: from the second sample on they are made where they will lie."""
        count = len(slots.ordinals)
        stacked: Arrays = {}
        for place, make in enumerate(samples):
            out = {name: array[place] for name, array in stacked.items()}
            with stage("views"):
                made = make(out=out)
            if not stacked:
                stacked = {name: shared_empty((count, *a.shape), a.dtype) for name, a in made.items()}
                out = {name: array[place] for name, array in stacked.items()}
            for name, array in made.items():
                if array is not out[name]:
                    out[name][...] = array
        return {**stacked, "noise_key": slots.noise_keys}

    def describe(self, step: int) -> str:
        """The step and its samples, for messages."""
        keys = [key for part in self._parts(step) for key in part.shards.keys(part.rows)]
        return f"step {step} (samples {summary(keys, 8)})"

    def _expect(self, step: int) -> None:
        """Has what a step reads fetched in the background."""
        rows: dict[ShardSet, list[np.ndarray]] = {}
        for part in self._parts(step, to_read=True):
            rows.setdefault(part.shards, []).append(part.rows)
        for shards, some in rows.items():
            shards.expect(np.concatenate(some))

    def _parts(self, step: int, to_read: bool = False) -> list[Samples]:
        """The samples of a step, mixing partners last. `to_read`: without those that are kept decoded."""
        parts = []
        for micro in self._plans(step):
            labeled = self.labeled.rows[micro.labeled.ordinals]
            if to_read and self.decoded is not None:
                labeled = self.decoded.missing(labeled)
            parts.append(Samples(self.labeled.shards, labeled))
            if to_read and self.labeled.pseudo is not None:
                parts += self.labeled.pseudo.parts(labeled)
            if micro.unlabeled is not None and self.unlabeled is not None:
                parts += self.unlabeled.parts(micro.unlabeled.ordinals)
                if micro.unlabeled.partners is not None:
                    parts += self.unlabeled.parts(micro.unlabeled.partners)
        return parts


def train_loader(
    labeled: Samples,
    unlabeled: Pool | None,
    plan: Plan,
    transform: Transform,
    *,
    rank: int = 0,
    world: int = 1,
    accumulation: int = 1,
    start_step: int = 0,
    stop_step: int,
    workers: int,
    prefetch: int = 2,
    timeout_s: float = 120.0,
    pin_memory: bool = False,
    num_classes: int,
    skip_ceiling: int = 0,
    decode: Decode = rgb,
    threads: bool = False,
    monitor: Monitor | None = None,
    decoded: Decoded | None = None,
    count: Count | None = None,
) -> Iterator[tuple[int, list[RawMicro]]]:
    """(step, this rank's micro-batches) for each step in [start_step, stop_step).

    `skip_ceiling`: how many different unreadable samples this rank may replace by the next readable one of
    its set before it is a DataError; each is logged once. The count starts anew when a run is resumed.
    Workers are processes, or `threads` of this one: the batches are the same. `decoded` keeps labelled
    samples, once one of them has decoded them, for all. `count` is asked for each micro-batch, by the worker.
    ConfigError: the plan's batches do not divide over ranks and micro-batches. While iterating: DataError for
    data that cannot be used and for dead or slow workers.
    """
    prepare = _TrainingStep(
        labeled,
        unlabeled,
        plan,
        transform,
        rank,
        world,
        accumulation,
        num_classes,
        skip_ceiling,
        decode,
        decoded,
        count,
    )
    if compiled.AVAILABLE:
        resize.prepare()
    steps = range(start_step, stop_step)
    results = ahead(
        prepare,
        steps,
        workers=workers,
        prefetch=prefetch,
        timeout_s=timeout_s,
        describe=prepare.describe,
        threads=threads,
        monitor=monitor,
    )
    return _counted(steps, results, skip_ceiling, pin_memory)


def _counted(
    steps: Sequence[int], results: Iterator[list[dict[str, Any]]], skip_ceiling: int, pin_memory: bool
) -> Iterator[tuple[int, list[RawMicro]]]:
    """The results as tensors, as long as no more than `skip_ceiling` different samples were skipped in
    them.
    """
    skipped = Skipped(skip_ceiling)
    for step, micros in zip(steps, results, strict=True):
        batch: list[RawMicro] = []
        for micro in micros:
            skipped.add(micro["skipped"])
            unlabeled = micro["unlabeled"]
            batch.append(
                {
                    "labeled": _to_tensors(micro["labeled"], pin_memory),
                    "unlabeled": None if unlabeled is None else _to_tensors(unlabeled, pin_memory),
                    "skipped": len(micro["skipped"]),
                    "counts": micro["counts"],
                }
            )
        yield step, batch
