"""A training on a Ray cluster by Ray Train; it starts anew and goes on alike, behind the last checkpoint:
  ray job submit -- python "$(unimatch where launch/clusters/ray_train)", or a copy of it

Yours are three values: WORKERS, EACH (what one of them takes; without a GPU it trains on CPUs) and FOLDER,
which all machines reach: run.yaml lies there, Ray keeps its state there. This package is on each machine.
Arguments go to unimatch train.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from typing import Any

import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

WORKERS = 16
EACH = {"GPU": 1, "CPU": 8}
FOLDER = "/data"

FAILURES = 3  # so often all start again after one has failed or a machine was taken away
PR_SET_PDEATHSIG = 1


def work(settings: dict[str, Any]) -> None:
    """One worker: the training is a process of its own, since it acts on signals, and Ray's is a thread.

    Ray has set RANK, LOCAL_RANK, WORLD_SIZE and MASTER_ADDR; its own group keeps its port, and tells ours.
    """
    port = [_free_port()]
    dist.broadcast_object_list(port)
    env = {**os.environ, "MASTER_PORT": str(port[0]), "OMP_NUM_THREADS": "1"}
    env.pop("ACCELERATE_TORCH_DEVICE", None)  # LOCAL_RANK says it
    command = [sys.executable, "-m", "unimatch.train", *settings["arguments"], "--resume"]
    status = subprocess.run(command, env=env, preexec_fn=_end_with_worker, check=False).returncode
    if status:
        raise RuntimeError(f"rank {env['RANK']} ended with status {status}; its last lines say why")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])


def _end_with_worker() -> None:
    """SIGTERM, after which a training saves, when the worker that waits for it is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    TorchTrainer(
        work,
        train_loop_config={"arguments": ["--config", f"{FOLDER}/run.yaml", *sys.argv[1:]]},
        torch_config=TorchConfig(backend="gloo"),  # of the workers; trainings take NCCL where GPUs are
        scaling_config=ScalingConfig(num_workers=WORKERS, use_gpu="GPU" in EACH, resources_per_worker=EACH),
        run_config=RunConfig(
            storage_path=f"{FOLDER}/ray", failure_config=FailureConfig(max_failures=FAILURES)
        ),
    ).fit()
