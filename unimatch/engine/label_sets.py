"""The label sets of a run, opened and checked against the images and lists that they go with."""

from __future__ import annotations

import hashlib

import numpy as np

from unimatch.data.samples import Pseudo
from unimatch.engine.run_config import DataConfig
from unimatch.engine.selection import PseudoLabeled, Selection
from unimatch.errors import UserError, summary
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.label_set import LabelSet


def open_pseudo(data: DataConfig, shards: ShardSet, labeled: Selection) -> PseudoLabeled | None:
    """What `data.pseudo` names; None: nothing. UserError: no label set, or one of other images or classes, or
    a sample that has two labels: in two sets, or one of its own among the labelled ones.
    """
    if not data.label_sets:
        return None
    sets: list[tuple[LabelSet, np.ndarray]] = []
    for place in data.label_sets:
        one = LabelSet.open(place, shards.taxonomy, data.cache.opened())
        rows = one.rows_in(shards)
        before = [(str(other.root), seen) for other, seen in sets] + [("data.labeled", labeled.rows)]
        for name, seen in before:
            both = np.intersect1d(rows, seen)
            if len(both):
                raise UserError(
                    f"data.pseudo: {len(both)} samples of {place} have a label in {name} already (first: "
                    f"{summary(shards.keys(both[:1]))}); label those that have none: unimatch predict RUN "
                    "--data LIST --labels FOLDER"
                )
        sets.append((one, rows))
    labels = Pseudo(sets)
    hashes = [one.hash for one, _ in sets]
    joined = hashes[0] if len(sets) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16]
    return PseudoLabeled(shards, " + ".join(data.label_sets), labels.rows, joined, labels)
