"""How often a run sees its labels, which decides whether pseudo-labels can pay."""

from __future__ import annotations

import numpy as np

from unimatch.engine.selection import Selection
from unimatch.tasks.base import Task

# Measured, docs/board.md: with 8 to 136 labelled images, methods with pseudo-labels ended below a baseline of
# the same steps in the runs of 19 to 53 passes over the labels, and level or above it in those of 67 to 159.
ENOUGH, FEW = 60.0, 1000


def label_passes(labeled: Selection, batch: int, steps: int, task: Task) -> float:
    """Passes over the labelled pixels: a crop is a part of an image."""
    index = labeled.shards.index
    sizes = np.stack([index["width"][labeled.rows], index["height"][labeled.rows]], 1)
    different, counts = np.unique(sizes, axis=0, return_counts=True)
    parts = [task.part_of_image(width, height) for width, height in different.tolist()]
    return steps * batch * float(np.average(parts, weights=counts)) / len(labeled.rows)


def too_short(labeled: Selection, batch: int, steps: int, task: Task) -> str | None:
    """A sentence, if a run with pseudo-labels is so short that such runs have mostly lost by them.

    batch: labelled samples of a step. None for long lists too, of which nothing was measured.
    """
    if len(labeled.rows) > FEW:
        return None
    passes = label_passes(labeled, batch, steps, task)
    if passes >= ENOUGH:
        return None
    enough = int(np.ceil(ENOUGH * steps / max(passes, 1e-9)))
    return (
        f"{steps} steps of {batch} labelled crops are {passes:.3g} passes over the {len(labeled.rows)} "
        f"labelled images, and below about {ENOUGH:g} pseudo-labels have mostly cost accuracy in what was "
        f"measured (docs/board.md): take {enough} steps, or method: supervised"
    )
