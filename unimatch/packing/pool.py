"""Work on a list in other processes, with the results in the list's order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import cv2

from unimatch.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 3  # items in work or waiting for each process: what bounds the room that results take

_work: Callable[[Any], Any]  # of a worker process


def ordered(
    items: Sequence[Item], work: Callable[[Item], Result], workers: int
) -> Generator[Result, None, None]:
    """`work` of each item, in order, in so many other processes, so `work` is picklable.

    Results should be small: they go through a pipe, where a process waits until this one has read them. Their
    number is bounded. Raises what `work` raises; DataError: a worker process was killed. Worker processes end
    with this one, however it ends.
    """
    waiting: deque[Future[Result]] = deque()
    # Spawned, not forked: OpenCV's and tqdm's threads do not survive a fork.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start, initargs=(work,)
    )
    try:
        for item in items:
            waiting.append(pool.submit(_run, item))
            if len(waiting) >= AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
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


def _run(item: Any) -> Any:
    return _work(item)
