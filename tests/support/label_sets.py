"""Label sets for tests, of labels that are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from unimatch.codecs.decode import class_counts, decode_label
from unimatch.codecs.encode import encode_label
from unimatch.shardset.archive import Record, ShardSet
from unimatch.shardset.label_set import label_writer

Label = Callable[[Record], np.ndarray]


def true_label(record: Record) -> np.ndarray:
    """What the shards themselves say; class 0 where they say nothing."""
    if record.label is None:
        return np.zeros((record.height, record.width), np.uint8)
    return decode_label(record.label, record.where)


def write_label_set(
    out: Path, shards: Path, which: str | Path, label: Label = true_label, count: int | None = None
) -> Path:
    """Labels of the first `count` samples of a subset or a list."""
    images = ShardSet.open(shards)
    with label_writer(out, images.taxonomy, {}, max_samples=5) as writer:
        for row in images.rows(which)[:count].tolist():
            record = images.read(row)
            ids = label(record)
            counts = class_counts(ids, images.taxonomy.num_classes)
            writer.add_label(record.key, *encode_label(ids, "zst"), ids.shape[::-1], counts)
    return out
