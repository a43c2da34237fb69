"""Short trainings of real processes on this machine, and what their steps take."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, get_args

import torch

from unimatch.engine import modes
from unimatch.engine.log import read_metrics
from unimatch.errors import UserError
from unimatch.scaling import spawn
from unimatch.scaling.calibrate import Exchange, Kind, Measured, Parts, log_spread
from unimatch.scaling.step_time import Mode

MESSAGES = (1024, 65536, 1048576, 16777216)  # bytes of the timed messages


class ShortRuns:
    """Starts the short runs; what single processes take is measured once a micro-batch."""

    def __init__(
        self,
        config: Path,
        overrides: Sequence[str],
        paired: bool,
        folder: Path,
        settings: Path,
        steps: int,
        warm_up: int,
        timeout_s: float,
    ) -> None:
        """config, overrides: of the run; paired: it has unlabelled batches; folder: for run folders, emptied;
        settings: the folder of zero1.json, zero2.json, zero3.json; warm_up: first steps that do not count."""
        self.config = config
        self.overrides = overrides
        self.paired = paired
        self.folder = folder
        self.settings = settings
        self.steps = steps
        self.warm_up = warm_up
        self.timeout_s = timeout_s
        self._alone: dict[tuple[Any, ...], tuple[Parts, float, float]] = {}

    def measure(
        self, precision: str, count: int, mode: Mode, labeled: int, unlabeled: int, kinds: tuple[str, ...]
    ) -> Measured:
        """One case. UserError with what a process said if it fails."""
        if labeled % count or unlabeled % count:
            raise UserError(f"the batch does not divide by {count}")
        share = (labeled // count, unlabeled // count)
        key = (precision, count, *share)
        if key not in self._alone:
            outs = [self.folder / f"alone{index}" for index in range(count)]
            self._train([1] * count, outs, precision, *share, {})
            self._alone[key] = self._figures(outs[0])
        alone = self._alone[key][0]
        parts, spread, memory = self._alone[key]
        if (mode, count) != ("ddp", 1):
            out = self.folder / "together"
            self._train([count], [out], precision, labeled, unlabeled, self._launch(mode))
            parts, spread, memory = self._figures(out)
        return Measured(mode, precision, count, labeled, unlabeled, parts, alone, spread, memory, kinds)

    def _launch(self, mode: Mode) -> dict[str, str]:
        """The variables by which a launch asks for a mode."""
        if mode == "ddp":
            return {}
        if mode == "fsdp":
            return {modes.FSDP: "true", "FSDP_VERSION": "2"}
        return {modes.ZERO: "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(self.settings / f"{mode}.json")}

    def _train(
        self,
        counts: list[int],
        outs: list[Path],
        precision: str,
        labeled: int,
        unlabeled: int,
        env: dict[str, str],
    ) -> None:
        """One job for each of `counts`, all at the same time."""
        shutil.rmtree(self.folder, ignore_errors=True)
        steps = self.steps
        jobs = []
        for index, (count, out) in enumerate(zip(counts, outs, strict=True)):
            settings = [
                *self.overrides,
                f"out={out}",
                f"precision={precision}",
                f"batch.labeled={labeled}",
                # Without a burn-in, whose steps cost less than those that follow it.
                *([f"batch.unlabeled={unlabeled}", "method.burn_in=0"] if self.paired else []),
                f"schedule={{steps: {steps}}}",
                "data.val=null",
                "log={every_steps: 1, pictures_every_steps: 0, timing: true}",
                f"checkpoint.every_steps={steps}",
            ]
            sets = [part for setting in settings for part in ("--set", setting)]
            # Those that run alone at the same time share what GPUs there are.
            cards = torch.cuda.device_count() if len(counts) > 1 else 0
            own = {"CUDA_VISIBLE_DEVICES": str(index % cards)} if cards else {}
            args = ["-m", "unimatch.train", "--config", str(self.config), *sets]
            jobs.append(spawn.Job(count, args, {**env, **own}))
        spawn.run_all(jobs, self.timeout_s)

    def _figures(self, out: Path) -> tuple[Parts, float, float]:
        """Parts of a step, the spread of its time, and GiB; removes the run folder."""
        lines = read_metrics(out, "train")[self.warm_up :]
        shutil.rmtree(self.folder)
        values = [
            (line["step_s"], line["step_s"] * line["data_wait"])
            + tuple(line[name] for name in ("forward_s", "backward_s", "update_s"))
            for line in lines
        ]
        parts = Parts(*(median(column) for column in zip(*values, strict=True)))
        spread = log_spread([step - data for step, data, *_ in values])
        return parts, spread, lines[-1]["memory_gib"]


def time_messages(count: int, timeout_s: float) -> list[Exchange]:
    """Messages of processes that do nothing else."""
    args = ["-m", "unimatch.scaling.messages", *map(str, MESSAGES)]
    (text,) = spawn.run_all([spawn.Job(count, args, {})], timeout_s)
    found = []
    for kind in get_args(Kind):
        lines = [line.split() for line in text.splitlines() if line.startswith(f"{kind} ")]
        found += [Exchange(count, int(size), float(seconds), kind) for _, size, seconds in lines]
    return found
