"""Times all-reduces between the processes of a launch: `python -m unimatch.engine.messages BYTES ...`."""

from __future__ import annotations

import sys
import time
from statistics import median

import torch

from unimatch.engine.runtime import Runtime

WARM_UP, REPEATS = 3, 9


def all_reduce_seconds(runtime: Runtime, size_bytes: int) -> float:
    """The median time of the sum of `size_bytes` of float32 over all processes."""
    values = torch.ones(max(1, size_bytes // 4), device=runtime.device)
    seconds = []
    for _ in range(WARM_UP + REPEATS):
        runtime.barrier()
        began = time.perf_counter()
        runtime.sum_on_device(values).flatten()[0].item()
        seconds.append(time.perf_counter() - began)
    return median(seconds[WARM_UP:])


if __name__ == "__main__":
    this = Runtime()
    for size in map(int, sys.argv[1:]):
        found = all_reduce_seconds(this, size)
        if this.is_main:
            print(f"all_reduce {size} {found:.9f}", flush=True)
    this.close()
