"""Several runs at a time, which tiny programs play."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import tiny_run_text
from unimatch.config import from_text
from unimatch.engine.run_config import RunConfig
from unimatch.experiments import jobs
from unimatch.experiments.definition import Run
from unimatch.experiments.progress import Progress

RUN = """
import sys, time, pathlib, os
number = sys.argv[-1]
folder = pathlib.Path(sys.argv[1]); folder.mkdir(exist_ok=True)
(folder / number).write_text(os.environ["OMP_NUM_THREADS"])
print("said by", number)
deadline = time.time() + 20
while number in "12" and len(list(folder.iterdir())) < 2 and time.time() < deadline:
    time.sleep(0.01)  # until the other one has begun
if sys.argv[2] == "wait": time.sleep(20)
sys.exit(3 if number == "2" else 0)
"""


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    configs = [
        from_text(tiny_run_text(tmp_path / "runs" / f"run{number}", tmp_path), RunConfig)
        for number in (1, 2, 3)
    ]
    return [Run(number, {}, [], config) for number, config in enumerate(configs, 1)]


@pytest.fixture
def side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def make(mode: str) -> jobs.SideBySide:
        found = jobs.SideBySide("unimatch.none", [], 2)
        (tmp_path / "play.py").write_text(RUN)
        found._command = [sys.executable, "-S", str(tmp_path / "play.py"), str(tmp_path / "began"), mode]
        return found

    monkeypatch.setattr(jobs, "POLL_S", 0.01)
    monkeypatch.setattr(jobs, "progress_of", lambda config: Progress())
    return make


def test_runs_go_side_by_side_with_a_thread_each_and_a_failure_leaves_the_others(
    runs: list[Run], tmp_path: Path, side_by_side
) -> None:
    """Runs 1 and 2 wait for each other: one at a time would not end."""
    failed = side_by_side("end").train(runs)
    assert {path.name: path.read_text() for path in (tmp_path / "began").iterdir()} == dict.fromkeys(
        "123", "1"
    )
    (told,) = failed
    log = tmp_path / "runs" / f"{runs[1].name}.log"
    assert told == f"run 2 ({runs[1].config.out}): status 3; {log} tells why"
    assert log.read_text() == "said by 2\n"


def test_a_signal_ends_the_runs_and_begins_no_other(runs: list[Run], tmp_path: Path, side_by_side) -> None:
    def stop() -> None:
        while len(list((tmp_path / "began").glob("*"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=stop)
    thread.start()
    began = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        side_by_side("wait").train(runs)
    thread.join()
    assert ended.value.code == 128 + signal.SIGTERM and time.monotonic() - began < 15
    assert sorted(path.name for path in (tmp_path / "began").iterdir()) == ["1", "2"]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("text", "step"),
    [(None, 0), ("", 0), ('{"step": 10}\n{"step": 20}\n', 20), ('{"step": 10}\n{"step": 2', 10), ('{"st', 0)],
)
def test_the_last_step_of_a_log_that_is_being_written(tmp_path: Path, text: str | None, step: int) -> None:
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    assert jobs.last_step(tmp_path) == step
