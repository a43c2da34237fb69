"""Starts real processes that form one gloo group, as a launcher would, without its seconds.

They are forks of one Python that has done the imports (warm_python.py), or `fresh` interpreters.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from tests.support.warm_python import FIXED, ZERO, WarmPython
from unimatch.scaling.spawn import places

COMMANDS = Path(__file__).with_name("commands")
# What no two runs log alike: of each training line, and of an evaluation.
MEASURED = {"images_per_s", "step_s", "cpu_s", "memory_gib", "data_wait", "data_queue"}
MEASURED |= {"own_forward_s", "own_load_s", "data_read_s", "data_decode_s", "data_views_s", "seconds"}


@dataclass
class Ended:
    """One process after its end."""

    code: int
    out: str
    err: str


@cache
def warm_python(*more: str) -> WarmPython:
    """The one of this session with these modules; it is started by the first test that needs it."""
    python = WarmPython(*more, base=warm_python() if more else None)
    atexit.register(python.close)
    return python


def forking() -> dict[str, str]:
    """The variables by which FORKED_PYTHON, `accelerate`, `torchrun` and what they start are forks."""
    path = os.pathsep.join([str(COMMANDS), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {"WARM_PYTHON": warm_python().address, "PATH": path}


class Processes:
    """`count` copies of one Python command with RANK, WORLD_SIZE ... set; leaves none behind."""

    def __init__(
        self, count: int, args: Sequence[str], cwd: Path | None = None, fresh: bool = False, **env: str
    ) -> None:
        self._open = ExitStack()
        # Files, not pipes: a process that prints much must not wait for a reader.
        self._logs = [(self._file(), self._file()) for _ in range(count)]
        zero = ZERO if env.get("ACCELERATE_USE_DEEPSPEED") == "true" else ()
        start = _fresh if fresh or not sys.platform.startswith("linux") else warm_python(*zero).start
        self.processes = [
            start(args, cwd, {**os.environ, **FIXED, **place, **env}, out, err)
            for (out, err), place in zip(self._logs, places(count), strict=True)
        ]

    def _file(self) -> IO[str]:
        return self._open.enter_context(TemporaryFile("w+"))  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._open.close()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal to every process and, with SIGKILL, to its data workers."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                (os.killpg if number == signal.SIGKILL else os.kill)(process.pid, number)
        if number == signal.SIGKILL:
            for process in self.processes:
                process.wait()

    def wait(self, timeout_s: float = 240) -> list[Ended]:
        """How all ended; a process that outlives `timeout_s` fails the test with what it printed."""
        try:
            for process in self.processes:
                process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"a process did not end in {timeout_s} s:\n" + "\n".join(e.err for e in self._ended())
            ) from None
        return self._ended()

    def _ended(self) -> list[Ended]:
        ended = []
        for process, (out, err) in zip(self.processes, self._logs, strict=True):
            out.seek(0)
            err.seek(0)
            ended.append(Ended(process.returncode, out.read(), err.read()))
        return ended


def _fresh(
    args: Sequence[str], cwd: Path | None, env: Mapping[str, str], out: IO[str], err: IO[str]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *args],
        cwd=cwd,
        stdout=out,
        stderr=err,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env=env,
    )


def run(
    count: int,
    *args: str,
    timeout_s: float = 240,
    cwd: Path | None = None,
    fresh: bool = False,
    **env: str,
) -> list[Ended]:
    """Runs `python ARGS` as `count` processes to their ends."""
    with Processes(count, args, cwd, fresh, **env) as processes:
        return processes.wait(timeout_s)


def succeed(
    count: int, *args: str, timeout_s: float = 240, cwd: Path | None = None, **env: str
) -> list[Ended]:
    """The same; a process that fails fails the test."""
    ended = run(count, *args, timeout_s=timeout_s, cwd=cwd, **env)
    for rank, one in enumerate(ended):
        assert one.code == 0, f"rank {rank} exited with {one.code}:\n{one.out}\n{one.err}"
    return ended


def data_worker(trainer: int) -> int:
    """A data worker of a training process: its child that runs the same command; the watchdog does not."""
    command = Path(f"/proc/{trainer}/cmdline").read_bytes()
    children = Path(f"/proc/{trainer}/task/{trainer}/children").read_text().split()
    return next(int(pid) for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes() == command)
