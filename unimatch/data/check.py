"""A whole shard set looked at: every hash, every member decoded, every label value."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from unimatch import keyed
from unimatch.data.archive import ShardSet
from unimatch.data.decode import check_label, decode_image, decode_label
from unimatch.data.index import INDEX_JSON, INDEX_NPY, load_rows
from unimatch.data.pack import class_counts
from unimatch.data.picture import grid, overlay
from unimatch.errors import DataError
from unimatch.taxonomy import IGNORE_INDEX, Taxonomy


@dataclass(frozen=True)
class SubsetReport:
    """What a subset holds. `class_pixels` int64 [num_classes], as `ignored_pixels`, of the readable masks."""

    samples: int
    labeled: int
    class_pixels: np.ndarray
    ignored_pixels: int


@dataclass(frozen=True)
class Report:
    """Every problem that was found (none: the set is sound), and what the subsets hold."""

    problems: list[str]
    subsets: dict[str, SubsetReport]
    taxonomy: Taxonomy | None  # None: the index could not be read
    size_bytes: int


@dataclass(frozen=True)
class Look:
    """One sample decoded: its problem if it has one, and the pixels of its classes if it has a mask."""

    problem: str | None
    pixels: np.ndarray | None
    ignored: int = 0


def check_set(root: Path) -> Report:
    """Read and decode everything in a shard set. Problems are collected, not raised."""
    problems: list[str] = []
    try:
        shards = ShardSet.open(root)
    except DataError as error:
        problems.append(str(error))
        unverified = open_anyway(root)
        if unverified is None:
            return Report(problems, {}, None, 0)
        shards = unverified
    problems += shards.check()
    keys, counts = np.unique(shards.index["key"], return_counts=True)
    problems += [
        f"key {key.decode()!r} occurs {count} times"
        for key, count in zip(keys, counts, strict=True)
        if count > 1
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding runs outside the interpreter lock
        looks = pool.map(lambda row: look(shards, row), range(len(shards)))
        looked = list(tqdm(looks, total=len(shards), unit="image", desc="checking", disable=None))
    problems += [found.problem for found in looked if found.problem is not None]
    subsets = {}
    for name in shards.subsets:
        mine = [looked[row] for row in shards.rows(name)]
        pixels = np.zeros(shards.taxonomy.num_classes, np.int64)
        for found in mine:
            pixels += 0 if found.pixels is None else found.pixels
        labeled = int((shards.index["label_size"][shards.rows(name)] > 0).sum())
        subsets[name] = SubsetReport(len(mine), labeled, pixels, sum(found.ignored for found in mine))
        told = shards.class_pixels(name)
        if told is not None and not any(found.problem for found in mine) and not np.array_equal(told, pixels):
            problems.append(
                f"{name}: the index counts other class pixels than the labels hold; pack the data again"
            )
    shards.close()
    size = sum(shard["bytes"] for shard in shards.info["shards"])
    return Report(list(dict.fromkeys(problems)), subsets, shards.taxonomy, size)


def open_anyway(root: Path) -> ShardSet | None:
    """The set of an index that does not fit its tars, so that all its faults are told; None: no index."""
    try:
        info = json.loads((root / INDEX_JSON).read_bytes())
        return ShardSet(root, info, load_rows(root / INDEX_NPY))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def look(shards: ShardSet, row: int) -> Look:
    """Decode one sample and compare it with the index."""
    try:
        record = shards.read(row)
        image = decode_image(record.image, record.where)
        height, width = image.shape[:2]
        if (width, height) != (record.width, record.height):
            told = f"{record.width}x{record.height}"
            raise DataError(f"{record.where}: the image is {width}x{height} pixels, the index says {told}")
        if record.label is None:
            return Look(None, None)
        label = decode_label(record.label, record.where)
        if label.shape != (height, width):
            size = f"{label.shape[1]}x{label.shape[0]}"
            raise DataError(f"{record.where}: the label is {size} pixels, the image {width}x{height}")
        check_label(label, shards.taxonomy.num_classes, record.where)
    except (DataError, OSError) as error:
        return Look(str(error), None)
    pixels = class_counts(label, shards.taxonomy.num_classes)
    return Look(None, pixels, int(label.size - pixels.sum()))


def histogram(report: Report) -> str:
    """A table for people: samples, masks and the share of each class among the labelled pixels, by subset."""
    if report.taxonomy is None:
        return ""
    names = list(report.subsets)
    width = max(len("mask-free"), *map(len, report.taxonomy.names))
    lines = [f"{'':<{width}}" + "".join(f"  {name:>10}" for name in names)]

    def row(title: str, cells: list[str]) -> None:
        lines.append(f"{title:<{width}}" + "".join(f"  {cell:>10}" for cell in cells))

    found = list(report.subsets.values())
    row("samples", [str(subset.samples) for subset in found])
    row("mask-free", [str(subset.samples - subset.labeled) for subset in found])
    totals = [int(subset.class_pixels.sum()) for subset in found]
    for k, name in enumerate(report.taxonomy.names):
        shares = [subset.class_pixels[k] / max(total, 1) for subset, total in zip(found, totals, strict=True)]
        row(name, [f"{share:.2%}" if total else "-" for share, total in zip(shares, totals, strict=True)])
    everything = [subset.ignored_pixels + total for subset, total in zip(found, totals, strict=True)]
    ignored = [subset.ignored_pixels / max(all_, 1) for subset, all_ in zip(found, everything, strict=True)]
    row(
        "(ignored)",
        [f"{share:.2%}" if all_ else "-" for share, all_ in zip(ignored, everything, strict=True)],
    )
    return "\n".join(lines)


def contact_sheet(shards: ShardSet, count: int = 24, seed: int = 0) -> np.ndarray:
    """uint8 [H, W, 3]: images drawn by `seed`, each beside its overlay, where ignored pixels are dark."""
    colors = shards.taxonomy.colors
    tiles = []
    for row in sorted(keyed.permutation(keyed.key(seed), len(shards))[:count].tolist()):
        record = shards.read(row)
        image = decode_image(record.image, record.where)
        tiles.append(image)
        if record.label is None:
            tiles.append(np.full_like(image, 255))
        else:
            label = decode_label(record.label, record.where)
            # Dark where nothing is labelled: an ignore id that was forgotten shows at once.
            dark = (label == IGNORE_INDEX)[..., None]
            tiles.append(np.where(dark, image // 4, overlay(image, label, colors, 0.6)))
    return grid(tiles, columns=8)
