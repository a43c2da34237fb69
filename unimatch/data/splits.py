"""Seeded lists of labelled and unlabelled keys, drawn from a subset of a shard set."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from unimatch import keyed
from unimatch.data.archive import ShardSet
from unimatch.data.decode import check_label, decode_label
from unimatch.data.pack import class_counts
from unimatch.errors import ConfigError, DataError
from unimatch.taxonomy import Taxonomy

Method = Literal["plain", "stratified"]
METHODS: tuple[Method, ...] = ("plain", "stratified")
CANDIDATES = 8  # images that a step of the stratified draw chooses from: few enough that seeds differ
SEED_TAG = 0x5B117


@dataclass(frozen=True)
class Split:
    """Sorted keys, and int64 [num_classes] pixels of each class: of all candidates and of the labelled."""

    taxonomy: Taxonomy
    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    pool_pixels: np.ndarray
    labeled_pixels: np.ndarray
    labeled_images: np.ndarray  # int64 [num_classes]: labelled images in which the class occurs


def make_split(
    shards: ShardSet,
    subset: str,
    *,
    count: int | None = None,
    fraction: float | None = None,
    method: Method = "plain",
    seed: int = 0,
    also_unlabeled: Sequence[str] = (),
) -> Split:
    """`count` samples of a subset, or that fraction of its samples (rounded, at least 1), as labelled; its
    others and all samples of the subsets `also_unlabeled` as unlabelled.

    Only samples with a mask can be labelled: DataError where they are too few.
    """
    if (count is None) == (fraction is None):
        raise ConfigError("a split needs either a count or a fraction of labelled samples")
    if method not in METHODS:
        raise ConfigError(f"method must be one of {', '.join(METHODS)}, found {method!r}")
    if fraction is not None and not 0 < fraction <= 1:
        raise ConfigError(f"fraction must be in (0, 1], found {fraction:g}")
    rows = shards.rows(subset)
    if count is None:
        assert fraction is not None
        count = max(1, int(fraction * len(rows) + 0.5))
    pool = rows[shards.index["label_size"][rows] > 0]
    if count < 1:
        raise ConfigError(f"count must be at least 1, found {count}")
    if count > len(pool):
        bare = (
            f" ({len(rows) - len(pool)} of its {len(rows)} samples are mask-free)"
            if len(pool) < len(rows)
            else ""
        )
        raise DataError(
            f"{count} labelled samples asked for, but {subset!r} has {len(pool)} with a mask{bare}"
        )
    pixels = sample_pixels(shards, pool)
    key = keyed.key(seed, SEED_TAG)
    chosen = plain(len(pool), count, key) if method == "plain" else stratified(pixels, count, key)
    labeled = np.zeros(len(shards), bool)
    labeled[pool[chosen]] = True
    others = [rows[~labeled[rows]], *(shards.rows(name) for name in also_unlabeled)]
    return Split(
        shards.taxonomy,
        tuple(sorted(shards.keys(pool[chosen]))),
        tuple(sorted(set(shards.keys(np.concatenate(others))))),
        pixels.sum(axis=0),
        pixels[chosen].sum(axis=0),
        (pixels[chosen] > 0).sum(axis=0),
    )


def plain(total: int, count: int, key: int) -> np.ndarray:
    """int64 [count]: a uniform draw without replacement from range(total)."""
    return keyed.permutation(key, total)[:count]


def stratified(pixels: np.ndarray, count: int, key: int) -> np.ndarray:
    """int64 [count]: a draw in which classes are about as frequent as in the pool, rare ones at least once.

    `pixels` [N, K] are the class pixels of each image. A class counts fully in an image that has its usual
    number of pixels (the median of the images that have it) and partly below that, so that a sliver does
    not stand for a class. Each step serves the class that is furthest behind its due: a few random images
    that have it compete, and the one that brings most of what is lacking and least of what is not wins. So
    a count of K or more covers all K classes.
    """
    num_images, num_classes = pixels.shape
    usual = np.array([np.median(column[column > 0]) if column.any() else 1 for column in pixels.T])
    amount = np.minimum(pixels / usual, 1.0)  # [N, K]
    present = np.flatnonzero(amount.any(axis=0))
    due = np.maximum(amount.sum(axis=0) * count / num_images, 1.0)
    have = np.zeros(num_classes)
    left = np.ones(num_images, bool)
    chosen: list[int] = []
    for step in range(count):
        lack = (due - have) / due
        order = keyed.permutation(keyed.key(key, step), num_images)
        order = order[left[order]]
        # The neediest class first; of equals the one that fewest images have.
        needy = (
            min(present, key=lambda k: (-round(lack[k], 9), (amount[:, k] > 0).sum()))
            if len(present)
            else None
        )
        if needy is not None and lack[needy] > 0:
            holders = order[amount[order, needy] >= 0.5]
            holders = holders if len(holders) else order[amount[order, needy] > 0]
            order = holders if len(holders) else order
        candidates = order[:CANDIDATES]
        best = int(candidates[np.argmax(amount[candidates] @ lack)])
        left[best] = False
        have += amount[best]
        chosen.append(best)
    return np.array(chosen, np.int64)


def sample_pixels(shards: ShardSet, rows: np.ndarray) -> np.ndarray:
    """int64 [len(rows), num_classes]: pixels of each class in each sample; every row must have a mask."""
    num_classes = shards.taxonomy.num_classes

    def one(row: int) -> np.ndarray:
        record = shards.read(row)
        if record.label is None:
            raise DataError(f"{record.where}: has no mask")
        label = decode_label(record.label, record.where)
        check_label(label, num_classes, record.where)
        return class_counts(label, num_classes)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding runs outside the interpreter lock
        counts = list(
            tqdm(
                pool.map(one, rows.tolist()),
                total=len(rows),
                unit="image",
                desc="counting classes",
                disable=None,
            )
        )
    return np.stack(counts)


def list_hash(keys: Iterable[str]) -> str:
    """16 hex digits that change when a key is added, removed or renamed; the order does not count."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:16]


def write_split(
    shards: Path,
    subset: str,
    out: Path,
    *,
    count: int | None = None,
    fraction: float | None = None,
    method: Method = "plain",
    seed: int = 0,
    also_unlabeled: Sequence[str] = (),
) -> Split:
    """`make_split` of a set, written into the folder `out` as labeled.txt and unlabeled.txt, a key a line."""
    opened = ShardSet.open(shards)
    split = make_split(
        opened,
        subset,
        count=count,
        fraction=fraction,
        method=method,
        seed=seed,
        also_unlabeled=also_unlabeled,
    )
    opened.close()
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, keys in (("labeled", split.labeled), ("unlabeled", split.unlabeled)):
            (out / f"{name}.txt").write_text("".join(f"{key}\n" for key in keys), encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {error.filename or out}: {error.strerror}") from error
    return split


def statistics(split: Split) -> str:
    """A table for people: the share of each class among the labelled pixels and in the whole pool."""
    names = split.taxonomy.names
    width = max(len("class"), *map(len, names))
    lines = [f"{'class':<{width}}  labelled images  labelled pixels  all pixels"]
    labeled, pool = max(split.labeled_pixels.sum(), 1), max(split.pool_pixels.sum(), 1)
    for name, images, mine, all_ in zip(
        names, split.labeled_images, split.labeled_pixels, split.pool_pixels, strict=True
    ):
        missing = "   <- not among the labelled samples" if all_ and not mine else ""
        lines.append(f"{name:<{width}}  {images:>15}  {mine / labeled:>14.2%}  {all_ / pool:>10.2%}{missing}")
    return "\n".join(lines)
