"""Semantic segmentation of ordinary colour images: every pixel has one class or none."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unimatch import losses
from unimatch.data import images
from unimatch.data.views import NaturalViews, ViewConfig
from unimatch.losses import LossConfig
from unimatch.metrics import ConfusionMatrix, defined
from unimatch.tasks.base import TASKS, Needs
from unimatch.tasks.pixels import PixelTask
from unimatch.tasks.prediction import EvaluateConfig, class_ids
from unimatch.taxonomy import Taxonomy


@dataclass
class NaturalTaskConfig:
    """The views that samples are turned into, the supervised loss, and the evaluation."""

    views: ViewConfig
    loss: LossConfig = field(default_factory=LossConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


@TASKS.register("natural", NaturalTaskConfig)
class NaturalTask(PixelTask):
    """mean, std: of the encoder, for RGB values in [0, 1]."""

    headline = "miou"
    decode = staticmethod(images.rgb)

    def __init__(
        self, config: NaturalTaskConfig, taxonomy: Taxonomy, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__(taxonomy, mean, std)
        self.config = config

    def transform(self, needs: Needs) -> NaturalViews:
        """The weak and strong views that a method needs."""
        return NaturalViews(self.config.views, needs.num_strong, needs.partner)

    def supervised_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy or OHEM, as configured."""
        return losses.supervised_loss(self.config.loss, logits, labels)

    def consistency_loss(
        self, logits: Tensor, labels: Tensor, conf: Tensor, valid: Tensor, threshold: float
    ) -> Tensor:
        """Cross-entropy against confident pseudo-labels, over the number of valid pixels."""
        return losses.masked_consistency(logits, labels, conf, valid, threshold)

    def predict(self, net: nn.Module, image: Tensor) -> Tensor:
        """uint8 [B, H, W]: class ids; IGNORE_INDEX outside the middle in mode "centre".

        image: uint8 RGB [B, H, W, 3], on the device of `net`.
        """
        return class_ids(net, self.normalize(image), self.config.evaluate, self.config.views.crop)

    def metric(self, device: torch.device | str = "cpu") -> ConfusionMatrix:
        """An empty confusion matrix of the taxonomy's classes."""
        return ConfusionMatrix(self.taxonomy.num_classes, device)

    def figures(self, metric: ConfusionMatrix) -> dict[str, Any]:
        """{"miou", "accuracy", "iou": {class: value}}; None for what no pixel defines."""
        iou = dict(zip(self.taxonomy.names, map(defined, metric.iou().tolist()), strict=True))
        return {"miou": defined(metric.miou()), "accuracy": defined(metric.accuracy()), "iou": iou}
