"""The commands of the README, in the order in which a user gives them."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import tiny_run_text
from tests.support.processes import MEASURED
from tools import compare
from unimatch import config as config_io
from unimatch import evaluate, predict, train
from unimatch.codecs.decode import decode_rgb
from unimatch.codecs.sheet import GAP, LINE, MARGIN, TILE
from unimatch.engine import checkpoint
from unimatch.engine.log import read_metrics
from unimatch.engine.restore import restore
from unimatch.engine.run_config import RunConfig
from unimatch.engine.runtime import Runtime
from unimatch.errors import UserError
from unimatch.shardset.archive import ShardSet


@pytest.fixture(scope="module")
def finished(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 steps, evaluated and saved after 2 and 4."""
    folder = tmp_path_factory.mktemp("finished")
    path = folder / "run.yaml"
    path.write_text(tiny_run_text(folder / "run", tiny_shards))
    short = (
        "schedule.steps=4",
        "evaluation.every_steps=2",
        "checkpoint.every_steps=2",
        "log.pictures_every_steps=4",
    )
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in signals]
    train.main(["--config", str(path), *(part for setting in short for part in ("--set", setting))])
    assert [signal.getsignal(number) for number in signals] == before, "training keeps the signals' handlers"
    return folder / "run"


@pytest.fixture(scope="module")
def learned(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supervised run of 30 steps: enough for a network that tells classes apart."""
    folder = tmp_path_factory.mktemp("learned")
    path = folder / "run.yaml"
    path.write_text(tiny_run_text(folder / "run", tiny_shards))
    train.main(
        ["--config", str(path), "--set", "method.name=supervised", "--set", "schedule.steps=30"]
        + ["--set", "evaluation.every_steps=30", "--set", "checkpoint.every_steps=30"]
    )
    return folder / "run"


def test_a_run_folder_tells_what_ran(finished: Path):
    config = config_io.load(finished / "config.yaml", RunConfig)
    assert config.schedule.steps == 4 and config.method.name == "unimatch"
    environment = json.loads((finished / "env.json").read_text())
    assert (
        environment["torch"] == torch.__version__.split("+")[0] or environment["torch"] == torch.__version__
    )
    assert checkpoint.load_state(finished / "last").step == 4
    lines = read_metrics(finished, "train")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    expected = {"loss", "loss_x", "loss_s1", "loss_s2", "loss_fp", "kept", "pseudo_hist", "epoch"}
    expected |= {"lr_encoder", "lr_head", *(MEASURED - {"seconds", "own_forward_s", "own_load_s"})}
    assert expected <= lines[-1].keys()
    assert [line["step"] for line in read_metrics(finished, "eval")] == [2, 4]
    assert list((finished / "tensorboard").iterdir())


def test_tensorboard_has_the_headline_first_and_pictures_of_the_first_and_last_step(finished: Path):
    board = EventAccumulator(str(finished / "tensorboard"))
    board.Reload()
    scalars = sorted(board.Tags()["scalars"])
    assert scalars[0] == "Result/miou" and {"eval/miou", "eval/iou/sky", "train/loss"} <= set(scalars)
    logged = [line["miou"] for line in read_metrics(finished, "eval")]
    assert [event.value for event in board.Scalars("Result/miou")] == pytest.approx(logged)
    assert set(board.Tags()["images"]) == {"labeled", "unlabeled"}
    for name in ("labeled", "unlabeled"):
        assert [event.step for event in board.Images(name)] == [1, 4]


def test_evaluate_gives_the_figures_that_training_logged(finished: Path, tmp_path: Path, capsys):
    evaluate.main([str(finished), "--json", str(tmp_path / "val.json"), "--workers", "0"])
    figures = json.loads((tmp_path / "val.json").read_text())
    logged = read_metrics(finished, "eval")[-1]
    assert figures["step"] == 4 and figures["images"] == 10
    assert figures["miou"] == logged["miou"] and figures["iou"] == logged["iou"]
    assert f"{100 * figures['miou']:.2f}" in capsys.readouterr().out


def test_predict_writes_ids_colours_and_overlays(finished: Path, tiny_shards: Path, tmp_path: Path):
    shards = ShardSet.open(tiny_shards)
    record = shards.read(int(shards.rows("val")[0]))
    source = tmp_path / "photos" / "a folder"
    source.mkdir(parents=True)
    (source / "street no. 1.jpg").write_bytes(record.image)
    (source / "small.png").write_bytes(cv2.imencode(".png", np.full((20, 31, 3), 90, np.uint8))[1].tobytes())
    predict.main([str(finished), "--images", str(tmp_path / "photos"), "--out", str(tmp_path / "out")])
    for name, size in (("street no. 1.jpg", (record.height, record.width)), ("small.png", (20, 31))):
        for kind, shape in (("ids", size), ("colors", (*size, 3)), ("overlays", (*size, 3))):
            picture = cv2.imread(
                str(tmp_path / "out" / kind / "a folder" / f"{name}.png"), cv2.IMREAD_UNCHANGED
            )
            assert picture.shape == shape
    assert cv2.imread(str(tmp_path / "out" / "legend.png")) is not None
    stems = ["--images", str(tmp_path / "photos"), "--out", str(tmp_path / "stems"), "--stems"]
    predict.main([str(finished), *stems])
    assert {path.name for path in (tmp_path / "stems" / "ids" / "a folder").iterdir()} == {
        "street no. 1.png",
        "small.png",
    }
    colors = np.array(shards.taxonomy.colors, np.uint8)
    ids = cv2.imread(str(tmp_path / "out" / "ids" / "a folder" / "small.png.png"), cv2.IMREAD_UNCHANGED)
    painted = cv2.imread(str(tmp_path / "out" / "colors" / "a folder" / "small.png.png"))
    assert (painted[..., ::-1] == colors[ids]).all()


def test_predict_writes_what_the_network_says_of_each_image(learned: Path, tiny_shards: Path, tmp_path: Path):
    shards = ShardSet.open(tiny_shards)
    restored, seen = restore(learned, "last", None, Runtime()), set()
    (tmp_path / "in").mkdir()
    rows = shards.rows("val").tolist()[:3]
    for row in rows:
        record = shards.read(row)
        (tmp_path / "in" / f"{row}.{record.image_ext}").write_bytes(record.image)
    predict.main([str(learned), "--images", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    colors = np.array(shards.taxonomy.colors, np.uint8)
    for row in rows:
        record = shards.read(row)
        image, name = decode_rgb(record.image, ""), f"{row}.{record.image_ext}.png"
        expected = restored.task.predict(restored.net, torch.from_numpy(image)[None])[0].numpy()
        ids, overlay = (
            cv2.imread(str(tmp_path / "out" / kind / name), cv2.IMREAD_UNCHANGED)
            for kind in ("ids", "overlays")
        )
        assert np.array_equal(ids, expected)
        blended = 0.5 * image + 0.5 * colors[ids]
        assert np.abs(overlay[..., ::-1] - blended).max() <= 1
        seen |= set(np.unique(ids).tolist())
    assert len(seen) > 1, "a network that says one class of everything would hide most mistakes"


def test_samples_are_predicted_by_two_runs_at_two_sizes(
    learned: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = ["--data", "val", "--write", "ids", "coco", "--scales", "1", "0.5", "--flip", "--workers", "1"]
    predict.main([str(learned), "--with", str(finished), *options, "--out", str(tmp_path / "out")])
    told = capsys.readouterr().out
    assert "10 images predicted with" in told and "% in the network" in told and "a second" in told
    assert len(json.loads((tmp_path / "out" / "coco.json").read_text())["images"]) == 10
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["coco.json", "ids", "legend.png"]
    predict.main([str(learned), "--with", str(finished), *options[:2], "--labels", str(tmp_path / "labels")])
    (other,) = json.loads((tmp_path / "labels" / "index.json").read_text())["created"]["with"]
    assert other["step"] == 4 and "10 samples labelled" in capsys.readouterr().out


def test_an_image_that_cannot_be_read_is_named_after_the_others_are_done(finished: Path, tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.jpg").write_bytes(b"not a picture")
    (tmp_path / "in" / "good.png").write_bytes(
        cv2.imencode(".png", np.zeros((20, 20, 3), np.uint8))[1].tobytes()
    )
    with pytest.raises(UserError, match=r"1 of 2 images could not be read:\n.*broken.jpg"):
        predict.main([str(finished), "--images", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "ids" / "good.png.png").exists()


def test_compare_makes_a_table_and_pictures(finished: Path, tmp_path: Path):
    compare.main([str(finished), "--out", str(tmp_path), "--images", "2"])
    last = read_metrics(finished, "eval")[-1]
    table = (tmp_path / "summary.md").read_text()
    assert f"| run | 4 | {100 * last['miou']:.2f} |" in table and "sky" in table
    assert cv2.imread(str(tmp_path / "curves.png")) is not None
    height, width = cv2.imread(str(tmp_path / "overlays.png")).shape[:2]
    assert 0 <= width - 3 * (TILE + GAP) < 2 * MARGIN  # the images are 48 x 64
    assert 0 <= height - 2 * (TILE * 48 // 64 + LINE) < 5 * LINE
    assert "data:image/jpeg" in (tmp_path / "report.html").read_text()


def edited(finished: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a finished run whose evaluations were others."""
    shutil.copytree(finished, folder, symlinks=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["kind"] == "eval":
            change(line)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_compare_refuses_runs_that_saw_other_samples(finished: Path, tmp_path: Path):
    other = edited(finished, tmp_path / "other", lambda line: line.update(samples="another"))
    with pytest.raises(UserError, match=r"evaluated on different samples(.|\n)*other: val of .*another"):
        compare.main([str(finished), str(other), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "summary.md").exists()


def test_compare_refuses_runs_whose_masks_were_labelled_anew(finished: Path, tmp_path: Path):
    """The same keys, and masks of the same sizes: another id_map, or corrected masks."""
    other = edited(finished, tmp_path / "other", lambda line: line.update(labels="0f"))
    with pytest.raises(UserError, match=r"evaluated on different samples(.|\n)*other: val of .* masks 0f"):
        compare.main([str(finished), str(other), "--out", str(tmp_path / "out")])
    old = edited(finished, tmp_path / "old", lambda line: line.pop("labels"))  # of an older version
    compare.main([str(finished), str(old), "--out", str(tmp_path / "out"), "--images", "1"])


def test_compare_asks_the_checkpoint_of_runs_without_that_hash(finished: Path, tmp_path: Path):
    old = edited(finished, tmp_path / "old", lambda line: line.pop("samples"))
    compare.main([str(finished), str(old), "--out", str(tmp_path / "out"), "--images", "1"])
    for state in old.glob("checkpoints/*/trainer.json"):
        state.write_text(json.dumps(json.loads(state.read_text()) | {"splits": {"val": "another"}}))
    with pytest.raises(UserError, match="evaluated on different samples"):
        compare.main([str(finished), str(old), "--out", str(tmp_path / "out")])


def test_compare_says_over_which_classes_and_how_each_was_evaluated(finished: Path, tmp_path: Path):
    other = edited(finished, tmp_path / "other", lambda line: line["iou"].update(sign=None))
    path = other / "config.yaml"
    assert "mode: whole" in path.read_text()
    path.write_text(path.read_text().replace("mode: whole", "mode: sliding"))
    compare.main([str(finished), str(other), "--out", str(tmp_path / "out"), "--images", "1"])
    table = (tmp_path / "out" / "summary.md").read_text()
    assert "\nother: the mean is over 7 of 8 classes (none of sign)\n" in table
    assert "\nevaluated in different ways: task.evaluate.mode: run whole, other sliding\n" in table


@pytest.mark.parametrize(
    "method",
    ["{name: supervised}", "{name: fixmatch, mix_partner: shuffled}", "{name: unimatch, mix_partner: batch}"],
)
def test_every_method_learns_for_twenty_steps(tiny_run: Path, method: str):
    """The loss on the labelled images falls; the tiny network starts from nothing."""
    train.main(["--config", str(tiny_run), "--set", f"method={method}", "--set", "data.val=null",
                "--set", "log.pictures_every_steps=0", "--set", "optimizer.lr=0.02"])  # fmt: skip
    losses = [line["loss_x"] for line in read_metrics(tiny_run.parent / "run", "train")]
    assert sum(losses[-4:]) / 4 < 0.85 * sum(losses[:4]) / 4


def test_runs_that_cannot_share_processes_are_refused(tiny_run: Path):
    other = tiny_run.parent / "other.yaml"
    for line, words in (
        ("sync_batchnorm: off", "differ in sync_batchnorm"),
        ("seed: 1", "have the same `out`"),
    ):
        other.write_text(f"include: {tiny_run.name}\n{line}\n")
        with pytest.raises(UserError, match=words):
            train.main(["--config", str(tiny_run), str(other)])
    assert not (tiny_run.parent / "run").exists()


def test_a_run_is_not_mixed_with_another(finished: Path):
    path = finished.parent / "run.yaml"
    with pytest.raises(UserError, match="already holds a run; continue it with --resume"):
        train.main(["--config", str(path)])
    with pytest.raises(UserError, match=r"schedule.steps: was 4, now 20"):
        train.main(["--config", str(path), "--resume"])
