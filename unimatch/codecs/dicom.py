"""A DICOM series, the files of one folder, as a volume with an affine, as NIfTI has them.

Slices are ordered by their position along the normal of their plane. Source: the DICOM standard, PS3.3,
C.7.6.2 (Image Plane Module) and C.11.1 (Modality LUT).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from unimatch.errors import DataError

TO_RAS = np.diag([-1.0, -1.0, 1.0])  # DICOM's axes go to the left, back and head
UNEVEN = 0.1  # of the distance of two slices: where more is missing or too much, a slice is
SAME = 1e-3


@dataclass(frozen=True)
class Series:
    """The files of a series in the order of their position, and how their pixels lie: `affine` takes
    (column, row, slice) to millimetres to the right, front and head; `shape` is [columns, rows, slices]."""

    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray


def read_header(folder: Path, files: Sequence[Path]) -> Series:
    """The series of these files. DataError: they are several series, or no stack of parallel slices."""
    heads = {file: _read(file, pixels=False) for file in files}
    first = heads[files[0]]
    series = {str(head.get("SeriesInstanceUID", "")): head for head in heads.values()}
    if len(series) > 1:
        counts = [
            f"{head.get('SeriesDescription', 'without a name')!r} with "
            f"{sum(str(other.get('SeriesInstanceUID', '')) == uid for other in heads.values())} files"
            for uid, head in series.items()
        ]
        raise DataError(f"{folder}: holds {len(series)} series ({', '.join(counts[:4])}); give each a folder")
    for file, head in heads.items():
        _check(file, head, first)
    across, down = np.array(first.ImageOrientationPatient, np.float64).reshape(2, 3)
    normal = np.cross(across, down)
    places = {file: np.array(head.ImagePositionPatient, np.float64) for file, head in heads.items()}
    order = sorted(files, key=lambda file: float(places[file] @ normal))
    depths = np.array([places[file] @ normal for file in order])
    gap = _gap(folder, order, depths) if len(order) > 1 else float(first.get("SliceThickness") or 1)
    step_down, step_across = map(float, first.PixelSpacing)
    along = (places[order[-1]] - places[order[0]]) / (len(order) - 1) if len(order) > 1 else normal * gap
    affine = np.eye(4)
    columns = np.stack([across * step_across, down * step_down, along], axis=1)
    affine[:3, :3], affine[:3, 3] = TO_RAS @ columns, TO_RAS @ places[order[0]]
    return Series(tuple(order), (int(first.Columns), int(first.Rows), len(order)), affine)


def read_series(series: Series) -> Any:
    """The series as a NIfTI image in memory, float32 after rescaling (Hounsfield units in CT). DataError: a
    file that cannot be decoded."""
    slices = []
    for file in series.files:
        head = _read(file, pixels=True)
        try:
            pixels = head.pixel_array
        except Exception as error:  # each of the decoders that pydicom calls has its own
            raise DataError(f"{file}: its pixels cannot be read: {' '.join(str(error).split())}") from error
        if pixels.shape != (series.shape[1], series.shape[0]):
            raise DataError(f"{file}: has pixels of shape {list(pixels.shape)}, its header says otherwise")
        slope, intercept = float(head.get("RescaleSlope", 1)), float(head.get("RescaleIntercept", 0))
        slices.append((pixels.astype(np.float64) * slope + intercept).astype(np.float32).T)
    return nibabel.Nifti1Image(np.stack(slices, axis=2), series.affine)


def _read(file: Path, pixels: bool) -> Any:
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ModuleNotFoundError as error:
        raise DataError('DICOM files need pydicom: pip install "unimatch[dicom]"') from error
    try:
        return pydicom.dcmread(file, stop_before_pixels=not pixels)
    except FileNotFoundError:
        raise
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{file}: is no DICOM file, or damaged ({' '.join(str(error).split())})") from error


def _check(file: Path, head: Any, first: Any) -> None:
    """DataError: not a slice of the stack of `first`."""
    if str(head.get("Modality", "")) in ("SEG", "RTSTRUCT"):
        raise DataError(f"{file}: is a {head.Modality} of DICOM, which is not read; convert labels to NIfTI")
    if int(head.get("NumberOfFrames") or 1) > 1:
        raise DataError(f"{file}: holds {head.NumberOfFrames} frames; convert it to NIfTI (dcm2niix)")
    lacks = [
        name
        for name in ("Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        if head.get(name) in (None, "", [])
    ]
    if lacks:
        raise DataError(f"{file}: has no {', '.join(lacks)}, so it is no slice of a volume")
    kind = str(head.get("PhotometricInterpretation", "MONOCHROME2"))
    if kind != "MONOCHROME2":
        raise DataError(
            f"{file}: has {kind} pixels; slices whose large values are white (MONOCHROME2) are read"
        )
    if "ModalityLUTSequence" in head:
        raise DataError(
            f"{file}: has a table of values (Modality LUT), which is not read; convert it to NIfTI"
        )
    for name in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
        mine, other = (np.array(one.get(name), np.float64) for one in (head, first))
        if not np.allclose(mine, other, atol=SAME):
            raise DataError(
                f"{file}: has another {name} than {Path(str(first.filename)).name} ({mine.tolist()} and "
                f"{other.tolist()}), so the folder is no stack of slices"
            )


def _gap(folder: Path, order: Sequence[Path], depths: np.ndarray) -> float:
    """The distance of slices. DataError: two in one place, or one that is missing."""
    gaps = np.diff(depths)
    twice = np.flatnonzero(gaps < SAME)
    if len(twice):
        pair = " and ".join(order[place].name for place in (twice[0], twice[0] + 1))
        raise DataError(
            f"{folder}: {len(twice)} slices lie where another one does, such as {pair}; is it a series over "
            "time? Give each moment a folder"
        )
    gap = float(gaps.min())
    odd = np.flatnonzero(np.abs(gaps - gap) > UNEVEN * gap)
    if len(odd):
        raise DataError(
            f"{folder}: slices lie {gap:g} mm apart, but {order[odd[0]].name} and {order[odd[0] + 1].name} "
            f"{gaps[odd[0]]:g} mm; is a slice missing?"
        )
    return gap
