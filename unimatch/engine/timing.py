"""How long steps take, and their parts."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unimatch.engine.replicas import Replicas


class StepClock:
    """Clock of the steps since the last log line, and of their wait for data."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.restart()

    def restart(self) -> None:
        """Forgets what was: an evaluation or a checkpoint counts in no step."""
        self.began = self.waiting = time.perf_counter()
        self.cpu = time.process_time()
        self.waited = 0.0
        self.steps = 0

    def data_ready(self) -> None:
        """A step has its samples on every process."""
        self.waited += time.perf_counter() - self.waiting
        self.steps += 1

    def step_done(self) -> None:
        """From now on the next step waits for its samples."""
        self.waiting = time.perf_counter()

    def figures(self, images: int) -> dict[str, float]:
        """Rates since the last call; `images` is the number in one global step."""
        spent = time.perf_counter() - self.began
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
        figures = {
            "images_per_s": images * self.steps / spent,
            "step_s": spent / max(self.steps, 1),
            "data_wait": self.waited / spent,
            "memory_gib": peak / 2**30,
        }
        if self._device.type == "cpu":  # of all threads of this process, also while other programs run
            figures["cpu_s"] = (time.process_time() - self.cpu) / max(self.steps, 1)
        self.restart()
        return figures


class Timed:
    """A layout (engine.replicas.Replicas or engine.zero.Sharded) with a clock around each part of a step.

    Opt-in (log.timing), since waiting for the device costs speed.
    """

    def __init__(self, layout: Any, device: torch.device) -> None:
        self._layout: Replicas = layout
        self._device = device
        self._restart()

    def _restart(self) -> None:
        self._seconds = {"forward_s": 0.0, "backward_s": 0.0, "update_s": 0.0}
        self._steps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layout, name)

    def _timed(self, part: str, call: Callable[..., Any], *args: Any) -> Any:
        began = self._now()
        result = call(*args)
        self._seconds[part] += self._now() - began
        return result

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def __call__(self, *inputs: Any) -> Any:
        return self._timed("forward_s", self._layout, *inputs)

    def backward(self, loss: Tensor) -> None:
        self._timed("backward_s", self._layout.backward, loss)

    def update(self) -> Tensor | None:
        self._steps += 1
        norm: Tensor | None = self._timed("update_s", self._layout.update)
        return norm

    def figures(self) -> dict[str, float]:
        """Seconds a step since the last call; DDP sends gradients, and ZeRO also updates, in backward."""
        steps = max(self._steps, 1)
        figures = {name: seconds / steps for name, seconds in self._seconds.items()}
        self._restart()
        return figures
