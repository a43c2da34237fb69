"""A whole shard set looked at: every hash, every member decoded, every label value, every image compared."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from unimatch import keyed
from unimatch.codecs.decode import check_label, class_counts, decode_image, decode_label
from unimatch.codecs.picture import as_rgb, overlay, scaled
from unimatch.codecs.sheet import Sample, class_legend, notice, sheet, tile_side
from unimatch.errors import DataError
from unimatch.inspection.duplicates import compare_images, fingerprint, group_rows
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.index import INDEX_JSON, INDEX_NPY, digest, load_rows
from unimatch.taxonomy import IGNORE_INDEX, Taxonomy

BLOCK = 4096  # samples handed to the threads at a time


@dataclass(frozen=True)
class SubsetReport:
    """What a subset holds. `class_pixels` int64 [num_classes], as `ignored_pixels`, of the readable masks."""

    samples: int
    labeled: int
    class_pixels: np.ndarray
    ignored_pixels: int


@dataclass(frozen=True)
class Report:
    """Every problem that was found (none: the set is sound), what may be one, and what the subsets hold."""

    problems: list[str]
    warnings: list[str]
    subsets: dict[str, SubsetReport]
    taxonomy: Taxonomy | None  # None: the index could not be read
    size_bytes: int


@dataclass(frozen=True)
class Look:
    """One sample decoded: its problem if it has one, the pixels of its classes if it has a mask, and what
    tells its images (one, or two of a pair) from others."""

    problem: str | None
    pixels: np.ndarray | None = None
    ignored: int = 0
    fingerprints: tuple[tuple[int, int], ...] = ()


def check_set(
    root: Path, splits: Sequence[Path] = (), held_out: Sequence[str] = (), distance: int = 2
) -> Report:
    """Read and decode everything in a shard set. Problems are collected, not raised.

    Images are compared between the groups that `duplicates.group_rows` makes of `splits` and `held_out`;
    alike are those whose perceptual hashes differ in at most `distance` bits.
    """
    problems: list[str] = []
    try:
        shards = ShardSet.open(root)
    except DataError as error:
        problems.append(str(error))
        unverified = open_anyway(root)
        if unverified is None:
            return Report(problems, [], {}, None, 0)
        shards = unverified
    problems += shards.check()
    problems += _repeated_keys(shards)
    found, fingerprints, faults = _samples(shards)
    problems += faults
    warnings: list[str] = []
    try:
        groups = group_rows(shards, splits, held_out)
        columns = np.array(fingerprints, np.uint64).reshape(-1, 3)
        rows = columns[:, 0].astype(np.int64)
        leaks, warnings = compare_images(shards, groups, columns[:, 1], columns[:, 2], rows, distance)
        problems += leaks
    except DataError as error:
        problems.append(str(error))
    shards.close()
    size = sum(shard["bytes"] for shard in shards.info["shards"])
    return Report(list(dict.fromkeys(problems)), warnings, found, shards.taxonomy, size)


def _repeated_keys(shards: ShardSet) -> list[str]:
    keys, counts = np.unique(shards.index["key"], return_counts=True)
    return [
        f"key {key.decode()!r} occurs {count} times"
        for key, count in zip(keys, counts, strict=True)
        if count > 1
    ]


def _samples(shards: ShardSet) -> tuple[dict[str, SubsetReport], list[tuple[int, int, int]], list[str]]:
    """What the subsets hold, row and fingerprint of every readable image, and the problems."""
    found = {
        name: SubsetReport(0, 0, np.zeros(shards.taxonomy.num_classes, np.int64), 0)
        for name in shards.subsets
    }
    subset_of_row = np.repeat(
        [shard["subset"] for shard in shards.info["shards"]],
        [shard["samples"] for shard in shards.info["shards"]],
    )
    fingerprints: list[tuple[int, int, int]] = []
    problems, faulty = [], set()
    for row, seen in enumerate(look_at_all(shards)):
        subset = str(subset_of_row[row])
        old = found[subset]
        if seen.problem is not None:
            problems.append(seen.problem)
            faulty.add(subset)
        found[subset] = SubsetReport(
            old.samples + 1,
            old.labeled + int(shards.index["label_size"][row] > 0),
            old.class_pixels + (0 if seen.pixels is None else seen.pixels),
            old.ignored_pixels + seen.ignored,
        )
        fingerprints += [(row, *each) for each in seen.fingerprints]
    for name, subset_report in found.items():
        told = shards.class_pixels(name)
        if told is not None and name not in faulty and not np.array_equal(told, subset_report.class_pixels):
            problems.append(
                f"{name}: the index counts other class pixels than the labels hold; pack the data again"
            )
    return found, fingerprints, problems


def look_at_all(shards: ShardSet) -> Iterator[Look]:
    """Each sample of the set, in order."""
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,  # decoding runs outside the interpreter lock
        tqdm(total=len(shards), unit="image", desc="checking", disable=None) as bar,
    ):
        for start in range(0, len(shards), BLOCK):
            for seen in pool.map(partial(look, shards), range(start, min(start + BLOCK, len(shards)))):
                bar.update()
                yield seen


def open_anyway(root: Path) -> ShardSet | None:
    """The set of an index that does not fit its tars, to tell all its faults; None: no sound index."""
    try:
        info = json.loads((root / INDEX_JSON).read_bytes())
        with open(root / INDEX_NPY, "rb") as file:
            if digest(file) != info["index"]["sha256"]:
                return None  # its places and sizes mean nothing
        return ShardSet(root, info, load_rows(root / INDEX_NPY))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def look(shards: ShardSet, row: int) -> Look:
    """Decode one sample and compare it with the index."""
    try:
        record = shards.read(row)
        images = [
            decode_image(data, record.where) for data in (record.image, record.second) if data is not None
        ]
        for image in images:
            height, width = image.shape[:2]
            if (width, height) != (record.width, record.height):
                told = f"{record.width}x{record.height}"
                raise DataError(
                    f"{record.where}: the image is {width}x{height} pixels, the index says {told}"
                )
        fingerprints = tuple(fingerprint(image) for image in images)
        if record.label is None:
            return Look(None, fingerprints=fingerprints)
        label = decode_label(record.label, record.where)
        if label.shape != (height, width):
            size = f"{label.shape[1]}x{label.shape[0]}"
            raise DataError(f"{record.where}: the label is {size} pixels, the image {width}x{height}")
        check_label(label, shards.taxonomy.num_classes, record.where)
    except (DataError, OSError) as error:
        return Look(str(error))
    pixels = class_counts(label, shards.taxonomy.num_classes)
    return Look(None, pixels, int(label.size - pixels.sum()), fingerprints)


def table(report: Report) -> str:
    """A table for people: the classes with id and colour, and of each subset the number of samples and of
    masks and the share of each class among the labelled pixels.
    """
    if report.taxonomy is None:
        return ""
    width = max(len("mask-free"), *map(len, report.taxonomy.names))
    lines = []

    def row(start: tuple[str, str, str], cells: Iterable[str]) -> None:
        number, name, color = start
        lines.append(f"{number:>3}  {name:<{width}}  {color:<7}" + "".join(f"  {cell:>10}" for cell in cells))

    row(("id", "class", "colour"), report.subsets)
    found = list(report.subsets.values())
    row(("", "samples", ""), [str(subset.samples) for subset in found])
    row(("", "mask-free", ""), [str(subset.samples - subset.labeled) for subset in found])
    totals = [int(subset.class_pixels.sum()) for subset in found]
    for k, (name, color) in enumerate(zip(report.taxonomy.names, report.taxonomy.colors, strict=True)):
        shares = [f"{s.class_pixels[k] / n:.2%}" if n else "-" for s, n in zip(found, totals, strict=True)]
        row((str(k), name, "#" + bytes(color).hex()), shares)
    everything = [subset.ignored_pixels + n for subset, n in zip(found, totals, strict=True)]
    ignored = [f"{s.ignored_pixels / n:.2%}" if n else "-" for s, n in zip(found, everything, strict=True)]
    row((str(IGNORE_INDEX), "(ignored)", ""), ignored)
    return "\n".join(lines)


def contact_sheet(shards: ShardSet, count: int = 24, seed: int = 0) -> np.ndarray:
    """uint8 [H, W, 3]: images drawn by `seed`, each beside its overlay, with their keys and the classes.

    The two images of a pair stand side by side, and the overlay is on the second. In pairs and in 16-bit
    greyscale, which are for the tasks change and medical, class 0 is the background and is not painted.
    """
    records = [
        shards.read(row) for row in sorted(keyed.permutation(keyed.key(seed), len(shards))[:count].tolist())
    ]
    shown = [
        [decode_image(data, record.where) for data in (record.image, record.second) if data is not None]
        for record in records
    ]
    bands = shards.bands()
    show = as_rgb if bands is None else bands.picture
    dates = max(map(len, shown))
    clear = 0 if dates == 2 or (bands is None and shown[0][0].dtype == np.uint16) else None
    across = 8 // (dates + 1)
    side = tile_side(across * (dates + 1))
    names, colors = shards.taxonomy.names, shards.taxonomy.colors
    samples = []
    for record, images in zip(records, shown, strict=True):
        tiles = [scaled(show(image), side) for image in images]
        height, width = tiles[-1].shape[:2]
        if record.label is None:
            tiles.append(notice("no mask", height, width))
        else:
            label = decode_label(record.label, record.where)
            tiles.append(overlay(tiles[-1], label, colors, 0.6, clear))
        # A set may hold both kinds: a single image leaves the place of the second empty.
        tiles[1:1] = [notice("", height, width)] * (dates + 1 - len(tiles))
        samples.append(Sample(tiles, record.key))
    return sheet(samples, across=across, legend=class_legend(names, colors, clear))
