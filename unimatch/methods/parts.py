"""Parts of a method's own, and how they get at a network's features."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def features_of(net: nn.Module, image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """(logits [B, K, H, W], features [B, c, h, w] finest first) of one pass."""
    found: list[Tensor] = []

    def keep(features: list[Tensor]) -> list[Tensor]:
        found.extend(features)
        return features

    logits: Tensor = net(image, perturb=keep)["logits"]
    return logits, found


def second_network(net: nn.Module) -> nn.Module:
    """A copy of a network: the encoder with the same first weights, the head with others, from torch's
    generator.
    """
    second = copy.deepcopy(net)
    assert isinstance(second.head, nn.Module)
    for layer in second.head.modules():
        reset = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()
    return second


def conv_norm_relu(channels: int, width: int, dropout: float) -> nn.Sequential:
    """A 3x3 convolution, batch-norm, ReLU, and dropout of channels."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Dropout2d(dropout),
    )


class ProjectionHead(nn.Module):
    """One vector a place of the finest feature, from that one and the deepest one, for losses that contrast
    pixels: two 3x3 convolutions with batch-norm, ReLU and dropout of 0.1, then one of 1x1 (U2PL).
    """

    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv_norm_relu(channels[0] + channels[-1], width, 0.1),
            conv_norm_relu(width, width, 0.1),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """features, finest first -> [B, width, h, w] of the first one's size."""
        size = features[0].shape[-2:]
        deep = F.interpolate(features[-1], size=size, mode="bilinear", align_corners=True)
        projected: Tensor = self.layers(torch.cat([features[0], deep], dim=1))
        return projected
