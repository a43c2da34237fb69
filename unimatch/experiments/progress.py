"""How far each run of an experiment is, and whose it is: a run is trained by one program at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from unimatch.engine import checkpoint
from unimatch.engine.log import evaluations
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_folder import IMPORTED, refuse_changes
from unimatch.engine.stages import last_run, stages_of
from unimatch.errors import UserError, of_system
from unimatch.shardset.index import INDEX_JSON

ATTEMPTS, PAUSE_S = 10, 0.1


@dataclass(frozen=True)
class Progress:
    """Of one run. Figures are fractions of the task's headline; None: not evaluated."""

    step: int = 0
    total: int | None = None  # None: it was not begun
    last: float | None = None  # of the last step, once it is finished
    best: float | None = None  # over all evaluations of a finished run: chosen in hindsight
    best_step: int | None = None
    problem: str | None = None  # why its figures do not count
    stage: str | None = None  # which one it is in

    @property
    def finished(self) -> bool:
        done = self.total is not None and self.step >= self.total
        return done and self.problem is None and self.stage is None

    @property
    def begun(self) -> bool:
        return self.total is not None

    def __str__(self) -> str:
        if self.problem is not None:
            return f"unusable: {self.problem}"
        if self.finished:
            return "finished"
        stage = "" if self.stage is None else f"{self.stage}, "
        return f"{stage}step {self.step} of {self.total}" if self.begun else "not begun"


def progress_of(config: RunConfig) -> Progress:
    """How far the run in `config.out` is. What stands there must be this run and not another one. After
    stages it is the last of its runs; before that, the first that is not finished.
    """
    for stage in stages_of(config):
        if not (stage.labels / INDEX_JSON).exists():
            found = progress_of(stage.config)
            return Progress(found.step, found.total, problem=found.problem, stage=stage.config.out.name)
    config = last_run(config)
    folder = checkpoint.last_checkpoint(config.out)
    try:
        if folder is not None or (config.out / "config.yaml").exists():
            refuse_changes(config)
        if folder is None:
            return Progress()
        if (config.out / IMPORTED).exists():
            return Progress(problem="it holds imported weights, and was not trained here")
        state = checkpoint.load_state(folder)
        curve = evaluations(config.out)
    except UserError as error:
        return Progress(problem=" ".join(str(error).split()))
    if state.total is None or state.step < state.total:
        return Progress(state.step, state.total)
    figures = [(line[state.headline], line["step"]) for line in curve if line[state.headline] is not None]
    last = [value for value, step in figures if step == state.total]
    best, best_step = max(figures, default=(None, None))
    return Progress(state.step, state.total, last[0] if last else None, best, best_step)


@contextmanager
def claimed(config: RunConfig) -> Iterator[bool]:
    """Whether the run is this program's, until the end; a killed program holds nothing."""
    path = config.out.parent / f".{config.out.name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(
            f"{path.parent} is to hold the run folders ({of_system(error)}): name another folder with --out"
        ) from error
    try:
        yield _locked(number)
    finally:
        os.close(number)


def _locked(number: int) -> bool:
    """Whether the file could be locked. `status` holds such locks for an instant, which is waited for."""
    for _ in range(ATTEMPTS):
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PAUSE_S)
        else:
            return True
    return False
