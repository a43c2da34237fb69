"""The command rank, on files and on samples, with a network that has seen one step."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import tiny_run_text
from tests.support.training import BARE
from unimatch import config as config_io
from unimatch import rank, train
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_data
from unimatch.errors import UserError
from unimatch.interface import open_shards
from unimatch.shardset.key_list import read_keys


@pytest.fixture(scope="module")
def trained(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step of a mean teacher, whose checkpoint holds two networks."""
    folder = tmp_path_factory.mktemp("rank")
    (folder / "run.yaml").write_text(tiny_run_text(folder / "run", tiny_shards))
    short = (
        "schedule.steps=1",
        "checkpoint.every_steps=1",
        "task.views.crop=32",
        "method={name: mean_teacher}",
    )
    train.train_runs([config_io.load(folder / "run.yaml", RunConfig, [*BARE, *short])], False, 60.0)
    return folder / "run"


@pytest.fixture(scope="module")
def photos(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images, two of which are equal, and one that is none."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    samples = open_shards(tiny_shards, "val")
    for number, name in enumerate(("a.png", "b.png", "more/c.png", "d.png")):
        cv2.imwrite(str(folder / name), samples[number].image[..., ::-1])
    (folder / "same.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "ranking.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_samples_become_lists_that_a_run_takes(trained: Path, tiny_shards: Path, tmp_path: Path, capsys):
    out, split = tmp_path / "out", tiny_shards.parent / "split"
    arguments = [str(trained), "--data", "train", "--workers", "0", "--out"]
    rank.main([*arguments, str(out), "--count", "5"])
    told = capsys.readouterr().out
    assert "6 samples that the run learnt from are not ranked" in told
    assert "5 of 34 images chosen" in told
    chosen, known = read_keys(out / "chosen.txt"), read_keys(split / "labeled.txt")
    assert read_keys(out / "labeled.txt") == sorted([*known, *chosen])
    assert read_keys(out / "unlabeled.txt") == sorted(set(read_keys(split / "unlabeled.txt")) - set(chosen))
    rows = table(out)
    assert len(rows) == 34 and [row["chosen"] for row in rows[:6]] == ["1", "2", "3", "4", "5", ""]
    assert sorted(row["name"] for row in rows[:5]) == chosen and all(row["reasons"] for row in rows[:5])
    scores = [float(row["score"]) for row in rows[5:]]
    assert scores == sorted(scores, reverse=True)
    assert cv2.imread(str(out / "sheet.png")).shape[1] > 600
    config = config_io.load(trained / "config.yaml", RunConfig, [f"data.labeled={out / 'labeled.txt'}"])
    assert len(open_data(config).labeled.rows) == 11
    rank.main([*arguments, str(tmp_path / "again"), "--count", "5", "--batch", "1"])
    for name in ("chosen.txt", "labeled.txt", "unlabeled.txt"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()


def test_files_are_ranked_and_a_double_comes_last(trained: Path, photos: Path, tmp_path: Path):
    arguments = [str(trained), "--images", str(photos), "--against", "model", "--sheet", "0"]
    with pytest.raises(UserError, match=r"1 of 6 images could not be read:\n.*broken.png"):
        rank.main([*arguments, "--count", "4", "--out", str(tmp_path)])
    lines = (tmp_path / "chosen.txt").read_text().split()
    assert lines == ["a.png", "b.png", "d.png", "more/c.png"]
    assert not (tmp_path / "sheet.png").exists()
    by_name = {row["name"]: row for row in table(tmp_path)}
    assert by_name["same.png"]["entropy"] == by_name["a.png"]["entropy"]
    assert np.isfinite([float(row["distance"]) for row in table(tmp_path)[:4]]).all()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--count", "3"], "give --images for files, or --data for samples"),
        (["--data", "val", "--count", "11"], "--count 11: there are only 10 images to choose from"),
        (["--data", "val", "--count", "0"], "--count must be at least 1, found 0"),
        (["--data", "val", "--count", "1", "--second", "x"], "--second is for files"),
        (["--images", "x", "--count", "1", "--shards", "x"], "--shards is for --data"),
        (["--images", "nowhere", "--count", "1"], "--images nowhere: no such file or folder"),
        (["--data", "val", "--count", "1", "--against", "x"], "x"),
    ],
)
def test_what_cannot_be_ranked_is_refused(arguments: list[str], told: str, trained: Path, tmp_path: Path):
    with pytest.raises(UserError, match=told):
        rank.main([str(trained), *arguments, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_results_do_not_lie_among_the_images(trained: Path, photos: Path):
    with pytest.raises(UserError, match="lies among the images"):
        rank.main([str(trained), "--images", str(photos), "--count", "1", "--out", str(photos / "out")])
