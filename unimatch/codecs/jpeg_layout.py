"""How the blocks of a sequential JPEG lie in its bytes, read from its header (ITU-T T.81, section B)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

SOF_BASELINE = (0xC0, 0xC1)  # sequential, Huffman coded
DHT, SOS, DRI, EOI = 0xC4, 0xDA, 0xDD, 0xD9


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
