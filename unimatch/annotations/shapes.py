"""Drawings of COCO's segments and of shapes to class ids.

A shape is a list of polygons [[x, y, x, y, ...], ...]; {"outline": [x, y, ...], "holes": [[x, y, ...], ...]};
or COCO's run-length code {"size": [height, width], "counts": ...}, also a compressed one.
"""

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


def draw_shapes(
    shapes: list[list[Any]], height: int, width: int, unannotated: int
) -> tuple[np.ndarray, list[Any]]:
    """(uint8 [H, W] of class ids, the numbers of shapes that cover no pixel) of [class id, shape, number],
    bottom first.

    DataError without the image's name: a shape that cannot be drawn.
    """
    label = np.full((height, width), unannotated, np.uint8)
    empty = []
    for class_id, shape, number in shapes:
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
        covered, cut = shape_codes(shape, height, width)
    except DataError:
        return 0
    # Counted in the codes, without a picture.
    inside = 0 if cut is None else masks.area(masks.merge([covered, cut], intersect=True))
    return int(masks.area(covered) - inside)


def shape_mask(shape: Any, height: int, width: int) -> np.ndarray:
    """bool [H, W] of a shape. DataError: none, of another size, or far outside the picture."""
    covered, cut = shape_codes(shape, height, width)
    try:
        mask = masks.decode(covered).astype(bool)
        return mask if cut is None else mask & ~masks.decode(cut).astype(bool)
    except ValueError as error:
        raise _no_shape(error) from error


def shape_codes(shape: Any, height: int, width: int) -> tuple[Any, Any]:
    """The run-length codes of a shape and of its holes; None where it can have none. DataError: as above."""
    try:
        if isinstance(shape, list):
            return masks.merge(polygon_codes(shape, height, width)), None
        if "outline" in shape:
            outline = masks.merge(polygon_codes([shape["outline"]], height, width))
            holes = shape["holes"]
            return outline, masks.merge(polygon_codes(holes, height, width)) if holes else None
        if list(shape["size"]) != [height, width]:
            raise DataError(f"a run-length code is of size {shape['size']}, the image {[height, width]}")
        counts = shape["counts"]
        if isinstance(counts, list):
            if sum(counts) != height * width or min(counts) < 0:
                raise DataError("the runs of a run-length code do not add up to the image")
            return masks.frPyObjects(shape, height, width), None
        return {"size": [height, width], "counts": counts.encode()}, None
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise _no_shape(error) from error


def _no_shape(error: Exception) -> DataError:
    return DataError(f"a segmentation that is neither polygons nor a run-length code ({error})")


def polygon_codes(polygons: list[Any], height: int, width: int) -> Any:
    """The run-length codes of polygons. DataError: too few points, or none of this picture.

    The filler walks along each edge, so a point at 1e9 would take its memory, and NaN its mind.
    """
    if not polygons or [one for one in polygons if len(one) < 6 or len(one) % 2]:
        raise DataError("a polygon needs at least three points (x, y)")
    for one in polygons:
        points = np.array(one, np.float64).reshape(-1, 2)
        if not np.isfinite(points).all():
            raise DataError("a polygon has a coordinate that is NaN or infinite")
        far = (points < -np.array([width, height])) | (points > 2 * np.array([width, height]))
        if far.any():
            x, y = points[far.any(axis=1)][0]
            raise DataError(
                f"a polygon has the point ({x:g}, {y:g}), far outside the picture of {width}x{height} "
                "pixels; was it drawn on another size?"
            )
    return masks.frPyObjects(polygons, height, width)
