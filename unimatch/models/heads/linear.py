"""One linear classifier for each pixel of the deepest feature: what the features say by themselves."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from unimatch.models.base import Head


@dataclass
class LinearHeadConfig:
    """No settings."""


class LinearHead(Head):
    """Logits at the stride of the deepest feature."""

    def __init__(
        self, config: LinearHeadConfig, channels: list[int], strides: list[int], num_classes: int
    ) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(channels[-1], num_classes, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """features, finest first -> logits [B, K, h, w] of the last feature's size."""
        logits: Tensor = self.classifier(features[-1])
        return logits
