"""The laws of rectangles that methods ask for by name, each with the source of its numbers.

Every draw gives the same number of rectangles (x0, y0, x1, y1) inside a square crop, ends excluded; one of no
size is empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from unimatch.codecs.part import Rect
from unimatch.keyed import Draws
from unimatch.views.box import BoxConfig, draw_box


def _uniform_place(draws: Draws, width: float, height: float, crop: int) -> Rect:
    """A rectangle of this size with a uniform place inside the crop."""
    wide, high = (max(1, min(crop, round(side))) for side in (width, height))
    x, y = draws.integer(0, crop - wide + 1), draws.integer(0, crop - high + 1)
    return x, y, x + wide, y + high


def _clipped(draws: Draws, side: float, low: float, crop: int) -> Rect:
    """A square whose centre is uniform in [low * crop, crop) of either axis, clipped to the crop."""
    half = round(side * crop) // 2
    x, y = (draws.integer(int(low * crop), crop) for _ in range(2))
    return max(x - half, 0), max(y - half, 0), min(x + half, crop), min(y + half, crop)


def _beta(draws: Draws, a: int, b: int) -> float:
    """Beta(a, b) of whole a and b: the a-th smallest of a + b - 1 uniform numbers."""
    return sorted(draws.uniform() for _ in range(a + b - 1))[a - 1]


def _shared(draws: Draws, area: float, count: int, crop: int) -> list[Rect]:
    """`count` rectangles of this area together, their aspects log-uniform."""
    height = math.exp(draws.uniform() * math.log(area))
    each = math.sqrt(1.0 / count) * crop
    return [_uniform_place(draws, area / height * each, height * each, crop) for _ in range(count)]


def _three(draws: Draws, crop: int) -> list[Rect]:
    return _shared(draws, draws.uniform(0.25, 0.5), 3, crop)


LAWS: dict[str, Callable[[Draws, int], list[Rect]]] = {
    # Half of the area, aspect log-uniform: CutMix mean teacher, U2PL.
    "half": lambda draws, crop: _shared(draws, 0.5, 1, crop),
    # Three of one size, a quarter to a half of the area together: CPS with CutMix, PS-MT on Cityscapes.
    "three": _three,
    # A square of side sqrt(1 - l), l ~ Beta(4, 4), or Beta(8, 2) for labelled crops: AugSeg, PS-MT on Pascal.
    "beta": lambda draws, crop: [_clipped(draws, math.sqrt(1.0 - _beta(draws, 4, 4)), 1 / 8, crop)],
    "beta_labeled": lambda draws, crop: [_clipped(draws, math.sqrt(1.0 - _beta(draws, 8, 2)), 1 / 8, crop)],
    # A square of side uniform in 0.1 to 0.9: iMAS.
    "side": lambda draws, crop: [_clipped(draws, draws.uniform(0.1, 0.9), 1 / 16, crop)],
    # A square of two thirds of the side: BCP.
    "two_thirds": lambda draws, crop: [_uniform_place(draws, crop * 2 / 3, crop * 2 / 3, crop)],
    # The square that is cut out, 100 of 513 pixels a side: PseudoSeg.
    "cutout": lambda draws, crop: [_clipped(draws, 100 / 513, 0.0, crop)],
    # The rectangle that is cut out of every second image: ST.
    "cutout_half": lambda draws, crop: [draw_box(draws, BoxConfig(), crop)],
}


def draw_boxes(draws: Draws, law: str, crop: int) -> list[Rect]:
    """The rectangles of a law for a crop of this side; KeyError for a name that is none."""
    return LAWS[law](draws, crop)
