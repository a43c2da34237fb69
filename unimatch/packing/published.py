"""Published lists of images, as they are, matched to the keys of a shard set.

A line is `image_path mask_path`, an image path, a file name or a key. Paths may hold spaces, percent signs
and backslashes, start above or below the folder that was packed, and may name a file that became several
samples (the slices of a volume).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from unimatch.annotations.names import composed
from unimatch.errors import summary
from unimatch.packing.names import sample_key
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.key_list import HEADER, read_keys, read_lines

FILE_TYPE = re.compile(r"\.(jpe?g|png|webp|bmp|tiff?|gif|h5|hdf5|npy|npz|nii|nii\.gz)$", re.IGNORECASE)


@dataclass(frozen=True)
class Matched:
    """The samples of a list: int64 rows, increasing, and what was not matched, a text a line of the list."""

    path: Path
    rows: np.ndarray
    unmatched: list[str]  # "list.txt:7: why: the line"
    lines: int  # all that are not empty
    by_name: int  # matched by the file name alone, in other folders than the list says


class KeyMatcher:
    """Finds the sample that a line means. Of several that fit, the only one in the subset `prefer` wins."""

    def __init__(self, shards: ShardSet, prefer: str) -> None:
        self._keys = shards.keys(np.arange(len(shards)))
        self._rows = {key: row for row, key in enumerate(self._keys)}
        # Rows by keys in the Unicode form NFC, where that is another one: lists may be composed otherwise.
        self._composed = {composed_key(key): row for key, row in self._rows.items() if "%" in key}
        self._named: dict[str, list[int]] = {}  # rows by the last part of the key
        self._slices: dict[str, list[int]] = {}  # rows of "<volume>/000", "<volume>/001" ... by the volume
        for row, key in enumerate(self._keys):
            parent, _, name = composed_key(key).rpartition("/")
            self._named.setdefault(name, []).append(row)
            if parent and name.isdigit():
                self._slices.setdefault(parent, []).append(row)
        self._preferred = set(shards.rows(prefer).tolist())
        self._has_mask = shards.index["label_size"] > 0

    def match(self, path: Path, needs_mask: bool) -> Matched:
        """The samples of a list file. With `needs_mask` a mask-free sample counts as not matched."""
        seen: dict[int, int] = {}  # row -> line
        unmatched: list[str] = []
        lines = by_name = 0
        texts = read_lines(path)
        if texts and texts[0].startswith(HEADER):
            read_keys(path)  # a list of ours: is it whole?
            texts[0] = ""
        for number, line in enumerate(texts, 1):
            if not line:
                continue
            lines += 1
            rows, how = self._find(line)
            problem = None
            if not rows:
                problem = "no sample has this name"
            elif len(rows) > 1 and how != "slices":
                problem = (
                    f"{len(rows)} samples could be meant ({summary((self._keys[row] for row in rows), 3)})"
                )
            elif rows[0] in seen:
                problem = f"the sample of line {seen[rows[0]]} again ({self._keys[rows[0]]})"
            elif needs_mask and not self._has_mask[rows].all():
                problem = f"its sample {self._keys[rows[0]]} has no mask"
            if problem:
                unmatched.append(f"{path}:{number}: {problem}: {line}")
                continue
            by_name += how == "name"
            seen.update(dict.fromkeys(rows, number))
        return Matched(path, np.array(sorted(seen), np.int64), unmatched, lines, by_name)

    def rows(self, line: str) -> list[int]:
        """The rows that a line means; none, where no sample has the name or, but for slices, several have."""
        rows, how = self._find(line)
        return rows if len(rows) == 1 or how == "slices" else []

    def _find(self, line: str) -> tuple[list[int], str]:
        """The rows that a line may mean, and how they were found; the first way that finds any decides."""
        keys = []
        for text in image_paths(line):
            for key in possible_keys(text):
                exact = self._rows.get(key, self._composed.get(composed_key(key)))
                if exact is not None:
                    return [exact], "key"
                keys.append(composed_key(key))
        for how, way in (
            ("path", self._same_end),
            ("slices", self._volume),
            ("name", self._same_name),
        ):
            for key in keys:
                rows = way(key)
                if len(rows) > 1 and how != "slices":
                    preferred = [row for row in rows if row in self._preferred]
                    rows = preferred if len(preferred) == 1 else rows
                if rows:
                    return rows, how
        return [], ""

    def _same_end(self, key: str) -> list[int]:
        """Keys of which one is the end of the other: `VOC2012/JPEGImages/x` and `JPEGImages/x`."""
        parts = key.split("/")
        found: dict[int, list[int]] = {}
        for row in self._same_name(key):
            mine = composed_key(self._keys[row]).split("/")
            shared = min(len(parts), len(mine))
            if parts[-shared:] == mine[-shared:]:
                found.setdefault(shared, []).append(row)
        return found[max(found)] if found else []

    def _volume(self, key: str) -> list[int]:
        return self._slices.get(key, [])

    def _same_name(self, key: str) -> list[int]:
        return self._named.get(key.rpartition("/")[2], [])


def composed_key(key: str) -> str:
    """The key of the same path in the Unicode form NFC, in which names that look alike are equal."""
    if "%" not in key:
        return key
    path = unquote(key)
    return key if composed(path) == path else sample_key(f"{composed(path)}.x")


def image_paths(line: str) -> Iterator[str]:
    """What may be the image's path in a line: up to a space behind a file type, the whole line, its first
    word. So paths with spaces are read, and what follows the path (a mask, a number) is not.
    """
    text = line.replace("\\", "/")
    starts = [text[: space.start()] for space in re.finditer(r"\s+", text)]
    yield from (start for start in starts if FILE_TYPE.search(start))
    yield text
    yield from starts[:1]


def possible_keys(text: str) -> Iterator[str]:
    """The keys that the text may stand for: of a file, of a path without file type, or a key itself."""
    path = text.removeprefix("./").lstrip("/")
    if FILE_TYPE.search(path):
        yield sample_key(path)
    yield path
    yield sample_key(f"{path}.x")
