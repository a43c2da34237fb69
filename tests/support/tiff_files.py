"""TIFF files as other programs write them, which Pillow itself would not."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

UNSIGNED, SIGNED, FLOAT = 1, 2, 3


def tiff_bytes(
    values: np.ndarray,
    bits: int,
    number: int = UNSIGNED,
    *,
    photometric: int = 1,
    extra: Sequence[int] = (),
    big_endian: bool = False,
    data: bytes | None = None,
) -> bytes:
    """One uncompressed strip of [H, W] or [H, W, bands] with the array's own bytes, or with `data`."""
    end = ">" if big_endian else "<"
    height, width = values.shape[:2]
    bands = 1 if values.ndim == 2 else values.shape[2]
    order = values.dtype.newbyteorder("big" if big_endian else "little")
    body = values.astype(order).tobytes() if data is None else data
    tags = {256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * bands), 259: (3, [1])}
    tags |= {262: (3, [photometric]), 273: (4, [0]), 277: (3, [bands]), 278: (4, [height])}
    tags |= {279: (4, [len(body)]), 339: (3, [number] * bands)}
    if extra:
        tags[338] = (3, list(extra))
    start = 8 + 2 + 12 * len(tags) + 4
    blob = b""
    entries: list[tuple[int, int, int, bytes]] = []
    for tag, (kind, numbers) in sorted(tags.items()):
        packed = struct.pack(f"{end}{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(packed) > 4:
            place = struct.pack(f"{end}I", start + len(blob))
            blob += packed + bytes(len(packed) % 2)
        else:
            place = packed.ljust(4, b"\0")
        entries.append((tag, kind, len(numbers), place))
    strip = struct.pack(f"{end}I", start + len(blob))
    head = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(f"{end}IH", 8, len(entries))
    fields = b"".join(
        struct.pack(f"{end}HHI", tag, kind, count) + (strip if tag == 273 else place)
        for tag, kind, count, place in entries
    )
    return head + fields + bytes(4) + blob + body
