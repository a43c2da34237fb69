"""Parts of a method's own, and how they get at a network's features."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatch.methods.ops import channel_dropout

HEAD_DROPOUT = 0.1


def features_of(
    net: nn.Module, image: Tensor, perturb: Callable[[list[Tensor]], list[Tensor]] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """(logits [B', K, H, W], features [B, c, h, w] finest first, before `perturb`) of one pass."""
    found: list[Tensor] = []

    def keep(features: list[Tensor]) -> list[Tensor]:
        found.extend(features)
        return features if perturb is None else perturb(features)

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


class ConvNormReLU(nn.Sequential):
    """A 3x3 convolution, batch-norm, ReLU, and in train mode dropout of channels, by keys: what is dropped
    does not depend on which process holds an image.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )

    def forward(self, image: Tensor, key: Tensor) -> Tensor:  # type: ignore[override]
        """image [B, channels, h, w], key int64 [B] -> [B, width, h, w]."""
        made: Tensor = super().forward(image)
        return channel_dropout([made], key, HEAD_DROPOUT)[0] if self.training else made


class ProjectionHead(nn.Module):
    """One vector a place of the finest feature, from that one and the deepest one, for losses that contrast
    pixels: two 3x3 convolutions with batch-norm, ReLU and dropout of 0.1, then one of 1x1 (U2PL).
    """

    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        self.first = ConvNormReLU(channels[0] + channels[-1], width)
        self.second = ConvNormReLU(width, width)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, features: list[Tensor], key: Tensor) -> Tensor:
        """features, finest first, key int64 [B] -> [B, width, h, w] of the first one's size."""
        deep = resized(features[-1], features[0].shape[-2:])
        joined = torch.cat([features[0], deep], dim=1)
        projected: Tensor = self.project(self.second(self.first(joined, key), key + 1))
        return projected


def resized(values: Tensor, size: Sequence[int]) -> Tensor:
    """[B, C, *size], bilinear with the corners of both grids in the same places."""
    return F.interpolate(values, size=tuple(size), mode="bilinear", align_corners=True)
