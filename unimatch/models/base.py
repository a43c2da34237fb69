"""What heads, tasks and the engine know of an encoder."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from unimatch.errors import UserError
from unimatch.models.recompute import repeated_parts


def switch(module: nn.Module, mode: bool) -> None:
    """What nn.Module.train does, in a tenth of the time (0.1 instead of 1.2 ms for a ResNet-101): a step
    switches between pseudo-labels and training. Parts with a `train` of their own decide for themselves.
    """
    module.__dict__["training"] = mode  # past the search for parameters among what is assigned
    for part in module._modules.values():
        if part is None:
            continue
        if type(part).train is nn.Module.train:
            switch(part, mode)
        else:
            part.train(mode)


class Encoder(nn.Module):
    """Maps images [B, C, H, W] to features, finest first: a list of [B, channels[i], h, w]."""

    channels: list[int]
    strides: list[int]  # h = H / strides[i], rounded
    mean: tuple[float, ...]  # of the images that the weights were trained on, one number a channel
    std: tuple[float, ...]
    loaded: str  # what the first weights are, for the log
    patch: int = 1  # both sides of an image must be multiples of it
    licence: str | None = None  # of the weights, as far as it is known
    frozen: bool = False

    def freeze(self) -> None:
        """From now on no parameter is trained, and no pass is in train mode."""
        self.requires_grad_(False)
        self.frozen = True
        self.eval()

    def train(self, mode: bool = True) -> Encoder:
        switch(self, mode and not self.frozen)
        return self

    def recomputed_parts(self) -> list[nn.Module]:
        """What activation checkpointing computes again in backward, each by itself: its blocks."""
        return repeated_parts(self)

    def compiled_parts(self) -> list[nn.Module]:
        """What `compile` compiles, each by itself."""
        return [self]

    def layers(self) -> list[list[nn.Parameter]]:
        """All parameters by depth, from the image on: what layer-wise rates are given to."""
        raise UserError(
            "optimizer.layer_decay is for vision transformers: this encoder has no layers of one kind"
        )


class Head(nn.Module):
    """Maps features, finest first, to logits [B, K, h, w], which whoever holds it resizes."""

    levels: ClassVar[int] = 2  # features of a pyramid that it reads; of 2 the first has stride 4

    def forward(self, features: list[Tensor]) -> Tensor:
        raise NotImplementedError
