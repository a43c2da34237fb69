"""Evaluation over all processes: every image counts exactly once."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unimatch.data.evaluation import EvalBatch, eval_loader
from unimatch.engine.runtime import Runtime
from unimatch.engine.selection import Selection
from unimatch.errors import DataError, summary
from unimatch.metrics import Calibration, defined
from unimatch.tasks.base import Task


def shown(name: str, value: float | int | None, task: Task | type[Task]) -> str:
    """A figure for people: in percent, or in the unit that the task says; counts (int) as they are;
    "undefined" for None.
    """
    if value is None:
        return "undefined"
    if isinstance(value, int):
        return str(value)
    return f"{value:.2f} {task.units[name]}" if name in task.units else f"{100 * value:.2f}"


def over(figures: Mapping[str, Any]) -> str:
    """What to write behind a mean over classes: " over 7 of 8 classes (none of sign)", or "" if over all.

    By the first table of figures by class: a class is left out that neither truth nor prediction has.
    """
    table = next((value for value in figures.values() if isinstance(value, Mapping)), {})
    absent = [name for name, value in table.items() if value is None]
    if not absent or len(absent) == len(table):
        return ""
    return f" over {len(table) - len(absent)} of {len(table)} classes (none of {summary(absent)})"


def report(figures: dict[str, Any], task: Task) -> list[str]:
    """A line for every class with its figures, then one for every other figure, the headline last."""
    single = {name: value for name, value in figures.items() if not isinstance(value, dict)}
    single[task.headline] = single.pop(task.headline)
    by_class = {name: value for name, value in figures.items() if isinstance(value, dict)}
    lines = [f"  {'':<24}" + "".join(f" {name:>10}" for name in by_class)] if by_class else []
    for label in next(iter(by_class.values()), {}):
        cells = [shown(name, values[label], task) for name, values in by_class.items()]
        lines.append(f"  {label:<24}" + "".join(f" {cell:>10}" for cell in cells))
    lines += [
        f"  {name:<24} {shown(name, value, task):>10}" + (over(figures) if name == task.headline else "")
        for name, value in single.items()
        if name not in ("images", "seconds", "samples", "labels")
    ]
    return lines


@dataclass
class Evaluator:
    """Calling it with a network gives the figures of one set of samples, the same on every process."""

    runtime: Runtime
    task: Task
    loader: Callable[[], Iterable[EvalBatch]]  # this process's batches of equal-sized images, once
    num_images: int  # over all processes
    samples: str = ""  # which ones: their hash

    def __call__(self, net: nn.Module) -> dict[str, Any]:
        """Figures of the task's metric, and `ece` (metrics.Calibration), `images`, `seconds`, `samples` (the
        hash), `labels`: a checksum of all class ids, as the same samples may have been labelled anew.

        The network is left in eval mode.
        """
        began = time.perf_counter()
        metric, calibration = self.task.metric(self.runtime.device), Calibration(self.runtime.device)
        seen, labels = 0, 0

        def take(batch: EvalBatch, ids: Tensor, conf: Tensor, label: Tensor) -> None:
            nonlocal seen, labels
            metric.update(ids, label, batch["keys"])
            calibration.update(ids, conf, label)
            assert batch["label"] is not None
            seen += len(label)
            labels += sum(map(_checksum, batch["label"], batch["keys"]))

        over_batches(net, self.task, self.runtime, self.loader, take)
        metric.state = self.runtime.sum_on_device(metric.state)
        calibration.state = self.runtime.sum_on_device(calibration.state)
        total, labels = self.runtime.sum_on_host(torch.tensor([seen, labels])).tolist()
        assert total == self.num_images, f"evaluated {total} images of {self.num_images}"
        seconds = time.perf_counter() - began
        of = {"images": total, "seconds": seconds, "samples": self.samples, "labels": f"{labels:x}"}
        return {**self.task.figures(metric), "ece": defined(calibration.error()), **of}


def over_batches(
    net: nn.Module,
    task: Task,
    runtime: Runtime,
    loader: Callable[[], Iterable[EvalBatch]],
    take: Callable[[EvalBatch, Tensor, Tensor, Tensor], None],
) -> None:
    """Gives `take` each batch of this process, the classes that the network, left in eval mode, predicts of
    it with their probabilities (task.predicted) and the labels, on the device. DataError, on all processes,
    if one of them cannot read or use a sample.
    """
    problem: DataError | None = None
    net.eval()
    try:
        with torch.inference_mode():
            for batch in loader():
                runtime.alive()
                with runtime.autocast():
                    ids, conf = task.predicted(net, batch["image"].to(runtime.device), sure=True)
                assert conf is not None
                assert batch["label"] is not None, "only labelled samples are given"
                take(batch, ids, conf, batch["label"].to(runtime.device))
    except DataError as error:
        problem = error
    with runtime.together():
        if problem:
            raise problem


def eval_batches(
    selection: Selection, task: Task, runtime: Runtime, batch: int, workers: int, timeout_s: float
) -> Callable[[], Iterator[EvalBatch]]:
    """Of this process's batches of the selected samples, from the start at each call."""
    return partial(
        eval_loader,
        selection.shards,
        selection.rows,
        rank=runtime.rank,
        world=runtime.world,
        batch=batch,
        workers=workers,
        timeout_s=timeout_s,
        decode=task.decode,
        unit=task.unit,
    )


def _checksum(label: Tensor, key: str) -> int:
    """32 bits of a sample's class ids; the sum over samples depends on neither order nor processes."""
    return zlib.crc32(label.numpy().tobytes(), zlib.crc32(key.encode()))
