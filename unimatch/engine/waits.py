"""How long this process has waited for others inside a forward pass, as far as the host's clock sees it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

_waited_s = 0.0  # of this process, as time.process_time is


def seconds() -> float:
    """In all since the process began."""
    return _waited_s


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Around a message that all processes send each other. On a GPU it is only launched here: no wait."""
    global _waited_s
    began = time.perf_counter()
    yield
    _waited_s += time.perf_counter() - began
