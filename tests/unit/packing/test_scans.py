"""NIfTI volumes and DICOM series at packing: slices, values, labels on the same grid."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from tests.support.folder_source import save
from tests.support.scan_files import LAYOUT, body, save_dicom, save_nifti
from unimatch.codecs.decode import decode_grey, decode_label
from unimatch.codecs.scans import ScanRules
from unimatch.errors import ConfigError, DataError
from unimatch.packing.folder import pack
from unimatch.packing.recipe import Recipe, SubsetSource
from unimatch.shardset.archive import ShardSet

NIFTI = SubsetSource("images/*.nii.gz", "labels/{stem}.nii.gz")
DICOM = SubsetSource("scans/*/*.dcm", "labels/{stem}.nii.gz")
WINDOW = (-500.0, 700.0)
CLASSES = ("background", "liver", "tumour")


def scans(where: SubsetSource, **rules: Any) -> Recipe:
    return Recipe({"train": where}, CLASSES, scans=ScanRules(**{"window": WINDOW, **rules}))


def packed(
    made: Recipe, source: Path, workers: int = 1
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    out = source.parent / "out"
    pack(made, source, out, workers, overwrite=True)
    shards = ShardSet.open(out)
    records = [shards.read(row) for row in range(len(shards))]
    images = {record.key: decode_grey(record.image, record.where) for record in records}
    return images, {r.key: decode_label(r.label, r.where) for r in records if r.label is not None}


def refused(made: Recipe, source: Path) -> str:
    with pytest.raises(DataError) as error:
        pack(made, source, source.parent / "out", overwrite=True)
    return str(error.value)


def expected(window: tuple[float, float] = WINDOW) -> tuple[np.ndarray, np.ndarray]:
    """Grey [D, H, W] and ids as SAR: from below, rows to the front, columns to the right."""
    values, ids = (array.T[:, ::-1, ::-1] for array in body())
    scaled = (np.clip(values, *window) - window[0]) / (window[1] - window[0])
    return np.rint(scaled * 65535).astype(np.uint16), ids


def check(images: dict[str, np.ndarray], labels: dict[str, np.ndarray], name: str, wanted: Any) -> None:
    for index, (grey, ids) in enumerate(zip(*wanted, strict=True)):
        assert np.array_equal(images[f"{name}/{index:03d}"], grey), index
        assert np.array_equal(labels[f"{name}/{index:03d}"], ids), index


def source(root: Path) -> Path:
    values, ids = body()
    save_nifti(root / "source/images/a.nii.gz", values)
    save_nifti(root / "source/labels/a.nii.gz", ids)
    return root / "source"


@pytest.mark.parametrize("workers", [1, 2])
def test_slices_of_nifti_volumes(tmp_path: Path, workers: int) -> None:
    root = source(tmp_path)
    shutil.copy(root / "images/a.nii.gz", root / "images/b.v2.nii.gz")
    shutil.copy(root / "labels/a.nii.gz", root / "labels/b.v2.nii.gz")
    images, labels = packed(scans(NIFTI), root, workers)
    assert len(images) == 8
    check(images, labels, "images/a", expected())
    check(images, labels, "images/b%2Ev2", expected())


def test_a_label_stored_in_another_direction_is_turned_to_its_image(tmp_path: Path) -> None:
    root = source(tmp_path)
    image = nibabel.load(root / "labels/a.nii.gz")
    turned = nibabel.as_closest_canonical(image)  # other voxel order, the same places
    assert not np.array_equal(np.asarray(turned.dataobj), np.asarray(image.dataobj))
    nibabel.save(turned, root / "labels/a.nii.gz")
    check(*packed(scans(NIFTI), root), "images/a", expected())


def test_how_values_become_grey(tmp_path: Path) -> None:
    root = source(tmp_path)
    images, _ = packed(scans(NIFTI, window=(-100, 100)), root)
    assert np.array_equal(images["images/a/000"], expected((-100, 100))[0][0])
    images, _ = packed(scans(NIFTI, window=None, percentiles=(0, 100)), root)
    values = body()[0]
    assert np.array_equal(images["images/a/002"], expected((values.min(), values.max()))[0][2])
    images, _ = packed(scans(NIFTI, window=None, percentiles=(10, 90)), root)
    low, high = np.percentile(values, [10, 90])
    assert np.array_equal(images["images/a/003"], expected((low, high))[0][3])
    save_nifti(root / "images/a.nii.gz", np.full(values.shape, 7, np.int16))
    assert not packed(scans(NIFTI, window=None, percentiles=(0, 100)), root)[0]["images/a/000"].any()


def test_dicom_slices_are_ordered_by_their_position(tmp_path: Path) -> None:
    values, ids = body()
    root = tmp_path / "source"
    save_dicom(root / "scans/1.2.840", values)
    save_nifti(root / "labels/1.2.840.nii.gz", ids)
    images, labels = packed(scans(DICOM, dicom=True), root)
    check(images, labels, "scans/1%2E2%2E840", expected())
    # The same series, stored from the head down.
    shutil.rmtree(root / "scans")
    save_dicom(root / "scans/1.2.840", values[:, :, ::-1], ImagePositionPatient=lambda z: [0, 0, 9 - 3 * z])
    check(*packed(scans(DICOM, dicom=True), root), "scans/1%2E2%2E840", expected())


def test_dicom_files_without_an_extension(tmp_path: Path) -> None:
    root = tmp_path / "source"
    save_dicom(root / "scans/p1", body()[0])
    for path in (root / "scans/p1").iterdir():
        path.rename(path.with_suffix(""))
    (root / "scans/p1/DICOMDIR").write_bytes(b"")
    images, _ = packed(scans(SubsetSource("scans/*/*"), dicom=True), root)
    assert sorted(images) == [f"scans/p1/{index:03d}" for index in range(4)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"SeriesInstanceUID": lambda z: f"1.{z % 2}"},
            "holds 2 series ('chest' with 2 files, 'chest' with 2 files)",
        ),
        ({"ImagePositionPatient": lambda z: [0, 0, 3 * (z // 2)]}, "2 slices lie where another one does"),
        ({"ImagePositionPatient": lambda z: [0, 0, 3 * z + 3 * (z > 2)]}, "slices lie 3 mm apart, but"),
        ({"ImagePositionPatient": None}, "has no ImagePositionPatient, so it is no slice of a volume"),
        ({"PixelSpacing": lambda z: [2, 2 + (z == 1)]}, "has another PixelSpacing than"),
        ({"NumberOfFrames": 4}, "holds 4 frames; convert it to NIfTI"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "has MONOCHROME1 pixels"),
        ({"Modality": "SEG"}, "is a SEG of DICOM, which is not read"),
        ({"PixelData": b"\0\0"}, "its pixels cannot be read"),
    ],
)
def test_series_that_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    save_dicom(tmp_path / "source/scans/p1", body()[0], **changes)
    assert message in refused(scans(SubsetSource("scans/*/*.dcm"), dicom=True), tmp_path / "source")


def test_other_files_among_dicom_files(tmp_path: Path) -> None:
    root = tmp_path / "source"
    save_dicom(root / "scans/p1", body()[0])
    (root / "scans/p1/notes.dcm").write_text("hello")
    assert "notes.dcm: is no DICOM file" in refused(scans(DICOM, dicom=True), root)
    (root / "scans/p1/notes.dcm").rename(root / "scans/p1/notes.txt")
    where = SubsetSource(DICOM.images)
    assert len(packed(scans(where, dicom=True), root)[0]) == 4


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.diag([-2.0, -2.0, 4.0, 1.0]), "lies up to 3 mm beside its image images/a.nii.gz"),
        (np.eye(4), "beside its image"),
        (None, "labels/a.nii.gz: does not say how it lies (no affine)"),
    ],
)
def test_labels_on_another_grid(tmp_path: Path, affine: np.ndarray | None, message: str) -> None:
    root = source(tmp_path)
    image = nibabel.Nifti1Image(body()[1], affine)
    if affine is None:
        image.header["sform_code"] = image.header["qform_code"] = 0
        image.set_sform(None, 0)
        image.set_qform(None, 0)
    nibabel.save(image, root / "labels/a.nii.gz")
    assert message in refused(scans(NIFTI), root) and "axcodes: stored" in refused(scans(NIFTI), root)
    images, labels = packed(scans(NIFTI, axcodes="stored"), root)
    values, ids = (array.T for array in body())
    assert np.array_equal(labels["images/a/002"], ids[2]) and images["images/a/000"].shape == values.shape[1:]


def test_a_label_turned_about_the_diagonal_of_its_image(tmp_path: Path) -> None:
    """Its first and its last voxel lie where the image's do."""
    root = source(tmp_path)
    image: Any = nibabel.load(root / "images/a.nii.gz")
    ends = image.affine @ np.array([[0, 0, 0, 1], [*(side - 1 for side in image.shape), 1]]).T
    first, last = ends[:3].min(1), ends[:3].max(1)  # of the slices, which go up, to the front and right
    x, y, z = (last - first) / np.linalg.norm(last - first)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.eye(4)
    turn[:3, :3] += np.sin(0.4) * cross + (1 - np.cos(0.4)) * cross @ cross
    turn[:3, 3] = first - turn[:3, :3] @ first
    affine = turn @ image.affine
    nibabel.save(nibabel.Nifti1Image(body()[1], affine), root / "labels/a.nii.gz")
    assert "beside its image images/a.nii.gz" in refused(scans(NIFTI), root)


def test_labels_of_another_shape_values_or_kind(tmp_path: Path) -> None:
    root = source(tmp_path)
    save_nifti(root / "labels/a.nii.gz", body(depth=3)[1])
    assert "has slices of the shape [3, 6, 5], its image images/a.nii.gz [4, 6, 5]" in refused(
        scans(NIFTI), root
    )
    save_nifti(root / "labels/a.nii.gz", body()[1] * 3)
    assert "labels/a.nii.gz: unknown id 3 (6 pixels), 6" in refused(scans(NIFTI), root)
    save_nifti(root / "labels/a.nii.gz", body()[1].astype(np.float32) / 2)
    assert "no whole numbers" in refused(scans(NIFTI), root)
    (root / "labels/a.nii.gz").unlink()
    assert "labels/a.nii.gz: no such file (label of images/a.nii.gz)" in refused(scans(NIFTI), root)
    save(root / "labels/a.png", np.zeros((4, 4), np.uint8))
    where = SubsetSource(NIFTI.images, "labels/{stem}.png")
    assert "labels/a.png: labels of scans are NIfTI files" in refused(scans(where), root)


def test_images_that_are_no_single_volume(tmp_path: Path) -> None:
    root = source(tmp_path)
    save_nifti(root / "images/a.nii.gz", np.zeros((5, 6, 4, 2), np.int16))
    assert "has the shape [5, 6, 4, 2], expected [X, Y] or [X, Y, Z]" in refused(scans(NIFTI), root)
    save_nifti(root / "images/a.nii.gz", np.full((5, 6, 4), np.nan, np.float32))
    assert "has voxels that are NaN or infinite" in refused(scans(NIFTI), root)
    (root / "images/a.nii.gz").write_bytes(b"nothing")
    assert "no NIfTI file, or damaged" in refused(scans(NIFTI), root)


def test_without_rules_one_line_says_what_to_write(tmp_path: Path) -> None:
    root = source(tmp_path)
    for name in "bcd":
        shutil.copy(root / "images/a.nii.gz", root / f"images/{name}.nii.gz")
    text = refused(Recipe({"train": NIFTI}, CLASSES), root)
    assert "1 problems" in text and "4 of the images are NIfTI volumes, such as images/a.nii.gz" in text
    assert "`scans: {window: [-160, 240]}`" in text
    save_dicom(root / "scans/p1", body()[0])
    text = refused(Recipe({"train": DICOM}, CLASSES), root)
    assert "`scans: {dicom: true, window: [-160, 240]}`" in text


def test_rules_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="give either window"):
        ScanRules()
    with pytest.raises(ConfigError, match="give either window"):
        ScanRules(window=(0, 1), percentiles=(0, 100))
    for rules in ({"window": (5, 5)}, {"percentiles": (-1, 50)}, {"percentiles": (1, 101)}):
        with pytest.raises(ConfigError, match="must be below"):
            ScanRules(**rules)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="axcodes"):
        ScanRules(window=(0, 1), axcodes="XYZ")
    with pytest.raises(ConfigError, match="labels of scans are ids"):
        Recipe(
            {"a": NIFTI},
            CLASSES,
            colors=((0, 0, 0),) * 3,
            label_kind="colors",
            scans=ScanRules(window=(0, 1)),
        )


def test_a_scan_that_changed_is_read_again(tmp_path: Path) -> None:
    root = source(tmp_path)
    before, _ = packed(scans(NIFTI), root)
    save_nifti(root / "images/a.nii.gz", body()[0] + 100, LAYOUT)
    after, _ = packed(scans(NIFTI), root)
    assert not np.array_equal(before["images/a/001"], after["images/a/001"])
