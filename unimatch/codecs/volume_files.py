"""Whole volumes from HDF5 and NIfTI files, and class ids back to files of the same kind and grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from unimatch.codecs import nifti
from unimatch.codecs.encode import downscaled
from unimatch.codecs.nifti import Nifti, read_nifti, write_ids
from unimatch.codecs.scans import ScanRules
from unimatch.codecs.volumes import grey, opened
from unimatch.errors import DataError

H5_SUFFIXES = (".h5", ".hdf5")
VOLUME_SUFFIXES = H5_SUFFIXES + nifti.SUFFIXES
STRETCHED = ScanRules(percentiles=(0, 100))
IMAGE, LABEL = "image", "label"  # data sets of HDF5 files


@dataclass(frozen=True)
class Volume:
    """The slices of a file, and what is needed to write labels that lie on them."""

    slices: np.ndarray  # uint16 [D, h, w], downscaled as asked for
    size: tuple[int, int]  # height and width of the file's slices
    like: Nifti | tuple[int, ...]  # the NIfTI file, or the shape of the HDF5 data set


def is_volume(path: Path) -> bool:
    """Whether `read_volume` knows files of this name."""
    return path.name.lower().endswith(VOLUME_SUFFIXES)


def read_volume(path: Path, rules: ScanRules = STRETCHED, downscale: int = 1) -> Volume:
    """The volume of a file: grey values of 16 bits, height and width divided by `downscale` as in packing.

    HDF5: the data set `image`, [D, H, W] or one slice [H, W], with the values that packing takes: floats from
    0 to 1, or integers of 8 or 16 bits, whose largest possible value is white.
    NIfTI: as `rules` say, of which `dicom` has no meaning here. Scanners' values have no fixed range: by
    default the volume's smallest value becomes black and its largest white, as was done for the public ACDC
    files.
    DataError: no such file, another content, or values without an order (NaN).
    """
    if path.name.lower().endswith(nifti.SUFFIXES):
        scan = read_nifti(path, rules.axcodes)
        return _volume(rules.grey(scan.values, str(path)), scan, path, downscale)
    try:
        with opened(path.parent, f"{path.name}#{IMAGE}") as data:
            values = grey(data[()], str(path))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    return _volume(values, values.shape, path, downscale)


def _volume(values: np.ndarray, like: Nifti | tuple[int, ...], path: Path, downscale: int) -> Volume:
    """The volume of grey values of 8 or 16 bits, [H, W] or [D, H, W]."""
    size = (values.shape[-2], values.shape[-1])
    slices = np.stack([downscaled(one, downscale, str(path)) for one in values.reshape(-1, *size)])
    if slices.dtype == np.uint8:
        slices = slices.astype(np.uint16) * np.uint16(257)
    return Volume(slices, size, like)


def write_labels(path: Path, ids: np.ndarray, volume: Volume) -> None:
    """Writes class ids, uint8 [D, H, W] of the file's size, to `path`, of the kind that was read.

    HDF5: the data set `label` of the shape of `image`. NIfTI: the shape, axes, affine and units of the input.
    """
    size, dtype = ids.shape[1:], ids.dtype
    assert size == volume.size and len(ids) == len(volume.slices) and dtype == np.uint8, (ids.shape, dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(volume.like, Nifti):
        write_ids(path, ids, volume.like)
        return
    with h5py.File(path, "w") as file:
        file.create_dataset(LABEL, data=ids.reshape(volume.like), compression="gzip")
