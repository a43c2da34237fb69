"""Whole volumes from HDF5 and NIfTI files, and class ids back to files of the same kind and grid."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError

from unimatch.codecs.volumes import LEVELS_16, grey, opened
from unimatch.errors import DataError

H5_SUFFIXES = (".h5", ".hdf5")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
VOLUME_SUFFIXES = H5_SUFFIXES + NIFTI_SUFFIXES
IMAGE, LABEL = "image", "label"  # data sets of HDF5 files


@dataclass(frozen=True)
class Volume:
    """The slices of a file, and what is needed to write labels that lie on them."""

    slices: np.ndarray  # uint16 [D, H, W]
    like: Any  # the NIfTI image, or the shape of the HDF5 data set


def is_volume(path: Path) -> bool:
    """Whether `read_volume` knows files of this name."""
    return path.name.lower().endswith(VOLUME_SUFFIXES)


def read_volume(path: Path) -> Volume:
    """The volume of a file: grey values of 16 bits.

    HDF5: the data set `image`, [D, H, W] or one slice [H, W], with the values that packing takes: floats from
    0 to 1, or integers of 8 or 16 bits, whose largest possible value is white.
    NIfTI: the last axis is the depth, and slices lie as other programs show them, [y, x]. Scanners' values
    have no fixed range, so the volume's smallest value becomes black and its largest white, as was done for
    the public ACDC files.
    DataError: no such file, another content, or values without an order (NaN).
    """
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        return _read_nifti(path)
    try:
        with opened(path.parent, f"{path.name}#{IMAGE}") as data:
            values = grey(data[()], str(path))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    if values.dtype == np.uint8:
        values = values.astype(np.uint16) * np.uint16(257)
    return Volume(values.reshape(-1, *values.shape[-2:]), values.shape)


def _read_nifti(path: Path) -> Volume:
    try:
        image: Any = nibabel.load(path)
        values = np.asarray(image.dataobj, np.float64)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (ImageFileError, OSError, EOFError, ValueError, TypeError, zlib.error) as error:
        raise DataError(f"{path}: no NIfTI file, or damaged: {error}") from error
    if values.ndim > 3 and values.shape[3:] == (1,) * (values.ndim - 3):
        values = values.reshape(values.shape[:3])
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise DataError(
            f"{path}: has the shape {list(values.shape)}, expected [X, Y] or [X, Y, Z]; write the volumes "
            "of a series to one file each"
        )
    if not np.isfinite(values).all():
        raise DataError(f"{path}: has pixels that are NaN or infinite; replace them first")
    low, high = float(values.min()), float(values.max())
    scaled = np.rint((values - low) * (LEVELS_16 / (high - low) if high > low else 0.0))
    slices = scaled.astype(np.uint16).reshape(*values.shape[:2], -1).T
    return Volume(np.ascontiguousarray(slices), image)


def write_labels(path: Path, ids: np.ndarray, volume: Volume) -> None:
    """Writes class ids, uint8 [D, H, W], to `path`, of the kind that the volume was read from.

    HDF5: the data set `label` of the shape of `image`. NIfTI: the shape, affine and units of the input.
    """
    assert ids.shape == volume.slices.shape and ids.dtype == np.uint8, (ids.shape, ids.dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(volume.like, tuple):
        with h5py.File(path, "w") as file:
            file.create_dataset(LABEL, data=ids.reshape(volume.like), compression="gzip")
        return
    image = volume.like
    header = image.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0  # the range to show was that of the scan's values
    header.set_intent("label")
    labels = ids.T.reshape(image.shape)
    nibabel.save(type(image)(labels, image.affine, header), path)
