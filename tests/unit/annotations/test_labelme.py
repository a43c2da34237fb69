"""LabelMe's files: shapes, their order, and what is wrong with bad ones."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.folder_source import jpeg_bytes, picture
from tests.support.tool_files import (
    CAR,
    HEIGHT,
    ROAD,
    WIDTH,
    image,
    packed,
    png64,
    refused,
    square,
    tool,
    write,
)
from unimatch.packing.recipe import SubsetSource

WHERE = SubsetSource("img/*.jpg", "img/{stem}.json")


def shape(label: Any, points: Any, kind: Any = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def content(*shapes: Any, **changes: Any) -> dict[str, Any]:
    return {
        **{"version": "5.2.1", "flags": {}, "shapes": list(shapes), "imagePath": "a.jpg", "imageData": None},
        **{"imageHeight": HEIGHT, "imageWidth": WIDTH, **changes},
    }


def source(root: Path, *shapes: Any, **changes: Any) -> Path:
    write(image(root / "source") / "img/a.json", content(*shapes, **changes))
    return root / "source"


def test_a_shape_lies_on_those_before_it(tmp_path: Path) -> None:
    labels, made = packed(tool("labelme", WHERE), source(tmp_path, shape("road", ROAD), shape("car", CAR)))
    assert np.array_equal(labels["img/a"], square(2, (4, 4, 6, 6), square(1)))
    assert made.told == ()
    labels, _ = packed(tool("labelme", WHERE), source(tmp_path, shape("car", CAR), shape("road", ROAD)))
    assert np.array_equal(labels["img/a"], square(1))


@pytest.mark.parametrize(
    "one",
    [
        shape("road", [[10, 8], [2, 2]], "rectangle"),
        shape("road", ROAD, "rectangle"),  # as other programs write it
        shape("road", ROAD, None),
        shape("road", ROAD, "rotation"),
        shape("road", [[2, 2], [9, 7]], "mask", mask=png64(np.ones((6, 8), bool))),
    ],
)
def test_kinds_of_shapes(tmp_path: Path, one: dict[str, Any]) -> None:
    labels, _ = packed(tool("labelme", WHERE), source(tmp_path, one))
    assert np.array_equal(labels["img/a"], square(1))


def test_a_circle_is_its_middle_and_a_point_on_it(tmp_path: Path) -> None:
    labels, _ = packed(tool("labelme", WHERE), source(tmp_path, shape("road", [[8, 6], [12, 6]], "circle")))
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    distance = np.hypot(x - 8, y - 6)
    assert (labels["img/a"][distance < 3.4] == 1).all() and not labels["img/a"][distance > 4.6].any()


def test_lines_and_points_are_left_out_and_counted(tmp_path: Path) -> None:
    lines = [shape("road", [[0, 0], [9, 9]], kind) for kind in ("line", "linestrip", "points")]
    labels, made = packed(tool("labelme", WHERE), source(tmp_path, *lines, shape("road", ROAD)))
    assert np.array_equal(labels["img/a"], square(1))
    assert made.told == ("3 lines and points of 1 annotated images were left out: img/a.json",)


def test_names_merge_labels_and_leave_some_unlabelled(tmp_path: Path) -> None:
    made = source(
        tmp_path, shape("street", ROAD), shape("?", CAR), shape("x", [[0, 9], [3, 9], [3, 12], [0, 12]])
    )
    labels, _ = packed(tool("labelme", WHERE, names={"street": "road", "?": "ignore", "*": "car"}), made)
    assert np.array_equal(labels["img/a"], square(2, (0, 9, 3, 12), square(255, (4, 4, 6, 6), square(1))))


def test_an_image_without_shapes_is_told(tmp_path: Path) -> None:
    labels, made = packed(tool("labelme", WHERE), source(tmp_path))
    assert not labels["img/a"].any() and "1 images have an annotation without any shape" in made.told[0]


def test_images_inside_the_files(tmp_path: Path) -> None:
    root = tmp_path / "source"
    data = base64.b64encode(jpeg_bytes(picture())).decode()
    write(root / "a.json", content(shape("road", ROAD), imageData=data))
    recipe = tool("labelme", SubsetSource("*.json", "{stem}.json"))
    assert np.array_equal(packed(recipe, root)[0]["a"], square(1))
    write(root / "a.json", content(shape("road", ROAD)))
    assert "a.json: holds no image (imageData is null)" in refused(recipe, root)


def test_byte_order_marks_old_files_and_other_names(tmp_path: Path) -> None:
    root = source(tmp_path)
    old = content(shape("road", ROAD), imagePath="..\\photos\\b.png")
    del old["imageHeight"], old["imageWidth"]
    (root / "img/a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(old).encode())
    labels, made = packed(tool("labelme", WHERE), root)
    assert np.array_equal(labels["img/a"], square(1))
    assert made.told == (
        "1 annotation files name another image than the one that they were found for: img/a.json (b.png)",
    )


@pytest.mark.parametrize(
    ("shapes", "changes", "expected"),
    [
        (
            [shape("tree", ROAD)] * 2,
            {},
            "img/a.json: unknown label 'tree' (2 shapes); the classes are background",
        ),
        ([shape("raod", ROAD)], {}, "unknown label 'raod' (1 shape); did you mean 'road'?"),
        ([shape(None, ROAD)], {}, "shape 1: has no 'label'"),
        ([shape("", ROAD)], {}, "shape 1: has '' as 'label'"),
        ([shape("road", [[0, 0], [1, 1]])], {}, "annotation 1: a polygon needs at least three points"),
        ([shape("road", [])], {}, "a polygon needs at least three points"),
        ([shape("road", None)], {}, "shape 1: "),
        ([shape("road", [[0, 0], [1, float("nan")], [2, 2]])], {}, "shape 1: has a coordinate that is NaN"),
        ([shape("road", [[0, 0], [1, "x"], [2, 2]])], {}, "has a coordinate that is no number: 'x'"),
        ([shape("road", [[0, 0], [1], [2, 2]])], {}, "has 1 coordinates instead of 2"),
        ([shape("road", [[0, 0], [1e5, 0], [2, 2]])], {}, "far outside the picture of 16x12 pixels"),
        ([shape("road", ROAD, "cube")], {}, "has the shape_type 'cube', which is not read"),
        ([shape("road", [[1, 1]], "circle")], {}, "a circle has two points, found 1"),
        ([shape("road", [[2, 2], [9, 9]], "mask", mask=None)], {}, "has no base64 data"),
        ([shape("road", [[2, 2], [9, 9]], "mask", mask="????")], {}, "its base64 data are damaged"),
        ([shape("road", [[2, 2], [9, 9]], "mask", mask="aGVsbG8=")], {}, "its bitmap is no picture"),
        ([shape("road", [[2, 2], [9, 9]], "mask", mask=png64(np.ones((6, 8), bool)))], {}, "another size"),
        (
            [shape("road", [[12, 2], [19, 7]], "mask", mask=png64(np.ones((6, 8), bool)))],
            {},
            "reaches beyond",
        ),
        (["road"], {}, "shape 1: "),
        ([], {"shapes": None}, "is no LabelMe file: it has no list `shapes`"),
        ([], {"imageHeight": 24, "imageWidth": 32}, "img/a.json: is 32x24 pixels, its image img/a.jpg 16x12"),
        ([], {"imageHeight": -1}, "has [-1, 16] as imageHeight and imageWidth"),
    ],
)
def test_what_is_refused(tmp_path: Path, shapes: list[Any], changes: dict[str, Any], expected: str) -> None:
    assert expected in refused(tool("labelme", WHERE), source(tmp_path, *shapes, **changes))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "is no LabelMe file"),
        (b"[]", "is no LabelMe file"),
        (b"\xff{", "img/a.json: is n"),
        (b"[" * 9999, "is no"),
    ],
)
def test_other_files(tmp_path: Path, data: bytes, expected: str) -> None:
    root = source(tmp_path)
    (root / "img/a.json").write_bytes(data)
    assert expected in refused(tool("labelme", WHERE), root)


def test_missing_and_spare_files(tmp_path: Path) -> None:
    root = source(tmp_path, shape("road", ROAD))
    image(root, "img/b.jpg")
    write(root / "img/c.json", content(shape("road", ROAD)))
    assert "img/b.json: no such file (label of img/b.jpg)" in refused(tool("labelme", WHERE), root)
    where = SubsetSource(WHERE.images, WHERE.labels, skip_unlabeled=True)
    labels, made = packed(tool("labelme", where), root)
    assert list(labels) == ["img/a"]
    assert "1 files look like labels (img/{stem}.json), but belong to no image: img/c.json" in made.told
