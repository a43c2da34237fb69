"""Ends a process that makes no progress, whatever holds it: a stop signal, a dead file system, a driver.

A process cannot do this for itself while it is stopped or inside a call that does not return, so a small
second process does: this file, run as a script. It ends when the process that it watches does.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

TICK_S = 0.5
STACKS_S = 1.0  # for writing where the process stands
IGNORED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
)  # sent to whole groups, and the trainer's to act upon


class Watchdog:
    """Kills this process once `limit_s` seconds pass without a call of `alive`, after saying so as `name`."""

    def __init__(self, limit_s: float, name: str) -> None:
        # Written by C code, so that a thread stuck inside a call is shown too.
        faulthandler.register(signal.SIGUSR2, all_threads=True)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(limit_s), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        assert self._process.stdin is not None
        self._pipe = self._process.stdin.fileno()
        os.set_blocking(self._pipe, False)

    def alive(self) -> None:
        with suppress(OSError):  # it was stopped or killed: no reason to end the run
            os.write(self._pipe, b".")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def _watch(pid: int, limit_s: float, name: str) -> None:
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    # Counted in own ticks: where the whole job is suspended, no time passes.
    silent_s = 0.0
    while os.getppid() == pid:
        ready, _, _ = select.select([0], [], [], TICK_S)
        if ready and not os.read(0, 4096):
            return  # nobody is left to hold the other end
        silent_s = 0.0 if ready else silent_s + TICK_S
        if silent_s >= limit_s:
            print(
                f"error: {name} (pid {pid}) made no progress for {silent_s:g} s and is ended; continue with "
                "--resume. If it was only slow, raise --timeout. Where it stood, unless it was stopped:",
                file=sys.stderr,
                flush=True,
            )
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR2)
                time.sleep(STACKS_S)
                os.kill(pid, signal.SIGKILL)
            return


if __name__ == "__main__":
    _watch(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3])
