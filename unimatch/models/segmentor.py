"""The network that every method trains: an encoder, an optional perturbation of its features, a head."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from unimatch.config import Section
from unimatch.models.encoders import Encoder, EncoderConfig, build_encoder
from unimatch.models.heads import HEADS

Perturb = Callable[[list[Tensor]], list[Tensor]]


@dataclass
class ModelConfig:
    """The network."""

    encoder: EncoderConfig
    """The feature extractor."""

    head: Section = field(metadata={"registry": HEADS})
    """The decoder, by name, with its settings."""


class Segmentor(nn.Module):
    """A logit for every class and pixel. `encoder` and `head` are apart so that their rates can differ."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, image: Tensor, perturb: Perturb | None = None) -> dict[str, Tensor]:
        """image [B, C, H, W] -> {"logits": [B', K, H, W]}.

        `perturb` maps the features, each [B, c, h, w], to those that the head decodes. It may return more
        images than it was given (clean and perturbed ones, decoded in one batch); B' is their number.
        """
        features = self.encoder(image)
        if perturb is not None:
            features = perturb(features)
        logits = self.head(features)
        logits = F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=True)
        return {"logits": logits}


def build_segmentor(config: ModelConfig, num_classes: int) -> Segmentor:
    """The network that `config` describes. What is random comes from torch's global generator."""
    encoder = build_encoder(config.encoder)
    head = HEADS[config.head.name].cls(config.head.config, encoder.channels, encoder.strides, num_classes)
    return Segmentor(encoder, head)
