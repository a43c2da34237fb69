"""Work on a list in other processes, with the results in the list's order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import cv2

from unimatch.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 4  # items a message between processes
TRIED = 16  # items done here first, to see how long one takes
PAYS_S = 5.0  # processes take seconds to start: not for less work than this
AHEAD = 3  # chunks in work or waiting for each process: what bounds the memory

_work: Callable[[Any], Any]  # of a worker process


def ordered(
    items: Sequence[Item], work: Callable[[Item], Result], workers: int
) -> Generator[Result, None, None]:
    """`work` of each item, in order; in other processes where that is sooner done, so `work` is picklable.

    The number of results held is bounded. Raises what `work` raises; DataError: a worker process was killed.
    Worker processes end with this one, however it ends.
    """
    tried, spent_s = min(TRIED, len(items)), 0.0
    for item in items[:tried]:
        began = time.perf_counter()
        result = work(item)
        spent_s += time.perf_counter() - began
        yield result
    items = items[tried:]
    if workers == 1 or (tried and spent_s / tried * len(items) < PAYS_S):
        yield from map(work, items)
        return
    waiting: deque[Future[list[Result]]] = deque()
    # Spawned, not forked: OpenCV's and tqdm's threads do not survive a fork.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start, initargs=(work,)
    )
    try:
        for start in range(0, len(items), CHUNK):
            waiting.append(pool.submit(_run, items[start : start + CHUNK]))
            if len(waiting) >= AHEAD * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise DataError("a worker process was killed (out of memory?); try fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and tells the workers to end
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot tell its workers, which would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(items: Sequence[Any]) -> list[Any]:
    return [_work(item) for item in items]
