"""Volumes from files and labels back to them: values, axes and grids."""

from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from unimatch.codecs.nifti import STORED
from unimatch.codecs.scans import ScanRules
from unimatch.codecs.volume_files import is_volume, read_volume, write_labels
from unimatch.errors import DataError

AFFINE = np.array([[-1.5, 0.1, 0, 40], [0, 1.4, 0.2, -30], [0.1, 0, 8.0, 5], [0, 0, 0, 1]])


def write_h5(path: Path, values: np.ndarray, name: str = "image") -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=values)
    return path


def write_nifti(path: Path, values: np.ndarray) -> Path:
    image = nibabel.Nifti1Image(values, AFFINE)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.float32, [0, 13107, 65535]),
        (np.float64, [0, 13107, 65535]),
        (np.uint8, [0, 51 * 257, 65535]),
        (np.uint16, [0, 13107, 65535]),
    ],
)
def test_hdf5_values_are_those_that_packing_takes(tmp_path: Path, dtype: type, expected: list[int]) -> None:
    white = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
    values = np.array([0, 0.2, 1]) * white
    volume = read_volume(write_h5(tmp_path / "v.h5", np.broadcast_to(values, (2, 4, 3)).astype(dtype)))
    assert volume.slices.dtype == np.uint16 and volume.slices.shape == (2, 4, 3)
    assert volume.slices[1, 3].tolist() == expected


@pytest.mark.parametrize("shape", [(3, 5, 4), (5, 4)])
def test_hdf5_labels_have_the_shape_of_the_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    volume = read_volume(write_h5(tmp_path / "v.h5", np.zeros(shape, np.uint8)))
    assert volume.slices.shape == (shape if len(shape) == 3 else (1, *shape))
    ids = np.arange(volume.slices.size, dtype=np.uint8).reshape(volume.slices.shape)
    write_labels(tmp_path / "out" / "v.h5", ids, volume)
    with h5py.File(tmp_path / "out" / "v.h5") as file:
        assert list(file) == ["label"] and file["label"].dtype == np.uint8
        np.testing.assert_array_equal(file["label"][()], ids.reshape(shape))


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_nifti_keeps_axes_affine_and_units(tmp_path: Path, name: str) -> None:
    values = np.arange(5 * 4 * 3).reshape(5, 4, 3).astype(np.int16) - 7
    volume = read_volume(
        write_nifti(tmp_path / name, values), ScanRules(percentiles=(0, 100), axcodes="SAL")
    )  # as the file lies
    assert volume.slices.shape == (3, 4, 5)
    for x, y, z in ((0, 0, 0), (4, 1, 2), (2, 3, 1)):
        assert volume.slices[z, y, x] == round((int(values[x, y, z]) + 7) * 65535 / 59)
    ids = (volume.slices > 30000).astype(np.uint8)
    write_labels(tmp_path / "out" / name, ids, volume)
    written = nibabel.load(tmp_path / "out" / name)
    np.testing.assert_array_equal(np.asarray(written.dataobj), values >= 21)
    np.testing.assert_allclose(written.affine, AFFINE, rtol=1e-6)
    assert written.get_data_dtype() == np.uint8
    assert written.header.get_zooms() == nibabel.load(tmp_path / name).header.get_zooms()
    assert written.header.get_xyzt_units()[0] == "mm" and written.header.get_intent()[0] == "label"


def test_nifti_with_a_scale_factor_is_scaled_once(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(8.0).reshape(2, 2, 2) * 0.25 - 1, AFFINE)
    image.header.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "v.nii")
    volume = read_volume(tmp_path / "v.nii", ScanRules(percentiles=(0, 100), axcodes=STORED))
    np.testing.assert_allclose(volume.slices.T.ravel() / 65535, np.arange(8) / 7, atol=1e-4)
    write_labels(tmp_path / "l.nii", np.full((2, 2, 2), 3, np.uint8), volume)
    assert (np.asarray(nibabel.load(tmp_path / "l.nii").dataobj) == 3).all()


def test_a_flat_slice_and_a_series_of_one_are_volumes(tmp_path: Path) -> None:
    for shape in ((5, 4), (5, 4, 2, 1)):
        volume = read_volume(write_nifti(tmp_path / "v.nii", np.full(shape, 9, np.int16)))
        assert not volume.slices.any() and volume.slices.shape[1:] == (4, 5)
        write_labels(tmp_path / "l.nii", np.ones_like(volume.slices, np.uint8), volume)
        assert nibabel.load(tmp_path / "l.nii").shape == shape


def test_names() -> None:
    yes = ("a.h5", "a.hdf5", "b/a.NII", "a.b.nii.gz")
    assert all(is_volume(Path(name)) for name in yes)
    assert not any(is_volume(Path(name)) for name in ("a.gz", "a.png", "nii", "a.nii.png"))


def test_what_is_no_volume_is_told_with_its_path(tmp_path: Path) -> None:
    series = write_nifti(tmp_path / "series.nii", np.zeros((3, 3, 2, 4), np.int16))
    nan = write_nifti(tmp_path / "nan.nii", np.full((3, 3, 2), np.nan, np.float32))
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(write_nifti(tmp_path / "whole.nii.gz", np.ones((9, 9, 9), np.int16)).read_bytes()[:-20])
    (tmp_path / "text.h5").write_text("no data")
    (tmp_path / "text.nii").write_text("no data")
    cases = {
        series: r"series.nii: has the shape \[3, 3, 2, 4\].*one file each",
        nan: "nan.nii: has voxels that are NaN or infinite",
        cut: "cut.nii.gz: no NIfTI file, or damaged",
        tmp_path / "text.nii": "text.nii: no NIfTI file, or damaged",
        tmp_path / "text.h5": "text.h5#image: no HDF5 file, or damaged",
        write_h5(tmp_path / "other.h5", np.zeros((2, 2)), "scan"): "no data set 'image'; the file has scan",
        write_h5(tmp_path / "hu.h5", np.full((2, 2), -900.0)): "pixels go from -900 to -900, expected 0 to 1",
        tmp_path / "none.h5": "none.h5: no such file",
        tmp_path / "none.nii": "none.nii: no such file",
    }
    for path, message in cases.items():
        with pytest.raises(DataError, match=message):
            read_volume(path)
