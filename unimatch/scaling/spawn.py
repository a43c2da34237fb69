"""Starts jobs of several processes on this machine as a launcher would, and waits for all of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import NoReturn

from unimatch.errors import UserError

LAST_LINES = 5  # of a failed process's messages


@dataclass(frozen=True)
class Job:
    """`count` copies of `python ARGS` that find each other; a single one without ZeRO is a plain process."""

    count: int
    args: Sequence[str]
    env: Mapping[str, str]


def run_all(jobs: Sequence[Job], timeout_s: float) -> list[str]:
    """Runs jobs at the same time; what rank 0 of each printed. No process is left behind, by SIGTERM neither:
    call it in the main thread.

    UserError if a process fails, with its last messages, or if one is still there after `timeout_s`.
    """
    running = []
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        for job in jobs:
            alone = job.count == 1 and "ACCELERATE_USE_DEEPSPEED" not in job.env
            for rank, place in enumerate([{}] if alone else places(job.count)):
                # Files, not pipes: a process that prints much must not wait for a reader.
                out, err = TemporaryFile("w+"), TemporaryFile("w+")  # noqa: SIM115 (closed below)
                process = subprocess.Popen(
                    [sys.executable, *job.args],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1", **place, **job.env},
                )
                running.append((rank, process, out, err))
        deadline = time.monotonic() + timeout_s
        while any(process.poll() is None for _, process, _, _ in running):
            failed = [one for one in running if one[1].poll()]
            if failed or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        late = [one for one in running if one[1].poll() is None]
        for _, process, _, _ in late:  # those of a failed job would wait for it
            with suppress(subprocess.TimeoutExpired):
                process.wait(min(5.0, max(0.0, deadline - time.monotonic())))
        messages = []
        for rank, process, _, err in running:
            if process.poll():
                err.seek(0)
                lines = [line for line in err.read().splitlines() if line.strip()]
                messages.append(
                    f"rank {rank} ended with {process.returncode}: " + "\n".join(lines[-LAST_LINES:])
                )
        if messages:
            raise UserError(messages[0])
        if any(process.poll() is None for _, process, _, _ in running):
            raise UserError(f"not finished in {timeout_s:g} s")
        texts = []
        for rank, _, out, _ in running:
            if rank == 0:
                out.seek(0)
                texts.append(out.read())
        return texts
    finally:
        for _, process, out, err in running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and its data workers
            process.wait()
            out.close()
            err.close()
        signal.signal(signal.SIGTERM, before)


def _exit(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def places(count: int) -> list[dict[str, str]]:
    """The environment by which each of `count` processes on this machine finds the others."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
