"""Pixel losses: means over the pixels of the tensors given, in fp32; 0, with a graph, where no pixel counts.
The Dice losses are ratios of sums over them.

None knows of other micro-batches or processes. A global mean is made outside, by the `share` of a batch.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from unimatch.errors import ConfigError
from unimatch.taxonomy import IGNORE_INDEX

DICE_SMOOTH = 1e-5  # as published


@dataclass(frozen=True)
class PseudoLabels:
    """What a network said of unlabelled images, as a consistency loss takes it."""

    labels: Tensor  # int64 [B, H, W]
    conf: Tensor  # float [B, H, W]
    valid: Tensor  # bool [B, H, W]: pixels of the image; the others are in no mean
    threshold: float  # a valid pixel with less confidence counts 0
    weight: Tensor | None = None  # float [B, H, W], from 0: what the others count; None: 1

    @property
    def kept(self) -> Tensor:
        """bool [B, H, W]: the valid pixels that are confident enough."""
        return self.valid & (self.conf >= self.threshold)


@dataclass
class LossConfig:
    """The supervised loss.

    name: "ce" is cross-entropy; "ohem" is cross-entropy over hard pixels only (online hard example mining).
    ohem_threshold: a pixel is hard if the probability of its true class is at most this ...
    ohem_min_kept_per_image: ... and at least so many pixels per image of the micro-batch, the worst ones,
        are taken as hard.
    """

    name: Literal["ce", "ohem"] = "ce"
    ohem_threshold: float = 0.7
    ohem_min_kept_per_image: int = 100_000

    def __post_init__(self) -> None:
        if not 0.0 <= self.ohem_threshold <= 1.0:
            raise ConfigError(f"ohem_threshold must lie in [0, 1], found {self.ohem_threshold}")
        if self.ohem_min_kept_per_image < 1:
            raise ConfigError(
                f"ohem_min_kept_per_image must be at least 1, found {self.ohem_min_kept_per_image}"
            )

    def without_effect(self, crop: int) -> str | None:
        """Why OHEM on crops of crop x crop pixels is plain cross-entropy, or None."""
        if self.name != "ohem" or self.ohem_min_kept_per_image < crop**2:
            return None
        return (
            f"task.loss.ohem_min_kept_per_image is {self.ohem_min_kept_per_image}, but a crop of {crop} x "
            f"{crop} has {crop**2} pixels: OHEM keeps all of them, as plain cross-entropy does. The share of "
            f"the published crops (100000 of 801 x 801) would be {round(crop**2 * 100_000 / 801**2)}"
        )


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy over labelled pixels, a scalar; 0 if every pixel is ignored.

    logits: [B, K, H, W] of any float type; labels: int64 [B, H, W] with IGNORE_INDEX.
    """
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (labels != IGNORE_INDEX).sum().clamp(min=1)


def ohem_cross_entropy(logits: Tensor, labels: Tensor, threshold: float, min_kept_per_image: int) -> Tensor:
    """The mean cross-entropy over hard pixels, a scalar; 0 if every pixel is ignored.

    A pixel is hard if its true-class probability is at most max(threshold, p), p being the n-th smallest
    true-class probability among the labelled pixels of the whole micro-batch and n = min_kept_per_image * B;
    with fewer labelled pixels than n, all are. As in the reference the choice is made per micro-batch, so
    unlike the other losses this one depends a little on how a global batch is divided.
    """
    losses = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="none")  # [B, H, W]
    with torch.no_grad():
        valid = labels != IGNORE_INDEX
        # Infinity for ignored pixels: where n exceeds the labelled pixels the limit is infinite and all of
        # them are kept.
        probability = torch.where(valid, torch.exp(-losses), torch.inf)
        count = min(min_kept_per_image * len(labels), labels.numel())
        limit = probability.flatten().kthvalue(count).values.clamp(min=threshold)
        kept = valid & (probability <= limit)
    return (losses * kept).sum() / kept.sum().clamp(min=1)


def supervised_loss(config: LossConfig, logits: Tensor, labels: Tensor) -> Tensor:
    """The loss that `config` names, a scalar."""
    if config.name == "ohem":
        return ohem_cross_entropy(logits, labels, config.ohem_threshold, config.ohem_min_kept_per_image)
    return cross_entropy(logits, labels)


def masked_consistency(logits: Tensor, pseudo: PseudoLabels) -> Tensor:
    """sum(CE * [conf >= threshold] * valid) / sum(valid), a scalar; 0 if no pixel is valid (FixMatch, eq. 3).

    The denominator counts valid pixels, not kept ones, so the loss is small while few pixels are confident.
    logits: [B, K, H, W].
    """
    labels = torch.where(pseudo.kept, pseudo.labels, IGNORE_INDEX)
    how = "sum" if pseudo.weight is None else "none"
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction=how)
    if pseudo.weight is not None:
        total = (total * pseudo.weight).sum()
    return total / pseudo.valid.sum().clamp(min=1)


def dice_loss(logits: Tensor, labels: Tensor, kept: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean over all classes of 1 - (2 * sum(p t) + e) / (sum(p^2) + sum(t^2) + e), a scalar.

    p is the softmax, t the one-hot label, e = 1e-5; sums run over the kept pixels of the whole micro-batch,
    and a class that is in neither counts nearly 0. No kept pixel: 0, with a graph. The sums make it no mean
    over pixels: unlike cross-entropy it depends on how a global batch is divided over processes and
    micro-batches, and the figures of parts are averaged (V-Net, Milletari et al., 3DV 2016, in the form that
    published semi-supervised work on ACDC uses, background included).
    logits: [B, K, H, W]; labels: int64 [B, H, W], any value where `kept` (bool [B, H, W]) is False; weight:
    float [B, H, W], by which a pixel counts in every sum.
    """
    kept = kept[:, None]
    probability = logits.float().softmax(dim=1) * kept
    classes = torch.arange(logits.shape[1], device=logits.device).view(-1, 1, 1)
    target = ((labels[:, None] == classes) & kept).float()
    square = probability.square()
    if weight is not None:
        target, square = target * weight[:, None], square * weight[:, None]
    axes = (0, 2, 3)
    overlap = (probability * target).sum(axes)
    total = square.sum(axes) + target.sum(axes)
    return 1.0 - ((2.0 * overlap + DICE_SMOOTH) / (total + DICE_SMOOTH)).mean()


def cross_entropy_and_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """(cross-entropy + Dice loss) / 2, a scalar; both without pixels of IGNORE_INDEX."""
    return (cross_entropy(logits, labels) + dice_loss(logits, labels, labels != IGNORE_INDEX)) / 2.0


def masked_dice(logits: Tensor, pseudo: PseudoLabels) -> Tensor:
    """The Dice loss against pseudo-labels over valid pixels with conf >= threshold, a scalar.

    Unlike in masked_consistency, pixels below the threshold are in no denominator.
    """
    return dice_loss(logits, pseudo.labels, pseudo.kept, pseudo.weight)
