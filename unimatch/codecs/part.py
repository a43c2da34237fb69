"""A rectangle of an image's pixels, and where in the image it lies: what views are made from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

Rect = tuple[int, int, int, int]  # x0, y0, x1, y1 with x1 and y1 exclusive


@dataclass(frozen=True)
class Part:
    """Pixels of an image, [..., h, w, C], whose first is (left, top) of the whole of width x height."""

    pixels: np.ndarray
    left: int
    top: int
    width: int
    height: int

    @classmethod
    def whole(cls, pixels: np.ndarray) -> Part:
        height, width = pixels.shape[-3:-1]
        return cls(pixels, 0, 0, width, height)

    def cut(self, rect: Rect) -> Part:
        """The pixels of `rect`, which it covers."""
        x0, y0, x1, y1 = rect
        rows, columns = slice(y0 - self.top, y1 - self.top), slice(x0 - self.left, x1 - self.left)
        return replace(self, pixels=self.pixels[..., rows, columns, :], left=x0, top=y0)

    def covers(self, rect: Rect) -> bool:
        height, width = self.pixels.shape[-3:-1]
        return (
            self.left <= rect[0]
            and self.top <= rect[1]
            and rect[2] <= self.left + width
            and rect[3] <= self.top + height
        )


def as_part(image: Part | np.ndarray) -> Part:
    """`image` itself, or all pixels of an array."""
    return image if isinstance(image, Part) else Part.whole(image)


def around(first: Rect, second: Rect) -> Rect:
    """The smallest rectangle that holds both."""
    low = min(first[0], second[0]), min(first[1], second[1])
    return *low, max(first[2], second[2]), max(first[3], second[3])
