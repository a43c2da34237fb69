"""Losses against soft labels, means whose denominator is known before anything is predicted, and a ramp.

Soft targets are probabilities [B, K, H, W] without a gradient. Means are over the valid pixels of the
micro-batch, 0 where there are none.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from unimatch.losses import PseudoLabels


def risen(share: float) -> float:
    """The factor of a consistency loss after a share of its rise: exp(-5 (1 - t)^2), 1 from its end on."""
    return math.exp(-5.0 * (1.0 - min(share, 1.0)) ** 2)


def over_all(pseudo: PseudoLabels) -> PseudoLabels:
    """The same for a mean over the number of all pixels, padding too: for methods that mix by what they
    predict. Every micro-batch has as many pixels, so its share of the global batch is 1.
    """
    conf = pseudo.conf.masked_fill(~pseudo.valid, -math.inf)
    return replace(pseudo, conf=conf, valid=torch.ones_like(pseudo.valid))


def pixel_mean(values: Tensor, valid: Tensor) -> Tensor:
    """The mean of values [B, H, W] over valid pixels."""
    return (values * valid).sum() / valid.sum().clamp(min=1)


def pixel_means(values: Tensor, valid: Tensor) -> Tensor:
    """[B]: the mean of each image's values [B, H, W] over its valid pixels."""
    return (values * valid).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)


def squared_error(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """mean_i ||softmax(logits)_i - target_i||^2, the squares summed over classes."""
    return pixel_mean((logits.float().softmax(1) - target).square().sum(1), valid)


def soft_cross_entropy(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """mean_i -sum_k target_ik log softmax(logits)_ik."""
    return pixel_mean(-(target * logits.float().log_softmax(1)).sum(1), valid)


def divergence(logits: Tensor, target: Tensor) -> Tensor:
    """[B, H, W]: KL(target || softmax(logits))."""
    return (torch.xlogy(target, target) - target * logits.float().log_softmax(1)).sum(1)


def entropy(probability: Tensor) -> Tensor:
    """[B, H, W]: -sum_k p_k log p_k."""
    return -torch.xlogy(probability, probability).sum(1)
