"""From jobs to a finished shard set: they are converted in worker processes and written in order.

Recipes make the jobs and convert them; the set appears whole or not at all.
"""

from __future__ import annotations

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

from unimatch.codecs.bands import Bands
from unimatch.codecs.decode import class_counts
from unimatch.codecs.encode import LabelFormat, encode_label
from unimatch.errors import DataError
from unimatch.packing import pieces, resume
from unimatch.packing.coverage import coverage, flat_bands
from unimatch.packing.findings import Findings, Note, PaletteCheck, Problem, palette_pairs
from unimatch.packing.pieces import Across, Join, Part
from unimatch.packing.resume import Job
from unimatch.shardset.index import Shard
from unimatch.shardset.writer import ShardWriter, finish_set
from unimatch.taxonomy import Taxonomy

MAX_LINES = 20  # problems shown one by one; the rest is counted
FEW = 0.1  # of the images: where no more have something wrong, leaving them out is offered


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
    band_sums: np.ndarray | None = None  # float64 [3, C], see bands.sums_of; None: an ordinary picture


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a sample, or problems, or neither where there is nothing to see; `note` says why
    an image was encoded anew.
    """

    sample: NewSample | None
    problems: tuple[Problem, ...] = ()
    note: str | None = None
    notes: tuple[Note, ...] = ()  # what else is to be told of a sample
    palette: tuple[str, dict[int, int]] | None = None  # a mask file, and the colours of its indices


@dataclass(frozen=True)
class Packed:
    """What was written: samples and labelled samples of each subset, and why images were encoded anew."""

    subsets: dict[str, tuple[int, int]]
    notes: dict[str, int]
    kept: int  # samples in shards that an interrupted run had finished
    told: tuple[str, ...] = ()  # sentences: what was read otherwise than it lies there, or left out
    warnings: tuple[str, ...] = ()  # sentences: classes without a pixel, bands of one value

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


@dataclass
class Tally:
    """What is wrong so far, and whether a set can still come of it."""

    allowed: int  # images that may be left out
    found: Findings
    problems: list[Problem]  # without a way to leave an image out
    palettes: PaletteCheck | None  # None: palettes may differ

    @classmethod
    def of(cls, problems: Sequence[Problem], allowed: int, one_palette: bool) -> Tally:
        """With what was wrong before any job."""
        lasting = [problem for problem in problems if problem.image is None]
        tally = cls(allowed, Findings(), lasting, PaletteCheck() if one_palette else None)
        for problem in problems:
            if problem.image is not None:
                tally.refuse([problem])
        return tally

    def refuse(self, problems: Sequence[Problem]) -> None:
        self.found.skipped.append(list(problems))

    def collect(self, outcome: Outcome) -> None:
        self.found.collect(outcome.notes, outcome.palette)
        if self.palettes is not None and outcome.palette is not None:
            self.problems += self.palettes.add(palette_pairs(outcome.palette))

    def merge(self, found: Findings) -> None:
        """Add what an earlier run found."""
        self.found.merge(found)
        if self.palettes is not None:
            self.problems += self.palettes.add(found.palettes.items())

    @property
    def hopeless(self) -> bool:
        return bool(self.problems) or len(self.found.skipped) > self.allowed

    def all(self) -> list[Problem]:
        return [*self.problems, *chain.from_iterable(self.found.skipped)]


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
    told: Sequence[str] = (),
    skip_bad: int = 0,
    one_palette: bool = False,
    bands: Bands | None = None,
    across: Across | None = None,
) -> Packed:
    """Convert the jobs of each subset, write their samples in order, then the index; `out` appears whole.

    The bytes do not depend on `workers`, on `across`, nor on whether the run continues one that was killed:
    finished shards of it are kept, see `resume`. A `Part` writes none, but what its `Join` needs, with which
    nothing of the other arguments may differ. `convert` is picklable. Up to `skip_bad` images that have
    something wrong are left out. `told` stands in the index beside what is found. DataError: `out` is in use,
    or a report of all problems, those found before (`problems`) and those of the jobs; with `one_palette`
    also palettes of masks that contradict each other; `source_name` says what has them.
    """
    tally = Tally.of(problems, skip_bad, one_palette)
    notes, writers = Counter[str](), []
    settings = resume.settings_hash(taxonomy, created, convert, shard_bytes)
    if isinstance(across, Part):
        with resume.shared(out, overwrite) as root:
            return Packed({}, {}, 0, (pieces.make_part(root, jobs, convert, settings, across, workers),))
    with resume.growing(out, overwrite, isinstance(across, Join)) as root:
        kept = resume.keep(root, jobs, settings)
        done = {name: sum(each.made.jobs for each in mine) for name, mine in kept.items()}
        for each in chain.from_iterable(kept.values()):
            tally.merge(each.made.found)
            notes.update(each.made.notes)
        num_kept = _tell_kept(root, kept)
        total = sum(map(len, jobs.values()))
        with (
            closing(pieces.outcomes(root, jobs, done, convert, settings, workers, across)) as outcomes,
            tqdm(total=total, initial=sum(done.values()), unit="image", desc="packing", disable=None) as bar,
        ):
            for name, mine in jobs.items():
                shards = [each.shard for each in kept[name]]
                writer = ShardWriter(root, name, max_bytes=shard_bytes, kept=shards)
                stream = _counted(islice(outcomes, len(mine) - done[name]), bar)
                notes.update(_write_subset(writer, stream, settings, tally))
                writers.append(writer)
        if tally.hopeless:
            raise DataError(report(tally.all(), source_name, root, total))
        sentences = (*told, *tally.found.sentences())
        told_too = {"notes": sentences} if sentences else {}
        finish_set(root, taxonomy, {**created, **told_too}, writers, bands)
    written = {writer.subset: writer.shards for writer in writers}
    counts = {subset: _counts(shards) for subset, shards in written.items()}
    doubts = [*coverage(taxonomy.names, written), *flat_bands(bands, written)]
    return Packed(counts, dict(sorted(notes.items())), num_kept, sentences, tuple(doubts))


def _tell_kept(root: Path, kept: Mapping[str, Sequence[resume.Kept]]) -> int:
    """How many images are in shards of an interrupted run, which people are told."""
    images = sum(len(each.shard.samples) for each in chain.from_iterable(kept.values()))
    if images:
        shards = sum(map(len, kept.values()))
        text = f"{root}: kept {shards} finished shards with {images} images of an interrupted run"
        tqdm.write(text, file=sys.stderr)
    return images


def _write_subset(
    writer: ShardWriter, outcomes: Iterable[tuple[Outcome, str]], settings: str, tally: Tally
) -> Counter[str]:
    """Write the samples, with a note beside each finished shard; what is found is added to the tally. Returns
    why images were encoded anew.
    """
    all_notes: Counter[str] = Counter()
    stamps: list[str] = []  # of the jobs of the open shard, and below what was found in them
    notes, found = Counter[str](), Findings()

    def finish(stamps: list[str], jobs: int) -> None:
        made_from = resume.origin(settings, stamps)
        resume.note(writer.root, writer.shards[-1], resume.Made(made_from, jobs, dict(notes), found))

    with writer:
        for outcome, stamp in outcomes:
            if outcome.problems:
                tally.refuse(outcome.problems)
                found.skipped.append(list(outcome.problems))
            # Once too much is wrong no set will come of it: only look for what else is wrong.
            if tally.hopeless:
                continue
            if outcome.sample is not None:
                finished = len(writer.shards)
                writer.add(**vars(outcome.sample))
                if len(writer.shards) > finished:  # this sample did not fit any more
                    finish([*stamps, stamp], len(stamps))
                    all_notes += notes
                    stamps, notes, found = [], Counter(), Findings()
            notes.update([outcome.note] if outcome.note else [])
            found.collect(outcome.notes, outcome.palette)
            tally.collect(outcome)
            stamps.append(stamp)
        finished = len(writer.shards)
    if len(writer.shards) > finished and not tally.hopeless:
        finish(stamps, len(stamps))
    return all_notes + notes


def _counted(outcomes: Iterable[T], bar: tqdm[NoReturn]) -> Iterator[T]:
    for outcome in outcomes:
        yield outcome
        bar.update()


def _counts(shards: Sequence[Shard]) -> tuple[int, int]:
    """Samples, and those with a mask."""
    samples = [sample for shard in shards for sample in shard.samples]
    return len(samples), sum(sample.label_size > 0 for sample in samples)


def report(problems: Sequence[Problem], source_name: str, partial: Path, total: int = 0) -> str:
    """The problems: how many of which kind, then the first lines of each kind. Where a few of `total` images
    have all of them, how to leave these out.
    """
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
    images = {problem.image for problem in problems}
    if None not in images and len(images) <= total * FEW:
        lines.append(f"all of them are of {len(images)} images, which skip_bad: {len(images)} leaves out")
    return "\n".join(lines)
