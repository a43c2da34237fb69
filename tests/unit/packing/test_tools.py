"""The operator programs for shards, run as from a shell, and what they say about bad sets."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.tiny_set import write_samples
from unimatch.codecs.decode import decode_image
from unimatch.codecs.encode import jpeg, png
from unimatch.codecs.picture import hatching, scaled
from unimatch.codecs.sheet import BREAK, GAP, LINE, MARGIN
from unimatch.inspection.check import check_set, contact_sheet
from unimatch.packing import synthetic
from unimatch.packing.pack import NewSample, labeled_sample
from unimatch.shardset.archive import ShardSet
from unimatch.taxonomy import Taxonomy

ROOT = Path(__file__).parents[3]
TAXONOMY = Taxonomy(("a", "b"), ((255, 0, 0), (0, 0, 255)))


def tool(name: str, *arguments: object) -> int:
    """The exit code of `python tools/<name>.py <arguments>`, run in this process."""
    old = sys.argv
    sys.argv = [f"{name}.py", *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / "tools" / f"{name}.py"), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = old
    raise AssertionError("a tool ends with sys.exit")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tools") / "scenes"
    assert (
        tool(
            "make_shards", "--recipe", "synthetic", "--out", out, "--train", 8, "--val", 3, "--size", "48x64"
        )
        == 0
    )
    return out


def odd_set(root: Path, labels: dict[str, np.ndarray], image: np.ndarray | None = None) -> Path:
    """A set whose labels may be anything that a PNG holds; the index trusts its writer."""
    shown = np.zeros((8, 10, 3), np.uint8) if image is None else image
    samples = [
        NewSample(
            key,
            jpeg(shown, 90),
            "jpg",
            png(label),
            shown.shape[1],
            shown.shape[0],
            np.zeros(2, np.int64),
            label_ext="png",
        )
        for key, label in labels.items()
    ]
    return write_samples(root, TAXONOMY, {"train": samples})


def test_fast_decode_stores_the_same_pixels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A JPEG, a progressive one, a colour and a grey PNG: packed, checked, pictured, indexed anew."""
    source = tmp_path / "source"
    source.mkdir()
    image = synthetic.render(1, 150, 200)[0]
    progressive = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    files = {"a.jpg": jpeg(image, 90), "b.jpg": progressive, "c.png": png(image), "d.png": png(image[..., 0])}
    for name, data in files.items():
        (source / name).write_bytes(data)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("subsets: {train: {images: '*.{jpg,png}'}}\nclasses: [a, b]\n")
    out = tmp_path / "out"
    packing = ["make_shards", "--recipe", recipe, "--source", source, "--out", out, "--fast-decode"]
    assert tool(*packing, "--workers", 1) == 0
    told = capsys.readouterr().out
    for kind in ("JPEG with restart markers", "PNG as TIFF with tiles"):
        assert f"1 images were not stored as they are: {kind}\n" in told, told
    assert "1 images stay as they are: JPEG without restart markers, progressive" in told
    shards = ShardSet.open(out)
    assert shards.info["created"]["fast_decode"] is True
    records = {record.key: record for record in map(shards.read, range(4))}
    assert [records[key].image_ext for key in "abcd"] == ["jpg", "jpg", "tif", "png"]
    for name, data in files.items():
        assert np.array_equal(decode_image(records[name[0]].image, ""), decode_image(data, "")), name
    assert tool("check_shards", out, "--picture", tmp_path / "sheet.png") == 0
    (out / "index.json").unlink()
    (out / "index.npy").unlink()
    again = ShardSet.open(out, Taxonomy.of(["a", "b"]))
    assert np.array_equal(again.index, shards.index)


@pytest.mark.parametrize(
    ("name", "command"), [("make_shards", "pack"), ("check_shards", "check"), ("make_splits", "split")]
)
def test_help(name: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool(name, "--help") == 0
    assert f"unimatch {command} " in capsys.readouterr().out


def test_make_check_and_split(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool("check_shards", scenes, "--picture", tmp_path / "sheet.png", "--count", 5) == 0
    told = capsys.readouterr().out
    assert "11 samples" in told and "sound" in told and "vehicle" in told
    for place in (tmp_path, tmp_path / "new" / "folder"):
        assert tool("check_shards", scenes, "--picture", place, "--count", 5) == 0
        file = place / f"{scenes.name}.png"
        assert f"picture: {file}\n" in capsys.readouterr().out
        assert file.read_bytes() == (tmp_path / "sheet.png").read_bytes()
    assert tool("check_shards", scenes, "--picture", tmp_path / "sheet.jpg") == 1
    assert "is a PNG file; name one, or a folder" in capsys.readouterr().err
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    # Five samples, four to a row of eight pictures, and the eight classes in one line.
    side = 1984 // 8 - GAP
    assert sheet is not None and sheet.shape[1] == 8 * (side + GAP) - GAP + 3 * (BREAK - GAP) + 2 * MARGIN
    assert sheet.shape[0] == 2 * (LINE + round(side * 48 / 64) + BREAK - GAP) + LINE + 2 * MARGIN
    arguments = ["--shards", scenes, "--count", 3, "--method", "stratified", "--out", tmp_path / "split"]
    assert tool("make_splits", *arguments) == 0
    told = capsys.readouterr().out
    assert "labeled.txt: 3 keys, hash" in told and "unlabeled.txt: 5 keys, hash" in told and "vehicle" in told
    assert len(ShardSet.open(scenes).rows(tmp_path / "split" / "labeled.txt")) == 3


def test_a_folder_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x", "y"):
        for folder, data in (
            ("i", jpeg(np.zeros((8, 10, 3), np.uint8), 90)),
            ("l", png(np.ones((8, 10), np.uint8))),
        ):
            (tmp_path / "source" / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / "source" / folder / f"{name}.{'jpg' if folder == 'i' else 'png'}").write_bytes(data)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("classes: [a, b]\nsubsets: {train: {images: 'i/*.jpg', labels: 'l/{stem}.png'}}\n")
    arguments = [
        "--recipe",
        recipe,
        "--source",
        tmp_path / "source",
        "--out",
        tmp_path / "out",
        "--workers",
        1,
    ]
    assert tool("make_shards", *arguments, "--set", "downscale=2") == 0
    assert "train: 2 images, 2 with a mask" in capsys.readouterr().out
    assert ShardSet.open(tmp_path / "out").read(0).width == 5
    assert tool("make_shards", *arguments) == 1
    assert "is not empty" in capsys.readouterr().err
    (tmp_path / "source" / "l" / "y.png").unlink()
    assert tool("make_shards", *arguments, "--overwrite") == 1
    told = capsys.readouterr().err
    assert "error: 1 problems in" in told and "l/y.png: no such file" in told and "Traceback" not in told
    recipe.write_text("classes: [a, b]\nsubset: {}\n")
    assert tool("make_shards", *arguments, "--overwrite") == 1
    assert "unknown key; did you mean 'subsets'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--recipe", "synthetic", "--source", "x"],
        ["--recipe", "synthetic", "--size", "96"],
        ["--recipe", "r.yaml"],
        ["--recipe", "r.yaml", "--source", "x", "--train", "3"],
    ],
)
def test_arguments_that_do_not_go_together(tmp_path: Path, arguments: list[str]) -> None:
    assert tool("make_shards", *arguments, "--out", tmp_path / "out") == 2


def test_every_problem_of_a_set_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = np.zeros((8, 10), np.uint8)
    bad = np.full((8, 10), 37, np.uint8)
    odd_set(tmp_path / "set", {"one": good, "two": bad, "three": np.zeros((4, 4), np.uint8), "four": good})
    shard = tmp_path / "set" / "train-00000.tar"
    index = ShardSet.open(tmp_path / "set").index
    data = bytearray(shard.read_bytes())
    start = int(index["image_offset"][3])
    data[start : start + int(index["image_size"][3])] = bytes(
        int(index["image_size"][3])
    )  # zeros for the last image
    shard.write_bytes(data)
    assert tool("check_shards", tmp_path / "set") == 1
    told = capsys.readouterr().err
    assert "train-00000.tar:two: label value(s) 37" in told
    assert "train-00000.tar:three: the label is 4x4 pixels, the image 10x8" in told
    assert "train-00000.tar:four: the image is not a JPEG" in told
    assert f"{tmp_path / 'set'}: 3 problem(s)" in told


def test_a_label_on_its_side_is_of_another_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd_set(tmp_path / "set", {"one": np.zeros((10, 8), np.uint8)})
    assert tool("check_shards", tmp_path / "set") == 1
    assert "train-00000.tar:one: the label is 8x10 pixels, the image 10x8" in capsys.readouterr().err


def test_a_changed_byte_between_the_members_is_found(tmp_path: Path) -> None:
    root = odd_set(tmp_path / "set", {"one": np.zeros((8, 10), np.uint8)})
    shard = root / "train-00000.tar"
    data = bytearray(shard.read_bytes())
    row = ShardSet.open(root).index[0]
    data[int(row["image_offset"]) + int(row["image_size"])] ^= 1
    shard.write_bytes(data)
    problems = check_set(root).problems
    assert any(text.startswith("train-00000.tar: ") and "sha256" in text for text in problems)


def test_a_cut_shard_does_not_hide_the_others(scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes, tmp_path / "set")
    for name, size in (("train-00000.tar", 2000), ("val-00000.tar", 3000)):
        data = (scenes / name).read_bytes()
        (tmp_path / "set" / name).write_bytes(data[: len(data) - size - 10240])
    problems = check_set(tmp_path / "set").problems
    for name in ("train-00000.tar", "val-00000.tar"):
        assert any(problem.startswith(f"{name}: ") for problem in problems)
    assert any("train-00000.tar:train/000007" in problem for problem in problems)


def test_counts_that_do_not_fit_the_labels(tmp_path: Path) -> None:
    image, label = jpeg(np.zeros((8, 10, 3), np.uint8), 90), np.zeros((8, 10), np.uint8)
    sample = labeled_sample("one", image, "jpg", label, 2)
    wrong = NewSample("two", image, "jpg", png(label), 10, 8, np.array([1, 79]), label_ext="png")
    write_samples(tmp_path / "set", TAXONOMY, {"train": [sample, wrong]})
    assert check_set(tmp_path / "set").problems == [
        "train: the index counts other class pixels than the labels hold; pack the data again"
    ]


def test_no_set_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool("check_shards", tmp_path / "nothing") == 1
    assert "no such folder" in capsys.readouterr().err
    assert tool("make_splits", "--shards", tmp_path, "--count", 3, "--out", tmp_path / "s") == 1
    assert "error: " in capsys.readouterr().err


def test_the_contact_sheet_shows_image_overlay_and_classes(tmp_path: Path) -> None:
    label = np.zeros((8, 10), np.uint8)
    label[:, 3:6], label[:, 6:] = 1, 255
    shown = np.full((8, 10, 3), 100, np.uint8)
    shards = ShardSet.open(odd_set(tmp_path / "set", {"one": label}, shown))
    sheet = contact_sheet(shards)
    side = 1984 // 8 - GAP  # the longer side: each pixel becomes 24.5
    top, second = MARGIN + LINE, MARGIN + side + GAP
    image = scaled(decode_image(shards.read(0).image, "one"), side)
    assert np.array_equal(sheet[top : top + image.shape[0], MARGIN : MARGIN + side], image)
    seen = sheet[top : top + image.shape[0], second : second + side].astype(int)
    assert (
        np.abs(seen[:, :73] - (193, 40, 40)).max() <= 3 and np.abs(seen[:, 74:147] - (40, 40, 193)).max() <= 3
    )
    stripes = hatching(*seen.shape[:2])[:, 148:]
    assert np.abs(seen[:, 148:] - (0.4 * image[:, 148:] + 0.6 * stripes)).max() <= 1
    legend = sheet[top + image.shape[0] :]
    for color in ((255, 0, 0), (0, 0, 255)):
        assert (legend == color).all(axis=2).sum() > 100, "swatches are not blended"
