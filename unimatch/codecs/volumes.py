"""Slices in HDF5 files: images as grey values of 8 or 16 bits, labels as ids."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from unimatch.errors import DataError

LEVELS_16 = 65535
H5_MEMBER = re.compile(r"(?P<file>.+\.(?:h5|hdf5))#(?P<name>.+)")


def h5_member(path: str) -> tuple[str, str | None]:
    """(file, name of the data set in it) of a path such as `a.h5#image`; (path, None) of any other."""
    match = H5_MEMBER.fullmatch(path)
    return (match["file"], match["name"]) if match else (path, None)


def num_slices(source: Path, path: str) -> int | None:
    """D of a volume [D, H, W]; None for a single image [H, W]. `path` is `file#name`. DataError as below."""
    with opened(source, path) as data:
        return int(data.shape[0]) if data.ndim == 3 else None


def read_slice(source: Path, path: str, index: int | None) -> np.ndarray:
    """Slice `index` of the volume `file#name`, or the whole image, [H, W] with the file's own values.

    DataError: no HDF5 file, no such data set, another shape. FileNotFoundError: no such file.
    """
    with opened(source, path) as data:
        if (data.ndim == 3) != (index is not None) or (index is not None and index >= data.shape[0]):
            expected = "[H, W]" if index is None else f"[D, H, W] with D > {index}"
            raise DataError(f"{path}: has the shape {list(data.shape)}, expected {expected}")
        return data[()] if index is None else data[index]


@contextmanager
def opened(source: Path, path: str) -> Iterator[h5py.Dataset]:
    """The data set `file#name`, two- or three-dimensional."""
    file_path, name = h5_member(path)
    assert name is not None
    try:
        with h5py.File(source / file_path, "r") as file:
            data = file.get(name)
            if not isinstance(data, h5py.Dataset):
                raise DataError(f"{path}: no data set {name!r}; the file has {', '.join(file) or 'none'}")
            if data.ndim not in (2, 3) or 0 in data.shape:
                raise DataError(f"{path}: has the shape {list(data.shape)}, expected [H, W] or [D, H, W]")
            yield data
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"{path}: no HDF5 file, or damaged: {error}") from error


def grey(values: np.ndarray, where: str) -> np.ndarray:
    """uint8 as it is, uint16 as it is, or floats in [0, 1] as uint16 steps of 1/65535 (rounded). [H, W].

    DataError: other values, and floats outside [0, 1]: how to scale them is the data set's matter.
    """
    if values.dtype in (np.uint8, np.uint16):
        return values
    if not np.issubdtype(values.dtype, np.floating):
        raise DataError(f"{where}: has {values.dtype} pixels; expected uint8, uint16 or floats from 0 to 1")
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # also NaN
        raise DataError(f"{where}: pixels go from {low:g} to {high:g}, expected 0 to 1; scale them first")
    return np.rint(values.astype(np.float64) * LEVELS_16).astype(np.uint16)


def ids(values: np.ndarray, where: str) -> np.ndarray:
    """The class ids of an array, [H, W] of integers; floats that are whole numbers become them.

    DataError for other values.
    """
    if values.dtype == bool:
        return values.astype(np.uint8)
    if np.issubdtype(values.dtype, np.floating):
        whole = np.isfinite(values) & (np.rint(values) == values) & (np.abs(values) < 1 << 31)
        if not whole.all():
            bad = values[~whole]
            raise DataError(
                f"{where}: has {values.dtype} values, and {bad.size} of them are no whole numbers (such as "
                f"{bad[0]:g}), expected integers (class ids); are these probabilities, or is 'no data' NaN?"
            )
        return values.astype(np.int64)
    if not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"{where}: has {values.dtype} values, expected integers (class ids)")
    return values
