"""DeepSpeed ZeRO on real processes over gloo: the same training as DDP, and states that move between both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT, tiny_run_text
from tests.dist.test_training import Run
from tests.support import tiny_encoder
from tests.support.processes import succeed
from unimatch import config as config_io
from unimatch.engine.build import build_network
from unimatch.engine.run_config import RunConfig
from unimatch.engine.runtime import Runtime
from unimatch.shardset.archive import ShardSet


def zero(stage: int, shipped: bool = False) -> dict[str, str]:
    """What `accelerate launch` would put into the environment.

    The file of stage 3 is the shipped one or, quicker, one by which DeepSpeed does not look ahead for the
    next use of each parameter: once a run, that takes longer than a test's steps.
    """
    own = stage == 3 and not shipped
    file = str(ROOT / "tests/support/zero3.json") if own else f"launch/deepspeed/zero{stage}.json"
    return {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": file}


@pytest.fixture(scope="module")
def config(
    request: pytest.FixtureRequest, tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Eight steps of UniMatch with momentum or Adam's two moments, at a rate that amplifies no rounding."""
    folder = tmp_path_factory.mktemp(request.param)
    text = tiny_run_text(folder / "run", tiny_shards)
    rate = {"sgd": "lr: 0.0003", "adamw": "name: adamw, lr: 1e-5"}[request.param]
    path = folder / "run.yaml"
    for old, new in (
        ("{name: deeplabv3plus, channels: 32}", "{name: linear}"),
        ("test_efficientnet", tiny_encoder.NAME),
        ("lr: 0.01", f"{rate}, clip_norm: 5.0"),
        ("steps: 20", "steps: 8"),
        ("evaluation: {every_steps: 10", "evaluation: {every_steps: 8"),
        ("checkpoint: {every_steps: 10", "checkpoint: {every_steps: 2"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def replicas(config: Path) -> Run:
    """The undisturbed run of two processes under DDP."""
    return Run(config, "ddp").train(2)


def end(run: Run, name: str = "model") -> dict[str, torch.Tensor]:
    return load_file(run.out / "last" / f"{name}.safetensors")


def assert_same_weights(ours: Run, theirs: Run, config: Path, name: str = "model") -> None:
    """Both moved the same way from where they began: the difference is a small part of the way.

    Whole networks, since a rate is small: any tolerance for single weights would be wider than their way.
    """
    mine, other, start = end(ours, name), end(theirs, name), beginning(config)
    assert mine.keys() == other.keys() == start.keys()
    trained = [
        key for key in start if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    ]
    apart, moved = (
        torch.cat([(one[key] - another[key]).flatten().double() for key in trained]).norm()
        for one, another in ((mine, other), (other, start))
    )
    assert moved > 0 and apart < 0.02 * moved
    for key in start.keys() - set(trained):
        torch.testing.assert_close(mine[key], other[key], rtol=1e-3, atol=1e-4)
        assert not torch.equal(other[key], start[key]), key


def beginning(config: Path) -> dict[str, torch.Tensor]:
    """The weights that every run of a configuration begins with."""
    settings = config_io.load(config, RunConfig)
    return build_network(settings, ShardSet.open(settings.data.shards).taxonomy, Runtime()).state_dict()


def assert_same_training(ours: Run, theirs: Run, config: Path) -> None:
    assert len(ours.losses) == 8
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-4)
    assert_same_weights(ours, theirs, config)
    for a, b in zip(ours.lines("eval"), theirs.lines("eval"), strict=True):
        assert a["miou"] == pytest.approx(b["miou"], abs=2e-3)
    norms = [[line["grad_norm"] for line in run.lines()] for run in (ours, theirs)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


@pytest.mark.parametrize("config", ["adamw"], indirect=True)
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_stage_trains_as_ddp_does(config: Path, replicas: Run, stage: int, tmp_path: Path):
    """From another folder, where the settings that a launch file names are those of unimatch."""
    sharded = Run(config, f"zero{stage}")
    succeed(2, *sharded.args, cwd=tmp_path, **zero(stage, shipped=True))
    assert_same_training(sharded, replicas, config)


SHORT = ("schedule.steps=4", "data.val=null")


@pytest.mark.parametrize("config", ["adamw"], indirect=True)
def test_a_teacher_follows_gathered_parameters(config: Path):
    """Four steps under DDP; under ZeRO-3 to a kill, resumed under ZeRO-2: the same losses and teacher."""
    settings = (*SHORT, "method={name: mean_teacher, threshold: 0.3}")
    ddp = Run(config, "teacher_ddp", *settings).train(2)
    moved = Run(config, "teacher_moved", *settings)
    moved.fall(2, 2, **zero(3))
    moved.train(2, "--resume", **zero(2))
    assert moved.losses == pytest.approx(ddp.losses, rel=1e-4)
    for name in ("ema", "model"):
        assert_same_weights(moved, ddp, config, name)
    student, teacher = end(moved), end(moved, "ema")
    assert any(not torch.equal(student[key], teacher[key]) for key in student), "the teacher lags"


@pytest.mark.parametrize("config", ["adamw"], indirect=True)
def test_accumulation_and_recomputation_are_the_same_under_every_stage(config: Path):
    """Two micro-batches a step and process; encoder activations computed again in backward."""
    settings = (*SHORT, "schedule.steps=3", "batch.max_per_device=2", "sync_batchnorm=off")
    settings += ("activation_checkpointing=true",)
    ddp = Run(config, "accumulated_ddp", *settings).train(2)
    for stage in (2, 3):
        run = Run(config, f"accumulated_zero{stage}", *settings).train(2, **zero(stage))
        assert run.losses == pytest.approx(ddp.losses, rel=1e-4)
        assert_same_weights(run, ddp, config)


@pytest.mark.parametrize("config", ["adamw"], indirect=True)
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("plain", ()),
        # By the backend that compiles nothing: the wrapping is the same, and seconds shorter. FixMatch: two
        # passes to trace where UniMatch has three, and tracing is most of the test's time, so one process.
        ("compiled", ("compile=eager", "method={name: fixmatch, mix_partner: shuffled}")),
    ],
)
def test_bf16_under_zero_is_bf16_under_ddp(config: Path, name: str, settings: tuple[str, ...]):
    settings = ("schedule.steps=2", "data.val=null", "precision=bf16", *settings)
    count = 1 if name == "compiled" else 2
    ddp = Run(config, f"bf16_{name}_ddp", *settings).train(count)
    ours = Run(config, f"bf16_{name}_zero2", *settings).train(count, **zero(2))
    assert ours.losses == pytest.approx(ddp.losses, rel=1e-2)


# Of processes and a stage, 0 for DDP. How a state is cut in parts, one optimiser shows as well as another.
MOVES = [("adamw", [(2, 2), (1, 0), (2, 3), (4, 1)]), ("sgd", [(1, 2), (1, 0), (1, 3), (1, 1)])]


@pytest.mark.parametrize(("config", "layouts"), MOVES, ids=["adamw", "sgd"], indirect=["config"])
def test_training_moves_between_layouts_and_process_counts(
    config: Path, request: pytest.FixtureRequest, layouts: list[tuple[int, int]]
):
    """Each but the last is killed after two steps."""
    whole = Run(config, "whole").train(1) if layouts[0][0] == 1 else request.getfixturevalue("replicas")
    moved, steps = Run(config, "moved"), 0
    for count, stage in layouts:
        resume, env = ["--resume"] if steps else [], zero(stage) if stage else {}
        steps += 2
        if steps < 8:
            moved.fall(count, steps, *resume, **env)
        else:
            moved.train(count, *resume, **env)
    assert_same_training(moved, whole, config)
