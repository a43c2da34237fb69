"""What a task takes a sample's image for: one function a kind of sample, from its bytes to pixels.

Each gives at least the pixels of `rect`, without it all, of the record's size if the index is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from unimatch.codecs.decode import decode_grey
from unimatch.codecs.part import Part, Rect
from unimatch.codecs.region import decode_channels, decode_part
from unimatch.errors import DataError
from unimatch.shardset.archive import Record


def rgb(record: Record, rect: Rect | None = None) -> Part:
    """uint8 [h, w, 3]: of one colour image. DataError for a pair and for a file that `decode_rgb` refuses."""
    _refuse_pair(record)
    return decode_part(record.image, rect or _all(record), record.where)


def grey(record: Record, rect: Rect | None = None) -> Part:
    """uint16 [H, W, 1]: one greyscale image, whole; 8-bit ones are brought to 16 bits, to mix in a batch.

    DataError for a pair and for a file that `decode_grey` refuses.
    """
    _refuse_pair(record)
    return Part.whole(decode_grey(record.image, record.where)[..., None])


def rgb_pair(record: Record, rect: Rect | None = None) -> Part:
    """uint8 [2, h, w, 3]: a place at two dates. DataError for a single image, and for dates of two sizes."""
    return _pair(record, rect, decode_part)


@dataclass(frozen=True)
class Channels:
    """Decodes images of channels as packing with `bands` stores them; picklable, as the functions here.

    Called: uint8 or uint16 [h, w, C]; of `dates` 2, [2, h, w, C].
    """

    channels: int
    dtype: str
    dates: int

    def __call__(self, record: Record, rect: Rect | None = None) -> Part:
        if self.dates > 1:
            return _pair(record, rect, self._decode)
        _refuse_pair(record)
        return self._decode(record.image, rect or _all(record), record.where)

    def _decode(self, data: bytes, rect: Rect, where: str) -> Part:
        return decode_channels(data, rect, where, self.channels, self.dtype)


def _pair(record: Record, rect: Rect | None, decode: Callable[[bytes, Rect, str], Part]) -> Part:
    if record.second is None:
        raise DataError(
            f"{record.where}: holds a single image, but change detection reads pairs; pack the data with a "
            "recipe that has `second`"
        )
    rect = rect or _all(record)
    first = decode(record.image, rect, f"{record.where}, first date")
    second = decode(record.second, rect, f"{record.where}, second date")
    _refuse_sizes((first.width, first.height), (second.width, second.height), record.where)
    if first.covers(rect) and second.covers(rect):  # files differ in how much around it they have to decode
        first, second = first.cut(rect), second.cut(rect)
    return replace(first, pixels=np.stack([first.pixels, second.pixels]))


def stack_dates(first: np.ndarray, second: np.ndarray, where: str) -> np.ndarray:
    """uint8 [2, H, W, 3] of two images; DataError if they differ in size."""
    _refuse_sizes(first.shape[1::-1], second.shape[1::-1], where)
    return np.stack([first, second])


def _all(record: Record) -> Rect:
    return 0, 0, record.width, record.height


def _refuse_sizes(first: Sequence[int], second: Sequence[int], where: str) -> None:
    if tuple(first) != tuple(second):
        raise DataError(
            f"{where}: the first date is {first[0]}x{first[1]} pixels, the second {second[0]}x{second[1]}; "
            "a pair must show the same place pixel by pixel"
        )


def _refuse_pair(record: Record) -> None:
    if record.second is not None:
        raise DataError(
            f"{record.where}: holds a pair of images (change detection), this task reads single ones"
        )
