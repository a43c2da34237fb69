"""Seeded lists of labelled and unlabelled keys, drawn from a subset of a shard set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from unimatch import keyed
from unimatch.codecs.decode import check_label, class_counts, decode_label
from unimatch.errors import ConfigError, DataError
from unimatch.packing.groups import check_groups, folds
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.key_list import write_keys
from unimatch.taxonomy import Taxonomy

Method = Literal["plain", "stratified"]
METHODS: tuple[Method, ...] = ("plain", "stratified")
CANDIDATES = 8  # images that a step of the stratified draw chooses from: few enough that seeds differ
SEED_TAG = 0x5B117
BLOCK = 4096  # images handed to the threads at a time


@dataclass(frozen=True)
class Split:
    """Sorted keys, and int64 [num_classes] pixels of each class: of the whole subset and of the labelled."""

    taxonomy: Taxonomy
    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    pool_pixels: np.ndarray
    labeled_pixels: np.ndarray
    labeled_images: np.ndarray  # int64 [num_classes]: labelled images in which the class occurs
    groups: tuple[int, int] | None = None  # labelled groups, and all of the subset
    left_out: int = 0  # samples in no list: mask-free ones of labelled groups


def draw_splits(
    shards: ShardSet,
    subset: str,
    amounts: Sequence[int | Fraction],
    *,
    method: Method = "plain",
    seed: int = 0,
    also_unlabeled: Sequence[str] = (),
    groups: np.ndarray | None = None,
) -> list[Split]:
    """A split for each of `amounts`: that many samples of a subset (or of a key list), or that part of its
    samples (rounded, at least 1), as labelled; its others and all samples of the subsets `also_unlabeled` as
    unlabelled.

    With `groups`, int64 [samples of the set], amounts are numbers or parts of groups, which are labelled as a
    whole; what a labelled group has without a mask, also in `also_unlabeled`, is in neither list.

    Nested: of two amounts the labelled samples of the larger contain those of the smaller, and the smallest
    is what it would be alone. Only samples with a mask can be labelled: DataError where they are too few.
    """
    if method not in METHODS:
        raise ConfigError(f"method must be one of {', '.join(METHODS)}, found {method!r}")
    rows = shards.rows(subset)
    others = [shards.rows(name) for name in also_unlabeled]
    pool = labelable(shards, rows)
    if groups is not None:
        check_groups(shards, groups, rows)
    total, unit = (len(rows), np.arange(len(pool))) if groups is None else grouped(groups, rows, pool)
    num_units = len(np.unique(unit))
    counts = [labeled_count(amount, total) for amount in amounts]
    if not counts:
        raise ConfigError("a split needs a count or a fraction of labelled samples")
    if groups is not None and max(counts) > num_units:
        raise DataError(
            f"{max(counts)} labelled groups asked for, but {subset!r} has {num_units} with a mask, of {total}"
        )
    if max(counts) > num_units:
        bare = f" ({len(rows) - len(pool)} of its {len(rows)} samples are mask-free)"
        raise DataError(
            f"{max(counts)} labelled samples asked for, but {subset!r} has {len(pool)} with a mask"
            + (bare if len(pool) < len(rows) else "")
        )
    key = keyed.key(seed, SEED_TAG)
    pixels = sample_pixels(shards, pool) if method == "stratified" else None
    by_unit = pixels if groups is None or pixels is None else sums(pixels, unit)
    chosen = np.zeros(0, np.int64)
    drawn: dict[int, Split] = {}
    for count in sorted(set(counts)):
        chosen = plain(num_units, count, key) if by_unit is None else stratified(by_unit, count, key, chosen)
        taken = chosen if groups is None else np.flatnonzero(np.isin(unit, chosen))
        rest = np.concatenate([np.setdiff1d(rows, pool[taken]), *others])
        kept = rest if groups is None else rest[~np.isin(groups[rest], groups[pool[taken]])]
        mine = None if pixels is None else pixels[taken]
        drawn[count] = split_of_rows(shards, subset, pool[taken], kept, mine)
        if groups is not None:
            left_out = len(np.unique(rest)) - len(np.unique(kept))
            drawn[count] = replace(drawn[count], groups=(count, total), left_out=left_out)
    return [drawn[count] for count in counts]


def grouped(groups: np.ndarray, rows: np.ndarray, pool: np.ndarray) -> tuple[int, np.ndarray]:
    """The number of groups of `rows`, and int64 [len(pool)] which of those with a mask each row is in."""
    return len(np.unique(groups[rows])), np.unique(groups[pool], return_inverse=True)[1]


def sums(pixels: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """int64 [groups, num_classes]: the class pixels of each group."""
    return np.stack([np.bincount(unit, column) for column in pixels.T], 1).astype(np.int64)


def labelable(shards: ShardSet, rows: np.ndarray) -> np.ndarray:
    """Those of the rows that have a mask."""
    return rows[shards.index["label_size"][rows] > 0]


def write_folds(
    shards: ShardSet,
    subset: str,
    count: int,
    out: Path,
    *,
    method: Method = "plain",
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> list[tuple[int, int]]:
    """Writes OUT/1 to OUT/<count>, each with val.txt, a part of the samples with a mask, and train.txt, all
    samples of the subset outside of it. Returns how many keys each two lists have.

    Every sample with a mask is in one val.txt. With `groups`, what a group of val.txt has without a mask is
    in neither list.
    """
    rows = shards.rows(subset)
    pool = labelable(shards, rows)
    if groups is not None:
        check_groups(shards, groups, rows)
    units = np.arange(len(pool)) if groups is None else groups[pool]
    pixels = sample_pixels(shards, pool) if method == "stratified" else None
    written = []
    for number, places in enumerate(folds(units, count, seed, pixels), 1):
        val = pool[places]
        train = np.setdiff1d(rows, val)
        train = train if groups is None else train[~np.isin(groups[train], groups[val])]
        folder = make_folder(out / str(number))
        write_keys(folder / "val.txt", shards.keys(val))
        write_keys(folder / "train.txt", shards.keys(train))
        written.append((len(train), len(val)))
    return written


def split_of_rows(
    shards: ShardSet,
    subset: str,
    labeled: np.ndarray,
    unlabeled: np.ndarray,
    pixels: np.ndarray | None = None,
) -> Split:
    """The split of these rows, which may repeat among the unlabelled. `pixels` [len(labeled), num_classes] as
    of `sample_pixels`, if known.

    What is not known is counted: the labels of the labelled rows, and those of the whole subset where the
    index does not tell.
    """
    pixels = sample_pixels(shards, labeled) if pixels is None else pixels
    pool_pixels = shards.class_pixels(subset) if subset in shards.subsets else None
    if pool_pixels is None:
        rows = shards.rows(subset)
        pool_pixels = sample_pixels(shards, rows[shards.index["label_size"][rows] > 0]).sum(axis=0)
    return Split(
        shards.taxonomy,
        tuple(sorted(shards.keys(labeled))),
        tuple(sorted(shards.keys(np.unique(unlabeled)))),
        pool_pixels,
        pixels.sum(axis=0),
        (pixels > 0).sum(axis=0),
    )


def labeled_count(amount: int | Fraction, total: int) -> int:
    """How many of `total` samples an amount stands for. ConfigError: not positive, or more than all."""
    if isinstance(amount, int):
        if amount < 1:
            raise ConfigError(f"count must be at least 1, found {amount}")
        return amount
    if not 0 < amount <= 1:
        raise ConfigError(f"fraction must be in (0, 1], found {amount}")
    return max(1, floor(amount * total + Fraction(1, 2)))


def plain(total: int, count: int, key: int) -> np.ndarray:
    """int64 [count]: a uniform draw without replacement from range(total)."""
    return keyed.permutation(key, total)[:count]


def stratified(
    pixels: np.ndarray, count: int, key: int, taken: np.ndarray | Sequence[int] = ()
) -> np.ndarray:
    """int64 [count]: a draw in which classes are about as frequent as in the pool, rare ones at least once.

    It starts with the images `taken`, at most `count`, which a smaller draw gave.

    `pixels` [N, K] are the class pixels of each image. A class counts fully in an image that has its usual
    number of pixels (the median of the images that have it) and partly below that, so that a sliver does
    not stand for a class. Each step serves the class that is furthest behind its due: a few random images
    that have it compete, and the one that brings most of what is lacking and least of what is not wins. So
    a count of K or more covers all K classes.
    """
    num_images = len(pixels)
    usual = np.array([np.median(column[column > 0]) if column.any() else 1 for column in pixels.T])
    amount = np.minimum(pixels / usual, 1.0)  # [N, K]
    present = np.flatnonzero(amount.any(axis=0))
    due = np.maximum(amount.sum(axis=0) * count / num_images, 1.0)
    images_with = (amount > 0).sum(axis=0)
    chosen = [int(image) for image in taken]
    have = amount[chosen].sum(axis=0)
    left = np.ones(num_images, bool)
    left[chosen] = False
    for step in range(len(chosen), count):
        lack = (due - have) / due
        order = keyed.permutation(keyed.key(key, step), num_images)
        order = order[left[order]]
        # The neediest class first; of equals the one that fewest images have.
        needy = min(present, key=lambda k: (-round(lack[k], 9), images_with[k])) if len(present) else None
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

    pixels = np.zeros((len(rows), num_classes), np.int64)
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,  # decoding runs outside the interpreter lock
        tqdm(total=len(rows), unit="image", desc="counting classes", disable=None) as bar,
    ):
        for start in range(0, len(rows), BLOCK):
            for place, counts in enumerate(pool.map(one, rows[start : start + BLOCK].tolist()), start):
                pixels[place] = counts
                bar.update()
    return pixels


def write_split(split: Split, out: Path) -> None:
    """Write the key lists labeled.txt and unlabeled.txt into the folder `out`."""
    make_folder(out)
    write_keys(out / "labeled.txt", split.labeled)
    write_keys(out / "unlabeled.txt", split.unlabeled)


def make_folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {error.filename or path}: {error.strerror}") from error
    return path


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
    if split.groups is not None:
        lines.append(f"{split.groups[0]} of {split.groups[1]} groups are labelled")
    if split.left_out:
        lines.append(f"{split.left_out} samples without a mask belong to labelled groups and are in no list")
    return "\n".join(lines)
