"""The PSPNet decoder (Zhao et al., Pyramid scene parsing network, CVPR 2017), for encoders of any width."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatch.errors import ConfigError
from unimatch.models.base import Head
from unimatch.models.heads.layers import conv_norm_relu, refuse_one_image


@dataclass
class PSPNetConfig:
    """Settings of the PSPNet head; the defaults are the published ones. Meant for output stride 8."""

    bins: tuple[int, ...] = (1, 2, 3, 6)
    """Rows and columns into which each level of the pyramid averages the deepest feature."""

    dropout: float = 0.1
    """Probability with which a value before the classifier is dropped in training."""

    def __post_init__(self) -> None:
        if not self.bins or min(self.bins) < 1:
            raise ConfigError(f"head bins are {self.bins}; name at least one, each at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"head dropout must lie in [0, 1), found {self.dropout}")


class PSPNet(Head):
    """Logits at the stride of the deepest feature, the only one that it reads.

    With C channels there, each bin's average goes through a 1x1 convolution to C / 4, batch-norm and ReLU,
    and is enlarged again (bilinear, aligned corners). Joined with the feature itself, these pass a 3x3
    convolution to C / 4, batch-norm, ReLU and dropout; a 1x1 convolution classifies. That is the paper's
    pyramid, with the widths of UniMatch's change detection for four bins. Two readings are ours: C / 4 stays
    the width of each level for any number of bins, and the auxiliary classifier with which the paper trains
    on the stage before is left out, as UniMatch leaves it out.
    """

    def __init__(
        self, config: PSPNetConfig, channels: list[int], strides: list[int], num_classes: int
    ) -> None:
        super().__init__()
        deepest = channels[-1]
        width = max(1, deepest // 4)
        self.bins = config.bins
        self.pyramid = nn.ModuleList(conv_norm_relu(deepest, width, 1) for _ in config.bins)
        self.fuse = conv_norm_relu(deepest + len(config.bins) * width, width, 3)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """features, finest first -> logits [B, K, h, w] of the last feature's size."""
        deepest = features[-1]
        if 1 in self.bins:
            refuse_one_image(deepest, self.fuse[1], "PSPNet")
        levels = [deepest]
        for bins, branch in zip(self.bins, self.pyramid, strict=True):
            average = branch(F.adaptive_avg_pool2d(deepest, bins))
            levels.append(
                F.interpolate(average, size=deepest.shape[-2:], mode="bilinear", align_corners=True)
            )
        return self.classifier(self.dropout(self.fuse(torch.cat(levels, dim=1))))
