"""How many cores a process may count on."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # in a container, that of its own control group


def share_of_cores() -> int:
    """Cores for this process, at least 1: those left to it, divided by the processes of its run on this host.

    A scheduler leaves some by affinity, a container by a quota of time.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # as torchrun and accelerate tell
    return max(1, int(min(cores, quota(CGROUP) or cores)) // max(processes, 1))


def quota(root: Path) -> float | None:
    """Cores that a control group (version 2 or 1) may keep busy; None: as many as there are."""
    texts = ("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")
    for names in texts:
        try:
            limit, period = " ".join((root / name).read_text() for name in names).split()
            return float(limit) / float(period) if limit not in ("max", "-1") else None
        except (OSError, ValueError):
            continue
    return None
