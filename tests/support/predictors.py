"""What predicts without a training, and the processes that do it as threads of one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.color_net import ColorNet
from unimatch.codecs.prepared import Preparation
from unimatch.engine.restore import Restored
from unimatch.engine.runtime import Runtime
from unimatch.predicting.predictor import Predictor, Reading
from unimatch.tasks.natural import NaturalTask, NaturalTaskConfig
from unimatch.tasks.prediction import EvaluateConfig
from unimatch.taxonomy import Taxonomy
from unimatch.views.natural import ViewConfig

TAXONOMY = Taxonomy.of(["road", "tree", "car"])


def restored(
    folder: Path,
    seed: int = 1,
    mean: float = 0.5,
    std: float = 0.25,
    classes: Taxonomy = TAXONOMY,
    prepared: Preparation | None = None,
    **evaluate: Any,
) -> Restored:
    """As `restore` gives it: a network that says something, and the files that a folder of it would have."""
    config = NaturalTaskConfig(views=ViewConfig(crop=16), evaluate=EvaluateConfig(**evaluate))
    task = NaturalTask(config, classes, (mean,) * 3, (std,) * 3)
    (folder / f"run{seed}").mkdir(parents=True, exist_ok=True)
    (folder / f"run{seed}" / "model.safetensors").write_bytes(f"weights {seed}".encode())
    settings = SimpleNamespace(
        task=SimpleNamespace(name="natural", config=config),
        out=folder / f"run{seed}",
        data=SimpleNamespace(timeout_s=60.0),
    )
    parts: dict[str, Any] = {
        "config": settings,
        "net": ColorNet(classes.num_classes, seed),
        "network": "model",
        "task": task,
        "folder": folder / f"run{seed}",
        "state": SimpleNamespace(step=7),
        "prepared": prepared,
    }
    return Restored(**parts)


def predictor(*found: Restored, **reading: Any) -> Predictor:
    return Predictor(found, Reading(**{"batch": 2, "workers": 0, **reading}))


class Rank(Runtime):
    """One of several processes, which are threads."""

    def __init__(self, rank: int, world: int, barrier: threading.Barrier, values: list[Any]) -> None:
        self.rank, self.world = rank, world
        self._barrier, self._values = barrier, values

    def gather(self, value: Any) -> list[Any]:
        self._values[self.rank] = value
        self._barrier.wait(20)
        found = list(self._values)
        self._barrier.wait(20)
        return found


def as_ranks(world: int, work: Callable[[Runtime], Any]) -> list[Any]:
    """What `work` gives on each of so many processes; the exception that it raises there in its place."""
    barrier, values = threading.Barrier(world), [None] * world
    found: list[Any] = [None] * world

    def one(rank: int) -> None:
        try:
            found[rank] = work(Rank(rank, world, barrier, values))
        except BaseException as error:
            found[rank] = error

    threads: Sequence[threading.Thread] = [
        threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(world)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found
