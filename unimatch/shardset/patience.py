"""How often a remote file is tried for, how long in between, and what is said when it cannot be had."""

from __future__ import annotations

import asyncio
import logging
import random
import time

from unimatch.errors import DataError, masked

logger = logging.getLogger(__name__)

TRIES = 5  # failures in a row before it is an error
FIRST_WAIT_S = 1.0  # before the second try; doubled for each further one
WAITS = random.SystemRandom()  # not the generator that anything else draws from
PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, ImportError, NotImplementedError)
NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"}
WORTH_ANOTHER_TRY = {408, 425, 429}  # of the HTTP statuses below 500


class Unusable(Exception):
    """An answer that is not what was asked for."""


class Patience:
    """Waits after a failure, longer after each; DataError when it is the last, or waiting cannot help."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.failures = 0

    def renew(self) -> None:
        self.failures = 0

    def failed(self, error: Exception) -> None:
        self.failures += 1
        reason = masked(_reason(error))
        if _is_permanent(error):
            raise DataError(f"{self.what}: cannot be fetched: {reason}") from None
        if self.failures >= TRIES:
            raise DataError(
                f"{self.what}: cannot be fetched, given up after {self.failures} tries; the last: {reason}"
            ) from None
        wait = FIRST_WAIT_S * 2 ** (self.failures - 1) * WAITS.uniform(0.5, 1.5)
        logger.warning("%s: %s; try %d of %d in %.1f s", self.what, reason, self.failures + 1, TRIES, wait)
        time.sleep(wait)


def _is_permanent(error: Exception) -> bool:
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status not in WORTH_ANOTHER_TRY
    return isinstance(error, PERMANENT) or type(error).__name__ in NO_CREDENTIALS


def _reason(error: Exception) -> str:
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return f"HTTP status {status} {getattr(error, 'message', '')}".rstrip()
    if isinstance(error, FileNotFoundError):
        return "no such file (404)"
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):  # not the same in Python 3.10
        return "no answer in time"
    if isinstance(error, Unusable):
        return str(error)
    if isinstance(error, ImportError):
        return f"{error} (pip install unimatch[s3] or unimatch[gs] brings the packages for s3:// and gs://)"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
