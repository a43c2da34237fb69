"""PNG files written a few rows at a time, so that a picture need not be in memory whole (PNG, RFC 2083)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from unimatch.codecs.decode import PNG_SIGNATURE

LEVEL = 3  # as large as level 6 within a few percent, in half the time
GREY, RGB = 0, 2
NO_FILTER, SUB = 0, 1  # SUB: differences to the pixel on the left


def write_png_rows(path: Path, size: tuple[int, int], parts: Iterable[np.ndarray]) -> None:
    """Writes a picture of `size` (height, width) from its rows, top to bottom: uint8 [h, W] or RGB [h, W, 3].

    Grey, which ids are, is compressed as it is, colours as differences.
    """
    height, width = size
    compressor = zlib.compressobj(LEVEL)
    written, kind = 0, None
    with open(path, "wb") as file:
        for part in parts:
            if kind is None:
                kind = GREY if part.ndim == 2 else RGB
                file.write(
                    PNG_SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))
                )
            assert part.dtype == np.uint8 and part.shape[1:] == ((width,) if kind == GREY else (width, 3))
            rows = part.reshape(len(part), -1)
            lines = np.empty((len(part), rows.shape[1] + 1), np.uint8)
            lines[:, 0] = NO_FILTER if kind == GREY else SUB
            lines[:, 1:] = rows
            if kind == RGB:
                lines[:, 4:] -= rows[:, :-3]
            if data := compressor.compress(lines.tobytes()):
                file.write(_chunk(b"IDAT", data))
            written += len(part)
        assert written == height, f"{written} rows of {height}"
        file.write(_chunk(b"IDAT", compressor.flush()) + _chunk(b"IEND", b""))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
