"""Restart markers for JPEG files, added without a change to any coefficient (ITU-T T.81, sections B, F, K).

A baseline JPEG is one bit stream in which every block's mean is coded as the difference to the block before:
to decode the last row one decodes all rows. A restart marker starts the stream afresh. With one every few
blocks, and a whole number of them in each row, any rectangle can be cut out and decoded alone
(`decode.decode_part`), and every decoder still reads the file. The symbols are coded by new Huffman tables
made for them, which pays for the markers.
"""

from __future__ import annotations

import re
import struct

import numpy as np

from unimatch.codecs.compiled import compiled
from unimatch.codecs.huffman import LONGEST_CODE, code_of_symbol, fill_lookup, optimal_table
from unimatch.codecs.jpeg_layout import DHT, DRI, EOI, SOS, Layout, Unsuitable, read_layout, segments

MOST_BLOCKS = 10  # of an interleaved MCU
# Most pixels between two markers. Shorter intervals cut closer and cost 2 % of the bytes; the time to decode
# is the same for 16 to 128 pixels, 6 % above that of the file without markers.
INTERVAL_PIXELS = 32
RESTART = re.compile(rb"\xff+[\xd0-\xd7]")
# By kind (0: DC, 1: AC) and number: how many codes of each length, and the symbols.
Tables = dict[tuple[int, int], tuple[bytes, bytes]]


def restart_interval(layout: Layout) -> int:
    """MCUs between markers: the largest divisor of a row within INTERVAL_PIXELS, or 1."""
    row, most = layout.grid[0], max(1, INTERVAL_PIXELS // layout.mcu[0])
    return max(n for n in range(1, most + 1) if row % n == 0)


def add_restarts(data: bytes) -> bytes:
    """The same picture, coefficient by coefficient, with restart markers. Unsuitable: cannot have them."""
    try:
        layout = read_layout(data)
        header, tables = _without_tables(data)
    except (struct.error, IndexError) as error:
        raise Unsuitable("the header is cut short") from error
    interval = restart_interval(layout)
    symbols, ends = _symbols(data, layout, tables, interval)
    new_tables, codes, lengths = _tables_for(symbols)
    scan = bytearray([len(layout.components)])
    for number, c in enumerate(layout.components):
        scan += bytes([c.id, 0x11 if number else 0])
    coded = np.empty(2 * (4 * len(symbols) + 4 * len(ends)) + 64, np.uint8)
    size = _write(symbols, ends, interval, codes, lengths, coded)
    return b"".join(
        [
            header,
            *new_tables,
            struct.pack(">BBHH", 0xFF, DRI, 4, interval),
            struct.pack(">BBH", 0xFF, SOS, 5 + len(scan)) + bytes(scan) + b"\0\x3f\0",
            coded[:size].tobytes(),
            bytes([0xFF, EOI]),
        ]
    )


def _without_tables(data: bytes) -> tuple[bytes, Tables]:
    """The header up to the scan without Huffman tables and restart interval, and the tables."""
    kept = [data[:2]]
    tables: Tables = {}
    for marker, at, end in segments(data):
        if marker == DHT:
            place = at + 4
            while place < end:
                sizes = data[place + 1 : place + 17]
                values = data[place + 17 : place + 17 + sum(sizes)]
                tables[data[place] >> 4, data[place] & 15] = (sizes, values)
                place += 17 + sum(sizes)
        elif marker not in (DRI, SOS):
            kept.append(data[at:end])
    return b"".join(kept), tables


def _symbols(data: bytes, layout: Layout, tables: Tables, interval: int) -> tuple[np.ndarray, np.ndarray]:
    """The symbols of the scan as they are with a restart every `interval` MCUs, and where each MCU's symbols
    end; see `_read`.
    """
    blocks = [(number, c) for number, c in enumerate(layout.components) for _ in range(c.across * c.down)]
    if len(layout.components) > 4 or len(blocks) > MOST_BLOCKS:
        raise Unsuitable("more blocks in an MCU than the standard allows")
    lookups = np.zeros((2 * len(layout.components), 1 << LONGEST_CODE), np.uint16)
    for number, c in enumerate(layout.components):
        for kind, table in enumerate((c.dc, c.ac)):
            if (kind, table) not in tables:
                raise Unsuitable("a Huffman table is missing")
            fill_lookup(lookups[2 * number + kind], *tables[kind, table])
    end = data.find(bytes([0xFF, EOI]), layout.scan)
    parts = [part.replace(b"\xff\0", b"\xff") for part in RESTART.split(data[layout.scan : end])]
    bits = np.frombuffer(b"".join(part + b"\xff" * 16 for part in parts), np.uint8)
    starts = np.cumsum([0] + [len(part) + 16 for part in parts])
    row, rows = layout.grid
    planes = np.array([number for number, _ in blocks], np.int64)
    if end < 0 or len(parts) != (-(-row * rows // layout.interval) if layout.interval else 1):
        raise Unsuitable("not as many restart markers as it should have, or no end")
    # Each symbol takes a bit at least.
    symbols: np.ndarray = np.empty((8 * len(bits), 3), np.uint16)
    ends = np.empty(row * rows, np.int64)
    old = layout.interval or row * rows
    if _read(bits, starts, old, interval, planes, lookups, symbols, ends) < 0:
        raise Unsuitable("damaged")
    return symbols[: ends[-1]], ends


def _tables_for(symbols: np.ndarray) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """Segments of new Huffman tables, luma and the rest, DC and AC; and of each symbol of each table its code
    and the code's length, [4, 256].
    """
    codes = np.zeros((4, 256), np.uint32)
    lengths = np.zeros((4, 256), np.int64)
    made = []
    for table in range(4):
        counts = np.bincount(symbols[symbols[:, 0] == table, 1], minlength=256)
        if counts.any():
            sizes, values = optimal_table(counts)
            body = bytes([(table & 1) << 4 | table >> 1, *sizes, *values])
            made.append(struct.pack(">BBH", 0xFF, DHT, 2 + len(body)) + body)
            for value, (code, length) in code_of_symbol(sizes, values).items():
                codes[table, value], lengths[table, value] = code, length
    return made, codes, lengths


@compiled
def _bits(data: np.ndarray, at: int) -> int:
    """The 32 bits from bit `at` on."""
    byte = at >> 3
    word = (
        (np.int64(data[byte]) << 32)
        | (np.int64(data[byte + 1]) << 24)
        | (np.int64(data[byte + 2]) << 16)
        | (np.int64(data[byte + 3]) << 8)
        | np.int64(data[byte + 4])
    )
    return int((word >> (8 - (at & 7))) & 0xFFFFFFFF)


@compiled
def _number(size: int, extra: int) -> int:
    """The number that `size` extra bits stand for: the lower half of them for negative ones."""
    if size and extra < (1 << (size - 1)):
        return extra - (1 << size) + 1
    return extra


@compiled
def _coded(number: int) -> tuple[int, int]:
    """(size, extra bits) of a number: the inverse of `_number`."""
    size = 0
    while abs(number) >> size:
        size += 1
    return size, (number if number >= 0 else number + (1 << size) - 1)


@compiled
def _read(
    data: np.ndarray,
    starts: np.ndarray,
    old: int,
    new: int,
    planes: np.ndarray,
    lookups: np.ndarray,
    symbols: np.ndarray,
    ends: np.ndarray,
) -> int:
    """Fill `symbols` with (table, symbol, its extra bits) and `ends` with where each MCU's symbols end.

    old, new: MCUs between restarts as they are and as they shall be: the differences of the means are those
    of `new`. Returns -1 for codes that mean nothing.
    """
    before = np.zeros(4, np.int64)  # the mean of the last block of each plane, as read
    told = np.zeros(4, np.int64)  # the same, as it will be written
    at = 0  # bit
    limit = 0
    count = 0
    for mcu in range(len(ends)):
        if mcu % old == 0:
            before[:] = 0
            at = 8 * starts[mcu // old]
            limit = 8 * starts[mcu // old + 1] - 64
        if mcu % new == 0:
            told[:] = 0
        for block in range(len(planes)):
            plane = planes[block]
            k = 0
            while k < 64:
                if at > limit:
                    return -1
                code = _bits(data, at)
                found = int(lookups[2 * plane + (k > 0), code >> 16])
                length, symbol = found >> 8, found & 255
                if length == 0:
                    return -1
                size = symbol & 15
                extra = (code >> (32 - length - size)) & ((1 << size) - 1)
                at += length + size
                if k == 0:
                    before[plane] += _number(size, extra)
                    symbol, extra = _coded(before[plane] - told[plane])
                    told[plane] = before[plane]
                    k = 1
                elif size:
                    k += (symbol >> 4) + 1
                elif symbol == 0xF0:
                    k += 16
                else:
                    k = 100  # the rest of the block is 0
                symbols[count, 0] = 2 * min(plane, 1) + (1 if k > 1 else 0)
                symbols[count, 1] = symbol
                symbols[count, 2] = extra
                count += 1
        ends[mcu] = count
    return 0


@compiled
def _put(out: np.ndarray, size: int, bits: int) -> int:
    """Append the low byte, and a 0 after 255, which alone would begin a marker; the new size."""
    byte = bits & 255
    out[size] = byte
    if byte != 255:
        return size + 1
    out[size + 1] = 0
    return size + 2


@compiled
def _write(
    symbols: np.ndarray,
    ends: np.ndarray,
    interval: int,
    codes: np.ndarray,
    lengths: np.ndarray,
    out: np.ndarray,
) -> int:
    """Code the symbols with a restart marker every `interval` MCUs; the number of bytes."""
    size = 0
    word = 0  # bits that do not fill a byte yet
    held = 0
    first = 0
    for mcu in range(len(ends)):
        if mcu and mcu % interval == 0:
            if held:
                size = _put(out, size, (word << (8 - held)) | ((1 << (8 - held)) - 1))
            word = 0
            held = 0
            out[size] = 255
            out[size + 1] = 0xD0 + (mcu // interval - 1) % 8
            size += 2
        for place in range(first, ends[mcu]):
            table, symbol = symbols[place, 0], symbols[place, 1]
            extra = symbol & 15
            word = (np.int64(word) << lengths[table, symbol]) | np.int64(codes[table, symbol])
            word = (word << np.int64(extra)) | np.int64(symbols[place, 2])
            held += lengths[table, symbol] + np.int64(extra)
            while held >= 8:
                size = _put(out, size, word >> (held - 8))
                held -= 8
            word &= (1 << held) - 1
        first = ends[mcu]
    if held:
        size = _put(out, size, (word << (8 - held)) | ((1 << (8 - held)) - 1))
    return size
