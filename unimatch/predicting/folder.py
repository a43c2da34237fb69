"""Predictions of any number of images as files of a folder, by all processes of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from unimatch.codecs.encode import png
from unimatch.codecs.sheet import legend_picture
from unimatch.data.workers import ahead
from unimatch.engine.runtime import Runtime
from unimatch.errors import DataError, UserError, of_system, summary
from unimatch.predicting.inputs import FAILED, LEGEND
from unimatch.predicting.journal import Journal
from unimatch.predicting.output import Entry, Output
from unimatch.predicting.predictor import Predictor
from unimatch.predicting.progress import Clock, Progress
from unimatch.predicting.sources import Chunk, Files, Group, Source
from unimatch.predicting.writers import Job, Writers
from unimatch.shardset.key_list import list_hash

PREFETCH = 2  # chunks that a worker holds
LISTED = 100  # failures that are told one by one; FAILED has all
NETWORK, READING, WRITING = "in the network", "waiting for images", "writing"
OTHERS = "on scenes and volumes"  # which are read and written in parts between passes


@dataclass
class Outcome:
    """images: in all; before: of them done by an earlier start. failed: how many could not be read; problems:
    of the first of them. told: sentences about how files were read. shares: of all processes' time.
    """

    images: int
    before: int
    seconds: float
    shares: dict[str, float]
    failed: int = 0
    problems: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


def write_folder(
    predictor: Predictor, source: Source, output: Output, runtime: Runtime, asked: Mapping[str, Any]
) -> Outcome:
    """Predicts all images of a source; call on all processes. One that was killed over it goes on.

    asked: what else the results depend on. UserError: the folder holds unfinished results of something else,
    or cannot be written.
    """
    chunks = Chunks(source, source.ends(predictor.reading.batch))
    journal = Journal(output.folder, runtime.rank, runtime.world)
    done: list[int] = []
    with runtime.together():
        if runtime.is_main:
            output.folder.mkdir(parents=True, exist_ok=True)
            legend = legend_picture(output.task.legend(ignored="not predicted"))
            (output.folder / LEGEND).write_bytes(png(legend))
            names = {"images": list_hash(source.names()), "batch": predictor.reading.batch}
            done = journal.begin({**predictor.made_by(), **names, **asked}).tolist()
    earlier = runtime.gather(done)[0]
    mine = np.setdiff1d(np.arange(len(chunks.ends)), earlier)[runtime.rank :: runtime.world].tolist()
    before = sum(len(chunks.numbers(chunk)) for chunk in earlier)
    clock, problem = Clock(), None
    progress = Progress(chunks.images, before, runtime.is_main)
    try:
        _predict(Work(predictor, source, output, clock), chunks, mine, journal, progress)
    except UserError as error:
        problem = str(error)
    except OSError as error:
        problem = of_system(error)
    own = clock.total, clock.spent
    journal.end(problem)
    journal.await_others(progress.at)
    progress.close()
    with runtime.together():
        if problem is not None:
            raise UserError(problem)
    spent = runtime.gather(own)
    seconds = [total for total, _ in spent]
    shares = {
        name: sum(parts.get(name, 0.0) for _, parts in spent) / sum(seconds)
        for name in (NETWORK, OTHERS, READING, WRITING)
    }
    outcome = Outcome(chunks.images, before, max(seconds), shares)
    with runtime.together():
        if runtime.is_main:
            _finish(journal, output, outcome)
    return runtime.gather(outcome)[0]


@dataclass(frozen=True)
class Chunks:
    """The chunks of a source by number: what workers are given."""

    source: Source
    ends: np.ndarray

    def numbers(self, chunk: int) -> range:
        """Of its images."""
        return range(int(self.ends[chunk - 1]) if chunk else 0, int(self.ends[chunk]))

    def read(self, chunk: int) -> Chunk:
        return self.source.read(self.numbers(chunk))

    @property
    def images(self) -> int:
        return int(self.ends[-1])

    def describe(self, chunk: int) -> str:
        return f"images ({summary([self.source.where(number) for number in self.numbers(chunk)], 8)})"


@dataclass(frozen=True)
class Work:
    """What is done with the images of a chunk."""

    predictor: Predictor
    source: Source
    output: Output
    clock: Clock

    def seen(self, group: Group, failed: dict[int, str]) -> list[Job]:
        """What is left to write of images of one size; those that do not fit into memory have failed."""
        numbers, images, sizes = group
        try:
            with self.clock.part(NETWORK):
                seen = self.predictor.see(images, self.output.needs_conf, self.output.needs_probabilities)
        except DataError as error:
            failed.update({number: f"{self.source.where(number)}: {error}" for number in numbers})
            return []
        return [
            (number, partial(self.output.write_image, self.source.path(number), images, seen, place, size))
            for place, (number, size) in enumerate(zip(numbers, sizes, strict=True))
        ]

    def late(self, number: int, failed: dict[int, str]) -> list[tuple[int, Entry]]:
        """A large picture, a volume or a scene, read and written here and now."""
        assert isinstance(self.source, Files)
        try:
            if not self.source.is_picture(number):
                with self.clock.part(OTHERS):
                    files, name = self.source.files(number), self.source.path(number)
                    prepared = self.source.reader.prepared
                    return [(number, self.output.write_other(self.predictor, prepared, files, name))]
            with self.clock.part(READING):
                group = self.source.late(number)
        except (DataError, OSError) as error:
            failed[number] = str(error)
            return []
        jobs = self.seen(group, failed)
        with self.clock.part(WRITING):
            return [(number, job()) for number, job in jobs]


def _predict(work: Work, chunks: Chunks, mine: list[int], journal: Journal, progress: Progress) -> None:
    """This process's chunks, until they are done or another process has failed."""
    reading = work.predictor.reading
    loader = ahead(
        chunks.read,
        mine,
        workers=reading.workers,
        prefetch=PREFETCH,
        timeout_s=reading.timeout_s,
        describe=chunks.describe,
    )
    with Writers(reading.workers > 0, journal.add) as writers:
        for chunk in mine:
            with work.clock.part(READING):
                found = next(loader)
            jobs = [job for group in found.groups for job in work.seen(group, found.failed)]
            written = [one for number in found.late for one in work.late(number, found.failed)]
            entry: Entry = {"chunk": chunk, "images": len(chunks.numbers(chunk))}
            if found.failed:
                entry["failed"] = sorted(found.failed.items())
            with work.clock.part(WRITING):
                writers.put(entry, jobs, written)
            if journal.look():
                return
            progress.at(journal.images)
        with work.clock.part(WRITING):
            writers.drain()


def _finish(journal: Journal, output: Output, outcome: Outcome) -> None:
    """What is of all images together, and the end of the journal."""
    problems = output.folder / FAILED
    problems.unlink(missing_ok=True)
    with open(problems, "a", encoding="utf-8") as file:
        for entry in journal.entries():
            outcome.told += entry.get("told", [])
            for _, problem in entry.get("failed", []):
                outcome.failed += 1
                file.write(f"{problem}\n")
                if outcome.failed <= LISTED:
                    outcome.problems.append(problem)
    if not outcome.failed:
        problems.unlink()

    def coco() -> Iterator[Entry]:
        for entry in journal.entries():
            yield from entry.get("coco", [])

    output.finish(coco)
    journal.remove()
