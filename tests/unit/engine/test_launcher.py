"""A command in a process of its own: its status comes back, and signals reach it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tests.conftest import ROOT
from unimatch.engine.launcher import apart

WAITING = (
    "from unimatch.engine.launcher import apart; print(apart('http.server', ['--bind', '127.0.0.1', '0']))"
)


def test_the_status_is_that_of_the_command() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert apart("json.tool", ["--help"]) == 0 and apart("json.tool", ["--nonsense"]) == 2
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_signal_reaches_the_command() -> None:
    """The one that waits for it lives on, and tells what ended it."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and "Serving HTTP" in process.stdout.readline()
    process.send_signal(signal.SIGINT)  # which a terminal sends to both
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0].endswith(f"{-signal.SIGTERM}\n") and process.returncode == 0
