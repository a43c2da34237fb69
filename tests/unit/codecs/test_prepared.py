"""What predict reads of a file is what training sees of it when it has been packed, to the bit."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image

from tests.support.tiff_files import tiff_bytes
from unimatch.codecs.decode import decode_grey, decode_image
from unimatch.codecs.encode import ImageRules, pack_image, png
from unimatch.codecs.prepared import Preparation, restored
from unimatch.codecs.scans import ScanRules
from unimatch.errors import DataError
from unimatch.packing.convert import Rules, read_image
from unimatch.packing.labels import LabelRules
from unimatch.packing.layout import Job

COLOR = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8), (45, 33))


def saved(kind: str, mode: str = "RGB", turn: int = 1, **options: object) -> bytes:
    image, file = Image.fromarray(COLOR).convert(mode), io.BytesIO()
    if turn > 1:
        exif = Image.Exif()
        exif[0x112] = turn
        options["exif"] = exif
    image.save(file, kind, **options)
    return file.getvalue()


FILES = {
    "rgb.png": saved("PNG"),
    "grey.png": saved("PNG", "L"),
    "palette.png": saved("PNG", "P"),
    "alpha.png": saved("PNG", "RGBA"),
    "two-valued.png": saved("PNG", "1"),
    "turned.png": saved("PNG", turn=3),
    "photo.jpg": saved("JPEG", quality=80),
    "grey.jpg": saved("JPEG", "L"),
    "turned.jpg": saved("JPEG", turn=6, quality=90),
    "unknown turn.jpg": saved("JPEG", turn=9),
    "cmyk.jpg": saved("JPEG", "CMYK"),
    "photo.webp": saved("WEBP"),
    "rgb.tif": saved("TIFF"),
    "deflated.tif": saved("TIFF", compression="tiff_adobe_deflate"),
    "turned.tif": saved("TIFF", turn=8),
    "rgb.bmp": saved("BMP"),
    "palette.gif": saved("GIF", "P"),
}
SIDES = COLOR.shape[:2]
ON_EDGE = ("turned.jpg", "turned.tif")  # a quarter turn
RECIPES = [
    Preparation(),
    Preparation(downscale=2),
    Preparation(png="jpeg"),
    Preparation(png="webp"),
    Preparation(downscale=3, png="jpeg"),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize("name", FILES)
def test_a_picture_is_read_as_it_would_have_been_packed(
    tmp_path: Path, name: str, recipe: Preparation
) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    rules = ImageRules(recipe.downscale, recipe.png)
    packed = pack_image(FILES[name], name, rules)
    pixels, size = recipe.read_photo(tmp_path / name)
    np.testing.assert_array_equal(pixels, decode_image(packed.data, name))
    assert size == (packed.full_size or packed.size) == (SIDES[::-1] if name in ON_EDGE else SIDES)
    if recipe.png != "webp":
        fast = pack_image(FILES[name], name, ImageRules(recipe.downscale, recipe.png, fast_decode=True))
        np.testing.assert_array_equal(pixels, decode_image(fast.data, name))


REFUSED = {
    "deep.png": png(np.zeros((5, 6), np.uint16)),
    "deep.tif": tiff_bytes(np.zeros((5, 6, 3), np.uint16), 16, photometric=2),
    "bands.tif": tiff_bytes(np.arange(100, 220, dtype=np.uint8).reshape(5, 6, 4), 8, photometric=2),
    "pages.tif": saved("TIFF", save_all=True, append_images=[Image.fromarray(COLOR)]),
    "cut.jpg": saved("JPEG")[:300],
    "cut.tif": saved("TIFF")[:900],
    "text.png": b"no picture",
    "empty.png": b"",
    "link.png": b"version https://git-lfs.github.com/spec/v1\n",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_packing_refuses_is_refused_for_the_same_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(REFUSED[name])
    with pytest.raises(DataError) as told:
        Preparation().read_photo(tmp_path / name)
    assert str(told.value).startswith(f"{tmp_path / name}: ")
    with pytest.raises((DataError, OSError, SyntaxError)) as packing:
        pack_image(REFUSED[name], "FILE", ImageRules())
    assert str(packing.value).removeprefix("FILE: ") in str(told.value)


def test_what_the_recipe_leaves_out_is_left_out(tmp_path: Path) -> None:
    data = tiff_bytes(np.random.default_rng(1).integers(0, 256, (5, 6, 4), np.uint8), 8, photometric=2)
    (tmp_path / "a.tif").write_bytes(data)
    pixels, _ = Preparation(drop_extra=True).read_photo(tmp_path / "a.tif")
    packed = pack_image(data, "a.tif", ImageRules(drop_extra=True))
    np.testing.assert_array_equal(pixels, decode_image(packed.data, "a.tif"))


def packing(downscale: int, scans: ScanRules | None = None) -> Rules:
    return Rules(ImageRules(downscale), LabelRules("ids", {}), scans, "zst", 2)


@pytest.mark.parametrize("downscale", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_volumes_and_grey_pictures_are_made_smaller_as_packing_does(
    tmp_path: Path, downscale: int, dtype: type
) -> None:
    values = np.random.default_rng(2).integers(0, 256, (3, 17, 22)).astype(dtype)
    values = values / 255 if dtype is np.float32 else values
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["image"] = values.astype(dtype)
    volume = Preparation(downscale).read_volume(tmp_path / "v.h5")
    assert volume.size == (17, 22)
    for number, one in enumerate(volume.slices):
        job = Job(tmp_path, "k", "v.h5#image", slice=number)
        packed = read_image(job, "v.h5#image", packing(downscale))
        np.testing.assert_array_equal(one, decode_grey(packed.data, "v"))
    if dtype is not np.float32:
        (tmp_path / "slice.png").write_bytes(png(values[0]))
        grey, size = Preparation(downscale).read_grey(tmp_path / "slice.png")
        np.testing.assert_array_equal(grey, volume.slices[0])
        assert size == (17, 22)


@pytest.mark.parametrize("downscale", [1, 2])
@pytest.mark.parametrize(
    "scans",
    [
        ScanRules(window=(-20, 60.5), axcodes="SRA"),
        ScanRules(percentiles=(2, 95)),
        ScanRules(percentiles=(0, 100), axcodes="stored"),
    ],
    ids=str,
)
def test_scans_become_grey_as_packing_makes_them(tmp_path: Path, scans: ScanRules, downscale: int) -> None:
    values = np.random.default_rng(3).normal(10, 50, (9, 8, 4)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1, 1, 3, 1.0])), tmp_path / "v.nii")
    prepared = Preparation(downscale, scans=scans)
    prepared = Preparation.of(json.loads(json.dumps(prepared.to_json())))
    assert prepared.scans == scans and prepared.knows_axcodes
    for number, one in enumerate(prepared.read_volume(tmp_path / "v.nii").slices):
        job = Job(tmp_path, "k", "v.nii", slice=number, scan="*.nii")
        packed = read_image(job, "v.nii", packing(downscale, scans))
        np.testing.assert_array_equal(one, decode_grey(packed.data, "v"))
    turned = prepared.turned_to("ASR").scans
    assert turned is not None and (turned.axcodes, turned.window) == ("ASR", scans.window)


def test_grey_files_of_any_format_are_grey_and_others_are_refused(tmp_path: Path) -> None:
    grey = COLOR[..., 0]
    for name in ("a.png", "a.tif", "a.bmp"):
        Image.fromarray(grey).save(tmp_path / name)
        pixels, size = Preparation().read_grey(tmp_path / name)
        np.testing.assert_array_equal(pixels, grey.astype(np.uint16) * 257)
        assert size == grey.shape and pixels.dtype == np.uint16
    for name in ("rgb.png", "palette.png", "photo.jpg"):
        (tmp_path / name).write_bytes(FILES[name])
        with pytest.raises(DataError, match=f"{name}: a colour or palette picture .*reads greyscale"):
            Preparation().read_grey(tmp_path / name)


def test_ids_come_back_to_the_size_of_the_file() -> None:
    ids = np.arange(6, dtype=np.uint8).reshape(2, 3)
    np.testing.assert_array_equal(restored(ids, (4, 6)), ids.repeat(2, 0).repeat(2, 1))
    assert restored(ids, (2, 3)) is ids
    uneven = restored(ids[None], (5, 7))
    assert uneven.shape == (1, 5, 7)
    y, x = ((np.arange(size) + 0.5) * small / size for size, small in ((5, 2), (7, 3)))
    np.testing.assert_array_equal(uneven[0], ids[np.ix_(y.astype(int), x.astype(int))])


def test_settings_that_are_not_known_are_passed_over() -> None:
    found = Preparation.of({"recipe": "file", "downscale": 4, "png": "keep", "seed": 3, "axcodes": "SPL"})
    assert found == Preparation(downscale=4, axcodes="SPL") and Preparation.of(found.to_json()) == found
