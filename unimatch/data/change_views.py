"""The views of a pair of dates: what natural images have, with one geometry for both dates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unimatch import keyed
from unimatch.data.views import Geometry, NaturalViews, ViewConfig, draw_colors
from unimatch.keyed import Draws


@dataclass(frozen=True)
class ChangeViewConfig(ViewConfig):
    """Weak and strong views of pairs of dates; the defaults are the published ones.

    All strong views change the colours of each date by itself, as seasons and cameras do. The published ones
    never take them away: `gray` is 0.
    """

    scale: tuple[float, float] = (0.8, 1.2)  # resized long side, uniform in this range times the image's own
    gray: float = 0.0  # probability that a date of a strong view loses its colour


class ChangeViews(NaturalViews):
    """NaturalViews of uint8 [2, H, W, 3]: every image among the views gets an axis of 2 dates before H.

    Crop, flip and box are drawn once for both dates, so that a pixel stays the same place and a change a
    change. Colours and blur are drawn for each date by its own key.
    """

    def warped(self, image: np.ndarray, geometry: Geometry) -> np.ndarray:
        return np.stack([geometry.image(date) for date in image])

    def colored(self, weak: np.ndarray, key: int) -> np.ndarray:
        colors = [draw_colors(Draws(keyed.key(key, date)), self.config) for date in range(len(weak))]
        return np.stack([one.apply(date) for one, date in zip(colors, weak, strict=True)])
