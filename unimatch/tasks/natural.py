"""Semantic segmentation of ordinary colour images: every pixel has one class or none."""

from dataclasses import dataclass, field
from typing import Any

from unimatch.data import images
from unimatch.losses import LossConfig
from unimatch.metrics import ConfusionMatrix, defined
from unimatch.tasks.base import TASKS, Needs
from unimatch.tasks.pixels import PixelTask, extra
from unimatch.tasks.prediction import EvaluateConfig
from unimatch.views.natural import NaturalViews, ViewConfig


@dataclass
class NaturalTaskConfig:
    """The views that samples are turned into, the supervised loss, and the evaluation."""

    views: ViewConfig
    loss: LossConfig = field(default_factory=LossConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


@TASKS.register("natural", NaturalTaskConfig)
class NaturalTask(PixelTask):
    """Samples are single RGB images, [B, 3, H, W]."""

    headline = "miou"
    decode = staticmethod(images.rgb)

    def views_on_device(self, has_accelerator: bool) -> bool:
        return bool(self.config.views.on_device(has_accelerator))

    def transform(self, needs: Needs, on_device: bool = False) -> NaturalViews:
        """The weak and strong views that a method needs."""
        return NaturalViews(self.config.views, needs.num_strong, needs.partner, on_device, extra(needs))

    def figures(self, metric: ConfusionMatrix) -> dict[str, Any]:
        """{"miou", "accuracy", "iou": {class: value}}; None for what no pixel defines."""
        iou = dict(zip(self.taxonomy.names, map(defined, metric.iou().tolist()), strict=True))
        return {"miou": defined(metric.miou()), "accuracy": defined(metric.accuracy()), "iou": iou}
