"""What predict writes: pictures, of large images a few rows at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from unimatch.codecs.encode import png
from unimatch.codecs.picture import STRIPE
from unimatch.codecs.png_rows import write_png_rows

LARGE = 1 << 24  # pixels of a picture that is made and written in parts
ROWS = 128 * STRIPE  # of a part; whole pairs of the stripes that mark what has no class

VOLUME = ".nii.gz"  # the one ending of two parts
Make = Callable[[slice], np.ndarray]
"""Rows of a picture: uint8 [h, W], or RGB [h, W, 3]."""


def picture_names(names: Sequence[Path], stems: bool) -> Callable[[Path], Path]:
    """The PNG that stands for each file: a.jpg.png of a.jpg, whatever lies beside it. With `stems` a.png;
    where another file would have it too, as a.png, each of them keeps its ending.
    """

    def full(name: Path) -> Path:
        return name.with_name(name.name + ".png")

    def short(name: Path) -> Path:
        return name.with_name(_stem(name.name) + ".png")

    if not stems:
        return full
    taken = Counter([*map(short, names), *map(full, names)])
    return lambda name: short(name) if taken[short(name)] == 1 else full(name)


def _stem(name: str) -> str:
    return name[: -len(VOLUME)] if name.lower().endswith(VOLUME) else Path(name).stem


def write_picture(path: Path, size: tuple[int, int], make: Make) -> None:
    """Writes the PNG file `path`, of `size`, height and width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = size
    if height * width <= LARGE:
        path.write_bytes(png(make(slice(0, height))))
        return
    parts = (make(slice(top, min(top + ROWS, height))) for top in range(0, height, ROWS))
    write_png_rows(path, size, parts)
