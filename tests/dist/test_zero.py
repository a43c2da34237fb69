"""DeepSpeed ZeRO on real processes over gloo: the same training as DDP, and states that move between both."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT, TINY_RUN
from tests.dist.test_training import Run


def zero(stage: int, name: str = "") -> dict[str, str]:
    """What `accelerate launch` would put into the environment."""
    file = ROOT / "launch" / "deepspeed" / f"zero{stage}{name}.json"
    return {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}


@pytest.fixture(scope="module")
def config(
    request: pytest.FixtureRequest, tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """20 steps of UniMatch with momentum or with Adam's two moments, at a rate that amplifies no rounding."""
    folder = tmp_path_factory.mktemp(request.param)
    text = TINY_RUN.format(out=folder / "run", shards=tiny_shards, split=tiny_shards.parent / "split")
    rate = {"sgd": "lr: 0.001", "adamw": "name: adamw, lr: 1e-5"}[request.param]
    path = folder / "run.yaml"
    path.write_text(text.replace("lr: 0.01", f"{rate}, clip_norm: 5.0"))
    return path


@pytest.fixture(scope="module")
def replicas(config: Path) -> Run:
    """The undisturbed run of two processes under DDP."""
    return Run(config, "ddp").train(2)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.out / "last" / "model.safetensors")


def assert_same_training(ours: Run, theirs: Run) -> None:
    assert len(ours.losses) == 20
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-4)
    mine, other = weights(ours), weights(theirs)
    assert mine.keys() == other.keys()
    for name, value in other.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-3, atol=1e-4)
    for a, b in zip(ours.lines("eval"), theirs.lines("eval"), strict=True):
        assert a["miou"] == pytest.approx(b["miou"], abs=2e-3)
    norms = [[line["grad_norm"] for line in run.lines()] for run in (ours, theirs)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


@pytest.mark.parametrize("config", ["adamw"], indirect=True)
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_stage_trains_as_ddp_does(config: Path, replicas: Run, stage: int):
    assert_same_training(Run(config, f"zero{stage}").train(2, **zero(stage)), replicas)


@pytest.mark.parametrize("config", ["adamw", "sgd"], indirect=True)
def test_training_moves_between_layouts_and_process_counts(config: Path, replicas: Run):
    """ZeRO-2 on two processes, DDP on one, ZeRO-3 on two, ZeRO-1 on four; each is killed but the last."""
    moved = Run(config, "moved", "checkpoint.every_steps=5")
    moved.stop(2, 6, signal.SIGKILL, **zero(2))
    assert moved.saved_step == 5
    moved.stop(1, 11, signal.SIGKILL, "--resume")
    assert moved.saved_step == 10
    moved.stop(2, 16, signal.SIGKILL, "--resume", **zero(3))
    assert moved.saved_step == 15
    assert_same_training(moved.train(4, "--resume", **zero(1)), replicas)
