"""Shard sets: tars that the webdataset package reads unchanged, with an index: one `pread` per file.

Layout: `<root>/<subset>-00000.tar ...`, `index.npy` (where each sample lies) and `index.json` (everything
else). A sample is the member `<key>.<image_ext>`, or `<key>.a.<image_ext>` and `<key>.b.<image_ext>` of two
dates, and, unless it is mask-free, `<key>.label.npy.zst` or `<key>.label.png` right behind. This module
reads; `writer` writes and `index` holds what both know of the format.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from unimatch.codecs.bands import Bands
from unimatch.errors import DataError, summary
from unimatch.shardset import index as shard_index
from unimatch.shardset.cache import Cache, RemoteFile
from unimatch.shardset.files import OpenShards
from unimatch.shardset.index import INDEX_JSON, Sample
from unimatch.shardset.key_list import read_keys
from unimatch.shardset.names import IMAGE_EXTENSIONS, IMAGES, look_alike
from unimatch.shardset.remote import RemoteFolder, is_url
from unimatch.shardset.scan import scan_tar
from unimatch.shardset.writer import ShardWriter, finish_set, index_tars
from unimatch.taxonomy import Taxonomy

__all__ = ["IMAGE_EXTENSIONS", "Record", "ShardSet", "ShardWriter", "finish_set", "index_tars"]

OPEN_SHARDS = 128  # file descriptors a process keeps


@dataclass(frozen=True)
class Record:
    """One sample's bytes. `where` is "shard-name:key", for messages."""

    key: str
    image: bytes
    image_ext: str  # of the second image too
    second: bytes | None  # the later image of a pair (change detection), as large as the first
    label: bytes | None  # class ids, see decode.decode_label; None: mask-free, or not asked for
    label_ext: str | None  # one of names.LABEL_EXTENSIONS; None as `label`
    width: int
    height: int
    where: str


class ShardSet:
    """An opened shard set. Safe in threads and forked workers (`pread` shares no position); picklable."""

    kind: ClassVar[str] = IMAGES
    other_kind: ClassVar[str] = "is a label set, without images: data.pseudo takes it, beside a shard set"

    def __init__(self, root: Path | RemoteFolder, info: dict[str, Any], index: np.ndarray) -> None:
        self.root = root  # as text: the folder, or its URL without credentials
        self.info = info  # index.json as it is
        self.index = np.asarray(index)  # index.row_dtype, one row a sample; mapped, but no np.memmap
        self.taxonomy = Taxonomy.from_json(info["taxonomy"])
        self.shard_names: list[str] = [shard["name"] for shard in info["shards"]]
        open_shard = partial(_open_shard, root, info["shards"])
        self._files = OpenShards(open_shard, OPEN_SHARDS, cached=isinstance(root, RemoteFolder))

    @property
    def recipe(self) -> dict[str, Any] | None:
        """The settings of the recipe that packed it; None: it was made otherwise, or long ago."""
        created = self.info.get("created", {})
        return created if created.get("recipe") == "file" else None

    @classmethod
    def open(cls, root: str | Path, taxonomy: Taxonomy | None = None, cache: Cache | None = None) -> ShardSet:
        """The set in a folder or behind a URL, checked against its index.

        With a taxonomy, a folder's tars without an index are indexed first. The files behind a URL come
        through `cache` (default: the user's), the shards when they are first read. DataError: no folder, no
        index and no taxonomy, a damaged index, missing or cut tars, or other classes than `taxonomy`.
        """
        if is_url(root):
            remote = RemoteFolder(str(root), cache or Cache())
            shards = cls(remote, *remote.index())
        else:
            shards = cls._open_folder(Path(root), taxonomy)
        if shards.info["format"] != cls.kind:
            raise DataError(f"{shards.root} {cls.other_kind}")
        if taxonomy is not None and taxonomy.hash != shards.taxonomy.hash:
            raise DataError(
                f"{shards.root} has other classes than asked for: {shards.taxonomy.num_classes} "
                f"({summary(shards.taxonomy.names)}; hash {shards.taxonomy.hash}) against "
                f"{taxonomy.num_classes} ({summary(taxonomy.names)}; hash {taxonomy.hash})"
            )
        return shards

    @classmethod
    def _open_folder(cls, folder: Path, taxonomy: Taxonomy | None) -> ShardSet:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; make the shards first (unimatch pack)")
        if not (folder / INDEX_JSON).exists():
            if taxonomy is None:
                raise DataError(
                    f"{folder} has no {INDEX_JSON}: an unfinished set, or tars of another program. Pack the "
                    "data with unimatch pack, or index the tars: "
                    "unimatch check --foreign FOLDER --classes NAMES"
                )
            index_tars(folder, taxonomy)
        return cls(folder, *shard_index.read(folder))

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "info": self.info}

    def __setstate__(self, state: dict[str, Any]) -> None:
        root, info = state["root"], state["info"]
        if isinstance(root, RemoteFolder):
            rows = root.rows(info)
        else:
            rows = shard_index.load_rows(root / shard_index.INDEX_NPY)  # verified by who pickled this
        self.__init__(root, info, rows)  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def is_remote(self) -> bool:
        """Whether shards are fetched when they are first read."""
        return isinstance(self.root, RemoteFolder)

    @property
    def subsets(self) -> list[str]:
        return list(self.info["subsets"])

    def class_pixels(self, subset: str) -> np.ndarray | None:
        """int64 [num_classes] over a subset, or None where they were not counted."""
        counts = self.info["subsets"][subset]["class_pixels"]
        return None if counts is None else np.asarray(counts, np.int64)

    def bands(self, rows: np.ndarray | None = None) -> Bands | None:
        """What the channels of the images are, with mean and deviation over the subsets in which `rows` lie
        (None: all); None where images are ordinary pictures.
        """
        numbers = range(len(self.shard_names)) if rows is None else np.unique(self.index["shard"][rows])
        subsets = dict.fromkeys(self.info["shards"][number]["subset"] for number in numbers)
        return shard_index.bands_of(self.info, list(subsets))

    def rows(self, spec: str | Path) -> np.ndarray:
        """int64, increasing: the rows of a subset, of several (joined by "+"), or of the keys in a text file
        (UTF-8, one key a line).

        Increasing, so that a split means the same whatever the order of its lines, and samples of a shard are
        together. DataError: neither, unknown or repeated keys, or no sample.
        """
        known = self.info["subsets"]
        named = [str(spec)] if str(spec) in known else str(spec).split("+")
        if all(name in known for name in named):
            mine = np.array([shard["subset"] in named for shard in self.info["shards"]])
            counts = np.array([shard["samples"] for shard in self.info["shards"]])
            rows = np.flatnonzero(np.repeat(mine, counts))
        elif Path(spec).is_file():
            rows = self._rows_of_keys(read_keys(Path(spec)), str(spec))
        else:
            raise DataError(
                f"{spec}: neither a subset of {self.root} ({summary(self.subsets)}) nor a key-list file"
            )
        if len(rows) == 0:
            raise DataError(f"{spec}: the split is empty; list one key a line, or name a subset")
        return rows.astype(np.int64)

    def _rows_of_keys(self, names: list[str], spec: str) -> np.ndarray:
        # Neighbouring searches touch the same pages: five times faster for half a million keys.
        keys = np.sort(np.array([name.encode() for name in names], np.bytes_))
        rows = self.find(keys)
        unknown = rows < 0
        if unknown.any():
            lost = [key.decode() for key in keys[unknown]]
            raise DataError(
                f"{spec}: {unknown.sum()} of {len(keys)} keys are not in {self.root}: "
                + summary(map(repr, lost))
                + "; remove them, or use the shards that the list was drawn from"
                + self._other_form(lost)
            )
        repeated = np.unique(keys[1:][keys[1:] == keys[:-1]])
        if len(repeated):
            raise DataError(
                f"{spec}: {len(repeated)} key(s) are listed more than once: "
                + summary(key.decode() for key in repeated)
            )
        return np.sort(rows)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """int64: the row of each key (UTF-8 bytes), by binary search; -1: there is no such sample."""
        stored, order = self.index["key"], self.index["by_key"]
        place = np.searchsorted(stored, keys, sorter=order)
        rows = order[np.minimum(place, len(order) - 1)].astype(np.int64)
        return np.where(stored[rows] == keys, rows, -1)

    def _other_form(self, lost: list[str]) -> str:
        """For messages: how many of these keys the set has in another Unicode form, and what to do; or ""."""
        mine = {look_alike(key.decode()) for key in self.index["key"] if b"%" in key}
        count = sum(look_alike(key) in mine for key in lost)
        if not count:
            return ""
        return (
            f". {count} of them are there with names that look the same but are composed otherwise (Unicode "
            "NFC and NFD): a published list is matched in either form, make key lists from it"
        )

    def keys(self, rows: np.ndarray) -> list[str]:
        return [key.decode() for key in self.index["key"][rows]]

    def shard_sizes(self, rows: np.ndarray) -> np.ndarray:
        """int64: how many of `rows` lie in each shard that holds any, in order."""
        counts = np.bincount(self.index["shard"][rows], minlength=1)
        return counts[counts > 0].astype(np.int64)

    def read(self, row: int, with_label: bool = True) -> Record:
        """The bytes of one sample. DataError names shard and key if the shard is gone or too short."""
        key, shard, *places, _ = self.index[row].item()
        sample = Sample(key, *places)
        name = key.decode()
        where = f"{self.shard_names[shard]}:{name}"
        has_second, has_label = sample.second_size > 0, sample.label_size > 0 and with_label
        return Record(
            key=name,
            image=self._pread(shard, sample.image_size, sample.image_offset, where),
            image_ext=sample.image_ext.decode(),
            second=self._pread(shard, sample.second_size, sample.second_offset, where)
            if has_second
            else None,
            label=self._pread(shard, sample.label_size, sample.label_offset, where) if has_label else None,
            label_ext=sample.label_ext.decode() if has_label else None,
            width=sample.width,
            height=sample.height,
            where=where,
        )

    def _pread(self, shard: int, size: int, offset: int, where: str) -> bytes:
        try:
            file = self._files.get(shard)
            data = os.pread(file.number, size, offset)
        except OSError as error:
            raise DataError(f"{where}: cannot read the shard in {self.root}: {error.strerror}") from error
        if len(data) != size:
            raise DataError(
                f"{where}: the shard ends after {len(data)} of {size} bytes at {offset}; it was cut short "
                "after it was opened, copy or pack it again"
            )
        return data

    def expect(self, rows: np.ndarray | Sequence[int]) -> None:
        """Say what is read soon, the soonest first: shards behind a URL are fetched in the background."""
        if isinstance(self.root, RemoteFolder):
            soon = dict.fromkeys(self.index["shard"][rows].tolist())
            entries = [self.info["shards"][shard] for shard in soon if shard not in self._files]
            self.root.ahead([_remote_file(self.root, entry) for entry in entries])

    def close(self) -> None:
        """Close the shards; they open again when they are read."""
        self._files.close()

    def check(self) -> list[str]:
        """All problems found by reading, walking and hashing each shard of a folder; none for a sound set."""
        if isinstance(self.root, RemoteFolder):
            raise DataError(
                f"{self.root}: check the folder that was uploaded; what is fetched is verified anyway"
            )
        problems = []
        label_member = self.info.get("created", {}).get("label_member")
        starts = np.cumsum([0] + [shard["samples"] for shard in self.info["shards"]])
        for number, entry in enumerate(self.info["shards"]):
            try:
                shard = scan_tar(self.root / entry["name"], entry["subset"], label_member, self.kind)
            except OSError as error:
                problems.append(f"{entry['name']}: {error.strerror}")
                continue
            except DataError as error:
                problems.append(str(error))
                continue
            stored = self.index[starts[number] : starts[number + 1]]
            found = list(zip(*(stored[name].tolist() for name in Sample._fields), strict=True))
            if shard.sha256 != entry["sha256"]:
                problems.append(
                    f"{entry['name']}: the bytes differ from when it was written (sha256); pack it again"
                )
            elif found != list(shard.samples):
                problems.append(f"{entry['name']}: the index does not describe it; {shard_index.AGAIN}")
        return problems


def _open_shard(root: Path | RemoteFolder, shards: Sequence[dict[str, Any]], number: int) -> int:
    if isinstance(root, RemoteFolder):
        return root.open(_remote_file(root, shards[number]))
    return os.open(root / shards[number]["name"], os.O_RDONLY)


def _remote_file(root: RemoteFolder, shard: dict[str, Any]) -> RemoteFile:
    return root.file(shard["name"], shard["bytes"], shard["sha256"])
