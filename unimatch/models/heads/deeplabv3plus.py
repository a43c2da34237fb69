"""The DeepLabv3+ decoder of the published systems (Chen et al., ECCV 2018), for encoders of any width."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatch.errors import ConfigError
from unimatch.models.base import Head
from unimatch.models.heads.layers import conv_norm_relu, refuse_one_image

MIN_ASPP_CHANNELS = 32


@dataclass
class DeepLabV3PlusConfig:
    """Settings of the DeepLabv3+ head; the defaults are the published ones."""

    rates: tuple[int, int, int] = (6, 12, 18)
    """Dilations of the three atrous branches, in deepest-feature pixels; often doubled at output stride 8."""

    low_channels: int = 48
    """Channels to which the stride-4 feature is reduced before it is joined."""

    channels: int = 256
    """Channels of the two 3x3 convolutions at stride 4, where most of the head's time goes."""

    def __post_init__(self) -> None:
        if min(self.rates) < 1:
            raise ConfigError(f"head rates are {self.rates}; each must be at least 1")
        if self.low_channels < 1 or self.channels < 1:
            found = f"{self.low_channels} and {self.channels}"
            raise ConfigError(f"head low_channels and channels are {found}; each must be at least 1")


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1, three atrous 3x3 and a global branch, joined and projected."""

    def __init__(self, in_channels: int, out_channels: int, rates: tuple[int, int, int]) -> None:
        super().__init__()
        self.point = conv_norm_relu(in_channels, out_channels, 1)
        self.atrous = nn.ModuleList(conv_norm_relu(in_channels, out_channels, 3, rate) for rate in rates)
        self.pool = conv_norm_relu(in_channels, out_channels, 1)
        self.project = conv_norm_relu(5 * out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, in_channels, h, w] -> [B, out_channels, h, w]."""
        refuse_one_image(x, self.pool[1], "DeepLabv3+")
        pooled = self.pool(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        # As the others lie in memory: joined with a broadcast one, all five would be turned over and back.
        pooled = pooled.contiguous(memory_format=torch.channels_last)
        branches = [self.point(x), *(branch(x) for branch in self.atrous), pooled]
        return self.project(torch.cat(branches, dim=1))


class DeepLabV3Plus(Head):
    """Logits at stride 4 from the stride-4 feature and the deepest one.

    The pyramid has C / 8 channels (256 for ResNets), but at least 32, so that small encoders are not choked.
    """

    def __init__(
        self, config: DeepLabV3PlusConfig, channels: list[int], strides: list[int], num_classes: int
    ) -> None:
        super().__init__()
        if strides[0] != 4:
            raise ConfigError(
                f"head deeplabv3plus needs a first feature of stride 4, found stride {strides[0]}: a vision "
                "transformer takes head dpt or linear"
            )
        width = max(MIN_ASPP_CHANNELS, channels[-1] // 8)
        self.aspp = ASPP(channels[-1], width, config.rates)
        self.reduce = conv_norm_relu(channels[0], config.low_channels, 1)
        self.fuse = nn.Sequential(
            conv_norm_relu(config.low_channels + width, config.channels, 3),
            conv_norm_relu(config.channels, config.channels, 3),
        )
        self.classifier = nn.Conv2d(config.channels, num_classes, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """features, finest first -> logits [B, K, h, w] of the first feature's size."""
        low, high = features[0], features[-1]
        high = F.interpolate(self.aspp(high), size=low.shape[-2:], mode="bilinear", align_corners=True)
        return self.classifier(self.fuse(torch.cat([self.reduce(low), high], dim=1)))
