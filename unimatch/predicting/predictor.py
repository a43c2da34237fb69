"""What a prediction is made by: the network of a run, or of several, and how it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unimatch import config as config_io
from unimatch.engine.checkpoint import weights_hash
from unimatch.engine.prediction_mode import in_one_pass
from unimatch.engine.restore import Restored, restore
from unimatch.engine.runtime import Runtime
from unimatch.predicting.ensembles import one_network
from unimatch.predicting.passes import passes
from unimatch.taxonomy import IGNORE_INDEX


@dataclass(frozen=True)
class Reading:
    """How images are read and predicted: at most `batch` neighbours of one size together; `workers` decode
    ahead. threshold: pixels whose class is less probable get none.
    """

    batch: int = 4
    workers: int = 2
    timeout_s: float = 300.0
    scales: Sequence[float] = (1.0,)
    flip: bool = False
    threshold: float = 0.0


@dataclass(frozen=True)
class Seen:
    """What a network says of images of one size: uint8 [B, H, W], the classes; if asked for, float32
    [B, H, W], the probabilities of these, and float32 [B, K, H, W], those of all classes.
    """

    ids: np.ndarray
    conf: np.ndarray | None = None
    probabilities: np.ndarray | None = None


class Predictor:
    """Networks as one, on this process's device. first: the run whose task and names count."""

    def __init__(self, found: Sequence[Restored], reading: Reading) -> None:
        self.found = list(found)
        self.first = found[0]
        self.task = self.first.task
        self.reading = reading
        self.net: nn.Module = one_network(found, reading.scales, reading.flip)

    @classmethod
    def restored(
        cls,
        runs: Sequence[Path],
        which: str,
        network: str | None,
        runtime: Runtime,
        changes: Mapping[str, Any],
        reading: Reading,
    ) -> Predictor:
        """The networks of runs, each as `restore` gives it. UserError: they do not go together."""
        return cls([restore(run, which, network, runtime, changes) for run in runs], reading)

    def made_by(self) -> dict[str, Any]:
        """Which networks they are and how they are asked, as JSON: what a result depends on beside images."""
        first, *others = [
            {
                "run": str(one.config.out),
                "network": one.network,
                "step": one.state.step,
                "weights": weights_hash(one.folder, one.network),
            }
            for one in self.found
        ]
        return {
            "by": "unimatch predict",
            **first,
            **({"with": others} if others else {}),
            "evaluate": config_io.plain(self.first.config.task.config.evaluate),
            "scales": list(self.reading.scales),
            "flip": self.reading.flip,
            **({"threshold": self.reading.threshold} if self.reading.threshold else {}),
        }

    def classes(self, images: Tensor, sure: bool = False) -> tuple[Tensor, Tensor | None]:
        """As task.predicted, of images on the device; IGNORE_INDEX where it is less sure than asked for."""
        threshold = self.reading.threshold
        ids, conf = self.task.predicted(self.net, images, sure or threshold > 0)
        if conf is not None and threshold > 0:
            ids = ids.masked_fill(conf < threshold, IGNORE_INDEX)
        return ids, conf

    def see(self, images: np.ndarray, sure: bool = False, all_classes: bool = False) -> Seen:
        """Images [B, ..., H, W, C] as the task decodes them. DataError: too large for the memory in one pass.

        sure: with the probabilities of the classes; all_classes: with all probabilities.
        """
        ids, conf, probabilities = [], [], []
        whole = in_one_pass(self.first.config)
        with torch.inference_mode():
            for part in passes(self.net, images, whole, max(1, self.reading.batch)):
                if all_classes:
                    labels, all_of_them = self.task.spread(self.net, part)
                    probabilities.append(all_of_them.cpu().numpy())
                    best = all_of_them.amax(dim=1)
                    labels = labels.masked_fill(best < self.reading.threshold, IGNORE_INDEX)
                else:
                    labels, best = self.classes(part, sure)  # type: ignore[assignment]
                ids.append(labels.to("cpu", torch.uint8).numpy())
                if best is not None:
                    conf.append(best.cpu().numpy())
        return Seen(*(joined(parts) for parts in (ids, conf, probabilities)))  # type: ignore[arg-type]


def joined(parts: Sequence[np.ndarray]) -> np.ndarray | None:
    """Along the first axis; None: there are none."""
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
