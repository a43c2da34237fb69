"""Signals that end a run in good order: they are remembered, and the trainer looks between two steps."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)  # save and leave


class Stopped(Exception):
    """A signal asked the run to stop; all is saved. `code`: the exit status that says which signal."""

    def __init__(self, number: int, step: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} after step {step}; saved: continue with --resume")
        self.code = 128 + number


class Remembered:
    """Inside, a signal that asks to stop ends nothing and is `number`, the last one; 0: none came."""

    def __init__(self) -> None:
        self.number = 0

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.number = number
