"""Methods in stages: ordinary runs one after the other, each with a label set, killed and continued."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import tiny_run_text
from tests.support.training import BARE
from unimatch import config as config_io
from unimatch import predict, train
from unimatch.engine import checkpoint
from unimatch.engine.restore import restore
from unimatch.engine.run_config import RunConfig
from unimatch.engine.runtime import Runtime
from unimatch.engine.stages import StageRun, last_run, sizes, stages_of, unlabeled_rows
from unimatch.engine.trainer import Trainer
from unimatch.errors import UserError
from unimatch.experiments.progress import progress_of
from unimatch.experiments.size import steps_of
from unimatch.packing.splits import draw_splits, write_split
from unimatch.packing.synthetic import write_synthetic
from unimatch.predicting import stage_labels
from unimatch.predicting.label_sets import Reading, stability
from unimatch.predicting.scales import OverScales
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.key_list import read_keys
from unimatch.shardset.label_set import LabelSet
from unimatch.shardset.writer import ShardWriter

PLUS = "method={name: st_plus, scales: [1.0, 0.5], stable: 0.5}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine scenes to label and four labelled ones."""
    folder = tmp_path_factory.mktemp("stages")
    shards = folder / "data" / "shards"
    write_synthetic(shards, train=13, val=1, height=40, width=48, seed=0)
    write_split(draw_splits(ShardSet.open(shards), "train", [4])[0], shards.parent / "split")
    path = folder / "run.yaml"
    path.write_text(tiny_run_text(folder / "run", shards))
    return path


def config_of(base: Path, out: Path, *more: str) -> RunConfig:
    short = ("schedule.steps=3", "checkpoint.every_steps=1", "task.views.crop=32", "evaluation.workers=0")
    return config_io.load(base, RunConfig, [*BARE, *short, PLUS, f"out={out}", *more])


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run of ST++ that nothing stopped."""
    config = config_of(base, tmp_path_factory.mktemp("whole") / "run")
    train.train_runs([config], False, 60.0)
    return config


def test_stages_are_configurations_alone(base, tmp_path):
    config = config_of(base, tmp_path / "run", "method={name: st_plus, snapshots: 4}")
    first, second = stages_of(config)
    assert [one.config.out for one in (first, second)] == [
        tmp_path / "run" / "stages" / name for name in ("1-first", "2-second")
    ]
    assert first.config.checkpoint.snapshots == 4 and first.stable and not second.stable
    runs = [first.config, second.config, last_run(config)]
    assert [run.data.pseudo for run in runs] == [
        [], [str(first.labels)], [str(first.labels), str(second.labels)]
    ]  # fmt: skip
    assert all(run.data.unlabeled is None and run.batch.unlabeled is None for run in runs)
    assert stages_of(last_run(config)) == [] and last_run(last_run(config)) == last_run(config)
    assert config.data.unlabeled is not None, "the configuration that was given stays as it is"
    others = [config_io.load(base, RunConfig, [f"method={{name: {name}}}"]) for name in ("st", "fixmatch")]
    assert [len(stages_of(other)) for other in others] == [1, 0]
    assert sizes(config, 4, 9) == [4, 4 + 4, 4 * 3 + 9]
    assert steps_of(config) == 9
    epochs = config_of(base, tmp_path, "schedule={steps: null, epochs: 2}", "batch.labeled=2")
    assert steps_of(epochs) == 2 * (4 // 2) + 2 * (8 // 2) + 2 * (21 // 2)


def test_the_stages_of_st_plus_label_all_samples_once_and_the_last_run_is_in_its_folder(whole):
    first, second = stages_of(whole)
    shards = ShardSet.open(whole.data.shards)
    rows = [LabelSet.open(one.labels).rows_in(shards) for one in (first, second)]
    assert [len(some) for some in rows] == [4, 5]
    assert sorted(np.concatenate(rows).tolist()) == unlabeled_rows(whole, shards).tolist()
    steps = [path.name for path in sorted((first.config.out / "checkpoints").iterdir())]
    assert steps == ["step_00000001", "step_00000002", "step_00000003"]
    assert progress_of(whole).finished
    assert json.loads((whole.out / "last" / "trainer.json").read_text())["splits"].keys() >= {
        "labeled",
        "pseudo",
    }
    with pytest.raises(UserError, match="already holds stages of a run; continue it with --resume"):
        train.train_runs([whole], False, 60.0)


def test_the_most_stable_are_those_that_snapshots_agree_about(whole):
    """By hand: mean over the first two snapshots of the mean IoU with the last, of classes in either."""
    (first, _), runtime = stages_of(whole), Runtime()
    shards = ShardSet.open(whole.data.shards)
    rows = unlabeled_rows(whole, shards)
    nets = [restore(first.config.out, str(step), None, runtime) for step in (1, 2, 3)]
    scores = stability(nets, shards, rows, runtime, Reading(batch=3, workers=0))
    expected = []
    for row in rows.tolist():
        image = torch.from_numpy(nets[0].task.decode(shards.read(row)).pixels)[None]
        *earlier, last = (one.task.predict(one.net, image)[0].numpy() for one in nets)
        ious = [
            [
                ((one == k) & (last == k)).sum() / ((one == k) | (last == k)).sum()
                for k in np.union1d(one, last)
            ]
            for one in earlier
        ]
        expected.append(np.mean([np.mean(each) for each in ious]))
    np.testing.assert_allclose(scores, expected, rtol=1e-9)
    best = {shards.keys(rows[[n]])[0] for n in sorted(range(9), key=lambda n: (-scores[n], n))[:4]}
    assert set(read_keys(first.config.out / "stable.txt")) == best


def test_killed_again_and_again_it_continues_to_the_same_weights(base, whole, tmp_path, monkeypatch):
    """In each run, and while labels are written: each time the same command goes on."""
    config = config_of(base, tmp_path / "run")
    first, second = stages_of(config)
    left = [first.config.out, "labels", second.config.out, config.out]
    step, add = Trainer.step, ShardWriter.add_label

    def dies(trainer, number, *args):
        if left and trainer.config.out == left[0] and number == 2:
            raise KeyboardInterrupt
        return step(trainer, number, *args)

    def dies_writing(writer, *args):
        if left and left[0] == "labels" and len(writer._samples) == 2:
            raise KeyboardInterrupt
        return add(writer, *args)

    monkeypatch.setattr(Trainer, "step", dies)
    monkeypatch.setattr(ShardWriter, "add_label", dies_writing)
    states = []
    for resume in (False, True, True, True):
        with pytest.raises(KeyboardInterrupt):
            train.train_runs([config], resume, 60.0)
        states.append(str(progress_of(config)))
        left.pop(0)
    assert states == [
        "1-first, step 2 of 3", "1-first, step 3 of 3", "2-second, step 2 of 3", "step 2 of 3"
    ]  # fmt: skip
    train.train_runs([config], True, 60.0)
    for folder in ("", "stages/1-first", "stages/2-second"):
        ours, theirs = (load_file(one.out / folder / "last" / "model.safetensors") for one in (config, whole))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), folder
    assert LabelSet.open(first.labels).hash == LabelSet.open(stages_of(whole)[0].labels).hash


def test_snapshots_stay_whatever_else_is_saved(tmp_path):
    assert checkpoint.snapshots(3, 500) == [167, 334, 500] and checkpoint.snapshots(0, 9) == []


def test_a_stage_that_has_nothing_to_label_or_other_shards_is_refused(base, tmp_path, tiny_shards):
    shards = ShardSet.open(config_of(base, tmp_path).data.shards)
    for text, told in (
        ("null", "method st_plus labels the unlabelled samples: set data.unlabeled"),
        (f"[{{samples: train, shards: {tiny_shards}}}]", "labels images of data.shards: leave `shards` out"),
    ):
        with pytest.raises(UserError, match=told):
            unlabeled_rows(config_of(base, tmp_path, f"data.unlabeled={text}"), shards)
    assert len(unlabeled_rows(config_of(base, tmp_path, "data.unlabeled=[{samples: val}]"), shards)) == 1


def test_one_network_over_scales_is_the_mean_of_its_probabilities():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 4, 3, padding=1)

    class Net(torch.nn.Module):
        def forward(self, image):
            return {"logits": layer(image)}

    image = torch.randn(2, 3, 8, 12)
    net = Net()
    assert torch.equal(OverScales(net, [1.0], False)(image)["logits"], layer(image))
    total = torch.zeros(2, 4, 8, 12)
    for size in ((4, 6), (8, 12)):
        small = torch.nn.functional.interpolate(image, size, mode="bilinear", align_corners=True)
        for logits in (layer(small), layer(small.flip(-1)).flip(-1)):
            total += torch.nn.functional.interpolate(
                logits, (8, 12), mode="bilinear", align_corners=True
            ).softmax(1)
    found = OverScales(net, [0.5, 1.0], True)(image)["logits"]
    torch.testing.assert_close(found.softmax(1), total / 4)


def test_predict_writes_a_label_set_and_opens_no_label(whole, tmp_path, monkeypatch, capsys):
    (first, _), labels = stages_of(whole), tmp_path / "labels"
    unlabeled = str(whole.data.unlabeled)
    monkeypatch.setattr("unimatch.data.load.decode_label", None)
    arguments = [str(first.config.out), "--data", unlabeled, "--labels", str(labels), "--workers", "0"]
    predict.main([*arguments, "--scales", "1", "0.5", "--flip", "--batch", "2"])
    assert "9 samples labelled" in capsys.readouterr().out
    found, staged = LabelSet.open(labels), LabelSet.open(first.labels)
    places = found.find(staged.index["key"])
    ours = [found.read_label(place)[0] for place in places.tolist()]
    assert ours == [staged.read_label(place)[0] for place in range(len(staged))]
    assert found.info["created"]["step"] == 3
    with pytest.raises(UserError, match="holds a finished set already"):
        predict.main(arguments)
    for wrong in ([], ["--data", unlabeled], ["--images", "a", "--out", "b", "--data", "c", "--labels", "d"]):
        with pytest.raises(UserError, match="give --(images|out) for "):
            predict.main([str(first.config.out), *wrong])
    with pytest.raises(UserError, match="--alpha is for --out"):
        predict.main([*arguments, "--alpha", "0.3"])


def test_a_stage_that_is_done_is_not_done_again(whole, monkeypatch):
    monkeypatch.setattr(stage_labels, "restore", None)
    stage_labels.label_stage(StageRun(stages_of(whole)[0].config, True), [], whole, Runtime())
