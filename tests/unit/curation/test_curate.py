"""The command curate on small sets: what is left, why the rest is not, and where it goes on."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from torch import Tensor

from tests.support.tiny_set import TAXONOMY
from unimatch import curate
from unimatch.codecs.encode import png
from unimatch.curation import appended, prints, unlike
from unimatch.curation.prints import fingerprints
from unimatch.errors import UserError
from unimatch.models.base import Encoder
from unimatch.shardset.archive import ShardSet, ShardWriter, finish_set
from unimatch.shardset.key_list import read_keys, write_keys


def scene(seed: int, size: tuple[int, int] = (40, 56)) -> np.ndarray:
    """uint8 RGB: smooth random patches."""
    small = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC))


def brighter(image: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.convertScaleAbs(image, alpha=0.8, beta=20))


def write(root: Path, subsets: dict[str, dict[str, np.ndarray | bytes]]) -> Path:
    writers = []
    for name, images in subsets.items():
        with ShardWriter(root, name, max_samples=3) as writer:
            for key, image in images.items():
                data = image if isinstance(image, bytes) else png(image)
                height, width = (40, 56) if isinstance(image, bytes) else image.shape[:2]
                writer.add(
                    key, data, "png", None, width, height, None, second=data if name == "two_dates" else None
                )
        writers.append(writer)
    finish_set(root, TAXONOMY, {"recipe": "tiny"}, writers)
    return root


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A set with two labelled images, and val."""
    train = {"a": scene(0), "b": scene(1), "leaked": brighter(scene(3))}
    return write(tmp_path / "mine", {"train": train, "val": {"v": scene(2), "w": scene(3)}})


@pytest.fixture
def web(tmp_path: Path) -> Path:
    images = {
        "new1": scene(10),
        "new2": scene(11),
        "again": scene(10),
        "brighter": brighter(scene(11)),
        "of_a": brighter(scene(0)),
        "of_v": scene(2),
        "black": np.zeros((40, 56, 3), np.uint8),
        "black2": np.zeros((40, 56, 3), np.uint8),
        "broken": png(scene(12))[:100],
        "broken2": png(scene(13))[:100],
    }
    return write(tmp_path / "web", {"train": images, "val": {"own": scene(14)}})


def dropped(out: Path) -> dict[str, list[str]]:
    with open(out / "dropped.csv", newline="") as file:
        return {row[0]: row[1:] for row in list(csv.reader(file))[1:]}


def test_doubles_and_leaks_are_left_out_and_told(
    mine: Path, web: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_keys(tmp_path / "labeled.txt", ["a", "b", "leaked"])
    out = tmp_path / "out"
    labeled = ("--reference", str(mine), "--labeled", str(tmp_path / "labeled.txt"))
    curate.main([str(web), *labeled, "--out", str(out)])
    assert read_keys(out / "keep.txt") == ["black", "black2", "new1", "new2"]
    told = dropped(out)
    assert set(told) == {"again", "brighter", "of_a", "of_v", "broken", "broken2", "leaked"}
    assert told["again"] == ["pool", "equal", "0", "new1", "pool"]
    assert told["brighter"][1] == "alike" and told["brighter"][3:] == ["new2", "pool"]
    assert told["of_a"][3:] == ["a", "labelled"] and told["of_v"][3:] == ["v", "held out"]
    assert told["leaked"][0] == "labelled" and told["leaked"][3:] == ["w", "held out"]
    assert told["broken"] == told["broken2"] == ["pool", "unreadable", "", "", ""]
    said = capsys.readouterr().out
    assert "1 images (pool) equal one that is held out: left out" in said
    assert "1 images (labelled) resemble one that is held out: kept, and to be looked at" in said
    assert "2 images cannot be read" in said
    curate.main([str(web), *labeled, "--out", str(tmp_path / "equal"), "--distance", "0", "--pool", "train"])
    assert len(read_keys(tmp_path / "equal" / "keep.txt")) >= 4


def test_a_set_s_own_val_is_held_out(mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curate.main([str(mine), "--out", str(tmp_path / "out")])
    assert read_keys(tmp_path / "out" / "keep.txt") == ["a", "b"]
    other = write(tmp_path / "other", {"train": {"x": scene(20)}})
    curate.main([str(other), "--out", str(tmp_path / "none")])
    assert "nothing is held out, so leaks were not looked for" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--encoder", "resnet18"], "--encoder measures distances from what is labelled"),
        (["--count", "3"], "--count is for --encoder"),
        (["--labeled", "val"], "2 samples of --labeled are held out too, such as v"),
        (["--labeled", "train"], "nothing of .* is left to look through"),
    ],
)
def test_what_makes_no_sense_is_refused(more: list[str], reason: str, mine: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        curate.main([str(mine), "--out", str(tmp_path / "out"), *more])
    assert not (tmp_path / "out").exists()


def test_fingerprints_go_on_where_they_were(
    web: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = ShardSet.open(web)
    whole = fingerprints(shards, tmp_path)
    (file,) = tmp_path.glob("fingerprints-*.bin")
    data = file.read_bytes()
    file.write_bytes(data[: 16 * 4 + 7])  # a power cut in the fifth
    looked_at: list[int] = []
    of_row = prints._of_row
    monkeypatch.setattr(appended, "BLOCK", 2)
    monkeypatch.setattr(prints, "_of_row", lambda shards, row: looked_at.append(row) or of_row(shards, row))
    assert np.array_equal(fingerprints(shards, tmp_path), whole) and file.read_bytes() == data
    assert sorted(looked_at) == [4, 5, 6, 7, 8, 9, 10]


class Means(Encoder):
    """Its deepest feature is the image: the mean colour."""

    mean, std, loaded, patch = (0.5,) * 3, (0.5,) * 3, "by hand", 4

    def forward(self, image: Tensor) -> list[Tensor]:
        assert not self.training
        return [image[:, :1], image]


class OtherMeans(Means):
    loaded = "other weights"

    def forward(self, image: Tensor) -> list[Tensor]:
        return [super().forward(image)[1].square()]


def listed(out: Path) -> list[list[str]]:
    """Keys and distances of unlike.csv."""
    with open(out / "unlike.csv", newline="") as file:
        return list(csv.reader(file))[1:]


def test_images_unlike_the_labelled_ones_come_first(
    mine: Path, web: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curate, "build_encoder", lambda config: Means())
    out = tmp_path / "out"
    asked = ["--reference", str(mine), "--labeled", "train", "--encoder", "resnet18", "--side", "16"]
    curate.main([str(web), *asked, "--count", "2", "--out", str(out)])
    rows = listed(out)

    def feature(image: np.ndarray) -> np.ndarray:
        small = cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA)
        mean = (small / 255 - 0.5).mean((0, 1)) / 0.5
        return np.asarray(mean / np.linalg.norm(mean))

    known = [feature(image) for image in (scene(0), scene(1), brighter(scene(3)))]
    images = {"new1": scene(10), "new2": scene(11), "black": np.zeros((40, 56, 3), np.uint8)}
    images["black2"] = images["black"]
    for key, value in rows:
        nearest = min(np.linalg.norm(feature(images[key]) - one) for one in known)
        assert float(value) == pytest.approx(nearest, abs=1e-4)
    values = [float(value) for _, value in rows]
    assert len(rows) == 4 and values == sorted(values, reverse=True) and values[0] > values[-1]
    assert read_keys(out / "unlike.txt") == sorted(key for key, _ in rows[:2])
    few = tmp_path / "few.txt"
    write_keys(few, ["a", "b"])
    curate.main([str(web), *asked, "--labeled", str(few), "--out", str(out)])
    fewer = dict(listed(out))
    assert fewer.keys() == dict(rows).keys() and fewer != dict(rows)
    monkeypatch.setattr(unlike, "distances", None)  # nothing is asked for a second time
    curate.main([str(web), *asked, "--out", str(out)])
    assert listed(out) == rows
    monkeypatch.undo()
    monkeypatch.setattr(curate, "build_encoder", lambda config: OtherMeans())
    curate.main([str(web), *asked, "--out", str(out)])
    assert listed(out) != rows
    with pytest.raises(UserError, match="--side must be a multiple of 4"):
        curate.main([str(web), *asked, "--side", "15", "--out", str(out)])


def test_images_that_it_cannot_look_at_are_refused(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = write(tmp_path / "pairs", {"two_dates": {"p": scene(1)}})
    with pytest.raises(UserError, match="has pairs of images"):
        curate.main([str(pairs), "--out", str(tmp_path / "out")])
    monkeypatch.setattr(curate, "build_encoder", lambda config: Means())
    deep = cv2.imencode(".png", scene(1)[..., 0].astype(np.uint16) * 257)[1].tobytes()
    bands = write(tmp_path / "bands", {"train": {"d": deep}})
    asked = ["--reference", str(mine), "--labeled", "train", "--encoder", "resnet18", "--side", "16"]
    with pytest.raises(UserError, match="for colour images of 8 bits"):
        curate.main([str(bands), *asked, "--out", str(tmp_path / "out")])
