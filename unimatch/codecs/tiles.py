"""Lossless images of which a part can be read quickly: TIFF with zstd tiles (TIFF 6.0, sections 14 and 15).

PNG is one stream that must be inflated from its start, at 200 MB of pixels a second. A tile is found by an
offset, and differences to the pixel on the left (predictor 2) compress by zstd to PNG's size, but come back
four times as fast. libtiff since 4.0.10, and so Pillow, tifffile and GDAL read these files; OpenCV's own
build does not. Images of RGB and 8 bits, or of any number of channels of 8 or 16 bits.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import zstandard

from unimatch.codecs.compiled import AVAILABLE, compiled

SIGNATURE = b"II*\0"
TILE = 128  # pixels a side; a multiple of 16 by the standard
LEVEL = 1  # higher levels save 3 % and decode no faster
ZSTD, GREY, RGB, CHUNKY, HORIZONTAL = 50000, 1, 2, 1, 2
UNSPECIFIED = 0  # what a channel beyond those of the photometric interpretation is
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES = 256, 257, 258, 259, 262, 277
PLANAR, PREDICTOR, TILE_WIDTH, TILE_HEIGHT, OFFSETS, SIZES = 284, 317, 322, 323, 324, 325
EXTRA = 338
SHORT, LONG = 3, 4
TYPES: dict[int, type[np.unsignedinteger]] = {8: np.uint8, 16: np.uint16}


def encode(image: np.ndarray) -> bytes:
    """The file of uint8 or uint16 [H, W, C], three channels being RGB; the same bytes for the same pixels and
    version of zstd.
    """
    height, width, channels = image.shape
    bits = 8 * image.dtype.itemsize
    assert image.dtype == TYPES.get(bits), image.dtype
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
    tiles = []
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            part = image[y : y + TILE, x : x + TILE]
            below, right = TILE - part.shape[0], TILE - part.shape[1]
            tile = np.pad(part, ((0, below), (0, right), (0, 0)), "edge")  # padding costs nothing
            tile[:, 1:] -= tile[:, :-1].copy()
            tiles.append(compressor.compress(tile.astype(tile.dtype.newbyteorder("<"), copy=False).tobytes()))
    sizes = [len(tile) for tile in tiles]
    count = len(tiles)
    fields = [
        (WIDTH, LONG, [width]),
        (HEIGHT, LONG, [height]),
        (BITS, SHORT, [bits] * channels),
        *((tag, SHORT, [value]) for tag, value in required(channels).items()),
        (TILE_WIDTH, LONG, [TILE]),
        (TILE_HEIGHT, LONG, [TILE]),
        (OFFSETS, LONG, [0] * count),
        (SIZES, LONG, sizes),
    ]
    more = channels - (3 if channels == 3 else 1)
    if more:
        fields.append((EXTRA, SHORT, [UNSPECIFIED] * more))
    values_at = 8 + 2 + 12 * len(fields) + 4
    lengths = [len(numbers) * (2 if kind == SHORT else 4) for _, kind, numbers in fields]
    first = values_at + sum(length + -length % 4 for length in lengths if length > 4)
    offsets = (first + np.cumsum([0, *sizes[:-1]])).tolist()
    entries, values = [], b""
    for tag, kind, numbers in fields:
        packed = struct.pack(f"<{len(numbers)}{'H' if kind == SHORT else 'I'}", *numbers)
        if tag == OFFSETS:
            packed = struct.pack(f"<{count}I", *offsets)
        if len(packed) > 4:
            place = struct.pack("<I", values_at + len(values))
            values += packed + bytes(-len(packed) % 4)
        else:
            place = packed.ljust(4, b"\0")
        entries.append(struct.pack("<HHI", tag, kind, len(numbers)) + place)
    head = SIGNATURE + struct.pack("<IH", 8, len(fields)) + b"".join(entries) + bytes(4)
    return b"".join([head, values.ljust(first - values_at, b"\0"), *tiles])


def required(channels: int) -> dict[int, int]:
    """The tags that say how these files are made."""
    color = RGB if channels == 3 else GREY
    return {COMPRESSION: ZSTD, PHOTOMETRIC: color, SAMPLES: channels, PLANAR: CHUNKY, PREDICTOR: HORIZONTAL}


class Format(NamedTuple):
    """Size and kind of an image; `bits` a channel."""

    width: int
    height: int
    channels: int
    bits: int


def read_format(head: bytes) -> Format:
    """The format from the first bytes of a file. ValueError, KeyError or struct.error: not of `encode`'s
    kind.
    """
    fields = _read_fields(head, but=(OFFSETS, SIZES))
    (channels,), bits = fields[SAMPLES], fields[BITS]
    wanted = required(channels)
    found = {tag: tuple(fields.get(tag, ())) for tag in wanted}
    alike = len(bits) == channels and bits[0] in TYPES and set(bits) == {bits[0]}
    if found != {tag: (value,) for tag, value in wanted.items()} or not alike:
        raise ValueError("not channels of 8 or 16 bits in zstd tiles with horizontal differences")
    return Format(fields[WIDTH][0], fields[HEIGHT][0], channels, bits[0])


def _read_fields(data: bytes, but: tuple[int, ...] = ()) -> dict[int, tuple[int, ...]]:
    """The numbers of each tag that has integers."""
    if data[:4] != SIGNATURE:
        raise ValueError("not a little-endian TIFF")
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    result = {}
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from("<HHI", data, at)
        if kind in (SHORT, LONG) and tag not in but:
            inline = number * (2 if kind == SHORT else 4) <= 4
            place = at + 8 if inline else struct.unpack_from("<I", data, at + 8)[0]
            result[tag] = struct.unpack_from(f"<{number}{'H' if kind == SHORT else 'I'}", data, place)
    return result


def is_whole(data: bytes) -> bool:
    """Whether all tiles are there."""
    try:
        image = TiledImage(data)
    except (ValueError, KeyError, struct.error):
        return False
    return max(map(sum, zip(image.offsets, image.sizes, strict=True))) <= len(data)


class TiledImage:
    """The file's layout. ValueError or struct.error: not a file of `encode`'s kind, or cut short."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.width, self.height, self.channels, bits = read_format(data)
        self.type = np.dtype(TYPES[bits])
        fields = _read_fields(data)
        (self.tile_width,), (self.tile_height,) = fields[TILE_WIDTH], fields[TILE_HEIGHT]
        if not (self.width and self.height and self.tile_width and self.tile_height):
            raise ValueError("no pixels")
        self.offsets, self.sizes = fields[OFFSETS], fields[SIZES]
        self.across = -(-self.width // self.tile_width)
        if not len(self.offsets) == len(self.sizes) == self.across * -(-self.height // self.tile_height):
            raise ValueError("another number of tiles than the size asks for")

    def part(self, left: int, top: int, right: int, bottom: int) -> tuple[np.ndarray, int, int]:
        """([h, w, C], its left, its top): the tiles under a rectangle. ValueError: a damaged tile."""
        x0, y0 = left // self.tile_width, top // self.tile_height
        x1, y1 = -(-right // self.tile_width), -(-bottom // self.tile_height)
        tile_size = (self.tile_height, self.tile_width, self.channels)
        size = ((y1 - y0) * self.tile_height, (x1 - x0) * self.tile_width, self.channels)
        pixels = np.empty(size, self.type)
        stored_as = self.type.newbyteorder("<")
        add_up = _add_up if (self.channels, self.type) == (3, np.uint8) else _add_up_any
        decompressor = zstandard.ZstdDecompressor()
        for y in range(y0, y1):
            for x in range(x0, x1):
                number = y * self.across + x
                start = self.offsets[number]
                stored = memoryview(self.data)[start : start + self.sizes[number]]
                try:
                    raw = decompressor.decompress(stored)
                except zstandard.ZstdError as error:
                    raise ValueError(f"tile {number}: {error}") from error
                tile = np.frombuffer(raw, stored_as).reshape(tile_size)  # ValueError: another size
                row, column = (y - y0) * self.tile_height, (x - x0) * self.tile_width
                place = pixels[row : row + self.tile_height, column : column + self.tile_width]
                if AVAILABLE:
                    add_up(tile, place)
                else:
                    np.add.accumulate(tile, axis=1, dtype=self.type, out=place)
        left, top = x0 * self.tile_width, y0 * self.tile_height
        return pixels[: self.height - top, : self.width - left], left, top


@compiled
def _add_up(tile: np.ndarray, out: np.ndarray) -> None:
    """out[:, x] = the sum of tile[:, 0] to tile[:, x], modulo 256."""
    for y in range(tile.shape[0]):
        red, green, blue = 0, 0, 0
        for x in range(tile.shape[1]):
            red += tile[y, x, 0]
            green += tile[y, x, 1]
            blue += tile[y, x, 2]
            out[y, x, 0] = red & 255
            out[y, x, 1] = green & 255
            out[y, x, 2] = blue & 255


@compiled
def _add_up_any(tile: np.ndarray, out: np.ndarray) -> None:
    """The same of any number of channels of 8 or 16 bits, modulo 2 to the power of these."""
    for y in range(tile.shape[0]):
        for c in range(tile.shape[2]):
            total = 0
            for x in range(tile.shape[1]):
                total += tile[y, x, c]
                out[y, x, c] = total
