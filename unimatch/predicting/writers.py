"""Results written by threads while the network computes, and told once they are all there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

THREADS = 2  # compression and files run outside the interpreter lock
WAITING = 4  # chunks that may wait for them

Entry = dict[str, Any]
Job = tuple[int, Callable[[], Entry]]
"""The number of an image, and what writes its results and gives what is to be told of it."""


class Writers:
    """A context manager; what is put in is done when it ends without an exception, or after `drain`.

    threads: False: all is written at once, by the caller. done: called, in the order of `put`, with the entry
    of a chunk whose results are all written.
    """

    def __init__(self, threads: bool, done: Callable[[Entry], None]) -> None:
        self.pool = ThreadPoolExecutor(THREADS, "writer") if threads else None
        self.done = done
        self.waiting: deque[tuple[Entry, list[tuple[int, Entry | Future[Entry]]]]] = deque()

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def put(self, entry: Entry, jobs: Sequence[Job], written: Sequence[tuple[int, Entry]]) -> None:
        """A chunk: what is to be written of it, and what is already. OSError: an earlier one could not be."""
        made: list[tuple[int, Entry | Future[Entry]]] = list(written)
        for number, job in jobs:
            made.append((number, job() if self.pool is None else self.pool.submit(job)))
        self.waiting.append((entry, made))
        while len(self.waiting) > (WAITING if self.pool is not None else 0):
            self._take()

    def drain(self) -> None:
        while self.waiting:
            self._take()

    def _take(self) -> None:
        entry, made = self.waiting.popleft()
        for _, one in sorted(made, key=lambda pair: pair[0]):
            found = one.result() if isinstance(one, Future) else one
            if "coco" in found:
                entry.setdefault("coco", []).append(found["coco"])
            entry.setdefault("told", []).extend(found.get("told", []))
        self.done({name: value for name, value in entry.items() if value != []})
