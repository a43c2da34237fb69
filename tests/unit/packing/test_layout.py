"""Which images a recipe takes: placeholders, lists, optional subsets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.folder_source import (
    ids,
    jpeg_bytes,
    labels_of,
    make_source,
    picture,
    recipe,
    refused,
    save,
)
from unimatch.codecs.decode import decode_image
from unimatch.errors import ConfigError
from unimatch.packing.folder import pack
from unimatch.packing.recipe import SubsetSource
from unimatch.shardset.archive import ShardSet


def keys(out: Path, subset: str) -> list[str]:
    shards = ShardSet.open(out)
    return sorted(shards.keys(shards.rows(subset)))


def packed_keys(tmp_path: Path, source: Path, subsets: dict[str, SubsetSource]) -> dict[str, list[str]]:
    """The keys of each subset of the set that is packed."""
    pack(recipe(subsets=subsets), source, tmp_path / "out")
    names = ShardSet.open(tmp_path / "out").subsets
    return {name: keys(tmp_path / "out", name) for name in names}


@pytest.mark.parametrize(
    ("images", "labels", "image", "label"),
    [
        ("img/*/*_rgb.png", "lab/{dir}/{name}_ids.png", "img/town/a_1_rgb.png", "lab/town/a_1_ids.png"),
        ("img/*.png", "lab/{stem}.png", "img/v1.2 b.png", "lab/v1.2 b.png"),
        ("img/**/*.png", "lab/{dir}/{name}.png", "img/x/y/a.png", "lab/x/y/a.png"),
        ("img/?_*_x[0-9].png", "lab/{name}.png", "img/a_b_c_x7.png", "lab/b_c.png"),
        ("*.png", "{dir}/lab/{stem}_ids.png", "a.png", "lab/a_ids.png"),
        ("i[m]g/*_rgb.{jpg,png}", "lab/{dir}/{name}.png", "img/a_rgb.png", "lab/img/a.png"),
    ],
)
def test_placeholders(tmp_path: Path, images: str, labels: str, image: str, label: str) -> None:
    save(tmp_path / "source" / image, picture())
    save(tmp_path / "source" / label, ids())
    found = packed_keys(tmp_path, tmp_path / "source", {"train": SubsetSource(images, labels)})
    assert len(found["train"]) == 1 and len(labels_of(tmp_path / "out")) == 1


def test_mixed_extensions_and_hidden_files(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", ("a",))
    for name in ("b.JPG", "c.jpeg"):
        save(source / "img" / name, jpeg_bytes(picture()))
        save(source / "lab" / f"{name[0]}.png", ids())
    (source / "img" / "._a.jpg").write_bytes(b"left by a file manager")
    subsets = {"train": SubsetSource("img/*.{jpg,jpeg,JPG}", "lab/{stem}.png")}
    assert packed_keys(tmp_path, source, subsets)["train"] == ["img/a", "img/b", "img/c"]


@pytest.mark.parametrize(
    "lines",
    [
        "a\nc",  # ids, no final newline
        "a.jpg\r\nc.jpg\r\n",  # file names, as Windows ends lines
        "img/a.jpg\n\n./img/c.jpg\n",
        "/img/a.jpg /lab/a.png\n/img/c.jpg\tother/c.png\n",  # image and mask
        "\ufeffimg/a lab/a.png\nimg/c lab/c.png",
    ],
)
def test_lists_choose_images(tmp_path: Path, lines: str) -> None:
    source = make_source(tmp_path / "source", tuple("abcd"))
    (source / "train.txt").write_bytes(lines.encode())
    subsets = {
        "rest": SubsetSource("img/*.jpg", all_but=("train",)),
        "train": SubsetSource("img/*.jpg", "lab/{stem}.png", lists=("train.txt",)),
    }
    found = packed_keys(tmp_path, source, subsets)
    assert found == {"rest": ["img/b", "img/d"], "train": ["img/a", "img/c"]}
    assert not labels_of(tmp_path / "out", "rest")


def test_lists_with_odd_names(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", ("a b", "100%", "\u00fc.1", "c"))
    (source / "5% list.txt").write_text("img/a b.jpg lab/a b.png\n100%\n\u00fc.1.jpg\n", encoding="utf-8")
    subsets = {"train": SubsetSource("img/*.jpg", "lab/{stem}.png", lists=("5% list.txt",))}
    assert packed_keys(tmp_path, source, subsets)["train"] == ["img/%C3%BC%2E1", "img/100%25", "img/a%20b"]


def test_a_list_may_name_what_the_star_stood_for_and_several_lists_add_up(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", ("a_rgb", "b_rgb", "c_rgb"))
    (source / "one.txt").write_text("a\n")
    (source / "two.txt").write_text("a_rgb\nb\n")
    subsets = {"train": SubsetSource("img/*_rgb.jpg", "lab/{stem}.png", lists=("one.txt", "two.txt"))}
    assert packed_keys(tmp_path, source, subsets)["train"] == ["img/a_rgb", "img/b_rgb"]


def test_bad_list_lines_are_all_told(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", ("x/a", "y/a", "y/b"))
    (source / "train.txt").write_text("x/a\na\nnone.jpg lab/none.png\ny/b -1\n")
    (source / "latin.txt").write_bytes(b"\xfc\n")
    where = SubsetSource("img/*/*.jpg", "lab/{dir}/{stem}.png", lists=("train.txt", "latin.txt", "gone.txt"))
    text = refused(source, tmp_path / "out", subsets={"train": where})
    assert "2 x list line without image, 2 x unreadable list" in text and "1 x ambiguous list line" in text
    for line in (
        "train.txt:2: several images are 'a'; write more of the path",
        "train.txt:3: no file that matches 'img/*/*.jpg' is 'none.jpg lab/none.png'",
        "train.txt:4: no file that matches 'img/*/*.jpg' is 'y/b -1'",
        f"{source / 'latin.txt'}: cannot be read as UTF-8 text",
        f"{source / 'gone.txt'}: cannot be read: No such file",
    ):
        assert f"  {line}" in text


def test_optional_subsets(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", ("a", "b"))
    subsets = {
        "train": SubsetSource("img/*.jpg", "lab/{stem}.png"),
        "extra": SubsetSource("more/*.jpg", optional=True),
        "val": SubsetSource("img/*.jpg", "lab/{stem}.png", lists=("val.txt",), optional=True),
        "rest": SubsetSource("img/*.jpg", all_but=("train", "extra"), optional=True),
    }
    assert packed_keys(tmp_path, source, subsets) == {"train": ["img/a", "img/b"]}
    subsets["rest"].optional = subsets["extra"].optional = False
    text = refused(source, tmp_path / "out2", subsets=subsets)
    assert "  extra: no file matches 'more/*.jpg'" in text
    assert "  rest: none of the files that match 'img/*.jpg' is left" in text
    only_optional = {"extra": SubsetSource("more/*.jpg", optional=True)}
    assert "is this the right folder?" in refused(source, tmp_path / "out2", subsets=only_optional)


def test_images_without_label_files_can_be_left_out(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", tuple("abc"))
    (source / "lab" / "b.png").unlink()
    subsets = {
        "train": SubsetSource("img/*.jpg", "lab/{stem}.png", skip_unlabeled=True),
        "rest": SubsetSource("img/*.jpg", all_but=("train",)),
    }
    found = packed_keys(tmp_path, source, subsets)
    assert found == {"train": ["img/a", "img/c"], "rest": ["img/b"]}


def test_pairs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder, seed in (("A", 1), ("B", 2)):
        save(source / folder / "x.png", picture(seed=seed))
    save(source / "label" / "x.png", ids())
    subsets = {"train": SubsetSource("A/*.png", "label/{stem}.png", second="B/{stem}.png")}
    assert packed_keys(tmp_path, source, subsets)["train"] == ["A/x"]
    record = ShardSet.open(tmp_path / "out").read(0)
    assert record.second is not None
    assert np.array_equal(decode_image(record.image, "A"), picture(seed=1))
    assert np.array_equal(decode_image(record.second, "B"), picture(seed=2))


def test_bad_pairs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in "abcd":
        save(source / "A" / f"{name}.png", picture())
        save(source / "B" / f"{name}.png", picture())
        save(source / "label" / f"{name}.png", ids())
    (source / "B" / "a.png").unlink()
    save(source / "B" / "b.png", picture(12, 12))
    (source / "B" / "c.png").write_bytes(jpeg_bytes(picture()))
    (source / "B" / "d.png").write_bytes(b"no picture")
    subsets = {"train": SubsetSource("A/*.png", "label/{stem}.png", second="B/{stem}.png")}
    text = refused(source, tmp_path / "out", subsets=subsets)
    for line in (
        "B/a.png: no such file (second image of A/a.png)",
        "B/b.png: is 12x12 pixels, its image A/b.png 16x12",
        "B/c.png: is stored as jpg, its image A/c.png as png; convert one",
        "B/d.png: is not a picture",
    ):
        assert f"  {line}" in text
    assert text.startswith("4 problems")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "img/a**/*.jpg"}, r"'\*\*' must stand alone"),
        ({"images": "../img/*.jpg"}, "images must be a path inside"),
        ({"lists": ("/etc/passwd",)}, "lists must be a path inside"),
        ({"annotations": "../a.json"}, "annotations must be a path inside"),
        ({"second": "B/same.png"}, "second needs {stem} or {name}"),
        ({"images": "img/only.jpg", "labels": "lab/{name}.png"}, r"{name} needs a '\*'"),
        ({"images": "a/*.h5#image", "second": "b/{stem}.png"}, "second is for image files"),
        ({"skip_unlabeled": True}, "skip_unlabeled needs `labels`"),
    ],
)
def test_bad_subsets(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SubsetSource(**{"images": "img/*.jpg", **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subsets": {"a": SubsetSource("x/*", all_but=("b",))}}, "all_but names 'b', which is no subset"),
        (
            {"subsets": {n: SubsetSource("x/*", all_but=(m,)) for n, m in ("ab", "bc", "ca")}},
            "goes in a circle: a -> b -> c -> a",
        ),
        ({"subsets": {"a": SubsetSource("x/*.h5#i", "y/{stem}.png")}}, "labels of HDF5 images are data sets"),
        ({"subsets": {"a": SubsetSource("x/*", annotations="a.json")}}, "annotations are for label_kind"),
        ({"first_id": 1, "id_map": {1: 0}}, "first_id is for"),
        ({"first_id": -1}, "first_id must be at least 0"),
        ({"classes": (), "classes_file": "../classes.txt"}, "classes_file must be inside"),
    ],
)
def test_bad_recipes(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(**changes)


def test_ids_that_count_from_one(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", ("a",))
    save(source / "lab" / "a.png", np.where(ids() == 11, 0, ids() + 1).astype(np.uint8))
    pack(recipe(first_id=1, ignore_id=0), source, tmp_path / "out")
    assert np.array_equal(labels_of(tmp_path / "out")["img/a"], np.where(ids() == 11, 255, ids()))
    with pytest.raises(ConfigError, match="ignore_id 3 is the class 'sky'"):
        pack(recipe(first_id=1, ignore_id=3), source, tmp_path / "out2")
