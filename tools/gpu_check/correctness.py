"""Losses of 50 steps on real scenes: the GPU's against the CPU's, and every mode's against fp32."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from unimatch import config as config_io
from unimatch.engine.build import build_trainer
from unimatch.engine.log import RunLog, read_metrics
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_data
from unimatch.engine.runtime import Runtime
from unimatch.packing.splits import draw_splits, write_split
from unimatch.packing.synthetic import write_synthetic
from unimatch.shardset.archive import ShardSet

from .results import Teller
from .workload import Mode, allow_tf32

STEPS = 50
STEPS_S, COMPILE_S = 8.0, 45.0  # that a mode may take
TINY = "test_efficientnet"  # the encoder of a rehearsal
# Every pseudo-label counts and the rate is small, so that rounding grows slowly.
RUN = """
out: {root}/{name}
data:
  shards: {root}/set
  labeled: {root}/split/labeled.txt
  unlabeled: {root}/split/unlabeled.txt
  workers: 2
batch: {{labeled: 4, unlabeled: 4}}
model:
  encoder: {{name: {encoder}, weights: none}}
  head: {{name: deeplabv3plus, channels: 32, low_channels: 16, rates: [1, 2, 3]}}
method: {{name: unimatch, threshold: 0, mix_partner: same}}
task: {{name: natural, views: {{crop: 65, device: {views}}}}}
optimizer: {{lr: 0.0003, head_lr_multiplier: 10}}
schedule: {{steps: {steps}}}
precision: {precision}
compile: {compile}
activation_checkpointing: {recompute}
log: {{every_steps: 1, pictures_every_steps: 0}}
checkpoint: {{every_steps: {steps}}}
"""
# Mode, what it is compared with, and how far a step's loss may be off, relatively, to be taken for rounding.
BOUNDS = (
    (Mode("fp32"), "cpu", 2e-3),
    (Mode("fp32 again"), "fp32", 1e-3),
    (Mode("recomputed", recompute=True), "fp32", 1e-3),
    (Mode("device views", views="accelerator"), "fp32", 5e-3),
    (Mode("tf32", tf32=True), "fp32", 1e-2),
    (Mode("bf16", precision="bf16"), "fp32", 5e-2),
    (Mode("fp16", precision="fp16"), "fp32", 5e-2),
    (Mode("compiled", compile=True), "fp32", 2e-3),
    (Mode("bf16, compiled", precision="bf16", compile=True), "fp32", 5e-2),
)


class _Losses(RunLog):
    """Keeps the loss of every step."""

    def __init__(self, out: Path) -> None:
        super().__init__(out, active=False, start_step=0, total_steps=0)
        self.losses: list[float] = []

    def record(self, kind: str, step: int, values, group=None) -> None:  # type: ignore[no-untyped-def]
        if kind == "train":
            self.losses.append(values["loss"])


def run(teller: Teller) -> None:
    steps = 2 if teller.rehearsal else STEPS
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_synthetic(root / "set", train=24, val=1, height=72, width=96, workers=1)
        write_split(draw_splits(ShardSet.open(root / "set"), "train", [6])[0], root / "split")
        on_cpu = _begin_on_cpu(root, steps) if torch.cuda.is_available() else None
        curves: dict[str, list[float]] = {}
        for mode, _, _ in BOUNDS:
            if teller.left_s < (COMPILE_S if mode.compile else STEPS_S):
                teller.tell(mode.name, note="not run: no time was left")
                continue
            try:
                curves[mode.name] = _curve(root, mode, steps, teller.rehearsal)
            except Exception as error:  # what one mode cannot do is a line, and the others follow
                teller.tell(mode.name, passed=False, note=f"{type(error).__name__}: {error}"[:500])
            if mode.name == "fp32":
                curves["cpu"] = _end_on_cpu(on_cpu, root) if on_cpu else curves["fp32"]
            for other, bound in [(other, bound) for own, other, bound in BOUNDS if own is mode]:
                if mode.name in curves and other in curves:
                    _compare(teller, curves, mode.name, other, bound)
        teller.put("curves", {name: [round(loss, 6) for loss in curve] for name, curve in curves.items()})


def _compare(teller: Teller, curves: dict[str, list[float]], mode: str, other: str, bound: float) -> None:
    apart = [abs(a - b) / abs(b) for a, b in zip(curves[mode], curves[other], strict=True)]
    figures = {"largest": max(apart), "mean": sum(apart) / len(apart), "first_step": apart[0], "bound": bound}
    teller.put(f"{mode} against {other}", figures, max(apart) <= bound)


def text_of(root: Path, mode: Mode, steps: int, encoder: str) -> str:
    return RUN.format(
        root=root,
        name=mode.name.replace(" ", "_").replace(",", ""),
        steps=steps,
        encoder=encoder,
        precision=mode.precision,
        views=mode.views,
        compile="inductor" if mode.compile else "off",
        recompute=str(mode.recompute).lower(),
    )


def _begin_on_cpu(root: Path, steps: int) -> subprocess.Popen[bytes]:
    """The same run in a process that sees no GPU, beside the first one that does."""
    (root / "cpu.yaml").write_text(text_of(root, Mode("cpu"), steps, "resnet18"))
    command = [sys.executable, "-m", "unimatch.train", "--config", str(root / "cpu.yaml")]
    return subprocess.Popen(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})


def _end_on_cpu(process: subprocess.Popen[bytes], root: Path) -> list[float]:
    if process.wait():
        raise RuntimeError("the run on the CPU failed")
    return [line["loss"] for line in read_metrics(root / "cpu", "train")]


def _curve(root: Path, mode: Mode, steps: int, rehearsal: bool) -> list[float]:
    """The loss of every step; each time with the same weights and samples."""
    if not torch.cuda.is_available():  # what only a GPU can do is rehearsed without
        mode = replace(mode, precision="fp32" if mode.precision == "fp16" else mode.precision, compile=False)
    config = config_io.from_text(text_of(root, mode, steps, TINY if rehearsal else "resnet18"), RunConfig)
    allow_tf32(mode.tf32)
    runtime = Runtime(config.precision)
    trainer, _ = build_trainer(config, open_data(config), runtime, resume=False)
    log = _Losses(config.out)
    trainer.train(log)
    runtime.release()
    torch.compiler.reset()
    return log.losses
