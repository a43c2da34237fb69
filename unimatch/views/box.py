"""The CutMix box of a strong view."""

from __future__ import annotations

import math
from dataclasses import dataclass

from unimatch.codecs.part import Rect
from unimatch.keyed import Draws
from unimatch.views.allowed import check, check_p

EMPTY_BOX = (0, 0, 0, 0)
# Rejection sampling of boxes takes below a thousand tries on average up to this fraction of the crop.
MAX_BOX_AREA = 0.8


@dataclass(frozen=True)
class BoxConfig:
    """The CutMix box of a strong view."""

    p: float = 0.5  # probability of a box at all
    area: tuple[float, float] = (0.02, 0.4)  # fraction of the crop, uniform in this range
    aspect: tuple[float, float] = (0.3, 1 / 0.3)  # height / width, uniform in this range

    def __post_init__(self) -> None:
        check_p("box.p", self.p)
        low, high = self.area
        check(0 < low <= high <= MAX_BOX_AREA, "box.area", self.area, f"0 < low <= high <= {MAX_BOX_AREA}")
        check(0 < self.aspect[0] <= self.aspect[1], "box.aspect", self.aspect, "0 < low <= high")
        squarest = min(max(1.0, self.aspect[0]), self.aspect[1])
        fits = high * max(squarest, 1 / squarest) <= MAX_BOX_AREA
        check(fits, "box.aspect", self.aspect, f"ranges with a shape in which a box of area {high} fits")


def draw_box(draws: Draws, config: BoxConfig, crop: int) -> Rect:
    """A CutMix box that lies inside the crop, EMPTY_BOX with probability 1 - p.

    The area is drawn once; aspect and corner are drawn again until the box fits, as in the reference. So the
    area keeps its law, and of two shapes the one with more places in the crop is the more frequent.
    """
    if not draws.bool(config.p):
        return EMPTY_BOX
    area = draws.uniform(*config.area) * crop * crop
    while True:
        aspect = draws.uniform(*config.aspect)
        width, height = int(math.sqrt(area / aspect)), int(math.sqrt(area * aspect))
        x, y = draws.integer(0, crop), draws.integer(0, crop)
        if x + width <= crop and y + height <= crop:
            # A box may round to nothing in a crop of a few pixels.
            return (x, y, x + width, y + height) if width and height else EMPTY_BOX
