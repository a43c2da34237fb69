"""Who does not answer, once a message between processes has failed.

Processes that wait for one that stalls all fail at about the same time. Then they call the roll over
connections that nothing else has used, and rank 0 can say who is missing.
"""

from __future__ import annotations

import platform
import re
from datetime import timedelta

import torch.distributed as dist

WAIT_S = 3.0  # for those that fail a little later

_group: dist.ProcessGroup | None = None
_hosts: list[str] = []


def prepare() -> None:
    """Connects the processes for `missing`. Call on all of several processes."""
    global _group, _hosts
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=WAIT_S))
    assert isinstance(group, dist.ProcessGroup)
    _group, _hosts = group, [""] * dist.get_world_size()
    dist.all_gather_object(_hosts, platform.node(), group=group)


def missing() -> str | None:
    """The processes that do not answer within WAIT_S, with their hosts; None on other ranks than 0, where all
    answer, and before `prepare`.
    """
    if _group is None:
        return None
    try:
        dist.monitored_barrier(group=_group, timeout=timedelta(seconds=WAIT_S), wait_all_ranks=True)
    except RuntimeError as error:
        if dist.get_rank() == 0 and (found := re.search(r"Ranks ([\d, ]*\d) failed", str(error))):
            ranks = [int(rank) for rank in found[1].split(",")]
            return ", ".join(f"rank {rank} on {_hosts[rank]}" for rank in ranks)
    return None
