"""Label Studio's JSON: regions, the brush, several annotators, and what is wrong with bad exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tool_files import HEIGHT, WIDTH, image, packed, refused, square, tool, write
from unimatch.annotations import brush
from unimatch.errors import DataError
from unimatch.packing.recipe import SubsetSource

WHERE = SubsetSource("img/*.jpg", annotations="export.json")
SIZE = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "to_name": "image"}


def rle(mask: np.ndarray, sizes: tuple[int, int, int, int] = (3, 4, 8, 16)) -> list[int]:
    """The brush code of a bool mask, written slowly: a run of single words, then repeated ones."""
    values = np.repeat(mask.ravel().astype(np.uint8) * 255, 4).tolist()
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in sizes)

    def count(number: int) -> str:
        place = next(k for k, size in enumerate(sizes) if number < 1 << size)
        return f"{place:02b}{number:0{sizes[place]}b}"

    bits += "0" + count(4) + "".join(f"{value:08b}" for value in values[:5])
    at = 5
    while at < len(values):
        end = at
        while end < len(values) and values[end] == values[at]:
            end += 1
        bits += "1" + count(end - at - 1) + f"{values[at]:08b}"
        at = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)]


def region(kind: str, label: str | None = "road", number: str = "r1", **value: Any) -> dict[str, Any]:
    labels = {} if label is None else {kind: [label]}
    return {"id": number, "type": kind, "from_name": "tag", **SIZE, "value": {**value, **labels}}


def percent(x0: float, y0: float, x1: float, y1: float) -> dict[str, float]:
    return {
        **{"x": 100 * x0 / WIDTH, "y": 100 * y0 / HEIGHT},
        **{"width": 100 * (x1 - x0) / WIDTH, "height": 100 * (y1 - y0) / HEIGHT},
    }


ROAD = region("rectanglelabels", **percent(2, 2, 10, 8), rotation=0)
CAR = region("rectanglelabels", "car", "r2", **percent(4, 4, 6, 6))


def annotation(*result: Any, **more: Any) -> dict[str, Any]:
    return {"id": 1, "completed_by": 5, "was_cancelled": False, "result": list(result), **more}


def task(*annotations: Any, name: str = "/data/upload/3/0a1b2c3d-a.jpg", **more: Any) -> dict[str, Any]:
    return {"id": 9, "data": {"image": name}, "annotations": list(annotations), **more}


def source(root: Path, *tasks: Any) -> Path:
    write(image(root / "source") / "export.json", list(tasks))
    return root / "source"


def test_a_region_lies_on_those_before_it(tmp_path: Path) -> None:
    labels, made = packed(tool("label_studio", WHERE), source(tmp_path, task(annotation(ROAD, CAR))))
    assert np.array_equal(labels["img/a"], square(2, (4, 4, 6, 6), square(1))) and made.told == ()
    labels, _ = packed(tool("label_studio", WHERE), source(tmp_path, task(annotation(CAR, ROAD))))
    assert np.array_equal(labels["img/a"], square(1))


def test_kinds_of_regions(tmp_path: Path) -> None:
    corners = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in ((2, 2), (10, 2), (10, 8), (2, 8))]
    outline = region("polygonlabels", points=corners, closed=True)
    strokes = region("brushlabels", "car", "r2", format="rle", rle=rle(square(1, (4, 4, 6, 6)) > 0))
    # With <Brush> and <Labels> a region and its label are two entries of one id.
    bare = {
        **region("brush", None, "r3", format="rle", rle=rle(square(1, (0, 9, 3, 12)) > 0)),
        "type": "brush",
    }
    label = {**bare, "type": "labels", "value": {**bare["value"], "labels": ["car"]}}
    made = source(tmp_path, task(annotation(outline, strokes, bare, label)))
    labels, _ = packed(tool("label_studio", WHERE), made)
    assert np.array_equal(labels["img/a"], square(2, (0, 9, 3, 12), square(2, (4, 4, 6, 6), square(1))))


def test_turned_rectangles_turn_about_their_upper_left_corner(tmp_path: Path) -> None:
    turned = region("rectanglelabels", **percent(10, 2, 16, 10), rotation=90)  # now 8 wide, to the left
    labels, _ = packed(tool("label_studio", WHERE), source(tmp_path, task(annotation(turned))))
    assert np.array_equal(labels["img/a"], square(1, (2, 2, 10, 8)))


def test_ellipses(tmp_path: Path) -> None:
    one = region("ellipselabels", x=50, y=50, radiusX=25, radiusY=25, rotation=0)
    labels, _ = packed(tool("label_studio", WHERE), source(tmp_path, task(annotation(one))))
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    inside = ((x - 8) / 4) ** 2 + ((y - 6) / 3) ** 2
    assert (labels["img/a"][inside < 0.75] == 1).all() and not labels["img/a"][inside > 1.35].any()


@pytest.mark.parametrize(
    "name",
    [
        "/data/upload/3/0a1b2c3d-a.jpg",
        "/data/local-files/?d=photos/img/a.jpg",
        "/data/local-files/?d=photos%2Fimg%2Fa.jpg",
        "s3://bucket/img/a.jpg",
        "https://host.org/img/a.jpg?signature=abc",
        "img\\a.jpg",
    ],
)
def test_addresses_of_images(tmp_path: Path, name: str) -> None:
    labels, _ = packed(tool("label_studio", WHERE), source(tmp_path, task(annotation(ROAD), name=name)))
    assert np.array_equal(labels["img/a"], square(1))


def test_an_uploaded_file_under_the_name_that_the_server_gave_it(tmp_path: Path) -> None:
    root = source(tmp_path, task(annotation(ROAD)))
    (root / "img/a.jpg").rename(root / "img/0a1b2c3d-a.jpg")
    assert np.array_equal(packed(tool("label_studio", WHERE), root)[0]["img/0a1b2c3d-a"], square(1))


def test_two_uploads_of_one_name_are_not_told_apart(tmp_path: Path) -> None:
    other = task(annotation(CAR), name="/data/upload/3/ffffffff-a.jpg")
    text = refused(tool("label_studio", WHERE), source(tmp_path, task(annotation(ROAD)), other))
    assert "has several pictures that it could be: '0a1b2c3d-a.jpg', 'ffffffff-a.jpg'" in text


def test_whose_annotation_counts(tmp_path: Path) -> None:
    gone = annotation(CAR, was_cancelled=True)
    recipe = tool("label_studio", WHERE)
    labels, made = packed(recipe, source(tmp_path, task(gone, annotation(ROAD))))
    assert np.array_equal(labels["img/a"], square(1))
    assert made.told == ("1 cancelled annotations of 1 annotated images were left out: img/a.jpg",)
    two = task(annotation(ROAD, ground_truth=True), annotation(CAR, completed_by=6))
    labels, made = packed(recipe, source(tmp_path, two))
    assert np.array_equal(labels["img/a"], square(1))
    assert made.told == (
        "1 other annotations of the same image of 1 annotated images were left out: img/a.jpg",
    )
    two = task(
        annotation(ROAD, updated_at="2024-02-01"),
        annotation(CAR, completed_by={"id": 6}, updated_at="2024-01-01"),
    )
    assert "has 2 annotations (by 5, 6); mark one as ground truth" in refused(recipe, source(tmp_path, two))
    labels, _ = packed(tool("label_studio", WHERE, several="latest"), source(tmp_path, two))
    assert np.array_equal(labels["img/a"], square(1))


def test_old_exports_call_them_completions(tmp_path: Path) -> None:
    old = task()
    old["completions"] = [annotation(ROAD)]
    del old["annotations"]
    assert np.array_equal(packed(tool("label_studio", WHERE), source(tmp_path, old))[0]["img/a"], square(1))


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        ([], "nobody has annotated it"),
        ([annotation(ROAD, was_cancelled=True)], "all its annotations are cancelled"),
    ],
)
def test_tasks_that_are_not_annotated(tmp_path: Path, annotations: list[Any], reason: str) -> None:
    root = source(tmp_path, task(*annotations), task(annotation(), name="b.jpg"))
    image(root, "img/b.jpg")
    assert f"img/a.jpg: is not annotated in export.json: {reason}" in refused(
        tool("label_studio", WHERE), root
    )
    where = SubsetSource("img/*.jpg", annotations="export.json", skip_unlabeled=True)
    labels, made = packed(tool("label_studio", where), root)
    assert list(labels) == ["img/b"] and not labels["img/b"].any()
    assert "1 images without an annotation were left out (skip_unlabeled): img/a.jpg" in made.told
    assert "1 images have an annotation without any shape in it: img/b.jpg" in made.told


def test_answers_that_are_no_regions_are_counted(tmp_path: Path) -> None:
    choice = {"id": "c", "type": "choices", "value": {"choices": ["sunny"]}}
    point = region("keypointlabels", number="k", x=5, y=5, width=1)
    made = source(tmp_path, task(annotation(choice, point, ROAD)))
    labels, made_set = packed(tool("label_studio", WHERE), made)
    assert np.array_equal(labels["img/a"], square(1))
    assert "1 answers that are no regions of 1 annotated images were left out: img/a.jpg" in made_set.told
    assert "1 lines and points of 1 annotated images were left out: img/a.jpg" in made_set.told


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ([region("rectanglelabels", "tree", **percent(2, 2, 10, 8))], "unknown label 'tree' (1 shape)"),
        (
            [region("rectanglelabels", None, **percent(2, 2, 10, 8))],
            "shape r1: has no label; a region has one",
        ),
        (
            [{**ROAD, "value": {**ROAD["value"], "rectanglelabels": ["car", "road"]}}],
            "has the labels car, road",
        ),
        ([{**ROAD, "image_rotation": 90}], "is drawn on an image turned by 90 degrees"),
        (
            [{**ROAD, "original_width": None, "original_height": None}],
            "has no original_width and original_height",
        ),
        ([ROAD, {**CAR, "original_width": 32}], "shape r2: is of another original size"),
        (
            [{**ROAD, "original_width": 32}],
            "annotations of img/a.jpg: is 32x12 pixels, its image img/a.jpg 16x12",
        ),
        ([region("rectanglelabels", **percent(2, 2, float("nan"), 8))], "has a coordinate that is NaN"),
        ([region("polygonlabels", points=[[1, 2]])], "a polygon needs at least three points"),
        ([region("polygonlabels", points=[[1, 2], [3, 4], [900, 900]])], "far outside the picture"),
        (
            [region("brushlabels", rle=rle(np.ones((3, 3), bool)))],
            "is of 36 bytes, a picture of 16x12 has 768",
        ),
        ([region("brushlabels", rle=[1, 2, 3])], "its brush code ends too early"),
        ([region("brushlabels", rle=[300])], "its brush code is no list of bytes"),
        ([region("brushlabels", rle=None)], "its brush code is no list of bytes"),
    ],
)
def test_bad_regions(tmp_path: Path, result: list[Any], expected: str) -> None:
    assert expected in refused(tool("label_studio", WHERE), source(tmp_path, task(annotation(*result))))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"images": []}, "is no export of Label Studio: expected a list of tasks"),
        ([{"id": 1, "image": "a.jpg", "label": []}], "export as JSON, not as JSON-MIN"),
        ([None], "entry 1 is no task of Label Studio"),
        ([task(annotation(ROAD)), task(annotation(ROAD))], "is there twice (entries 1, 2)"),
        ([{**task(), "data": {"text": "hello"}}], "task 9 has ['text'] in `data`"),
        (
            [{**task(), "data": {"left": "a.jpg", "right": "b.jpg"}}],
            "not exactly one is the address of an image",
        ),
        ([task("x")], "export.json: is no label_studio file, or damaged"),
        ([task({**annotation(), "result": None})], "its annotation has None as result"),
    ],
)
def test_other_files(tmp_path: Path, content: Any, expected: str) -> None:
    root = source(tmp_path)
    (root / "export.json").write_text(json.dumps(content))
    assert expected in refused(tool("label_studio", WHERE), root)


def test_the_brush_is_read_back() -> None:
    mask = np.random.default_rng(0).random((9, 7)) < 0.4
    assert np.array_equal(brush.decode(rle(mask), 9, 7), mask)
    assert np.array_equal(brush.decode(rle(mask, (2, 4, 6, 16)), 9, 7), mask)
    with pytest.raises(DataError, match="ends too early"):
        brush.decode(rle(mask)[:-9], 9, 7)
