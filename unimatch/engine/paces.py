"""Which processes take longer than others for what each does by itself: its forward passes and its samples.

All take a step in the same time, since they wait for each other; these clocks leave the waiting out.
"""

from __future__ import annotations

import contextlib
import platform
import statistics
import time
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor

from unimatch.engine import waits
from unimatch.engine.runtime import Runtime

SLOW = 1.5  # times the median of all processes
LEAST = 0.02  # and of a step, so much longer: shorter than that nobody waits
LINES = 3  # log lines in a row
PARTS = {"own_forward_s": "its forward passes take", "own_load_s": "it waits for its samples"}
Item = TypeVar("Item")


class Paces:
    """The clocks of this process since the last log line, and what those of all processes say."""

    def __init__(self, runtime: Runtime, synced_norms: bool) -> None:
        """Call on all processes."""
        self._hosts = runtime.gather(platform.node())
        self._on_gpu = runtime.device.type == "cuda"
        # Forward passes in which processes wait for each other out of the host's sight tell nothing of one.
        shared = runtime.gathers or (self._on_gpu and synced_norms)
        self._told = [
            name for name in PARTS if runtime.world > 1 and not (shared and name == "own_forward_s")
        ]
        self._in_a_row = {name: [0] * runtime.world for name in PARTS}
        self._restart()

    def _restart(self) -> None:
        self._load_s = self._forward_s = 0.0
        self._passes: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def loaded(self, samples: Iterator[Item]) -> Iterator[Item]:
        """The same samples; how long each took to come is the wait for this process's own loader."""
        while True:
            began = time.perf_counter()
            try:
                item = next(samples)
            except StopIteration:
                return
            finally:
                self._load_s += time.perf_counter() - began
            yield item

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """Around one forward pass; no clock where nobody is told, as of a single process."""
        if "own_forward_s" not in self._told:
            yield
        elif self._on_gpu:
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            yield
            ended.record()
            self._passes.append((began, ended))
        else:
            start, waited = time.perf_counter(), waits.seconds()
            yield
            self._forward_s += time.perf_counter() - start - (waits.seconds() - waited)

    def own(self, steps: int) -> Tensor:
        """float64 [2]: seconds of each of the `steps` since the last call, in the order of PARTS. Waits
        for the device."""
        if self._passes:
            self._passes[-1][1].synchronize()
            self._forward_s = 1e-3 * sum(began.elapsed_time(ended) for began, ended in self._passes)
        found = torch.tensor([self._forward_s, self._load_s], dtype=torch.float64) / max(steps, 1)
        self._restart()
        return found

    def figures(self, table: Tensor) -> dict[str, dict[str, float]]:
        """The least, the median and the most of each part over all processes, and whose the most is; nothing
        of a single process.

        table: `own` of each process, [processes, 2].
        """
        return {
            name: {
                "min": min(column),
                "median": statistics.median(column),
                "max": max(column),
                "slowest_rank": column.index(max(column)),
            }
            for name, column in self._columns(table)
        }

    def _columns(self, table: Tensor) -> list[tuple[str, list[float]]]:
        columns = zip(PARTS, table.T.tolist(), strict=True)
        return [(name, column) for name, column in columns if name in self._told]

    def slow(self, table: Tensor, step_s: float) -> list[str]:
        """A line for each process that has now been slow for LINES log lines in a row."""
        lines = []
        for name, column in self._columns(table):
            usual = statistics.median_low(column)
            for rank, seconds in enumerate(column):
                is_slow = seconds > SLOW * usual and seconds - usual > LEAST * step_s
                self._in_a_row[name][rank] = self._in_a_row[name][rank] + 1 if is_slow else 0
                if self._in_a_row[name][rank] == LINES:
                    lines.append(
                        f"rank {rank} on {self._hosts[rank]} is slow, and all wait for it: {PARTS[name]} "
                        f"{1e3 * seconds:.4g} ms a step in {LINES} log lines in a row, the median of all "
                        f"processes is {1e3 * usual:.4g}"
                    )
        return lines
