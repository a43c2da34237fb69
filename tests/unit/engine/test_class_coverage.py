"""A class without a labelled pixel is named by the banner, and a mean over fewer classes says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny_set import class_counts, damage, image_bytes, label_bytes, write_samples
from tests.support.training import SUPERVISED, Log, bare, built
from unimatch.engine.build import build_trainer
from unimatch.engine.class_coverage import MOST_READ, class_warnings
from unimatch.engine.evaluate import over
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_data
from unimatch.engine.runtime import Runtime
from unimatch.engine.selection import Selection
from unimatch.losses import LossConfig
from unimatch.packing.pack import NewSample
from unimatch.shardset.archive import ShardSet
from unimatch.taxonomy import IGNORE_INDEX, Taxonomy

CLASSES = Taxonomy.of(["road", "tree", "car"])


def a_sample(key: str, ids: Sequence[int], counted: bool) -> NewSample:
    """An image of 12 x 16 pixels whose mask has the given ids in turn."""
    label = np.resize(np.array(ids, np.uint8), (12, 16))
    counts = class_counts(label) if counted else None
    return NewSample(key, image_bytes(1), "png", label_bytes(label), 16, 12, counts, label_ext="png")


def a_set(folder: Path, train: Sequence[Sequence[int]], val: Sequence[int], counted: bool = True) -> ShardSet:
    subsets = {
        "train": [a_sample(f"t{number}", ids, counted) for number, ids in enumerate(train)],
        "val": [a_sample("v0", val, counted)],
    }
    return ShardSet.open(write_samples(folder, CLASSES, subsets))


def selected(shards: ShardSet, name: str, rows: Sequence[int] | None = None) -> Selection:
    return Selection(shards, name, shards.rows(name) if rows is None else np.array(rows), "0")


@pytest.mark.parametrize("counted", [True, False])
def test_both_lists_are_looked_at(tmp_path: Path, counted: bool):
    shards = a_set(tmp_path, [[0, 1], [0, 2]], [0, IGNORE_INDEX], counted)
    lists = {"labeled": selected(shards, "train"), "val": selected(shards, "val")}
    (line,) = class_warnings(lists)
    assert line.startswith("data.val: 2 of 3 classes have no pixel in any mask: tree, car; 50.0% of")


def test_of_a_list_the_masks_are_read(tmp_path: Path):
    shards = a_set(tmp_path, [[0, 1], [0, 2], [0, 1, 2]], [0, 1, 2])
    found = [class_warnings({"labeled": selected(shards, "list.txt", rows)}) for rows in ([0], [0, 1])]
    assert found == [["data.labeled: a class has no pixel in any mask: car"], []]


def test_a_long_list_is_not_read(tmp_path: Path):
    shards = a_set(tmp_path, [[0, 1]] * (MOST_READ + 1), [0, 1, 2])
    rows = range(MOST_READ + 1)
    assert class_warnings({"labeled": selected(shards, "list.txt", rows)}) == []
    assert len(class_warnings({"labeled": selected(shards, "list.txt", rows[1:])})) == 1


def test_a_mask_that_cannot_be_read_is_the_loaders_affair(tmp_path: Path):
    shards = a_set(tmp_path, [[0, 1], [0, 1]], [0, 1, 2])
    damage(tmp_path, "t1", "label")
    assert class_warnings({"labeled": selected(shards, "list.txt", [0, 1])}) == []


def test_pairs_without_a_labelled_list_are_no_problem(tmp_path: Path):
    shards = a_set(tmp_path, [[0, 1, 2]], [0, 1, 2])
    assert class_warnings({"unlabeled": selected(shards, "train")}) == []


@pytest.mark.parametrize(
    ("iou", "text"),
    [
        ({"a": 0.5, "b": 0.0}, ""),
        ({"a": 0.5, "b": None}, " over 1 of 2 classes (none of b)"),
        ({"a": None, "b": None}, ""),  # the mean itself is undefined
    ],
)
def test_a_mean_over_fewer_classes_says_so(iou: dict[str, float | None], text: str):
    assert over({"miou": 0.5, "iou": iou, "other": {"a": None, "b": 1.0}}) == text
    assert over({"miou": 0.5}) == ""


def test_it_stands_wherever_training_tells_the_figure(tiny_config: RunConfig):
    trainer = built(tiny_config)
    trainer.config.out.mkdir()
    trainer.evaluator = lambda net: {"miou": 0.5, "iou": {"sky": 0.5, "sign": None}}
    log = Log()
    trainer._evaluate(log)
    trainer.evaluator = lambda net: {"miou": 0.4, "iou": {"sky": 0.4, "sign": 0.4}}
    trainer._evaluate(log)
    assert "miou 50.00 over 1 of 2 classes (none of sign) (" in log.said[0]
    assert "miou 40.00 (" in log.said[1]
    assert "last 40.00, best 50.00 (step 0) over 1 of 2 classes (none of sign)" in trainer.result()


@pytest.mark.parametrize(("kept", "told"), [(16 * 16, True), (16 * 16 - 1, False)])
def test_ohem_that_keeps_every_pixel_is_named(tiny_run: Path, kept: int, told: bool):
    loss = (
        f"task={{name: natural, views: {{crop: 16}}, loss: {{name: ohem, ohem_min_kept_per_image: {kept}}}}}"
    )
    config = bare(tiny_run, loss)
    _, banner = build_trainer(config, open_data(config), Runtime(), resume=False)
    text = (
        "warning: task.loss.ohem_min_kept_per_image is 256, but a crop of 16 x 16 has 256 pixels: OHEM keeps"
    )
    assert (text in banner) == told == ("would be 40\n" in banner + "\n")


def test_plain_cross_entropy_is_not():
    assert LossConfig("ce").without_effect(8) is None


def test_the_banner_ends_with_the_warnings(tmp_path: Path, tiny_run: Path):
    a_set(tmp_path / "set", [[0, 1], [0, 1]], [0, 1, 2])
    config = bare(
        tiny_run, SUPERVISED, f"data.shards={tmp_path / 'set'}", "data.labeled=train", "data.val=val"
    )
    config.data.unlabeled = None
    config.batch.labeled = 2
    banner = build_trainer(config, open_data(config), Runtime(), resume=False)[1]
    assert banner.endswith("\nwarning: data.labeled: a class has no pixel in any mask: car")
