"""The index of a shard set: what it holds, how it is made from tars, and how it is read back and verified.

`index.npy` is a structured array with one row per sample, ordered by (shard, offset): 70 to 110 bytes a
sample, mapped into memory and shared by all processes of a machine.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from unimatch.codecs.bands import Bands
from unimatch.durable import replace_file
from unimatch.errors import DataError, summary
from unimatch.shardset.names import IMAGES, LABELS, SHARD_NAME
from unimatch.taxonomy import Taxonomy

VERSION = 1
INDEX_JSON = "index.json"
INDEX_NPY = "index.npy"
BLOCK = 512
AGAIN = (
    "copy or pack the data again (unimatch pack); if the tars are sound, delete both index files and "
    "index them by unimatch check --foreign FOLDER --classes NAMES"
)
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # or what looks like one


class Sample(NamedTuple):
    """Where one sample lies in its tar. second_size 0: one image; label_size 0: mask-free; image_size 0: of a
    set of labels.
    """

    key: bytes
    image_offset: int
    image_size: int
    image_ext: bytes
    second_offset: int
    second_size: int
    label_offset: int
    label_size: int
    label_ext: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Shard:
    """One finished tar and its samples, in order."""

    name: str
    subset: str
    size_bytes: int
    sha256: str
    samples: Sequence[Sample]
    class_pixels: np.ndarray | None = None  # int64 [num_classes] of its masks; None: no mask, or not counted
    band_sums: np.ndarray | None = None  # float64 [3, C] of its images, see bands.sums_of; None: no bands


def local_folder(root: str | Path) -> Path:
    """`root` as a path. DataError for URLs: sets are made and indexed in a folder."""
    if URL.match(str(root)):
        raise DataError(
            f"{root}: shards are written to and indexed in a folder only; upload it when it is done"
        )
    return Path(root)


def row_dtype(key_bytes: int) -> np.dtype:
    """The type of a row of index.npy: key, shard, the other fields of Sample, by_key.

    Keys are UTF-8, padded with zeros to the longest.
    """
    return np.dtype(
        [
            ("key", f"S{key_bytes}"),
            ("shard", "<u4"),
            ("image_offset", "<u8"),
            ("image_size", "<u4"),
            ("image_ext", "S4"),
            ("second_offset", "<u8"),
            ("second_size", "<u4"),
            ("label_offset", "<u8"),
            ("label_size", "<u4"),
            ("label_ext", "S8"),
            ("width", "<u4"),
            ("height", "<u4"),
            ("by_key", "<u4"),  # not of this sample: the row of the i-th smallest key
        ]
    )


def digest(file: BinaryIO) -> str:
    """sha256 of the rest of an open file, in hex digits."""
    state = hashlib.sha256()
    while chunk := file.read(1 << 20):
        state.update(chunk)
    return state.hexdigest()


def rows_of(shards: Sequence[Shard]) -> np.ndarray:
    """The index rows of a whole set. DataError for a key that occurs twice or a set without samples."""
    count = sum(len(shard.samples) for shard in shards)
    if count == 0:
        raise DataError("a shard set needs at least one sample; these shards hold none")
    rows = np.zeros(count, row_dtype(max(len(sample.key) for shard in shards for sample in shard.samples)))
    start = 0
    for number, shard in enumerate(shards):
        part = rows[start : start + len(shard.samples)]
        part["shard"] = number
        columns = list(zip(*shard.samples, strict=True)) if shard.samples else []
        for name, column in zip(Sample._fields, columns, strict=False):
            part[name] = column
        start += len(part)
    order = np.argsort(rows["key"], kind="stable")
    ordered = rows["key"][order]
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if len(repeated):
        names = summary(key.decode() for key in repeated)
        raise DataError(
            f"{len(repeated)} key(s) occur more than once in the set: {names}; keys must be unique"
        )
    rows["by_key"] = order
    return rows


def write(
    root: Path,
    taxonomy: Taxonomy,
    created: Mapping[str, Any],
    shards: Sequence[Shard],
    bands: Bands | None = None,
    kind: str = IMAGES,
) -> None:
    """Write index.npy, then index.json; the set is complete when index.json is there."""
    rows = rows_of(shards)
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, rows, allow_pickle=False)
    array = buffer.getvalue()
    names = dict.fromkeys(shard.subset for shard in shards)
    subsets = {name: _describe([s for s in shards if s.subset == name], bands) for name in names}
    info = {
        "format": kind,
        "version": VERSION,
        "taxonomy": taxonomy.to_json(),
        "created": dict(created),
        **({"bands": bands.to_json()} if bands is not None else {}),
        "subsets": subsets,
        "index": {
            "file": INDEX_NPY,
            "samples": len(rows),
            "bytes": len(array),
            "sha256": hashlib.sha256(array).hexdigest(),
        },
        "shards": [
            {
                "name": shard.name,
                "subset": shard.subset,
                "samples": len(shard.samples),
                "bytes": shard.size_bytes,
                "sha256": shard.sha256,
            }
            for shard in shards
        ],
    }
    try:
        replace_file(root / INDEX_NPY, array)
        replace_file(root / INDEX_JSON, (json.dumps(info, indent=1) + "\n").encode())
    except OSError as error:
        raise DataError(f"cannot write the index of {root}: {error.strerror}") from error


def _describe(shards: Sequence[Shard], bands: Bands | None) -> dict[str, Any]:
    """The entry of a subset; class pixels only if every shard with a mask has them."""
    sums = [shard.band_sums for shard in shards if shard.band_sums is not None]
    measured = {}
    if bands is not None and sums:
        total = np.sum(sums, axis=0)
        found = bands.measured(total)
        measured["bands"] = {"pixels": int(total[0].max()), "mean": list(found.mean), "std": list(found.std)}
    labeled = [sum(sample.label_size > 0 for sample in shard.samples) for shard in shards]
    pixels = [shard.class_pixels for shard, count in zip(shards, labeled, strict=True) if count]
    counted = [found for found in pixels if found is not None]
    return {
        "samples": sum(len(shard.samples) for shard in shards),
        "labeled": sum(labeled),
        "class_pixels": np.sum(counted, axis=0).tolist() if counted and len(counted) == len(pixels) else None,
        **measured,
    }


def bands_of(info: Mapping[str, Any], subsets: Sequence[str]) -> Bands | None:
    """What the channels of a set's images are, with the statistics of some subsets together; None: images
    are ordinary pictures.
    """
    if "bands" not in info:
        return None
    bands = Bands.from_json(info["bands"])
    total = np.zeros((3, len(bands.order)))
    for name in subsets:
        found = info["subsets"][name].get("bands", {"pixels": 0})
        if found["pixels"]:
            mean, std = (np.asarray(found[each]) * bands.white for each in ("mean", "std"))
            total += found["pixels"] * np.stack([np.ones_like(mean), mean, std**2 + mean**2])
    return bands.measured(total)


def read(root: Path) -> tuple[dict[str, Any], np.ndarray]:
    """index.json and the mapped rows of index.npy, verified against each other and against the tars' sizes.

    Costs one pass over index.npy (a tenth of a second per million samples) and one `stat` per shard.
    """
    path = root / INDEX_JSON
    try:
        info = parse(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    path = root / INDEX_NPY
    try:
        with open(path, "rb") as file:
            found = digest(file)
        if found != info["index"]["sha256"]:
            raise DataError(
                f"{path} is damaged or does not belong to {INDEX_JSON} (its hash differs); {AGAIN}"
            )
        rows = load_rows(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing, but {INDEX_JSON} is there; {AGAIN}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    problems = []
    for shard in info["shards"]:
        try:
            size = os.stat(root / shard["name"]).st_size
        except OSError as error:
            problems.append(f"{shard['name']}: {error.strerror}")
            continue
        if size != shard["bytes"]:
            problems.append(
                f"{shard['name']}: {size} bytes, the index says {shard['bytes']} (cut short or replaced)"
            )
    if problems:
        raise DataError(
            f"{len(problems)} shard(s) of {root} do not match the index: {summary(problems)}; copy or "
            "pack them again"
        )
    check_count(info, rows, str(root))
    return info, rows


def check_count(info: Mapping[str, Any], rows: np.ndarray, where: str) -> None:
    """DataError unless both files of the index hold the same number of samples."""
    if sum(shard["samples"] for shard in info["shards"]) != len(rows):
        raise DataError(f"{where}/{INDEX_JSON} counts other samples than {INDEX_NPY} holds; {AGAIN}")


def load_rows(path: Path) -> np.ndarray:
    """The rows of an index.npy, mapped into memory and not verified."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


def parse(text: bytes, where: str) -> dict[str, Any]:
    """What an index.json says. DataError: not one, or of another version."""
    damaged = f"{where} is damaged"
    try:
        info = json.loads(text)
        found, version = info["format"], info["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{damaged}: not a shard index; {AGAIN}") from error
    if found not in (IMAGES, LABELS) or version != VERSION:
        raise DataError(
            f"{where}: format {found!r} version {version!r}; this program reads {IMAGES!r} version {VERSION}"
        )
    try:
        Taxonomy.from_json(info["taxonomy"])
        bands_of(info, list(info["subsets"]))
        for shard in info["shards"]:
            name, size, samples, subset = shard["name"], shard["bytes"], shard["samples"], shard["subset"]
            numbers = isinstance(size, int) and isinstance(samples, int)
            if not (SHARD_NAME.fullmatch(name) and numbers and isinstance(shard["sha256"], str)):
                raise ValueError(f"shard {name!r}")
            if subset not in info["subsets"]:
                raise ValueError(f"subset {subset!r}")
        if not (isinstance(info["index"]["sha256"], str) and isinstance(info["index"]["bytes"], int)):
            raise ValueError("index")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{damaged}: {error!r}; {AGAIN}") from error
    return info
