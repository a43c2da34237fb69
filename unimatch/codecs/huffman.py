"""The Huffman tables of a JPEG: read into codes, or made for symbols (ITU-T T.81, sections C and K)."""

from __future__ import annotations

import heapq

import numpy as np

LONGEST_CODE = 16


def code_of_symbol(sizes: bytes, values: bytes) -> dict[int, tuple[int, int]]:
    """Symbol to (code, length): codes count up, and are doubled where they become longer."""
    result, code, place = {}, 0, 0
    for length, count in enumerate(sizes, 1):
        for value in values[place : place + count]:
            result[value] = (code, length)
            code += 1
        place += count
        code <<= 1
    return result


def fill_lookup(lookup: np.ndarray, sizes: bytes, values: bytes) -> None:
    """For each 16 bits that may come: length of the code at their start << 8 | its symbol; 0: none."""
    for value, (code, length) in code_of_symbol(sizes, values).items():
        rest = LONGEST_CODE - length
        lookup[code << rest : (code + 1) << rest] = length << 8 | value


def optimal_table(counts: np.ndarray) -> tuple[bytes, bytes]:
    """How many codes of each length 1 to 16, and the symbols by length, for symbols that occur so often.

    Huffman's tree, then the longest codes are shortened to 16 bits as in section K.2. One more symbol that is
    rarer than all takes the code of ones only, which the standard forbids.
    """
    trees = [(int(count), 256 - symbol, [symbol]) for symbol, count in enumerate(counts) if count]
    trees.append((0, -1, [256]))
    heapq.heapify(trees)
    depth = np.zeros(257, np.int64)
    while len(trees) > 1:
        first, second = heapq.heappop(trees), heapq.heappop(trees)
        members = first[2] + second[2]
        depth[members] += 1
        heapq.heappush(trees, (first[0] + second[0], max(first[1], second[1]), members))
    sizes = np.bincount(depth[depth > 0], minlength=64)
    for length in range(len(sizes) - 1, LONGEST_CODE, -1):
        while sizes[length]:
            shorter = length - 2
            while not sizes[shorter]:
                shorter -= 1
            sizes[length] -= 2
            sizes[length - 1] += 1
            sizes[shorter + 1] += 2
            sizes[shorter] -= 1
    sizes[int(np.flatnonzero(sizes)[-1])] -= 1  # the extra symbol
    # Ties in length by symbol; the rarest are last, as the tree made them deepest.
    order = sorted(
        np.flatnonzero(counts).tolist(), key=lambda symbol: (depth[symbol], -counts[symbol], symbol)
    )
    return bytes(sizes[1 : LONGEST_CODE + 1].tolist()), bytes(order)
