from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unimatch import keyed
from unimatch.codecs.decode import decode_image, decode_label
from unimatch.errors import ConfigError
from unimatch.packing.scenes.camera import render
from unimatch.packing.scenes.classes import ROAD, SKY, TAXONOMY
from unimatch.packing.synthetic import SUBSETS, SceneJob, draw, write_synthetic
from unimatch.shardset.archive import ShardSet
from unimatch.taxonomy import IGNORE_INDEX

SIZE = (48, 64)


def scenes(first: int, last: int, size: tuple[int, int] = SIZE) -> list[tuple[np.ndarray, np.ndarray]]:
    return [render(keyed.key(7, index), *size) for index in range(first, last)]


def test_same_arguments_same_bytes_and_other_seed_other_scenes(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_synthetic(tmp_path / name, train=3, val=2, height=48, width=64, seed=seed)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["index.json", "index.npy", "train-00000.tar", "val-00000.tar"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / files[2]).read_bytes() != (tmp_path / "c" / files[2]).read_bytes()


def test_a_scene_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    for name, train in (("few", 2), ("many", 4)):
        write_synthetic(tmp_path / name, train=train, val=1, height=48, width=64)
    few, many = ShardSet.open(tmp_path / "few"), ShardSet.open(tmp_path / "many")
    assert [few.read(row).image for row in range(2)] == [many.read(row).image for row in range(2)]
    jobs = [SceneJob(name, index) for name in SUBSETS for index in range(4)]
    images = [outcome.sample.image for outcome in (draw(job, 0, *SIZE) for job in jobs) if outcome.sample]
    assert len(set(images)) == 8


def test_what_is_stored(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "out", train=12, val=4, height=48, width=64)
    shards = ShardSet.open(tmp_path / "out")
    assert shards.taxonomy == TAXONOMY and shards.taxonomy.num_classes >= 6
    assert [len(shards.rows(name)) for name in SUBSETS] == [12, 4]
    total = np.zeros(TAXONOMY.num_classes, np.int64)
    for row in shards.rows("train"):
        record = shards.read(row)
        image = decode_image(record.image, record.where)
        label = decode_label(record.label or b"", record.where)
        assert image.shape == (*SIZE, 3) and label.shape == SIZE and record.image_ext == "jpg"
        assert set(np.unique(label)) <= {*range(TAXONOMY.num_classes), IGNORE_INDEX}
        total += [(label == k).sum() for k in range(TAXONOMY.num_classes)]
    assert (total > 0).all() and np.array_equal(total, np.asarray(shards.class_pixels("train")))


def test_the_label_fits_the_picture() -> None:
    # Edges of the label are edges of the picture: it changes more across a class border than inside a class.
    inside, across = [], []
    for image, label in scenes(0, 6):
        step = np.abs(np.diff(image.astype(int), axis=1)).sum(-1)
        border = label[:, 1:] != label[:, :-1]
        inside.append(step[~border].mean())
        across.append(step[border].mean())
    assert np.mean(across) > 1.5 * np.mean(inside)


def test_some_scenes_have_ignored_pixels_and_some_no_road() -> None:
    labels = [label for _, label in scenes(0, 25)]
    ignored = sum((label == IGNORE_INDEX).any() for label in labels)
    roads = sum((label == ROAD).any() for label in labels)
    assert 1 <= ignored < 25 and 12 < roads < 25


def test_colour_alone_does_not_give_the_class() -> None:
    # The best guess from the colour, learned on 30 scenes, stays far from the labels.
    def codes(image: np.ndarray) -> np.ndarray:
        return (image // 32).astype(np.int64) @ (64, 8, 1)

    votes = np.zeros((512, TAXONOMY.num_classes))
    for image, label in scenes(0, 30):
        kept = label != IGNORE_INDEX
        np.add.at(votes, (codes(image)[kept], label[kept]), 1)
    guess = votes.argmax(axis=1)
    right = total = 0
    for image, label in scenes(30, 40):
        kept = label != IGNORE_INDEX
        right += (guess[codes(image)[kept]] == label[kept]).sum()
        total += kept.sum()
    assert 0.2 < right / total < 0.6


def test_the_sky_is_above() -> None:
    rows = np.mean([(label == SKY).mean(axis=1) for _, label in scenes(0, 8)], axis=0)
    assert rows[0] > 0.5 and rows[-1] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"train": 0}, "train must be"), ({"height": 31}, "found 31x64"), ({"val": -1}, "val")],
)
def test_bad_arguments(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write_synthetic(tmp_path / "out", **{"train": 2, "val": 1, "height": 48, "width": 64, **changes})
    assert not list(tmp_path.iterdir())
