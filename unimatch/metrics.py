"""Segmentation metrics from one table of pixel counts, which processes can add up exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from unimatch.taxonomy import IGNORE_INDEX


class Metric(Protocol):
    """What an evaluation collects. Each process updates its own; then the sum of the states replaces each."""

    state: Tensor
    """On the metric's device, of a shape that does not depend on the samples: the sum over processes of the
    states is the state of the whole set."""

    def update(self, prediction: Tensor, label: Tensor, keys: Sequence[str]) -> None:
        """Adds samples, integers [B, H, W], by their keys. A unit's samples all come to one process."""


def defined(value: float) -> float | None:
    """`value`, or None for a NaN, which JSON cannot say: a figure that no pixel defines."""
    return None if math.isnan(value) else value


class ConfusionMatrix:
    """Counts of pixels by true class (row) and predicted class (column).

    counts: int64 [K, K]; the sum over processes is the table of the whole set, and every figure below is
    exact.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    @property
    def state(self) -> Tensor:
        return self.counts

    @state.setter
    def state(self, counts: Tensor) -> None:
        self.counts = counts

    def update(self, prediction: Tensor, label: Tensor, keys: Sequence[str] = ()) -> None:
        """Adds the pixels of two integer tensors of one shape, except those where either is IGNORE_INDEX.

        A prediction is ignored outside the crop of a centre evaluation; elsewhere only labels are.
        """
        num_classes = len(self.counts)
        prediction, label = prediction.long(), label.long()
        counted = (label != IGNORE_INDEX) & (prediction != IGNORE_INDEX)
        # Cell 0 takes the ignored pixels, so that an id out of range lengthens the table instead of falling
        # among them.
        cell = torch.where(counted, 1 + label * num_classes + prediction, 0)
        counts = torch.bincount(cell.flatten(), minlength=1 + num_classes**2)
        assert len(counts) == 1 + num_classes**2, f"a class id above {num_classes - 1} reached the metric"
        self.counts += counts[1:].view(num_classes, num_classes)

    def iou(self) -> Tensor:
        """float64 [K]: intersection over union of each class; NaN for a class that occurs nowhere."""
        intersection = self.counts.diagonal().double()
        union = self.counts.sum(0) + self.counts.sum(1) - self.counts.diagonal()
        return intersection / union  # 0/0 is NaN

    def miou(self) -> float:
        """The mean IoU over the classes that occur in truth or prediction; NaN if no pixel counted.

        The released evaluation gives an absent class the value 0 instead; every class occurs in the full
        benchmark sets.
        """
        return float(self.iou().nanmean())

    def accuracy(self) -> float:
        """The fraction of pixels with the right class; NaN if no pixel counted."""
        return float(self.counts.diagonal().sum().double() / self.counts.sum())


class Calibration:
    """How far probabilities are from the share of pixels that they are right about.

    state: int64 [3, bins]: pixels, those that are right, and their probabilities in millionths, by
    probability; the sum over processes is the table of the whole set.
    """

    BINS, UNIT = 15, 1_000_000

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.state = torch.zeros(3, self.BINS, dtype=torch.int64, device=device)

    def update(self, prediction: Tensor, conf: Tensor, label: Tensor) -> None:
        """Adds pixels [B, H, W], except those where prediction or label is IGNORE_INDEX; conf: float."""
        counted = ~((label == IGNORE_INDEX) | (prediction == IGNORE_INDEX))
        conf, right = conf[counted], (prediction == label)[counted]
        place = (conf * self.BINS).long().clamp_(0, self.BINS - 1)
        parts = torch.ones_like(place), right.long(), (conf.double() * self.UNIT).round().long()
        self.state.scatter_add_(1, place.expand(3, -1), torch.stack(parts))

    def error(self) -> float:
        """The expected calibration error of Guo et al., ICML 2017, with 15 bins; NaN if no pixel counted."""
        pixels, right, conf = self.state.double()
        return float((right - conf / self.UNIT).abs().sum() / pixels.sum())
