"""A folder of small images, and the ways to pack it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.tiny_set import TAXONOMY, image_bytes, label_array
from unimatch.packing.pack import Outcome, Packed, Problem, labeled_sample, write_set
from unimatch.packing.pieces import Across
from unimatch.taxonomy import Taxonomy

SHARD_BYTES = 10_000  # 3 samples of a file job


@dataclass(frozen=True)
class FileJob:
    path: Path

    @property
    def key(self) -> str:
        return self.path.stem

    def files(self) -> list[Path]:
        return [self.path]


def convert(job: FileJob, log: Path) -> Outcome:
    """The file as a sample with a label; a file that holds `bad` is a problem. Logs what it was asked for,
    and stops at the key in the file `stop`, as a killed process would.
    """
    with open(log, "a") as file:
        file.write(f"{job.key}\n")
    stop = log.with_name("stop")
    if stop.exists() and job.key == stop.read_text():
        raise RuntimeError("stopped")
    data = job.path.read_bytes()
    if data == b"bad":
        return Outcome(None, (Problem("bad file", f"{job.key}: is bad"),))
    label = label_array(len(data))
    return Outcome(labeled_sample(job.key, data, "png", label, TAXONOMY.num_classes), note="why not")


class Packing:
    """A folder of images, and the ways to pack it."""

    def __init__(self, folder: Path, count: int = 20) -> None:
        self.out, self.log, self.folder = folder / "out", folder / "log", folder
        self.partial = folder / "out.partial"
        self.jobs = [FileJob(folder / f"k{seed:02d}.png") for seed in range(count)]
        for seed, job in enumerate(self.jobs):
            job.path.write_bytes(image_bytes(seed))

    def pack(
        self,
        jobs: Sequence[FileJob] | None = None,
        *,
        created: dict | None = None,
        taxonomy: Taxonomy = TAXONOMY,
        overwrite: bool = False,
        problems: Sequence[Problem] = (),
        workers: int = 1,
        across: Across | None = None,
    ) -> Packed:
        """Packs the jobs, the last 4 as the subset val."""
        mine = self.jobs if jobs is None else list(jobs)
        self.log.write_text("")
        return write_set(
            self.out,
            taxonomy,
            {"train": mine[:-4], "val": mine[-4:]},
            functools.partial(convert, log=self.log),
            created or {},
            shard_bytes=SHARD_BYTES,
            workers=workers,
            overwrite=overwrite,
            source_name="here",
            problems=problems,
            across=across,
        )

    def stopped_at(self, key: str, across: Across | None = None) -> None:
        stop = self.folder / "stop"
        stop.write_text(key)
        with pytest.raises(RuntimeError, match="stopped"):
            self.pack(overwrite=True, across=across)
        stop.unlink()

    @property
    def converted(self) -> list[str]:
        return self.log.read_text().split()


def every_file(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}
