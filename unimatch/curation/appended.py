"""Numbers of many images in a file, block by block: one that was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

BLOCK = 4096  # images between two writes


def appended(
    path: Path, total: int, width: int, dtype: type, make: Callable[[np.ndarray], np.ndarray], doing: str
) -> np.ndarray:
    """[total, width] of the file, of which `make` gives those of some places (int64 [n]) that it lacks."""
    size = width * np.dtype(dtype).itemsize
    with open(path, "ab") as file:
        done = file.tell() // size
        file.truncate(done * size)
        with tqdm(total=total, initial=done, unit="image", desc=doing, disable=None) as bar:
            for start in range(done, total, BLOCK):
                places = np.arange(start, min(start + BLOCK, total))
                file.write(np.ascontiguousarray(make(places), dtype).tobytes())
                file.flush()
                bar.update(len(places))
    return np.fromfile(path, dtype, count=total * width).reshape(total, width)
