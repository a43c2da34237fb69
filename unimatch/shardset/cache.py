"""A node's cache of remote files: each is fetched once, whole and verified; the least recently used ones go.

A folder of entries `<40 hex digits>.<bytes>`. One that is being written has `.part` behind its name and is
locked by its writer, so that others wait for it; a part that a killed process left is continued by the next.
Removing a file takes it from nobody who has it open. Other files in the folder are left alone.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from unimatch.errors import DataError

ENTRY = re.compile(r"[0-9a-f]{40}\.(?P<bytes>\d+)(?P<part>\.part)?")
LOCK = ".lock"
VARIABLE = "UNIMATCH_CACHE"
MEGABYTE = 10**6
GIGABYTE = 10**9


@dataclass(frozen=True)
class RemoteFile:
    """A file as an index describes it. `url` is the full one, without user, password and query."""

    url: str
    size: int  # bytes
    sha256: str

    @property
    def entry(self) -> str:
        """Its name in the cache: equal base names never meet, and a replaced file is another entry."""
        return f"{hashlib.sha256(f'{self.url} {self.sha256}'.encode()).hexdigest()[:40]}.{self.size}"


Fetch = Callable[[RemoteFile, int], None]  # complete the file behind a descriptor, and verify it


def default_folder() -> Path:
    """$UNIMATCH_CACHE, or unimatch in the user's cache folder."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unimatch"


@dataclass(frozen=True)
class Cache:
    """The cache in `folder`, of at most `limit_bytes`; shared by all processes of a node.

    Files that are being written, or read although they were removed, may exceed the limit for that time.
    """

    folder: Path = field(default_factory=default_folder)
    limit_bytes: int = 100 * GIGABYTE

    def open(self, wanted: RemoteFile, fetch: Fetch) -> int:
        """A descriptor of the file, fetched if it is not here. One process fetches, others wait for it.

        DataError: larger than the cache, or the folder cannot be used; and what `fetch` raises.
        """
        if wanted.size > self.limit_bytes:
            raise DataError(
                f"{wanted.url} is larger than the whole cache: {wanted.size / GIGABYTE:.3g} GB against "
                f"{self.limit_bytes / GIGABYTE:.3g} GB; raise data.cache.size_gb or pack smaller shards"
            )
        with self._usable():
            while True:
                number = self._opened(wanted)
                if number is None:
                    number = self._written(wanted, fetch, wait=True, idle_s=0)
                if number is not None:
                    return number

    def fetch_ahead(self, wanted: RemoteFile, fetch: Fetch, idle_s: float) -> bool:
        """Fetch a file unless another process does. False: there is no room, even if everything goes that
        nobody has used for `idle_s` seconds.
        """
        if wanted.size > self.limit_bytes:
            return False
        with self._usable():
            if self.holds(wanted):
                return True
            try:
                number = self._written(wanted, fetch, wait=False, idle_s=idle_s)
            except NoRoom:
                return False
            if number is not None:
                os.close(number)
            return True

    def holds(self, wanted: RemoteFile) -> bool:
        return (self.folder / wanted.entry).exists()

    def _opened(self, wanted: RemoteFile) -> int | None:
        """A descriptor of a finished entry, now the most recently used one."""
        path = self.folder / wanted.entry
        try:
            number = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        if os.fstat(number).st_size != wanted.size:  # a full disk or somebody's hand
            os.close(number)
            path.unlink(missing_ok=True)
            return None
        touch(number)
        return number

    def _written(self, wanted: RemoteFile, fetch: Fetch, wait: bool, idle_s: float) -> int | None:
        """A descriptor of the entry that this call wrote; None: another process has, or is about to."""
        path = self.folder / wanted.entry
        part = path.with_name(path.name + ".part")
        number = _locked(part, wait)
        if number is None:
            return None
        finished = False
        try:
            if path.exists():
                return None
            if not self._make_room(idle_s) and idle_s:
                raise NoRoom
            fetch(wanted, number)
            os.fsync(number)
            os.rename(part, path)
            touch(number)
            finished = True
            return number
        finally:
            if finished:
                fcntl.flock(number, fcntl.LOCK_UN)
            else:
                if path.exists() or os.fstat(number).st_size == 0:
                    part.unlink(missing_ok=True)
                _release(number)

    def _make_room(self, idle_s: float) -> bool:
        """Whether the cache is within its limit, parts counted as what they will be, after the entries least
        recently used have gone, as many as it takes; none that was used in the last `idle_s` seconds.
        """
        with self._one_at_a_time():
            found = []
            for name in os.listdir(self.folder):
                known = ENTRY.fullmatch(name)
                if known:
                    path = self.folder / name
                    with suppress(FileNotFoundError):  # renamed or removed meanwhile
                        found.append((path.stat().st_mtime_ns, int(known["bytes"]), path))
            total = sum(size for _, size, _ in found)
            newest = time.time_ns() - int(idle_s * 1e9)
            for used, size, path in sorted(found):
                if total <= self.limit_bytes or (idle_s and used > newest):
                    break
                if _removed(path):
                    total -= size
            return total <= self.limit_bytes

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        number = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(number, fcntl.LOCK_EX)
            yield
        finally:
            _release(number)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise DataError(
                f"the cache folder {self.folder} cannot be used: {error.strerror or error}; "
                + (
                    f"lower data.cache.size_gb ({self.limit_bytes / GIGABYTE:.3g} now), free some space, or "
                    if full
                    else ""
                )
                + f"set data.cache.folder or ${VARIABLE} to a folder on a local disk"
            ) from error


class NoRoom(Exception):
    """A file would only fit if files in use went."""


def touch(number: int) -> None:
    """Mark an open entry as used now."""
    now = time.time_ns()  # the file system's own clock has steps of milliseconds
    with suppress(PermissionError):  # another user's entry
        os.utime(number, ns=(now, now))


def _locked(part: Path, wait: bool) -> int | None:
    """A locked descriptor of a part, made if missing. None: another process holds it, or did and is done."""
    number = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if os.path.samestat(os.fstat(number), os.stat(part)):
            touch(number)
            return number
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        _release(number)
        raise
    _release(number)
    return None


def _removed(path: Path) -> bool:
    """Whether an entry is gone: it is removed, unless it is a part that a process is writing."""
    if path.suffix != ".part":
        path.unlink(missing_ok=True)
        return True
    number = _locked(path, wait=False)
    if number is None:
        return False
    try:
        path.unlink(missing_ok=True)
    finally:
        _release(number)
    return True


def _release(number: int) -> None:
    # Not by closing alone: a process forked meanwhile would keep the lock.
    fcntl.flock(number, fcntl.LOCK_UN)
    os.close(number)
