"""NIfTI volumes in all 48 ways to lie become the same slices, and ids go back onto the file's voxels."""

from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest

from unimatch.codecs.nifti import AXCODES, STORED, check_axcodes, read_nifti, write_ids
from unimatch.errors import ConfigError, DataError

# A RAS volume whose number says its place: 100 x + 10 y + z, x to the right, y to the front, z up.
RAS = np.add.outer(np.add.outer(100 * np.arange(5), 10 * np.arange(4)), np.arange(3)).astype(np.int16)
SPACING = np.diag([1.5, 1.25, 8.0])
TILT = np.array([[1, 0.1, -0.05], [-0.1, 1, 0.1], [0.05, -0.1, 1]])


def stored(order: tuple[int, ...], signs: tuple[int, ...], tilt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The volume with its axes in another order and direction, and the affine that says so."""
    array = RAS.transpose(order)
    affine = np.eye(4)
    affine[:3, :3] = (tilt @ SPACING)[:, order] * signs
    for axis, sign in enumerate(signs):
        if sign < 0:
            array = np.flip(array, axis)
            affine[:3, 3] -= affine[:3, axis] * (array.shape[axis] - 1)
    return np.ascontiguousarray(array), affine


WAYS = list(product(permutations(range(3)), product((1, -1), repeat=3)))


@pytest.mark.parametrize("tilt", [np.eye(3), TILT], ids=["straight", "tilted"])
@pytest.mark.parametrize(("order", "signs"), WAYS)
def test_every_way_to_lie_gives_the_same_slices(
    tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...], tilt: np.ndarray
) -> None:
    array, affine = stored(order, signs, tilt)
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "v.nii")
    expected = {
        "SAR": RAS.transpose(2, 1, 0),
        "SRA": RAS.transpose(2, 0, 1),
        "SPL": RAS.transpose(2, 1, 0)[:, ::-1, ::-1],
        "LIA": RAS.transpose(0, 2, 1)[::-1, ::-1],
        STORED: array.T,
    }
    assert AXCODES == "SAR"
    for axcodes, slices in expected.items():
        volume = read_nifti(tmp_path / "v.nii", axcodes)
        np.testing.assert_array_equal(volume.values, slices)
        write_ids(tmp_path / "ids.nii", (volume.values % 251).astype(np.uint8), volume)
        ids = nibabel.load(tmp_path / "ids.nii")
        np.testing.assert_array_equal(np.asarray(ids.dataobj), array % 251)
        for name in ("sform_code", "qform_code", "pixdim", "srow_x", "srow_y", "srow_z", "quatern_b"):
            np.testing.assert_array_equal(ids.header[name], volume.image.header[name])


def test_a_file_that_does_not_say_how_it_lies_is_taken_as_ras(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(RAS, None)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nibabel.save(image, tmp_path / "v.nii")
    volume = read_nifti(tmp_path / "v.nii")
    assert volume.unplaced
    np.testing.assert_array_equal(volume.values, RAS.T)
    array, affine = stored((0, 1, 2), (1, 1, 1), np.eye(3))
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "told.nii")
    assert not read_nifti(tmp_path / "told.nii").unplaced


def test_a_single_slice_of_another_plane_is_refused_with_the_axcodes_that_take_it(tmp_path: Path) -> None:
    coronal, affine = RAS[:, 2:3], np.diag([1.5, 1.25, 8, 1])
    nibabel.save(nibabel.Nifti1Image(coronal, affine), tmp_path / "v.nii")
    with pytest.raises(DataError, match=r"v.nii: is a single slice across A .5 x 1 x 3.*give 'ASR'"):
        read_nifti(tmp_path / "v.nii")
    np.testing.assert_array_equal(read_nifti(tmp_path / "v.nii", "ASR").values[0], coronal[:, 0].T)


def test_an_affine_that_says_nothing_is_refused(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(RAS, np.eye(4))
    image.header["srow_z"] = 0
    nibabel.save(nibabel.Nifti1Image(RAS, None, image.header), tmp_path / "v.nii")
    with pytest.raises(DataError, match="v.nii: its affine maps no volume.*'stored'"):
        read_nifti(tmp_path / "v.nii")
    np.testing.assert_array_equal(read_nifti(tmp_path / "v.nii", STORED).values, RAS.T)


def test_voxels_of_several_numbers_are_refused(tmp_path: Path) -> None:
    colour = np.zeros((3, 3, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colour, np.eye(4)), tmp_path / "v.nii")
    with pytest.raises(DataError, match="v.nii: has .* voxels, expected one number each"):
        read_nifti(tmp_path / "v.nii")


def test_axcodes_name_each_axis_once() -> None:
    for good in ("SAR", "LPI", "RSA", STORED):
        check_axcodes(good)
    for bad in ("", "SA", "SAA", "SAI", "sar", "SARS", "XYZ"):
        with pytest.raises(ConfigError, match="axcodes are the directions"):
            check_axcodes(bad)
