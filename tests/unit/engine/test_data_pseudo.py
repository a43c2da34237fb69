"""Runs that learn from label sets: what is read, with which labels, what is refused, what a resume asks."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.label_sets import write_label_set
from tests.support.training import BARE, built, trained
from unimatch import config as config_io
from unimatch.codecs.decode import decode_label
from unimatch.engine.preflight import PER_HOST
from unimatch.engine.run_config import FREE_ON_RESUME, RunConfig
from unimatch.engine.run_data import open_data
from unimatch.engine.selection import listed
from unimatch.errors import ConfigError, UserError
from unimatch.shardset.archive import Record, ShardSet
from unimatch.shardset.label_set import LabelSet

CLASS = 7
ST = "method={name: st}"
SHORT = ("schedule.steps=4", "checkpoint.every_steps=2", "task.views.crop=32", ST)


@pytest.fixture(scope="module")
def pseudo(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of class 7 alone for the first 20 unlabelled samples."""
    out = tmp_path_factory.mktemp("pseudo") / "labels"
    unlabeled = tiny_shards.parent / "split" / "unlabeled.txt"

    def label(record) -> np.ndarray:
        return np.full((record.height, record.width), CLASS, np.uint8)

    return write_label_set(out, tiny_shards, unlabeled, label, count=20)


def given(path: Path, pseudo: object, *more: str) -> RunConfig:
    return config_io.load(path, RunConfig, [*BARE, *SHORT, f"data.pseudo={pseudo}", *more])


def first_steps(config: RunConfig) -> list[dict[str, torch.Tensor]]:
    return [micro[0]["labeled"] for _, micro in built(config).loader]


def test_pseudo_labelled_samples_are_half_of_what_is_learnt_from_and_marked(tiny_run, pseudo):
    epoch = ("schedule.steps=11", "data.unlabeled=null")
    config = given(tiny_run, pseudo, *epoch, "data.decoded_mb=0")
    learned = open_data(config).learned
    assert len(learned) == len(learned.samples) == int(learned.sizes.sum()) == listed(6, 20) == 44
    batches = first_steps(config)
    flags = torch.cat([batch["pseudo"] for batch in batches])
    labels = torch.cat([batch["label"] for batch in batches])
    ours = [bool((label[label != 255] == CLASS).all()) for label in labels]
    assert ours == flags.tolist() and flags.sum() == 20
    kept = first_steps(given(tiny_run, pseudo, *epoch))
    worked = first_steps(given(tiny_run, pseudo, *epoch, "data.workers=2"))
    for other in (kept, worked):
        assert all(torch.equal(a[name], b[name]) for a, b in zip(batches, other, strict=True) for name in a)


def test_each_image_has_its_own_label(tiny_run, tiny_shards, tmp_path):
    """Of two sets whose images lie between each other's."""
    shards = ShardSet.open(tiny_shards)
    keys = shards.keys(shards.rows(tiny_shards.parent / "split" / "unlabeled.txt"))
    classes = {key: number % (CLASS + 1) for number, key in enumerate(keys)}
    sets = []
    for half in range(2):
        mine = tmp_path / f"{half}.txt"
        mine.write_text("\n".join(keys[half::2]))

        def label(record: Record) -> np.ndarray:
            return np.full((record.height, record.width), classes[record.key], np.uint8)

        sets.append(write_label_set(tmp_path / f"labels{half}", tiny_shards, mine, label))
    samples = open_data(given(tiny_run, f"[{sets[0]}, {sets[1]}]")).learned.samples
    assert samples.pseudo is not None
    found = {}
    for row in samples.pseudo.rows.tolist():
        data, where = samples.pseudo.read(row)
        found[shards.keys([row])[0]] = int(np.unique(decode_label(data, where)).item())
    assert found == classes and len(classes) > CLASS


def test_several_sets_join_and_one_sample_has_one_label(tiny_run, tiny_shards, pseudo, tmp_path):
    split = tiny_shards.parent / "split"
    unlabeled = ShardSet.open(tiny_shards).rows(split / "unlabeled.txt")
    keys = ShardSet.open(tiny_shards).keys(unlabeled)
    (tmp_path / "rest.txt").write_text("\n".join(keys[20:]))
    rest = write_label_set(tmp_path / "rest", tiny_shards, tmp_path / "rest.txt")
    data = open_data(given(tiny_run, f"[{pseudo}, {rest}]"))
    assert data.pseudo is not None and sorted(data.pseudo.rows) == sorted(unlabeled.tolist())
    assert data.hashes["pseudo"] not in {LabelSet.open(one).hash for one in (pseudo, rest)}
    assert open_data(given(tiny_run, pseudo)).hashes["pseudo"] == LabelSet.open(pseudo).hash
    own = write_label_set(tmp_path / "own", tiny_shards, split / "labeled.txt")
    for places, told in (
        (f"[{pseudo}, {pseudo}]", r"20 samples of .* have a label in .*labels already \(first: "),
        (own, "6 samples of .* have a label in data.labeled already"),
    ):
        with pytest.raises(UserError, match=told):
            open_data(given(tiny_run, places))
    val = write_label_set(tmp_path / "val", tiny_shards, "val")
    with pytest.raises(UserError, match=r"10 samples are in data.pseudo and in data.val"):
        built(given(tiny_run, val, "data.val=val"))
    with pytest.raises(ConfigError, match="pseudo must be a path with the home folder written in full"):
        given(tiny_run, "'~/labels'")


def test_a_resumed_run_asks_for_the_same_labels_wherever_they_lie(tiny_run, tiny_shards, pseudo, tmp_path):
    assert "data.pseudo" in FREE_ON_RESUME and "data.pseudo" in PER_HOST
    whole = given(tiny_run, pseudo, f"out={tmp_path / 'whole'}")
    expected = trained(built(whole))
    shutil.rmtree(whole.out / "checkpoints" / "step_00000004")
    moved = Path(shutil.copytree(pseudo, tmp_path / "moved"))
    found = trained(built(given(tiny_run, moved, f"out={whole.out}"), resume=True), resume=True)
    assert [line["loss"] for line in found] == [line["loss"] for line in expected[2:]]
    shutil.rmtree(whole.out / "checkpoints" / "step_00000004")
    other = write_label_set(
        tmp_path / "other", tiny_shards, tiny_shards.parent / "split" / "unlabeled.txt", count=20
    )
    for place in (other, "null"):
        with pytest.raises(UserError, match="was trained with other pseudo-labels"):
            built(given(tiny_run, place, f"out={whole.out}"), resume=True)


def test_another_method_learns_from_label_sets_too(tiny_run, pseudo, tmp_path):
    config = given(tiny_run, pseudo, "method={name: fixmatch}", "schedule.steps=1", f"out={tmp_path / 'run'}")
    (line,) = trained(built(config))
    assert line["loss_x"] > 0
