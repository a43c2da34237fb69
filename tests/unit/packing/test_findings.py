"""What is found is kept with finished shards, so that a run that was stopped tells the same in the end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from unimatch.codecs.encode import png
from unimatch.errors import DataError
from unimatch.packing.coverage import missing_classes
from unimatch.packing.findings import Findings, Note, PaletteCheck, Problem
from unimatch.packing.pack import Outcome, Packed, labeled_sample, write_set
from unimatch.shardset.archive import ShardSet
from unimatch.taxonomy import Taxonomy

TAXONOMY = Taxonomy.of(["a", "b"])
TEXT = "{amount} pixels of {files} files: {examples}"


@dataclass(frozen=True)
class NumberJob:
    number: int
    folder: Path

    @property
    def key(self) -> str:
        return f"k{self.number:02d}"

    def files(self) -> list[Path]:
        return [self.folder / self.key]


def convert(job: NumberJob, stop: int) -> Outcome:
    """Every fifth is bad; every second has a note and a palette."""
    if job.number == stop:
        raise RuntimeError("stopped")
    if job.number % 5 == 4:
        return Outcome(None, (Problem("bad", f"{job.key} is bad", job.key),))
    label = np.full((16, 16), job.number % 2, np.uint8)
    image = np.random.default_rng(job.number).integers(0, 255, (16, 16, 3), np.uint8)
    noted = job.number % 2 == 0
    return Outcome(
        labeled_sample(job.key, png(image), "png", label, 2),
        notes=(Note(TEXT, job.key, 10),) if noted else (),
        palette=(job.key, {job.number % 3: 0xFF0000 + job.number % 3}) if noted else None,
    )


class Stopping:
    """The same callable in every run, as far as its pickle tells."""

    stop = -1

    def __call__(self, job: NumberJob) -> Outcome:
        return convert(job, Stopping.stop)


def run(out: Path, stop: int = -1, skip_bad: int = 4) -> Packed:
    Stopping.stop = stop
    jobs = {"train": [NumberJob(i, out.parent) for i in range(20)]}
    return write_set(
        out,
        TAXONOMY,
        jobs,
        Stopping(),
        {},
        shard_bytes=7_000,
        workers=1,
        overwrite=False,
        source_name="here",
        skip_bad=skip_bad,
    )


def test_a_stopped_run_tells_the_same_in_the_end(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    expected = run(tmp_path / "one" / "out")
    assert expected.subsets == {"train": (16, 16)} and len(expected.told) == 2
    assert expected.told[0] == "80 pixels of 8 files: k00, k02, k06, ..."
    assert expected.told[1].startswith(
        "4 images were left out (skip_bad): k04 is bad; k09 is bad; k14 is bad; "
    )
    for stop in (5, 11, 16, 19):
        with pytest.raises(RuntimeError, match="stopped"):
            run(tmp_path / "two" / "out", stop)
    made = run(tmp_path / "two" / "out")
    assert made.kept > 8 and made.told == expected.told
    for path in (tmp_path / "one" / "out").iterdir():
        assert (tmp_path / "two" / "out" / path.name).read_bytes() == path.read_bytes()
    notes = ShardSet.open(tmp_path / "two" / "out").info["created"]["notes"]
    assert notes == list(expected.told)


def test_the_ceiling_counts_what_an_earlier_run_left_out(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        run(tmp_path / "out", stop=18)
    with pytest.raises(DataError, match="4 problems in here.*4 x bad"):
        run(tmp_path / "out", skip_bad=3)
    # Raising it keeps the finished shards.
    assert run(tmp_path / "out", skip_bad=4).subsets == {"train": (16, 16)}


def test_findings_survive_json() -> None:
    found = Findings()
    found.collect([Note(TEXT, "x", 3)], ("x", {1: 0x102030}))
    found.skipped.append([Problem("k", "t", None)])
    again = Findings.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    again.merge(found)
    assert again.sentences()[0] == "6 pixels of 2 files: x, x"


def test_each_colour_is_told_once() -> None:
    check = PaletteCheck()
    assert not list(check.add([((0, 1), "a"), ((1, 2), "a"), ((0, 1), "b")]))
    assert len(list(check.add([((2, 2), "b"), ((3, 2), "c")]))) == 1


def test_classes_without_a_pixel() -> None:
    names = ("sky", "road", "crack")
    assert missing_classes(names, "val", np.array([1, 2, 3])) is None
    assert (
        missing_classes(names, "val", np.array([9, 8, 0])) == "val: a class has no pixel in any mask: crack"
    )
    text = missing_classes(names, "val", np.array([9, 0, 0]), ignored=1)
    assert text is not None and "2 of 3 classes have no pixel in any mask: road, crack" in text
    assert "10.0% of the pixels are 'not labelled'" in text and "ignore_id" in text
