"""The benchmarks run: their figures are for people, so only that there are figures is tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support import tiny_encoder
from tests.support.processes import run
from unimatch.codecs.encode import jpeg
from unimatch.packing.synthetic import render

BENCH = str(ROOT / "tools" / "bench.py")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 32 small photos."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(32):
        (folder / f"{seed}.jpg").write_bytes(jpeg(render(seed, 48, 64)[0], 90))
    return folder


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        (["index", "--samples", "10000", "--steps", "3"], ["10,000"]),
        (
            ["endurance", "--samples", "320", "--shards", "{shards}", "--crop", "32"],
            ["before", "320", "after"],
        ),
        (
            [
                *("input", "--settings", "city-jpg-801", "--images", "{images}"),
                *("--count", "1", "--rounds", "1", "--crop", "32"),
            ],
            ["literal, torch DataLoader", "cpu, --fast-decode", "labelled, kept decoded", "decode"],
        ),
        (
            [
                *("methods", "--encoder", tiny_encoder.NAME, "--crop", "32", "--size", "2"),
                *("--rounds", "1", "--methods", "cps"),
            ],
            ["unimatch", "cps"],
        ),
        (
            ["shards", "--images", "{images}", "--count", "6", "--rounds", "1"],
            ["tar", "by index, in order", "webdataset reader"],
        ),
    ],
)
def test_a_benchmark_prints_a_table_with_a_row_a_case(
    arguments: list[str], rows: list[str], images: Path, tiny_shards: Path
):
    places = {"images": images, "shards": tiny_shards}
    ended = run(1, BENCH, *(one.format(**places) for one in arguments), timeout_s=600)[0]
    assert ended.code == 0, ended.err
    for row in rows:
        assert re.search(rf"^\| {row} \| [\d.,]+ \|", ended.out, re.MULTILINE), ended.out


def test_a_folder_without_images_is_told(tmp_path):
    ended = run(1, BENCH, "shards", "--images", str(tmp_path))[0]
    assert ended.code == 1
    assert ended.err.strip() == f"error: {tmp_path}: no *.jpg below this folder"
