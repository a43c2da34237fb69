"""Label sets for tests, of labels that are told, and as processes of a run write them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.support.color_net import ColorNet
from unimatch.codecs.decode import class_counts, decode_label
from unimatch.codecs.encode import encode_label
from unimatch.engine.restore import restore
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_shards
from unimatch.engine.runtime import Runtime
from unimatch.engine.selection import select
from unimatch.predicting import label_sets
from unimatch.predicting.folder import write_folder
from unimatch.predicting.output import KINDS, Output
from unimatch.predicting.predictor import Predictor, Reading
from unimatch.predicting.results import picture_names
from unimatch.predicting.sources import Samples
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


def label_and_compare(config: RunConfig, out: Path, runtime: Runtime) -> None:
    """As one of the processes of a run, with networks that say something: OUT/labels is the label set of its
    unlabelled samples, OUT/scores.npy how far two networks agree about each, OUT/folder what predict writes.
    """
    found = restore(config.out, "last", None, runtime)
    classes = found.task.taxonomy.num_classes
    nets = [replace(found, net=ColorNet(classes, seed)) for seed in (1, 2)]  # type: ignore[arg-type]
    shards = open_shards(config.data.shards, config.data.cache)
    rows = select(shards, str(config.data.unlabeled)).rows
    reading = Reading(batch=3, workers=0, scales=(1.0, 0.5))
    label_sets.write_label_set(Predictor(nets[:1], reading), shards, rows, out / "labels", runtime)
    output = Output(out / "folder", KINDS, found.task, picture_names([], stems=False))
    write_folder(Predictor(nets[:1], reading), Samples(shards, rows, found.task), output, runtime, {})
    scores = label_sets.stability(nets, shards, rows, runtime, reading)
    if runtime.is_main:
        np.save(out / "scores.npy", scores)
