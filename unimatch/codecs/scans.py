"""Scans to slices of grey: NIfTI files and DICOM series, their labels, and how their values become grey."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from unimatch.codecs import dicom, nifti
from unimatch.codecs.nifti import AXCODES, Grid, check_axcodes
from unimatch.codecs.volumes import LEVELS_16, ids
from unimatch.errors import ConfigError, DataError

NEAR = 0.1  # of a voxel's side: labels may lie so far beside their image, as programs round


@dataclass(frozen=True)
class ScanRules:
    """How NIfTI volumes and DICOM series become slices. Values have no fixed range, so one of `window` and
    `percentiles` says which become black and white."""

    # In the scan's own units (Hounsfield in CT): up to the first is black, from the second on white.
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] | None = None  # of each volume's values; [0, 100]: smallest and largest
    # In which directions of the body slices, rows and columns go, or "stored"; see codecs.nifti.
    axcodes: str = AXCODES
    dicom: bool = False  # `images` matches DICOM files, of which those of a folder are one volume

    def __post_init__(self) -> None:
        check_axcodes(self.axcodes)
        if (self.window is None) == (self.percentiles is None):
            raise ConfigError(
                "scans: give either window, such as [-160, 240] (Hounsfield units, soft tissue), or "
                "percentiles, such as [0.5, 99.5]: which values become black and white"
            )
        low, high = self.window or self.percentiles or (0, 1)
        if not low < high or (self.percentiles and not 0 <= low < high <= 100):
            raise ConfigError(f"scans: the first number must be below the second, found [{low:g}, {high:g}]")

    def grey(self, values: np.ndarray, where: str) -> np.ndarray:
        """uint16 of any finite values, [D, H, W]. DataError: NaN or infinite ones."""
        numbers = values.astype(np.float64)
        if not np.isfinite(numbers).all():
            raise DataError(f"{where}: has voxels that are NaN or infinite; replace them first")
        low, high = self.window or np.percentile(numbers, self.percentiles or (0, 100))
        scale = LEVELS_16 / (high - low) if high > low else 0.0
        return np.rint(np.clip((numbers - low) * scale, 0, LEVELS_16)).astype(np.uint16)


def is_nifti(path: str) -> bool:
    return path.lower().endswith(nifti.SUFFIXES)


def grid_of(source: Path, path: str, files: str, rules: ScanRules) -> Grid:
    """The grid of an image: a NIfTI file, or a folder of DICOM files, those that the glob `files` matches.
    DataError: it cannot be read."""
    if not rules.dicom:
        return nifti.read_grid(source / path, rules.axcodes)
    series = _series(source / path, files)
    return nifti.grid(source / path, _empty(series), rules.axcodes)


def check_label(image: str, grid: Grid, label: str, source: Path, rules: ScanRules) -> None:
    """DataError: a label file on another grid than its image. FileNotFoundError: no such file."""
    if not is_nifti(label):
        raise DataError(f"{label}: labels of scans are NIfTI files; DICOM SEG and others must be converted")
    if not (source / label).is_file():
        return  # told as missing when it is read
    mine = nifti.read_grid(source / label, rules.axcodes)
    if mine.shape != grid.shape:
        raise DataError(
            f"{label}: has slices of the shape {list(mine.shape)}, its image {image} {list(grid.shape)}"
        )
    if mine.affine is None and grid.affine is None:
        return
    if mine.affine is None or grid.affine is None:
        lacks, has = (label, image) if mine.affine is None else (image, label)
        raise DataError(
            f"{lacks}: does not say how it lies (no affine), but {has} does; if both have their voxels in "
            "the same order, set `scans: axcodes: stored`"
        )
    corners = np.array([[*one, 1] for one in product(*((0, side - 1) for side in grid.shape))], np.float64).T
    apart = float(np.abs((mine.affine - grid.affine) @ corners)[:3].max())
    if apart > NEAR * float(np.linalg.norm(grid.affine[:3, :3], axis=0).min()):
        raise DataError(
            f"{label}: lies up to {apart:g} mm beside its image {image} (their affines differ); resample it "
            "to the image's grid, or, if both have their voxels in the same order, set `scans: axcodes: "
            "stored`"
        )


@functools.lru_cache(1)
def _grey(path: Path, where: str, files: str, rules: ScanRules, stamp: int) -> np.ndarray:
    if not rules.dicom:
        return rules.grey(nifti.read_nifti(path, rules.axcodes).values, where)
    series = _series(path, files)
    image = dicom.read_series(series)
    return rules.grey(nifti.turned(path, image, np.asarray(image.dataobj), rules.axcodes).values, where)


@functools.lru_cache(1)
def _ids(path: Path, where: str, axcodes: str, stamp: int) -> np.ndarray:
    return ids(nifti.read_nifti(path, axcodes).values, where)


def read_scan_slice(source: Path, path: str, index: int, files: str, rules: ScanRules) -> np.ndarray:
    """uint16 [H, W]: a slice of a scan. The last volume is kept, since its slices are asked for in turn."""
    whole = source / path
    return _grey(whole, path, files, rules, whole.stat().st_mtime_ns)[index]


def read_label_slice(source: Path, path: str, index: int, rules: ScanRules) -> np.ndarray:
    """Integers [H, W]: the ids of a slice. DataError: no whole numbers. FileNotFoundError: no such file."""
    whole = source / path
    return _ids(whole, path, rules.axcodes, whole.stat().st_mtime_ns)[index]


def _series(folder: Path, files: str) -> dicom.Series:
    found = sorted(path for path in folder.iterdir() if fnmatchcase(path.name, files) and path.is_file())
    hidden = [path for path in found if path.name.startswith(".") or path.name.upper() == "DICOMDIR"]
    return dicom.read_header(folder, [path for path in found if path not in hidden])


def _empty(series: dicom.Series) -> Any:
    """A NIfTI image of a series without its values."""
    import nibabel

    return nibabel.Nifti1Image(np.broadcast_to(np.float32(0), series.shape), series.affine)
