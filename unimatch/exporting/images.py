"""The images that a file is compared on and calibrated with: samples of a shard set, or people's files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from unimatch.data.evaluation import image_loader
from unimatch.engine.evaluate import eval_batches
from unimatch.engine.restore import Restored
from unimatch.engine.run_data import open_shards, require_dates, training_samples
from unimatch.engine.runtime import Runtime
from unimatch.engine.selection import evenly, select
from unimatch.errors import DataError, UserError
from unimatch.exporting.compare import Images
from unimatch.predicting.inputs import find_inputs, suffixes_of
from unimatch.shardset.archive import ShardSet

BATCH = 4


class Reads(Protocol):
    """What reads a file as a run's network takes it."""

    def read(self, path: str | Path, second: str | Path | None = None) -> np.ndarray: ...


class Samples:
    """Of the run's shards, or other ones; name: a subset or key list (None: the run's data.val)."""

    def __init__(self, found: Restored, place: str | None, name: str | None, runtime: Runtime) -> None:
        data = found.config.data
        name = name or data.val
        if name is None:
            raise UserError(
                "the run was trained without data.val: name samples with --data, or give --images"
            )
        self.found, self.runtime = found, runtime
        try:
            self.shards: ShardSet = open_shards(place or data.shards, data.cache)
        except DataError as error:
            raise UserError(f"{error}; --images checks the file on pictures of a folder instead") from error
        self.selection = select(self.shards, name)
        require_dates(self.selection, found.task)
        self.told = f"{name} of {self.shards.root}"

    def batches(self) -> Iterator[Images]:
        """Each image once."""
        timeout_s = self.found.config.data.timeout_s
        for batch in eval_batches(self.selection, self.found.task, self.runtime, BATCH, 0, timeout_s)():
            label = batch["label"]
            yield Images(batch["image"].numpy(), None if label is None else label.numpy(), batch["keys"])

    def unlabeled(self, count: int) -> Iterator[np.ndarray]:
        """Some of the run's unlabelled images, evenly out of its list."""
        lists = training_samples(self.found.config, self.shards)
        chosen = lists.labeled if lists.unlabeled is None else lists.unlabeled.sets[0]
        rows = [rows[None] for rows in evenly(chosen.rows, count)]
        timeout_s = self.found.config.data.timeout_s
        loader = image_loader(
            chosen.shards, rows, workers=0, timeout_s=timeout_s, decode=self.found.task.decode
        )
        for batch in loader:
            yield batch["image"].numpy()


class Files:
    """Of a folder, with the second date of each in another one for pairs."""

    def __init__(self, found: Restored, run: Reads, images: Path, second: Path | None, out: Path) -> None:
        task = found.task
        self.inputs = find_inputs(images, second, out, task.dates, suffixes_of(task))
        self.volumes = task.channels == 1 and task.bands is None
        self.run = run
        self.told = str(images)

    def batches(self) -> Iterator[Images]:
        """Each image once; a volume's slices together."""
        for name in self.inputs.names:
            yield Images(self._read(name), None, [str(name)])

    def unlabeled(self, count: int) -> Iterator[np.ndarray]:
        """Some of them, evenly out of all."""
        for name in evenly(np.array(self.inputs.names, dtype=object), count):
            yield self._read(name)

    def _read(self, name: Path) -> np.ndarray:
        image = self.run.read(*(folder / name for folder in self.inputs.folders))
        return image if self.volumes and image.ndim == 4 else image[None]
