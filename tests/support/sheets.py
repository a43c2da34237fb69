"""Where the pictures of a sheet are."""

from __future__ import annotations

import numpy as np

from unimatch.codecs.sheet import BREAK, GAP, LINE, MARGIN


def tiles_of(
    sheet: np.ndarray, rows: int, columns: int, side: int, captions: bool = False
) -> list[list[np.ndarray]]:
    """The tiles [side, side, 3], row by row, of a sheet of square ones under one line of titles."""
    above = LINE if captions else 0
    tops = [MARGIN + LINE + row * (above + side + BREAK - GAP) + above for row in range(rows)]
    lefts = [MARGIN + column * (side + GAP) for column in range(columns)]
    return [[sheet[top : top + side, left : left + side] for left in lefts] for top in tops]
