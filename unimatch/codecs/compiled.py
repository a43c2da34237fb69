"""Loops that are compiled where the optional package numba is installed, and plain Python where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])
try:
    import numba

    from unimatch.codecs.numba_cache import disk_cache

    AVAILABLE = True
except ImportError:  # pip install unimatch[fast]
    AVAILABLE = False


def compiled(function: Function) -> Function:
    """`function` as machine code, kept on disk for the next process where a folder for it can be written.

    Integers wrap around and indices are not checked, as in C: callers pass what fits. Runs outside the
    interpreter lock.
    """
    if not AVAILABLE:
        return function
    made = numba.njit(nogil=True)(function)
    made._cache = disk_cache(function)  # what njit(cache=True) sets, but for errors that end a run
    return cast(Function, made)
