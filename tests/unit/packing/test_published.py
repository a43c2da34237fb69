from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import numpy as np
import pytest

from tests.support.tiny_set import write_samples
from tests.unit.packing.test_tools import tool
from unimatch import shipped
from unimatch.codecs.encode import png
from unimatch.errors import DataError
from unimatch.packing.names import sample_key
from unimatch.packing.pack import NewSample, labeled_sample
from unimatch.packing.published import KeyMatcher
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.index import Sample, Shard, rows_of
from unimatch.shardset.key_list import read_list
from unimatch.taxonomy import Taxonomy

TAXONOMY = Taxonomy.of(["a", "b"])
Form = Literal["NFC", "NFD"]
FORMS: tuple[Form, ...] = ("NFC", "NFD")


def known(subsets: Mapping[str, Iterable[str]], bare: Iterable[str] = ()) -> ShardSet:
    """A set of these keys without tars; those in `bare` have no mask."""
    bare = set(bare)
    shards = []
    for subset, keys in subsets.items():
        samples = [
            Sample(key.encode(), 0, 1, b"png", 0, 0, 0, 0 if key in bare else 1, b"png", 1, 1) for key in keys
        ]
        shards.append(Shard(f"{subset}-00000.tar", subset, 1, "", samples))
    info = {
        "taxonomy": TAXONOMY.to_json(),
        "subsets": {subset: {} for subset in subsets},
        "shards": [{"name": s.name, "subset": s.subset, "samples": len(s.samples)} for s in shards],
    }
    return ShardSet(Path("nowhere"), info, rows_of(shards))


def matched(
    shards: ShardSet, tmp_path: Path, text: str, needs_mask: bool = False
) -> tuple[list[str], list[str]]:
    """Keys and problems of a list with this text."""
    (tmp_path / "list.txt").write_text(text)
    found = KeyMatcher(shards, "train").match(tmp_path / "list.txt", needs_mask)
    assert found.rows.tolist() == sorted(set(found.rows.tolist()))
    return shards.keys(found.rows), [text.removeprefix(f"{tmp_path}/list.txt:") for text in found.unmatched]


PUBLISHED = [
    # setting, labelled, all training images
    ("pascal/92", 92, 10582),
    ("pascal/1464", 1464, 10582),
    ("pascal/1_16", 662, 10582),
    ("cityscapes/1_16", 186, 2975),
    ("cityscapes/1_2", 1488, 2975),
    ("ade20k/1_64", 316, 20210),
    ("levir/5%", 356, 7120),
    ("coco/1_512", 232, None),
]


def plain_key(line: str) -> str:
    """The key of a published path, written down once more: every character that is not plain as %XX."""
    return quote(line.split()[0].rpartition(".")[0], safe="/_-")


@pytest.mark.parametrize(
    ("setting", "labeled", "total", "packed_from"),
    [
        *((*setting, "root") for setting in PUBLISHED),
        ("cityscapes/1_16", 186, 2975, "above"),
        ("cityscapes/1_16", 186, 2975, "below"),
        ("levir/5%", 356, 7120, "above"),
    ],
)
def test_published_lists(
    real_data: Path, setting: str, labeled: int, total: int | None, packed_from: str
) -> None:
    folder = real_data / "published_splits" / setting
    lists = [folder / "labeled.txt", *([folder / "unlabeled.txt"] if total else [])]
    lines = [line for path in lists for line in path.read_text().splitlines()]
    keys = {plain_key(line) for line in lines}
    change = {
        "root": lambda key: key,
        "above": lambda key: f"data/VOC2012/{key}",
        "below": lambda key: key.partition("/")[2] or key,
    }[packed_from]
    expected = {change(key) for key in keys}
    assert len(expected) == len(keys) == (total or labeled)
    shards = known({"train": sorted(expected), "val": ["val/x"]})
    matcher = KeyMatcher(shards, "train")
    found = [matcher.match(path, needs_mask=True) for path in lists]
    assert [item.unmatched for item in found] == [[]] * len(lists) and not any(item.by_name for item in found)
    assert len(found[0].rows) == labeled and found[0].lines == labeled
    assert set(shards.keys(np.concatenate([item.rows for item in found]))) == expected
    assert set(shards.keys(found[0].rows)) == {
        change(plain_key(x)) for x in lists[0].read_text().splitlines()
    }


@pytest.mark.parametrize(
    ("path", "count"), [("pascal/val", 1449), ("cityscapes/val", 500), ("levir/test", 2048)]
)
def test_published_validation_lists(real_data: Path, path: str, count: int) -> None:
    file = real_data / "published_splits" / f"{path}.txt"
    shards = known(
        {"train": ["x"], "val": [f"A/{plain_key(line)}" for line in file.read_text().splitlines()]}
    )
    found = KeyMatcher(shards, "train").match(file, needs_mask=True)
    assert found.unmatched == [] and len(found.rows) == found.lines == count


def test_acdc_lists_of_slices_and_volumes(real_data: Path) -> None:
    folder = real_data / "acdc"
    slices = [f"data/slices/{path.stem}" for path in sorted((folder / "data" / "slices").glob("*.h5"))]
    volumes = [f"data/{path.stem}" for path in sorted((folder / "data").glob("*.h5"))]
    deep = {volume: 3 + place % 7 for place, volume in enumerate(volumes)}
    val = [f"{volume}/{index:03d}" for volume, depth in deep.items() for index in range(depth)]
    shards = known({"train": slices, "val": val})
    matcher = KeyMatcher(shards, "train")
    for cases, count in (("1", 32), ("3", 68), ("7", 136)):
        found = [
            matcher.match(folder / "splits" / cases / f"{n}.txt", True) for n in ("labeled", "unlabeled")
        ]
        assert [item.unmatched for item in found] == [[], []] and len(found[0].rows) == count
        assert len(found[0].rows) + len(found[1].rows) == 1312 == len(slices)
    both = matcher.match(folder / "splits" / "valtest.txt", True)
    assert both.lines == len(volumes) == 60 and both.unmatched == []
    assert shards.keys(both.rows) == [
        key for volume in volumes for key in val if key.startswith(f"{volume}/")
    ]


@pytest.mark.parametrize(
    ("keys", "line", "found"),
    [
        (["img/a"], "img/a.jpg mask/a.png", "img/a"),
        (["img/a"], "img/a", "img/a"),
        (["img/a"], "./img\\a.JPG", "img/a"),
        (["img/a"], "/home/me/set/img/a.png 1", "img/a"),
        (["img/a"], "2007_1 1", None),
        (["2007_1"], "2007_1 1", "2007_1"),
        (["train/x%20y"], "train/x y.jpg train/x y.png", "train/x%20y"),
        (["train/x", "train/x%20y"], "train/x y.jpg m/x.png", "train/x%20y"),
        (["50%25/x"], "50%/x.png", "50%25/x"),
        (["v1%2E2%20final"], "v1.2 final.jpg m.png", "v1%2E2%20final"),
        (["v1%2E2%20final"], "v1%2E2%20final", "v1%2E2%20final"),
        (["v1%2E2"], "v1.2", "v1%2E2"),
        (["%C3%BC/x"], "\u00fc/x.tif", "%C3%BC/x"),
        (["a/x", "b/x"], "b/x.png", "b/x"),
        (["a/b/x", "x"], "z/a/b/x.png", "a/b/x"),
        (["val/x"], "train/x.png", "val/x"),
        (["x/000"], "y/x.png", None),
    ],
)
def test_a_line(tmp_path: Path, keys: list[str], line: str, found: str | None) -> None:
    got, problems = matched(known({"train": keys}), tmp_path, line)
    assert got == ([] if found is None else [found]) and bool(problems) == (found is None)


def test_another_folder_is_counted(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("train/x.png\nval/y.png\n")
    found = KeyMatcher(known({"train": ["val/x", "val/y"]}), "train").match(tmp_path / "list.txt", False)
    assert (found.lines, found.by_name, len(found.rows)) == (2, 1, 2)


def test_problems_name_file_and_line(tmp_path: Path) -> None:
    shards = known({"train": ["a/x", "b/x", "a/y", "a/bare"], "val": ["c/y", "c/z", "d/z"]}, bare=["a/bare"])
    text = "x.png\n\nnothing.png m.png\ny.png\na/y.jpg\nz.png\nbare.png"
    keys, problems = matched(shards, tmp_path, text, needs_mask=True)
    assert keys == ["a/y"]
    assert problems == [
        "1: 2 samples could be meant (a/x, b/x): x.png",
        "3: no sample has this name: nothing.png m.png",
        "5: the sample of line 4 again (a/y): a/y.jpg",
        "6: 2 samples could be meant (c/z, d/z): z.png",
        "7: its sample a/bare has no mask: bare.png",
    ]
    assert matched(shards, tmp_path, "bare.png")[0] == ["a/bare"]


# The tool


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/0 ... images/29 of train, five mask-free ones of extra."""
    image = png(np.zeros((8, 8, 3), np.uint8))
    label = np.zeros((8, 8), np.uint8)
    label[4:] = 1
    train = [labeled_sample(f"images/{i}", image, "png", label, 2) for i in range(30)]
    extra = [NewSample(f"extra/{i}", image, "png", None, 8, 8, None) for i in range(5)]
    return write_samples(tmp_path_factory.mktemp("lists") / "set", TAXONOMY, {"train": train, "extra": extra})


def test_a_published_list_becomes_a_split(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("JPEGImages/3.jpg Masks/3.png\r\nimages/4.jpg x.png")
    common = ["--shards", shards, "--list", tmp_path / "mine.txt", "--out", tmp_path / "s"]
    assert tool("make_splits", *common, "--also", "extra") == 0
    told = capsys.readouterr().out
    assert "mine.txt: 1 of 2 lines were matched by the file name alone" in told
    assert "labeled.txt: 2 keys, hash" in told and "unlabeled.txt: 33 keys, hash" in told
    opened = ShardSet.open(shards)
    assert sorted(opened.keys(opened.rows(tmp_path / "s" / "labeled.txt"))) == ["images/3", "images/4"]
    (tmp_path / "rest.txt").write_text("4.jpg\n7.jpg\n")
    assert tool("make_splits", *common, "--unlabeled-list", tmp_path / "rest.txt") == 0
    assert "1 samples are in both lists" in capsys.readouterr().out
    assert sorted(opened.keys(opened.rows(tmp_path / "s" / "unlabeled.txt"))) == ["images/4", "images/7"]


def test_unmatched_lines_are_all_reported(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "".join(f"images/{i}.jpg m/{i}.png\n" for i in range(60))
    (tmp_path / "mine.txt").write_text(text)
    common = ["--shards", shards, "--list", tmp_path / "mine.txt", "--out", tmp_path / "s"]
    assert tool("make_splits", *common) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0] == (
        f"error: 30 of 60 lines match no sample of {shards}; pack these images too, or leave them out with "
        "--allow-unmatched"
    )
    assert told[1] == f"  {tmp_path}/mine.txt:31: no sample has this name: images/30.jpg m/30.png"
    assert (
        told[-2:] == ["  ... and 10 more", f"  all of them: {tmp_path}/s/unmatched.txt"] and len(told) == 23
    )
    assert len((tmp_path / "s" / "unmatched.txt").read_text().splitlines()) == 30
    assert not (tmp_path / "s" / "labeled.txt").exists()
    assert tool("make_splits", *common, "--allow-unmatched") == 0
    assert "labeled.txt: 30 keys" in capsys.readouterr().out
    (tmp_path / "mine.txt").write_text("images/1.jpg\n")
    assert tool("make_splits", *common) == 0 and not (tmp_path / "s" / "unmatched.txt").exists()


@pytest.mark.parametrize("text", ["", "other/picture.jpg\n"])
def test_a_list_of_other_data_is_refused(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "mine.txt").write_text(text)
    arguments = ["--shards", shards, "--list", tmp_path / "mine.txt", "--out", tmp_path / "s"]
    assert tool("make_splits", *arguments, "--allow-unmatched") == 1
    assert "lines matches a sample of" in capsys.readouterr().err


def test_several_amounts_go_into_folders(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--shards", shards, "--method", "stratified", "--out", tmp_path]
    assert tool("make_splits", *arguments, "--fraction", "1/10", "0.5", "1_3") == 0
    opened = ShardSet.open(shards)
    rows = {name: set(opened.rows(tmp_path / name / "labeled.txt")) for name in ("1_10", "1_3", "1_2")}
    assert [len(found) for found in rows.values()] == [3, 10, 15] and rows["1_10"] < rows["1_3"] < rows["1_2"]
    assert tool("make_splits", *arguments, "--count", 4, 2) == 0
    assert set(opened.rows(tmp_path / "2" / "labeled.txt")) < set(opened.rows(tmp_path / "4" / "labeled.txt"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--fraction", "one"],
        ["--fraction", "1/0"],
        ["--count", "3", "--fraction", "1/4"],
        ["--count", "3", "--unlabeled-list", "x.txt"],
        ["--count", "3", "--allow-unmatched"],
        [],
    ],
)
def test_arguments_that_do_not_go_together(tmp_path: Path, arguments: list[str]) -> None:
    assert tool("make_splits", "--shards", tmp_path, "--out", tmp_path, *arguments) == 2


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("listed", ["NFC", "NFD"])
def test_the_unicode_form_of_names_does_not_count(tmp_path: Path, stored: Form, listed: Form) -> None:
    key = sample_key(unicodedata.normalize(stored, "img/Z\u00fcrich 1.png"))
    shards = known({"train": [key, "img/other"]})
    for line in ("img/Z\u00fcrich 1.png", "data/img/Z\u00fcrich 1.png", "Z\u00fcrich 1"):
        assert matched(shards, tmp_path, unicodedata.normalize(listed, line)) == ([key], [])


def test_key_lists_in_another_unicode_form_are_told(tmp_path: Path) -> None:
    composed, other = (sample_key(unicodedata.normalize(form, "img/Z\u00fcrich.png")) for form in FORMS)
    shards = known({"train": [composed]})
    (tmp_path / "list.txt").write_text(f"{other}\nimg/gone\n")
    with pytest.raises(DataError, match="2 of 2 keys are not in.*1 of them are there with names that look"):
        shards.rows(tmp_path / "list.txt")
    # A published list may hold keys: so an old key list becomes a new one.
    assert matched(shards, tmp_path, f"{other}\n") == ([composed], [])


def test_a_list_of_ours_is_matched_in_another_folder_and_must_be_whole(tmp_path: Path) -> None:
    path = shipped.names()["splits/pascal/92"]
    keys, published = read_list(path)
    found = KeyMatcher(known({"train": [f"VOC2012/{key}" for key in keys]}), "train").match(path, True)
    assert published is not None and (len(found.rows), found.unmatched, found.lines) == (92, [], 92)
    (tmp_path / "cut.txt").write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(DataError, match="was cut or edited"):
        KeyMatcher(known({"train": keys}), "train").match(tmp_path / "cut.txt", True)
