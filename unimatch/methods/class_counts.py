"""What a network said of classes in the last steps: the same on all processes."""

from __future__ import annotations

import torch
from torch import Tensor

from unimatch.methods.base import Group

KEPT = 0.98  # of the counts in a step, so they are those of about the last 50
PRIOR = 1.0  # a pixel


class ClassCounts:
    """Sums by class, float [4, K]: labelled pixels that were predicted as it, rightly so among them;
    unlabelled pixels that were predicted as it, and the sum of their confidences.

    They change between steps alone, so they do not depend on how a batch is cut into micro-batches.
    """

    def __init__(self, num_classes: int, group: Group) -> None:
        self.sums = torch.zeros(4, num_classes)
        self._group = group
        self._seen: Tensor | None = None  # in this step, on this process

    @torch.no_grad()
    def labeled_and_not(
        self, said: Tensor, truth: Tensor, known: Tensor, labels: Tensor, conf: Tensor, valid: Tensor
    ) -> None:
        """Adds predictions `said` of labelled pixels with their `truth`, where `known`, and pseudo-labels
        with their confidence, where `valid`; [B, H, W] each.
        """
        rows = [
            self._by_class(said, known),
            self._by_class(said, known & (said == truth)),
            self._by_class(labels, valid),
            self._by_class(labels, valid * conf),
        ]
        seen = torch.stack(rows)
        self._seen = seen if self._seen is None else self._seen + seen

    def _by_class(self, ids: Tensor, weights: Tensor) -> Tensor:
        sums = torch.zeros(self.sums.shape[1], device=ids.device)
        return sums.scatter_add_(0, ids.flatten(), weights.flatten().float())

    def step_done(self) -> None:
        """Takes in what was added since the last call. Call on all processes."""
        if self._seen is not None:
            self.sums = KEPT * self.sums.to(self._seen.device) + self._group.gather(self._seen[None]).sum(0)
            self._seen = None

    def precision(self) -> Tensor:
        """[K]: of the labelled pixels predicted as a class, those that are it; 1 before there are any."""
        said, right = self.sums[0], self.sums[1]
        return (right + PRIOR) / (said + PRIOR)

    def eased(self, conf: Tensor, labels: Tensor) -> Tensor:
        """Confidences [B, H, W] of pseudo-labels, over which one threshold is that of each class."""
        return conf / self.confidence().to(conf.device).clamp(min=1e-6)[labels]

    def confidence(self) -> Tensor:
        """[K]: the mean confidence of pseudo-labels of a class over that of the surest class, in (0, 1]; 1
        before there are any.
        """
        mean = (self.sums[3] + PRIOR) / (self.sums[2] + PRIOR)
        mean = torch.where(self.sums[2] > 0, mean, 0.0)
        return torch.where(self.sums[2] > 0, mean / mean.max().clamp(min=1e-6), 1.0)
