"""Annotation files as tools export them: names, merged entries, faults that name the annotation."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.folder_source import jpeg_bytes, labels_of, picture, save
from unimatch.annotations.names import NameIndex, plain_name
from unimatch.errors import DataError
from unimatch.packing.folder import pack
from unimatch.packing.recipe import Recipe, Segments, SubsetSource

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "person"}]
BOX = [[2, 2, 8, 2, 8, 8, 2, 8]]


def shape(number: int, image: int, category: int = 7, **changes: Any) -> dict[str, Any]:
    entry = {"id": number, "image_id": image, "category_id": category, "segmentation": BOX, "area": 36}
    entry |= changes
    return {key: value for key, value in entry.items() if value != "absent"}


def source_of(
    root: Path, names: dict[int, str] | list[tuple[int, str]], shapes: list[dict[str, Any]], *disk: str
) -> Path:
    """An annotation file of pictures 12 x 16 by id, and image files."""
    for number, name in enumerate(disk or ("img/a.jpg",)):
        save(root / name, jpeg_bytes(picture(seed=number)))
    listed = list(names.items()) if isinstance(names, dict) else names
    images = [{"id": number, "file_name": name, "height": 12, "width": 16} for number, name in listed]
    content = {"images": images, "annotations": shapes, "categories": CATEGORIES}
    save(root / "a.json", json.dumps(content).encode())
    return root


def coco(**changes: Any) -> Recipe:
    where = {"train": SubsetSource("img/**/*.jpg", annotations="a.json")}
    segments = Segments(other="rest", unannotated="other")
    return Recipe(where, ("rest", "cat", "person"), label_kind="instances", segments=segments, **changes)


def told(source: Path, **changes: Any) -> str:
    with pytest.raises(DataError) as error:
        pack(coco(**changes), source, source / "out")
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "disk"),
    [
        ("a.jpg", "img/a.jpg"),
        ("img/a.jpg", "img/a.jpg"),
        ("img\\s 1\\a.jpg", "img/s 1/a.jpg"),
        ("./img/a.jpg", "img/a.jpg"),
        ("/home/me/source/img/a.jpg", "img/a.jpg"),
        ("s/a.jpg", "img/s/a.jpg"),
        ("img/my%20photo.jpg", "img/my photo.jpg"),
        (unicodedata.normalize("NFD", "\u00fc.jpg"), "img/\u00fc.jpg"),
    ],
)
def test_names_as_tools_write_them(tmp_path: Path, name: str, disk: str) -> None:
    source = source_of(tmp_path / "source", {5: name}, [shape(1, 5)], disk)
    pack(coco(), source, tmp_path / "out")
    (label,) = labels_of(tmp_path / "out").values()
    assert (label[2:8, 2:8] == 1).all() and (label == 1).sum() == 36


def test_the_name_that_agrees_in_most_parts_is_taken() -> None:
    index = NameIndex(["a.jpg", "s/a.jpg", "t/a.jpg", "img\\s\\b.jpg"])
    assert index.find("img/s/a.jpg") == [1] and index.find("img/u/a.jpg") == [0]
    assert index.find("img/s/b.jpg") == [3] and index.find("img/t/b.jpg") == []
    assert plain_name("./x\\y.jpg") == "x/y.jpg"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "up/a.jpg",
            "img/a.jpg: a.json has no annotation of it; it has the file name in other folders: 'up/a",
        ),
        ("b.jpg", "img/a.jpg: a.json has no annotation of it; its file names are 'b.jpg'"),
    ],
)
def test_a_missing_picture_shows_what_names_look_like(tmp_path: Path, name: str, expected: str) -> None:
    assert expected in told(source_of(tmp_path / "source", {5: name}, []))


def test_entries_of_one_name_are_drawn_together(tmp_path: Path) -> None:
    shapes = [shape(1, 5), shape(2, 6, 3, segmentation=[[10, 2, 14, 2, 14, 6, 10, 6]], area=16)]
    source = source_of(tmp_path / "source", {5: "a.jpg", 6: "./a.jpg"}, shapes)
    (note,) = pack(coco(), source, tmp_path / "out").told
    assert np.unique(labels_of(tmp_path / "out")["img/a"]).tolist() == [0, 1, 2]
    assert "a.json: 1 pictures have several entries, whose annotations were drawn together: a.jpg" in note


def test_one_entry_for_two_files_is_refused(tmp_path: Path) -> None:
    source = source_of(tmp_path / "source", {5: "a.jpg"}, [shape(1, 5)], "img/s/a.jpg", "img/t/a.jpg")
    assert "a.jpg: is the picture of a.json of 2 images (img/s/a.jpg, img/t/a.jpg)" in told(source)


def test_one_id_for_two_names_is_refused(tmp_path: Path) -> None:
    source = source_of(tmp_path / "source", [(5, "a.jpg"), (5, "b.jpg")], [shape(1, 5)])
    assert "the image id 5 is 'a.jpg' and 'b.jpg'" in told(source)
    content = json.loads((source / "a.json").read_text())
    content["images"].pop()
    content["categories"][1]["id"] = 7
    (source / "a.json").write_text(json.dumps(content))
    assert "the category id 7 is 'cat' and 'person'" in told(source)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"segmentation": []}, "its segmentation is empty; a box without a mask?"),
        ({"segmentation": None}, "its segmentation is missing (null)"),
        ({"segmentation": "absent"}, "its segmentation is missing (null)"),
        ({"segmentation": [[1, 1, 5, 5]]}, "a polygon needs at least three points"),
        ({"category_id": 8}, "has the category 8, which is not listed"),
        ({"category_id": "absent"}, "has no 'category_id'"),
    ],
)
def test_a_bad_annotation_is_named_and_can_be_left_out(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    disk = [f"img/{letter}.jpg" for letter in "abc"]
    shapes = [shape(101, 1), shape(202, 2, **changes), shape(303, 3)]
    source = source_of(tmp_path / "source", {1: "a.jpg", 2: "b.jpg", 3: "c.jpg"}, shapes, *disk)
    text = told(source)
    assert text.startswith("1 problems") and expected in text and "b.jpg: annotation 202: " in text
    packed = pack(coco(skip_bad=1), source, tmp_path / "out")
    assert packed.subsets == {"train": (2, 2)} and "annotation 202" in packed.told[0]


def test_a_missing_area_is_computed(tmp_path: Path) -> None:
    small = [[4, 4, 6, 4, 6, 6, 4, 6]]
    for area in ("absent", None):
        shapes = [shape(1, 5, 3, segmentation=small, area=area), shape(2, 5, area=area)]
        pack(coco(), source_of(tmp_path / f"{area}", {5: "a.jpg"}, shapes), tmp_path / f"{area}" / "out")
        label = labels_of(tmp_path / f"{area}" / "out")["img/a"]
        assert (label[4:6, 4:6] == 2).all() and (label == 1).sum() == 32


def test_shapes_without_a_pixel_and_pictures_without_a_file_are_told(tmp_path: Path) -> None:
    shapes = [shape(1, 5), shape(2, 5, segmentation=[[0.1, 0.1, 0.4, 0.1, 0.4, 0.4]])]
    source = source_of(tmp_path / "source", {5: "a.jpg", 6: "b.jpg", 7: "c.jpg"}, shapes)
    lost, empty = pack(coco(), source, tmp_path / "out").told
    assert (
        lost.startswith("a.json: 2 of its 3 pictures have no file among the images")
        and "b.jpg, c.jpg" in lost
    )
    assert empty == "1 images have annotations that cover no pixel, 1 in all: img/a.jpg"


def test_boxes_alone_are_no_masks(tmp_path: Path) -> None:
    source = source_of(tmp_path / "source", {5: "a.jpg"}, [shape(1, 5, segmentation="absent")])
    assert "a.json: has no segmentation, so no instances; boxes alone are no masks" in told(source)
