"""What predict writes: pictures, of large images a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from unimatch.codecs.encode import png
from unimatch.codecs.picture import STRIPE
from unimatch.codecs.png_rows import write_png_rows

LARGE = 1 << 24  # pixels of a picture that is made and written in parts
ROWS = 128 * STRIPE  # of a part; whole pairs of the stripes that mark what has no class

Make = Callable[[slice], np.ndarray]
"""Rows of a picture: uint8 [h, W], or RGB [h, W, 3]."""


def write_picture(path: Path, size: tuple[int, int], make: Make) -> None:
    """Writes PATH.png of `size`, height and width."""
    # The suffix stays in the name: a.jpg and a.png in one folder are two results.
    path = path.with_name(path.name + ".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = size
    if height * width <= LARGE:
        path.write_bytes(png(make(slice(0, height))))
        return
    parts = (make(slice(top, min(top + ROWS, height))) for top in range(0, height, ROWS))
    write_png_rows(path, size, parts)
