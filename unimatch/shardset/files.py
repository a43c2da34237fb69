"""The open shards of a process: opened on first use, shared by threads, closed when nobody reads them."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from unimatch.shardset.cache import touch

logger = logging.getLogger(__name__)

TOUCH_S = 30.0  # between marks of use on a cached file
IDLE_S = 60.0  # after which a file that the cache removed is closed


class OpenFile:
    """A descriptor, closed with the last reference to it: never while a thread reads from it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.used = self.touched = time.monotonic()

    def __del__(self) -> None:
        os.close(self.number)


class OpenShards:
    """The `limit` most recently used shards. `cached`: they lie in a cache, which may remove them.

    A removed one is kept while it is in use, so that a cache smaller than what is read at the same time costs
    disk space but does not fetch a shard for each sample.
    """

    def __init__(self, open_shard: Callable[[int], int], limit: int, cached: bool) -> None:
        self._open = open_shard
        self._limit = limit
        self._cached = cached
        self._files: OrderedDict[int, OpenFile] = OrderedDict()
        self._lock = threading.Lock()
        self._warned = False

    def __contains__(self, shard: int) -> bool:
        return shard in self._files

    def __len__(self) -> int:
        return len(self._files)

    def get(self, shard: int) -> OpenFile:
        """The open shard; it may have to be fetched first. Hold on to it while reading."""
        with self._lock:
            if shard in self._files:
                self._files.move_to_end(shard)
                return self._in_use(self._files[shard])
        file = OpenFile(self._open(shard))  # may take minutes, so without the lock
        with self._lock:
            self._files[shard] = file
            self._files.move_to_end(shard)
            if self._cached:
                self._close_removed()
            while len(self._files) > self._limit:
                self._files.popitem(last=False)
        return file

    def close(self) -> None:
        """Close all; they open again when they are read."""
        with self._lock:
            self._files.clear()

    def _in_use(self, file: OpenFile) -> OpenFile:
        if self._cached:
            file.used = time.monotonic()
            if file.used - file.touched > TOUCH_S:
                file.touched = file.used
                touch(file.number)
        return file

    def _close_removed(self) -> None:
        """Give back the disk space of files that the cache removed and that nobody uses."""
        now = time.monotonic()
        for shard, file in list(self._files.items()):
            if os.fstat(file.number).st_nlink > 0:
                continue
            if now - file.used > IDLE_S:
                del self._files[shard]
            elif not self._warned:
                self._warned = True
                logger.warning(
                    "the cache is smaller than the shards that are read at the same time: some were removed "
                    "in use, take disk space until they are not, and are fetched again by others; raise "
                    "data.cache.size_gb"
                )
