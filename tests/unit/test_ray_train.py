"""launch/clusters/ray_train.py: what a worker starts, with a stand-in for Ray and where it is with Ray."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch.distributed as dist

from tests.conftest import ROOT
from tests.dist.test_training import Run
from unimatch import shipped
from unimatch.engine.log import read_metrics

FILE = shipped.find("launch/clusters/ray_train")
assert FILE is not None
# What Ray Train's torch backend sets in the second worker of sixteen.
SECOND = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "16", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1"}
PYTHON = """#!/bin/sh
echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR:$MASTER_PORT" > "$TOLD"
echo "threads $OMP_NUM_THREADS device $ACCELERATE_TORCH_DEVICE" >> "$TOLD"
echo "$@" >> "$TOLD"
exit "$STATUS"
"""


class Settings(dict):
    """Stands for a settings class of Ray: the arguments by name."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(arguments)


class Trainer:
    """Stands for TorchTrainer with a single worker, in this process."""

    made: dict[str, Any]

    def __init__(self, work: Any, **arguments: Any) -> None:
        Trainer.made = arguments
        self.work = work

    def fit(self) -> None:
        self.work(Trainer.made["train_loop_config"])


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ray's modules, the variables that it sets, and a Python that writes what it was told into this file."""
    ray, train, torch = (ModuleType(name) for name in ("ray", "ray.train", "ray.train.torch"))
    vars(train).update(dict.fromkeys(("FailureConfig", "RunConfig", "ScalingConfig"), Settings))
    vars(torch).update(TorchConfig=Settings, TorchTrainer=Trainer)
    for module in (ray, train, torch):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(sys, "argv", [str(FILE), "--set", "seed=3"])
    # Rank 0's port takes the place of this one's.
    monkeypatch.setattr(dist, "broadcast_object_list", lambda port: port.__setitem__(0, 4711))
    told = tmp_path / "told"
    more = {"ACCELERATE_TORCH_DEVICE": "cuda:1", "OMP_NUM_THREADS": "8", "TOLD": str(told), "STATUS": "0"}
    for name, value in (SECOND | more).items():
        monkeypatch.setenv(name, value)
    return told


def test_a_worker_starts_the_training_of_its_rank(stand_in: Path):
    runpy.run_path(str(FILE), run_name="__main__")
    assert stand_in.read_text().splitlines() == [
        "1 1 16 10.0.0.1:4711",
        "threads 1 device ",
        "-m unimatch.train --config /data/run.yaml --set seed=3 --resume",
    ]
    made = Trainer.made
    assert made["scaling_config"] == {
        "num_workers": 16,
        "use_gpu": True,
        "resources_per_worker": {"GPU": 1, "CPU": 8},
    }
    assert made["torch_config"] == {"backend": "gloo"}
    assert made["run_config"] == {"storage_path": "/data/ray", "failure_config": {"max_failures": 3}}


def test_a_training_that_fails_fails_its_worker(stand_in: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STATUS", "143")
    with pytest.raises(RuntimeError, match="rank 1 ended with status 143"):
        runpy.run_path(str(FILE), run_name="__main__")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the parent's death is told by Linux")
def test_a_training_whose_worker_is_gone_is_told_to_save(stand_in: Path):
    """The thread that started it ends, as all of a killed worker's do."""
    end_with = runpy.run_path(str(FILE))["_end_with_worker"]
    started = []
    worker = threading.Thread(
        target=lambda: started.append(subprocess.Popen(["sleep", "60"], preexec_fn=end_with))
    )
    worker.start()
    worker.join()
    assert started[0].wait(20) == -signal.SIGTERM


def test_a_local_ray_goes_on_with_a_run_in_two_workers(tiny_run: Path, tmp_path: Path):
    pytest.importorskip("ray.train", reason="the extra ray: pip install unimatch[ray]")
    settings = ["data.workers=0", "data.val=null", "sync_batchnorm=off", "schedule.steps=4"]
    settings += ["log={every_steps: 1, pictures_every_steps: 0}", "checkpoint.every_steps=2"]
    Run(tiny_run, "run", *settings).fall(2, 2)
    script = tmp_path / "ray_train.py"
    values = {"WORKERS = 16": "WORKERS = 2", '{"GPU": 1, "CPU": 8}': '{"CPU": 1}', "/data": str(tmp_path)}
    text = FILE.read_text()
    for shipped_value, own in values.items():
        assert shipped_value in text
        text = text.replace(shipped_value, own)
    script.write_text(text)
    command = [sys.executable, str(script), *(part for one in settings for part in ("--set", one))]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    told = ended.stdout + ended.stderr
    assert ended.returncode == 0, told
    assert "ranks 0-1 on cpu" in told and "resumed       after step 2" in told
    assert [line["step"] for line in read_metrics(tmp_path / "run", "train")] == [1, 2, 3, 4]
