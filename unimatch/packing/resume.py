"""The folder in which a shard set grows, and what of an interrupted run can be kept in it.

The set grows in `<out>.partial`, which takes the place of `<out>` when it is whole. Until then each finished
shard has a note beside it, `<shard>.json`, of what it was made from. A shard is kept if its bytes are those
of the note, and if the settings, the files of its samples and those of the sample behind it, which did not
fit any more, are the same as then: so the bytes of the set are those of a run that was never interrupted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import PIL
import zstandard

from unimatch.durable import replace_file
from unimatch.errors import DataError, summary
from unimatch.packing.findings import Findings
from unimatch.shardset import index as shard_index
from unimatch.shardset.index import Shard
from unimatch.shardset.names import shard_name
from unimatch.shardset.scan import scan_tar
from unimatch.taxonomy import Taxonomy

PACKING = 2  # raise it where the same files and settings give other bytes than before
LOCK = ".lock"
PARTS = ".parts"  # the folder of what --part has converted, in the growing one
SPOOL = ".spool"  # the folder of what worker processes have converted and is written next
SET_FILES = (".tar", ".json", ".npy")
STAT_THREADS = 16  # a network file system answers a question slowly, but many at a time


class Job(Protocol):
    """One sample to pack. Picklable."""

    @property
    def key(self) -> str: ...

    def files(self) -> list[Path]:
        """The input files: a finished shard is kept as long as their sizes and times stay."""


@dataclass(frozen=True)
class Made:
    """What a finished shard was made from, and what its jobs have to tell."""

    origin: str  # a hash of the settings and the files
    jobs: int  # those of its samples, and those that were left out
    notes: dict[str, int]  # how often images were encoded anew for which reason
    found: Findings


@dataclass(frozen=True)
class Kept:
    """A finished shard of an earlier run."""

    shard: Shard
    made: Made


@contextmanager
def growing(out: Path, overwrite: bool, join: bool = False) -> Iterator[Path]:
    """The folder `<out>.partial`, which takes the place of `out` when the block ends well. When it does not,
    finished shards stay for the next run; without any the folder is removed.

    An `out` that exists and is not empty is refused; with `overwrite` a shard set there is replaced, but
    only at the end, and anything that is not a shard set is still refused. One process at a time. What parts
    have converted stays too, and is refused but to `join` them.
    """
    with _partial(out, overwrite, fcntl.LOCK_EX) as (out, partial):
        if (partial / PARTS).exists() and not join:
            raise DataError(f"{partial} holds what --part has converted; --join it, or remove the folder")
        try:
            yield partial
            _finish(partial, out)
        finally:
            if partial.exists() and not [*partial.glob("*.tar.json"), *partial.glob(PARTS)]:
                shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def shared(out: Path, overwrite: bool) -> Iterator[Path]:
    """The same folder for a part: several at a time, in its folder PARTS, while nobody writes shards."""
    with _partial(out, overwrite, fcntl.LOCK_SH) as (_, partial):
        (partial / PARTS).mkdir(exist_ok=True)
        yield partial


@contextmanager
def _partial(out: Path, overwrite: bool, lock: int) -> Iterator[tuple[Path, Path]]:
    """`out` and the folder that the set grows in, locked."""
    out = out.resolve()
    _refuse(out, overwrite)
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        _refuse(partial, True)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with _locked(partial, lock):
            _refuse(out, overwrite)  # again: the one that held the lock may have finished it
            yield out, partial
    except OSError as error:
        raise DataError(f"cannot write {error.filename or out}: {error.strerror or error}") from error


def _refuse(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} exists and is not a folder; choose another --out")
    present = [path for path in folder.iterdir() if path.name[0] != "."] if folder.exists() else []
    if present and not overwrite:
        raise DataError(
            f"{folder} is not empty; choose another --out, or --overwrite to replace the shard set in it"
        )
    foreign = sorted(path.name for path in present if path.is_dir() or path.suffix not in SET_FILES)
    if foreign:
        raise DataError(f"{folder} holds more than a shard set ({summary(foreign, 3)}); it is not replaced")


@contextmanager
def _locked(partial: Path, lock: int) -> Iterator[None]:
    """DataError if another process holds the folder. A killed process holds nothing."""
    with open(partial / LOCK, "wb") as file:
        try:
            fcntl.flock(file, lock | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"another program is packing into {partial}; wait for it or stop it") from error
        if os.fstat(file.fileno()).st_nlink == 0:  # it finished between our open and our lock
            raise DataError(f"another program has just packed into {partial}; start again if need be")
        yield


def _finish(partial: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)  # of a run that was killed in these lines
    if out.exists():
        out.rename(old)
    partial.rename(out)
    # Only now: were the folder refused its name, the next run would still keep everything.
    for path in [*out.glob("*.tar.json"), out / LOCK]:
        path.unlink()
    for folder in (out / PARTS, old):
        shutil.rmtree(folder, ignore_errors=True)


def settings_hash(
    taxonomy: Taxonomy, created: Mapping[str, Any], convert: Callable[..., Any], shard_bytes: int
) -> str:
    """Changes with all that the bytes of a shard depend on beside the files of its jobs."""
    # How much may be left out changes no shard.
    created = {name: value for name, value in created.items() if name != "skip_bad"}
    parts = [
        f"packing {PACKING}, format {shard_index.VERSION}, shards of {shard_bytes}",
        f"OpenCV {cv2.__version__}, Pillow {PIL.__version__}, zstandard {zstandard.__version__}",
        json.dumps([taxonomy.to_json(), created]),
        hashlib.sha256(pickle.dumps(convert, protocol=4)).hexdigest(),  # what it was made with, as class ids
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def stamp(job: Job) -> str:
    """The key of a job, and size and time of its files: take it before they are read."""
    parts = [job.key]
    for path in job.files():
        try:
            found = path.stat()
            parts.append(f"{found.st_size} {found.st_mtime_ns}")
        except OSError:
            parts.append("none")
    return "\n".join(parts)


def origin(settings: str, stamps: Sequence[str]) -> str:
    """The hash of a shard's settings and stamps: of its own jobs and of the next one, if there is one."""
    return hashlib.sha256("\n\n".join([settings, *stamps]).encode("utf-8", "surrogatepass")).hexdigest()


def note(root: Path, shard: Shard, made: Made) -> None:
    """Mark a shard as finished."""
    pixels = None if shard.class_pixels is None else shard.class_pixels.tolist()
    content = {
        "samples": len(shard.samples),
        "sha256": shard.sha256,
        "made_from": made.origin,
        "jobs": made.jobs,
        "class_pixels": pixels,
        "band_sums": None if shard.band_sums is None else shard.band_sums.tolist(),
        "notes": made.notes,
        "found": made.found.to_json(),
    }
    replace_file(root / f"{shard.name}.json", json.dumps(content).encode())


def keep(root: Path, jobs: Mapping[str, Sequence[Job]], settings: str) -> dict[str, list[Kept]]:
    """The first finished shards of each subset that are as an undisturbed run would write them; all other
    files in the folder are removed.
    """
    kept = {subset: list(_valid(root, subset, mine, settings)) for subset, mine in jobs.items()}
    names = {f"{found.shard.name}{end}" for mine in kept.values() for found in mine for end in ("", ".json")}
    shutil.rmtree(root / SPOOL, ignore_errors=True)
    for path in root.iterdir():
        if path.name not in {LOCK, PARTS, *names}:
            path.unlink()
    return kept


def _valid(root: Path, subset: str, jobs: Sequence[Job], settings: str) -> Iterator[Kept]:
    start = number = 0
    with ThreadPoolExecutor(STAT_THREADS) as pool:
        while start < len(jobs):
            name = shard_name(subset, number)
            try:
                told = json.loads((root / f"{name}.json").read_bytes())
                mine = jobs[start : start + told["jobs"] + 1]
                if told["made_from"] != origin(settings, list(pool.map(stamp, mine))):
                    return
                shard = scan_tar(root / name, subset)
                pixels = None if told["class_pixels"] is None else np.array(told["class_pixels"], np.int64)
                if (shard.sha256, len(shard.samples)) != (told["sha256"], told["samples"]):
                    return
                sums = None if told["band_sums"] is None else np.array(told["band_sums"])
                found = Findings.from_json(told["found"])
                made = Made(told["made_from"], told["jobs"], dict(told["notes"]), found)
                yield Kept(replace(shard, class_pixels=pixels, band_sums=sums), made)
            except (OSError, ValueError, KeyError, TypeError):  # DataError is a ValueError
                return
            start, number = start + made.jobs, number + 1
