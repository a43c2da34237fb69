"""FSDP2 on real processes over gloo: the same training as DDP, and states that move between all layouts.

One pair of processes trains all that is compared; methods with networks beside theirs are in test_siblings.py.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT, tiny_run_text
from tests.dist.test_training import Run
from tests.dist.test_zero import zero
from tests.support.launches import fsdp
from tests.support.processes import succeed
from unimatch.config import dump, load
from unimatch.engine.log import read_metrics
from unimatch.engine.run_config import RunConfig

PROGRAM = Path(__file__).with_name("runs_process.py")
# Three steps at a rate that amplifies no rounding.
SMALL = (
    "data.workers=0",
    "data.val=null",
    "task.views.crop=32",
    "optimizer={name: adamw, lr: 1.0e-5, clip_norm: 0.5}",
    "schedule.steps=3",
    "checkpoint.every_steps=3",
)
# Odd numbers of channels, which two processes cannot share evenly.
CNN = (
    "model.encoder.output_stride=16",
    "model.head={name: deeplabv3plus, channels: 15, low_channels: 5, rates: [1, 2, 3]}",
)
VIT = (
    "model.encoder={name: test_vit, weights: none}",
    "model.head={name: dpt, channels: 8, levels_channels: [8, 8, 8, 8]}",
    "task.evaluate.multiple_of=16",
)
CASES = {
    "plain": (*CNN, "data.val=val", "evaluation.every_steps=3"),
    "lean": (
        *CNN,
        "batch.max_per_device=2",
        "activation_checkpointing=true",
        "sync_batchnorm=off",
        "optimizer={lr: 0.0003, clip_norm: 0.5}",
    ),
    "vit": (
        *VIT,
        "method={name: unimatch_v2, threshold: 0, ema_decay: 0.7}",
        "optimizer={name: adamw, lr: 1.0e-5, clip_norm: 0.5, layer_decay: 0.9, decay: matrices}",
        "activation_checkpointing=true",
        "compile=eager",
    ),
    "frozen": (*VIT, "model.encoder.freeze=true", "method={name: mean_teacher, threshold: 0}"),
    "bf16": (*VIT, "precision=bf16"),
}
LAYOUTS = [
    *((case, "fsdp") for case in CASES),
    ("lean", "replicas"),
    ("plain", "kept"),
]


@pytest.fixture(scope="module")
def folder(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases have been trained by two processes, under DDP and in the other layouts."""
    found = tmp_path_factory.mktemp("fsdp")
    text = tiny_run_text(found / "run", tiny_shards).replace(", output_stride: 16", "")
    (found / "base.yaml").write_text(text)
    arguments = []
    for layout, case in sorted({("0", case) for case in CASES} | {(layout, case) for case, layout in LAYOUTS}):
        path = found / f"{layout}-{case}.yaml"
        path.write_text(dump(config_of(found, case, layout)))
        arguments += [layout, str(path)]
    succeed(2, str(PROGRAM), *arguments, PYTHONPATH=str(ROOT))
    return found


def config_of(folder: Path, case: str, layout: str) -> RunConfig:
    return load(folder / "base.yaml", RunConfig, [*SMALL, *CASES[case], f"out={folder / layout / case}"])


def logged(folder: Path, case: str, layout: str, name: str, kind: str = "train") -> list[float]:
    return [line[name] for line in read_metrics(folder / layout / case, kind)]


@pytest.mark.parametrize(("case", "layout"), LAYOUTS)
def test_parts_train_as_ddp_does(folder: Path, case: str, layout: str):
    """Losses, norms of gradients before clipping, evaluations and all weights."""
    loose = case == "bf16"
    for name in ("loss", "grad_norm"):
        mine, theirs = (logged(folder, case, each, name) for each in (layout, "0"))
        assert len(mine) == 3 and mine == pytest.approx(theirs, rel=1e-2 if loose else 1e-5)
        assert name == "loss" or min(theirs) > 0.5, "every gradient is clipped"
    if case == "plain":
        mine, theirs = (logged(folder, case, each, "miou", "eval") for each in (layout, "0"))
        assert mine == pytest.approx(theirs, abs=1e-6)
    ours, other = (folder / each / case / "last" for each in (layout, "0"))
    assert {path.name for path in ours.iterdir()} == {path.name for path in other.iterdir()}
    for path in ours.glob("*.safetensors"):
        mine, theirs = load_file(path), load_file(other / path.name)
        assert mine.keys() == theirs.keys()
        for key in mine:
            assert mine[key].dtype == theirs[key].dtype
            torch.testing.assert_close(mine[key], theirs[key], rtol=1e-5, atol=1e-4 if loose else 1e-7)


@pytest.mark.parametrize("case", CASES)
def test_the_optimisers_state_is_that_of_ddp(folder: Path, case: str):
    """Whole, by numbers and in the types that torch's own layout has."""
    mine, theirs = (
        torch.load(folder / layout / case / "last" / "optimizer.pt", weights_only=True)["optimizer"]
        for layout in ("fsdp", "0")
    )
    how = {"fused", "foreach"}
    for ours, other in zip(mine["param_groups"], theirs["param_groups"], strict=True):
        assert {k: v for k, v in ours.items() if k not in how} == {
            k: v for k, v in other.items() if k not in how
        }
    assert mine["state"].keys() == theirs["state"].keys()
    for number, values in theirs["state"].items():
        assert mine["state"][number].keys() == values.keys()
        for name, value in values.items():
            loose = 1e-2 if case == "bf16" else 1e-6
            torch.testing.assert_close(mine["state"][number][name], value, rtol=1e-4, atol=loose)


def test_training_moves_between_layouts_and_process_counts(folder: Path):
    """DDP, ZeRO-2 and FSDP on two processes, DDP on one, hybrid FSDP on four; each is killed but the last."""
    config = folder / "base.yaml"
    settings = (*SMALL, *CNN, "schedule.steps=10", "checkpoint.every_steps=2")
    still = Run(config, "still", *settings).train(2)
    moved = Run(config, "moved", *settings)
    moved.stop(2, 3, signal.SIGKILL)
    moved.stop(2, 5, signal.SIGKILL, "--resume", **zero(2))
    moved.stop(2, 7, signal.SIGKILL, "--resume", **fsdp())
    moved.stop(1, 9, signal.SIGKILL, "--resume")
    assert moved.saved_step == 8
    moved.train(4, "--resume", **fsdp(replicas=2, parts=2))
    assert moved.losses == pytest.approx(still.losses, rel=1e-4)
