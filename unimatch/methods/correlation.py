"""Pixels that look alike: a head that finds them, and pseudo-labels that spread over them (CorrMatch)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatch.data.sample import Unlabeled
from unimatch.methods.base import Group
from unimatch.methods.ops import Pseudo, keyed_uniform
from unimatch.methods.parts import ConvNormReLU, resized


class Correlation(nn.Module):
    """M = softmax(f1^T f2 / sqrt(K)) over the places of a feature, and logits taken from alike places."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.reduce = ConvNormReLU(channels, 256)
        self.one = nn.Conv2d(256, num_classes, 1)
        self.other = nn.Conv2d(256, num_classes, 1)

    def forward(self, feature: Tensor, logits: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """feature [B, c, h, w], logits [B, K, H, W], key int64 [B] -> logits [B, K, H, W], M [B, hw, hw]."""
        small = self.reduce(feature, key)
        one, other = (each(small).flatten(2) for each in (self.one, self.other))
        alike = (one.transpose(1, 2) @ other / math.sqrt(logits.shape[1])).float().softmax(-1)
        low = resized(logits.detach(), feature.shape[-2:])
        spread = (low.flatten(2).float() @ alike).view_as(low)
        return resized(spread, logits.shape[-2:]), alike


def followed(
    threshold: Tensor,
    momentum: float,
    conf: Tensor,
    labels: Tensor,
    u: Unlabeled,
    num_classes: int,
    group: Group,
) -> Any:
    """The threshold, a tensor, after it has moved to the mean over predicted classes of the largest
    confidence of all processes.
    """
    values = torch.where(u.valid, conf, 0.0).flatten()
    largest = conf.new_zeros(num_classes).scatter_reduce_(0, labels.flatten(), values, "amax")
    largest = group.gather(largest[None]).amax(0)
    mean = largest.sum() / (largest > 0).sum().clamp(min=1)
    before = threshold.to(mean.device)
    # Where nothing is valid anywhere there is nothing to follow.
    return torch.lerp(torch.where(largest.any(), mean, before), before, momentum)


@torch.no_grad()
def propagated(
    alike: Tensor,
    size: Sequence[int],
    conf: Tensor,
    labels: Tensor,
    u: Unlabeled,
    tau: Tensor,
    segments: int,
    num_classes: int,
) -> Pseudo:
    """(conf, labels) after segments with one class took it as a whole, with confidence 1.

    alike: [B, hw, hw], the places of `size` = (h, w) that resemble each place. A segment is what resembles
    one of `segments` places, drawn by the images' keys, more than half as much as the most alike place does.
    It takes a class if the share of its pixels with conf >= tau is at least tau, and that class holds more
    than tau of those; of two on one pixel the later one counts. All are judged by the labels from before.
    """
    rows = keyed_uniform(u.noise_key, alike.shape[1]).argsort(1)[:, :segments]
    alike = alike.gather(1, rows[..., None].expand(-1, -1, alike.shape[2]))
    low, high = alike.amin(2, keepdim=True), alike.amax(2, keepdim=True)
    scaled = ((alike - low) / (high - low).clamp(min=1e-12)).unflatten(2, tuple(size))
    results = [
        _of_image(*each, tau, num_classes) for each in zip(scaled, conf, labels, u.valid, strict=True)
    ]  # one image at a time: a segment is as large as the image
    mixed_conf, mixed_labels = zip(*results, strict=True)
    return torch.stack(mixed_conf), torch.stack(mixed_labels)


def _of_image(
    scaled: Tensor, conf: Tensor, labels: Tensor, valid: Tensor, tau: Tensor, num_classes: int
) -> Pseudo:
    """scaled: [S, h, w]; the others [H, W]."""
    inside = (resized(scaled[None], conf.shape)[0] > 0.5) & valid  # [S, H, W]
    flat = inside.flatten(1).float()
    sure = ((conf >= tau) & valid).flatten().float()
    classes = F.one_hot(labels.flatten(), num_classes).float() * sure[:, None]
    counts = flat @ classes  # [S, K]
    total = counts.sum(1)
    most, chosen = counts.max(1)
    takes = (total > 0) & (total >= tau * flat.sum(1)) & (most > tau * total)
    order = torch.arange(1, len(inside) + 1, device=conf.device)
    last = torch.where(inside & takes[:, None, None], order[:, None, None], 0).amax(0)  # 0: none
    taken = last > 0
    return torch.where(taken, 1.0, conf), torch.where(taken, chosen[(last - 1).clamp(min=0)], labels)
