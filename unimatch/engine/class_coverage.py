"""Classes without a labelled pixel in the samples that a run learns from or is measured on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from unimatch.engine.selection import Selection
from unimatch.errors import DataError
from unimatch.packing.coverage import missing_classes
from unimatch.packing.splits import sample_pixels

MOST_READ = 512  # samples of a list whose masks are read for it: a second or two


def class_warnings(selections: Mapping[str, Selection]) -> list[str]:
    """A line for "labeled" and for "val" if a class has no pixel there.

    None for a list, not a whole subset, that is long, remote or has a mask that cannot be read: the loader
    tells of that one.
    """
    found = []
    for name in ("labeled", "val"):
        if name not in selections:
            continue
        rows, shards = selections[name].rows, selections[name].shards
        pixels = class_pixels(selections[name])
        if pixels is not None:
            area = int((shards.index["width"][rows].astype(np.int64) * shards.index["height"][rows]).sum())
            found.append(
                missing_classes(shards.taxonomy.names, f"data.{name}", pixels, area - int(pixels.sum()))
            )
    return [text for text in found if text]


def class_pixels(selection: Selection) -> np.ndarray | None:
    """int64 [num_classes]: labelled pixels of each class over the selected samples, or None: see
    `class_warnings`.
    """
    shards = selection.shards
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
