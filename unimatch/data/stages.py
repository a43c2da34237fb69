"""Where data workers spend their time: stages that name themselves, and what is known of all workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

# What a worker may be doing; 0: nothing of this, such as stacking and sending.
STAGES = ("", "read", "decode", "views")

_own = threading.local()


@contextmanager
def watch(spent: dict[str, float], board: np.ndarray | None = None) -> Iterator[None]:
    """Inside, `stage` adds the seconds of this thread to `spent` and says in `board[0]` what it is in."""
    _own.spent, _own.board = spent, board
    try:
        yield
    finally:
        _own.spent = _own.board = None


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Inside, this thread is in that stage. Stages do not nest."""
    spent, board = getattr(_own, "spent", None), getattr(_own, "board", None)
    if board is not None:
        board[0] = STAGES.index(name)
    began = time.perf_counter()
    try:
        yield
    finally:
        if spent is not None:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - began
        if board is not None:
            board[0] = 0


@dataclass
class Monitor:
    """What is known of a pool of workers. `spent`: seconds in each stage, of all workers, since `figures`."""

    spent: dict[str, float] = field(default_factory=dict)
    results: int = 0
    waiting: int = 0  # results that were ready, summed over the times that one was asked for
    total: dict[str, float] = field(default_factory=dict)  # as `spent`, since the start

    def asked(self, ready: int) -> None:
        self.results += 1
        self.waiting += ready

    def add(self, spent: dict[str, float]) -> None:
        for name, seconds in spent.items():
            self.spent[name] = self.spent.get(name, 0.0) + seconds
            self.total[name] = self.total.get(name, 0.0) + seconds

    def figures(self) -> dict[str, float]:
        """Since the last call: `queue`, the mean number of results that were ready when one was asked for,
        and `<stage>_s`, the mean seconds of a worker's time a step.
        """
        steps = max(self.results, 1)
        figures = {"queue": self.waiting / steps}
        figures |= {f"{name}_s": self.spent.get(name, 0.0) / steps for name in STAGES[1:]}
        self.results = self.waiting = 0
        self.spent.clear()  # the same object: `watch` may hold it
        return figures

    def shares(self) -> str:
        """For a message: the share of each stage in the workers' time so far; empty before the first."""
        whole = sum(self.total.values())
        if not whole:
            return ""
        ordered = sorted(self.total.items(), key=lambda pair: -pair[1])
        return " (so far: " + ", ".join(f"{name} {100 * part / whole:.0f} %" for name, part in ordered) + ")"
