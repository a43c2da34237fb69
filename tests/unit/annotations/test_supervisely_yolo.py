"""Supervisely's and YOLO's files, one an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tool_files import (
    CLASSES,
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
from unimatch.annotations import supervisely, yolo
from unimatch.errors import DataError
from unimatch.packing.recipe import SubsetSource

SUPERVISELY = SubsetSource("ds/img/*.jpg", "ds/ann/{file}.json")
YOLO = SubsetSource("train/images/*.jpg", "train/labels/{stem}.txt", annotations="data.yaml")
BITMAP = {"data": png64(np.ones((6, 8), bool), packed=True), "origin": [2, 2]}


def thing(kind: str, label: str = "road", **more: Any) -> dict[str, Any]:
    return {"id": 7, "classTitle": label, "geometryType": kind, "tags": [], **more}


def polygon(exterior: Any, *holes: Any, label: str = "road") -> dict[str, Any]:
    return thing("polygon", label, points={"exterior": exterior, "interior": list(holes)})


def project(root: Path, *objects: Any, **changes: Any) -> Path:
    image(root / "source", "ds/img/a.jpg")
    size = {"height": HEIGHT, "width": WIDTH}
    write(root / "source/ds/ann/a.jpg.json", {"size": size, "objects": list(objects), "tags": [], **changes})
    return root / "source"


def test_outlines_with_holes(tmp_path: Path) -> None:
    fine = [[x + 0.01, y] for x, y in ROAD]  # no whole number: places between the borders of the picture
    hole = [[4.01, 4], [6.01, 4], [6.01, 6], [4.01, 6]]
    labels, _ = packed(tool("supervisely", SUPERVISELY), project(tmp_path, polygon(fine, hole)))
    assert np.array_equal(labels["ds/img/a"], square(0, (4, 4, 6, 6), square(1)))


def test_whole_coordinates_are_middles_of_pixels(tmp_path: Path) -> None:
    corners = thing("rectangle", points={"exterior": [[2, 2], [9, 7]], "interior": []})
    labels, _ = packed(tool("supervisely", SUPERVISELY), project(tmp_path, corners))
    assert np.array_equal(labels["ds/img/a"], square(1))
    fine = thing("rectangle", points={"exterior": [[9.99, 8], [1.99, 2]], "interior": []})
    labels, _ = packed(tool("supervisely", SUPERVISELY), project(tmp_path, fine))
    assert np.array_equal(labels["ds/img/a"], square(1))


def test_bitmaps_on_outlines(tmp_path: Path) -> None:
    whole = [[0.01, 0], [16, 0], [16, 12], [0, 12]]
    objects = [polygon(whole, label="car"), thing("bitmap", bitmap=BITMAP), thing("line", points={})]
    labels, made = packed(tool("supervisely", SUPERVISELY), project(tmp_path, *objects))
    assert np.array_equal(labels["ds/img/a"], square(1, on=np.full((HEIGHT, WIDTH), 2, np.uint8)))
    assert "1 lines and points of 1 annotated images were left out: ds/ann/a.jpg.json" in made.told


@pytest.mark.parametrize(
    ("objects", "changes", "expected"),
    [
        ([polygon(ROAD, label="tree")], {}, "ds/ann/a.jpg.json: unknown label 'tree' (1 shape)"),
        ([thing("bitmap", bitmap=None)], {}, "shape 7: "),
        ([thing("bitmap", bitmap={**BITMAP, "data": "aGVsbG8="})], {}, "its bitmap cannot be unpacked"),
        ([thing("bitmap", bitmap={**BITMAP, "origin": [10, 2]})], {}, "reaches beyond the picture of 16x12"),
        ([thing("bitmap", bitmap={**BITMAP, "origin": [-1, 2]})], {}, "reaches beyond the picture"),
        ([thing("multipolygon", parts=[])], {}, "has the geometryType 'multipolygon', which is not read"),
        ([thing("polygon", points={})], {}, "has no 'exterior'"),
        ([thing("polygon", points={"exterior": [[0, float("inf")]] * 3})], {}, "NaN or infinite"),
        ([{"geometryType": "polygon"}], {}, "shape 1: has no 'classTitle'"),
        ([None], {}, "shape 1: "),
        ([], {"objects": {}}, "is no Supervisely file: it has no list `objects`"),
        ([], {"size": {"height": 24, "width": 32}}, "is 32x24 pixels, its image ds/img/a.jpg 16x12"),
        ([], {"size": [1, 2]}, "ds/ann/a.jpg.json: "),
    ],
)
def test_what_is_refused(tmp_path: Path, objects: list[Any], changes: dict[str, Any], expected: str) -> None:
    assert expected in refused(tool("supervisely", SUPERVISELY), project(tmp_path, *objects, **changes))


def test_several_data_sets_of_a_project(tmp_path: Path) -> None:
    root = project(tmp_path, polygon(ROAD))
    image(root, "other/img/a.jpg")
    write(root / "other/ann/a.jpg.json", {"size": {"height": HEIGHT, "width": WIDTH}, "objects": []})
    where = SubsetSource("*/img/*.jpg", "{parent}/ann/{file}.json")
    labels, _ = packed(tool("supervisely", where), root)
    assert labels["ds/img/a"].any() and not labels["other/img/a"].any()


def test_the_classes_of_a_project() -> None:
    text = b'{"classes": [{"title": "road", "shape": "polygon", "color": "#ff0000"}], "tags": []}'
    assert supervisely.class_names(text, "meta.json") == {"road": "polygon"}
    with pytest.raises(DataError, match="is no meta.json of Supervisely"):
        supervisely.class_names(b"[]", "meta.json")


def export(root: Path, text: str | bytes, names: str = "names: [car, road]\nnc: 2\n") -> Path:
    image(root / "source", "train/images/a.jpg")
    write(root / "source/data.yaml", names)
    path = root / "source/train/labels/a.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root / "source"


def line(class_id: int, x0: int, y0: int, x1: int, y1: int) -> str:
    points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    return f"{class_id} " + " ".join(f"{x / WIDTH} {y / HEIGHT}" for x, y in points)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n\r\n"])
def test_smaller_outlines_lie_on_top(tmp_path: Path, turned: bool, end: str) -> None:
    lines = [line(0, 4, 4, 6, 6), line(1, 2, 2, 10, 8)]
    text = "\ufeff" + end.join(reversed(lines) if turned else lines)
    labels, made = packed(tool("yolo", YOLO), export(tmp_path, text))
    assert np.array_equal(labels["train/images/a"], square(2, (4, 4, 6, 6), square(1)))
    assert made.told == ()


def test_without_names_ids_are_places_of_classes(tmp_path: Path) -> None:
    where = SubsetSource(YOLO.images, YOLO.labels)
    labels, _ = packed(tool("yolo", where), export(tmp_path, line(2, 2, 2, 10, 8)))
    assert np.array_equal(labels["train/images/a"], square(2))


def test_an_empty_file_is_an_image_without_things(tmp_path: Path) -> None:
    labels, made = packed(tool("yolo", YOLO), export(tmp_path, ""))
    assert not labels["train/images/a"].any() and "without any shape" in made.told[0]


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("1 0.5 0.5 0.2 0.2", "", "train/labels/a.txt: line 1: is a box (5 numbers), not an outline"),
        (line(2, 2, 2, 10, 8), "", "line 1: has the class 2; there are 0 to 1 (car, road)"),
        (line(-1, 2, 2, 10, 8), "", "line 1: has the class -1"),
        ("1.5 0 0 1 0 1 1", "", "line 1: has the class 1.5"),
        ("\n1 0 0 1 0", "", "line 2: is a box"),
        ("1 0 0 1 0 1", "", "line 1: has 6 numbers; an outline is"),
        ("1 0 0 1 0 1 1 1", "", "line 1: has 8 numbers; an outline is"),
        ("1 0 0 nan 0 1 1", "", "line 1: has a coordinate that is NaN"),
        ("road 0 0 1 0 1 1", "", "line 1: has a coordinate that is no number: 'road'"),
        ("1 0,0 0 1 0 1 1", "", "line 1: has a coordinate that is no number: '0,0'"),
        ("1 20 20 100 20 100 80", "", "line 1: has the coordinate 20; they are parts of width and height"),
        (b"\xff\xfe1", "", "train/labels/a.txt: is no text"),
        ("", "names: {0: car, 2: road}", "data.yaml: names has the ids [0, 2], expected 0, 1, 2"),
        ("", "nc: 2", "data.yaml: has no list `names`"),
        ("", "nc: 3\nnames: [car, road]", "data.yaml: says nc: 3, but names 2 classes"),
        ("", "names: [", "data.yaml: is no YAML"),
        (line(0, 2, 2, 10, 8), "names: [tree, road]", "unknown label 'tree' (1 shape)"),
    ],
)
def test_what_is_refused_of_yolo(tmp_path: Path, text: str | bytes, names: str, expected: str) -> None:
    made = export(tmp_path, text, names or "names: {0: car, 1: road}")
    assert expected in refused(tool("yolo", YOLO), made)


def test_a_missing_data_yaml(tmp_path: Path) -> None:
    root = export(tmp_path, "")
    (root / "data.yaml").unlink()
    assert "data.yaml: No such file" in refused(tool("yolo", YOLO), root)


def test_yolo_coordinates_at_the_border() -> None:
    drawing = yolo.read(b"0 -0.001 0 1.001 0 1 1", "a.txt", (HEIGHT, WIDTH), CLASSES)
    assert drawing.pieces[0].shape == [[0.0, 0.0, 16.0, 0.0, 16.0, 12.0]]
