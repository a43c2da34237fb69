"""Methods on every task: some steps on two real processes, from a configuration alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from tests.conftest import ROOT, tiny_run_text
from tests.support import tiny_encoder
from tests.support.change_set import write_change_run
from tests.support.medical_set import write_medical_run
from tests.support.narrow import NARROW_UNET
from tests.support.processes import succeed
from unimatch import evaluate
from unimatch.config import dump, load
from unimatch.engine import checkpoint
from unimatch.engine.log import read_metrics
from unimatch.engine.run_config import RunConfig
from unimatch.models import unet
from unimatch.packing.splits import draw_splits, write_split
from unimatch.packing.synthetic import write_synthetic
from unimatch.shardset.archive import ShardSet
from unimatch.tasks import TASKS

PROGRAM = Path(__file__).with_name("runs_process.py")


def natural_run(folder: Path) -> Path:
    """Tiny street scenes; seven for validation."""
    shards, path = folder / "shards", folder / "run.yaml"
    write_synthetic(shards, train=12, val=7, height=48, width=64, seed=0)
    write_split(draw_splits(ShardSet.open(shards), "train", [5])[0], folder / "split")
    text = tiny_run_text(folder / "run", shards, folder / "split")
    path.write_text(text.replace("deeplabv3plus}", "deeplabv3plus, rates: [1, 2, 3], channels: 32}"))
    return path


def change_run(folder: Path) -> Path:
    """Tiny pairs; seven for validation."""
    return write_change_run(folder, train=12, val=7)


def medical_run(folder: Path) -> Path:
    """Tiny scans; five volumes for validation."""
    return write_medical_run(folder, train=12, val=5)


SETS: dict[str, Callable[[Path], Path]] = {
    "natural": natural_run,
    "change": change_run,
    "medical": medical_run,
}
STEPS = 7
LONGER = {("unimatch", "medical"): 20}  # before that its network says nothing but "background"
# The others train on every task in tests/unit/engine/test_sibling_runs.py.
FIRST = ("supervised", "fixmatch", "mean_teacher", "unimatch", "unimatch_v2")
PAIRS = list(product(FIRST, SETS))


def steps(method: str, task: str) -> int:
    return LONGER.get((method, task), STEPS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """The run folder of each pair of a method and a task, all trained by the same two processes."""
    found, configs = {}, []
    for task, make in SETS.items():
        folder = tmp_path_factory.mktemp(task)
        base = make(folder)
        for method in FIRST:
            out = found[method, task] = folder / method
            overrides = [f"out={out}", f"method={{name: {method}}}", "data.workers=0", "evaluation.batch=1"]
            overrides += [
                "sync_batchnorm=off",
                f"schedule.steps={steps(method, task)}",
                "evaluation.every_steps=20",
            ]
            if task != "medical":
                overrides.append(f"model.encoder.name={tiny_encoder.NAME}")
            path = folder / f"{method}.yaml"
            path.write_text(dump(load(base, RunConfig, overrides)))
            configs += ["0", str(path)]
    succeed(2, str(PROGRAM), *configs, PYTHONPATH=str(ROOT))
    return found


def test_all_tasks_are_here():
    assert set(SETS) == set(TASKS.names())


@pytest.mark.parametrize(("method", "task"), PAIRS)
def test_a_method_trains_on_a_task(runs, method, task):
    folder = runs[method, task]
    lines = read_metrics(folder, "train")
    assert [line["step"] for line in lines] == list(range(1, steps(method, task) + 1))
    losses = [value for line in lines for name, value in line.items() if name.startswith("loss")]
    assert len(losses) >= 2 * len(lines) and all(math.isfinite(value) for value in losses)
    assert sum(line["loss_x"] for line in lines[-3:]) < sum(line["loss_x"] for line in lines[:3])
    evaluations = read_metrics(folder, "eval")
    assert {line["step"] for line in evaluations} == {len(lines)}
    assert all(TASKS[task].cls.headline in line for line in evaluations)
    assert checkpoint.load_state(folder / "last").step == len(lines)


@pytest.mark.parametrize("task", SETS)
def test_one_process_evaluates_as_two_did(runs, task, tmp_path, monkeypatch):
    """Two processes shared an odd number of samples; each counts once, and the sums are those of all."""
    monkeypatch.setattr(unet, "WIDTHS", NARROW_UNET)
    folder = runs["unimatch", task]
    evaluate.main([str(folder), "--json", str(tmp_path / "one.json"), "--workers", "0", "--batch", "1"])
    one = json.loads((tmp_path / "one.json").read_text())
    two = read_metrics(folder, "eval")[-1]
    assert (one["samples"], one["labels"]) == (two["samples"], two["labels"])
    for name in set(one) - {"data", "seconds", "samples", "labels"}:
        assert one[name] == pytest.approx(two[name], rel=1e-12, nan_ok=True), name
