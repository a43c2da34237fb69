"""What every task offers: the views of its samples, its losses, its predictions and its metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from unimatch.data.sample import Batch
from unimatch.metrics import ConfusionMatrix
from unimatch.registry import Registry
from unimatch.taxonomy import Taxonomy

TASKS = Registry("task")

RawMicro = Mapping[str, Any]
"""A micro-batch as the loader stacks it: {"labeled": {name: tensor}, "unlabeled": {name: tensor} or None}."""


class Needs(Protocol):
    """The part of a method's needs that a transform must know."""

    @property
    def num_strong(self) -> int: ...

    @property
    def partner(self) -> Any: ...


class Task(ABC):
    """One kind of data. It knows no method, no optimiser and no process."""

    taxonomy: Taxonomy
    headline: str
    """The metric's figure by which runs are compared."""

    def views_on_device(self, has_accelerator: bool) -> bool:
        """Whether the configuration leaves strong views to `to_device`, in a run on an accelerator or not."""
        return False

    @abstractmethod
    def transform(self, needs: Needs, on_device: bool = False) -> Any:
        """The picklable object that turns decoded samples into the arrays that `to_device` takes.

        on_device: as `views_on_device` said; False for a task that cannot.
        """

    @abstractmethod
    def pixel_counts(self, raw: RawMicro) -> Tensor:
        """int64 [n], on the CPU: how many pixels each mean of this micro-batch's losses is taken over."""

    @abstractmethod
    def to_device(self, raw: RawMicro, device: torch.device, shares: Tensor | None = None) -> Batch:
        """The micro-batch that methods see, on `device`.

        shares: float [n], on the CPU, in the order of `pixel_counts`; None: 1 each, so that every micro-batch
        counts the same. With own count / mean count of all micro-batches of a step, the mean of their losses
        is the global mean.
        """

    @abstractmethod
    def supervised_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss over labelled pixels, a scalar."""

    @abstractmethod
    def consistency_loss(
        self, logits: Tensor, labels: Tensor, conf: Tensor, valid: Tensor, threshold: float
    ) -> Tensor:
        """The mean loss against pseudo-labels, a scalar; pixels with conf below the threshold count 0."""

    @abstractmethod
    def predict(self, net: nn.Module, image: Tensor) -> Tensor:
        """uint8 [B, H, W]: class ids of images as decoded. Leaves `net` in eval mode."""

    @abstractmethod
    def metric(self, device: torch.device | str = "cpu") -> ConfusionMatrix:
        """An empty metric for this task's classes."""

    @abstractmethod
    def figures(self, metric: ConfusionMatrix) -> dict[str, Any]:
        """What a metric says, ready for JSON: `headline`, and figures by class name (None: absent)."""

    @abstractmethod
    def pictures(self, net: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
        """uint8 [H, W, 3] by name: what `net` sees and says of a batch. Leaves `net` in eval mode."""
