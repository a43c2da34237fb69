"""A part of a stored image, decoded without the rest where the file allows it.

JPEG with restart markers (`restart.add_restarts`): the intervals under the rectangle are cut out, numbered
anew and put behind a header with the size of the part, which is a JPEG that any decoder reads. TIFF with
tiles (`tiles.encode`): the tiles under it. Other files are decoded whole.
"""

from __future__ import annotations

import struct

import cv2
import numpy as np
from numpy.typing import DTypeLike

from unimatch.codecs.decode import READ_IMAGE, decode_rgb, refuse_other_kind, whole_image
from unimatch.codecs.jpeg_layout import EOI, Layout, Unsuitable, read_layout
from unimatch.codecs.part import Part, Rect
from unimatch.codecs.tiles import SIGNATURE as TIFF_SIGNATURE
from unimatch.codecs.tiles import TiledImage
from unimatch.errors import DataError

# Above this share of the image cutting costs more than it saves.
WORTH = 0.9


def decode_part(data: bytes, rect: Rect, where: str) -> Part:
    """At least the pixels of `rect`, the same as those of the whole image. DataError as `decode_rgb`."""
    if data[:4] == TIFF_SIGNATURE:
        return decode_channels(data, rect, where, 3, np.uint8)
    if data[:2] == b"\xff\xd8":
        try:
            layout = read_layout(data)
        except (Unsuitable, struct.error, IndexError):
            return Part.whole(decode_rgb(data, where))
        rect = _inside(rect, layout.width, layout.height)
        area = (rect[2] - rect[0]) * (rect[3] - rect[1])
        if layout.interval and area < WORTH * layout.width * layout.height:
            header = whole_image(data, where)
            part = _jpeg_part(data, layout, rect)
            if part is not None and header.channels in (1, 3):
                return part
    return Part.whole(decode_rgb(data, where))


def decode_channels(data: bytes, rect: Rect, where: str, channels: int, dtype: DTypeLike) -> Part:
    """The same of a TIFF with tiles, of so many channels. DataError: of another kind, or damaged."""
    header = whole_image(data, where)
    if header.format != "tiff":
        raise DataError(
            f"{where}: a {header.format.upper()}, but this run reads {channels} channels as packing with "
            "`bands` stores them; use a set that was packed so"
        )
    try:
        image = TiledImage(data)
        refuse_other_kind(np.empty((1, 1, image.channels), image.type), channels, dtype, where)
        pixels, left, top = image.part(*_inside(rect, image.width, image.height))
    except (ValueError, struct.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{where}: the image is damaged ({error}); replace the file and pack again"
        ) from error
    return Part(pixels, left, top, image.width, image.height)


def _inside(rect: Rect, width: int, height: int) -> Rect:
    """What of `rect` lies in the image; all of the image if nothing does, as of one that another was taken
    for.
    """
    x0, y0, x1, y1 = max(rect[0], 0), max(rect[1], 0), min(rect[2], width), min(rect[3], height)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else (0, 0, width, height)


def _jpeg_part(data: bytes, layout: Layout, rect: Rect) -> Part | None:
    """The part; None where the restart intervals do not make columns, or the file is not what it says."""
    row, rows = layout.grid
    if row % layout.interval:
        return None
    count = row // layout.interval  # intervals in a row of MCUs
    coded = np.frombuffer(data, np.uint8)
    escapes = layout.scan + np.flatnonzero(coded[layout.scan : -1] == 0xFF)
    kinds = coded[escapes + 1]
    markers = escapes[(kinds >= 0xD0) & (kinds <= 0xD7)]
    end = escapes[kinds == EOI][:1]
    if len(markers) != count * rows - 1 or len(end) == 0:
        return None
    ends = np.concatenate([markers, end])  # where each interval ends, by a marker of two bytes
    starts = np.concatenate([[layout.scan], markers + 2])

    width, height = layout.mcu[0] * layout.interval, layout.mcu[1]
    # One MCU more all round: the interpolation of the colour planes looks at the neighbouring sample.
    spare = layout.mcu if len(layout.components) > 1 else (0, 0)
    x0, x1 = max(rect[0] - spare[0], 0) // width, min(-(-(rect[2] + spare[0]) // width), count)
    y0, y1 = max(rect[1] - spare[1], 0) // height, min(-(-(rect[3] + spare[1]) // height), rows)
    left, top = x0 * width, y0 * height
    right, bottom = min(x1 * width, layout.width), min(y1 * height, layout.height)

    numbers = np.arange(y0, y1)[:, None] * count + np.arange(x0, x1)
    begins = starts[numbers[:, 0]]
    lasts = ends[numbers[:, -1]] + 2
    head = bytearray(data[: layout.scan])
    struct.pack_into(">HH", head, layout.frame + 5, bottom - top, right - left)
    pieces = [data[begin:last] for begin, last in zip(begins.tolist(), lasts.tolist(), strict=True)]
    made = np.frombuffer(bytearray().join([head, *pieces]), np.uint8)
    moved = len(head) + np.cumsum(lasts - begins) - lasts  # what to add to a place in each row of MCUs
    places = (ends[numbers] + moved[:, None]).ravel()
    made[places + 1] = 0xD0 + np.arange(len(places)) % 8
    made[places[-1] + 1] = EOI

    pixels = cv2.imdecode(made, READ_IMAGE)
    if pixels is None or pixels.shape != (bottom - top, right - left, 3):
        return None
    x, y = (spare[0] if x0 else 0), (spare[1] if y0 else 0)
    x_end = pixels.shape[1] - (spare[0] if x1 < count else 0)
    y_end = pixels.shape[0] - (spare[1] if y1 < rows else 0)
    return Part(pixels[y:y_end, x:x_end], left + x, top + y, layout.width, layout.height)
