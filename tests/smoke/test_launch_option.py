"""`unimatch train --launch FILE`: processes without a launcher's words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.processes import forking
from tests.support.training import BARE
from tests.support.warm_python import FIXED, FORKED_PYTHON
from unimatch import evaluate, train
from unimatch.engine.log import read_metrics
from unimatch.errors import UserError

SHORT = [*BARE, "schedule.steps=2", "sync_batchnorm=off", "batch={labeled: 2, unlabeled: 2}"]


def started(module: str, *args: str) -> subprocess.Popen[str]:
    env = {**os.environ, **FIXED, **forking()}
    del env["OMP_NUM_THREADS"]
    return subprocess.Popen(
        [FORKED_PYTHON, "-m", f"unimatch.{module}", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        text=True,
    )


def training(path: Path, *settings: str, launch: str = "cpu2") -> subprocess.Popen[str]:
    overrides = [part for setting in [*SHORT, *settings] for part in ("--set", setting)]
    return started("train", "--launch", launch, "--config", str(path), *overrides)


def test_a_users_mistake_is_the_last_word(tiny_run: Path):
    process = training(tiny_run, "batch.labeled=3")
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "Traceback" not in err and err.count("error: ") == 1
    assert "batch.labeled is 3" in err and len(err.splitlines()) < 8, err


def stopped(path: Path, launch: str) -> str:
    """Trains until the first step is logged, then asks the launching process to end; what was printed."""
    process = training(path, "schedule.steps=100000", "log.every_steps=1", launch=launch)
    metrics = path.parent / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 150
    while not (metrics.exists() and metrics.read_text().count("\n")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "Traceback" not in err and "--resume" in err
    assert list((path.parent / "run" / "checkpoints").iterdir())
    return out


def test_a_signal_to_the_launching_process_of_one_saves(tiny_run: Path):
    assert "1 on cpu" in stopped(tiny_run, "cpu1")


def test_two_processes_train_until_a_signal_and_evaluate(tiny_run: Path, tmp_path: Path):
    assert "2 on cpu, 1 CPU thread(s) each, DDP, fp32" in stopped(tiny_run, "cpu2")
    steps = [line["step"] for line in read_metrics(tiny_run.parent / "run", "train")]
    assert steps == list(range(1, len(steps) + 1))
    figures = str(tmp_path / "figures.json")
    run = ("evaluate", str(tiny_run.parent / "run"), "--data", "val", "--json", figures, "--workers", "0")
    process = started(*run, "--launch=cpu1", "--processes=2")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert json.loads(Path(figures).read_text())["images"] == 10 and out.count("10 images") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--launch", "gpu9"], r"--launch gpu9: no such file, and none .*cpu1, cpu2, .*"),
        (["--processes", "2"], "name a launch file too"),
    ],
)
def test_what_cannot_be_launched(tiny_run: Path, arguments: list[str], told: str):
    with pytest.raises(UserError, match=told):
        train.main(["--config", str(tiny_run), *arguments])
    with pytest.raises(UserError, match=told):
        evaluate.main([str(tiny_run.parent), *arguments])


def test_a_file_of_another_kind_is_refused(tiny_run: Path, tmp_path: Path):
    (tmp_path / "other.yaml").write_text("classes: [a, b]\n")
    with pytest.raises(UserError, match="is no launch file of accelerate"):
        train.main(["--config", str(tiny_run), "--launch", str(tmp_path / "other.yaml")])


def test_a_launched_process_launches_none(tiny_run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UserError, match="was started by a launcher: leave it out"):
        train.main(["--config", str(tiny_run), "--launch", "cpu2"])
