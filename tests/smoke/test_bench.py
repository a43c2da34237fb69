"""The benchmarks run: their figures are for people, so only that there are figures is tested."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        (["index", "--samples", "10000", "--steps", "3"], ["10,000"]),
        (["endurance", "--samples", "320"], ["before", "320", "after"]),
        (
            ["input", "--settings", "voc-321", "--count", "1", "--rounds", "1"],
            ["literal, torch DataLoader", "cpu, --fast-decode", "labelled, kept decoded", "decode"],
        ),
        (["shards", "--count", "6", "--rounds", "1"], ["tar", "by index, in order", "webdataset reader"]),
    ],
)
def test_a_benchmark_prints_a_table_with_a_row_a_case(arguments: list[str], rows: list[str]):
    command = [sys.executable, str(ROOT / "tools" / "bench.py"), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    for row in rows:
        assert re.search(rf"^\| {row} \| [\d.,]+ \|", ended.stdout, re.MULTILINE), ended.stdout


def test_a_folder_without_images_is_told(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "bench.py"), "shards", "--images", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 1
    assert ended.stderr.strip() == f"error: {tmp_path}: no *.jpg below this folder"
