"""What of a folder of results is done: kept beside them until all is, so that a killed prediction goes on.

Each process appends a line for each chunk whose results are written. Processes meet by files alone, as one
may be done hours before another.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from unimatch.durable import replace_file
from unimatch.errors import DataError
from unimatch.shardset.label_set import differing

FOLDER = ".predict"
BEGUN, DONE = "begun.json", "done.jsonl"
WAIT_S = 0.05
LOOK_S = 1.0  # between two looks at what other processes say
Entry = dict[str, Any]
"""{"chunk", "images"} of a chunk, and what else is to be told of it."""


class Journal:
    """One process's view; `begin` is called by rank 0 alone, before all others."""

    def __init__(self, out: Path, rank: int, world: int) -> None:
        self.folder = out / FOLDER
        self.rank, self.world = rank, world
        self.images = 0  # that all processes have done, as far as is known here
        self._file: IO[bytes] | None = None
        self._read: dict[Path, int] = {}  # bytes that were counted
        self._looked = 0.0

    def begin(self, created: Mapping[str, Any]) -> np.ndarray:
        """int64 [n]: the chunks that earlier processes have done. DataError: they made something else."""
        self.folder.mkdir(exist_ok=True)
        begun, mine = self.folder / BEGUN, json.dumps(created).encode()
        if begun.exists() and (others := differing(begun.read_bytes(), mine)):
            raise DataError(
                f"{self.folder.parent} holds results that were begun with another {', '.join(others)}: "
                "remove it, or choose another folder"
            )
        lines = {entry["chunk"]: entry for entry in self._entries()}
        text = "".join(json.dumps(lines[chunk]) + "\n" for chunk in sorted(lines))
        replace_file(self.folder / DONE, text.encode())
        for path in [*self.folder.glob("done-*.jsonl"), *self.folder.glob("ended-*")]:
            path.unlink()
        replace_file(begun, mine)
        return np.array(sorted(lines), np.int64)

    def add(self, entry: Entry) -> None:
        """A chunk whose results are written."""
        if self._file is None:
            self._file = open(self.folder / f"done-{self.rank}.jsonl", "wb")  # noqa: SIM115 - closed by `end`
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()

    def look(self) -> bool:
        """Whether another process has failed; brings `images` up to date on rank 0. Cheap: it looks now and
        then.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return False
        self._looked = now
        if self.rank == 0:
            self._count()
        return any(path.stat().st_size for path in self.folder.glob("ended-*"))

    def end(self, problem: str | None = None) -> None:
        """This process has nothing more to do, or cannot go on."""
        if self._file is not None:
            self._file.close()
        replace_file(self.folder / f"ended-{self.rank}", (problem or "").encode())

    def await_others(self, progress: Callable[[int], None]) -> None:
        """Returns when all processes have ended; `progress` is told how many images are done."""
        while len(list(self.folder.glob("ended-*"))) < self.world:
            time.sleep(WAIT_S)
            self.look()
            progress(self.images)

    def entries(self) -> Iterator[Entry]:
        """Of all chunks, in their order."""
        places = []
        for path in sorted(self.folder.glob("done*.jsonl")):
            with open(path, "rb") as file:
                at = 0
                for line in file:
                    places.append((json.loads(line)["chunk"], path, at))
                    at += len(line)
        opened = {path: open(path, "rb") for path in {path for _, path, _ in places}}  # noqa: SIM115
        try:
            for _, path, at in sorted(places):
                opened[path].seek(at)
                yield json.loads(opened[path].readline())
        finally:
            for file in opened.values():
                file.close()

    def remove(self) -> None:
        """All is done."""
        shutil.rmtree(self.folder)

    def _entries(self) -> Iterator[Entry]:
        """Of all files, in no order, without a line that was not written to its end."""
        for path in self.folder.glob("done*.jsonl"):
            with open(path, "rb") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        yield json.loads(line)

    def _count(self) -> None:
        for path in self.folder.glob("done*.jsonl"):
            with open(path, "rb") as file:
                file.seek(self._read.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read[path] = self._read.get(path, 0) + len(line)
                    self.images += json.loads(line)["images"]
