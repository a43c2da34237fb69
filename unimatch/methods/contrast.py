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
    anchors: Tensor, positive: Tensor, negatives: Tensor, temperature: float, apart: Tensor | None = None
) -> Tensor:
    """[A]: -log of the positive's share among exp(cosine / temperature) of it and the negatives.

    anchors: [A, D]; positive: [A, D] or [1, D]; negatives: [A, N, D]; apart: bool [A, N], which ones count.
    """
    one, other, rest = (F.normalize(each.float(), dim=-1) for each in (anchors, positive, negatives))
    near = (one * other).sum(-1, keepdim=True)
    far = (rest @ one[..., None])[..., 0]
    if apart is not None:
        far = far.masked_fill(~apart, -math.inf)
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
        self.features = self.features.scatter(1, place[..., None].expand_as(features), features)
        self.pushed = self.pushed + kept.sum(1)

    def draw(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """([K, *shape, D], bool [K]): features of each class with replacement, by torch's generator, and
        whether it has any.
        """
        assert self.features is not None and self.pushed is not None, "nothing was pushed yet"
        count = self.pushed.clamp(max=self.size)
        random = torch.rand(self.num_classes, shape[0] * shape[1], device=count.device)
        place = (random * count[:, None]).long().clamp(max=self.size - 1)
        drawn = self.features.gather(1, place[..., None].expand(-1, -1, self.features.shape[2]))
        return drawn.unflatten(1, shape), count > 0

    def state_dict(self) -> dict[str, Any]:
        return {"features": self.features, "pushed": self.pushed}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self.features, self.pushed = (
            None if state[name] is None else state[name].to(device) for name in ("features", "pushed")
        )
