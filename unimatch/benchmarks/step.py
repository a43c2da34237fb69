"""What a step costs on the host besides forward and backward: Python, small tensors, messages.

The network does almost no work, and the whole trainer runs: loader, agreement between processes, copies,
optimiser, teacher. Milliseconds are CPU time of the training thread, which a busy machine changes little;
waiting for messages is not in them. Counted are the messages of a step besides DDP's own of gradients.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from unimatch import config as config_io
from unimatch.engine.build import build_trainer
from unimatch.engine.log import RunLog
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_data
from unimatch.engine.runtime import Runtime
from unimatch.engine.timing import Timed
from unimatch.engine.trainer import Trainer
from unimatch.packing.splits import draw_splits, write_split
from unimatch.packing.synthetic import write_synthetic
from unimatch.scaling.spawn import Job, run_all
from unimatch.shardset.archive import ShardSet

WARM_UP = 20  # steps that do not count
MESSAGES = ("all_reduce", "all_gather", "all_gather_object", "broadcast", "barrier")
METHODS = {
    "unimatch": "optimizer: {name: sgd, lr: 1e-4}",
    "unimatch_v2": "optimizer: {name: adamw, lr: 1e-6}",
}
RUN = """
out: {root}/run
data:
  {{shards: {root}/set, labeled: {root}/split/labeled.txt, unlabeled: {root}/split/unlabeled.txt, workers: 1}}
batch: {{labeled: 16, unlabeled: 16, max_per_device: {most}}}
model:
  encoder: {{name: test_efficientnet, weights: none}}
  head: {{name: deeplabv3plus, channels: 16, low_channels: 8, rates: [1, 2, 3]}}
method: {{name: {method}, mix_partner: same}}
task: {{name: natural, views: {{crop: 16}}}}
sync_batchnorm: "off"
schedule: {{steps: {steps}}}
log: {{every_steps: {steps}, pictures_every_steps: 0}}
checkpoint: {{every_steps: {steps}}}
{optimizer}
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="(%(default)s)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="(%(default)s)")
    parser.add_argument(
        "--micro-batches", type=int, nargs="+", default=[1, 2, 4], help="a step of a process (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=100, help="that count, a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="times each case is measured (%(default)s)")


def write_set(root: Path) -> None:
    """Synthetic scenes as shards in `root`/set, 16 of 64 labelled by `root`/split."""
    write_synthetic(root / "set", train=64, val=1, height=48, width=64, workers=1)
    write_split(draw_splits(ShardSet.open(root / "set"), "train", [16])[0], root / "split")


def run(options: argparse.Namespace) -> str:
    """Markdown: a row for each method, number of processes and number of micro-batches."""
    cases = [
        (method, processes, micros)
        for method in options.methods
        for processes in options.processes
        for micros in options.micro_batches
    ]
    found: dict[tuple[str, int, int], list[dict[str, float]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory(prefix="unimatch-bench-") as scratch:
        root = Path(scratch)
        write_set(root)
        for _ in range(options.rounds):
            for method, processes, micros in cases:
                steps = WARM_UP + options.steps
                most = 32 // processes // micros
                text = RUN.format(root=root, most=most, method=method, steps=steps, optimizer=METHODS[method])
                (root / "run.yaml").write_text(text)
                # With its own path: the package may be a clone's that is not installed.
                job = Job(processes, ["-m", "unimatch.benchmarks.step", str(root / "run.yaml")], {})
                (told,) = run_all([job], timeout_s=600)
                found[method, processes, micros] += json.loads(told.splitlines()[-1])
    return _table(found)


def _table(found: dict[tuple[str, int, int], list[dict[str, float]]]) -> str:
    columns = ("host", "to_device", "update", "after_update", "rest", "messages", "passes", "wall")
    lines = [
        "| method | processes | micro-batches | host ms | to the device | update | teacher | the rest | "
        "messages | forward and backward ms | step ms by wall time |",
        "| --- |" + " ---: |" * 10,
    ]
    for (method, processes, micros), steps in found.items():
        cells = [f"{statistics.median(step[name] for step in steps):.3g}" for name in columns]
        lines.append("| " + " | ".join([method, f"{processes}", f"{micros}", *cells]) + " |")
    return "\n".join(lines)


class _OwnTime(Timed):
    """The seconds of a layout's calls that this thread computed, not those that it waited."""

    def _now(self) -> float:
        return time.thread_time()

    @property
    def seconds(self) -> dict[str, float]:
        return dict(self._seconds)


class Marks(RunLog):
    """Notes the clocks after every step, and writes nothing."""

    def __init__(self, out: Path, read: Callable[[], dict[str, float]]) -> None:
        super().__init__(out, active=False, start_step=0, total_steps=0)
        self._read = read
        self.marks: list[dict[str, float]] = []

    def progress(self, step: int) -> None:
        self.marks.append(self._read())


def measured(trainer: Trainer) -> list[dict[str, float]]:
    """Trains to the end; of each step after the first ones, milliseconds by part, and messages."""
    spent = {"to_device": 0.0, "after_update": 0.0}
    sent = {"messages": 0}

    def timed(owner: Any, name: str) -> None:
        call = getattr(owner, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            result = call(*args, **kwargs)
            spent[name] += time.thread_time() - began
            return result

        setattr(owner, name, wrapper)

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            sent["messages"] += 1
            return call(*args, **kwargs)

        return wrapper

    timed(trainer.task, "to_device")
    timed(trainer.method, "after_update")
    layout = _OwnTime(trainer._layout, trainer.runtime.device)
    trainer._layout = layout

    def read() -> dict[str, float]:
        clocks = {"thread": time.thread_time(), "wall": time.perf_counter(), **layout.seconds, **spent}
        return {**{name: 1e3 * value for name, value in clocks.items()}, **sent}

    log = Marks(trainer.config.out, read)
    plain = {name: getattr(dist, name) for name in MESSAGES}
    try:
        for name, call in plain.items():
            setattr(dist, name, counted(call))
        trainer.train(log)
    finally:
        for name, call in plain.items():
            setattr(dist, name, call)
    # The last step also writes a log line and a checkpoint.
    marks = log.marks[WARM_UP:-1]
    return [_parts(before, after) for before, after in itertools.pairwise(marks)]


def _parts(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What happened between two marks; `host`: all but forward and backward."""
    part = {name: after[name] - before[name] for name in after}
    passes = part["forward_s"] + part["backward_s"]
    host = part["thread"] - passes
    rest = host - part["to_device"] - part["update_s"] - part["after_update"]
    return {**part, "passes": passes, "host": host, "update": part["update_s"], "rest": rest}


def _train(path: str) -> None:
    config = config_io.load(path, RunConfig)
    runtime = Runtime()
    trainer, _ = build_trainer(config, open_data(config), runtime, resume=False)
    steps = measured(trainer)
    if runtime.is_main:
        print(json.dumps(steps))
    runtime.close()


if __name__ == "__main__":
    _train(sys.argv[1])
