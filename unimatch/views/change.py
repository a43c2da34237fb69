"""The views of a pair of dates: what natural images have, with one geometry for both dates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from unimatch import keyed
from unimatch.codecs.part import Part
from unimatch.views.crop import Geometry
from unimatch.views.natural import NaturalViews, ViewConfig

DATES = 2


@dataclass(frozen=True)
class ChangeViewConfig(ViewConfig):
    """Weak and strong views of pairs of dates; the defaults are the published ones.

    All strong views change the colours of each date by itself, as seasons and cameras do. The published ones
    never take them away: `gray` is 0.
    """

    scale: tuple[float, float] = (0.8, 1.2)  # resized long side, uniform in this range times the image's own
    gray: float = 0.0  # probability that a date of a strong view loses its colour


class ChangeViews(NaturalViews):
    """NaturalViews of [2, H, W, C]: every image among the views gets an axis of 2 dates before H.

    Crop, flip and box are drawn once for both dates, so that a pixel stays the same place and a change a
    change. Colours and blur are drawn for each date by its own key.
    """

    def warped(self, image: Part, placement: Geometry, out: np.ndarray | None) -> np.ndarray:
        crop = self.config.crop
        shape = (len(image.pixels), crop, crop, image.pixels.shape[-1])
        out = np.empty(shape, image.pixels.dtype) if out is None else out
        for date, pixels in enumerate(image.pixels):
            placement.image(replace(image, pixels=pixels), out[date])
        return out

    def colored(self, weak: np.ndarray, key: int, out: np.ndarray) -> None:
        for date, pixels in enumerate(weak):
            super().colored(pixels, keyed.key(key, date), out[date])

    def color_row(self, key: int, wanted: bool) -> np.ndarray:
        row = super().color_row
        return np.stack([row(keyed.key(key, date), wanted) for date in range(DATES)])
