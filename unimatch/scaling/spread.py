"""How unequal the processes of a real run were, from its log: what `simulate` needs of stragglers."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from statistics import NormalDist, median

from unimatch.engine import checkpoint
from unimatch.engine.log import read_metrics
from unimatch.errors import UserError

NAME = "own_forward_s"  # engine.paces
LEAST_LINES = 5
FEW = 4  # of fewer processes a slow one moves the median
MIDPOINTS = 2000


def expected_largest(count: int) -> float:
    """The mean of the largest of `count` standard normal numbers: the integral of Q(u^(1/count)) over u."""
    normal = NormalDist()
    points = ((index + 0.5) / MIDPOINTS for index in range(MIDPOINTS))
    return sum(normal.inv_cdf(min(u ** (1 / count), 1 - 1e-16)) for u in points) / MIDPOINTS


def measured(run: Path) -> tuple[float | None, float]:
    """(straggler_sigma, slow_device) of a run of several processes; None: too few to tell one from the other.

    A process is always slow if it is the slowest in more than half of the log lines; by how much: the median
    of its time over the processes' median. The spread comes from the other end, the fastest one, which a slow
    one does not move; a line is a mean over its steps, taken as independent.
    UserError: the run has too few lines that say it.
    """
    lines = [line for line in read_metrics(run, "train") if NAME in line]
    if len(lines) < LEAST_LINES:
        raise UserError(
            f"{run} has {len(lines)} log lines with the times of several processes, {LEAST_LINES} are "
            "needed: runs of one process have none, nor those whose forward passes wait for each other "
            "unseen (ZeRO-3, synchronised batch norms on GPUs)"
        )
    folder = checkpoint.last_checkpoint(run)
    if folder is None:
        raise UserError(f"{run} has no checkpoint, which says how many processes there were")
    world = checkpoint.load_state(folder).world
    told = [line[NAME] for line in lines]
    steps = [after["step"] - before["step"] for before, after in zip(lines, lines[1:], strict=False)]
    rank, times = Counter(one["slowest_rank"] for one in told).most_common(1)[0]
    slow = 1.0
    if times > len(told) / 2:
        slow = max(1.0, median(one["max"] / one["median"] for one in told if one["slowest_rank"] == rank))
        if world < FEW:
            return None, slow
    ahead = median(math.log(one["median"] / one["min"]) for one in told)
    return ahead / expected_largest(world) * math.sqrt(median(steps)), slow
