"""Drawings of COCO's segments and shapes to class ids."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from pycocotools import mask as masks

from unimatch.errors import DataError

VOID = 0  # the segment id of pixels that belong to no segment


def segment_pairs(drawing: bytes, unannotated: int) -> tuple[tuple[int, int], ...]:
    """(segment id, class id) of a panoptic drawing, and what pixels of no segment become."""
    pairs = {int(segment): int(class_id) for class_id, segment in json.loads(drawing)["segments"]}
    return tuple(sorted({VOID: unannotated, **pairs}.items()))


def draw_instances(drawing: bytes, unannotated: int) -> tuple[np.ndarray, list[Any]]:
    """(uint8 [H, W] of class ids, the ids of annotations that cover no pixel).

    DataError without the image's name: a shape that cannot be drawn.
    """
    content = json.loads(drawing)
    height, width = content["size"]
    label = np.full((height, width), unannotated, np.uint8)
    empty = []
    for class_id, shape, number in content["shapes"]:
        try:
            covered = shape_mask(shape, height, width)
        except DataError as error:
            raise DataError(f"annotation {number}: {error}") from error
        label[covered] = class_id
        if not covered.any():
            empty.append(number)
    return label, empty


def shape_area(shape: Any, height: int, width: int) -> int:
    """Pixels that a shape covers; 0 for one that cannot be drawn, which is told when it is."""
    try:
        return int(shape_mask(shape, height, width).sum())
    except DataError:
        return 0


def shape_mask(shape: Any, height: int, width: int) -> np.ndarray:
    """bool [H, W] of polygons [[x, y, x, y, ...], ...] or of a run-length code, also a compressed one.

    DataError: neither, or of another size.
    """
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
