"""ST and ST++: self-training in stages, each a run of its own from the same first weights.

Yang et al., ST++: Make self-training work better for semi-supervised semantic segmentation, CVPR 2022. A
network learns from the labelled images, labels the unlabelled ones, and another one learns from all; in ST++
first from those whose labels changed least in the course of the training, and their network labels the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from unimatch.data.sample import Batch, Labeled
from unimatch.errors import ConfigError
from unimatch.methods.base import METHODS, Logs, Method, Progress, Stage, ViewNeeds
from unimatch.methods.ops import keyed_uniform
from unimatch.taxonomy import IGNORE_INDEX


@dataclass
class STConfig:
    """Settings of ST.

    scales, flip: sizes in which an image is labelled, and whether mirrored too: the probabilities are added.
    """

    scales: list[float] = field(default_factory=lambda: [0.5, 0.75, 1.0, 1.5, 2.0])
    flip: bool = True

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ConfigError(f"scales must be one or more numbers above 0, found {self.scales}")


@METHODS.register("st", STConfig)
class ST(Method):
    """L = the mean over labelled and pseudo-labelled pixels alike. Pseudo-labelled images are strongly
    augmented, with a rectangle of noise in every second one, which has no label.
    """

    stages: ClassVar[tuple[Stage, ...]] = (Stage("first"),)

    @property
    def views(self) -> ViewNeeds:
        cut = (("cutout", "cutout_half"),)
        return ViewNeeds(0, None, unlabeled=False, labeled_areas=cut, strong_labeled=True)

    def step(self, net: nn.Module, batch: Batch, progress: Progress) -> tuple[Tensor, Logs]:
        x = batch.labeled
        if x.pseudo is None:
            return self.supervised_step(net, x)
        image, label = augmented(x, x.pseudo)
        net.train()
        loss = self.supervised_loss(net(image)["logits"], label) * self.share_of(label != IGNORE_INDEX)
        return loss, {"loss": loss.detach(), "loss_x": loss.detach()}


def augmented(x: Labeled, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """(image, label) of a batch: of the chosen samples, bool [B], the strong view with its hole filled by
    noise between the image's darkest and brightest value, and no label there.
    """
    assert x.strong is not None
    hole = x.areas["cutout"] & chosen[:, None, None]
    wide, pixels = x.strong.reshape(len(x.label), -1), x.strong[0].numel()
    low, high = wide.amin(1, keepdim=True), wide.amax(1, keepdim=True)
    noise = (low + keyed_uniform(x.noise_key, pixels).float() * (high - low)).view_as(x.strong)
    middle = [1] * (x.image.ndim - 3)
    strong = torch.where(hole.view(len(hole), *middle, *hole.shape[1:]), noise, x.strong)
    image = torch.where(chosen.view(-1, *[1] * (x.image.ndim - 1)), strong, x.image)
    return image, x.label.masked_fill(hole, IGNORE_INDEX)


@dataclass
class STPlusConfig(STConfig):
    """Settings of ST++: those of ST and two more.

    stable: the share of images that the second network learns from.
    snapshots: of the first network, at even distances to its end, whose agreement with the last one says how
        stable an image is: the mean over the others of the mean IoU.
    """

    stable: float = 0.5
    snapshots: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.stable < 1.0:
            raise ConfigError(f"stable must lie between 0 and 1, found {self.stable}")
        if self.snapshots < 2:
            raise ConfigError(f"snapshots must be at least 2, found {self.snapshots}")


@METHODS.register("st_plus", STPlusConfig)
class STPlus(ST):
    """The loss of ST; two runs before the last one."""

    stages = (Stage("first", stable=True), Stage("second"))
