"""Remote files that are fetched in the background, before somebody reads them."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from unimatch.errors import DataError
from unimatch.shardset.cache import Cache, RemoteFile

logger = logging.getLogger(__name__)

AHEAD_FILES = 4  # waiting to be fetched
AHEAD_IDLE_S = 60.0  # what was used more recently does not go for what will be used
AHEAD_PAUSE_S = 30.0  # after there was no room or no file


class Background:
    """Fetches files in a thread that lives as long as some wait; a forked process starts with none."""

    def __init__(self, fetch: Callable[[RemoteFile, int], None], cache: Cache) -> None:
        self.fetch = fetch
        self.cache = cache
        self._reset()

    def _reset(self) -> None:
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.waiting: deque[RemoteFile] = deque()
        self.current: RemoteFile | None = None
        self.not_before = 0.0

    def add(self, wanted: Sequence[RemoteFile]) -> None:
        if self.process != os.getpid():  # the parent's thread is not here, and its lock may be held for ever
            self._reset()
        if time.monotonic() < self.not_before:
            return
        missing = [one for one in wanted if not self.cache.holds(one)]
        with self.lock:
            for one in missing:
                if one != self.current and one not in self.waiting and len(self.waiting) < AHEAD_FILES:
                    self.waiting.append(one)
            if self.waiting and self.current is None:
                self.current = self.waiting.popleft()
                threading.Thread(target=self._work, name="shards ahead", daemon=True).start()

    def _work(self) -> None:
        while self.current is not None:
            try:
                worked = self.cache.fetch_ahead(self.current, self.fetch, AHEAD_IDLE_S)
            except DataError as error:  # told when somebody needs the file
                logger.debug("not fetched ahead: %s", error)
                worked = False
            with self.lock:
                if not worked:
                    self.waiting.clear()
                    self.not_before = time.monotonic() + AHEAD_PAUSE_S
                self.current = self.waiting.popleft() if self.waiting else None
