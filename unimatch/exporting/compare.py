"""A file against the network that it was made from: the same classes, the same figures, how fast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from unimatch.exporting.formats import Run
from unimatch.metrics import Metric
from unimatch.tasks.base import Task

WARM_UP = 2  # runs that are not timed


@dataclass
class Images:
    """Images of one size as stored, [B, ..., H, W, C]; label: uint8 [B, H, W], None: they have none."""

    image: np.ndarray
    label: np.ndarray | None
    keys: list[str]


@dataclass
class Comparison:
    """images, pixels: compared. same: pixels of the same class. largest: difference of two probabilities.
    left_out: images of another size than the file takes. before, after: the task's figures of the labelled
    images by the network and by the file; None: there were none.
    """

    images: int = 0
    pixels: int = 0
    same: int = 0
    largest: float = 0.0
    left_out: int = 0
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None

    @property
    def agreement(self) -> float:
        return self.same / self.pixels

    def lines(self, task: Task) -> list[str]:
        """For people."""
        told = [
            f"{self.images} images: {100 * self.agreement:.3f} % of the pixels have the run's own class, "
            f"confidences differ by {self.largest:.2g} at most"
        ]
        if self.left_out:
            told.append(f"{self.left_out} images of another size were left out: the file does not take them")
        if self.before is not None and self.after is not None:
            name = task.headline
            values = [figures[name] for figures in (self.before, self.after)]
            before, after = ("undefined" if one is None else f"{100 * one:.2f}" for one in values)
            told.append(f"{name}: {before} of the run's own predictions, {after} of the file's")
        return told


@dataclass
class Compared:
    """Takes images one batch after another."""

    task: Task
    own: Run
    file: Run
    size: tuple[int, ...] | None  # height and width that the file takes; None: any
    found: Comparison = field(default_factory=Comparison)
    _metrics: tuple[Metric, Metric] | None = None

    def take(self, batch: Images) -> None:
        if self.size is not None and batch.image.shape[-3:-1] != tuple(self.size):
            self.found.left_out += len(batch.image)
            return
        ids, confidence = self.own(batch.image)
        file_ids, file_confidence = self.file(batch.image)
        found = self.found
        found.images += len(ids)
        found.pixels += ids.size
        found.same += int((ids == file_ids).sum())
        found.largest = max(found.largest, float(np.abs(confidence - file_confidence).max()))
        if batch.label is not None:
            self._metrics = self._metrics or (self.task.metric(), self.task.metric())
            for metric, one in zip(self._metrics, (ids, file_ids), strict=True):
                metric.update(torch.from_numpy(one), torch.from_numpy(batch.label), batch.keys)

    def result(self) -> Comparison:
        if self._metrics is not None:
            self.found.before, self.found.after = (self.task.figures(one) for one in self._metrics)
        return self.found


def compare(task: Task, own: Run, file: Run, images: Iterable[Images], size: Any = None) -> Comparison:
    """See Comparison; `size` as in Compared."""
    compared = Compared(task, own, file, size)
    for batch in images:
        compared.take(batch)
    return compared.result()


def in_turns(runs: tuple[Run, Run], image: np.ndarray, turns: int) -> tuple[float, float]:
    """Median seconds of each, one after the other in every turn: what else the machine does slows both."""
    took: tuple[list[float], list[float]] = ([], [])
    for turn in range(WARM_UP + turns):
        for times, run in zip(took, runs, strict=True):
            began = time.perf_counter()
            run(image)
            if turn >= WARM_UP:
                times.append(time.perf_counter() - began)
    return statistics.median(took[0]), statistics.median(took[1])
