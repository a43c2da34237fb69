"""From files to a finished shard set: jobs are converted in worker processes and written in order.

Recipes make the jobs and convert them; the set appears whole or not at all.
"""

from __future__ import annotations

import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from unimatch.data.encode import LabelFormat, encode_label, jpeg, png, webp
from unimatch.data.writer import ShardWriter, finish_set
from unimatch.errors import DataError
from unimatch.taxonomy import IGNORE_INDEX, Taxonomy

__all__ = ["encode_label", "jpeg", "png", "webp"]

MAX_LINES = 20  # problems shown one by one; the rest is counted


class Job(Protocol):
    """One sample to pack. Picklable."""

    @property
    def key(self) -> str: ...

    def files(self) -> list[Path]:
        """The input files: a finished shard is kept as long as their sizes and times stay."""


JobT = TypeVar("JobT", bound=Job)


@dataclass(frozen=True)
class NewSample:
    """What a recipe hands over: encoded image and label bytes and what the index needs to know of them."""

    key: str
    image: bytes
    image_ext: str
    label: bytes | None  # None: mask-free
    width: int
    height: int
    class_counts: np.ndarray | None  # int64 [num_classes]; None: mask-free
    second: bytes | None = None  # the later image of a pair
    label_ext: str = "npy.zst"


@dataclass(frozen=True)
class Problem:
    kind: str  # what it is counted under
    text: str


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a sample, or problems; `note` says why an image was encoded anew."""

    sample: NewSample | None
    problems: tuple[Problem, ...] = ()
    note: str | None = None


@dataclass(frozen=True)
class Packed:
    """What was written: samples and labelled samples of each subset, and why images were encoded anew."""

    subsets: dict[str, tuple[int, int]]
    notes: dict[str, int]


def labeled_sample(
    key: str,
    image: bytes,
    image_ext: str,
    label: np.ndarray,
    num_classes: int,
    *,
    label_format: LabelFormat = "zst",
    second: bytes | None = None,
) -> NewSample:
    """The sample of an encoded image, or two, and its uint8 [H, W] label."""
    height, width = label.shape
    data, label_ext = encode_label(label, label_format)
    counts = class_counts(label, num_classes)
    return NewSample(key, image, image_ext, data, width, height, counts, second, label_ext)


def class_counts(label: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 [num_classes]: pixels of each class; ignored pixels are not counted."""
    return np.bincount(label.ravel(), minlength=IGNORE_INDEX + 1)[:num_classes].astype(np.int64)


def write_set(
    out: Path,
    taxonomy: Taxonomy,
    jobs: Mapping[str, Sequence[JobT]],
    convert: Callable[[JobT], Outcome],
    created: Mapping[str, Any],
    *,
    shard_bytes: int,
    workers: int,
    overwrite: bool,
    source_name: str,
    problems: Sequence[Problem] = (),
) -> Packed:
    """Convert the jobs of each subset, write their samples in order, then the index; `out` appears whole.

    The bytes do not depend on `workers`. `convert` is picklable. DataError: `out` is in use, or a report of
    all problems, those found before (`problems`) and those of the jobs; `source_name` says what has them.
    """
    found = list(problems)
    notes: Counter[str] = Counter()
    everything = list(chain.from_iterable(jobs.values()))
    counts = {}
    with (
        staged(out, overwrite) as root,
        tqdm(total=len(everything), unit="image", desc="packing", disable=None) as bar,
    ):
        outcomes = convert_all(everything, convert, workers)
        writers = []
        for name in jobs:
            labeled = 0
            with ShardWriter(root, name, max_bytes=shard_bytes) as writer:
                for _ in jobs[name]:
                    outcome = next(outcomes)
                    bar.update()
                    found += outcome.problems
                    notes.update([outcome.note] if outcome.note else [])
                    # Once something is wrong nothing will be kept: only look for what else is wrong.
                    if outcome.sample is None or found:
                        continue
                    s = outcome.sample
                    labeled += s.label is not None
                    writer.add(
                        s.key,
                        s.image,
                        s.image_ext,
                        s.label,
                        s.width,
                        s.height,
                        s.class_counts,
                        label_ext=s.label_ext,
                        second=s.second,
                    )
            counts[name] = (writer.num_samples, labeled)
            writers.append(writer)
        if found:
            bar.close()
            raise DataError(report(found, source_name))
        finish_set(root, taxonomy, created, writers)
    return Packed(counts, dict(sorted(notes.items())))


def convert_all(jobs: Sequence[JobT], convert: Callable[[JobT], Outcome], workers: int) -> Iterator[Outcome]:
    """The outcome of each job, in order; the number of outcomes held at a time is bounded."""
    if workers <= 1:
        for job in jobs:
            yield convert(job)
        return
    waiting: deque[Future[Outcome]] = deque()
    # Spawned, not forked: OpenCV's and tqdm's threads do not survive a fork.
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(convert, job))
                if len(waiting) >= 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise DataError("a packing worker was killed (out of memory?); try fewer --workers") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def report(problems: Sequence[Problem], source_name: str) -> str:
    """The problems: how many of which kind, then the first lines of each kind."""
    kinds = Counter(problem.kind for problem in problems)
    head = f"{len(problems)} problems in {source_name}, nothing was written"
    lines = [f"{head}: {', '.join(f'{count} x {kind}' for kind, count in sorted(kinds.items()))}"]
    rank: Counter[str] = Counter()  # so that one frequent kind does not hide the others
    ranked = []
    for problem in problems:
        ranked.append((rank[problem.kind], problem))
        rank[problem.kind] += 1
    chosen = sorted(ranked, key=lambda pair: pair[0])[:MAX_LINES]
    lines += [f"  {problem.text}" for _, problem in sorted(chosen, key=lambda pair: (pair[1].kind, pair[0]))]
    if len(problems) > MAX_LINES:
        lines.append(f"  ... and {len(problems) - MAX_LINES} more")
    return "\n".join(lines)


@contextmanager
def staged(out: Path, overwrite: bool) -> Iterator[Path]:
    """An empty folder beside `out` that takes its place when the block ends well, and is removed when it
    does not.

    An `out` that exists and is not empty is refused; with `overwrite` a shard set there is replaced, but
    only at the end, and anything that is not a shard set is still refused.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} exists and is not a folder; choose another --out")
    present = list(out.iterdir()) if out.exists() else []
    if present and not overwrite:
        raise DataError(
            f"{out} is not empty; choose another --out, or --overwrite to replace the shard set in it"
        )
    foreign = sorted(
        path.name for path in present if path.is_dir() or path.suffix not in (".tar", ".json", ".npy")
    )
    if foreign:
        raise DataError(f"{out} holds more than a shard set ({', '.join(foreign[:3])}); it is not replaced")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed run
    try:
        try:
            partial.mkdir(parents=True)
            yield partial
            if out.exists():
                shutil.rmtree(out)
            partial.rename(out)
        except OSError as error:
            raise DataError(f"cannot write {error.filename or out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
