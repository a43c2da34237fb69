"""Several runs of an experiment at a time: each in a process of its own that computes with one thread."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from unimatch.experiments.definition import Run
from unimatch.experiments.progress import progress_of
from unimatch.experiments.size import steps_of

POLL_S = 0.5
TAIL = 1 << 16  # bytes of a log that hold its last line


@dataclass
class Job:
    """A run that is training."""

    run: Run
    process: subprocess.Popen[bytes]
    bar: Any  # of its slot


class SideBySide:
    """Trains runs, `jobs` at a time. What a run says goes into a file beside its folder, NAME.log; here there
    is a bar for all steps and one for each slot, or, where the output is no terminal, a line when a run
    begins or ends.
    """

    def __init__(self, module: str, arguments: Sequence[str], jobs: int) -> None:
        """Each run is `python -m MODULE ARGUMENTS --only NUMBER`."""
        self._command = [sys.executable, "-m", module, *arguments]
        self._running: dict[int, Job] = {}  # by slot
        self._jobs = jobs
        self._signal: int | None = None

    def train(self, runs: Sequence[Run]) -> list[str]:
        """Those that are not finished, to their end; which ones failed, a line each.

        SystemExit: a signal, which the runs got too, and saved.
        """
        left = [one for one in runs if not progress_of(one.config).finished]
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        steps = sum(steps_of(one.config) or 0 for one in left)
        self._all = tqdm(total=steps, unit="step", desc=f"{len(left)} runs", position=0, disable=None)
        self._done, failed = 0, []
        try:
            while self._running or (left and self._signal is None):
                for slot in range(self._jobs):
                    if slot not in self._running and left and self._signal is None:
                        self._start(slot, left.pop(0))
                time.sleep(POLL_S)
                failed += self._look()
        finally:
            self._all.close()
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._signal is not None:
            sys.exit(128 + self._signal)
        return failed

    def _start(self, slot: int, run: Run) -> None:
        run.config.out.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with log_of(run).open("ab") as log:
            process = subprocess.Popen(
                [*self._command, "--only", str(run.number)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C comes through this process, once
            )
        total = steps_of(run.config)
        bar = tqdm(total=total, unit="step", desc=run.name, position=1 + slot, leave=False, disable=None)
        self._running[slot] = Job(run, process, bar)
        self._say(f"run {run.number}, {run.name}: training")

    def _look(self) -> list[str]:
        """Moves the bars; the runs that have failed since."""
        failed = []
        for slot, job in list(self._running.items()):
            status = job.process.poll()
            step = last_step(job.run.config.out)
            if not self._all.disable:
                job.bar.update(step - job.bar.n)
            if status is None:
                continue
            job.bar.close()
            del self._running[slot]
            self._done += step
            told = str(progress_of(job.run.config)) if not status else f"status {status}"
            self._say(f"run {job.run.number}, {job.run.name}: {told}")
            if status and self._signal is None:
                place = f"run {job.run.number} ({job.run.config.out})"
                failed.append(f"{place}: status {status}; {log_of(job.run)} tells why")
        if not self._all.disable:
            steps = self._done + sum(last_step(job.run.config.out) for job in self._running.values())
            self._all.update(steps - self._all.n)
        return failed

    def _say(self, text: str) -> None:
        if self._all.disable:
            print(text, flush=True)
        else:
            self._all.write(text)

    def _stop(self, number: int, _: FrameType | None) -> None:
        self._signal = number
        for job in self._running.values():
            job.process.send_signal(signal.SIGTERM)


def log_of(run: Run) -> Path:
    """Where a run that is one of several at a time leaves its output."""
    return run.config.out.with_name(f"{run.name}.log")


def last_step(folder: Path) -> int:
    """The step of the last whole line of a run's metrics; 0: there is none yet."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().splitlines()[-2:]  # the last one may be half written
            return max(int(json.loads(line)["step"]) for line in lines if _whole(line))
    except (OSError, ValueError):
        return 0


def _whole(line: bytes) -> bool:
    return line.startswith(b"{") and line.endswith(b"}")
