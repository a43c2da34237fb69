"""What the folder of a run says by itself: its settings, figures over steps, cost and origin."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unimatch.config import dump
from unimatch.engine import checkpoint
from unimatch.engine.checkpoint import TrainerState
from unimatch.engine.log import evaluations, read_metrics
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_folder import IMPORTED, read_config, settings_hash
from unimatch.engine.step_log import over_steps
from unimatch.errors import UserError
from unimatch.tasks import TASKS

Line = dict[str, Any]
SOFTWARE = {"commit", "sources", "machine", "command"}  # of env.json; everything else is a version
POINTS = 200  # of a curve of logged steps; a longer one is thinned


@dataclass(frozen=True)
class RunFiles:
    """A run's folder, read once. What the run did not write is empty or None."""

    folder: Path
    name: str
    config: RunConfig
    state: TrainerState | None  # of the newest checkpoint
    environment: Mapping[str, Any]
    steps: Sequence[Line]  # the logged ones
    curve: Sequence[Line]  # evaluations of the headline network
    pseudo: Sequence[Line]  # how good pseudo-labels were, at each evaluation

    @cached_property
    def headline(self) -> str:
        """The figure by which runs of this task are compared."""
        return TASKS[self.config.task.name].cls.headline

    @property
    def done(self) -> int:
        """Optimiser steps that the log knows of."""
        told = [lines[-1]["step"] for lines in (self.steps, self.curve) if lines]
        return int(max(told, default=0 if self.state is None else self.state.step))

    @property
    def total(self) -> int | None:
        """Optimiser steps that were asked for; None: nothing says it."""
        told = None if self.state is None else self.state.total
        return self.config.schedule.steps if told is None else told

    @property
    def is_finished(self) -> bool:
        """Whether its last step has been done and saved."""
        return self.state is not None and self.state.step == self.total

    def described(self) -> Line:
        """For JSON: what it is and where it is from. Secrets stay masked, as the run wrote them."""
        command = self.environment.get("command")
        return {
            "name": self.name,
            "folder": str(self.folder),
            "task": self.config.task.name,
            "method": self.config.method.name,
            "encoder": self.config.model.encoder.name,
            "seed": self.config.seed,
            "done": self.done,
            "total": self.total,
            "command": None if command is None else shlex.join(["unimatch", *_arguments(command)]),
            "config": dump(self.config),
            "settings": settings_hash(self.config),
            "lists": {} if self.state is None else self.state.splits,
            "code": {name: self.environment.get(name) for name in sorted(SOFTWARE - {"command"})},
            "versions": {name: text for name, text in self.environment.items() if name not in SOFTWARE},
        }

    def cost(self) -> Line | None:
        """For JSON: seconds, images a second, the share of the time that steps wait for data, GiB at most;
        None: no step was logged.
        """
        if not self.steps:
            return None
        seconds = over_steps(self.steps, lambda line: float(line["step_s"]))
        if not seconds:
            return None
        whole = read_metrics(self.folder, "eval")

        def mean(name: str) -> float:
            return over_steps(self.steps, lambda line: line[name] * line["step_s"]) / seconds

        has_cpu = all("cpu_s" in line for line in self.steps)
        return {
            "steps_s": seconds,
            "cpu_s": over_steps(self.steps, lambda line: float(line["cpu_s"])) if has_cpu else None,
            "evaluation_s": sum(line.get("seconds", 0.0) for line in whole),
            "images_per_s": mean("images_per_s"),
            "data_wait": mean("data_wait"),
            "memory_gib": max(line["memory_gib"] for line in self.steps),
            "world": None if self.state is None else self.state.world,
        }

    def over_steps(self, name: str) -> list[list[float]]:
        """[[step, value]] of one figure of the logged steps, at most POINTS, the last one among them."""
        known = [line for line in self.steps if isinstance(line.get(name), float | int)]
        found = [[line["step"], line[name]] for line in known if math.isfinite(line[name])]
        every = max(1, -(-len(found) // POINTS))
        return found[::-1][::every][::-1]


def read_run(folder: Path, name: str) -> RunFiles:
    """UserError: not a run's folder, or a damaged line in its log."""
    config = read_config(folder)
    last = checkpoint.last_checkpoint(folder)
    logged = (folder / "metrics.jsonl").exists()
    environment = folder / "env.json"
    return RunFiles(
        folder,
        name,
        config,
        None if last is None else checkpoint.load_state(last),
        json.loads(environment.read_text()) if environment.exists() else {},
        read_metrics(folder, "train") if logged else [],
        evaluations(folder),
        read_metrics(folder, "pseudo_labels") if logged else [],
    )


def named(folders: Sequence[Path]) -> list[str]:
    """A name for each run: that of its folder, or its whole path where two folders have one name."""
    names = [folder.resolve().name for folder in folders]
    return [str(folder) for folder in folders] if len(set(names)) < len(names) else names


def require_evaluated(run: RunFiles) -> None:
    """UserError if it has no figures."""
    if run.curve:
        return
    imported = run.folder / IMPORTED
    if imported.exists():
        file, config = (
            shlex.quote(str(path))
            for path in (json.loads(imported.read_text())["file"], run.folder / "config.yaml")
        )
        raise UserError(
            f"{run.folder} was imported and never evaluated, so there are no figures to compare; import it "
            f"again:\n  unimatch import {file} --config {config} --evaluate --out FOLDER"
        )
    if not (run.folder / "metrics.jsonl").exists():
        raise UserError(f"{run.folder} is not a run folder: it has no metrics.jsonl")
    raise UserError(f"{run.folder} was never evaluated: set data.val in its configuration")


def _arguments(command: Sequence[str]) -> list[str]:
    """Of `unimatch`: the program's name stands for its path."""
    program, *arguments = command
    name = Path(program).stem
    return arguments if name in ("unimatch", "__main__") else [name, *arguments]
