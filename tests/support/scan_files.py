"""Small NIfTI volumes and DICOM series with known values, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np

LAYOUT = np.diag([-2.0, -2.0, 3.0, 1.0])  # columns go to the left, rows to the back, slices to the head


def body(depth: int = 4, height: int = 6, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Values in Hounsfield units and ids of a scan, [X, Y, Z] to the left, back and head; no value twice."""
    values = np.arange(width * height * depth, dtype=np.int16).reshape(width, height, depth) * 10 - 500
    ids = np.zeros((width, height, depth), np.uint8)
    ids[1:3, 1:4, 1:] = 1
    ids[3, 5, 2] = 2
    return values, ids


def save_nifti(path: Path, values: np.ndarray, affine: np.ndarray = LAYOUT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)


def save_dicom(folder: Path, values: np.ndarray, uid: str = "1.2.3", **changes: Any) -> None:
    """The slices of [X, Y, Z] to the left, back and head, as CT files in another order of names."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    folder.mkdir(parents=True, exist_ok=True)
    for z in range(values.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = f"1.2.{z + 1}"
        head = pydicom.Dataset()
        head.file_meta = meta
        head.SOPClassUID, head.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        head.Modality, head.SeriesInstanceUID, head.SeriesDescription = "CT", uid, "chest"
        head.Rows, head.Columns, head.PixelSpacing = values.shape[1], values.shape[0], [2.0, 2.0]
        head.ImageOrientationPatient, head.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0.0, 0.0, 3.0 * z]
        head.SamplesPerPixel, head.PhotometricInterpretation = 1, "MONOCHROME2"
        head.BitsAllocated, head.BitsStored, head.HighBit, head.PixelRepresentation = 16, 16, 15, 0
        head.RescaleSlope, head.RescaleIntercept = 10, -1000
        head.PixelData = ((values[:, :, z].T.astype(np.int64) + 1000) // 10).astype("<u2").tobytes()
        for name, value in changes.items():
            setattr(head, name, value(z) if callable(value) else value)
        head.save_as(folder / f"{(7 * z) % 11:03d}.dcm", enforce_file_format=True)
