"""The expanding path of the published medical runs' UNet; its features come from models.unet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatch.errors import ConfigError
from unimatch.models.base import Head
from unimatch.models.unet import DoubleConv


@dataclass
class UNetHeadConfig:
    """Every level has the width of the encoder's feature beside it."""

    # The released code describes transposed convolutions and then builds the other: its log counts 1.8 M
    # parameters for the network, as with "bilinear"; with "transposed" there are 1.9 M.
    upsample: Literal["bilinear", "transposed"] = "bilinear"
    """bilinear: a 1x1 convolution, then interpolation with aligned corners, as in the published runs;
    transposed: a 2x2 transposed convolution of stride 2."""


class UNetHead(Head):
    """Logits at the image's size: upsample, join the next finer feature, two convolutions; level by level.

    The classifier is a 3x3 convolution, as in the released code.
    """

    def __init__(
        self, config: UNetHeadConfig, channels: list[int], strides: list[int], num_classes: int
    ) -> None:
        super().__init__()
        if strides != [2**level for level in range(len(strides))]:
            found = ", ".join(map(str, strides))
            raise ConfigError(
                f"head unet needs features of strides 1, 2, 4 ..., found {found}: use it with encoder unet"
            )
        widths = channels[::-1]  # deepest first
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.transposed = config.upsample == "transposed"
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(deep, fine, 2, stride=2) if self.transposed else nn.Conv2d(deep, fine, 1)
            for deep, fine in pairs
        )
        self.fuses = nn.ModuleList(DoubleConv(2 * fine, fine) for _, fine in pairs)
        self.classifier = nn.Conv2d(channels[0], num_classes, 3, padding=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """features, finest first -> logits [B, K, H, W] of the first feature's size."""
        x = features[-1]
        for up, fuse, skip in zip(self.ups, self.fuses, features[-2::-1], strict=True):
            x = self._enlarged(up(x), skip.shape[-2], skip.shape[-1])
            x = fuse(torch.cat([skip, x], dim=1))
        return self.classifier(x)

    def _enlarged(self, x: Tensor, height: int, width: int) -> Tensor:
        if not self.transposed:
            return F.interpolate(x, (height, width), mode="bilinear", align_corners=True)
        # Pooling an odd side drops its last row: repeated here, so that any image can be predicted.
        below, right = height - x.shape[-2], width - x.shape[-1]
        return F.pad(x, (0, right, 0, below), mode="replicate") if below or right else x
