"""From jobs to a finished shard set: they are converted in worker processes and written in order.

Recipes make the jobs and convert them; the set appears whole or not at all.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from tqdm import tqdm

from unimatch.codecs.encode import LabelFormat, encode_label
from unimatch.errors import DataError
from unimatch.packing import resume
from unimatch.packing.pool import ordered
from unimatch.packing.resume import Job
from unimatch.shardset.index import Shard
from unimatch.shardset.writer import ShardWriter, finish_set
from unimatch.taxonomy import IGNORE_INDEX, Taxonomy

MAX_LINES = 20  # problems shown one by one; the rest is counted


JobT = TypeVar("JobT", bound=Job)
T = TypeVar("T")


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
    kept: int  # samples in shards that an interrupted run had finished

    @property
    def num_samples(self) -> int:
        return sum(samples for samples, _ in self.subsets.values())


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

    The bytes do not depend on `workers`, nor on whether the run continues one that was killed: finished
    shards of it are kept, see `resume`. `convert` is picklable. DataError: `out` is in use, or a report of
    all problems, those found before (`problems`) and those of the jobs; `source_name` says what has them.
    """
    found, notes, writers = list(problems), Counter[str](), []
    settings = resume.settings_hash(taxonomy, created, convert, shard_bytes)
    with resume.growing(out, overwrite) as root:
        kept = resume.keep(root, jobs, settings)
        done = {name: sum(len(each.shard.samples) for each in mine) for name, mine in kept.items()}
        if any(done.values()):
            told = f"{sum(map(len, kept.values()))} finished shards with {sum(done.values())} images"
            tqdm.write(f"{root}: kept {told} of an interrupted run", file=sys.stderr)
        todo = [job for name, mine in jobs.items() for job in mine[done[name] :]]
        total = sum(map(len, jobs.values()))
        with (
            closing(ordered(todo, functools.partial(_convert, convert), workers)) as outcomes,
            tqdm(total=total, initial=total - len(todo), unit="image", desc="packing", disable=None) as bar,
        ):
            for name, mine in jobs.items():
                writer = ShardWriter(
                    root, name, max_bytes=shard_bytes, kept=[each.shard for each in kept[name]]
                )
                stream = _counted(islice(outcomes, len(mine) - done[name]), bar)
                notes.update(_write_subset(writer, stream, settings, found))
                writers.append(writer)
        if found:
            raise DataError(report(found, source_name, root))
        finish_set(root, taxonomy, created, writers)
    for each in chain.from_iterable(kept.values()):
        notes.update(each.notes)
    counts = {writer.subset: _counts(writer.shards) for writer in writers}
    return Packed(counts, dict(sorted(notes.items())), sum(done.values()))


def _write_subset(
    writer: ShardWriter, outcomes: Iterable[tuple[Outcome, str]], settings: str, problems: list[Problem]
) -> Counter[str]:
    """Write the samples, with a note beside each finished shard; problems are added to the list. Returns why
    images were encoded anew.
    """
    all_notes: Counter[str] = Counter()
    stamps: list[str] = []  # of the open shard
    notes: Counter[str] = Counter()
    with writer:
        for outcome, stamp in outcomes:
            problems += outcome.problems
            # Once something is wrong no set will come of it: only look for what else is wrong.
            if outcome.sample is None or problems:
                continue
            finished = len(writer.shards)
            writer.add(**vars(outcome.sample))
            if len(writer.shards) > finished:  # this sample did not fit any more
                resume.note(writer.root, writer.shards[-1], resume.origin(settings, [*stamps, stamp]), notes)
                all_notes += notes
                stamps, notes = [], Counter()
            stamps.append(stamp)
            notes.update([outcome.note] if outcome.note else [])
    if stamps and not problems:
        resume.note(writer.root, writer.shards[-1], resume.origin(settings, stamps), notes)
    return all_notes + notes


def _counted(outcomes: Iterable[T], bar: tqdm[NoReturn]) -> Iterator[T]:
    for outcome in outcomes:
        yield outcome
        bar.update()


def _counts(shards: Sequence[Shard]) -> tuple[int, int]:
    """Samples, and those with a mask."""
    samples = [sample for shard in shards for sample in shard.samples]
    return len(samples), sum(sample.label_size > 0 for sample in samples)


def _convert(convert: Callable[[JobT], Outcome], job: JobT) -> tuple[Outcome, str]:
    """The outcome, and what its files were before they were read."""
    stamp = resume.stamp(job)
    return convert(job), stamp


def report(problems: Sequence[Problem], source_name: str, partial: Path) -> str:
    """The problems: how many of which kind, then the first lines of each kind."""
    kinds = Counter(problem.kind for problem in problems)
    kept = len(list(partial.glob("*.tar.json")))
    written = f"{kept} finished shards wait in {partial} for the next try" if kept else "nothing was written"
    head = f"{len(problems)} problems in {source_name}, {written}"
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
