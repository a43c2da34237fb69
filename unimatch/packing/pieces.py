"""Pieces of a set: runs of jobs that are converted to a file each, which waits to be written to shards.

Where a shard ends depends on all samples before it, so one process writes the shards, in order. What takes
the time, to read, check and encode, is done by others, a piece at a time: by worker processes here, by Ray's,
or by programs on other machines that share the folder (`--part`). The bytes go through files, since a worker
that sends them through a pipe waits until the writer has read them.
"""

from __future__ import annotations

import os
import pickle
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from tqdm import tqdm

from unimatch.durable import sync
from unimatch.errors import DataError
from unimatch.packing import on_ray, pool, resume
from unimatch.packing.resume import Job

TRIED = 16  # jobs done here first, to see how long one takes
PAYS_S = 5.0  # processes take seconds to start: not for less work than this
PIECE_S = 0.25  # so long is work at a piece of the worker processes ...
MOST_JOBS = 64  # ... of at most so many jobs
PART_JOBS = 256  # in a piece of a part, whatever the number of parts: files of megabytes
DIGEST = 64  # bytes a piece begins with, the hash of what it was made from

JobT = TypeVar("JobT", bound=Job)
Result = TypeVar("Result")
Stamped = tuple[Result, str]  # of a job, with its resume.stamp


@dataclass(frozen=True)
class Part:
    """Only convert: every `of`-th piece, from the `number`-th on, counted from 1."""

    number: int
    of: int


@dataclass(frozen=True)
class Join:
    """Only write, what so many parts have converted."""

    of: int


@dataclass(frozen=True)
class OnRay:
    """Convert in tasks of Ray."""


Across = Part | Join | OnRay  # how a set is packed by more than one machine


class Ordered(Protocol):
    """`pool.ordered`, or another engine with its rules."""

    def __call__(
        self, items: Sequence[Any], work: Callable[[Any], None], workers: int
    ) -> Generator[None, None, None]: ...


@dataclass(frozen=True)
class Piece(Generic[JobT]):
    """A run of the jobs of a subset, from its job `start` on, and the file of what becomes of them."""

    path: Path
    subset: str
    start: int
    jobs: Sequence[JobT]


def cut(folder: Path, jobs: Mapping[str, Sequence[JobT]], size: int) -> list[Piece[JobT]]:
    """All jobs in pieces of at most `size`, none of them of two subsets."""
    return [
        Piece(folder / f"{name}-{start:09d}", name, start, mine[start : start + size])
        for name, mine in jobs.items()
        for start in range(0, len(mine), size)
    ]


def _origin(piece: Piece[JobT], settings: str) -> str:
    return resume.origin(settings, [resume.stamp(job) for job in piece.jobs])


def make(piece: Piece[JobT], convert: Callable[[JobT], Any], settings: str, durable: bool) -> None:
    """Convert the jobs; the file has its name when all of it is there (`durable`: on disk)."""
    stamps = [resume.stamp(job) for job in piece.jobs]  # before anything is read
    temporary = piece.path.with_name(f".{piece.path.name}.tmp-{platform.node()}-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(resume.origin(settings, stamps).encode())
            for job, stamp in zip(piece.jobs, stamps, strict=True):
                pickle.dump((convert(job), stamp), file, protocol=5)
        if durable:
            sync(temporary)
        os.replace(temporary, piece.path)
    finally:
        temporary.unlink(missing_ok=True)


def is_made(piece: Piece[JobT], settings: str) -> bool:
    """Whether its file is there, made with these settings from the files as they are now."""
    try:
        with open(piece.path, "rb") as file:
            return file.read(DIGEST) == _origin(piece, settings).encode()
    except FileNotFoundError:
        return False


def read(piece: Piece[JobT]) -> Iterator[Stamped[Any]]:
    """What became of each job, and its stamp. DataError: the file was damaged since it was made."""
    with open(piece.path, "rb") as file:
        file.seek(DIGEST)
        for _ in piece.jobs:
            try:
                yield pickle.load(file)
            except (pickle.UnpicklingError, EOFError) as error:
                raise DataError(f"{piece.path} is damaged ({error}); remove it and make it again") from error


def outcomes(
    root: Path,
    jobs: Mapping[str, Sequence[JobT]],
    done: Mapping[str, int],
    convert: Callable[[JobT], Result],
    settings: str,
    workers: int,
    across: Across | None,
) -> Generator[Stamped[Result], None, None]:
    """What becomes of each job behind the first `done` ones of its subset, in order, and its stamp."""
    if isinstance(across, Join):
        return joined(root, jobs, done, settings, across)
    todo = [job for name, mine in jobs.items() for job in mine[done[name] :]]
    spool = root / resume.SPOOL
    if isinstance(across, OnRay):
        return spooled(todo, convert, settings, spool, workers, MOST_JOBS, on_ray.ordered)
    return converted(todo, convert, settings, spool, workers)


def converted(
    jobs: Sequence[JobT], convert: Callable[[JobT], Result], settings: str, spool: Path, workers: int
) -> Generator[Stamped[Result], None, None]:
    """What becomes of each job, in order; in other processes where that is sooner done, so `convert` is
    picklable. Pieces lie in the folder `spool` for a moment, AHEAD of them a worker.
    """

    def here(some: Sequence[JobT]) -> Iterator[Stamped[Result]]:
        for job in some:
            stamp = resume.stamp(job)
            yield convert(job), stamp

    tried, rest = jobs[:TRIED], jobs[TRIED:]
    spent_s, began = 0.0, time.perf_counter()
    for found in here(tried):
        spent_s += time.perf_counter() - began
        yield found
        began = time.perf_counter()
    each_s = spent_s / max(len(tried), 1)
    if workers == 1 or (tried and each_s * len(rest) < PAYS_S):
        yield from here(rest)
        return
    size = MOST_JOBS if each_s * MOST_JOBS < PIECE_S else max(1, int(PIECE_S / each_s))
    yield from spooled(rest, convert, settings, spool, workers, size, pool.ordered)


def spooled(
    jobs: Sequence[JobT],
    convert: Callable[[JobT], Result],
    settings: str,
    spool: Path,
    workers: int,
    size: int,
    ordered: Ordered,
) -> Generator[Stamped[Result], None, None]:
    """The same by an engine, in pieces of `size` jobs."""
    spool.mkdir(exist_ok=True)
    pieces = cut(spool, {"piece": jobs}, size)
    work = partial(make, convert=convert, settings=settings, durable=False)
    try:
        with closing(ordered(pieces, work, workers)) as made:
            for piece, _ in zip(pieces, made, strict=True):
                yield from read(piece)
                piece.path.unlink()
    finally:
        shutil.rmtree(spool, ignore_errors=True)


def make_part(
    root: Path,
    jobs: Mapping[str, Sequence[JobT]],
    convert: Callable[[JobT], Any],
    settings: str,
    part: Part,
    workers: int,
) -> str:
    """Make the pieces of a part that are not there yet; a sentence about them."""
    mine = cut(root / resume.PARTS, jobs, PART_JOBS)[part.number - 1 :: part.of]
    todo = [piece for piece, made in zip(mine, _are_made(mine, settings), strict=True) if not made]
    work = partial(make, convert=convert, settings=settings, durable=True)
    images, total = sum(len(piece.jobs) for piece in mine), sum(map(len, jobs.values()))
    left = sum(len(piece.jobs) for piece in todo)
    engine: Iterator[None] = map(work, todo) if workers == 1 else pool.ordered(todo, work, workers)
    with tqdm(total=images, initial=images - left, unit="image", desc="converting", disable=None) as bar:
        for piece, _ in zip(todo, engine, strict=True):
            bar.update(len(piece.jobs))
    return (
        f"part {part.number}/{part.of}: {images} of {total} images are converted in {root}; when all parts "
        f"are, --join {part.of} checks them together and writes the set"
    )


def joined(
    root: Path,
    jobs: Mapping[str, Sequence[JobT]],
    done: Mapping[str, int],
    settings: str,
    join: Join,
) -> Generator[Stamped[Any], None, None]:
    """What parts have made of each job, without the first `done` ones of each subset.

    DataError: a part lacks pieces, or has them of other files or settings.
    """
    pieces = cut(root / resume.PARTS, jobs, PART_JOBS)
    missing, of_part = Counter[int](), Counter[int]()
    for place, made in enumerate(_are_made(pieces, settings)):
        number = place % join.of + 1
        of_part[number] += 1
        missing[number] += not made
    told = [
        f"part {number}/{join.of} is not finished: {count} of its {of_part[number]} pieces are missing, or "
        f"of other files or settings; run it with --part {number}/{join.of}"
        for number, count in sorted(missing.items())
        if count
    ]
    if told:
        raise DataError("\n".join(told))
    for piece in pieces:
        first = done[piece.subset] - piece.start
        if first < len(piece.jobs):
            yield from islice(read(piece), max(first, 0), None)


def _are_made(pieces: Sequence[Piece[JobT]], settings: str) -> Iterator[bool]:
    with ThreadPoolExecutor(resume.STAT_THREADS) as threads:
        yield from threads.map(partial(is_made, settings=settings), pieces)
