"""A network of three convolutions for any task: what is exported of it is exported in a moment."""

from __future__ import annotations

import timm.layers
import torch
from torch import Tensor, nn

from unimatch.models.base import Encoder
from unimatch.models.heads.linear import LinearHead, LinearHeadConfig
from unimatch.models.segmentor import BitemporalSegmentor, Segmentor


class SmallEncoder(Encoder):
    """One feature of stride 4; its first convolution pads as TensorFlow does, by the size of the image."""

    def __init__(self, channels: int, patch: int = 1) -> None:
        super().__init__()
        self.channels, self.strides, self.patch = [8], [4], patch
        self.mean, self.std, self.loaded = (0.4,) * channels, (0.2,) * channels, "random"
        first = timm.layers.Conv2dSame(channels, 8, 3, stride=2)
        self.layers_of = nn.Sequential(first, nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1))

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.layers_of(image)]


def small_net(channels: int = 3, classes: int = 3, dates: int = 1, patch: int = 1) -> Segmentor:
    """In eval mode, the same at every call."""
    torch.manual_seed(0)
    head = LinearHead(LinearHeadConfig(), [8], [4], classes)
    nn.init.normal_(head.classifier.weight)
    return (Segmentor if dates == 1 else BitemporalSegmentor)(SmallEncoder(channels, patch), head).eval()
