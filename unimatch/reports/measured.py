"""What a run's network says of the samples that it is evaluated on, and how far that is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimatch.data.evaluation import EvalBatch
from unimatch.engine.evaluate import eval_batches, over_batches
from unimatch.engine.restore import Restored
from unimatch.engine.run_data import require_dates, require_labels
from unimatch.engine.runtime import Runtime
from unimatch.engine.selection import Selection
from unimatch.metrics import Calibration, ConfusionMatrix, defined
from unimatch.tasks.base import Task
from unimatch.taxonomy import IGNORE_INDEX


@dataclass(frozen=True)
class Score:
    """Of one sample. `value`: the mean IoU of its classes, see `image_score`; None: nothing defines it."""

    key: str
    value: float | None
    conf: float  # mean probability of what was predicted
    accuracy: float  # share of its labelled pixels that are right


@dataclass(frozen=True)
class Measured:
    """A network's confusion matrix, calibration and samples."""

    step: int
    network: str
    classes: Sequence[str]
    counts: np.ndarray  # int64 [K, K]: pixels by true class (row) and predicted class
    calibration: Calibration
    scores: Sequence[Score]
    of: int  # samples there are; `scores` has as many, or some spread evenly over them

    def described(self) -> dict[str, Any]:
        """For JSON: shares of the pixels of each true class by predicted class, and the calibration's bins as
        [pixels, share that is right, mean probability].
        """
        true = self.counts.sum(1, keepdims=True)
        pixels, right, conf = self.calibration.state.double().cpu().numpy()
        known = pixels > 0
        bins = np.stack([pixels, right, conf / Calibration.UNIT])[:, known]
        bins[1:] /= bins[0]
        return {
            "step": self.step,
            "network": self.network,
            "samples": len(self.scores),
            "of": self.of,
            "confusion": (self.counts / np.maximum(true, 1)).round(4).tolist(),
            "pixels": true[:, 0].tolist(),
            "precision": [
                defined(value) for value in _ratio(self.counts.diagonal(), self.counts.sum(0)).tolist()
            ],
            "recall": [defined(value) for value in _ratio(self.counts.diagonal(), true[:, 0]).tolist()],
            "bins": bins.T.tolist(),
            "ece": defined(self.calibration.error()),
        }


def measure(
    restored: Restored, selection: Selection, runtime: Runtime, count: int, batch: int, workers: int
) -> Measured:
    """Of at most `count` of the selected samples. UserError: samples of another kind, or without masks."""
    task, device = restored.task, runtime.device
    require_dates(selection, task)
    require_labels(selection)
    some = selection.spread(count)
    matrix = ConfusionMatrix(task.taxonomy.num_classes, device)
    calibration = Calibration(device)
    scores: list[Score] = []

    def take(samples: EvalBatch, ids: Tensor, conf: Tensor, label: Tensor) -> None:
        calibration.update(ids, conf, label)
        for key, *one in zip(samples["keys"], ids, conf, label, strict=True):
            own, score = _score(task, key, *one)
            matrix.counts += own
            scores.append(score)

    batches = eval_batches(some, task, runtime, batch, workers, restored.config.data.timeout_s)
    over_batches(restored.net, task, runtime, batches, take)
    return Measured(
        restored.state.step,
        restored.network,
        task.taxonomy.names,
        matrix.counts.cpu().numpy(),
        calibration,
        scores,
        len(selection.rows),
    )


def image_score(counts: Tensor, background: int | None) -> float | None:
    """The mean IoU over the classes that occur in an image's truth or prediction, `background` left out.

    None: there is none, as in a pair without a change that none was predicted in.
    counts: int64 [K, K], see ConfusionMatrix.
    """
    iou = ConfusionMatrix(len(counts))
    iou.counts = counts
    values = [value for number, value in enumerate(iou.iou().tolist()) if number != background]
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None


def _score(task: Task, key: str, ids: Tensor, conf: Tensor, label: Tensor) -> tuple[Tensor, Score]:
    own = ConfusionMatrix(task.taxonomy.num_classes, ids.device)
    own.update(ids, label)
    said = conf[ids != IGNORE_INDEX]
    mean = float(said.mean()) if len(said) else 0.0
    value = image_score(own.counts.cpu(), task.background)
    return own.counts, Score(key, value, mean, own.accuracy())


def extremes(scores: Sequence[Score], count: int) -> tuple[list[Score], list[Score]]:
    """(worst, best): `count` in all, worst first in the one and best first in the other; none in both."""
    ranked = sorted((one for one in scores if one.value is not None), key=lambda one: (one.value, one.key))
    worst = min(-(-count // 2), -(-len(ranked) // 2))
    best = min(count - worst, len(ranked) - worst)
    return ranked[:worst], ranked[len(ranked) - best :][::-1]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def predictions(restored: Restored, image: np.ndarray, runtime: Runtime) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W] and float32 [H, W]: the classes of one image as decoded, and their probabilities."""
    batch = torch.from_numpy(image)[None].to(runtime.device)
    with torch.inference_mode(), runtime.autocast():
        ids, conf = restored.task.predicted(restored.net, batch, sure=True)
    assert conf is not None
    return ids[0].cpu().numpy(), conf[0].float().cpu().numpy()
