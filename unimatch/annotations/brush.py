"""The run-length code of Label Studio's brush: that of the package rle-pack, over a picture's RGBA bytes.

After 32 bits of the number of bytes, 5 of a word's size and four times 4 of the sizes of counts, each less
one, follow blocks: a bit (1: one word repeated, 0: so many words), 2 bits that choose the size of the count,
the count less one, and the words. Source: https://github.com/thi-ng/umbrella, packages/rle-pack.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unimatch.errors import DataError

CHANNELS = 4
WORD, SIZES = 8, (3, 4, 8, 16)  # bits of a word, and of counts, of what is written


class _Bits:
    """Reads unsigned numbers of a few bits each."""

    def __init__(self, data: bytes) -> None:
        self._text = bin(int.from_bytes(b"\1" + data, "big"))[3:]
        self._at = 0

    def take(self, count: int) -> int:
        end = self._at + count
        if end > len(self._text):
            raise DataError("its brush code ends too early")
        value = int(self._text[self._at : end], 2)
        self._at = end
        return value

    def words(self, size: int, count: int) -> np.ndarray:
        """uint8 [count] of words of `size` bits."""
        end = self._at + size * count
        if end > len(self._text):
            raise DataError("its brush code ends too early")
        bits = np.frombuffer(self._text[self._at : end].encode(), np.uint8).reshape(count, size) - ord("0")
        self._at = end
        return np.packbits(bits, axis=1)[:, 0] >> (8 - size)


def decode(code: Sequence[int], height: int, width: int) -> np.ndarray:
    """bool [H, W]: where the brush left something, however faint. DataError: no such code, or of another
    size."""
    try:
        bits = _Bits(bytes(code))
    except (ValueError, TypeError) as error:
        raise DataError(f"its brush code is no list of bytes: {error}") from error
    total, word = bits.take(32), bits.take(5) + 1
    if total != height * width * CHANNELS:
        raise DataError(
            f"its brush code is of {total} bytes, a picture of {width}x{height} has "
            f"{height * width * CHANNELS}"
        )
    if word > 8:
        raise DataError(f"its brush code has words of {word} bits")
    sizes = [bits.take(4) + 1 for _ in range(4)]
    values, at = np.zeros(total, np.uint8), 0
    while at < total:
        repeated = bits.take(1)
        count = bits.take(sizes[bits.take(2)]) + 1
        if at + count > total:
            raise DataError("its brush code is longer than the picture")
        values[at : at + count] = bits.take(word) if repeated else bits.words(word, count)
        at += count
    return values.reshape(height, width, CHANNELS)[..., 3] > 0


def encode(mask: np.ndarray) -> list[int]:
    """The code of a bool [H, W], which `decode` gives back: white where it is True."""
    flat = mask.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    text = [f"{flat.size * CHANNELS:032b}", f"{WORD - 1:05b}", *(f"{one - 1:04b}" for one in SIZES)]
    for start, end in zip([0, *edges.tolist()], [*edges.tolist(), flat.size], strict=True):
        value, left = (f"{255 * int(flat[start]):08b}"), (end - start) * CHANNELS
        while left:
            count = min(left, 1 << SIZES[-1])
            which = next(place for place, size in enumerate(SIZES) if count <= 1 << size)
            text.append(f"1{which:02b}{count - 1:0{SIZES[which]}b}{value}")
            left -= count
    bits = "".join(text)
    bits += "0" * (-len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8, "big"))
