"""Predict on the files that people have: seen as packing saw those that the run learnt from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import unimatch
from tests.conftest import tiny_run_text
from tests.support.http_folder import HttpFolder
from tools import make_shards
from unimatch import evaluate, predict
from unimatch.engine import memory
from unimatch.errors import UserError
from unimatch.packing.splits import draw_splits, write_split
from unimatch.predicting import passes, results
from unimatch.shardset.archive import ShardSet

RECIPE = """
classes: [background, thing]
downscale: 2
subsets:
  train: {images: "train/*.png", labels: "masks/{stem}.png"}
  val: {images: "val/*.{png,jpg,tif}", labels: "masks/{stem}.png"}
"""
SHORT = ("schedule.steps=30", "evaluation.every_steps=30", "checkpoint.every_steps=30", "data.workers=0")
SHORT += ("log.pictures_every_steps=0", "method={name: supervised}", "data.unlabeled=null")
SHORT += ("batch={labeled: 8}", "task.views.crop=32", "optimizer.lr=0.05")


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [66, 95, 3], a bright square on noise, and its label."""
    draw = np.random.default_rng(seed)
    label = np.zeros((66, 95), np.uint8)
    y, x = draw.integers(0, 30), draw.integers(0, 50)
    label[y : y + 34, x : x + 40] = 1
    image = np.where(label[..., None] == 1, 190, 60) + draw.normal(0, 25, (66, 95, 3))
    return image.clip(0, 255).astype(np.uint8), label


def write_photo(path: Path, image: np.ndarray) -> None:
    """As the file's name says; turned.jpg lies on its side, with an EXIF orientation that says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    picture = Image.fromarray(image)
    if path.stem == "turned":
        exif[0x112] = 6
        picture = picture.transpose(Image.Transpose.ROTATE_90)
    if path.stem == "cmyk":
        picture = picture.convert("CMYK")
    picture.save(path, exif=exif, **({"quality": 90} if path.suffix == ".jpg" else {}))


PHOTOS = ("a.png", "b.jpg", "turned.jpg", "cmyk.jpg", "c.tif")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files as people have them, packed into `shards` beside it, at half the size."""
    folder = tmp_path_factory.mktemp("predict") / "source"
    for number, name in enumerate([*(f"train/{n}.png" for n in range(12)), *(f"val/{n}" for n in PHOTOS)]):
        image, label = scene(number)
        write_photo(folder / name, image)
        mask = folder / "masks" / f"{Path(name).stem}.png"
        mask.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(mask), label)
    (folder.parent / "recipe.yaml").write_text(RECIPE)
    arguments = ("--recipe", folder.parent / "recipe.yaml", "--source", folder, "--workers", "1")
    make_shards.main([*map(str, arguments), "--out", str(folder.parent / "shards")])
    return folder


@pytest.fixture(scope="module")
def finished(source: Path) -> Path:
    shards = source.parent / "shards"
    write_split(draw_splits(ShardSet.open(shards), "train", [12])[0], source.parent / "split")
    return unimatch.fit(tiny_run_text(source.parent / "run", shards), *SHORT)


def predicted(run: Path, images: Path, out: Path, *arguments: str) -> dict[str, np.ndarray]:
    """The ids that `unimatch predict` writes, by file name."""
    predict.main([str(run), "--images", str(images), "--out", str(out), *arguments])
    return {path.name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (out / "ids").glob("*.png")}


@pytest.mark.filterwarnings("error")
def test_files_are_predicted_as_their_packed_samples(
    finished: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = predicted(finished, source / "val", tmp_path)
    told = capsys.readouterr().out
    assert "note: images are predicted at 1/2 of their width and height" in told
    assert "does not say what packing did" not in told
    run, samples = unimatch.load(finished), unimatch.open_shards(source.parent / "shards", "val")
    assert sorted(files) == sorted(f"{name}.png" for name in PHOTOS)
    for name in PHOTOS:
        sample = samples[f"val/{Path(name).stem}"]
        assert np.array_equal(run.read(source / "val" / name), sample.image)
        small = run.predict(sample.image)
        assert small.shape == (33, 47) and len(np.unique(small)) == 2
        expected = cv2.resize(small, (95, 66), interpolation=cv2.INTER_NEAREST_EXACT)
        assert np.array_equal(files[f"{name}.png"], expected)
        assert np.array_equal(run.predict_file(source / "val" / name), expected)
        # Seen at another size, or sideways, the same file gives something else.
        truth = cv2.imread(str(source / "masks" / f"{Path(name).stem}.png"), cv2.IMREAD_UNCHANGED)
        assert np.mean(expected == truth) > 0.9
        colors = cv2.imread(str(tmp_path / "colors" / f"{name}.png"))[..., ::-1]
        assert np.array_equal(colors, np.array(run.colors, np.uint8)[expected])
        assert cv2.imread(str(tmp_path / "overlays" / f"{name}.png")).shape == (33, 47, 3)


def test_shards_behind_a_url_are_predicted_as_those_of_the_folder(
    finished: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One answer breaks off on the way."""
    monkeypatch.setenv("UNIMATCH_CACHE", str(tmp_path / "cache"))
    server = HttpFolder(source.parent)
    server.faults["shards/index.npy"] = ["drop"]
    try:
        places = {"url": f"{server.url}shards", "own": str(source.parent / "shards")}
        for name, place in places.items():
            asked = ["--shards", place, "--data", "val", "--workers", "0", "--write", "ids"]
            predict.main([str(finished), *asked, "--out", str(tmp_path / name)])
        with pytest.raises(UserError, match="no such file or folder; shards at a URL are for --shards"):
            predict.main([str(finished), "--images", f"{server.url}val", "--out", str(tmp_path / "no")])
    finally:
        server.close()
    url, own = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "ids").rglob("*.png")} for name in places
    )
    assert url == own and len(own) == len(PHOTOS)
    assert server.count("shards/index.npy") == 2 and server.count("shards/val-00000.tar") >= 1


def test_an_old_checkpoint_takes_what_its_shards_say_and_else_tells_that_it_does_not_know(
    finished: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    state = tmp_path / "run" / "last" / "trainer.json"
    content = json.loads(state.read_text())
    assert content.pop("prepared")["downscale"] == 2
    state.write_text(json.dumps(content))
    there = predicted(tmp_path / "run", source / "val" / "a.png", tmp_path / "there")
    assert np.array_equal(there["a.png.png"], unimatch.load(finished).predict_file(source / "val" / "a.png"))
    assert "does not say" not in capsys.readouterr().out
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(source.parent / "shards"), str(tmp_path / "gone")))
    gone = predicted(tmp_path / "run", source / "val" / "a.png", tmp_path / "gone_out")
    told = capsys.readouterr().out
    assert told.count("does not say what packing did to its images") == 1
    image, _ = scene(12)
    run = unimatch.load(tmp_path / "run")
    assert not run.knows_preparation and np.array_equal(gone["a.png.png"], run.predict(image))


def test_results_beside_the_photos_are_not_predicted_again(
    finished: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(source / "val", tmp_path / "photos")
    (tmp_path / "photos" / "._a.png").write_bytes(b"\0\5\x16\7")
    first = predicted(finished, tmp_path / "photos", tmp_path / "photos" / "out")
    assert "earlier results" not in capsys.readouterr().out
    again = predicted(finished, tmp_path / "photos", tmp_path / "photos" / "out")
    told = capsys.readouterr().out
    assert list(again) == list(first) and len(first) == len(PHOTOS)
    assert "note: 16 files of earlier results were left out" in told
    assert "note: 1 files whose names begin with a dot were left out\n" in told


def test_mode_window_and_stride_are_settings_of_both_commands(
    finished: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--mode", "sliding", "--window", "32", "--stride", "16")
    files = predicted(finished, source / "val" / "a.png", tmp_path / "out", *arguments)
    run = unimatch.load(finished, mode="sliding", window=32, stride=16)
    assert np.array_equal(files["a.png.png"], run.predict_file(source / "val" / "a.png"))
    inside = unimatch.load(finished, mode="sliding", window=32, stride=16, border="inside")
    assert (inside.predict_file(source / "val" / "a.png") != files["a.png.png"]).any()
    assert (files["a.png.png"] != unimatch.load(finished).predict_file(source / "val" / "a.png")).any()
    capsys.readouterr()
    evaluate.main([str(finished), "--workers", "0", *arguments, "--json", str(tmp_path / "e.json")])
    figures = json.loads((tmp_path / "e.json").read_text())
    assert (figures["mode"], figures["window"], figures["stride"]) == ("sliding", 32, 16)
    assert "mode sliding\nwindow 32\nstride 16\n" in capsys.readouterr().out
    counts = np.zeros((2, 2))
    for sample in unimatch.open_shards(source.parent / "shards", "val"):
        assert sample.label is not None
        np.add.at(counts, (sample.label, run.predict(sample.image)), 1)
    iou = np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts))
    assert figures["miou"] == pytest.approx(iou.mean(), abs=1e-6)
    with pytest.raises(UserError, match="stride must be from 1 to the window's 32 pixels, found 33"):
        predicted(finished, source / "val" / "a.png", tmp_path, "--mode", "sliding", "--stride", "33")
    with pytest.raises(UserError, match="window has no meaning with mode 'whole'; use mode 'sliding'"):
        predicted(finished, source / "val" / "a.png", tmp_path, "--window", "64")
    with pytest.raises(UserError, match="load: size is no setting of a prediction"):
        unimatch.load(finished, size=3)


def test_a_picture_that_does_not_fit_in_one_pass_says_what_to_type(
    finished: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And by sliding windows it is the same picture, made and written in parts."""
    monkeypatch.setattr(passes, "LARGE", 100)
    monkeypatch.setattr(results, "LARGE", 100)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    with pytest.raises(UserError, match=r"a.png: 47x33 pixels need at least .*--mode sliding"):
        predicted(finished, source / "val" / "a.png", tmp_path / "no")
    parts = predicted(finished, source / "val" / "a.png", tmp_path / "parts", "--mode", "sliding")
    monkeypatch.undo()
    whole = predicted(finished, source / "val" / "a.png", tmp_path / "whole", "--mode", "sliding")
    assert np.array_equal(parts["a.png.png"], whole["a.png.png"])
    for kind in ("colors", "overlays"):
        made = [cv2.imread(str(tmp_path / way / kind / "a.png.png")) for way in ("parts", "whole")]
        assert np.array_equal(*made)
