"""Medical volumes: networks see greyscale slices of one size, figures are those of whole volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatch import losses
from unimatch.codecs.picture import as_rgb
from unimatch.data import images
from unimatch.tasks.base import TASKS, Needs
from unimatch.tasks.pixels import PixelTask, extra
from unimatch.tasks.prediction import Predicted, named
from unimatch.tasks.volume_metric import VolumeMetric
from unimatch.views.medical import MedicalViewConfig, MedicalViews

BACKGROUND = 0


@dataclass
class MedicalEvaluateConfig:
    """What figures are taken over.

    per: "volume": samples with the keys VOLUME/000, VOLUME/001 ... together, any other sample by itself;
        "image": every sample by itself, for sets of single images whose names are numbers.
    """

    per: Literal["volume", "image"] = "volume"


@dataclass
class MedicalTaskConfig:
    """The views that slices are turned into, and the evaluation. The losses have no settings."""

    views: MedicalViewConfig
    evaluate: MedicalEvaluateConfig = field(default_factory=MedicalEvaluateConfig)


@TASKS.register("medical", MedicalTaskConfig)
class MedicalTask(PixelTask):
    """Class 0 of the taxonomy is the background: it is learnt, and has no figures.

    mean, std: of the encoder, for grey values in [0, 1]; 0 and 1 for the UNet of the published runs.
    """

    headline = "mean_dice"
    units = dict.fromkeys(("mean_hd95", "mean_asd", "hd95", "asd"), "vox")
    channels = 1
    background = BACKGROUND
    decode = staticmethod(images.grey)

    def unit(self, key: str) -> str:
        """The volume of a slice's key; the key itself of any other sample, and where images are evaluated."""
        volume, _, name = key.rpartition("/")
        return volume if volume and name.isdigit() and self.config.evaluate.per == "volume" else key

    def part_of_image(self, width: int, height: int) -> float:
        """All of it: slices are resized to the crop."""
        return 1.0

    def blank(self, height: int, width: int) -> np.ndarray:
        return super().blank(height, width).astype(np.uint16)

    def show(self, image: np.ndarray) -> list[np.ndarray]:
        return [as_rgb(image[..., 0])]

    def transform(self, needs: Needs, on_device: bool = False) -> MedicalViews:
        """The weak and strong views that a method needs; workers make both."""
        return MedicalViews(self.config.views, needs.num_strong, needs.partner, extra=extra(needs))

    def _scale(self, values: Tensor, by_lines: bool = False) -> Tensor:
        """Of 16 bits, whose largest value 65535 is white."""
        return super()._scale(values.div_(257.0), by_lines)

    def supervised_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean of cross-entropy and Dice loss."""
        return losses.cross_entropy_and_dice(logits, labels)

    def consistency_loss(self, logits: Tensor, pseudo: losses.PseudoLabels) -> Tensor:
        """The Dice loss against confident pseudo-labels."""
        return losses.masked_dice(logits, pseudo)

    @torch.no_grad()
    def predicted(self, net: nn.Module, image: Tensor, sure: bool = False) -> Predicted:
        """See Task, of slices uint16 [B, H, W, 1] of any size.

        Slices are resized to the crop and their logits back, both bilinear without aligned corners, as the
        code released with UniMatch does; other code on ACDC takes the nearest pixel both ways.
        """
        return named(self._logits(net, image), sure)

    @torch.no_grad()
    def spread(self, net: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
        """See Task."""
        logits = self._logits(net, image)
        return named(logits, sure=False)[0], logits.softmax(dim=1)

    def _logits(self, net: nn.Module, image: Tensor) -> Tensor:
        """float32 [B, K, H, W], of the images' size."""
        net.eval()
        values = self.normalize(image)
        size, crop = values.shape[-2:], (self.config.views.crop,) * 2
        return _resized(net(_resized(values, crop))["logits"].float(), size)

    def metric(self, device: torch.device | str = "cpu") -> VolumeMetric:
        """An empty metric of the taxonomy's classes."""
        return VolumeMetric(self.taxonomy.num_classes, self.unit, device)

    def figures(self, metric: Any) -> dict[str, Any]:
        """Dice, HD95 and ASD of each class but the background, means over volumes, and their means over
        classes; distances in voxels. `undefined`: volumes with a Dice, of 0, but no distances.

        None: no volume defines it. A mean over classes leaves out those without a figure.
        """
        tables = {"dice": metric.dice(), "hd95": metric.hd95(), "asd": metric.asd()}
        names = self.taxonomy.names[BACKGROUND + 1 :]
        figures: dict[str, Any] = {f"mean_{name}": _mean(values) for name, values in tables.items()}
        for name, values in {**tables, "undefined": metric.undefined()}.items():
            figures[name] = dict(zip(names, values, strict=True))
        return figures


def _resized(values: Tensor, size: Sequence[int]) -> Tensor:
    # An exporter would make the question a condition of the whole file: that no image has the size.
    if not torch.compiler.is_compiling() and tuple(values.shape[-2:]) == tuple(size):
        return values
    return F.interpolate(values, tuple(size), mode="bilinear", align_corners=False)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
