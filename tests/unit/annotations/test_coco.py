"""COCO's panoptic segments and instances: how they are drawn, and what is wrong with bad annotations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as masks

from tests.support.folder_source import jpeg_bytes, labels_of, picture, save
from unimatch.errors import ConfigError, DataError
from unimatch.packing.folder import pack
from unimatch.packing.recipe import LabelKind, Recipe, Segments, SubsetSource

CATEGORIES = [
    {"id": 7, "name": "cat", "isthing": 1},
    {"id": 3, "name": "person", "isthing": 1},
    {"id": 90, "name": "grass", "isthing": 0},
]
CLASSES = ("background", "person", "cat")


def save_source(root: Path, annotations: list[dict[str, Any]]) -> Path:
    """Image x (12 x 16) and the annotation file a.json."""
    save(root / "img" / "x.jpg", jpeg_bytes(picture()))
    images = [{"id": 5, "file_name": "x.jpg", "height": 12, "width": 16}]
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / "a.json").write_text(json.dumps(content))
    return root


def coco(kind: LabelKind, **rules: Any) -> Recipe:
    labels = "seg/{stem}.png" if kind == "panoptic" else None
    where = SubsetSource("img/*.jpg", labels, annotations="a.json")
    segments = Segments(**{"other": "background", **rules})
    classes = CLASSES if segments.other else CLASSES[1:]
    return Recipe({"train": where}, classes, label_kind=kind, segments=segments)


def segment(number: int, category: int, crowd: int = 0) -> dict[str, int]:
    return {"id": number, "category_id": category, "iscrowd": crowd}


def panoptic_source(root: Path, segments: list[dict[str, int]], ids: np.ndarray) -> Path:
    """Image x whose panoptic PNG holds the segment ids."""
    entry = {"image_id": 5, "file_name": "x.png", "segments_info": segments}
    rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
    save(root / "seg" / "x.png", rgb)
    return save_source(root, [entry])


def columns(*values: int) -> np.ndarray:
    """[12, 16]: four columns of each value."""
    return np.repeat(np.array([values]), 12, 0).repeat(4, 1)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, (2, 1, 0, 255)),
        ({"crowd": "ignore", "unannotated": "other"}, (2, 255, 0, 0)),
        ({"crowd": "other"}, (2, 0, 0, 255)),
        ({"other": None}, (1, 0, 255, 255)),  # then background is no class either
    ],
)
def test_panoptic(tmp_path: Path, rules: dict[str, Any], expected: tuple[int, ...]) -> None:
    segments = [segment(70000, 7), segment(300, 3, crowd=1), segment(2, 90)]
    source = panoptic_source(tmp_path / "source", segments, columns(70000, 300, 2, 0))
    pack(coco("panoptic", **rules), source, tmp_path / "out")
    assert np.array_equal(labels_of(tmp_path / "out")["img/x"], columns(*expected))


def instance(number: int, category: int, area: float, shape: Any, crowd: int = 0) -> dict[str, Any]:
    return {**segment(number, category, crowd), "image_id": 5, "area": area, "segmentation": shape}


def box(x0: int, y0: int, x1: int, y1: int) -> list[list[int]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def runs(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed run-length code of a bool [H, W]: runs of 0 and 1 down the columns, 0 first."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def test_instances(tmp_path: Path) -> None:
    crowd = np.zeros((12, 16), bool)
    crowd[:, 0:6] = True
    packed = masks.encode(np.asfortranarray(crowd[:, ::-1].astype(np.uint8)))
    annotations = [
        instance(1, 7, 4, box(4, 4, 6, 6)),  # small: on top of the person, though it comes first
        instance(2, 3, 64, box(2, 2, 10, 10)),
        instance(3, 3, 1, runs(crowd), crowd=1),  # below all things, however small
        instance(4, 7, 72, {**packed, "counts": packed["counts"].decode()}),
    ]
    pack(
        coco("instances", unannotated="other"),
        save_source(tmp_path / "source", annotations),
        tmp_path / "out",
    )
    expected = np.zeros((12, 16), np.uint8)
    expected[:, 0:6] = 1
    expected[:, 10:] = 2
    expected[2:10, 2:10] = 1
    expected[4:6, 4:6] = 2
    assert np.array_equal(labels_of(tmp_path / "out")["img/x"], expected)


def test_categories_are_merged_by_names(tmp_path: Path) -> None:
    annotations = [instance(1, 7, 64, box(2, 2, 10, 10)), instance(2, 90, 4, box(4, 4, 6, 6))]
    source = save_source(tmp_path / "source", annotations)
    made = coco("instances", unannotated="other", names={"cat": "person", "grass": "ignore"})
    made.classes = ("background", "person")
    pack(made, source, tmp_path / "out")
    expected = np.zeros((12, 16), np.uint8)
    expected[2:10, 2:10] = 1
    expected[4:6, 4:6] = 255
    assert np.array_equal(labels_of(tmp_path / "out")["img/x"], expected)
    made = coco("instances", unannotated="other", names={"cats": "person"})
    assert "has no category 'cats', which `segments: names` names; did you mean 'cat'" in message(
        tmp_path / "other", made, source
    )


def test_pixels_of_no_instance_are_ignored_where_they_may_be_anything(tmp_path: Path) -> None:
    source = save_source(tmp_path / "source", [instance(1, 7, 64, box(2, 2, 10, 10))])
    pack(coco("instances", unannotated="ignore"), source, tmp_path / "out")
    expected = np.full((12, 16), 255, np.uint8)
    expected[2:10, 2:10] = 2
    assert np.array_equal(labels_of(tmp_path / "out")["img/x"], expected)


def test_an_image_without_things_is_all_background(tmp_path: Path) -> None:
    pack(coco("instances", unannotated="other"), save_source(tmp_path / "source", []), tmp_path / "out")
    assert not labels_of(tmp_path / "out")["img/x"].any()


def message(tmp_path: Path, made: Recipe, source: Path) -> str:
    with pytest.raises(DataError) as error:
        pack(made, source, tmp_path / "out")
    return str(error.value)


def test_segments_that_do_not_fit_the_annotations(tmp_path: Path) -> None:
    source = panoptic_source(tmp_path / "source", [segment(1, 7)], columns(1, 1, 9, 8))
    text = message(tmp_path, coco("panoptic"), source)
    line = "  seg/x.png: unknown segment 8 (48 pixels), 9 (48 pixels); not in the annotations"
    assert line in text and "1 problems" in text
    Image.fromarray(columns(1, 1, 1, 1).astype(np.uint8)).save(source / "seg" / "x.png")
    assert "seg/x.png: has one channel (L), expected RGB" in message(tmp_path, coco("panoptic"), source)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ([[1, 1, 5, 5]], "a polygon needs at least three points"),
        ([[]], "a polygon needs at least three points"),
        ({"size": [12, 15], "counts": [180]}, "a run-length code is of size [12, 15], the image [12, 16]"),
        ({"size": [12, 16], "counts": [100]}, "do not add up to the image"),
        ({"size": [12, 16], "counts": "#"}, "neither polygons nor a run-length code"),
        ("square", "neither polygons nor a run-length code"),
        ([["a"] * 6], "neither polygons nor a run-length code"),
        ([[0, 0, 5, float("nan"), 5, 5]], "a polygon has a coordinate that is NaN or infinite"),
        ([[0, 0, 1e5, 0, 5, 5]], "the point (100000, 0), far outside the picture of 16x12 pixels"),
    ],
)
def test_bad_shapes(tmp_path: Path, shape: Any, expected: str) -> None:
    source = save_source(tmp_path / "source", [instance(1, 7, 4, shape)])
    text = message(tmp_path, coco("instances"), source)
    assert "  a.json: " in text and expected in text and "unreadable label" in text


def changed(edit: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))

    return apply


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: path.unlink(), "a.json: no such file"),
        (lambda path: path.write_text("{"), "is not a COCO panoptic annotation file"),
        (lambda path: path.write_text("[]"), "is not a COCO panoptic annotation file"),
        (changed(lambda c: c.pop("categories")), "has no 'categories'"),
        (changed(lambda c: c["images"][0].pop("width")), "has no 'width'"),
        (changed(lambda c: c["categories"].pop(0)), "has no category of the class 'cat'"),
        (changed(lambda c: c["annotations"][0].pop("segments_info")), "is it label_kind instances?"),
        (changed(lambda c: c["annotations"][0].update(image_id=6)), "image 6, which `images` does not have"),
        (changed(lambda c: c["annotations"].clear()), "img/x.jpg: a.json has no annotation of it"),
        (
            changed(lambda c: c["annotations"][0]["segments_info"][0].update(category_id=8)),
            "has the category 8, which is not listed",
        ),
    ],
)
def test_bad_annotations(tmp_path: Path, damage: Callable[[Path], None], expected: str) -> None:
    source = panoptic_source(tmp_path / "source", [segment(1, 7)], columns(1, 1, 1, 0))
    damage(source / "a.json")
    assert expected in message(tmp_path, coco("panoptic"), source)


def test_panoptic_annotations_are_not_instances(tmp_path: Path) -> None:
    source = panoptic_source(tmp_path / "source", [segment(1, 7)], columns(1, 1, 1, 0))
    assert "is it label_kind panoptic?" in message(tmp_path, coco("instances"), source)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Segments(unannotated="other"), "unannotated is 'other', but `other` names no class"),
        (lambda: coco("instances", other="stuff"), "other names 'stuff', which is no class"),
        (
            lambda: Recipe({"a": SubsetSource("x/*")}, CLASSES, label_kind="panoptic"),
            "segments must be given",
        ),
        (
            lambda: Recipe({"a": SubsetSource("x/*")}, CLASSES, segments=Segments()),
            "segments must be given for all label kinds but ids and colors, and only there",
        ),
        (
            lambda: Recipe(
                {"a": SubsetSource("x/*", "y/{stem}.png")},
                CLASSES,
                label_kind="panoptic",
                segments=Segments(),
            ),
            "need both `labels` and `annotations`",
        ),
    ],
)
def test_bad_recipes(make: Callable[[], Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        make()
