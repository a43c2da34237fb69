"""Shard sets behind a URL (https, s3, gs, hf, any fsspec knows), read through the node's cache.

A file is fetched in ranges: a lost connection costs a part of it, and what a killed process left is
continued. Whatever arrives is compared with size and hash of the index before anybody reads it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import fsspec
import numpy as np
from fsspec.config import conf as fsspec_settings

from unimatch.errors import DataError, masked
from unimatch.shardset import index as shard_index
from unimatch.shardset.background import Background
from unimatch.shardset.cache import Cache, RemoteFile
from unimatch.shardset.patience import Patience, Unusable

logger = logging.getLogger(__name__)

CONNECT_S = 15.0
STALL_S = 30.0  # without a byte
RANGE_BYTES = 32 << 20
SMALLEST_RANGE_BYTES = 64 << 10
SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):")
# Kept for ever: where a forked process collects its parent's client, it waits a second for the event loop,
# which is not there, to close the connections.
CLIENTS: set[fsspec.AbstractFileSystem] = set()


def is_url(place: object) -> bool:
    """Whether it is a URL rather than a path. DataError for what is neither, such as `pipe:` commands."""
    text = str(place)
    found = SCHEME.match(text)
    if not found:
        return False
    scheme = found["scheme"]
    if "::" in text or scheme not in fsspec.available_protocols():
        raise DataError(
            f"{masked(text)}: no folder, and no URL of a known kind such as https://, s3://, gs:// or hf:// "
            "(commands such as pipe: are not run)"
        )
    if not text.startswith(f"{scheme}://"):
        raise DataError(
            f"{masked(text)}: a URL has two slashes behind {scheme}:, or this command takes a folder only"
        )
    return True


def holds_credentials(url: str) -> bool:
    parts = urlsplit(url)
    return parts.password is not None or (parts.scheme in ("http", "https") and parts.username is not None)


class RemoteFolder:
    """The files of one folder behind a URL. Its text is the URL without credentials. Picklable."""

    def __init__(self, url: str, cache: Cache) -> None:
        self.url = url
        self.cache = cache
        self._background = Background(self._fetch, cache)

    def __str__(self) -> str:
        return masked(self.url).rstrip("/")

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "cache": self.cache}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["url"], state["cache"])  # type: ignore[misc]

    def index(self) -> tuple[dict[str, Any], np.ndarray]:
        """index.json as it is now, and the rows of the index.npy that it names, verified."""
        name = shard_index.INDEX_JSON
        info = shard_index.parse(self.fresh(name), f"{self}/{name}")
        rows = self.rows(info)
        shard_index.check_count(info, rows, str(self))
        return info, rows

    def rows(self, info: dict[str, Any]) -> np.ndarray:
        """The rows of the index.npy that an index.json names; mapped from the cache."""
        entry = info["index"]
        number = self.open(self.file(shard_index.INDEX_NPY, entry["bytes"], entry["sha256"]))
        try:
            return shard_index.load_rows(Path(f"/dev/fd/{number}"))  # also if the cache removes it meanwhile
        finally:
            os.close(number)

    def fresh(self, name: str) -> bytes:
        """A small file as it is now, not from the cache. DataError: not there, or not after several tries."""
        patience = Patience(masked(self._url(name)))
        while True:
            try:
                files, path = self._files(name)
                data: bytes = files.cat_file(path)
                return data
            except Exception as error:
                patience.failed(error)

    def file(self, name: str, size: int, sha256: str) -> RemoteFile:
        """A file of the folder as an index describes it."""
        parts = urlsplit(self._url(name))
        return RemoteFile(
            urlunsplit((parts.scheme, parts.netloc.split("@")[-1], parts.path, "", "")), size, sha256
        )

    def open(self, wanted: RemoteFile) -> int:
        """A descriptor of the verified file, from the cache or fetched now."""
        return self.cache.open(wanted, self._fetch)

    def ahead(self, wanted: Sequence[RemoteFile]) -> None:
        """Fetch files in the background, in this order; those for which there is no place are left out."""
        self._background.add(wanted)

    def _url(self, name: str) -> str:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https"):  # where ? and # are characters like others
            return f"{self.url.rstrip('/')}/{name}"
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}", fragment=""))

    def _files(self, name: str) -> tuple[fsspec.AbstractFileSystem, str]:
        """The client of this process, and its path of a file."""
        url = self._url(name)
        options: dict[str, Any] = {}
        scheme = urlsplit(url).scheme
        if scheme in ("http", "https"):
            from aiohttp import ClientTimeout

            options["client_kwargs"] = {
                "timeout": ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=STALL_S),
                "trust_env": True,  # proxies of the environment, passwords of ~/.netrc
                "headers": {"Accept-Encoding": "identity"},
                **fsspec_settings.get("http", {}).get("client_kwargs", {}),
                **fsspec_settings.get("https", {}).get("client_kwargs", {}),
            }
        files, path = fsspec.url_to_fs(url, use_listings_cache=False, **options)
        CLIENTS.add(files)
        return files, path

    def _fetch(self, wanted: RemoteFile, number: int) -> None:
        """Complete the file behind a descriptor. DataError: it cannot be had, or is not as in the index."""
        name = wanted.url.rsplit("/", 1)[-1]
        shown = masked(self._url(name))
        patience = Patience(shown)
        for _ in range(2):
            state = _kept(number, wanted.size)
            self._rest(wanted, name, number, state, patience)
            if state.hexdigest() == wanted.sha256:
                return
            os.ftruncate(number, 0)
            logger.warning("%s: arrived with another hash than the index says; fetching it again", shown)
        raise DataError(
            f"{shown}: the server gives other bytes than its index describes, twice "
            f"(sha256 {state.hexdigest()[:16]}, not {wanted.sha256[:16]}); upload the whole set again, "
            "index.json last"
        )

    def _rest(
        self, wanted: RemoteFile, name: str, number: int, state: hashlib._Hash, patience: Patience
    ) -> None:
        """Append what is missing to the file and to the hash."""
        step = RANGE_BYTES
        files = None
        done = os.fstat(number).st_size
        while done < wanted.size:
            end = min(done + step, wanted.size)
            try:
                if files is None:
                    files, path = self._files(name)
                data = files.cat_file(path, start=done, end=end)
                if len(data) == wanted.size:  # the server does not know ranges
                    data = data[done:]
                elif len(data) != end - done:
                    raise Unusable(f"{len(data)} bytes came for bytes {done} to {end} of {wanted.size}")
            except Exception as error:
                patience.failed(error)
                step = max(step // 4, SMALLEST_RANGE_BYTES)
                files = None
                continue
            patience.renew()
            step = min(step * 2, RANGE_BYTES)
            state.update(data)
            _write(number, data, done)
            done += len(data)


def _kept(number: int, size: int) -> hashlib._Hash:
    """The hash of what the file holds already; more than it may hold is dropped."""
    if os.fstat(number).st_size > size:
        os.ftruncate(number, 0)
    state = hashlib.sha256()
    done = 0
    while data := os.pread(number, 1 << 20, done):
        state.update(data)
        done += len(data)
    return state


def _write(number: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(number, view, offset)
        view, offset = view[written:], offset + written
