"""What heads, tasks and the engine know of an encoder."""

from __future__ import annotations

from torch import nn


class Encoder(nn.Module):
    """Maps images [B, C, H, W] to features, finest first: a list of [B, channels[i], h, w]."""

    channels: list[int]
    strides: list[int]  # h = H / strides[i], rounded
    mean: tuple[float, ...]  # of the images that the weights were trained on, one number a channel
    std: tuple[float, ...]
    loaded: str  # what the first weights are, for the log
