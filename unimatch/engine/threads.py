"""How many threads a process computes with on its CPUs."""

from __future__ import annotations

import os

import torch

from unimatch.cores import share_of_cores

CHOSEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # the user's choice, or a launcher's


def limit_threads() -> None:
    """Torch computes with no more threads than this process has cores, unless somebody has chosen.

    Torch counts the machine's cores, not those that a container's quota or the other processes leave. Data
    workers are not subtracted: on a CPU they mostly wait for the training, and threads that wait sleep
    (OMP_WAIT_POLICY in unimatch/__init__.py).
    """
    if not any(os.environ.get(name) for name in CHOSEN):
        torch.set_num_threads(min(torch.get_num_threads(), share_of_cores()))
