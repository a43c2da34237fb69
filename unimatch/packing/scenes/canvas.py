"""An image and its label that polygons are painted on, and the shapes of which everything is made."""

from __future__ import annotations

import cv2
import numpy as np

import unimatch.codecs  # noqa: F401 (sets the threads of OpenCV)
from unimatch import keyed
from unimatch.packing.scenes.classes import SKY


class Canvas:
    """An image and its label, painted back to front; coordinates are in supersampled pixels (x, y)."""

    def __init__(self, height: int, width: int, key: int) -> None:
        self.height, self.width = height, width
        self.image = np.zeros((height, width, 3), np.float32)
        self.label = np.full((height, width), SKY, np.uint8)
        cells = (2, 5, 12, 40)  # pixels a cell of value noise
        fields = [value_noise(keyed.key(key, cell), height, width, cell) for cell in cells]
        self.noise = np.stack(fields)  # [4, H, W], fine to coarse

    def paint(
        self,
        points: np.ndarray,
        class_id: int,
        color: np.ndarray,
        texture: tuple[float, ...] = (),
        haze: tuple[float, np.ndarray] | None = None,
    ) -> None:
        """Fills a polygon [N, 2]; brightness varies by `texture` times noise, finest grain first."""
        corners = np.round(points).astype(np.int32)
        x0, y0 = np.maximum(corners.min(axis=0), 0)
        x1, y1 = np.minimum(corners.max(axis=0) + 1, (self.width, self.height))
        if x0 >= x1 or y0 >= y1:
            return
        inside = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(inside, [corners - (x0, y0)], 1)
        mask = inside.astype(bool)
        area = np.s_[y0:y1, x0:x1]
        values: np.ndarray = np.broadcast_to(np.asarray(color, np.float32), (int(mask.sum()), 3))
        if any(texture):
            # A plain sum rather than a matrix product: BLAS adds in an order of its own.
            grain = sum(
                amount * field[area][mask] for amount, field in zip(texture, self.noise, strict=False)
            )
            values = values * (1 + np.asarray(grain)[:, None])
        if haze is not None and haze[0] > 0:
            values = values * (1 - haze[0]) + haze[1] * haze[0]
        self.image[area][mask] = values
        self.label[area][mask] = class_id


def value_noise(key: int, height: int, width: int, cell: int) -> np.ndarray:
    """float32 [height, width] in about [-1, 1]: smooth noise with grains of `cell` pixels."""
    rows, columns = height // cell + 2, width // cell + 2
    lattice = (keyed.uniform(key, rows * columns) * 2 - 1).astype(np.float32).reshape(rows, columns)
    return cv2.resize(lattice, (columns * cell, rows * cell), interpolation=cv2.INTER_CUBIC)[:height, :width]


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def gray(value: float) -> np.ndarray:
    return np.full(3, value, np.float32)


def ellipse(x: float, y: float, rx: float, ry: float, wobble: np.ndarray | None = None) -> np.ndarray:
    """A closed curve of 24 points; `wobble` [24] scales each radius."""
    angle = np.arange(24) * (2 * np.pi / 24)
    radius = 1.0 if wobble is None else wobble
    return np.stack([x + rx * radius * np.cos(angle), y + ry * radius * np.sin(angle)], axis=1)
