"""The encoder of the published COCO runs: an aligned Xception-65 as the released code computes it.

Chen et al., Encoder-decoder with atrous separable convolution, ECCV 2018, in the released code's reading. It
differs from timm's `xception65` (docs/parity.md): norms with eps 1e-5 and momentum 3e-4, images normalised
with ImageNet's statistics, nothing dilated at output stride 16, identity shortcuts that carry the rectified
input, and the finest feature before any ReLU.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from unimatch.errors import ConfigError
from unimatch.models.base import Encoder

NAME = "xception65_released"
OUTPUT_STRIDE = 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Widths = tuple[int, int, int]
# Of each block: channels that come in, those of its three convolutions, its stride.
ENTRY: list[tuple[int, Widths, int]] = [
    (64, (128, 128, 128), 2),
    (128, (256, 256, 256), 2),
    (256, (728, 728, 728), 2),
]
MIDDLE: list[tuple[int, Widths, int]] = [(728, (728, 728, 728), 1)] * 16
EXIT: list[tuple[int, Widths, int]] = [(728, (728, 1024, 1024), 1)]
TAP = 1  # the block inside which the finest feature is read
LAST = (1024, 1536, 1536, 2048)  # of the three convolutions behind the blocks


def check(output_stride: int | None, weights: str, in_channels: int, drop_path: float) -> None:
    """ConfigError for settings of an encoder that this one cannot have."""
    if output_stride != OUTPUT_STRIDE:
        raise ConfigError(
            f"encoder output_stride is {output_stride}; {NAME} has {OUTPUT_STRIDE}, timm's xception65 others"
        )
    if weights in ("hub", "package"):
        raise ConfigError(
            f"encoder weights is {weights!r}; {NAME} takes file:PATH (the published xception.pth, or a "
            "checkpoint) or none: timm's own weights fit xception65, whose norms and images differ"
        )
    if weights != "none" and in_channels != 3:
        raise ConfigError(f"encoder in_channels is {in_channels}; weights of {NAME} have 3")
    if drop_path:
        raise ConfigError(f"encoder drop_path is {drop_path}; {NAME} has no paths to drop")


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=3e-4)


class SeparableConv(nn.Module):
    """A 3x3 convolution of each channel, then a 1x1 one over channels, each with batch-norm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, rectified: bool = False) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False
        )
        self.bn1 = norm(in_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = norm(out_channels)
        self.rectified = rectified  # a ReLU behind each norm

    def forward(self, x: Tensor) -> Tensor:
        """x [B, in_channels, h, w] -> [B, out_channels, h / stride, w / stride], rounded up."""
        x = self.bn1(self.depthwise(x))
        x = self.bn2(self.pointwise(F.relu(x) if self.rectified else x))
        return F.relu(x) if self.rectified else x


class Block(nn.Module):
    """Three separable convolutions, a ReLU before each, and a shortcut around them.

    A projected shortcut reads the block's input. An identity one carries the rectified input: the released
    code's first ReLU works in place there.
    """

    def __init__(self, in_channels: int, widths: Widths, stride: int) -> None:
        super().__init__()
        self.projects = stride != 1 or in_channels != widths[-1]
        if self.projects:
            self.skip = nn.Conv2d(in_channels, widths[-1], 1, stride, bias=False)
            self.skipbn = norm(widths[-1])
        self.sepconv1 = SeparableConv(in_channels, widths[0])
        self.sepconv2 = SeparableConv(widths[0], widths[1])
        self.sepconv3 = SeparableConv(widths[1], widths[2], stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, in_channels, h, w] -> the output, and the second convolution's, before the stride."""
        rectified = F.relu(x)
        shortcut = self.skipbn(self.skip(x)) if self.projects else rectified
        tap = self.sepconv2(F.relu(self.sepconv1(rectified)))
        return self.sepconv3(F.relu(tap)) + shortcut, tap


class XceptionEncoder(Encoder):
    """Two features of an image: 256 channels at stride 4, not rectified, and 2048 at stride 16."""

    def __init__(self, in_channels: int, loaded: str = "random initialisation") -> None:
        super().__init__()
        self.channels = [ENTRY[TAP][1][1], LAST[-1]]
        self.strides = [4, OUTPUT_STRIDE]
        self.mean = tuple(MEAN[index % 3] for index in range(in_channels))
        self.std = tuple(STD[index % 3] for index in range(in_channels))
        self.loaded = loaded
        self.conv1 = nn.Conv2d(in_channels, 32, 3, 2, padding=1, bias=False)
        self.bn1 = norm(32)
        self.conv2 = nn.Conv2d(32, 64, 3, 1, padding=1, bias=False)
        self.bn2 = norm(64)
        self.blocks = nn.ModuleList(Block(*settings) for settings in ENTRY + MIDDLE + EXIT)
        self.last = nn.ModuleList(
            SeparableConv(*sizes, rectified=True) for sizes in zip(LAST[:-1], LAST[1:], strict=True)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """image [B, C, H, W] -> features [B, 256, H / 4, W / 4] and [B, 2048, H / 16, W / 16], rounded up."""
        x = F.relu(self.bn1(self.conv1(image)))
        x = F.relu(self.bn2(self.conv2(x)))
        low = x
        for index, block in enumerate(self.blocks):
            x, tap = block(x)
            low = tap if index == TAP else low
        for conv in self.last:
            x = conv(x)
        return [low, x]
