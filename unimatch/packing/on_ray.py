"""Ray as the engine that makes the pieces of a set: on its cluster, whose machines share the folders."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

import cv2

from unimatch.errors import UserError
from unimatch.packing.pool import AHEAD

STORE_BYTES = 100 << 20  # of a Ray of this program's own: pieces go through files


def ordered(items: Sequence[Any], work: Callable[[Any], None], workers: int) -> Generator[None, None, None]:
    """`work` of each item, in order, in tasks of one CPU each, as `pool.ordered`.

    On the cluster that RAY_ADDRESS or `ray start` gives, with all its CPUs; without one on a Ray of `workers`
    processes that ends with this call. UserError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--engine ray needs Ray: pip install 'unimatch[ray]'") from error

    @ray.remote(num_cpus=1)
    def task(work: Callable[[Any], None], item: Any) -> None:
        cv2.setNumThreads(1)
        work(item)

    begun_here = not ray.is_initialized()
    if begun_here:
        try:
            ray.init(address="auto")
        except ConnectionError:
            ray.init(num_cpus=workers, include_dashboard=False, object_store_memory=STORE_BYTES)
    try:
        shared = ray.put(work)
        most = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting: deque[Any] = deque()
        for item in items:
            waiting.append(task.remote(shared, item))
            if len(waiting) >= most:
                yield ray.get(waiting.popleft())
        while waiting:
            yield ray.get(waiting.popleft())
    finally:
        if begun_here:
            ray.shutdown()
