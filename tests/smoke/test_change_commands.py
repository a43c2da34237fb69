"""Change detection through the commands that people type."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import ROOT
from tests.support import tiny_encoder
from tests.support.change_set import CHANGE_RUN, CHANGES, pair, write_change_run
from tools import compare, make_shards
from unimatch import evaluate, plan, predict, prelabel, rank, train
from unimatch.annotations import cvat
from unimatch.annotations.labels import Segments
from unimatch.codecs.sheet import GAP, MARGIN, TILE
from unimatch.engine.log import read_metrics
from unimatch.errors import UserError
from unimatch.predicting.inputs import find_inputs
from unimatch.shardset.key_list import read_keys


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 steps."""
    path = write_change_run(tmp_path_factory.mktemp("change"), train=10, val=5)
    short = ("schedule.steps=4", "evaluation.every_steps=2", "log.pictures_every_steps=2")
    train.main(["--config", str(path), *(part for setting in short for part in ("--set", setting))])
    return path.parent / "run"


def write_dates(folder: Path, name: str, seed: int, size: tuple[int, int] = (40, 56)) -> np.ndarray:
    images, _ = pair(seed, *size)
    for date, image in zip("AB", images, strict=True):
        path = folder / date / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    return images


def predicted(finished: Path, folder: Path, *args: str) -> None:
    predict.main([str(finished), "--images", str(folder / "A"), "--out", str(folder / "out"), *args])


def test_evaluate_prints_the_figures_that_training_logged(finished, tmp_path, capsys):
    evaluate.main([str(finished), "--json", str(tmp_path / "val.json"), "--workers", "0", "--batch", "1"])
    figures = json.loads((tmp_path / "val.json").read_text())
    logged = read_metrics(finished, "eval")[-1]
    names = ("iou_changed", "f1", "precision", "recall", "accuracy", "iou")
    assert figures["images"] == 5 and all(figures[name] == logged[name] for name in names)
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*names, "unchanged"))
    assert f"{100 * figures['accuracy']:.2f}" in printed


def test_predict_writes_overlays_on_both_dates(finished, tmp_path):
    images = write_dates(tmp_path, "a town/1.png", 1)
    write_dates(tmp_path, "2.png", 2, (33, 47))
    predicted(finished, tmp_path, "--second", str(tmp_path / "B"))
    read = {
        kind: cv2.imread(str(tmp_path / "out" / kind / "a town" / "1.png.png"), cv2.IMREAD_UNCHANGED)
        for kind in ("ids", "colors", "overlays")
    }
    ids, overlays = read["ids"], read["overlays"][..., ::-1]
    assert ids.shape == (40, 56) and set(np.unique(ids)) <= {0, 1}
    assert np.array_equal(read["colors"][..., ::-1], np.array(CHANGES.colors, np.uint8)[ids])
    assert overlays.shape == (40, 2 * 56 + 2, 3)
    for shown, image in zip((overlays[:, :56], overlays[:, -56:]), images, strict=True):
        assert np.array_equal(shown[ids == 0], image[ids == 0])
        assert (ids == 1).any() and (shown[ids == 1] != image[ids == 1]).any()
    assert (tmp_path / "out" / "ids" / "2.png.png").exists()


def test_dates_without_a_partner_are_named_before_anything_is_written(finished, tmp_path):
    write_dates(tmp_path, "1.png", 1)
    write_dates(tmp_path, "2.png", 2)
    write_dates(tmp_path, "3.png", 3)
    (tmp_path / "B" / "2.png").unlink()
    (tmp_path / "A" / "3.png").unlink()
    with pytest.raises(UserError, match=r"2 image\(s\) have no partner.*A/2.png \(not in .*B/3.png \(not in"):
        predicted(finished, tmp_path, "--second", str(tmp_path / "B"))
    with pytest.raises(UserError, match="compares two dates: .* with --second"):
        predicted(finished, tmp_path)
    with pytest.raises(UserError, match="--second .*C is not a folder"):
        predicted(finished, tmp_path, "--second", str(tmp_path / "C"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="--second is for runs of task change"):
        find_inputs(tmp_path / "A", tmp_path / "B", tmp_path / "out", dates=1)


def test_dates_of_two_sizes_are_named_after_the_others_are_done(finished, tmp_path):
    write_dates(tmp_path, "1.png", 1)
    write_dates(tmp_path, "2.png", 2)
    small = np.zeros((20, 30, 3), np.uint8)
    (tmp_path / "B" / "2.png").write_bytes(cv2.imencode(".png", small)[1].tobytes())
    with pytest.raises(UserError, match="1 of 2 images could not be read:\n.*2.png: the first date is 56x40"):
        predicted(finished, tmp_path, "--second", str(tmp_path / "B"))
    assert (tmp_path / "out" / "ids" / "1.png.png").exists()


def test_pairs_are_ranked_and_prelabelled(finished, tmp_path):
    for number in range(3):
        write_dates(tmp_path, f"{number}.png", number)
    folders = ["--images", str(tmp_path / "A"), "--second", str(tmp_path / "B")]
    rank.main([str(finished), *folders, "--count", "2", "--out", str(tmp_path / "next")])
    assert len((tmp_path / "next" / "chosen.txt").read_text().split()) == 2
    sheet = cv2.imread(str(tmp_path / "next" / "sheet.png"))
    assert sheet.shape[1] > 6 * 300, "two pairs in a row, each beside its prediction"
    out, only = tmp_path / "labels", tmp_path / "next" / "chosen.txt"
    prelabel.main([str(finished), *folders, "--only", str(only), "--format", "cvat", "--out", str(out)])
    drawings = cvat.read((out / "annotations.xml").read_bytes(), "annotations.xml", Segments())
    assert [(one.image, one.size) for one in drawings] == [(n, (40, 56)) for n in only.read_text().split()]
    rank.main(
        [str(finished), "--data", "val", "--count", "1", "--workers", "0", "--out", str(tmp_path / "val")]
    )
    assert len(read_keys(tmp_path / "val" / "chosen.txt")) == 1


def test_compare_shows_both_dates(finished, tmp_path):
    compare.main([str(finished), "--out", str(tmp_path), "--images", "2"])
    table = (tmp_path / "summary.md").read_text()
    last = read_metrics(finished, "eval")[-1]["iou_changed"]
    assert "| last iou_changed | best iou_changed (step) | unchanged | changed |\n" in table
    assert f"| run | 4 | {100 * last:.2f} |" in table
    assert 0 <= cv2.imread(str(tmp_path / "overlays.png")).shape[1] - 4 * (TILE + GAP) < 2 * MARGIN


def test_plan_knows_the_network_for_pairs(finished, capsys):
    small = ["--devices", "2", "--device-memory", "8GB", "--set", "model.head={name: linear}"]
    small += ["--set", f"model.encoder.name={tiny_encoder.NAME}"]
    plan.main(["--config", str(finished / "config.yaml"), *small])
    assert "a step runs it 3 times, 2 of them with gradients" in capsys.readouterr().out


def test_pairs_of_levir_train_and_give_overlays(real_data, tmp_path):
    """The data set as it is: packed by its recipe, two steps, and a prediction of every pair."""
    source, shards = real_data / "levir", tmp_path / "shards"
    make_shards.main(
        ["--recipe", str(ROOT / "shards/recipes/levir.yaml"), "--source", str(source), "--out", str(shards)]
    )
    path = tmp_path / "run.yaml"
    path.write_text(CHANGE_RUN.format(out=tmp_path / "run", shards=shards, split=tmp_path))
    settings = ["data.labeled=train", "data.unlabeled=test", "schedule.steps=2"]
    settings += ["batch={labeled: 2, unlabeled: 2}"]
    train.main(["--config", str(path), *(part for setting in settings for part in ("--set", setting))])
    folders = ("--images", str(source / "A"), "--second", str(source / "B"), "--out", str(tmp_path / "out"))
    predict.main([str(tmp_path / "run"), *folders])
    names = sorted(path.name for path in (source / "A").iterdir())
    written = {kind: sorted((tmp_path / "out" / kind).iterdir()) for kind in ("ids", "colors", "overlays")}
    assert all([path.name for path in paths] == [f"{n}.png" for n in names] for paths in written.values())
    evaluation = read_metrics(tmp_path / "run", "eval")[-1]
    name = "val_27_0000_0256.png"
    truth = cv2.imread(str(source / "label" / name), cv2.IMREAD_GRAYSCALE) == 255
    said = cv2.imread(str(tmp_path / "out" / "ids" / f"{name}.png"), cv2.IMREAD_GRAYSCALE) == 1
    assert evaluation["images"] == 1
    assert evaluation["accuracy"] == pytest.approx((truth == said).mean())
    assert evaluation["iou_changed"] == pytest.approx((truth & said).sum() / (truth | said).sum())
    overlay = cv2.imread(str(tmp_path / "out" / "overlays" / f"{names[0]}.png"))
    assert overlay.shape == (256, 2 * 256 + 2, 3)
