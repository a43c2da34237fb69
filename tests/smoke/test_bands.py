"""The walk of docs/data.md for scenes of four bands: packed, divided, trained, predicted onto their grid."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unimatch
from tests.support.raster_files import rasterio, scene, write, write_scenes
from tools import check_shards, make_shards, make_splits
from unimatch import config, evaluate, init, predict, prelabel, rank
from unimatch.engine.run_config import RunConfig
from unimatch.errors import UserError
from unimatch.predicting import scenes

RECIPE = """
classes: [soil, trees, water]
bands: [3, 2, 1, 4]
scaling: {range: [0, 4000]}
show: [4, 3, 2]
tiles: {size: 64, overlap: 16}
subsets:
  train: {images: "scenes/train/*.tif", labels: "labels/train/{stem}.tif"}
  val: {images: "scenes/val/*.tif", labels: "labels/val/{stem}.tif"}
"""
SHORT = ("schedule.steps=40", "task.views.crop=48", "batch={labeled: 4, unlabeled: 4}", "data.workers=0")
SHORT += ("model.encoder.name=test_efficientnet", "model.encoder.weights=none", "model.head.channels=32")
SHORT += ("evaluation={every_steps: 40, workers: 0}", "checkpoint.every_steps=40", "optimizer.lr=0.01")
SHORT += ("log.pictures_every_steps=40",)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after training: src, data, run."""
    root = tmp_path_factory.mktemp("walk")
    sizes = {"train/a": (100, 140), "train/b": (90, 100), "val/c": (80, 100)}
    write_scenes(root / "src", sizes)
    (root / "my.yaml").write_text(RECIPE)
    places = ["--source", root / "src", "--out", root / "data", "--workers", 1]
    assert make_shards.main(list(map(str, ["--recipe", root / "my.yaml", *places]))) == 0
    assert check_shards.main([str(root / "data"), "--picture", str(root / "sheet.png")]) == 0
    assert (
        make_splits.main(["--shards", str(root / "data"), "--count", "1", "--out", str(root / "split")]) == 0
    )
    named = ["--shards", str(root / "data"), "--split", str(root / "split"), "--out", str(root / "run")]
    init.main(["run", str(root / "run.yaml"), *named])
    unimatch.fit(root / "run.yaml", *SHORT)
    return root


def truth(name: str) -> np.ndarray:
    return scene(80, 100, {"c": 2}[name])[1]


def written(path: Path) -> tuple[np.ndarray, object]:
    with rasterio.open(path) as file:
        return file.read(1), (file.crs, file.transform)


def test_the_configuration_that_init_writes_is_for_the_bands(walk: Path) -> None:
    settings = config.load(walk / "run.yaml", RunConfig)
    assert settings.model.encoder.in_channels == 4 and settings.task.name == "natural"
    state = json.loads((walk / "run" / "last" / "trainer.json").read_text())
    assert state["bands"]["order"] == [3, 2, 1, 4] and len(state["bands"]["mean"]) == 4
    with pytest.raises(UserError, match="in_channels is 3, but the samples are 4 channels of 8 bits"):
        unimatch.fit(walk / "run.yaml", *SHORT, "model.encoder.in_channels=3", f"out={walk / 'no'}")


def test_ids_lie_on_the_grid_of_the_scene(walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict.main([str(walk / "run"), "--images", str(walk / "src/scenes/val"), "--out", str(walk / "out")])
    ids, place = written(walk / "out" / "ids" / "c.tif")
    assert place == written(walk / "src/labels/val/c.tif")[1]
    assert (ids == truth("c")).mean() > 0.8, "the network learnt from the fourth band what trees are"
    assert Image.open(walk / "out" / "overlays" / "c.tif.png").size == (100, 80)
    run = unimatch.load(walk / "run")
    assert np.array_equal(run.predict_file(walk / "src/scenes/val/c.tif"), ids)
    sample = unimatch.open_shards(walk / "data", "val")[0]
    assert sample.image.shape == (64, 64, 4) and run.predict(sample.image).shape == (64, 64)
    evaluate.main([str(walk / "run"), "--workers", "0"])
    assert "miou" in capsys.readouterr().out.lower()


def test_scenes_are_ranked_and_not_drawn_for_tools_that_do_not_show_them(walk: Path, tmp_path: Path) -> None:
    images = [str(walk / "run"), "--images", str(walk / "src/scenes/val"), "--out", str(tmp_path / "out")]
    rank.main([*images, "--count", "1"])
    assert (tmp_path / "out" / "chosen.txt").read_text() == "c.tif\n"
    with pytest.raises(UserError, match="reads rasters of bands, which these tools do not show"):
        prelabel.main([*images, "--format", "cvat"])


def test_a_large_scene_goes_window_by_window(
    walk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values, _ = scene(80, 100, 2)
    values[:, 10:20, 30:50] = 0
    write(tmp_path / "in" / "c.tif", values, nodata=0)
    options = [str(walk / "run"), "--images", str(tmp_path / "in"), "--out"]
    predict.main([*options, str(tmp_path / "whole")])
    monkeypatch.setattr(scenes, "WHOLE_PIXELS", 100)
    monkeypatch.setattr(scenes, "LEAST_WINDOW", 40)
    monkeypatch.setattr(scenes, "SHOWN", 50)
    predict.main([*options, str(tmp_path / "windows")])
    whole, windows = (written(tmp_path / name / "ids" / "c.tif")[0] for name in ("whole", "windows"))
    empty = np.zeros((80, 100), bool)
    empty[10:20, 30:50] = True
    for ids in (whole, windows):
        assert np.array_equal(ids == 255, empty)
    assert (whole == windows).mean() > 0.8
    assert Image.open(tmp_path / "windows" / "overlays" / "c.tif.png").size == (50, 40)


def test_files_of_another_kind_are_refused_and_the_others_predicted(walk: Path, tmp_path: Path) -> None:
    values, _ = scene(80, 100, 2)
    write(tmp_path / "in" / "good.tif", values)
    write(tmp_path / "in" / "good.img", values)  # a TIFF whatever its name; GDAL looks at the content
    write(tmp_path / "in" / "float.tif", (values / 1e4).astype(np.float32))
    write(tmp_path / "in" / "rgb.tif", values[:3])
    write(tmp_path / "in" / "names.tif", values, names=("a", "b", "c", "d"))
    with pytest.raises(UserError) as error:
        predict.main([str(walk / "run"), "--images", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    text = str(error.value)
    assert "3 of 5 images" in text
    assert "float.tif: has other numbers than the images that were packed (float32 against uint16)" in text
    assert "rgb.tif: has other bands than the images that were packed (3 against 4)" in text
    assert "names.tif: has other band names" in text
    assert sorted(path.name for path in (tmp_path / "out" / "ids").iterdir()) == ["good.img.tif", "good.tif"]


def test_a_set_that_was_scaled_otherwise_is_not_evaluated_on(walk: Path, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(RECIPE.replace("4000", "5000"))
    places = ["--source", walk / "src", "--out", tmp_path / "data", "--workers", 1]
    assert make_shards.main(list(map(str, ["--recipe", tmp_path / "my.yaml", *places]))) == 0
    with pytest.raises(UserError, match=r"with the ranges \[\(0.0, 4000.0\).*pack them with the same bands"):
        evaluate.main([str(walk / "run"), "--shards", str(tmp_path / "data"), "--workers", "0"])


def test_pairs_of_bands_are_trained_on_and_predicted(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in "abcdef":
        before, _ = scene(64, 64, ord(name))
        after, changed = before.copy(), np.zeros((64, 64), np.uint8)
        y, x = random.integers(0, 32, 2)
        changed[y : y + 32, x : x + 32] = 1
        after[:, changed == 1] = 3800
        for folder, values in (("A", before), ("B", after), ("label", changed)):
            write(tmp_path / "src" / folder / f"{name}.tif", values)
    (tmp_path / "my.yaml").write_text(
        "classes: [unchanged, changed]\nbands: [1, 2, 3, 4]\nscaling: {range: [0, 4000]}\n"
        'subsets: {train: {images: "A/*.tif", second: "B/{stem}.tif", labels: "label/{stem}.tif"}}\n'
    )
    places = ["--source", tmp_path / "src", "--out", tmp_path / "data", "--workers", 1]
    assert make_shards.main(list(map(str, ["--recipe", tmp_path / "my.yaml", *places]))) == 0
    splits = ["--shards", str(tmp_path / "data"), "--count", "3", "--out", str(tmp_path / "split")]
    assert make_splits.main(splits) == 0
    named = ["--shards", str(tmp_path / "data"), "--split", str(tmp_path / "split")]
    init.main(["run", str(tmp_path / "run.yaml"), *named, "--out", str(tmp_path / "run")])
    unimatch.fit(tmp_path / "run.yaml", *SHORT[:-1], "batch={labeled: 2, unlabeled: 2}", "schedule.steps=4")
    folders = ["--images", str(tmp_path / "src" / "A"), "--second", str(tmp_path / "src" / "B")]
    predict.main([str(tmp_path / "run"), *folders, "--out", str(tmp_path / "out")])
    ids, place = written(tmp_path / "out" / "ids" / "a.tif")
    assert ids.shape == (64, 64) and place == written(tmp_path / "src" / "A" / "a.tif")[1]
