"""Whole volumes from HDF5 and NIfTI files, and class ids back to files of the same kind and grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from unimatch.codecs import nifti
from unimatch.codecs.nifti import AXCODES, Nifti, read_nifti, write_ids
from unimatch.codecs.volumes import LEVELS_16, grey, opened
from unimatch.errors import DataError

H5_SUFFIXES = (".h5", ".hdf5")
VOLUME_SUFFIXES = H5_SUFFIXES + nifti.SUFFIXES
IMAGE, LABEL = "image", "label"  # data sets of HDF5 files


@dataclass(frozen=True)
class Volume:
    """The slices of a file, and what is needed to write labels that lie on them."""

    slices: np.ndarray  # uint16 [D, H, W]
    like: Nifti | tuple[int, ...]  # the NIfTI file, or the shape of the HDF5 data set


def is_volume(path: Path) -> bool:
    """Whether `read_volume` knows files of this name."""
    return path.name.lower().endswith(VOLUME_SUFFIXES)


def read_volume(path: Path, axcodes: str = AXCODES) -> Volume:
    """The volume of a file: grey values of 16 bits.

    HDF5: the data set `image`, [D, H, W] or one slice [H, W], with the values that packing takes: floats from
    0 to 1, or integers of 8 or 16 bits, whose largest possible value is white.
    NIfTI: turned so that slices, rows and columns go as `axcodes` say, see codecs.nifti. Scanners' values
    have no fixed range, so the volume's smallest value becomes black and its largest white, as was done for
    the public ACDC files.
    DataError: no such file, another content, or values without an order (NaN).
    """
    if path.name.lower().endswith(nifti.SUFFIXES):
        return _read_nifti(path, axcodes)
    try:
        with opened(path.parent, f"{path.name}#{IMAGE}") as data:
            values = grey(data[()], str(path))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    if values.dtype == np.uint8:
        values = values.astype(np.uint16) * np.uint16(257)
    return Volume(values.reshape(-1, *values.shape[-2:]), values.shape)


def _read_nifti(path: Path, axcodes: str) -> Volume:
    scan = read_nifti(path, axcodes)
    values = scan.values.astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{path}: has pixels that are NaN or infinite; replace them first")
    low, high = float(values.min()), float(values.max())
    scaled = np.rint((values - low) * (LEVELS_16 / (high - low) if high > low else 0.0))
    return Volume(np.ascontiguousarray(scaled.astype(np.uint16)), scan)


def write_labels(path: Path, ids: np.ndarray, volume: Volume) -> None:
    """Writes class ids, uint8 [D, H, W], to `path`, of the kind that the volume was read from.

    HDF5: the data set `label` of the shape of `image`. NIfTI: the shape, axes, affine and units of the input.
    """
    assert ids.shape == volume.slices.shape and ids.dtype == np.uint8, (ids.shape, ids.dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(volume.like, Nifti):
        write_ids(path, ids, volume.like)
        return
    with h5py.File(path, "w") as file:
        file.create_dataset(LABEL, data=ids.reshape(volume.like), compression="gzip")
