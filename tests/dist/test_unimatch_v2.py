"""UniMatch V2 with a vision transformer, the DPT head and unlabelled images of two shard sets: any processes,
any layout, after any kill.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.conftest import tiny_run_text
from tests.dist.test_training import AT_ONCE, Run
from tests.dist.test_zero import assert_same_weights, beginning, end, zero
from tests.support.launches import fsdp
from unimatch.packing.synthetic import write_synthetic

MORE = "{{samples: train, shards: {}/more, weight: 0.9}}"
HEAD = "head: {name: dpt, channels: 8, levels_channels: [8, 8, 8, 8]}"


@pytest.fixture(scope="module")
def config(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps in which every pixel's pseudo-label counts, at a rate that amplifies no rounding."""
    folder = tmp_path_factory.mktemp("v2")
    text = tiny_run_text(folder / "run", tiny_shards)
    write_synthetic(
        folder / "more", train=7, val=1, height=56, width=52, seed=9
    )  # more than a pass in six steps
    split = f"{tiny_shards.parent}/split/unlabeled.txt"
    for old, new in (
        (f"unlabeled: {split}", f"unlabeled: [{{samples: {split}, weight: 0.6}}, {MORE.format(folder)}]"),
        ("name: test_efficientnet, weights: none, output_stride: 16}", "name: test_vit, weights: none}"),
        ("head: {name: deeplabv3plus, channels: 32}", HEAD),
        ("method: {name: unimatch}", "method: {name: unimatch_v2, threshold: 0, ema_decay: 0.7}"),
        ("views: {crop: 48}", "views: {crop: 48}\n  evaluate: {multiple_of: 16}"),
        ("lr: 0.01", "name: adamw, lr: 1e-5, head_lr_multiplier: 40, clip_norm: 5.0"),
        ("clip_norm: 5.0", "clip_norm: 5.0, layer_decay: 0.9, decay: matrices"),
        ("steps: 20", "steps: 6"),
        ("evaluation: {every_steps: 10", "evaluation: {every_steps: 3"),
        ("checkpoint: {every_steps: 10", "checkpoint: {every_steps: 3"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    path = folder / "run.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def double(config: Path) -> Run:
    return Run(config, "double").train(2)


def assert_same_steps(ours: Run, theirs: Run, config: Path) -> None:
    assert len(ours.losses) == 6
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-4)
    assert all(line["kept"] > 0.99 and line["loss_s2"] > 0 for line in ours.lines())
    for name in ("ema", "model"):
        assert_same_weights(ours, theirs, config, name)


def assert_same_run(ours: Run, theirs: Run, config: Path) -> None:
    assert_same_steps(ours, theirs, config)
    for mine, other in zip(ours.lines("eval"), theirs.lines("eval"), strict=True):
        assert mine["miou"] == pytest.approx(other["miou"], abs=2e-3)


def test_two_processes_draw_the_curve_of_one_and_micro_batches_that_of_two(config: Path, double: Run):
    assert_same_run(Run(config, "single").train(1), double, config)
    assert_same_run(Run(config, "micro", "batch.max_per_device=4").train(1), double, config)


def test_killed_and_resumed_equals_never_stopped_to_the_last_bit(config: Path, double: Run):
    run = Run(config, "killed", AT_ONCE)
    run.stop(2, 5, signal.SIGKILL)
    assert run.saved_step == 3
    run.train(2, "--resume")
    assert run.lines() == double.lines() and run.lines("eval") == double.lines("eval")
    for name in ("ema", "model"):
        ours, theirs = end(run, name), end(double, name)
        assert all(ours[key].equal(theirs[key]) for key in theirs)


def test_every_layout_trains_the_same_student_and_teacher(config: Path, double: Run):
    """ZeRO-3 to a kill, then FSDP, then ZeRO-2, then ZeRO-1."""
    run = Run(config, "layouts", "checkpoint.every_steps=1")
    run.fall(2, 1, **zero(3))
    run.fall(2, 4, "--resume", **fsdp())
    run.fall(2, 5, "--resume", **zero(2))
    run.train(2, "--resume", **zero(1))
    assert_same_run(run, double, config)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_frozen_encoder_stays_as_it_was(config: Path, stage: int):
    settings = ("model.encoder.freeze=true", "optimizer.layer_decay=1", "schedule.steps=2", "data.val=null")
    run = Run(config, f"frozen{stage}", *settings).train(2, **(zero(stage) if stage else {}))
    found, start = end(run), beginning(config)
    moved = {key.split(".")[0] for key in start if not found[key].equal(start[key])}
    assert moved == {"head"}


def test_blocks_that_are_computed_again_and_compiled_train_the_same(config: Path, double: Run):
    """Without evaluations: images of other sizes would be compiled for anew."""
    settings = ("activation_checkpointing=true", "compile=eager", "data.val=null")
    run = Run(config, "again", *settings).train(1)
    assert not run.lines("eval")
    assert_same_steps(run, double, config)
