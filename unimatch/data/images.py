"""What a task takes a sample's image for: one function a kind of sample, from its bytes to an array."""

from __future__ import annotations

import numpy as np

from unimatch.data.archive import Record
from unimatch.data.decode import decode_grey, decode_rgb
from unimatch.errors import DataError


def rgb(record: Record) -> np.ndarray:
    """uint8 [H, W, 3]: one colour image. DataError for a pair and for a file that `decode_rgb` refuses."""
    _refuse_pair(record)
    return decode_rgb(record.image, record.where)


def grey(record: Record) -> np.ndarray:
    """uint16 [H, W, 1]: one greyscale image; 8-bit ones are brought to 16 bits, so that they mix in a batch.

    DataError for a pair and for a file that `decode_grey` refuses.
    """
    _refuse_pair(record)
    return decode_grey(record.image, record.where)[..., None]


def rgb_pair(record: Record) -> np.ndarray:
    """uint8 [2, H, W, 3]: a place at two dates. DataError for a single image, and for dates of two sizes."""
    if record.second is None:
        raise DataError(
            f"{record.where}: holds a single image, but change detection reads pairs; pack the data with a "
            "recipe that has `second`"
        )
    first = decode_rgb(record.image, f"{record.where}, first date")
    second = decode_rgb(record.second, f"{record.where}, second date")
    return stack_dates(first, second, record.where)


def stack_dates(first: np.ndarray, second: np.ndarray, where: str) -> np.ndarray:
    """uint8 [2, H, W, 3] of two images; DataError if they differ in size."""
    if first.shape != second.shape:
        raise DataError(
            f"{where}: the first date is {first.shape[1]}x{first.shape[0]} pixels, the second "
            f"{second.shape[1]}x{second.shape[0]}; a pair must show the same place pixel by pixel"
        )
    return np.stack([first, second])


def _refuse_pair(record: Record) -> None:
    if record.second is not None:
        raise DataError(
            f"{record.where}: holds a pair of images (change detection), this task reads single ones"
        )
