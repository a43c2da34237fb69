from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.tiny_set import write_samples
from tests.unit.packing.test_tools import tool
from unimatch.codecs.encode import jpeg, png
from unimatch.codecs.picture import as_rgb, scaled
from unimatch.codecs.sheet import GAP, LINE, MARGIN, TILE
from unimatch.inspection.check import check_set, contact_sheet, table
from unimatch.inspection.duplicates import find_twins, fingerprint, similar_pairs
from unimatch.packing.pack import NewSample, labeled_sample
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.key_list import write_keys
from unimatch.taxonomy import Taxonomy

TAXONOMY = Taxonomy(("a", "b"), ((255, 0, 0), (0, 0, 255)))


def bits(value: int) -> int:
    return bin(value).count("1")


def distance(one: np.ndarray, other: np.ndarray) -> int:
    return bits(fingerprint(one)[1] ^ fingerprint(other)[1])


def scene(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    """uint8 RGB: smooth random patches."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("limit", [0, 1, 2, 4, 8])
def test_similar_pairs_against_all_pairs(limit: int) -> None:
    random = np.random.default_rng(limit)
    hashes = [int(x) for x in random.integers(0, 2**64, 60, dtype=np.uint64)]
    for base in hashes[:30]:  # neighbours at every distance around the limit, in random bits
        for count in (max(limit, 1), limit + 1):
            for bit in random.choice(64, count, replace=False):
                base ^= 1 << int(bit)
            hashes.append(base)
    hashes = sorted(set(hashes))
    expected = [
        [i, j]
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if bits(hashes[i] ^ hashes[j]) <= limit
    ]
    assert similar_pairs(np.array(hashes, np.uint64), limit).tolist() == expected
    assert bool(expected) == (limit > 0)


def test_twins_against_all_pairs() -> None:
    random = np.random.default_rng(0)
    values = np.array([0, 0b1, 0b11, 0b1111, 0xFF00, 0xFF0000000000], np.uint64)
    for limit in (0, 1, 2):
        for _ in range(30):
            hashes = random.choice(values, 12)
            rows = random.integers(0, 9, 12)
            groups_of_row = random.integers(-1, 3, 9)
            groups = groups_of_row[rows]
            expected: dict[tuple[int, int], set[int]] = {}
            for i in range(12):
                for j in range(12):
                    fits = hashes[i] and hashes[j] and rows[i] != rows[j] and 0 <= groups[i] <= groups[j]
                    if fits and bits(int(hashes[i]) ^ int(hashes[j])) <= limit:
                        expected.setdefault((int(groups[i]), int(groups[j])), set()).add(i)
            found = find_twins(hashes, rows, groups, limit)
            assert {(item.one, item.other) for item in found} == set(expected)
            for item in found:
                for one, other in item.examples:
                    assert (
                        one != other and groups_of_row[one] == item.one and groups_of_row[other] == item.other
                    )
                if limit == 0 and len(set(rows.tolist())) == 12:
                    assert item.count == len(expected[item.one, item.other])


def test_a_fingerprint_survives_what_people_do_to_images() -> None:
    others = []
    for seed in range(20):
        image = scene(seed)
        decoded = cv2.imdecode(np.frombuffer(jpeg(image, 70), np.uint8), cv2.IMREAD_COLOR_RGB)
        half = cv2.resize(image, (40, 30), interpolation=cv2.INTER_AREA)
        brighter = cv2.convertScaleAbs(image, alpha=0.9, beta=10)
        for changed in (decoded, half, brighter):
            assert fingerprint(changed)[0] != fingerprint(image)[0]
            assert distance(image, changed) <= 2
        others += [distance(image, scene(other)) for other in range(seed)]
    assert min(others) > 8


def test_flat_images_are_not_compared() -> None:
    flat = np.full((20, 20, 3), 90, np.uint8)
    assert fingerprint(flat) == (0, 0)
    flat[3, 4] = 93
    content, look = fingerprint(flat)
    assert content != 0 and look == 0
    grey = np.full((20, 20), 1000, np.uint16)
    assert fingerprint(grey) == (0, 0)
    grey[:, 10:] = 60000
    assert all(fingerprint(grey))
    assert fingerprint(scene(1))[0] != fingerprint(scene(1).transpose(1, 0, 2).copy())[0]


def sample(key: str, image: np.ndarray, masked: bool = True) -> NewSample:
    data = png(image)
    if masked:
        label = np.zeros(image.shape[:2], np.uint8)
        label[0] = 1
        return labeled_sample(key, data, "png", label, 2)
    return NewSample(key, data, "png", None, image.shape[1], image.shape[0], None)


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """t0 = v0 and t1 = e1 are equal, t2 ~ v2 and t3 ~ t4 alike."""
    near = cv2.convertScaleAbs(scene(2), alpha=0.95, beta=3)
    also = cv2.convertScaleAbs(scene(3), alpha=0.95, beta=3)
    train = [sample(f"t{i}", scene(i)) for i in range(4)] + [sample("t4", also), sample("t5", scene(5))]
    val = [sample("v0", scene(0)), sample("v2", near), sample("v9", scene(9))]
    extra = [sample("e1", scene(1), masked=False)]
    subsets = {"train": train, "val": val, "extra": extra}
    return write_samples(tmp_path_factory.mktemp("leaky") / "set", TAXONOMY, subsets)


def test_an_image_in_training_and_validation_is_an_error(
    leaky: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool("check_shards", leaky) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[-2:] == [
        "problem: 1 image(s) of train occur in val too (t0 = v0); what is evaluated must not be trained on, "
        "remove them from one of the two",
        f"{leaky}: 1 problem(s)",
    ]
    assert "warning: 1 image(s) of extra occur in train too (e1 = t1)" in told
    assert "warning: 1 image(s) of train look much like images of val (t2 ~ v2)" in told
    assert "warning: 2 image(s) of train look much like one another (t3 ~ t4)" in told
    assert len(told) == 5


def test_splits_decide_what_is_compared(leaky: Path, tmp_path: Path) -> None:
    write_keys(tmp_path / "labeled.txt", ["t1", "t2"])
    write_keys(tmp_path / "unlabeled.txt", ["t3", "t4", "t5"])
    lists = [tmp_path / "labeled.txt", tmp_path / "unlabeled.txt"]
    assert check_set(leaky, lists).problems == []  # t0 is in no list
    write_keys(tmp_path / "unlabeled.txt", ["t0", "v9"])
    problems = check_set(leaky, lists).problems
    assert len(problems) == 2 and "1 sample(s) of val are in" in problems[0] and "v9" in problems[0]
    assert "(v0 = t0)" in problems[1] and "unlabeled.txt too" in problems[1]
    problems = check_set(leaky, held_out=["extra"]).problems
    assert len(problems) == 1 and ("(e1 = t1)" in problems[0] or "(t1 = e1)" in problems[0])
    assert "neither a subset" in check_set(leaky, held_out=["nix"]).problems[0]
    (tmp_path / "labeled.txt").write_text("nope\n")
    assert "1 of 1 keys are not in" in check_set(leaky, lists).problems[0]


def test_pairs_and_deep_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = np.zeros((60, 80), np.uint8)
    label[:30] = 1
    pair = labeled_sample("pair", png(scene(1)), "png", label, 2)
    pair = NewSample(**{**vars(pair), "second": png(scene(2))})
    later = NewSample(**{**vars(pair), "key": "later", "image": png(scene(3)), "second": png(scene(1))})
    root = write_samples(tmp_path / "pairs", TAXONOMY, {"train": [pair], "test": [later]})
    report = check_set(root)
    assert len(report.problems) == 1 and "(later = pair)" in report.problems[0]
    sheet = contact_sheet(ShardSet.open(root))
    tiles = [scaled(scene(number), TILE) for number in (3, 1)]
    area = sheet[MARGIN + LINE :][: tiles[0].shape[0], MARGIN:]
    for place, tile in enumerate(tiles):
        assert np.array_equal(area[:, place * (TILE + GAP) :][:, :TILE], tile)
    painted = area[:, 2 * (TILE + GAP) :][:, :TILE].astype(int)
    middle = tiles[1].shape[0] // 2
    assert np.abs(painted[:middle] - (0.4 * tiles[1] + 0.6 * np.array([0, 0, 255]))[:middle]).max() <= 1
    assert np.array_equal(painted[middle:], tiles[1][middle:]), "unchanged is not painted"
    deep = np.zeros((60, 80), np.uint16)
    deep[:, :40] = 3000
    made = labeled_sample("deep", cv2.imencode(".png", deep)[1].tobytes(), "png", label, 2)
    root = write_samples(tmp_path / "deep", TAXONOMY, {"train": [made]})
    report = check_set(root)
    assert report.problems == [] and report.subsets["train"].class_pixels.tolist() == [2400, 2400]
    side = 1984 // 8 - GAP
    tile, sheet = scaled(as_rgb(deep), side), contact_sheet(ShardSet.open(root))
    assert np.array_equal(sheet[MARGIN + LINE :, MARGIN:][: tile.shape[0], :side], tile)
    assert as_rgb(deep)[0, [0, 79], 0].tolist() == [255, 0]
    assert [line.split()[:3] for line in table(report).splitlines()[3:5]] == [
        ["0", "a", "#ff0000"],
        ["1", "b", "#0000ff"],
    ]


def test_camvid_leaks_nothing_into_its_test_set(real_data: Path) -> None:
    groups, prints = [], []
    for place, subset in enumerate(("train", "test")):
        for path in sorted((real_data / "camvid" / "images" / subset).glob("*.jpg"))[::8]:
            image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
            groups.append(place)
            prints.append(fingerprint(image))
    found = np.array(prints, np.uint64)
    assert find_twins(found[:, 0], np.arange(len(found)), np.array(groups), 0) == []
    # In the test drive the car stands for a while; nothing of it looks like the training drives.
    alike = find_twins(found[:, 1], np.arange(len(found)), np.array(groups), 2)
    assert [(item.one, item.other) for item in alike] == [(1, 1)]
