"""The networks that methods train: an encoder, an optional perturbation of its features, a head."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatch.config import Section
from unimatch.errors import ConfigError
from unimatch.models.base import Encoder, Head, switch
from unimatch.models.encoders import EncoderConfig, build_encoder
from unimatch.models.heads import HEADS
from unimatch.models.weights import load_segmentor

Perturb = Callable[[list[Tensor]], list[Tensor]]


@dataclass
class ModelConfig:
    """The network."""

    encoder: EncoderConfig
    """The feature extractor."""

    head: Section = field(metadata={"registry": HEADS})
    """The decoder, by name, with its settings."""

    weights: str | None = None
    """file:PATH of all first weights, head included: a checkpoint's model.safetensors, or a released .pth of
    this network; of a file with a student and its moving average file:PATH#model or file:PATH#model_ema. The
    encoder's own are not read then. For the encoder's alone: encoder.weights."""

    def __post_init__(self) -> None:
        if self.weights is not None and self.weights.removeprefix("file:") in ("", self.weights):
            raise ConfigError(f"weights must be file:PATH, found {self.weights!r}")

    def untrained(self) -> "ModelConfig":
        """The same network with random first weights, for those who have others."""
        return replace(self, encoder=replace(self.encoder, weights="none"), weights=None)


class Segmentor(nn.Module):
    """A logit for every class and pixel. `encoder` and `head` are apart so that their rates can differ."""

    def __init__(self, encoder: Encoder, head: Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def train(self, mode: bool = True) -> "Segmentor":
        switch(self, mode)
        return self

    def forward(self, image: Tensor, perturb: Perturb | None = None) -> dict[str, Tensor]:
        """image [B, C, H, W] -> {"logits": [B', K, H, W]}.

        `perturb` maps the features, each [B, c, h, w], to those that the head decodes. It may return more
        images than it was given (clean and perturbed ones, decoded in one batch); B' is their number.
        """
        features = self.features(image)
        if perturb is not None:
            features = perturb(features)
        logits = self.head(features)
        logits = F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=True)
        return {"logits": logits}

    def features(self, image: Tensor) -> list[Tensor]:
        """What the head decodes, finest first, each [B, c, h, w]."""
        return self.encoder(image)


class BitemporalSegmentor(Segmentor):
    """A logit for every class and pixel of a place seen at two dates: image [B, 2, C, H, W].

    One encoder reads both dates; the head decodes the absolute difference of each feature level (UniMatch's
    change detection), so exchanging the dates changes nothing but the order in which batch-norms
    record them. Two things the paper leaves open are as in the released code: a perturbation acts on the
    differences, hence on both dates alike, and the dates are encoded one after the other, so that in training
    batch-norms normalise each date by its own statistics, which takes away what light and season change
    everywhere.
    """

    def features(self, image: Tensor) -> list[Tensor]:
        if self.encoder.patch > 1:  # no batch-norm: one pass over both dates is the same, and quicker
            both = self.encoder(image.transpose(0, 1).flatten(0, 1))
            return [(a - b).abs() for a, b in (feature.chunk(2) for feature in both)]
        first, second = (
            self.encoder(date.contiguous(memory_format=torch.channels_last)) for date in image.unbind(1)
        )
        return [(a - b).abs() for a, b in zip(first, second, strict=True)]


def build_segmentor(config: ModelConfig, num_classes: int, dates: int = 1) -> Segmentor:
    """The network that `config` describes. What is random comes from torch's global generator.

    dates: images a sample, 1 or 2, as the task has them.
    """
    assert dates in (1, 2), dates
    head_class = HEADS[config.head.name].cls
    asked = (config.untrained() if config.weights else config).encoder
    encoder = build_encoder(asked, head_class.levels)
    head = head_class(config.head.config, encoder.channels, encoder.strides, num_classes)
    net = (Segmentor if dates == 1 else BitemporalSegmentor)(encoder, head)
    if config.weights:
        found = load_segmentor(net, config.weights, config.encoder.name, config.head.name)
        encoder.loaded = f"whole network: {found}"
    return net
