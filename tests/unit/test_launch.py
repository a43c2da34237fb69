"""The launch files load; the Slurm script does what it says, with stand-ins for the commands of Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from unimatch import shipped

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "launch" / "accelerate").glob("*.yaml"))
SRUN = """#!/bin/bash
shift  # --kill-on-bad-exit=1
exec "$@"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo first; echo second; else echo "$@" >> "$PLAYED/requeued"; fi
"""
ACCELERATE = """#!/bin/bash
echo "$@" > "$PLAYED/launched"
trap 'echo told >> "$PLAYED/signals"; exit 143' TERM
while [ "$ENDS" = never ]; do sleep 0.1; done
exit "$ENDS"
"""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_launch_file_is_one_that_accelerate_reads_and_names_files_that_exist(path: Path):
    assert load_config_from_file(str(path)).num_processes >= 1
    settings = yaml.safe_load(path.read_text())
    named = settings.get("deepspeed_config", {}).get("deepspeed_config_file")
    # From the folder of the repository as a file, from any other by its name.
    assert named is None or (ROOT / named) == shipped.find(named)


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job's script, with stand-ins for srun, scontrol, accelerate and this package's."""
    own = f'#!/bin/bash\nPYTHONPATH={ROOT} exec {sys.executable} -m unimatch "$@"\n'
    stand_ins = {"srun": SRUN, "scontrol": SCONTROL, "accelerate": ACCELERATE, "unimatch": own}
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_NODEID": "1",
    }
    path = f"{tmp_path}:{os.environ['PATH']}"
    return {**os.environ, **job, "PATH": path, "PLAYED": str(tmp_path), "GPUS": "4", "ENDS": "0"}


def start(env: dict[str, str]) -> subprocess.Popen[bytes]:
    script = str(ROOT / "launch" / "slurm.sbatch")
    command = ["bash", script, "--config", "a run.yaml"]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, cwd=env["PLAYED"])


def test_a_job_starts_one_launcher_a_node_and_resumes(slurm: dict[str, str], tmp_path: Path):
    assert start(slurm).wait(20) == 0
    told = (tmp_path / "launched").read_text()
    assert told.startswith(f"launch --machine_rank 1 --config_file {ROOT}/launch/accelerate/nodes8.yaml")
    assert "--num_machines 2 --num_processes 8 --main_process_ip first --main_process_port 20007" in told
    assert told.endswith("-m unimatch.train --config a run.yaml --resume\n")
    assert not (tmp_path / "requeued").exists()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_warned_job_saves_and_is_queued_again(
    slurm: dict[str, str], tmp_path: Path, number: signal.Signals
):
    job = start({**slurm, "ENDS": "never"})
    deadline = time.monotonic() + 20
    while not (tmp_path / "launched").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)  # its trap is set
    job.send_signal(number)
    assert job.wait(20) == 143
    assert (tmp_path / "signals").read_text() == "told\n"
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


@pytest.mark.parametrize(
    ("restarts", "count", "again"), [("0", "0", False), ("2", "1", True), ("2", "2", False)]
)
def test_a_failed_job_is_queued_again_as_often_as_asked(slurm, tmp_path: Path, restarts, count, again):
    job = start({**slurm, "ENDS": "3", "RESTARTS": restarts, "SLURM_RESTART_COUNT": count})
    assert job.wait(20) == 3
    assert (tmp_path / "requeued").exists() is again


def test_the_torchrun_script_says_how_it_is_used():
    script = str(ROOT / "launch" / "torchrun.sh")
    told = subprocess.run(["bash", script], capture_output=True, text=True, check=True).stdout
    assert told.startswith("Starts a training") and "INTERFACE" in told and "set -euo" not in told
