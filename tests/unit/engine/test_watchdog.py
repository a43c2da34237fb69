"""A real process, a real stop: what a watchdog is for cannot be played inside one process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import sys, time
from unimatch.engine.watchdog import Watchdog
watchdog = Watchdog(1.5, "rank 3 on here")
print("started", flush=True)
{body}
watchdog.close()
"""


def start(body: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-c", PROGRAM.format(body=body)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    return process


def test_a_process_that_makes_no_progress_is_killed_and_shows_where_it_stood():
    process = start("time.sleep(60)")
    _, err = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert f"error: rank 3 on here (pid {process.pid}) made no progress for 1.5 s" in err
    assert 'File "<string>", line 6' in err


def test_a_stopped_process_is_killed():
    process = start("time.sleep(60)")
    process.send_signal(signal.SIGSTOP)
    _, err = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL and "made no progress" in err


def test_a_process_that_tells_of_itself_lives():
    process = start("for _ in range(6): time.sleep(0.5); watchdog.alive()")
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize("body", ["sys.exit(5)", "watchdog._process.kill(); time.sleep(1); watchdog.alive()"])
def test_neither_outlives_nor_ends_the_other(body: str):
    """The watchdog holds the error stream: reading it to its end waits for both."""
    began = time.monotonic()
    process = start(body)
    _, err = process.communicate(timeout=30)
    assert process.returncode == (5 if "exit" in body else 0) and err == ""
    assert time.monotonic() - began < 10
