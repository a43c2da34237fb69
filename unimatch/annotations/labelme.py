"""LabelMe's JSON: a file an image. A shape lies on top of those before it, as LabelMe draws them.

Source: https://github.com/wkentaro/labelme, its label files of the versions 3 to 5.
"""

from __future__ import annotations

import base64
import json
import math
from functools import partial
from typing import Any

import numpy as np

from unimatch.annotations import geometry
from unimatch.annotations.drawing import NO_AREA, Drawing, Size, json_of, label_of, size_of
from unimatch.codecs.encode import png
from unimatch.errors import DataError

VERSION = "5.3.0"  # of LabelMe that files are written for
NO_AREAS = ("line", "linestrip", "point", "points")


def read(data: bytes, where: str, size: Size) -> Drawing:
    """What a file says of its image of `size`. DataError: it is no such file."""
    content = parsed(data, where)
    try:
        told = size_of(content.get("imageHeight"), content.get("imageWidth"), "imageHeight and imageWidth")
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    name = content.get("imagePath")
    drawing = Drawing(name if isinstance(name, str) else None, told)
    for place, entry in enumerate(content["shapes"], 1):
        drawing.add(place, partial(shape, entry, drawing, told or size))
    return drawing


def parsed(data: bytes, where: str) -> dict[str, Any]:
    """The content. DataError: it is no LabelMe file."""
    content = json_of(data, where, "LabelMe")
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        found = ", ".join(map(repr, list(content)[:5])) if isinstance(content, dict) else "a list"
        raise DataError(f"{where}: is no LabelMe file: it has no list `shapes`, but {found or 'nothing'}")
    return content


def shape(entry: dict[str, Any], drawing: Drawing, size: Size) -> tuple[str, Any] | None:
    """The label and the shape of an entry; None: it is no area, which is counted."""
    kind, points = entry.get("shape_type") or "polygon", entry["points"]
    if kind in NO_AREAS:
        drawing.left_out[NO_AREA] += 1
        return None
    label = label_of(entry, "label")
    if kind in ("polygon", "rotation") or (kind == "rectangle" and len(points) == 4):
        return label, geometry.polygon(points)
    if kind not in ("rectangle", "circle", "mask"):
        raise DataError(f"has the shape_type {kind!r}, which is not read")
    if len(points) != 2:
        raise DataError(f"a {kind} has two points, found {len(points)}")
    (x0, y0), (x1, y1) = (geometry.numbers(point, 2) for point in points)
    if kind == "circle":  # its middle, and a point on it
        radius = math.hypot(x1 - x0, y1 - y0)
        return label, geometry.ellipse(x0, y0, radius, radius)
    if kind == "rectangle":
        return label, geometry.box(x0, y0, x1, y1)
    mask = geometry.bitmap(geometry.decoded(entry.get("mask")))
    if mask.shape != (int(y1) - int(y0) + 1, int(x1) - int(x0) + 1):
        raise DataError(
            f"its mask has {mask.shape[1]}x{mask.shape[0]} pixels, its points {points} another size"
        )
    return label, geometry.placed(mask, int(x0), int(y0), size)


def embedded_image(data: bytes, where: str) -> bytes:
    """The image file that a LabelMe file holds. DataError: it holds none."""
    text = parsed(data, where).get("imageData")
    if not text:
        raise DataError(f"{where}: holds no image (imageData is null); put the image files beside it")
    try:
        return geometry.decoded(text)
    except DataError as error:
        raise DataError(f"{where}: imageData: {error}") from error


def write(drawing: Drawing, path: str) -> bytes:
    """A file that `read` reads and LabelMe opens: polygons, and masks of run-length codes (LabelMe 5.3 on).

    path: of the image, from the folder that the file lies in.
    """
    assert drawing.size is not None
    entries: list[dict[str, Any]] = []
    for piece in drawing.pieces:
        common: dict[str, Any] = {"label": piece.label, "group_id": None, "description": "", "flags": {}}
        if isinstance(piece.shape, list):
            for outline in piece.shape:
                points = [list(point) for point in geometry.pairs(outline)]
                entries.append({**common, "points": points, "shape_type": "polygon", "mask": None})
            continue
        part, x, y = geometry.cut_out(piece.shape, drawing.size)
        corners = [[x, y], [x + part.shape[1] - 1, y + part.shape[0] - 1]]
        text = base64.b64encode(png(part.astype(np.uint8))).decode()
        entries.append({**common, "points": corners, "shape_type": "mask", "mask": text})
    height, width = drawing.size
    content: dict[str, Any] = {
        "version": VERSION,
        "flags": {},
        "shapes": entries,
        "imagePath": path,
        "imageData": None,
    }
    return json.dumps({**content, "imageHeight": height, "imageWidth": width}).encode() + b"\n"
