"""The crop of a photograph: what is drawn for one, and the pixels and labels that it shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unimatch.codecs.part import Part, Rect, as_part
from unimatch.keyed import Draws
from unimatch.taxonomy import IGNORE_INDEX
from unimatch.views import bands, ops


@dataclass(frozen=True)
class Geometry:
    """A crop: `region` of the image resized to `size`, padded right and below to `crop`, then flipped."""

    crop: int
    size: tuple[int, int]  # width, height of the whole resized image
    region: Rect  # in the resized image
    flip: bool

    @property
    def content(self) -> Rect:
        """The pixels of the crop that show image rather than padding."""
        width, height = self.region[2] - self.region[0], self.region[3] - self.region[1]
        left = self.crop - width if self.flip else 0
        return left, 0, left + width, height

    def source(self, width: int, height: int) -> Rect:
        """The pixels that are read of an image of this size."""
        return ops.source(width, height, self.size, self.region)

    def image(self, image: Part | np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """[crop, crop, C], `out` if given, of an image or what `source` says of it; padding is 0."""
        part = as_part(image)
        channels, dtype = part.pixels.shape[-1], part.pixels.dtype
        out = np.empty((self.crop, self.crop, channels), dtype) if out is None else out
        crop_into = ops.crop_into if bands.is_rgb(channels, dtype) else bands.crop_into
        crop_into(out, part, self.size, self.region, self.flip)
        return out

    def label(self, label: np.ndarray) -> np.ndarray:
        """uint8 [crop, crop] of uint8 [H, W]; padding is IGNORE_INDEX."""
        cropped = ops.resize_crop_nearest(label, self.size, self.region)
        return ops.pad_flip(cropped, self.crop, IGNORE_INDEX, self.flip)


def draw_geometry(
    draws: Draws, width: int, height: int, crop: int, scale: tuple[float, float], flip: float
) -> Geometry:
    """Long side a uniform integer (both ends included), crop uniform over its places, flip."""
    long_side = max(width, height)
    low, high = int(long_side * scale[0]), int(long_side * scale[1])
    size = ops.resized_size(width, height, max(draws.integer(low, high + 1), 1))
    x = draws.integer(0, max(size[0] - crop, 0) + 1)
    y = draws.integer(0, max(size[1] - crop, 0) + 1)
    region = (x, y, min(x + crop, size[0]), min(y + crop, size[1]))
    return Geometry(crop, size, region, draws.bool(flip))
