"""Times messages between the processes of a launch: `python -m unimatch.scaling.messages BYTES ...`.

They are timed as a training meets them, between computations: each process comes a little earlier or later
than the others, and finds other things in its caches. In a row, one after the other, they would take less.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from unimatch.engine.runtime import Runtime

TIMES = 20
LEAST_S = 1e-6  # where noise says that it takes no time
SIDE = 512  # of the product of matrices between two messages: 3 ms of a CPU's core
# As FSDP sends; the second name is that of torch before 2.14.
GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
SCATTER = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def timed(runtime: Runtime, size_bytes: int) -> dict[str, float]:
    """Seconds that a message of each kind adds to a computation. size_bytes: of the whole tensor."""
    part = torch.ones(max(1, size_bytes // 4 // runtime.world), device=runtime.device)
    whole = torch.ones(runtime.world * len(part), device=runtime.device)
    sends: Mapping[str, tuple[Tensor, Callable[[], Any]]] = {
        "all_reduce": (whole, lambda: dist.all_reduce(whole)),
        "gather": (whole, lambda: GATHER(whole, part)),
        "scatter": (part, lambda: SCATTER(part, whole)),
    }
    alone = _seconds(runtime, whole, lambda: None)
    return {kind: max(LEAST_S, _seconds(runtime, *send) - alone) for kind, send in sends.items()}


def _seconds(runtime: Runtime, result: Tensor, send: Callable[[], Any]) -> float:
    """Median of a computation and what is sent behind it."""
    left, right = torch.ones(2, SIDE, SIDE, device=runtime.device)
    times: list[float] = []
    for _ in range(TIMES + 1):
        if not times:
            runtime.barrier()
        began = time.perf_counter()
        torch.mm(left, right)
        send()
        result[-1].item()  # waits for the device
        result.fill_(1.0)
        times.append(time.perf_counter() - began)
    return median(times[1:])  # the first one connects


def main() -> None:
    runtime = Runtime()
    for size in map(int, sys.argv[1:]):
        found = timed(runtime, size)
        if runtime.is_main:
            for kind, seconds in found.items():
                print(f"{kind} {size} {seconds:.9f}", flush=True)
    runtime.close()


if __name__ == "__main__":
    main()
