"""Contrast of pixels: queues of features by class, and the loss that pulls and pushes.

Nothing in here has a shape that depends on values, so that nothing waits for the device.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def sample(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(places int64 [count], taken bool [count]): True places of a mask [n] at random, by torch's generator;
    where there are fewer, the places that are not `taken` are any.
    """
    score = torch.where(mask, torch.rand(mask.shape, device=mask.device), -1.0)
    count = min(count, len(mask))
    score, places = score.topk(count)
    return places, score >= 0.0


def contrast(
    anchors: Tensor,
    positive: Tensor,
    negatives: Tensor,
    temperature: float,
    apart: Tensor | None = None,
    places: Tensor | None = None,
) -> Tensor:
    """[A]: -log of the positive's share among exp(cosine / temperature) of it and the negatives.

    anchors: [A, D]; positive: [A, D] or [1, D]; negatives: [M, D]; apart: bool [A, M], which of them are one
    to an anchor; places: int64 [A, N], which of them are, some perhaps more than once. Neither: all.
    """
    one, other, rest = (F.normalize(each.float(), dim=-1) for each in (anchors, positive, negatives))
    near, far = (one * other).sum(-1, keepdim=True), one @ rest.T
    if apart is not None:
        far = far.masked_fill(~apart, -math.inf)
    if places is not None:
        far = far.gather(1, places)
    return -(torch.cat([near, far], dim=1) / temperature).log_softmax(1)[:, 0]


class Queues:
    """The newest features of each class, at most `size` of them: a ring for each class.

    Equal on all processes as long as what is pushed is.
    """

    def __init__(self, num_classes: int, size: int) -> None:
        self.num_classes = num_classes
        self.size = size
        self.features: Tensor | None = None  # [K, size + 1, D]; the last place takes what is not kept
        self.pushed: Tensor | None = None  # int64 [K], all there ever were

    def push(self, features: Tensor, kept: Tensor) -> None:
        """features: [K, n, D], kept: bool [K, n]; n at most `size`."""
        features, kept = features.detach().float(), kept.long()
        if self.features is None or self.pushed is None:
            self.features = features.new_zeros(self.num_classes, self.size + 1, features.shape[2])
            self.pushed = kept.new_zeros(self.num_classes)
        place = (self.pushed[:, None] + kept.cumsum(1) - 1) % self.size
        place = torch.where(kept > 0, place, self.size)
        self.features.scatter_(1, place[..., None].expand_as(features), features)
        self.pushed = self.pushed + kept.sum(1)

    def draw(self, anchors: int, count: int) -> tuple[Tensor, Tensor]:
        """(int64 [K, anchors, count], bool [K]): places in each class's ring, drawn with replacement by
        torch's generator, and whether there is anything in it.
        """
        assert self.pushed is not None, "nothing was pushed yet"
        filled = self.pushed.clamp(max=self.size)
        random = torch.rand(self.num_classes, anchors, count, device=filled.device)
        return (random * filled[:, None, None]).long().clamp(max=self.size - 1), filled > 0

    def state_dict(self) -> dict[str, Any]:
        return {"features": self.features, "pushed": self.pushed}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self.features, self.pushed = (
            None if state[name] is None else state[name].to(device, copy=True)
            for name in ("features", "pushed")
        )
