"""Results of a function, computed ahead by workers and handed out in order.

Not torch's DataLoader: its dead workers raise RuntimeError from a signal handler, anywhere in the trainer,
and its slow ones are told from dead ones only after the full timeout. Here both are found while waiting for a
result, and named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from unimatch.cores import share_of_cores
from unimatch.data.processes import ProcessPool
from unimatch.data.stages import Monitor, watch
from unimatch.data.threads import ThreadPool

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_workers() -> int:
    """A worker for each core of this machine that is this process's share, less one for itself, 1 to 16."""
    return min(max(share_of_cores() - 1, 1), 16)


def ahead(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    prefetch: int,
    timeout_s: float,
    describe: Callable[[Item], str],
    threads: bool = False,
    monitor: Monitor | None = None,
) -> Iterator[Result]:
    """Yield function(item) for each item, in order.

    Item i is computed by worker i modulo `workers` (0: right here), which holds at most `prefetch` finished
    results. A UserError of the function is raised as it is, any other exception as RuntimeError with its
    traceback. DataError, with `describe(item)`, when a worker dies or a result takes longer than `timeout_s`.
    Workers end with the iterator. Results are trees of plain objects and NumPy arrays. `threads`: workers are
    threads of this process. `monitor` is told how many results wait and where the workers spend their time.
    """
    workers = min(workers, len(items))
    monitor = monitor or Monitor()
    if workers == 0:
        for item in items:
            monitor.asked(0)
            spent: dict[str, float] = {}
            with watch(spent):
                result = function(item)
            monitor.add(spent)
            yield result
        return
    pool: ThreadPool | ProcessPool
    if threads:
        pool = ThreadPool(function, items, workers, prefetch, monitor)
    else:
        pool = ProcessPool(function, items, workers, prefetch, monitor)
    try:
        for place, item in enumerate(items):
            yield pool.take(place % workers, timeout_s, partial(describe, item))
    finally:
        pool.stop()
