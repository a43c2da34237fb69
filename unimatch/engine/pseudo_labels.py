"""How good the labels are that a network gives to unlabelled images, where these carry masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unimatch.data.evaluation import EvalBatch
from unimatch.engine.evaluate import eval_batches, over_batches
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import RunData
from unimatch.engine.runtime import Runtime
from unimatch.engine.selection import Selection, Unlabeled, evenly
from unimatch.errors import UserError
from unimatch.metrics import ConfusionMatrix, defined
from unimatch.tasks.base import Task
from unimatch.taxonomy import IGNORE_INDEX

SURE = 0.9  # the same for all methods, whatever their own thresholds


def build_pseudo_labels(
    config: RunConfig, data: RunData, task: Task, runtime: Runtime
) -> LabelQuality | None:
    """What measures pseudo-labels at each evaluation, if the configuration asks for it."""
    settings = config.evaluation
    if not settings.pseudo_labels or data.unlabeled is None:
        return None
    chosen = with_masks(data.unlabeled, settings.pseudo_labels)
    batches = eval_batches(chosen, task, runtime, settings.batch, settings.workers, config.data.timeout_s)
    return LabelQuality(runtime, task, batches)


def with_masks(unlabeled: Unlabeled, count: int) -> Selection:
    """Up to `count` samples of the first unlabelled set that carry masks, spread evenly.

    UserError: none does.
    """
    one = unlabeled.sets[0]
    rows = one.rows[one.shards.index["label_size"][one.rows] > 0]
    if not len(rows):
        raise UserError(
            f"evaluation.pseudo_labels is {count}, but no sample of {one.name!r} has a mask to measure "
            "pseudo-labels by: set it to 0"
        )
    return Selection(one.shards, one.name, evenly(rows, count), "")


@dataclass
class LabelQuality:
    """Calling it with a network gives the figures of its labels for whole images, in eval mode, that are
    surer than SURE; the same on every process.
    """

    runtime: Runtime
    task: Task
    loader: Callable[[], Iterable[EvalBatch]]  # this process's batches, once

    def __call__(self, net: nn.Module) -> dict[str, Any]:
        """`share`: of the pixels with a true label, those that are sure; `precision`: of those, the right
        ones, None where there are none; `precision_of`, `share_of` (of the sure pixels): by predicted class.
        """
        matrix = ConfusionMatrix(self.task.taxonomy.num_classes, self.runtime.device)
        pixels = torch.zeros((), dtype=torch.int64, device=self.runtime.device)

        def take(_: EvalBatch, ids: Tensor, conf: Tensor, label: Tensor) -> None:
            pixels.add_((label != IGNORE_INDEX).sum())
            matrix.update(ids.masked_fill(conf < SURE, IGNORE_INDEX), label)

        over_batches(net, self.task, self.runtime, self.loader, take)
        counts, known = self.runtime.sum_on_device(matrix.counts), self.runtime.sum_on_device(pixels)
        right, said = counts.diagonal().double(), counts.sum(0).double()
        names = self.task.taxonomy.names
        return {
            "precision": defined(float(right.sum() / said.sum())),
            "share": float(said.sum() / known),
            "precision_of": dict(zip(names, map(defined, (right / said).tolist()), strict=True)),
            "share_of": dict(zip(names, (said / said.sum().clamp(min=1)).tolist(), strict=True)),
        }
