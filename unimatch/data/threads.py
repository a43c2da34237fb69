"""Workers that are threads: the same order and bounds as worker processes, without any transport.

Decoding, OpenCV and compiled loops run outside the interpreter lock. Everything else competes with the
trainer for it: about a quarter less CPU time in all, but kernels are launched more slowly. See docs/input.md.
"""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unimatch.data.stages import STAGES, Monitor, watch
from unimatch.errors import DataError, UserError


class ThreadPool:
    """Worker n computes items n, n + workers, ... and holds at most `prefetch` finished results."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        workers: int,
        prefetch: int,
        monitor: Monitor,
    ) -> None:
        self.monitor = monitor
        self.ended = threading.Event()
        self.results: list[queue.Queue[tuple[str, Any, dict[str, float]]]] = []
        self.credits: list[threading.Semaphore] = []
        self.boards = np.zeros((workers, 1), np.int64)
        for number in range(workers):
            self.results.append(queue.Queue())
            self.credits.append(threading.Semaphore(max(1, prefetch)))
            threading.Thread(
                target=self._work,
                args=(function, items[number::workers], number),
                name=f"data worker {number}",
                daemon=True,  # one that hangs in a dead file system must not hold up the end of the process
            ).start()

    def _work(self, function: Callable[[Any], Any], items: Sequence[Any], number: int) -> None:
        for item in items:
            self.credits[number].acquire()
            if self.ended.is_set():
                return
            spent: dict[str, float] = {}
            try:
                with watch(spent, self.boards[number]):
                    made = "result", function(item)
            except UserError as error:
                made = "user error", type(error)(*error.args)
            except Exception:
                made = "bug", traceback.format_exc()
            self.results[number].put((*made, spent))

    def take(self, number: int, timeout_s: float, describe: Callable[[], str]) -> Any:
        """The next result of a worker."""
        self.monitor.asked(sum(results.qsize() for results in self.results))
        try:
            kind, result, spent = self.results[number].get(timeout=timeout_s)
        except queue.Empty:
            at = int(self.boards[number, 0])
            raise DataError(stall(f"data worker {number}", describe(), timeout_s, at, self.monitor)) from None
        self.monitor.add(spent)
        self.credits[number].release()
        if kind == "user error":
            raise result
        if kind == "bug":
            raise RuntimeError(f"data worker {number} failed on {describe()}:\n{result}")
        return result

    def stop(self) -> None:
        """End the threads once they have finished what they are at."""
        self.ended.set()
        for credit in self.credits:
            credit.release()


def stall(name: str, what: str, timeout_s: float, at: int, monitor: Monitor) -> str:
    """What to tell of a worker that is late and is in stage `at`."""
    where = f" and is in stage '{STAGES[at]}'" if at else ""
    return (
        f"{name} has not finished {what} within {timeout_s:g} s{where}{monitor.shares()}; "
        "the storage or this machine is too slow, or hangs: raise data.timeout_s or use more workers"
    )
