"""Bilinear resize of a part of an image straight into a crop, compiled: padded and mirrored in the same pass.

The taps are those of Pillow's BILINEAR filter, which widens where it shrinks; results differ from Pillow's by
one level at most. The three channels of a pixel lie in one 64-bit word, 21 bits each, so that a tap of the
horizontal pass is one multiplication. Only where `compiled.AVAILABLE`; `ops.resize_crop` does the same
without.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from unimatch.codecs.compiled import compiled

U = np.uint64
# Bits of the horizontal weights: with the 8 (enlarging) or 10 (shrinking) bits of a value they fill 21.
ENLARGE_BITS, SHRINK_BITS = 13, 11
VERTICAL_BITS = 14


def prepare() -> None:
    """Compile, or load what is compiled, now: once, before worker processes are forked."""
    image = np.zeros((4, 4, 3), np.uint8)
    for side in (3, 6):
        resize_into(np.zeros((2, 2, 3), np.uint8), image, (0, 0), (4, 4), (side, side), (0, 0, 2, 2), False)


def resize_into(
    out: np.ndarray,
    pixels: np.ndarray,
    origin: tuple[int, int],
    whole: tuple[int, int],
    size: tuple[int, int],
    region: tuple[int, int, int, int],
    flip: bool,
) -> None:
    """Write `region` of the image resized to `size` = (width, height) to the top left of `out`, or with
    `flip` mirrored to its top right.

    out: uint8 [S, S, 3]. pixels: uint8 [h, w, 3], a part of the image of `whole` = (width, height) that
    begins at `origin` = (left, top) and holds every pixel that the region needs.
    """
    assert out.flags.c_contiguous
    if pixels.strides[1:] != (3, 1) or pixels.strides[0] < 3 * pixels.shape[1]:
        pixels = np.ascontiguousarray(pixels)
    x0, y0, x1, y1 = region
    enlarging = size[0] >= whole[0] and size[1] >= whole[1]
    bits = ENLARGE_BITS if enlarging else SHRINK_BITS
    columns, across = taps(whole[0], size[0], x0, x1, bits, origin[0], pixels.shape[1])
    rows, down = taps(whole[1], size[1], y0, y1, VERTICAL_BITS, origin[1], pixels.shape[0])
    assert min(columns[0], rows[0]) >= 0, "the part does not hold what the region needs"
    left = 0
    if flip:
        columns, across, left = columns[::-1].copy(), across[::-1].copy(), out.shape[1] - len(columns)
    # One axis for numba, which then knows that the bytes of a row lie side by side.
    stride = pixels.strides[0]
    values = as_strided(pixels, ((len(pixels) - 1) * stride + 3 * pixels.shape[1],), (1,), writeable=False)
    (_enlarge if enlarging else _shrink)(values, stride, out, columns, across, rows, down, left)


@compiled
def taps(
    in_size: int, out_size: int, start: int, stop: int, bits: int, origin: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """For the outputs [start, stop) of a line: int64 [n], the first input less `origin`, and uint64 [n, k],
    the weights, which add up to 2**bits. Windows have one width and end within `length`, the inputs at hand.
    """
    step = in_size / out_size
    scale = max(step, 1.0)
    most = int(np.ceil(scale)) * 2 + 1
    number = stop - start
    first = np.zeros(number, np.int64)
    weights = np.zeros((number, most), np.int64)
    shares = np.zeros(most)
    width = min(2, length)
    for i in range(number):
        centre = (start + i + 0.5) * step
        low = max(int(centre - scale + 0.5), 0)
        high = min(int(centre + scale + 0.5), in_size)
        total = 0.0
        for j in range(high - low):
            shares[j] = 1.0 - abs((low + j - centre + 0.5) / scale)
            total += shares[j]
        rest, largest = 1 << bits, 0
        for j in range(high - low):
            weights[i, j] = int(shares[j] / total * (1 << bits) + 0.5)
            rest -= weights[i, j]
            if shares[j] > shares[largest]:
                largest = j
        weights[i, largest] += rest
        first[i] = low - origin
        width = max(width, high - low)
    result = np.zeros((number, width), np.uint64)
    for i in range(number):
        over = max(first[i] + width - length, 0)
        first[i] -= over
        for j in range(over, width):
            result[i, j] = weights[i, j - over]
    return first, result


@compiled
def _enlarge(
    values: np.ndarray,
    stride: int,
    out: np.ndarray,
    columns: np.ndarray,
    across: np.ndarray,
    rows: np.ndarray,
    down: np.ndarray,
    left: int,
) -> None:
    """Two taps an axis: each input row is widened once, then pairs of them are blended.

    Unsigned indices spare numba the test for negative ones.
    """
    number = len(columns)
    low = min(columns[0], columns[-1])
    used = max(columns[0], columns[-1]) + across.shape[1] - low
    places = np.empty(number, np.uint64)
    for j in range(number):
        places[j] = columns[j] - low
    here, there = across[:, 0].copy(), across[:, across.shape[1] - 1].copy()
    if across.shape[1] == 1:
        there[:] = 0
    packed = np.zeros(used + 1, np.uint64)
    wide = np.zeros((2, 3 * number), np.uint16)
    held = np.full(2, -1)
    # To 7 bits below a level, halves up.
    half = U(32) | (U(32) << U(21)) | (U(32) << U(42))
    mask = U(0x7FFF)
    step = down.shape[1] - 1
    for i in range(len(rows)):
        for k in range(step + 1):
            row = rows[i] + k
            if held[row & 1] == row:
                continue
            held[row & 1] = row
            source = values[row * stride + 3 * low : row * stride + 3 * (low + used)]
            at = U(0)
            for j in range(used):
                red, green, blue = U(source[at]), U(source[at + U(1)]), U(source[at + U(2)])
                packed[U(j)] = red | (green << U(21)) | (blue << U(42))
                at += U(3)
            target = wide[row & 1]
            at = U(0)
            for j in range(number):
                place = places[U(j)]
                value = packed[place] * here[U(j)] + packed[place + U(1)] * there[U(j)] + half
                target[at] = (value >> U(6)) & mask
                target[at + U(1)] = (value >> U(27)) & mask
                target[at + U(2)] = (value >> U(48)) & mask
                at += U(3)
        # High halves of 16-bit products, eight or more of which a processor makes at once.
        upper = np.uint32(min(down[i, 0] << U(2), U(65535)))
        lower = np.uint32(min(down[i, step] << U(2), U(65535))) if step else np.uint32(0)
        above, below = wide[rows[i] & 1], wide[(rows[i] + step) & 1]
        line = out[i].reshape(-1)[3 * left : 3 * (left + number)]
        for j in range(3 * number):
            first = np.uint16((np.uint32(above[j]) * upper) >> np.uint32(16))
            second = np.uint16((np.uint32(below[j]) * lower) >> np.uint32(16))
            line[j] = np.uint16(first + second + np.uint16(65)) >> np.uint16(7)


@compiled
def _shrink(
    values: np.ndarray,
    stride: int,
    out: np.ndarray,
    columns: np.ndarray,
    across: np.ndarray,
    rows: np.ndarray,
    down: np.ndarray,
    left: int,
) -> None:
    """Any number of taps: the rows under an output row are summed, then its columns."""
    number, width = across.shape
    low = min(columns[0], columns[-1])
    used = max(columns[0], columns[-1]) + width - low
    packed = np.zeros(used, np.uint64)
    total = np.zeros(3 * used, np.int32)
    places = np.empty(number, np.uint64)
    for j in range(number):
        places[j] = columns[j] - low
    half = U(4096) | (U(4096) << U(21)) | (U(4096) << U(42))
    mask = U(255)
    for i in range(len(rows)):
        total[:] = 2048  # 2 bits below a level remain, halves up
        for k in range(down.shape[1]):
            weight = np.int32(down[i, k])
            begin = (rows[i] + k) * stride + 3 * low
            source = values[begin : begin + 3 * used]
            for j in range(3 * used):
                total[j] += np.int32(source[j]) * weight
        at = U(0)
        for j in range(used):
            packed[U(j)] = (
                U(total[at] >> 12)
                | (U(total[at + U(1)] >> 12) << U(21))
                | (U(total[at + U(2)] >> 12) << U(42))
            )
            at += U(3)
        line = out[i].reshape(-1)[3 * left : 3 * (left + number)]
        at = U(0)
        for j in range(number):
            place = places[U(j)]
            value = half
            for k in range(width):
                value += packed[place + U(k)] * across[U(j), U(k)]
            line[at] = (value >> U(13)) & mask
            line[at + U(1)] = (value >> U(34)) & mask
            line[at + U(2)] = (value >> U(55)) & mask
            at += U(3)
