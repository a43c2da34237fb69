"""What a network makes of an image: shares of the classes, entropy, disagreement, and where the image lies
among the encoder's features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unimatch.tasks.base import Task


class Watched(nn.Module):
    """A network that notes, of the `images` of a batch, what passes through it: all of their windows, where
    images are predicted by windows.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.watch(0)

    def watch(self, images: int) -> None:
        """What comes next belongs to a batch of so many images; 0: to nobody."""
        self._images, self._pixels = images, 0
        self._entropy: Tensor | float = 0.0
        self._feature: Tensor | float = 0.0

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """image [N, ..., C, H, W]: windows of a batch one after the other, its images in order in each."""
        if not self._images:
            return self.net(image)
        taken: list[Tensor] = []

        def note(features: list[Tensor]) -> list[Tensor]:
            taken.append(features[-1].float().mean((-2, -1)))
            return features

        out: dict[str, Tensor] = self.net(image, note)
        logp = out["logits"].float().log_softmax(1)
        entropy = -(logp.exp() * logp).sum(1).mean((-2, -1)) / math.log(logp.shape[1])
        pixels = logp.shape[-2] * logp.shape[-1]
        windows = len(image) // self._images
        self._pixels += pixels * windows
        self._entropy = self._entropy + pixels * entropy.view(windows, -1).sum(0)
        self._feature = self._feature + pixels * taken[0].view(windows, self._images, -1).sum(0)
        return out

    def noted(self) -> tuple[np.ndarray, np.ndarray]:
        """float32 [B], the mean entropy, and [B, C], the mean of the deepest features, of the batch
        that was watched last; entropy in parts of that of equal probabilities.
        """
        found = (torch.as_tensor(one / self._pixels) for one in (self._entropy, self._feature))
        entropy, feature = (one.float().cpu().numpy() for one in found)
        return entropy, feature


@dataclass
class Look:
    """Sums over `count` images: one, or the slices of a volume."""

    count: int
    shares: np.ndarray  # float32 [K], of the predicted classes
    entropy: float
    disagreement: float  # share of pixels of which the other view, or network, says another class
    feature: np.ndarray  # float32 [C], of length 1 each


def look(
    task: Task, net: Watched, images: Tensor, other: nn.Module | None = None, feature_only: bool = False
) -> list[Look]:
    """A Look of each image of a batch as decoded, on the network's device.

    other: the network that is compared with; None: `net` on the mirrored image.
    """
    classes = task.taxonomy.num_classes
    with torch.inference_mode():
        net.watch(len(images))
        ids = task.predict(net, images)
        entropy, feature = net.noted()
        net.watch(0)
        second = ids
        if other is not None:
            second = task.predict(other, images)
        elif not feature_only:
            second = task.predict(net, images.flip(-2)).flip(-1)
        known = (ids < classes) & (second < classes)  # not those around the middle in mode "centre"
        differing = ((ids != second) & known).flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)
        counts = torch.stack([(ids == number).flatten(1).sum(1) for number in range(classes)], 1).float()
        shares = (counts / counts.sum(1, keepdim=True).clamp(min=1)).cpu().numpy()
    feature = unit_length(feature)
    told: Iterable[Any] = zip(shares, entropy.tolist(), differing.cpu().tolist(), feature, strict=True)
    return [Look(1, *one) for one in told]


def unit_length(features: np.ndarray) -> np.ndarray:
    """[N, C] scaled to length 1 each; one of zeros stays."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def joined(parts: Iterable[Look]) -> Look:
    """The Look of all slices of a volume."""
    first, *others = parts
    for one in others:
        first = Look(
            first.count + one.count,
            first.shares + one.shares,
            first.entropy + one.entropy,
            first.disagreement + one.disagreement,
            first.feature + one.feature,
        )
    return first
