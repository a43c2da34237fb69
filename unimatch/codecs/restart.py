"""Restart markers for JPEG files, added without a change to any coefficient (ITU-T T.81, sections B, F, K).

A baseline JPEG is one bit stream in which every block's mean is coded as the difference to the block before:
to decode the last row one decodes all rows. A restart marker starts the stream afresh. With one every few
blocks, and a whole number of them in each row, any rectangle can be cut out and decoded alone
(`decode.decode_part`), and every decoder still reads the file. The symbols are coded by new Huffman tables
made for them, which pays for the markers.
"""

from __future__ import annotations

import heapq
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unimatch.codecs.compiled import compiled

SOF_BASELINE = (0xC0, 0xC1)  # sequential, Huffman coded
DHT, SOS, DRI, EOI = 0xC4, 0xDA, 0xDD, 0xD9
LONGEST_CODE = 16
MOST_BLOCKS = 10  # of an interleaved MCU
# Most pixels between two markers. Shorter intervals cut closer and cost 2 % of the bytes; the time to decode
# is the same for 16 to 128 pixels, 6 % above that of the file without markers.
INTERVAL_PIXELS = 32
RESTART = re.compile(rb"\xff+[\xd0-\xd7]")


class Unsuitable(ValueError):
    """The file is not a JPEG of the kind that can be rewritten; it says why."""


@dataclass(frozen=True)
class Component:
    """One colour plane: blocks per MCU in each direction, and which Huffman tables it uses."""

    id: int
    across: int
    down: int
    dc: int = 0
    ac: int = 0


@dataclass(frozen=True)
class Layout:
    """How the blocks of a sequential JPEG with one scan lie in its bytes."""

    width: int
    height: int
    components: tuple[Component, ...]
    interval: int  # MCUs between restart markers; 0: none
    frame: int  # offset of the frame marker
    scan: int  # offset of the first byte of coded data

    @property
    def mcu(self) -> tuple[int, int]:
        """Width and height of an MCU in pixels."""
        if len(self.components) == 1:  # not interleaved: an MCU is a block
            return 8, 8
        return 8 * max(c.across for c in self.components), 8 * max(c.down for c in self.components)

    @property
    def grid(self) -> tuple[int, int]:
        """MCUs in a row, and rows of them."""
        width, height = self.mcu
        return -(-self.width // width), -(-self.height // height)


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment of a JPEG's header, the last being the first scan's.

    Unsuitable: no marker where one must be; struct.error, IndexError: cut short.
    """
    at = 2
    while True:
        if data[at] != 0xFF:
            raise Unsuitable("no marker where one must be")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        yield marker, at, end
        if marker == SOS:
            return
        at = end


def read_layout(data: bytes) -> Layout:
    """The layout of a JPEG from its header. Unsuitable: progressive, arithmetic, 12 bits, or several scans;
    struct.error, IndexError: cut short.
    """
    frame, interval, size = 0, 0, (0, 0)
    planes: dict[int, tuple[int, int]] = {}
    header = list(segments(data))
    for marker, at, _ in header:
        if marker in SOF_BASELINE:
            depth, height, width, count = struct.unpack_from(">BHHB", data, at + 4)
            if depth != 8:
                raise Unsuitable(f"{depth} bits a channel")
            frame, size = at, (width, height)
            for place in range(at + 10, at + 10 + 3 * count, 3):
                planes[data[place]] = (data[place + 1] >> 4, data[place + 1] & 15)
        elif 0xC0 <= marker <= 0xCF and marker != DHT:
            raise Unsuitable("progressive or arithmetic coding")
        elif marker == DRI:
            (interval,) = struct.unpack_from(">H", data, at + 4)
    _, at, end = header[-1]
    if not frame or data[at + 4] != len(planes):
        raise Unsuitable("several scans")
    components = []
    for place in range(at + 5, at + 5 + 2 * len(planes), 2):
        across, down = planes[data[place]] if len(planes) > 1 else (1, 1)
        tables = data[place + 1]
        components.append(Component(data[place], across, down, tables >> 4, tables & 15))
    return Layout(*size, tuple(components), interval, frame, end)


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
    blocks = [(number, c) for number, c in enumerate(layout.components) for _ in range(c.across * c.down)]
    if len(layout.components) > 4 or len(blocks) > MOST_BLOCKS:
        raise Unsuitable("more blocks in an MCU than the standard allows")
    lookups = np.zeros((2 * len(layout.components), 1 << LONGEST_CODE), np.uint16)
    for number, c in enumerate(layout.components):
        for kind, table in enumerate((c.dc, c.ac)):
            if (kind, table) not in tables:
                raise Unsuitable("a Huffman table is missing")
            _fill_lookup(lookups[2 * number + kind], *tables[kind, table])
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
    symbols = symbols[: ends[-1]]
    codes = np.zeros((4, 256), np.uint32)  # luma and the rest, DC and AC
    lengths = np.zeros((4, 256), np.int64)
    out = [header]
    for table in range(4):
        counts = np.bincount(symbols[symbols[:, 0] == table, 1], minlength=256)
        if counts.any():
            sizes, values = optimal_table(counts)
            body = bytes([(table & 1) << 4 | table >> 1, *sizes, *values])
            out.append(struct.pack(">BBH", 0xFF, DHT, 2 + len(body)) + body)
            for value, (code, length) in _codes(sizes, values).items():
                codes[table, value], lengths[table, value] = code, length
    out.append(struct.pack(">BBHH", 0xFF, DRI, 4, interval))
    scan = bytearray([len(layout.components)])
    for number, c in enumerate(layout.components):
        scan += bytes([c.id, 0x11 if number else 0])
    out.append(struct.pack(">BBH", 0xFF, SOS, 5 + len(scan)) + bytes(scan) + b"\0\x3f\0")
    coded = np.empty(2 * (4 * len(symbols) + 4 * len(ends)) + 64, np.uint8)
    out.append(coded[: _write(symbols, ends, interval, codes, lengths, coded)].tobytes())
    return b"".join([*out, bytes([0xFF, EOI])])


def _without_tables(data: bytes) -> tuple[bytes, dict[tuple[int, int], tuple[bytes, bytes]]]:
    """The header up to the scan without Huffman tables and restart interval, and the tables."""
    kept, tables = [data[:2]], {}
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


def _codes(sizes: bytes, values: bytes) -> dict[int, tuple[int, int]]:
    """Symbol to (code, length): codes count up, and are doubled where they become longer."""
    result, code, place = {}, 0, 0
    for length, count in enumerate(sizes, 1):
        for value in values[place : place + count]:
            result[value] = (code, length)
            code += 1
        place += count
        code <<= 1
    return result


def _fill_lookup(lookup: np.ndarray, sizes: bytes, values: bytes) -> None:
    """For each 16 bits that may come: length of the code at their start << 8 | its symbol; 0: none."""
    for value, (code, length) in _codes(sizes, values).items():
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
                byte = at >> 3
                word = (
                    (np.int64(data[byte]) << 32)
                    | (np.int64(data[byte + 1]) << 24)
                    | (np.int64(data[byte + 2]) << 16)
                    | (np.int64(data[byte + 3]) << 8)
                    | np.int64(data[byte + 4])
                )
                code = int((word >> (8 - (at & 7))) & 0xFFFFFFFF)
                found = int(lookups[2 * plane + (k > 0), code >> 16])
                length, symbol = found >> 8, found & 255
                if length == 0:
                    return -1
                size = symbol & 15
                extra = (code >> (32 - length - size)) & ((1 << size) - 1)
                at += length + size
                if k == 0:
                    value = extra
                    if size and extra < (1 << (size - 1)):
                        value = extra - (1 << size) + 1
                    before[plane] += value
                    value = before[plane] - told[plane]
                    told[plane] = before[plane]
                    size = 0
                    while abs(value) >> size:
                        size += 1
                    symbol = size
                    extra = value if value >= 0 else value + (1 << size) - 1
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
