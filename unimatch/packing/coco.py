"""COCO's annotations: panoptic segments and instances as drawings of class ids.

Source: the COCO data format, https://cocodataset.org/#format-data. A drawing is the JSON of all that one
image's label needs, so that workers get a few bytes rather than the whole annotation file:
{"size": [height, width], "segments": [[class id, id], ...]} for panoptic segments, and
{"size": [height, width], "shapes": [[class id, segmentation], ...]} for instances, bottom first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as masks

from unimatch.errors import DataError
from unimatch.packing.recipe import LabelKind, Segments
from unimatch.registry import nearest
from unimatch.taxonomy import IGNORE_INDEX

VOID = 0  # the segment id of pixels that belong to no segment


def read_annotations(
    source: Path, path: str, kind: LabelKind, rules: Segments, classes: tuple[str, ...]
) -> dict[str, bytes]:
    """The drawing of each image in an annotation file, by the image's file name in it.

    DataError: not such a file, another kind of annotations, or a class that is no category.
    """
    try:
        content = json.loads((source / path).read_bytes())
        categories = {entry["id"]: entry["name"] for entry in content["categories"]}
        images = {entry["id"]: entry for entry in content["images"]}
        drawings = {key: {"size": [image["height"], image["width"]]} for key, image in images.items()}
        rule = ClassRule(path, rules, classes, categories)
        make = panoptic_drawings if kind == "panoptic" else instance_drawings
        for image_id, drawing in make(path, content["annotations"], rule):
            if image_id not in drawings:
                raise DataError(f"{path}: an annotation is of image {image_id}, which `images` does not have")
            drawings[image_id].update(drawing)
        if kind == "instances":  # an image without things has no annotation
            for drawing in drawings.values():
                drawing.setdefault("shapes", [])
        named = ((images[key]["file_name"], drawing) for key, drawing in drawings.items())
        return {
            name: json.dumps(drawing, separators=(",", ":")).encode()
            for name, drawing in named
            if len(drawing) == 2
        }
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        text = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{path}: is not a COCO {kind} annotation file: {text}") from error


class ClassRule:
    """What class a segment has, by its category and whether it is a crowd."""

    def __init__(self, path: str, rules: Segments, classes: tuple[str, ...], categories: dict[int, str]):
        names = {name: place for place, name in enumerate(classes)}
        absent = [name for name in classes if name not in categories.values() and name != rules.other]
        if absent:
            near = nearest(absent[0], list(categories.values()))
            raise DataError(f"{path}: has no category of the class {absent[0]!r}; {near}")
        self.other = IGNORE_INDEX if rules.other is None else names[rules.other]
        self.crowd = rules.crowd
        self.by_category = {key: names.get(name, self.other) for key, name in categories.items()}
        self.path = path

    def of(self, category: int, crowd: int) -> int:
        if category not in self.by_category:
            raise DataError(f"{self.path}: an annotation has the category {category}, which is not listed")
        if crowd and self.crowd != "class":
            return IGNORE_INDEX if self.crowd == "ignore" else self.other
        return self.by_category[category]


def panoptic_drawings(
    path: str, annotations: list[dict[str, Any]], rule: ClassRule
) -> Iterator[tuple[int, dict[str, Any]]]:
    for entry in annotations:
        if "segments_info" not in entry:
            raise DataError(
                f"{path}: has no segments_info, so no panoptic segments; is it label_kind instances?"
            )
        segments = [
            [rule.of(segment["category_id"], segment["iscrowd"]), segment["id"]]
            for segment in entry["segments_info"]
        ]
        yield entry["image_id"], {"segments": segments}


def instance_drawings(
    path: str, annotations: list[dict[str, Any]], rule: ClassRule
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Shapes with the smaller ones on top, as small things mostly stand in front of, or on, large ones;
    crowds, which are drawn roughly, lie below all things.
    """
    by_image: dict[int, list[dict[str, Any]]] = {}
    for entry in annotations:
        if "segmentation" not in entry:
            raise DataError(f"{path}: has no segmentation, so no instances; is it label_kind panoptic?")
        by_image.setdefault(entry["image_id"], []).append(entry)
    for image_id, entries in by_image.items():
        entries.sort(key=lambda entry: (not entry.get("iscrowd", 0), -entry["area"], entry["id"]))
        shapes = [
            [rule.of(entry["category_id"], entry.get("iscrowd", 0)), entry["segmentation"]]
            for entry in entries
        ]
        yield image_id, {"shapes": shapes}


def segment_pairs(drawing: bytes, unannotated: int) -> tuple[tuple[int, int], ...]:
    """(segment id, class id) of a panoptic drawing, and what pixels of no segment become."""
    pairs = {int(segment): int(class_id) for class_id, segment in json.loads(drawing)["segments"]}
    return tuple(sorted({VOID: unannotated, **pairs}.items()))


def draw_instances(drawing: bytes, unannotated: int) -> np.ndarray:
    """uint8 [H, W] of class ids. DataError without the image's name: a shape that cannot be drawn."""
    content = json.loads(drawing)
    height, width = content["size"]
    label = np.full((height, width), unannotated, np.uint8)
    for class_id, shape in content["shapes"]:
        label[shape_mask(shape, height, width)] = class_id
    return label


def shape_mask(shape: Any, height: int, width: int) -> np.ndarray:
    """bool [H, W] of polygons [[x, y, x, y, ...], ...] or of a run-length code, also a compressed one."""
    try:
        if isinstance(shape, list):
            bad = [polygon for polygon in shape if len(polygon) < 6 or len(polygon) % 2]
            if bad or not shape:
                raise DataError("a polygon needs at least three points (x, y)")
            coded = masks.merge(masks.frPyObjects(shape, height, width))
        else:
            if list(shape["size"]) != [height, width]:
                raise DataError(f"a run-length code is of size {shape['size']}, the image {[height, width]}")
            counts = shape["counts"]
            if isinstance(counts, list):
                if sum(counts) != height * width or min(counts) < 0:
                    raise DataError("the runs of a run-length code do not add up to the image")
                coded = masks.frPyObjects(shape, height, width)
            else:
                coded = {"size": [height, width], "counts": counts.encode()}
        return masks.decode(coded).astype(bool)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"a segmentation that is neither polygons nor a run-length code ({error})") from error
