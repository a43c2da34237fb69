"""numba's cache of machine code on disk, of which no failure ends a run.

As numba has it, a full disk, a limit on file sizes or a file that a crash cut short raises out of the first
call of a compiled function, without the name of a file. Here such a call compiles, and the reason is told.
Imports numba: only `compiled` imports this.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from collections.abc import Callable
from typing import Any

from numba.core import caching
from numba.core.serialize import dumps

logger = logging.getLogger(__name__)
_told = False  # in this process, or in the one that forked it


def disk_cache(function: Callable[..., Any]) -> caching.FunctionCache | caching.NullCache:
    """The cache of `function` for a dispatcher; one that keeps nothing where no folder can be written."""
    try:
        return _Cache(function)
    except RuntimeError as error:  # numba tried the source's __pycache__ and the user's cache folder
        return _NoFolder(str(error))


class _Checked(caching.CompileResultCacheImpl):
    """What is kept of a function, behind its hash: machine code with a torn page would run, or crash."""

    def reduce(self, data: Any) -> tuple[bytes, bytes]:
        code = dumps(super().reduce(data))
        return hashlib.sha256(code).digest(), code

    def rebuild(self, target_context: Any, payload: tuple[bytes, bytes]) -> Any:
        digest, code = payload
        if hashlib.sha256(code).digest() != digest:
            raise ValueError("damaged")
        return super().rebuild(target_context, pickle.loads(code))


class _Cache(caching.FunctionCache):
    _impl_class = _Checked

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a damaged file can raise anything in pickle
            self._attempt(self.flush)  # an empty index; what is compiled next is kept again
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        save = super().save_overload
        self._attempt(lambda: save(sig, data))

    def _attempt(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
            _tell(f"{self.cache_path}: {reason}")


class _NoFolder(caching.NullCache):
    def __init__(self, reason: str) -> None:
        self._reason = reason

    def save_overload(self, sig: Any, data: Any) -> None:
        _tell(self._reason)


def _tell(reason: str) -> None:
    """Once: of a run's processes on a host the first one speaks, and all have the same folders."""
    global _told
    if not _told and os.environ.get("LOCAL_RANK", "0") == "0":
        logger.warning(
            "compiled loops cannot be kept on disk (%s): each start compiles them again, which takes some "
            "seconds. NUMBA_CACHE_DIR names another folder",
            reason,
        )
    _told = True
