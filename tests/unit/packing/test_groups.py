"""Groups of samples stay on one side of a split, and folds hold every sample once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.medical_set import write_scans
from tests.support.tiny_set import write_samples
from unimatch import split as command
from unimatch.codecs.encode import png
from unimatch.errors import ConfigError, DataError
from unimatch.packing.groups import folds, groups_by, groups_of_file
from unimatch.packing.pack import NewSample, labeled_sample
from unimatch.packing.splits import METHODS, Method, draw_splits, write_folds
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.key_list import read_keys
from unimatch.taxonomy import Taxonomy

PATTERN = r"house(\d+)_"


@pytest.fixture(scope="module")
def houses(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Eight houses of 1 to 3 photos with a mask; houses 0 and 1 have one without, also in the subset extra;
    class 1 is in the even houses, class 2 in house 5."""
    image = png(np.zeros((8, 8, 3), np.uint8))
    train: list[NewSample] = []
    for house in range(8):
        label = np.zeros((8, 8), np.uint8)
        label[:2] = 1 if house % 2 == 0 else 0
        label[3] = 2 if house == 5 else 0
        for photo in range(1 + house % 3):
            train.append(labeled_sample(f"p/house{house}_{photo}", image, "png", label, 3))
    bare = [NewSample(f"p/house{house}_9", image, "png", None, 8, 8, None) for house in range(2)]
    extra = [NewSample(f"e/house{house}_8", image, "png", None, 8, 8, None) for house in range(2)]
    extra.append(NewSample("e/street", image, "png", None, 8, 8, None))
    root = tmp_path_factory.mktemp("houses") / "set"
    return ShardSet.open(
        write_samples(root, Taxonomy.of(["a", "b", "c"]), {"train": train + bare, "extra": extra})
    )


def house_of(key: str) -> str:
    return key.split("/")[1].split("_")[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(5))
def test_amounts_count_groups_which_stay_whole(houses: ShardSet, method: Method, seed: int) -> None:
    groups = groups_by(houses, PATTERN)
    small, large = draw_splits(
        houses, "train", [2, 4], method=method, seed=seed, also_unlabeled=["extra"], groups=groups
    )
    for split, count in ((small, 2), (large, 4)):
        labeled, others = set(map(house_of, split.labeled)), set(map(house_of, split.unlabeled))
        assert len(labeled) == count and not labeled & others
        assert "e/street" in split.unlabeled  # of no group
        assert split.groups == (count, 8)
        every = [key for key in houses.keys(houses.rows("train")) if house_of(key) in labeled]
        masked = [key for key in every if not key.endswith("_9")]
        assert sorted(split.labeled) == sorted(masked)
        assert split.left_out == 2 * len(labeled & {"house0", "house1"})
    assert set(small.labeled) <= set(large.labeled)


def test_a_stratified_draw_of_groups_has_every_class(houses: ShardSet) -> None:
    groups = groups_by(houses, PATTERN)
    for seed in range(5):
        (split,) = draw_splits(houses, "train", [3], method="stratified", seed=seed, groups=groups)
        assert (split.labeled_pixels > 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_folds_hold_every_sample_once(houses: ShardSet, tmp_path: Path, method: Method) -> None:
    sizes = write_folds(houses, "train", 3, tmp_path, method=method, groups=groups_by(houses, PATTERN))
    seen: list[str] = []
    for number, (train, val) in enumerate(sizes, 1):
        lists = [read_keys(tmp_path / str(number) / f"{name}.txt") for name in ("train", "val")]
        assert [len(one) for one in lists] == [train, val]
        assert not set(map(house_of, lists[0])) & set(map(house_of, lists[1]))
        seen += lists[1]
    rows = houses.rows("train")
    assert sorted(seen) == sorted(houses.keys(rows[houses.index["label_size"][rows] > 0]))
    assert max(val for _, val in sizes) - min(val for _, val in sizes) <= 2


def test_folds_without_groups(houses: ShardSet, tmp_path: Path) -> None:
    sizes = write_folds(houses, "train", 4, tmp_path)
    assert sorted(val for _, val in sizes) == [3, 4, 4, 4]
    assert all(train + val == 17 for train, val in sizes)


def test_stratified_folds_share_rare_classes() -> None:
    pixels = np.zeros((40, 2), np.int64)
    pixels[:, 0] = 10
    pixels[[0, 1, 2, 3], 1] = 5
    for seed in range(20):
        parts = folds(np.arange(40), 4, seed, pixels)
        assert [len(part) for part in parts] == [10] * 4
        assert [int(pixels[part, 1].sum()) for part in parts] == [5] * 4
    assert any((np.sort(folds(np.arange(40), 4, 0)[0]) != np.sort(folds(np.arange(40), 4, 1)[0])).tolist())


def test_rules(houses: ShardSet, tmp_path: Path) -> None:
    scans = ShardSet.open(write_scans(tmp_path / "scans", train=3, val=4))
    groups = groups_by(scans, "volume")
    assert len(np.unique(groups[scans.rows("val")])) == 4 and (groups[scans.rows("train")] < 0).all()
    assert len(np.unique(groups_by(scans, "folder")[scans.rows("train")])) == 1
    assert (
        len(np.unique(groups_by(houses, r"house\d")[houses.rows("train")])) == 8
    )  # without a group of its own
    with pytest.raises(ConfigError, match="is no regular expression"):
        groups_by(houses, "house(")
    with pytest.raises(DataError, match="17 of 17 samples are in no group, such as p/house0_0"):
        draw_splits(houses, "train", [1], groups=groups_by(houses, "volume"))
    with pytest.raises(DataError, match="9 labelled groups asked for, but 'train' has 8 with a mask, of 8"):
        draw_splits(houses, "train", [9], groups=groups_by(houses, PATTERN))
    with pytest.raises(ConfigError, match="folds must be from 2 to the number of groups, here 8; found 9"):
        write_folds(houses, "train", 9, tmp_path / "f", groups=groups_by(houses, PATTERN))


@pytest.mark.parametrize("gap", [",", ", ", ";", "\t", "   "])
def test_group_files(houses: ShardSet, tmp_path: Path, gap: str) -> None:
    path = tmp_path / "groups.txt"
    keys = houses.keys(houses.rows("train"))
    lines = [f"{key}.jpg{gap}{house_of(key)}" for key in keys]
    path.write_text("\ufeff# image, group\n" + "\r\n".join(lines) + f"\nother.jpg{gap}x\n", encoding="utf-8")
    wanted = groups_by(houses, PATTERN)[houses.rows("train")]
    assert np.array_equal(groups_of_file(houses, path, "train")[houses.rows("train")], wanted)
    path.write_text(f"{lines[0]}\n{keys[0]}.jpg{gap}other\n")
    with pytest.raises(DataError, match="groups.txt:2: p/house0_0 is in the groups 'house0' and 'other'"):
        groups_of_file(houses, path, "train")
    path.write_text(lines[0])
    with pytest.raises(DataError, match="16 of 17 samples are in no group"):
        draw_splits(houses, "train", [1], groups=groups_of_file(houses, path, "train"))
    path.write_text("alone\n")
    with pytest.raises(DataError, match="groups.txt:1: expected an image and its group, found 'alone'"):
        groups_of_file(houses, path, "train")


def test_the_command_counts_volumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans = write_scans(tmp_path / "scans", train=3, val=4)
    start = ["--shards", str(scans), "--subset", "val", "--out", str(tmp_path / "s")]
    assert command.main([*start, "--count", "2"]) == 0
    assert "slices of 4 volumes, which may stand on both sides; --group-by volume" in capsys.readouterr().out
    assert command.main([*start, "--count", "2", "--group-by", "volume"]) == 0
    assert "2 of 4 groups are labelled" in capsys.readouterr().out
    volumes = {key.rpartition("/")[0] for key in read_keys(tmp_path / "s" / "labeled.txt")}
    assert len(volumes) == 2
    assert command.main([*start, "--folds", "2", "--group-by", "volume"]) == 0
    assert f"{tmp_path / 's' / '2'}: train.txt" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main([*start, "--folds", "2", "--also", "train"])
