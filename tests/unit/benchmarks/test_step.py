"""What a step may cost the host, in operations: their number, not their time, is the same on any machine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.training import bare, built
from unimatch.benchmarks import step
from unimatch.methods.base import Progress


class Counted(TorchDispatchMode):
    """Counts the operations that are launched inside."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[func.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_updates_are_few_operations_whatever_the_number_of_parameters(tiny_run: Path, optimizer: str):
    settings = (
        "model.encoder.name=test_efficientnet",
        "model.head={name: deeplabv3plus}",
        "method={name: mean_teacher}",
        f"optimizer={{name: {optimizer}, lr: 0.001}}",
        "schedule.steps=3",
    )
    trainer = built(bare(tiny_run, *settings))
    (_, raw), (_, other) = (next(trainer.loader) for _ in range(2))
    shares = [torch.ones(4, dtype=torch.float64)]
    trainer.step(0, raw, shares)  # makes the optimiser's state
    batch = trainer.task.to_device(other[0], torch.device("cpu"), shares[0])
    trainer._layout.backward(trainer._layout(batch, Progress(1, 3, 0))[0])
    with Counted() as update:
        trainer._layout.update()
    with Counted() as teacher:
        trainer.method.after_update(trainer.net, Progress(1, 3, 0))
    with Counted() as batches:
        trainer.task.to_device(other[0], torch.device("cpu"), shares[0])
    assert len(list(trainer.net.parameters())) > 50
    assert update.found.total() <= 8, update.found  # one for each group of parameters, and their counters
    assert teacher.found.total() <= 2, teacher.found
    assert batches.found.total() <= 70, batches.found


def test_the_benchmark_tells_of_every_step_that_counts(tiny_run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(step, "WARM_UP", 1)
    settings = ("method={name: mean_teacher}", "schedule.steps=5", "log.every_steps=5")
    found = step.measured(built(bare(tiny_run, *settings)))
    assert len(found) == 2  # neither the first ones nor the last one, which also logs
    for one in found:
        parts = one["to_device"] + one["update"] + one["after_update"] + one["rest"]
        assert one["host"] == pytest.approx(parts, abs=1e-6) and min(one["to_device"], one["passes"]) > 0
        assert one["messages"] == 0
    table = step._table({("unimatch", 1, 1): found})
    assert table.count("\n") == 2 and table.splitlines()[-1].startswith("| unimatch | 1 | 1 | ")
