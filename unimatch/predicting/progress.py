"""How far a prediction is, and where its time goes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

LINE_S = 60.0  # between two lines where there is no terminal


class Progress:
    """A bar on a terminal, and else a line a minute: images, rate, and how long the rest will take.

    done: images that were done before. shown: on one process alone.
    """

    def __init__(self, total: int, done: int, shown: bool) -> None:
        self.total, self.before, self.shown = total, done, shown
        self.began = self.told = time.monotonic()
        on_terminal = shown and sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=done, unit="image", dynamic_ncols=True) if on_terminal else None

    def at(self, done: int) -> None:
        """So many images are done, those before included."""
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
        elif self.shown and time.monotonic() - self.told > LINE_S:
            self.told = time.monotonic()
            print(self.line(done, self.told - self.began), file=sys.stderr, flush=True)

    def line(self, done: int, seconds: float) -> str:
        rate = (done - self.before) / max(seconds, 1e-9)
        left = (self.total - done) / rate if rate else 0.0
        return f"{done} of {self.total} images, {rate:.3g} a second, {tqdm.format_interval(left)} to go"

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class Clock:
    """Seconds that a process spends in named parts of its work."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.began = time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - began

    @property
    def total(self) -> float:
        return time.perf_counter() - self.began
