"""Images on their way to a network: files, or samples of a shard set, by chunks of neighbours.

Chunks follow from the list of images and the size of a batch alone, so that the batches are the same for any
number of processes and workers, and after a restart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from unimatch.codecs.volume_files import is_volume
from unimatch.data.evaluation import neighbours
from unimatch.data.load import load_image
from unimatch.errors import DataError, UserError, of_system, summary
from unimatch.packing.names import sample_key
from unimatch.predicting.inputs import Inputs
from unimatch.predicting.reading import Reader, Size
from unimatch.predicting.results import LARGE
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.key_list import read_keys
from unimatch.tasks.base import Task

EXPECT_SAMPLES = 1000  # so many samples before it is read is a shard behind a URL fetched, if there is room

Group = tuple[list[int], np.ndarray, list[Size]]
"""(their numbers in the source, [B, ..., H, W, C] as the task decodes them, the sizes of what ids are for)"""


@dataclass
class Chunk:
    """What was read of a chunk. failed: why, by number. late: left to the process that predicts: too large to
    be sent by a worker, or no picture.
    """

    groups: list[Group]
    failed: dict[int, str]
    late: list[int]


class Source(Protocol):
    """Images, each with a number from 0."""

    def names(self) -> list[str]:
        """What each image is called, unique."""

    def path(self, number: int) -> Path:
        """What the names of its results begin with."""

    def where(self, number: int) -> str:
        """Its place, in messages."""

    def ends(self, batch: int) -> np.ndarray:
        """int64 [chunks]: the number behind the last image of each chunk, which has at most `batch`."""

    def read(self, numbers: Sequence[int]) -> Chunk:
        """Some neighbours; a worker does it."""


class Files:
    """Files of a folder, of each date in one, as `find_inputs` found them."""

    def __init__(self, reader: Reader, inputs: Inputs) -> None:
        self.reader = reader
        self.folders = inputs.folders
        self.paths = inputs.names

    def names(self) -> list[str]:
        return [path.as_posix() for path in self.paths]

    def path(self, number: int) -> Path:
        return self.paths[number]

    def where(self, number: int) -> str:
        return str(self.files(number)[0])

    def files(self, number: int) -> list[Path]:
        """Of each date."""
        return [folder / self.paths[number] for folder in self.folders]

    def ends(self, batch: int) -> np.ndarray:
        return np.minimum(np.arange(batch, len(self.paths) + batch, batch), len(self.paths))

    def read(self, numbers: Sequence[int]) -> Chunk:
        found, late = [], []
        failed: dict[int, str] = {}
        for number in numbers:
            try:
                if not self.is_picture(number) or self.reader.is_large(self.files(number), LARGE):
                    late.append(number)
                    continue
                image, size = self.reader.open_file(*self.files(number))
                found.append((number, self.reader.batched(image)[0][0], size))
            except DataError as error:
                failed[number] = str(error)
            except OSError as error:
                failed[number] = of_system(error)
        return Chunk(_of_one_size(found), failed, late)

    def is_picture(self, number: int) -> bool:
        """Whether it is one picture, and neither a volume nor a scene of bands."""
        return self.reader.task.bands is None and not is_volume(self.paths[number])

    def late(self, number: int) -> Group:
        """A picture that `read` left. DataError, OSError: it cannot be read."""
        image, size = self.reader.open_file(*self.files(number))
        return [number], self.reader.batched(image)[0], [size]


class Samples:
    """Rows of a shard set, in their order. No label is opened."""

    def __init__(self, shards: ShardSet, rows: np.ndarray, task: Task) -> None:
        self.shards = shards
        self.rows = rows
        self.decode = task.decode

    def names(self) -> list[str]:
        return self.shards.keys(self.rows)

    def path(self, number: int) -> Path:
        return Path(self.where(number))

    def where(self, number: int) -> str:
        return self.shards.keys(self.rows[number : number + 1])[0]

    def ends(self, batch: int) -> np.ndarray:
        """Of one size each."""
        return np.cumsum([len(one) for one in neighbours(self.shards, self.rows, batch)])

    def read(self, numbers: Sequence[int]) -> Chunk:
        if self.shards.is_remote:
            self.shards.expect(self.rows[numbers[0] : numbers[0] + EXPECT_SAMPLES])
        found, failed = [], {}
        for number in numbers:
            try:
                image = load_image(self.shards, int(self.rows[number]), self.decode)
                found.append((number, image.pixels, (image.height, image.width)))
            except DataError as error:
                failed[number] = str(error)
        return Chunk(_of_one_size(found), failed, [])


def only(inputs: Inputs, path: Path) -> list[Path]:
    """The images that a list names: paths, or keys as packing makes them. UserError: one is not there."""
    by_name: dict[str, Path] = {}
    for name in inputs.names:
        by_name[sample_key(name.as_posix())] = name
    by_name |= {name.as_posix(): name for name in inputs.names}
    wanted = read_keys(path)
    lost = [line for line in wanted if line not in by_name]
    if lost:
        raise UserError(
            f"--only {path}: {len(lost)} of its {len(wanted)} lines name no image in {inputs.folders[0]}: "
            f"{summary(lost, 3)}; a line is a path from that folder, or a key, which begins there too"
        )
    return sorted({by_name[line] for line in wanted})


def _of_one_size(images: list[tuple[int, np.ndarray, Size]]) -> list[Group]:
    """Groups of images of one shape, in the order of their first ones."""
    by_shape: dict[tuple[int, ...], list[tuple[int, np.ndarray, Size]]] = {}
    for one in images:
        by_shape.setdefault(one[1].shape, []).append(one)
    return [
        (
            [number for number, _, _ in group],
            np.stack([image for _, image, _ in group]),
            [s for _, _, s in group],
        )
        for group in by_shape.values()
    ]
