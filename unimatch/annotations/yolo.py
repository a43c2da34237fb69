"""YOLO's outlines, as Ultralytics and Roboflow write them: a text file an image, a line an outline.

A line is `class x y x y ...` in parts of the image's width and height. The files know no order, so smaller
outlines lie on top, as Ultralytics draws them. An empty file: an image without any.
Source: https://docs.ultralytics.com/datasets/segment.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import yaml

from unimatch.annotations import geometry
from unimatch.annotations.drawing import Drawing, Piece, Size, attempt
from unimatch.annotations.shapes import shape_area
from unimatch.errors import DataError, summary

BORDER = 0.01  # rounded coordinates may lie so far outside 0 to 1
BOX = 5  # numbers of a line that is a box: class, centre, width and height


def read(data: bytes, where: str, size: Size, names: tuple[str, ...]) -> Drawing:
    """What a file says of its image of `size`; `names` are those of the classes. DataError: no text."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is no text ({error.reason} at byte {error.start})") from error
    drawing = Drawing(None, size)
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        piece = attempt(drawing, f"line {number}", partial(outline, line, number, size, names))
        if piece is not None:
            found.append((-shape_area(piece.shape, *size), number, piece))
    drawing.pieces = [piece for _, _, piece in sorted(found, key=lambda one: one[:2])]
    return drawing


def outline(line: str, number: int, size: Size, names: tuple[str, ...]) -> Piece:
    """The outline of a line. DataError: it is none."""
    words = line.split()
    if len(words) == BOX:
        raise DataError(
            "is a box (5 numbers), not an outline: a box says nothing about the pixels in it; export "
            "outlines (YOLO segmentation)"
        )
    if len(words) < 7 or len(words) % 2 == 0:
        raise DataError(f"has {len(words)} numbers; an outline is the class and three or more points x y")
    values = geometry.numbers(words)
    if values[0] != int(values[0]) or not 0 <= values[0] < len(names):
        raise DataError(f"has the class {words[0]}; there are 0 to {len(names) - 1} ({summary(names)})")
    outside = [value for value in values[1:] if not -BORDER <= value <= 1 + BORDER]
    if outside:
        raise DataError(f"has the coordinate {outside[0]:g}; they are parts of width and height, 0 to 1")
    sides = (size[1], size[0])
    points = [min(max(value, 0.0), 1.0) * sides[place % 2] for place, value in enumerate(values[1:])]
    return Piece(names[int(values[0])], [points], f"of line {number}")


def class_names(data: bytes, where: str) -> tuple[str, ...]:
    """The names of a data.yaml, by class id. DataError: it has none, or ids without a name."""
    try:
        content: Any = yaml.safe_load(data.decode("utf-8-sig"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{where}: is no YAML: {' '.join(str(error).split())}") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise DataError(f"{where}: names has the ids {sorted(names, key=str)}, expected 0, 1, 2 ...")
        names = [names[place] for place in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{where}: has no list `names` of the classes")
    count = content.get("nc", len(names))
    if count != len(names):
        raise DataError(f"{where}: says nc: {count}, but names {len(names)} classes")
    return tuple(map(str, names))
