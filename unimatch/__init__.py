"""Semi-supervised semantic segmentation, from one CPU to many GPU nodes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from unimatch.errors import UserError

if TYPE_CHECKING:
    from unimatch.interface import Run, Sample, Samples, fit, load, open_shards

# Before torch is imported, whose OpenMP reads it once: threads that wait for one another sleep. By default
# they spin, and where other processes want the cores too, a step takes ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
__all__ = ["Run", "Sample", "Samples", "UserError", "fit", "load", "open_shards"]


def __getattr__(name: str) -> Any:
    """The Python interface, imported when it is first used: torch takes seconds, `import unimatch` none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from unimatch import interface

    return getattr(interface, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
