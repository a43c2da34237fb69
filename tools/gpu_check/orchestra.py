"""Runs the parts, each as a process of its own with a limit of its own, and reports after each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from . import report
from .parts import Part
from .results import read

GRACE_S = 5.0  # between the time when a part should begin nothing new and its end by force
TAIL = 12  # lines of a failed part's output that the report shows


@dataclass
class Ended:
    """How a part ended."""

    part: Part
    status: str  # "done", "failed", "stopped at its limit", "no time was left"
    seconds: float
    tail: list[str]


@dataclass
class _Running:
    part: Part
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    path: Path
    began: float  # on the clock of files
    until: float  # on time.monotonic's clock, as all limits here: sleep of the machine is not counted

    def ended(self, status: str) -> Ended:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # data workers and what a part has started
        self.process.wait()
        self.log.close()
        # Those that run beside others ended before they were waited for: when they wrote last.
        seconds = max(0.0, self.path.stat().st_mtime - self.began)
        lines = self.path.read_text(errors="replace").splitlines()
        tail = [] if status == report.DONE else [line for line in lines if line.strip()][-TAIL:]
        return Ended(self.part, status, seconds, tail)


def play(parts: list[Part], out: Path, rehearsal: bool, total_s: float, machine: dict[str, str]) -> bool:
    """Runs the parts and writes the report; whether all ended by themselves and found nothing wrong."""
    end = time.monotonic() + total_s
    endings: list[Ended] = []
    turn = time.monotonic()
    beside = [_begin(part, out, rehearsal, min(end, turn + part.limit_s)) for part in parts if part.beside]
    for part in parts:
        if part.beside:
            continue
        turn += part.limit_s  # what the ones before have left is this one's
        until = min(turn, end)
        if until - time.monotonic() < GRACE_S:
            endings.append(Ended(part, "no time was left", 0.0, []))
            continue
        endings.append(_wait(_begin(part, out, rehearsal, until)))
        report.write(out, machine, endings, read(out), rehearsal)
    endings = [*(_wait(one) for one in beside), *endings]
    _join_logs(out, parts)
    return report.write(out, machine, endings, read(out), rehearsal)


def command(part: Part, out: Path, rehearsal: bool, until: float) -> list[str]:
    """Of the process that runs one part; `until`: when it should begin nothing new."""
    found = [sys.executable, "-m", "gpu_check", str(out), "--inside", part.name, "--until", str(until)]
    return [*found, "--rehearse"] if rehearsal else found


def _begin(part: Part, out: Path, rehearsal: bool, until: float) -> _Running:
    path = out / f"{part.name}.log"
    log = path.open("wb")
    process = subprocess.Popen(
        command(part, out, rehearsal, until - GRACE_S),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    return _Running(part, process, log, path, time.time(), until)


def _wait(one: _Running) -> Ended:
    try:
        code = one.process.wait(max(0.0, one.until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return one.ended("stopped at its limit")
    return one.ended(report.DONE if code == 0 else f"failed with exit status {code}")


def _join_logs(out: Path, parts: list[Part]) -> None:
    """One file in place of one a part: some machines give back few files."""
    with (out / "log.txt").open("wb") as whole:
        for part in parts:
            path = out / f"{part.name}.log"
            if path.exists():
                whole.write(f"===== {part.name} =====\n".encode() + path.read_bytes() + b"\n")
                path.unlink()
