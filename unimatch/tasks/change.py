"""Change detection: what became different between two dates of one place, pixel by pixel."""

from dataclasses import dataclass, field
from typing import Any

from unimatch.codecs.bands import Bands
from unimatch.data import images
from unimatch.errors import ConfigError
from unimatch.losses import LossConfig
from unimatch.metrics import ConfusionMatrix, defined
from unimatch.tasks.base import TASKS, Needs
from unimatch.tasks.pixels import PixelTask, extra
from unimatch.tasks.prediction import EvaluateConfig
from unimatch.taxonomy import Taxonomy
from unimatch.views.change import ChangeViewConfig, ChangeViews

CHANGED = 1  # class id; 0 is unchanged


@dataclass
class ChangeTaskConfig:
    """The views that pairs are turned into, the supervised loss, and the evaluation."""

    views: ChangeViewConfig
    loss: LossConfig = field(default_factory=LossConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


@TASKS.register("change", ChangeTaskConfig)
class ChangeTask(PixelTask):
    """Samples are pairs: images [B, 2, C, H, W], with one label, one validity mask and one box a view.

    taxonomy: the classes unchanged and changed, in this order.
    """

    headline = "iou_changed"
    dates = 2
    background = 0
    decode = staticmethod(images.rgb_pair)

    def __init__(
        self,
        config: ChangeTaskConfig,
        taxonomy: Taxonomy,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        bands: Bands | None = None,
    ) -> None:
        if taxonomy.num_classes != 2:
            raise ConfigError(
                f"task change tells two classes apart, unchanged (0) and changed (1), but the shards have "
                f"{taxonomy.num_classes}; pack the data with these two"
            )
        super().__init__(config, taxonomy, mean, std, bands)

    def views_on_device(self, has_accelerator: bool) -> bool:
        return bool(self.config.views.on_device(has_accelerator))

    def transform(self, needs: Needs, on_device: bool = False) -> ChangeViews:
        """The weak and strong views that a method needs."""
        return ChangeViews(self.config.views, needs.num_strong, needs.partner, on_device, extra(needs))

    def figures(self, metric: ConfusionMatrix) -> dict[str, Any]:
        """IoU, F1, precision and recall of changed pixels and the accuracy of all, over the whole set.

        From the sums over the set, not means over images. None, where a figure is 0/0: iou_changed and f1 if
        there is no change in truth and prediction, precision if none is predicted, recall if none is true.
        """
        counts = metric.counts.tolist()
        hits, misses, alarms = counts[CHANGED][CHANGED], counts[CHANGED][0], counts[0][CHANGED]
        iou = dict(zip(self.taxonomy.names, map(defined, metric.iou().tolist()), strict=True))
        return {
            "iou_changed": _ratio(hits, hits + misses + alarms),
            "f1": _ratio(2 * hits, 2 * hits + misses + alarms),
            "precision": _ratio(hits, hits + alarms),
            "recall": _ratio(hits, hits + misses),
            "accuracy": defined(metric.accuracy()),
            "iou": iou,
        }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
