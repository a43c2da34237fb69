"""CVAT's XML "CVAT for images 1.1": a file for many images.

A shape of a larger z_order lies on top, of equal ones the later in the file.
Source: https://docs.cvat.ai/docs/manual/advanced/xml_format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from xml.etree import ElementTree

import numpy as np

from unimatch.annotations import geometry
from unimatch.annotations.drawing import NO_AREA, Drawing, Piece, Size, attempt, size_of
from unimatch.annotations.labels import Segments
from unimatch.errors import DataError

NO_AREAS = ("polyline", "points", "skeleton", "cuboid")
TAGS = "tags of whole images"


def read(data: bytes, where: str, rules: Segments) -> list[Drawing]:
    """The pictures of a file. DataError: it is no such file."""
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise DataError(f"{where}: is no XML, or damaged: {error}") from error
    if root.tag != "annotations":
        raise DataError(f"{where}: is no annotation file of CVAT: it begins with <{root.tag}>")
    if root.find("track") is not None:
        raise DataError(
            f"{where}: is 'CVAT for video', whose tracks are drawn between frames; export 'CVAT for images "
            "1.1'"
        )
    return [picture(element, where) for element in root.iter("image")]


def picture(element: ElementTree.Element, where: str) -> Drawing:
    name = element.get("name")
    if not name:
        raise DataError(f"{where}: has an <image> without a name")
    sides = whole(element, "height", where), whole(element, "width", where)
    try:
        size = size_of(*sides, "height and width")
    except DataError as error:
        raise DataError(f"{where}: {name!r} {error}") from error
    if size is None:
        raise DataError(f"{where}: {name!r} has no width and height")
    drawing, found = Drawing(name, size), []
    for place, entry in enumerate(element, 1):
        if entry.tag == "tag":
            drawing.left_out[TAGS] += 1
        elif entry.tag in NO_AREAS:
            drawing.left_out[NO_AREA] += 1
        else:
            what = f"{entry.tag} {place}"
            piece = attempt(drawing, what, partial(read_piece, entry, what, size))
            if piece is not None:
                found.append((piece[0], place, piece[1]))
    drawing.pieces = [piece for _, _, piece in sorted(found, key=lambda one: one[:2])]
    return drawing


def read_piece(entry: ElementTree.Element, what: str, size: Size) -> tuple[float, Piece]:
    """z_order, and the shape with its label."""
    label = entry.get("label")
    if not label:
        raise DataError("has no label")
    (order,) = geometry.numbers([entry.get("z_order", "0")])
    return order, Piece(label, shape(entry, size), what)


def shape(entry: ElementTree.Element, size: Size) -> Any:
    def values(*names: str) -> list[float]:
        return geometry.numbers([entry.attrib[name] for name in names])

    (degrees,) = geometry.numbers([entry.get("rotation", "0")])
    if entry.tag == "polygon":
        return geometry.polygon([point.split(",") for point in entry.attrib["points"].split(";")])
    if entry.tag == "box":
        x0, y0, x1, y1 = values("xtl", "ytl", "xbr", "ybr")
        return geometry.box(x0, y0, x1, y1, degrees)
    if entry.tag == "ellipse":
        x, y, rx, ry = values("cx", "cy", "rx", "ry")
        return geometry.ellipse(x, y, rx, ry, degrees)
    if entry.tag == "mask":
        x, y, width, height = map(int, values("left", "top", "width", "height"))
        return geometry.placed(mask(entry.attrib["rle"], height, width), x, y, size)
    raise DataError(f"a <{entry.tag}> is not read")


def mask(text: str, height: int, width: int) -> np.ndarray:
    """bool [h, w] of runs of 0 and 1 in turn along the rows, 0 first."""
    counts = [int(word) for word in text.replace(",", " ").split()]
    if min(counts, default=-1) < 0 or min(height, width) < 1 or sum(counts) != height * width:
        raise DataError(f"the runs of its mask do not add up to {width}x{height} pixels")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)


def whole(element: ElementTree.Element, name: str, where: str) -> int | None:
    text = element.get(name)
    if text is not None and not text.isdecimal():
        raise DataError(f"{where}: {element.get('name')!r} has {text!r} as {name}")
    return None if text is None else int(text)


def label_names(data: bytes) -> dict[str, tuple[int, int, int] | None]:
    """The labels of the task and their colours, as the file's head lists them."""
    found: dict[str, tuple[int, int, int] | None] = {}
    for label in ElementTree.fromstring(data).iter("label"):
        name, color = label.findtext("name"), (label.findtext("color") or "").lstrip("#")
        if name:
            is_color = len(color) == 6 and all(digit in "0123456789abcdefABCDEF" for digit in color)
            value = int(color, 16) if is_color else 0
            found[name] = (value >> 16, value >> 8 & 255, value & 255) if is_color else None
    return found


def write(drawings: Sequence[Drawing]) -> bytes:
    """A file that `read` reads and CVAT imports: polygons, and masks of run-length codes."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    for number, drawing in enumerate(drawings):
        assert drawing.image is not None and drawing.size is not None
        height, width = drawing.size
        told = {"id": str(number), "name": drawing.image, "width": str(width), "height": str(height)}
        element = ElementTree.SubElement(root, "image", told)
        for order, piece in enumerate(drawing.pieces):
            common = {"label": piece.label, "source": "auto", "occluded": "0", "z_order": str(order)}
            for kind, values in written(piece.shape, drawing.size):
                ElementTree.SubElement(element, kind, common | values)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, "utf-8", xml_declaration=True)) + b"\n"


def written(shape: Any, size: Size) -> Iterator[tuple[str, dict[str, str]]]:
    """(tag, attributes) of a shape."""
    if isinstance(shape, list):
        for outline in shape:
            points = ";".join(f"{x:g},{y:g}" for x, y in geometry.pairs(outline))
            yield "polygon", {"points": points}
        return
    part, x, y = geometry.cut_out(shape, size)
    box = {"left": x, "top": y, "width": part.shape[1], "height": part.shape[0]}
    along = ", ".join(map(str, geometry.runs(part.T)["counts"]))
    yield "mask", {"rle": along} | {name: str(value) for name, value in box.items()}


def label_file(labels: Mapping[str, tuple[int, int, int]]) -> bytes:
    """The labels and colours of a task, for the field "Raw" of CVAT's label constructor."""
    listed = [
        {"name": name, "color": "#{:02x}{:02x}{:02x}".format(*color), "attributes": []}
        for name, color in labels.items()
    ]
    return json.dumps(listed, indent=1).encode() + b"\n"
