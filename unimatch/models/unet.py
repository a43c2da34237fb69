"""The encoder of the published medical runs: a small UNet's contracting path, built here, without timm.

Ronneberger et al., U-Net, MICCAI 2015, in the widths that semi-supervised work on ACDC shares. The expanding
path is the head `unet`.
"""

from __future__ import annotations

from torch import Tensor, nn

from unimatch.errors import UserError
from unimatch.models.base import Encoder

NAME = "unet"
WIDTHS = (16, 32, 64, 128, 256)
DROPOUTS = (0.05, 0.1, 0.2, 0.3, 0.5)
DEEPEST_STRIDE = 2 ** (len(WIDTHS) - 1)


class DoubleConv(nn.Module):
    """Two 3x3 convolutions that keep the size, each with batch-norm and leaky ReLU, dropout between them."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(0.01, inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(0.01, inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [B, in_channels, h, w] -> [B, out_channels, h, w]."""
        return self.layers(x)


class UNetEncoder(Encoder):
    """Five features of an image, finest first, at strides 1, 2, 4, 8 and 16.

    Unlike the other encoders it drops single values in training. They are drawn from torch's generator, which
    the engine seeds by step and process: a run can be repeated, but its loss curve depends on how many
    processes ran it, beyond rounding.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.channels = list(WIDTHS)
        self.strides = [2**level for level in range(len(WIDTHS))]
        # Nothing was pretrained, so images from 0 to 1 are taken as they are.
        self.mean = (0.0,) * in_channels
        self.std = (1.0,) * in_channels
        self.loaded = "random initialisation"
        inputs = (in_channels, *WIDTHS[:-1])
        self.levels = nn.ModuleList(
            DoubleConv(*sizes) for sizes in zip(inputs, WIDTHS, DROPOUTS, strict=True)
        )
        self.pool = nn.MaxPool2d(2)

    def forward(self, image: Tensor) -> list[Tensor]:
        """image [B, C, H, W] -> features [B, WIDTHS[i], H / 2**i, W / 2**i], rounded down."""
        if min(image.shape[-2:]) < DEEPEST_STRIDE:
            height, width = image.shape[-2:]
            raise UserError(
                f"encoder unet halves the image four times and cannot take one of {height}x{width} pixels; "
                f"it needs {DEEPEST_STRIDE} a side or more (views.crop)"
            )
        features = [self.levels[0](image)]
        for level in self.levels[1:]:
            features.append(level(self.pool(features[-1])))
        return features
