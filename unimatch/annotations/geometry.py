"""Rectangles, ellipses and bitmaps as the shapes that `shapes` draws.

Coordinates are continuous: the first pixel reaches from 0 to 1, as in COCO.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from unimatch.annotations.drawing import Size
from unimatch.errors import DataError

ELLIPSE_POINTS = 180  # the area of so many corners is 0.02 % smaller than the ellipse's


def numbers(values: Sequence[Any], count: int | None = None) -> list[float]:
    """Finite floats. DataError: something else, or another count than `count`."""
    if count is not None and len(values) != count:
        raise DataError(f"has {len(values)} coordinates instead of {count}")
    found = []
    for value in values:
        try:
            found.append(float(value))
        except (TypeError, ValueError) as error:
            raise DataError(f"has a coordinate that is no number: {value!r}") from error
    if not all(map(math.isfinite, found)):
        raise DataError("has a coordinate that is NaN or infinite")
    return found


def polygon(points: Sequence[Any]) -> list[list[float]]:
    """The outline through points (x, y), as a shape."""
    return [outline(points)]


def outline(points: Sequence[Any]) -> list[float]:
    """[x, y, x, y, ...] of points (x, y)."""
    return [value for point in points for value in numbers(point, 2)]


def box(x0: float, y0: float, x1: float, y1: float, degrees: float = 0) -> list[list[float]]:
    """The rectangle between two corners, turned clockwise about its centre."""
    corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    return [turned(corners, ((x0 + x1) / 2, (y0 + y1) / 2), degrees)]


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0) -> list[list[float]]:
    """The ellipse about (x, y), turned clockwise about it."""
    angles = [2 * math.pi * place / ELLIPSE_POINTS for place in range(ELLIPSE_POINTS)]
    corners = [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]
    return [turned(corners, (x, y), degrees)]


def turned(points: Sequence[tuple[float, float]], about: tuple[float, float], degrees: float) -> list[float]:
    """[x, y, ...] of points, turned about one; clockwise, since y points down."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    found = []
    for x, y in points:
        dx, dy = x - about[0], y - about[1]
        found += [about[0] + dx * cosine - dy * sine, about[1] + dx * sine + dy * cosine]
    return found


def placed(mask: np.ndarray, x: int, y: int, size: Size) -> dict[str, Any]:
    """The run-length code, in a picture of `size`, of a bool [h, w] whose upper left corner lies at (x, y).

    DataError: it reaches beyond the picture.
    """
    height, width = mask.shape
    if x < 0 or y < 0 or x + width > size[1] or y + height > size[0]:
        raise DataError(
            f"its mask of {width}x{height} pixels at ({x}, {y}) reaches beyond the picture of "
            f"{size[1]}x{size[0]}"
        )
    whole = np.zeros(size, bool)
    whole[y : y + height, x : x + width] = mask
    return runs(whole)


def runs(mask: np.ndarray) -> dict[str, Any]:
    """COCO's run-length code of a bool [H, W]: lengths of 0 and 1 in turn down the columns, 0 first."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *edges.tolist(), flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def decoded(text: Any) -> bytes:
    """The bytes of base64 text. DataError: no such text."""
    if not isinstance(text, str) or not text:
        raise DataError(f"has {'no' if not text else type(text).__name__ + ' as'} base64 data")
    try:
        return base64.b64decode(text.rpartition("base64,")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"its base64 data are damaged: {error}") from error


def bitmap(data: bytes) -> np.ndarray:
    """bool [h, w] of a PNG: the last of four channels, or whatever is not 0. DataError: no such picture."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            if opened.mode in ("RGBA", "LA"):
                return np.asarray(opened.getchannel("A")) > 0
            plain = opened.convert("L") if opened.mode == "RGB" else opened
            return np.asarray(plain) > 0
    except UnidentifiedImageError as error:
        raise DataError("its bitmap is no picture") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"its bitmap is damaged: {error}") from error


def cut_out(shape: dict[str, Any], size: Size) -> tuple[np.ndarray, int, int]:
    """(bool [h, w], x, y): the part of a run-length code that holds all its pixels; `placed` undoes it."""
    counts = shape["counts"]
    whole = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[1], size[0]).T
    rows, columns = np.flatnonzero(whole.any(1)), np.flatnonzero(whole.any(0))
    y, x = int(rows[0]), int(columns[0])
    return whole[y : int(rows[-1]) + 1, x : int(columns[-1]) + 1], x, y


def pairs(outline: Sequence[float]) -> list[tuple[float, float]]:
    """The points (x, y) of [x, y, x, y, ...]."""
    return list(zip(outline[::2], outline[1::2], strict=True))
