"""UniMatch V2's dense prediction head: four features become a pyramid and are joined from the coarsest up.

Ranftl et al., Vision transformers for dense prediction, ICCV 2021, with the widths of Depth Anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from unimatch.errors import ConfigError
from unimatch.models.base import Head

PYRAMID = [4, 8, 16, 32]
# By the width of the encoder: channels of the head, and of the four levels before they are brought to it.
WIDTHS = {
    384: (64, (48, 96, 192, 384)),
    768: (128, (96, 192, 384, 768)),
    1024: (256, (256, 512, 1024, 1024)),
    1536: (384, (1536, 1536, 1536, 1536)),
}


@dataclass
class DPTConfig:
    """Settings of the DPT head; for encoders as wide as DINOv2's the default is the published: WIDTHS."""

    channels: int | None = None
    """Of the joined levels. By default, for others, a sixth of the deepest feature's, but at least 32."""

    levels_channels: tuple[int, int, int, int] | None = None
    """Of each level before that, finest first. By default, for others, those of the features."""

    def __post_init__(self) -> None:
        found = [self.channels or 1, *(self.levels_channels or ())]
        if min(found) < 1 or self.channels == 0:
            raise ConfigError(
                f"head channels are {self.channels} and {self.levels_channels}; at least 1 each"
            )


class Residual(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))), 3x3 with bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Fusion(nn.Module):
    """A coarser level and this one become one of the next finer size."""

    def __init__(self, channels: int, joins: bool) -> None:
        """joins: False for the coarsest level, which has nothing to be joined with."""
        super().__init__()
        self.skip = Residual(channels) if joins else None
        self.residual = Residual(channels)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, level: Tensor, coarser: Tensor | None, size: tuple[int, int]) -> Tensor:
        if self.skip is not None and coarser is not None:
            level = coarser + self.skip(level)
        x = self.residual(level)
        return self.out(F.interpolate(x, size, mode="bilinear", align_corners=True))


class DPT(Head):
    """Logits at twice the size of the finest level.

    Of features on one grid (a vision transformer's) a pyramid is made with 4, 2, 1 and 1/2 times its sides;
    features that are one already (strides 4, 8, 16, 32) are taken as they are. The released code has a second
    residual unit at the coarsest level that nothing reads; it is left out here.
    """

    levels: ClassVar[int] = 4  # features that it reads

    def __init__(self, config: DPTConfig, channels: list[int], strides: list[int], num_classes: int) -> None:
        super().__init__()
        on_one_grid = len(strides) == len(PYRAMID) and len(set(strides)) == 1
        if not on_one_grid and strides != PYRAMID:
            raise ConfigError(
                "head dpt needs four features of one stride (a vision transformer's) or of strides 4, 8, 16, "
                f"32, found {', '.join(map(str, strides))}: choose output_stride 32 or another head"
            )
        width, levels = WIDTHS.get(channels[-1], (max(32, channels[-1] // 6), tuple(channels)))
        width, levels = config.channels or width, config.levels_channels or levels
        self.projects = nn.ModuleList(
            nn.Conv2d(found, wanted, 1) for found, wanted in zip(channels, levels, strict=True)
        )
        resizes = [
            nn.ConvTranspose2d(levels[0], levels[0], 4, stride=4),
            nn.ConvTranspose2d(levels[1], levels[1], 2, stride=2),
            nn.Identity(),
            nn.Conv2d(levels[3], levels[3], 3, stride=2, padding=1),
        ]
        self.resizes = nn.ModuleList(resizes if on_one_grid else [nn.Identity() for _ in levels])
        self.thin = nn.ModuleList(nn.Conv2d(level, width, 3, padding=1, bias=False) for level in levels)
        self.fuse = nn.ModuleList(
            Fusion(width, joins=number < len(levels) - 1) for number in range(len(levels))
        )
        self.classifier = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, num_classes, 1)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """features, finest first -> logits [B, K, h, w]."""
        parts = zip(self.projects, self.resizes, self.thin, features, strict=True)
        levels = [thin(resize(project(feature))) for project, resize, thin, feature in parts]
        x: Tensor | None = None
        for number in reversed(range(len(levels))):
            finer = levels[number - 1].shape[-2:] if number else [2 * side for side in levels[0].shape[-2:]]
            x = self.fuse[number](levels[number], x, (finer[0], finer[1]))
        logits: Tensor = self.classifier(x)
        return logits
