"""Supervisely's JSON: a file an image. An object lies on top of those before it.

Source: https://developer.supervisely.com/getting-started/supervisely-annotation-format. Its files have whole
coordinates, which mean the middle of a pixel, or, where the labelling tool wrote them, fractions of pixels,
which are places between the picture's borders as everywhere else.
"""

from __future__ import annotations

import zlib
from functools import partial
from typing import Any

from unimatch.annotations import geometry
from unimatch.annotations.drawing import NO_AREA, Drawing, Size, json_of, label_of, size_of
from unimatch.errors import DataError

NO_AREAS = ("line", "polyline", "point", "graph", "keypoints", "cuboid", "cuboid_2d")
MAX_BYTES = 1 << 28  # of an unpacked bitmap


def read(data: bytes, where: str, size: Size) -> Drawing:
    """What a file says of its image of `size`. DataError: it is no such file."""
    content = json_of(data, where, "Supervisely")
    if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
        raise DataError(f"{where}: is no Supervisely file: it has no list `objects`")
    try:
        told = content.get("size") or {}
        drawing = Drawing(None, size_of(told.get("height"), told.get("width"), "size"))
    except (DataError, AttributeError) as error:
        raise DataError(f"{where}: {error}") from error
    for place, entry in enumerate(content["objects"], 1):
        number = entry.get("id", place) if isinstance(entry, dict) else place
        drawing.add(number, partial(shape, entry, drawing, drawing.size or size))
    return drawing


def shape(entry: dict[str, Any], drawing: Drawing, size: Size) -> tuple[str, Any] | None:
    """The label and the shape of an object; None: it is no area, which is counted."""
    kind = entry.get("geometryType") or ("bitmap" if entry.get("bitmap") else "polygon")
    if kind in NO_AREAS:
        drawing.left_out[NO_AREA] += 1
        return None
    label = label_of(entry, "classTitle")
    if kind == "bitmap":
        return label, bitmap(entry["bitmap"], size)
    if kind not in ("polygon", "rectangle"):
        raise DataError(f"has the geometryType {kind!r}, which is not read")
    exterior = geometry.outline(entry["points"]["exterior"])
    holes = [geometry.outline(one) for one in entry["points"].get("interior") or []]
    whole = all(value == int(value) for one in (exterior, *holes) for value in one)
    if kind == "rectangle":
        x0, y0, x1, y1 = geometry.numbers(exterior, 4)
        left, right, top, bottom = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
        return label, geometry.box(left, top, right + whole, bottom + whole)
    exterior, *holes = ([value + 0.5 * whole for value in one] for one in (exterior, *holes))
    return label, {"outline": exterior, "holes": holes} if holes else [exterior]


def bitmap(content: dict[str, Any], size: Size) -> dict[str, Any]:
    """The shape of a compressed PNG and the place of its upper left corner."""
    unpacking = zlib.decompressobj()
    try:
        data = unpacking.decompress(geometry.decoded(content["data"]), MAX_BYTES)
    except zlib.error as error:
        raise DataError(f"its bitmap cannot be unpacked: {error}") from error
    x, y = geometry.numbers(content["origin"], 2)
    return geometry.placed(geometry.bitmap(data), int(x), int(y), size)


def class_names(data: bytes, where: str) -> dict[str, str]:
    """The geometry of each class of a project's meta.json. DataError: it is none."""
    content = json_of(data, where, "Supervisely")
    try:
        return {entry["title"]: entry.get("shape", "any") for entry in content["classes"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: is no meta.json of Supervisely: {error}") from error
