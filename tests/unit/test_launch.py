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
from torch.distributed.run import get_args_parser

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


def cluster_file(name: str) -> dict:
    path = shipped.find(f"launch/clusters/{name}")
    assert path is not None
    return yaml.safe_load(path.read_text())


def test_a_trainjob_starts_what_torchrun_and_training_take(monkeypatch: pytest.MonkeyPatch):
    """As its runtime does: nodes and processes are in variables, the command names none of them."""
    job = cluster_file("trainjob")["spec"]
    trainer = job["trainer"]
    assert trainer["numProcPerNode"] == trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"]
    (patch,) = job["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = patch["template"]["spec"]["template"]["spec"]
    (mount,) = pod["containers"][0]["volumeMounts"]
    assert mount["name"] == pod["volumes"][0]["name"] and mount["mountPath"] == "/data"
    env = {one["name"]: one["value"] for one in trainer["env"]}
    assert int(env["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < pod["terminationGracePeriodSeconds"]
    for name, value in {"PET_NNODES": "4", "PET_NPROC_PER_NODE": "8", "PET_NODE_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert trainer["command"][0] == "torchrun"
    told = get_args_parser().parse_args([*trainer["command"][1:], *trainer["args"]])  # torchrun's own
    assert (told.nnodes, told.nproc_per_node, told.node_rank) == ("4", "8", 1)
    assert told.module and told.training_script == "unimatch.train"
    assert told.training_script_args == ["--config", "/data/run.yaml", "--resume"]


def test_a_skypilot_task_starts_torchrun_on_each_node(tmp_path: Path):
    task = cluster_file("skypilot")
    (tmp_path / "torchrun").write_text('#!/bin/bash\necho "$@"\n')
    (tmp_path / "torchrun").chmod(0o755)
    node = {
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NUM_GPUS_PER_NODE": "8",
    }
    env = {**os.environ, **task["envs"], **node, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    told = subprocess.run(["bash", "-euc", task["run"]], env=env, cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert "--nnodes 2" in told.stdout and "--rdzv-endpoint 10.0.0.1:29500" in told.stdout
    assert "is_host=false" in told.stdout and "--nproc-per-node 8" in told.stdout
    assert told.stdout.endswith("-m unimatch.train --config /data/run.yaml --resume\n")
    assert set(task["file_mounts"]) == {"/data"}
