"""Decoded images and labels of labelled samples, kept in memory that all processes of a node share.

The memory has no name, so that nothing is left behind however the processes end, and its pages come into
being when they are written.
"""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)
ALIGNMENT = 64
BOOT = Path("/proc/sys/kernel/random/boot_id")  # another one on each host, whatever their names


def node_memory(size: int, gather: Callable[[Any], list[Any]]) -> mmap.mmap | None:
    """`size` bytes, zeros at first, which all processes of a node map; None if 0, or if that cannot be.

    Call it on all processes of the run: `gather` gives the value of each to all. The first process of a node
    has made the memory, the others open it through its entry in /proc.
    """
    file = node = None
    problem = ""
    if size:
        try:
            node = BOOT.read_text() + os.readlink("/proc/self/ns/pid")
            file = _unnamed(size)
        except (OSError, AttributeError) as error:  # not Linux; or a limit on the size of files
            problem = str(error)
    found = gather((node, None if file is None else f"/proc/{os.getpid()}/fd/{file}"))
    memory = None
    if file is not None:
        try:
            with open(next(path for at, path in found if at == node and path), "r+b", 0) as theirs:
                memory = mmap.mmap(theirs.fileno(), 0)
        except OSError as error:
            problem = str(error)
    gather(None)  # the first one keeps its file open until all have come here
    if file is not None:
        os.close(file)
    if problem:
        logger.warning("data.decoded_mb: no memory to share with this node's processes (%s)", problem)
    return memory


def _unnamed(size: int) -> int:
    """A file in memory, as a descriptor."""
    file = os.memfd_create("unimatch decoded")
    try:
        os.ftruncate(file, size)
    except OSError:
        os.close(file)
        raise
    return file


class Decoded:
    """What has been decoded of the first of `rows` that fit into `memory`, each in a slot of its own.

    Slots follow from the index, so that all processes agree on them. A slot counts once its mark is set: the
    sum of its bytes, taken as 64-bit words. No order in which other cores see slot and mark is assumed (on
    ARM the mark may come first): each process adds the slot up when it first meets the mark, and takes it
    for empty until all has come. Slots only ever go from zeros to their one content, so what has been seen
    whole stays whole, two writers of one sample do no harm, and one that was killed half-way has set no mark.
    """

    def __init__(
        self, memory: mmap.mmap, index: np.ndarray, rows: Sequence[int] | np.ndarray, one: np.ndarray
    ):
        """index: of the shard set. one: an image of one pixel as it is decoded, [..., 1, 1, C]."""
        self.memory = np.frombuffer(memory, np.uint8)
        self.one = one
        self.rows = np.asarray(rows)
        self.sizes = np.stack([index[side][self.rows].astype(np.int64) for side in ("height", "width")], 1)
        lengths = _aligned(self.sizes.prod(1) * (one.nbytes + 1))  # the image, and behind it the label
        self.starts = _aligned(np.array(8 * len(self.rows))) + np.cumsum(lengths) - lengths
        self.ends = self.starts + lengths
        count = int(np.searchsorted(self.ends, len(self.memory), "right"))
        self.numbers = {row: number for number, row in enumerate(self.rows[:count].tolist())}
        self.marks = self.memory[: 8 * count].view(np.uint64)
        self.whole: set[int] = set()  # slots that this process has seen whole

    def __contains__(self, row: int) -> bool:
        """Whether a row has a slot, filled or not."""
        return row in self.numbers

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Those of `rows` that have to be read from the shards still."""
        return np.array([row for row in rows.tolist() if not self._mark(row)], rows.dtype)

    def get(self, row: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The image and the label of a row that has a slot, to be read only; None: not here yet."""
        mark, number = self._mark(row), self.numbers[row]
        if mark and number not in self.whole and mark == _sum(self._slot(number)):
            self.whole.add(number)
        if number not in self.whole:
            return None
        image, label = self._arrays(number)
        image.flags.writeable = label.flags.writeable = False
        return image, label

    def put(self, row: int, image: np.ndarray, label: np.ndarray) -> None:
        """Keep a sample that is readable and checked, whole. Of one row always the same."""
        number = self.numbers[row]
        places = self._arrays(number)
        assert places[0].shape == image.shape and places[0].dtype == image.dtype, "a part, or another kind"
        places[0][...], places[1][...] = image, label
        self.marks[number] = _sum(self._slot(number))

    def describe(self) -> str:
        """For people: how many samples fit."""
        used = int(self.ends[len(self.numbers) - 1]) if self.numbers else 0
        return f"{len(self.numbers)} of {len(self.rows)} labelled samples, {used / 1e6:.3g} MB a node"

    def _mark(self, row: int) -> int:
        return int(self.marks[self.numbers[row]]) if row in self.numbers else 0

    def _slot(self, number: int) -> np.ndarray:
        return self.memory[self.starts[number] : self.ends[number]]

    def _arrays(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        height, width = self.sizes[number].tolist()
        slot, pixels = self._slot(number), height * width
        shape = (*self.one.shape[:-3], height, width, self.one.shape[-1])
        image = slot[: pixels * self.one.nbytes].view(self.one.dtype).reshape(shape)
        return image, slot[image.nbytes : image.nbytes + pixels].reshape(height, width)


def _aligned(size: np.ndarray) -> np.ndarray:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _sum(slot: np.ndarray) -> int:
    """Never 0, which marks an empty slot."""
    return int(slot.view(np.uint64).sum()) | 1
