"""Batches: the plan says which samples, the shard set gives their bytes, the transform makes the views.

Every result is a pure function of the step (training) or of the rows (evaluation), so neither the number of
workers nor a resume changes a pixel.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypedDict, TypeVar

import numpy as np
import torch

from unimatch.codecs import compiled
from unimatch.codecs.decode import check_label, decode_label
from unimatch.codecs.part import Part, Rect
from unimatch.data.decoded import Decoded
from unimatch.data.images import rgb
from unimatch.data.plan import MicroPlan, Plan, Slots
from unimatch.data.stages import Monitor, stage
from unimatch.data.workers import ahead, shared_empty
from unimatch.errors import DataError
from unimatch.shardset.archive import Record, ShardSet
from unimatch.shardset.index import summary
from unimatch.views import resize
from unimatch.views.base import Role

logger = logging.getLogger(__name__)
Sample = TypeVar("Sample")
EXPECT_STEPS = 100  # so long before it is read is a shard behind a URL fetched, if there is room for it
EXPECT_SAMPLES = 1000  # the same in evaluation
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


Decode = Callable[[Record, Rect], Part]
"""From a sample's bytes to at least the pixels [..., h, w, C] of a rectangle, see data.images. Picklable."""
Choose = Callable[[int, int], Rect]
"""From width and height of an image to the pixels that are needed of it."""


def all_of(width: int, height: int) -> Rect:
    return 0, 0, width, height


def load_image(shards: ShardSet, row: int, decode: Decode = rgb, choose: Choose = all_of) -> Part:
    """The needed pixels of a sample's image; its label is not read. DataError names shard and key."""
    with stage("read"):
        record = shards.read(row, with_label=False)
    with stage("decode"):
        return _image(record, decode, choose)


def load_pair(
    shards: ShardSet, row: int, num_classes: int, decode: Decode = rgb, choose: Choose = all_of
) -> tuple[Part, np.ndarray]:
    """The needed pixels of a sample's image, or more, and its label, uint8 [H, W].

    DataError if they do not fit each other, the index or the classes, or if there is no label.
    """
    with stage("read"):
        record = shards.read(row)
    if record.label is None:
        raise DataError(
            f"{record.where}: has no label, but the split uses it as a labelled sample; remove its key"
        )
    with stage("decode"):
        image, label = _image(record, decode, choose), decode_label(record.label, record.where)
    if label.shape != (image.height, image.width):
        raise DataError(
            f"{record.where}: the label is {label.shape[1]}x{label.shape[0]} pixels, the image "
            f"{image.width}x{image.height}; pack the right pair again"
        )
    check_label(label, num_classes, record.where)
    return image, label


def _image(record: Record, decode: Decode, choose: Choose) -> Part:
    image = decode(record, choose(record.width, record.height))
    if (image.width, image.height) != (record.width, record.height):
        raise DataError(
            f"{record.where}: the image is {image.width}x{image.height} pixels, the index says "
            f"{record.width}x{record.height}; pack the data again"
        )
    return image


def _limit(skipped: int, ceiling: int, last: str) -> None:
    if skipped > ceiling:
        raise DataError(
            f"{skipped} samples cannot be read, data.skip_ceiling allows {ceiling}; the last: {last}"
        )


def _to_tensors(arrays: Arrays, pin_memory: bool) -> dict[str, torch.Tensor]:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {name: tensor.pin_memory() for name, tensor in tensors.items()} if pin_memory else tensors


@dataclass
class _TrainingStep:
    """Computes a rank's micro-batches of a step, as arrays, with the samples that had to be skipped."""

    shards: ShardSet
    rows_labeled: np.ndarray
    rows_unlabeled: np.ndarray | None
    plan: Plan
    transform: Transform
    rank: int
    world: int
    accumulation: int
    num_classes: int
    skip_ceiling: int
    decode: Decode
    decoded: Decoded | None

    def __call__(self, step: int) -> list[dict[str, Any]]:
        if self.shards.is_remote:
            for soon in (step, step + EXPECT_STEPS):
                self.shards.expect(self._rows(soon, to_read=True))
        return [self._micro(micro) for micro in self._plans(step)]

    def _plans(self, step: int) -> list[MicroPlan]:
        return self.plan.slots(step, self.rank, self.world, self.accumulation)

    def _micro(self, micro: MicroPlan) -> dict[str, Any]:
        skipped: dict[int, str] = {}
        labeled, unlabeled = micro.labeled, micro.unlabeled
        result: dict[str, Any] = {
            "labeled": self._stack(labeled, self._labeled(labeled, skipped)),
            "unlabeled": None,
        }
        if unlabeled is not None:
            result["unlabeled"] = self._stack(unlabeled, self._unlabeled(unlabeled, skipped))
        return {**result, "skipped": skipped}

    def _labeled(self, slots: Slots, skipped: dict[int, str]) -> Iterator[Make]:
        for ordinal, key in zip(slots.ordinals.tolist(), slots.view_keys, strict=True):
            choose = partial(self.transform.region, key=key, role="labeled")
            load = partial(self._load_pair, choose=choose)
            image, label = self._readable(self.rows_labeled, ordinal, skipped, load)
            yield partial(self.transform.labeled, image, label, key)

    def _load_pair(self, row: int, choose: Choose) -> tuple[Part, np.ndarray]:
        """As `load_pair`; from memory where that keeps the sample, all of it."""
        if self.decoded is None or row not in self.decoded:
            return load_pair(self.shards, row, self.num_classes, self.decode, choose)
        with stage("read"):
            found = self.decoded.get(row)
        if found is not None:
            return Part.whole(found[0]), found[1]
        image, label = load_pair(self.shards, row, self.num_classes, self.decode)
        self.decoded.put(row, image.pixels, label)
        return image, label

    def _unlabeled(self, slots: Slots, skipped: dict[int, str]) -> Iterator[Make]:
        assert self.rows_unlabeled is not None
        partners = [None] * len(slots.ordinals) if slots.partners is None else slots.partners.tolist()
        for ordinal, key, other in zip(slots.ordinals.tolist(), slots.view_keys, partners, strict=True):
            images = []
            wanted: tuple[tuple[int | None, Role], ...] = ((ordinal, "unlabeled"), (other, "partner"))
            for place, role in wanted:
                if place is not None:
                    choose = partial(self.transform.region, key=key, role=role)
                    load = partial(load_image, self.shards, decode=self.decode, choose=choose)
                    images.append(self._readable(self.rows_unlabeled, place, skipped, load))
            yield partial(self.transform.unlabeled, images[0], key, images[1] if len(images) > 1 else None)

    def _readable(
        self, rows: np.ndarray, ordinal: int, skipped: dict[int, str], load: Callable[[int], Sample]
    ) -> Sample:
        """The sample, or in its place the next readable one of the split: the same on every rank and after a
        resume.
        """
        for place in range(ordinal, ordinal + len(rows)):
            row = int(rows[place % len(rows)])
            try:
                return load(row)
            except DataError as error:
                if self.skip_ceiling == 0:
                    raise
                skipped[row] = str(error)
                _limit(len(skipped), self.skip_ceiling, skipped[row])
        raise DataError(f"no sample of the split can be read; {summary(skipped.values(), 1)}")

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
        return f"step {step} (samples {summary(self.shards.keys(self._rows(step)), 8)})"

    def _rows(self, step: int, to_read: bool = False) -> np.ndarray:
        """The samples of a step, mixing partners last. `to_read`: without those that are kept decoded."""
        parts = []
        for micro in self._plans(step):
            labeled = self.rows_labeled[micro.labeled.ordinals]
            if to_read and self.decoded is not None:
                labeled = self.decoded.missing(labeled)
            parts.append(labeled)
            if micro.unlabeled is not None and self.rows_unlabeled is not None:
                parts.append(self.rows_unlabeled[micro.unlabeled.ordinals])
                if micro.unlabeled.partners is not None:
                    parts.append(self.rows_unlabeled[micro.unlabeled.partners])
        return np.concatenate(parts)


def train_loader(
    shards: ShardSet,
    rows_labeled: np.ndarray,
    rows_unlabeled: np.ndarray | None,
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
) -> Iterator[tuple[int, list[RawMicro]]]:
    """(step, this rank's micro-batches) for each step in [start_step, stop_step).

    `skip_ceiling`: how many different unreadable samples this rank may replace by the next readable one of
    the split before it is a DataError; each is logged once. The count starts anew when a run is resumed.
    Workers are processes, or `threads` of this one: the batches are the same. `decoded` keeps labelled
    samples, once one of them has decoded them, for all.
    ConfigError: the plan's batches do not divide over ranks and micro-batches. While iterating: DataError for
    data that cannot be used and for dead or slow workers.
    """
    plan.check(world, accumulation)
    if compiled.AVAILABLE:
        resize.prepare()
    assert len(rows_labeled) == plan.num_labeled, "the plan was made for another labelled split"
    num_unlabeled = 0 if rows_unlabeled is None else len(rows_unlabeled)
    assert num_unlabeled == plan.num_unlabeled, "the plan was made for another unlabelled split"
    prepare = _TrainingStep(
        shards,
        rows_labeled,
        rows_unlabeled,
        plan,
        transform,
        rank,
        world,
        accumulation,
        num_classes,
        skip_ceiling,
        decode,
        decoded,
    )
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
    seen: set[int] = set()
    for step, micros in zip(steps, results, strict=True):
        batch: list[RawMicro] = []
        for micro in micros:
            for row, problem in micro["skipped"].items():
                if row not in seen:
                    seen.add(row)
                    logger.warning("skipped sample %d of at most %d: %s", len(seen), skip_ceiling, problem)
                _limit(len(seen), skip_ceiling, problem)
            unlabeled = micro["unlabeled"]
            batch.append(
                {
                    "labeled": _to_tensors(micro["labeled"], pin_memory),
                    "unlabeled": None if unlabeled is None else _to_tensors(unlabeled, pin_memory),
                    "skipped": len(micro["skipped"]),
                }
            )
        yield step, batch


class EvalBatch(TypedDict):
    """Images of one size."""

    image: torch.Tensor  # [B, ..., H, W, C], as decoded
    label: torch.Tensor | None  # uint8 [B, H, W]; None for mask-free samples
    keys: list[str]


@dataclass
class _EvalBatch:
    """Loads the images, and the labels if they have any, of some rows of equal size; `all_rows` come in the
    end.
    """

    shards: ShardSet
    all_rows: np.ndarray
    decode: Decode

    def __call__(self, rows: np.ndarray) -> dict[str, Any]:
        if self.shards.is_remote:
            start = int(np.searchsorted(self.all_rows, rows[-1]))
            self.shards.expect(self.all_rows[start : start + EXPECT_SAMPLES])
        keys = self.shards.keys(rows)
        if self.shards.index["label_size"][rows[0]] == 0:
            return {
                "image": np.stack([load_image(self.shards, int(row), self.decode).pixels for row in rows]),
                "label": None,
                "keys": keys,
            }
        num_classes = self.shards.taxonomy.num_classes
        pairs = [load_pair(self.shards, int(row), num_classes, self.decode) for row in rows]
        images, labels = zip(*pairs, strict=True)
        return {
            "image": np.stack([image.pixels for image in images]),
            "label": np.stack(labels),
            "keys": keys,
        }

    def describe(self, rows: np.ndarray) -> str:
        return f"an evaluation batch (samples {summary(self.shards.keys(rows), 8)})"


def eval_loader(
    shards: ShardSet,
    rows: np.ndarray,
    *,
    rank: int = 0,
    world: int = 1,
    workers: int,
    batch: int,
    prefetch: int = 2,
    timeout_s: float = 120.0,
    decode: Decode = rgb,
    unit: Callable[[str], str] | None = None,
) -> Iterator[EvalBatch]:
    """This rank's share of `rows`, each image once, in batches of at most `batch` images of one size.

    Keys of which `unit` says the same (the slices of a volume) go to one rank; None: each is its own unit.
    Ranks get different numbers of batches, and none if there are more ranks than units.
    """
    mine = rows[_units(shards, rows, unit) % world == rank]
    prepare = _EvalBatch(shards, mine, decode)
    for result in ahead(
        prepare,
        _equal_batches(shards, mine, batch),
        workers=workers,
        prefetch=prefetch,
        timeout_s=timeout_s,
        describe=prepare.describe,
    ):
        label = result["label"]
        yield {
            "image": torch.from_numpy(result["image"]),
            "label": None if label is None else torch.from_numpy(label),
            "keys": result["keys"],
        }


def _units(shards: ShardSet, rows: np.ndarray, unit: Callable[[str], str] | None) -> np.ndarray:
    """int64, for each row: the number of its unit, in the order in which the units first occur."""
    if unit is None:
        return np.arange(len(rows))
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(unit(key), len(numbers)) for key in shards.keys(rows)], np.int64)


def _equal_batches(shards: ShardSet, rows: np.ndarray, batch: int) -> list[np.ndarray]:
    """Rows cut into batches whose images have one size and all or none a label; increasing inside a batch."""
    entries = shards.index[rows]
    kinds = np.stack([entries["height"], entries["width"], entries["label_size"] > 0], axis=1)
    _, kind = np.unique(kinds, axis=0, return_inverse=True)
    kind = kind.reshape(-1)  # NumPy 2.0 gives it two axes
    return [
        rows[kind == group][start : start + batch]
        for group in range(int(kind.max(initial=-1)) + 1)
        for start in range(0, int((kind == group).sum()), batch)
    ]
