"""The command prelabel: what it writes is packed again as what the run saw, where it was sure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.conftest import tiny_run_text
from tests.support.color_net import ColorNet
from tests.support.folder_source import labels_of
from tests.support.training import BARE
from unimatch import config as config_io
from unimatch import prelabel, train
from unimatch.engine.run_config import RunConfig
from unimatch.errors import UserError
from unimatch.interface import Run, load, open_shards
from unimatch.packing.folder import pack
from unimatch.packing.names import sample_key
from unimatch.packing.recipe import Recipe, Segments, SubsetSource
from unimatch.shardset.key_list import write_keys
from unimatch.taxonomy import IGNORE_INDEX

NAMES = ("a.png", "more/50% b.png")
THRESHOLD = 0.8


@pytest.fixture(scope="module")
def trained(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prelabel")
    (folder / "run.yaml").write_text(tiny_run_text(folder / "run", tiny_shards))
    short = ("schedule.steps=1", "checkpoint.every_steps=1", "task.views.crop=32", "data.unlabeled=null")
    settings = [*BARE, *short, "optimizer.lr=0.000001", "method={name: supervised}", "batch.unlabeled=null"]
    train.train_runs([config_io.load(folder / "run.yaml", RunConfig, settings)], False, 60.0)
    return folder / "run"


@pytest.fixture(scope="module")
def photos(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "images"
    for name, sample in zip(NAMES, open_shards(tiny_shards, "val"), strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), sample.image[..., ::-1])
    return folder


@pytest.fixture(autouse=True)
def colors(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_colors(*args: Any, **changes: Any) -> Run:
        run = load(*args, **changes)
        run.network = ColorNet(len(run.classes)).eval()  # type: ignore[assignment]
        return run

    monkeypatch.setattr(prelabel, "load", with_colors)


def seen(run: Path, photo: Path, threshold: float) -> np.ndarray:
    """What the run sees where it is sure, by hand."""
    found = prelabel.load(run)
    with torch.inference_mode():
        image = torch.from_numpy(found.read(photo))[None]
        probability = found.network(found.task.normalize(image))["logits"].softmax(1)[0]
    best, ids = (one.numpy() for one in probability.max(0))
    return np.where(best < threshold, IGNORE_INDEX, ids).astype(np.uint8)


def submit(out: Path) -> None:
    """As Label Studio does when a person submits a prediction unchanged."""
    tasks = json.loads((out / "tasks.json").read_text())
    for task in tasks:
        task["annotations"] = [{"result": task.pop("predictions")[0]["result"]}]
    (out / "tasks.json").write_text(json.dumps(tasks))


RECIPES = {
    "cvat": ("cvat", {"annotations": "labels/annotations.xml"}),
    "label_studio": ("label_studio", {"annotations": "labels/tasks.json"}),
    "labelme": ("labelme", {"labels": "labels/{dir}/{stem}.json"}),
}


@pytest.mark.parametrize(
    ("tool", "more"),
    [("cvat", ["--tolerance", "0"]), ("label_studio", ["--masks"]), ("labelme", ["--tolerance", "0"])],
)
def test_what_is_written_is_packed_as_what_was_seen(
    tool: str, more: list[str], trained: Path, photos: Path, tmp_path: Path, capsys
):
    source, out = tmp_path / "source", tmp_path / "source" / "labels"
    source.mkdir()
    (source / "images").symlink_to(photos)
    arguments = [str(trained), "--images", str(photos), "--out", str(out), "--format", tool, *more]
    prelabel.main([*arguments, "--smallest", "0", "--threshold", str(THRESHOLD)])
    assert "100.00% of the pixels have the same class, or none, when" in capsys.readouterr().out
    if tool == "label_studio":
        submit(out)
    kind, where = RECIPES[tool]
    subset = SubsetSource(images="images/**/*.png", **where)
    recipe = Recipe({"train": subset}, tuple(load(trained).classes), label_kind=kind, segments=Segments())
    pack(recipe, source, tmp_path / "shards")
    labels = labels_of(tmp_path / "shards")
    for name in NAMES:
        expected = seen(trained, photos / name, THRESHOLD)
        assert 0.02 < (expected == IGNORE_INDEX).mean() < 0.9 and len(np.unique(expected)) > 3
        assert np.array_equal(labels[sample_key(f"images/{name}")], expected)


def test_outlines_are_simplified_within_the_tolerance_that_is_told(
    trained: Path, photos: Path, tmp_path: Path, capsys
):
    arguments = [str(trained), "--images", str(photos / "a.png"), "--format", "cvat", "--threshold", "0"]
    prelabel.main([*arguments, "--out", str(tmp_path)])
    told = capsys.readouterr().out
    assert "100.0% of the pixels have a class (threshold 0)" in told
    assert "outlines within 1 pixels" in told
    share = float(told.split("% of the pixels have the same")[0].split()[-1])
    assert 80 < share < 100


def test_a_list_of_rank_says_which_ones(trained: Path, photos: Path, tmp_path: Path):
    arguments = [str(trained), "--images", str(photos), "--format", "labelme", "--only"]
    write_keys(tmp_path / "keys.txt", [sample_key(NAMES[1])])
    (tmp_path / "paths.txt").write_text(NAMES[1] + "\n")
    for name in ("keys", "paths"):
        prelabel.main([*arguments, str(tmp_path / f"{name}.txt"), "--out", str(tmp_path / name)])
        assert [path.name for path in (tmp_path / name).rglob("*.json")] == ["50% b.json"]
    content = json.loads((tmp_path / "paths" / "more" / "50% b.json").read_text())
    image = tmp_path / "paths" / "more" / content["imagePath"]
    assert image.resolve() == (photos / NAMES[1]).resolve()
    (tmp_path / "other.txt").write_text("c.png\n")
    with pytest.raises(UserError, match="1 of its 1 lines name no image in .*: c.png"):
        prelabel.main([*arguments, str(tmp_path / "other.txt"), "--out", str(tmp_path / "no")])


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--threshold", "1.5"], "--threshold must be from 0 to 1, found 1.5"),
        (["--tolerance", "-1"], "--tolerance must be at least 0 pixels"),
        (["--smallest", "-1"], "--smallest must be at least 0 pixels"),
        (["--images", "nowhere"], "--images nowhere: no such file or folder"),
    ],
)
def test_wrong_settings_are_refused(more: list[str], told: str, trained: Path, photos: Path, tmp_path: Path):
    arguments = [str(trained), "--images", str(photos), "--format", "cvat", "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match=told):
        prelabel.main([*arguments, *more])


def test_labelme_has_one_file_for_two_images(trained: Path, photos: Path, tmp_path: Path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "a.jpg"):
        (folder / name).write_bytes((photos / "a.png").read_bytes())
    with pytest.raises(UserError, match=r"a.jpg and a.png would both have the file a.json"):
        prelabel.main(
            [str(trained), "--images", str(folder), "--format", "labelme", "--out", str(tmp_path / "out")]
        )
