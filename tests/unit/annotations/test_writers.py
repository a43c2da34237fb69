"""What is written for an annotation tool is what its reader reads."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.unit.annotations.test_outlines import blobs
from unimatch.annotations import brush, cvat, label_studio, labelme
from unimatch.annotations.drawing import Drawing
from unimatch.annotations.labels import LabelClasses, Segments
from unimatch.annotations.shapes import draw_shapes
from unimatch.predicting.prelabels import Made, Rules, drawing_of
from unimatch.taxonomy import IGNORE_INDEX

CLASSES = ("road", "tree & bush", "car", "sky")
COLORS = {"road": (255, 0, 16), "tree & bush": (1, 2, 3)}
NAME = "day 1/50% a&b.png"


def made(ids: np.ndarray, masks: bool = False) -> Drawing:
    return drawing_of(NAME, ids, CLASSES, Rules(tolerance=0, smallest=0, masks=masks), Made())


def through(tool: str, drawing: Drawing) -> Drawing:
    """The drawing as the tool's reader finds it; of Label Studio once somebody has submitted it."""
    size = drawing.size
    assert size is not None
    if tool == "labelme":
        return labelme.read(labelme.write(drawing, f"../{NAME}"), "a.json", size)
    if tool == "cvat":
        (found,) = cvat.read(cvat.write([drawing]), "a.xml", Segments())
        return found
    tasks = json.loads(label_studio.write([drawing], "/data/local-files/?d=", "run step 3"))
    tasks[0]["annotations"] = tasks[0].pop("predictions")
    (found,) = label_studio.read(json.dumps(tasks).encode(), "a.json", Segments())
    return found


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("tool", ["cvat", "label_studio", "labelme"])
def test_every_pixel_comes_back(tool: str, masks: bool):
    ids = blobs(30, 44, empty=True)
    found = through(tool, made(ids, masks))
    assert (found.faults, found.size) == ([], ids.shape)
    assert found.image == (f"../{NAME}" if tool == "labelme" else NAME)
    shapes = found.shapes(LabelClasses.of(Segments(), CLASSES))
    assert np.array_equal(draw_shapes(shapes, *ids.shape, IGNORE_INDEX)[0], ids)


@pytest.mark.parametrize("tool", ["cvat", "label_studio", "labelme"])
def test_a_picture_without_a_sure_pixel_has_no_shape(tool: str):
    found = through(tool, made(np.full((4, 5), IGNORE_INDEX, np.uint8)))
    assert (found.pieces, found.faults) == ([], [])


def test_a_shape_over_another_one_stays_over_it_in_cvat():
    below, above = (np.zeros((6, 8), bool) for _ in range(2))
    below[:, :6], above[2:5, 3:] = True, True
    drawing = made(np.full((6, 8), IGNORE_INDEX, np.uint8))
    for name, mask in (("road", below), ("car", above)):
        (piece,) = made(np.where(mask, CLASSES.index(name), IGNORE_INDEX).astype(np.uint8)).pieces
        drawing.pieces.append(piece)
    found = through("cvat", drawing)
    assert [piece.label for piece in found.pieces] == ["road", "car"]
    ids = draw_shapes(found.shapes(LabelClasses.of(Segments(), CLASSES)), 6, 8, IGNORE_INDEX)[0]
    assert (ids[above] == CLASSES.index("car")).all() and (ids[below & ~above] == 0).all()


def test_the_brush_is_written_as_it_is_read():
    for mask in (blobs(20, 31) == 0, np.ones((300, 400), bool), np.zeros((3, 3), bool)):
        assert np.array_equal(brush.decode(brush.encode(mask), *mask.shape), mask)


def test_predictions_are_no_annotations_until_somebody_submits_them():
    tasks = label_studio.write([made(blobs(6, 7))], "https://host/", "run step 3")
    assert json.loads(tasks)[0]["data"] == {"image": "https://host/day%201/50%25%20a%26b.png"}
    (found,) = label_studio.read(tasks, "a.json", Segments())
    assert found.unlabeled == "it has predictions alone, which nobody has submitted"


def test_labels_and_colours_for_the_tools():
    assert cvat.label_names(cvat.write([made(blobs(6, 7))])) == {}
    raw = json.loads(cvat.label_file(COLORS))
    assert raw[0] == {"name": "road", "color": "#ff0010", "attributes": []}
    view = ElementTree.fromstring(label_studio.label_config(COLORS))
    listed = [(one.get("value"), one.get("background")) for one in view.iter("Label")]
    assert listed == 2 * [("road", "#ff0010"), ("tree & bush", "#010203")]
    regions = label_studio.written(made(blobs(9, 9, empty=True)))
    assert {one["from_name"] for one in regions} <= {one.get("name") for one in view if one.tag != "Image"}
