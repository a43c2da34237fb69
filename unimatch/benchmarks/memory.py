"""What a step takes of memory: measured in a process of its own, beside what `unimatch plan` says of it.

The whole trainer runs, on synthetic scenes. Measured is by how much the most memory that the process held in
a step is above what it held after some steps of a tiny network, with which Python, libraries and kernels have
come in.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from unimatch import config as config_io
from unimatch.benchmarks.step import Marks, write_set
from unimatch.engine.build import build_trainer
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_data
from unimatch.engine.runtime import Runtime
from unimatch.errors import UserError
from unimatch.models.vit import is_vit
from unimatch.scaling.cost import human
from unimatch.scaling.forecast import forecast
from unimatch.scaling.pace import OPERATIONS_S
from unimatch.scaling.spawn import Job, run_all

STEPS = 5  # the last one also saves, and does not count
SETTINGS = {
    "as it is": (),
    "model.encoder.freeze=true": ("model.encoder.freeze=true",),
    "activation_checkpointing=true": ("activation_checkpointing=true",),
    "compile=eager": ("compile=eager",),
    "both of the last": ("activation_checkpointing=true", "compile=eager"),
    "model.encoder.drop_path=0.1": ("model.encoder.drop_path=0.1",),
    "batch.max_per_device=4": ("batch.max_per_device=4",),
}
RUN = """
out: {root}/run
data:
  {{shards: {root}/set, labeled: {root}/split/labeled.txt, unlabeled: {root}/split/unlabeled.txt, workers: 1}}
batch: {{labeled: {size}, unlabeled: {size}}}
model:
  encoder: {{name: {encoder}, weights: "{weights}"}}
  head: {{name: {head}}}
method: {{name: {method}}}
task: {{name: natural, views: {{crop: {crop}}}, evaluate: {{mode: sliding, border: inside}}}}
optimizer: {{name: adamw, lr: 1e-6}}
schedule: {{steps: {steps}}}
log: {{every_steps: {steps}, pictures_every_steps: 0}}
checkpoint: {{every_steps: {steps}}}
"""
# Freed memory goes back at once, so that what is held is what is in use: blocks of this size are mapped.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--encoder", default="vit_small_patch14_dinov2", help="its name (%(default)s)")
    parser.add_argument("--weights", default="none", help="its first ones, as in a run (%(default)s)")
    parser.add_argument("--head", default="dpt", help="its name (%(default)s)")
    parser.add_argument("--method", default="unimatch_v2", help="its name (%(default)s)")
    parser.add_argument("--crop", type=int, default=252, help="side of the crops (%(default)s)")
    parser.add_argument("--size", type=int, default=4, help="images of either kind (%(default)s)")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))


@dataclass(frozen=True)
class Taken:
    """Bytes of a run: the plan's, for one device, and those of its process."""

    state: float  # weights, gradients, the optimiser's state, a teacher
    activations: float
    measured: float

    @property
    def planned(self) -> float:
        return self.state + self.activations


def run(options: argparse.Namespace) -> str:
    """Markdown: a row for each setting."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="unimatch-bench-") as scratch:
        root = Path(scratch)
        write_set(root)
        for index, name in enumerate(dict.fromkeys(["as it is", *options.settings])):
            text = RUN.format(root=root, steps=STEPS, **vars(options)).replace("/run\n", f"/run{index}\n")
            (root / "run.yaml").write_text(text)
            found[name] = _taken(root / "run.yaml", SETTINGS[name])
    return _table(found)


def _table(found: dict[str, Taken]) -> str:
    lines = [
        "| setting | planned: state | planned: activations | planned | measured | plan over measured, less 1 "
        "| planned change | measured change |",
        "| --- |" + " ---: |" * 7,
    ]
    base = next(iter(found.values()))
    for name, one in found.items():
        sizes = (one.state, one.activations, one.planned, one.measured)
        cells = [human(size) for size in sizes] + [f"{one.planned / one.measured - 1:+.1%}"]
        changes = (one.planned - base.planned, one.measured - base.measured)
        cells += ["" if one is base else human(size) for size in changes]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _taken(path: Path, settings: tuple[str, ...]) -> Taken:
    config = config_io.load(path, RunConfig, settings)
    plan = forecast(config, 1, 1e15, OPERATIONS_S)
    args = ["-m", "unimatch.benchmarks.memory", str(path), *settings]
    (told,) = run_all([Job(1, args, ALLOCATOR)], timeout_s=1800)
    measured = json.loads(told.splitlines()[-1])
    return Taken(plan.modes[0].memory.state, plan.activations.of(plan.samples / plan.accumulation), measured)


class Peak:
    """The memory of this process, as Linux counts it."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forgets the largest figure so far."""
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError as error:
            raise UserError(f"memory is measured as Linux counts it, which this is not ({error})") from error

    @property
    def now(self) -> float:
        """Bytes that the process holds."""
        return self._field("VmRSS")

    @property
    def most(self) -> float:
        """The most bytes that it held since `restart`."""
        return self._field("VmHWM")

    @staticmethod
    def _field(name: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        kib = next(line.split()[1] for line in lines if line.startswith(f"{name}:"))
        return 1024 * float(kib)


def measured(config: RunConfig, runtime: Runtime, peak: Peak) -> float:
    """Bytes that the process held at most in the steps after the first two."""
    trainer, _ = build_trainer(config, open_data(config), runtime, resume=False)

    def read() -> dict[str, float]:
        most = peak.most
        peak.restart()
        return {"most": most}

    log = Marks(config.out, read)
    trainer.train(log)
    runtime.release()
    return max(mark["most"] for mark in log.marks[2:-1])


def _train(path: str, settings: list[str]) -> None:
    peak = Peak()
    config = config_io.load(path, RunConfig, settings)
    tiny = "test_vit" if is_vit(config.model.encoder.name) else "test_efficientnet"
    first = ("model.encoder.weights=none", f"model.encoder.name={tiny}", "task.views.crop=64")
    runtime = Runtime(config.precision)
    measured(config_io.load(path, RunConfig, [*settings, *first]), runtime, peak)
    gc.collect()
    before = peak.now
    print(json.dumps(measured(config, runtime, peak) - before))
    runtime.close()


if __name__ == "__main__":
    _train(sys.argv[1], sys.argv[2:])
