"""Batches of evaluation: each image once over all ranks, as it was decoded, beside those of its size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch

from unimatch.data.images import rgb
from unimatch.data.load import Decode, load_image, load_pair
from unimatch.data.workers import ahead
from unimatch.errors import summary
from unimatch.shardset.archive import ShardSet

EXPECT_SAMPLES = 1000  # so many samples before it is read is a shard behind a URL fetched, if there is room


class EvalBatch(TypedDict):
    """Images of one size."""

    image: torch.Tensor  # [B, ..., H, W, C], as decoded
    label: torch.Tensor | None  # uint8 [B, H, W]; None for mask-free samples
    keys: list[str]


@dataclass
class _EvalBatch:
    """Loads the images, and the labels if they have any and are asked for, of some rows of equal size;
    `all_rows` come in the end.
    """

    shards: ShardSet
    all_rows: np.ndarray
    decode: Decode
    with_labels: bool = True

    def __call__(self, rows: np.ndarray) -> dict[str, Any]:
        if self.shards.is_remote:
            start = int(np.searchsorted(self.all_rows, rows[-1]))
            self.shards.expect(self.all_rows[start : start + EXPECT_SAMPLES])
        keys = self.shards.keys(rows)
        if not self.with_labels or self.shards.index["label_size"][rows[0]] == 0:
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


def image_loader(
    shards: ShardSet, batches: list[np.ndarray], *, workers: int, timeout_s: float, decode: Decode = rgb
) -> Iterator[EvalBatch]:
    """Images alone of some batches of rows, each of one size, in their order; no label is opened."""
    rows = np.concatenate([*batches, np.empty(0, np.int64)])
    prepare = _EvalBatch(shards, rows, decode, with_labels=False)
    for result in ahead(
        prepare, batches, workers=workers, prefetch=2, timeout_s=timeout_s, describe=prepare.describe
    ):
        yield {"image": torch.from_numpy(result["image"]), "label": None, "keys": result["keys"]}


def neighbours(shards: ShardSet, rows: np.ndarray, batch: int) -> list[np.ndarray]:
    """Rows in their order, cut into batches of at most `batch` of one size."""
    sizes = np.stack([shards.index["height"][rows], shards.index["width"][rows]], 1)
    ends = np.flatnonzero((sizes[1:] != sizes[:-1]).any(1)) + 1
    return [
        part[start : start + batch] for part in np.split(rows, ends) for start in range(0, len(part), batch)
    ]


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
