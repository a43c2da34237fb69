"""A whole label set looked at: every hash, every label decoded, every value, and the images it goes with."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from unimatch.codecs.decode import check_label, class_counts, decode_label
from unimatch.errors import DataError
from unimatch.inspection.check import BLOCK, Report, SubsetReport
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.index import INDEX_JSON
from unimatch.shardset.label_set import LabelSet
from unimatch.shardset.names import LABELS


def holds_labels(root: Path) -> bool:
    """Whether a folder says that it is a label set."""
    try:
        return bool(json.loads((root / INDEX_JSON).read_bytes())["format"] == LABELS)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_labels(root: Path, images: Path | None = None) -> Report:
    """Read and decode every label; images: the shard set that they are of. Problems are collected."""
    try:
        labels = LabelSet.open(root)
    except DataError as error:
        return Report([str(error)], [], {}, None, 0)
    problems = labels.check()
    if images is not None:
        try:
            labels.rows_in(ShardSet.open(images, labels.taxonomy))
        except DataError as error:
            problems.append(str(error))
    total, pixels, sound = np.zeros(labels.taxonomy.num_classes, np.int64), 0, True
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding runs outside the interpreter lock
        for start in range(0, len(labels), BLOCK):
            rows = range(start, min(start + BLOCK, len(labels)))
            for counts, size, problem in pool.map(partial(_look, labels), rows):
                total, pixels = total + counts, pixels + size
                if problem:
                    problems.append(problem)
                    sound = False
    (name,) = labels.subsets
    told = labels.class_pixels(name)
    if sound and told is not None and not np.array_equal(told, total):
        problems.append(f"{name}: the index counts other class pixels than the labels hold; label them again")
    labels.close()
    found = SubsetReport(len(labels), len(labels), total, pixels - int(total.sum()))
    size_bytes = sum(shard["bytes"] for shard in labels.info["shards"])
    return Report(list(dict.fromkeys(problems)), [], {name: found}, labels.taxonomy, size_bytes)


def _look(labels: LabelSet, row: int) -> tuple[np.ndarray, int, str | None]:
    """Pixels of each class and all pixels of one label, and what is wrong with it."""
    entry, num_classes = labels.index[row], labels.taxonomy.num_classes
    try:
        data, where = labels.read_label(row)
        label = decode_label(data, where)
        if label.shape != (entry["height"], entry["width"]):
            size, told = label.shape[::-1], (int(entry["width"]), int(entry["height"]))
            raise DataError(f"{where}: the label is {size[0]}x{size[1]}, the index says {told[0]}x{told[1]}")
        check_label(label, num_classes, where)
    except DataError as error:
        return np.zeros(num_classes, np.int64), 0, str(error)
    return class_counts(label, num_classes), label.size, None
