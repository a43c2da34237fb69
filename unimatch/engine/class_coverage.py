"""Classes without a labelled pixel in the samples that a run learns from or is measured on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from unimatch.engine.run_data import Selection
from unimatch.errors import DataError
from unimatch.packing.coverage import missing_classes
from unimatch.packing.splits import sample_pixels
from unimatch.shardset.archive import ShardSet

MOST_READ = 512  # samples of a list whose masks are read for it: a second or two


def class_warnings(shards: ShardSet, selections: Mapping[str, Selection]) -> list[str]:
    """A line for "labeled" and for "val" if a class has no pixel there.

    None for a list, not a whole subset, that is long, remote or has a mask that cannot be read: the loader
    tells of that one.
    """
    found = []
    for name in ("labeled", "val"):
        if name not in selections:
            continue
        rows = selections[name].rows
        pixels = _class_pixels(shards, selections[name])
        if pixels is not None:
            area = int((shards.index["width"][rows].astype(np.int64) * shards.index["height"][rows]).sum())
            found.append(
                missing_classes(shards.taxonomy.names, f"data.{name}", pixels, area - int(pixels.sum()))
            )
    return [text for text in found if text]


def _class_pixels(shards: ShardSet, selection: Selection) -> np.ndarray | None:
    """int64 [num_classes] over the selected samples, or None: see `class_warnings`."""
    if selection.name in shards.subsets:
        counted = shards.class_pixels(selection.name)
        if counted is not None:
            return counted
    if shards.is_remote or len(selection.rows) > MOST_READ:
        return None
    try:
        return sample_pixels(shards, selection.rows).sum(0)
    except DataError:
        return None
