from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny_set import write_samples
from unimatch.codecs.encode import png
from unimatch.errors import ConfigError, DataError
from unimatch.packing import splits
from unimatch.packing.pack import NewSample, labeled_sample
from unimatch.packing.splits import draw_splits, plain, stratified, write_split
from unimatch.shardset.archive import ShardSet
from unimatch.taxonomy import Taxonomy

TAXONOMY = Taxonomy.of(["common", "half", "rare"])


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 labelled images, class 1 in the even ones, class 2 in numbers 3 and 17; 4 mask-free ones in the same
    subset and 3 in the subset extra.
    """
    root = tmp_path_factory.mktemp("splits") / "set"
    image = png(np.zeros((8, 8, 3), np.uint8))
    train: list[NewSample] = []
    for i in range(20):
        label = np.zeros((8, 8), np.uint8)
        label[0, :4] = 255
        label[1:3] = 1 if i % 2 == 0 else 0
        label[3] = 2 if i in (3, 17) else 0
        train.append(labeled_sample(f"t/{i:02d}", image, "png", label, 3))
    train += [NewSample(f"t/bare{i}", image, "png", None, 8, 8, None) for i in range(4)]
    extra = [NewSample(f"e/{i}", image, "png", None, 8, 8, None) for i in range(3)]
    return write_samples(root, TAXONOMY, {"train": train, "extra": extra})


@pytest.mark.parametrize("method", splits.METHODS)
def test_a_split_divides_the_subset(shards: Path, tmp_path: Path, method: splits.Method) -> None:
    opened = ShardSet.open(shards)
    (split,) = draw_splits(opened, "train", [6], method=method, seed=3, also_unlabeled=["extra"])
    write_split(split, tmp_path / "s")
    labeled, unlabeled = (opened.rows(tmp_path / "s" / f"{name}.txt") for name in ("labeled", "unlabeled"))
    assert len(labeled) == 6 and not set(labeled) & set(unlabeled)
    everything = np.concatenate([opened.rows("train"), opened.rows("extra")])
    assert sorted([*labeled, *unlabeled]) == sorted(everything)
    assert (opened.index["label_size"][labeled] > 0).all()
    again = draw_splits(opened, "train", [6], method=method, seed=3, also_unlabeled=["extra"])[0]
    assert (again.labeled, again.unlabeled) == (split.labeled, split.unlabeled)
    assert draw_splits(opened, "train", [6], method=method, seed=4)[0].labeled != split.labeled


@pytest.mark.parametrize("method", splits.METHODS)
def test_larger_splits_contain_the_smaller(shards: Path, method: splits.Method) -> None:
    opened = ShardSet.open(shards)
    for seed in range(10):
        drawn = draw_splits(opened, "train", [9, 3, Fraction(1, 4)], method=method, seed=seed)
        nine, three, six = (set(split.labeled) for split in drawn)
        assert three < six < nine and [len(three), len(six), len(nine)] == [3, 6, 9]
        assert drawn[1].labeled == draw_splits(opened, "train", [3], method=method, seed=seed)[0].labeled
        for split in drawn:
            assert len(split.unlabeled) == 24 - len(split.labeled)


def test_stratified_goes_on_from_a_smaller_draw() -> None:
    random = np.random.default_rng(1)
    pixels = random.integers(0, 100, (200, 8)) * (random.random((200, 8)) < 0.2)
    pixels[:8] += 500 * np.eye(8, dtype=np.int64)
    small = stratified(pixels, 8, 5)
    large = stratified(pixels, 40, 5, small)
    assert large[:8].tolist() == small.tolist() and len(set(large.tolist())) == 40
    present, mine = (pixels > 0).mean(axis=0), (pixels[large] > 0).mean(axis=0)
    assert np.abs(present - mine).max() < 0.1


def test_pixels_are_counted(shards: Path) -> None:
    split = draw_splits(ShardSet.open(shards), "train", [20])[0]
    counts = [20 * 60 - 10 * 16 - 2 * 8, 10 * 16, 2 * 8]
    assert split.pool_pixels.tolist() == counts and split.labeled_pixels.tolist() == counts
    assert split.labeled_images.tolist() == [20, 10, 2]
    assert split.unlabeled == tuple(f"t/bare{i}" for i in range(4))


def test_pixels_that_the_index_does_not_know_are_counted(shards: Path) -> None:
    opened = ShardSet.open(shards)
    opened.info["subsets"]["train"]["class_pixels"] = None
    split = draw_splits(opened, "train", [2])[0]
    assert split.pool_pixels.tolist() == [20 * 60 - 10 * 16 - 2 * 8, 10 * 16, 2 * 8]


def test_a_key_list_is_divided_too(shards: Path, tmp_path: Path) -> None:
    """So a validation set is taken out first."""
    opened = ShardSet.open(shards)
    val = draw_splits(opened, "train", [5])[0]
    write_split(val, tmp_path / "val")
    split = draw_splits(opened, str(tmp_path / "val" / "unlabeled.txt"), [6])[0]
    assert set(split.labeled) | set(split.unlabeled) == set(val.unlabeled) and len(split.labeled) == 6
    assert split.pool_pixels.sum() == 15 * 60


def test_fraction_is_rounded(shards: Path) -> None:
    opened = ShardSet.open(shards)
    for text, count in (("0.25", 6), ("0.3", 7), ("0.01", 1), ("5/6", 20)):  # of 24 samples
        assert len(draw_splits(opened, "train", [Fraction(text)])[0].labeled) == count
    # The published counts of 2975 and 10582 images.
    assert [splits.labeled_count(Fraction(1, n), 2975) for n in (16, 8, 4, 2)] == [186, 372, 744, 1488]
    assert splits.labeled_count(Fraction(1, 8), 10582) == 1323


def test_plain_draws_every_image_equally_often() -> None:
    drawn = Counter(i for seed in range(2000) for i in plain(10, 3, seed).tolist())
    assert all(abs(count - 600) < 6 * np.sqrt(600 * 0.7) for count in drawn.values()) and len(drawn) == 10


def test_stratified_has_the_rare_class_where_plain_often_has_not(shards: Path) -> None:
    opened = ShardSet.open(shards)
    pixels = splits.sample_pixels(opened, opened.rows("train")[:20])
    rare = pixels[:, 2] > 0
    assert all(rare[stratified(pixels, 3, key)].any() for key in range(50))
    assert sum(rare[plain(20, 3, key)].any() for key in range(50)) < 35


def test_stratified_covers_all_classes_and_follows_their_frequency() -> None:
    random = np.random.default_rng(0)
    frequency = np.array([1.0, 0.8, 0.5, 0.3, 0.1, 0.02])
    present = random.random((400, 6)) < frequency
    present[0] = True
    pixels = present * random.integers(1, 1000, (400, 6))
    plain_error, error = [], []
    for key in range(20):
        assert (pixels[stratified(pixels, 6, key)] > 0).any(axis=0).all()
        chosen = stratified(pixels, 40, key)
        assert len(set(chosen.tolist())) == 40
        error.append(np.abs(present[chosen].mean(axis=0) - present.mean(axis=0)).max())
        plain_error.append(np.abs(present[plain(400, 40, key)].mean(axis=0) - present.mean(axis=0)).max())
    assert np.mean(error) < 0.12 and len({tuple(stratified(pixels, 6, key)) for key in range(20)}) > 15
    assert np.mean(error) < 1.2 * np.mean(plain_error)


def test_stratified_finds_the_one_image_that_has_a_class() -> None:
    """Of 300 images, for each of two classes; nothing but the need of its class speaks for it."""
    pixels = np.full((300, 5), 100, np.int64)
    pixels[:, 3:] = 0
    for first, second in ((0, 137), (299, 12)):
        mine = pixels.copy()
        mine[first], mine[second] = (0, 0, 0, 50, 0), (0, 0, 0, 0, 50)
        for key in range(5):
            assert {first, second} <= set(stratified(mine, 5, key).tolist())


def test_stratified_does_not_take_a_sliver_for_a_class() -> None:
    # Class 1: a single pixel in images 0..9, 100 pixels in images 10..19.
    pixels = np.zeros((40, 2), np.int64)
    pixels[:, 0], pixels[:10, 1], pixels[10:20, 1] = 1000, 1, 100
    for key in range(20):
        assert pixels[stratified(pixels, 2, key), 1].max() == 100


def test_stratified_with_everything_chosen_and_with_absent_classes() -> None:
    pixels = np.array([[5, 0, 0], [5, 3, 0], [0, 0, 0]])
    assert sorted(stratified(pixels, 3, 1).tolist()) == [0, 1, 2]


def test_the_table_marks_what_is_missing(shards: Path) -> None:
    opened = ShardSet.open(shards)
    one = [draw_splits(opened, "train", [1], seed=seed)[0] for seed in range(50)]
    lines = splits.statistics(next(split for split in one if split.labeled_pixels[2] == 0)).splitlines()
    assert [line.split()[0] for line in lines] == ["class", "common", "half", "rare"]
    assert "<- not among the labelled samples" in lines[3]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"amounts": [3, 21]},
            DataError,
            "21 labelled .* asked for, but 'train' has 20 with a mask .4 of its 24",
        ),
        ({"subset": "extra"}, DataError, "'extra' has 0 with a mask"),
        ({"subset": "trian"}, DataError, "trian"),
        ({"also_unlabeled": ["nix"]}, DataError, "nix"),
        ({"amounts": [0]}, ConfigError, "count"),
        ({"amounts": [Fraction(3, 2)]}, ConfigError, "fraction"),
        ({"amounts": []}, ConfigError, "a count or a fraction"),
        ({"method": "random"}, ConfigError, "plain, stratified"),
    ],
)
def test_refused(shards: Path, arguments: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        draw_splits(ShardSet.open(shards), **{"subset": "train", "amounts": [1], **arguments})
