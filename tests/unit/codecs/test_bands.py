"""Images of any number of channels: their files, and what their bands say of them."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from unimatch.codecs import tiles
from unimatch.codecs.bands import Bands, default_show, sums_of
from unimatch.codecs.decode import decode_grey, decode_image, decode_rgb, image_header
from unimatch.codecs.region import decode_channels, decode_part
from unimatch.errors import DataError

KINDS = [(channels, dtype) for channels in (1, 2, 3, 4, 7) for dtype in (np.uint8, np.uint16)]


def noise(channels: int, dtype: type, height: int = 150, width: int = 200) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, True)


def bands(**changes: object) -> Bands:
    values: dict = {
        "order": (3, 1),
        "names": ("red", ""),
        "ranges": ((0.0, 1000.0), (-10.0, 10.0)),
        "depth": 8,
        "show": (0, 1, 1),
    }
    return Bands(**{**values, **changes})


@pytest.mark.parametrize(("channels", "dtype"), KINDS)
def test_files_hold_the_pixels_whole_and_in_part(channels: int, dtype: type) -> None:
    image = noise(channels, dtype)
    data = tiles.encode(image)
    header = image_header(data, "x")
    assert header[:5] == ("tiff", 200, 150, channels, 8 * np.dtype(dtype).itemsize)
    whole = decode_image(data, "x")
    assert whole.dtype == dtype and np.array_equal(whole, image)
    part = decode_channels(data, (130, 20, 180, 140), "x", channels, dtype)
    assert np.array_equal(part.cut((130, 20, 180, 140)).pixels, image[20:140, 130:180])
    assert part.pixels.shape[1] < 200, "a part, not all"


@pytest.mark.parametrize(("channels", "dtype"), KINDS)
def test_gdal_reads_the_files(channels: int, dtype: type, tmp_path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    image = noise(channels, dtype)
    (tmp_path / "x.tif").write_bytes(tiles.encode(image))
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(tmp_path / "x.tif") as file:
        assert np.array_equal(np.moveaxis(file.read(), 0, -1), image)


def test_each_reader_takes_its_own_kind() -> None:
    rgb, four, deep = (tiles.encode(noise(*kind)) for kind in ((3, np.uint8), (4, np.uint8), (4, np.uint16)))
    assert decode_rgb(rgb, "x").shape == (150, 200, 3)
    for data, text in (
        (four, "4 channels of 8 bits, but 3 of 8"),
        (deep, "4 channels of 16 bits, but 3 of 8"),
    ):
        for read in (decode_rgb, lambda data, where: decode_part(data, (0, 0, 9, 9), where)):
            with pytest.raises(DataError, match=f"^x: an image of {text}"):
                read(data, "x")
    with pytest.raises(DataError, match="x: an image of 4 channels of 16 bits, but 4 of 8"):
        decode_channels(deep, (0, 0, 9, 9), "x", 4, np.uint8)
    with pytest.raises(DataError, match="reads greyscale"):
        decode_grey(tiles.encode(noise(1, np.uint8)), "x")


def test_damaged_and_foreign_files_are_refused() -> None:
    data = tiles.encode(noise(4, np.uint16))
    with pytest.raises(DataError, match="cut short"):
        decode_channels(data[:-9], (0, 0, 9, 9), "x", 4, np.uint16)
    broken = bytearray(data)
    broken[-2000:-1000] = bytes(1000)
    with pytest.raises(DataError, match="x: the image is damaged"):
        decode_channels(bytes(broken), (0, 0, 200, 150), "x", 4, np.uint16)
    mixed = data.replace(struct.pack("<4H", 16, 16, 16, 16), struct.pack("<4H", 16, 16, 8, 16), 1)
    with pytest.raises(DataError, match="TIFF of another program"):
        image_header(mixed, "x")


def test_numbers_are_scaled_clipped_and_counted() -> None:
    values = np.array([[[0, 500, 1000, 1200]], [[-11, -10, 0, 10]]], np.int16)
    valid = np.array([[True, True, True, True]])
    image, clipped = bands().stored(values, valid)
    assert image.tolist() == [[[0, 0], [128, 0], [255, 128], [255, 255]]] and clipped == 2
    image, clipped = bands().stored(values, np.array([[False, True, True, False]]))
    assert image.tolist() == [[[0, 0], [128, 0], [255, 128], [0, 0]]] and clipped == 0
    image, _ = bands(depth=16).stored(values, valid)
    assert image.dtype == np.uint16 and image[0, :, 0].tolist() == [0, 32768, 65535, 65535]


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint32"])
def test_scaling_is_exact_at_both_ends(dtype: str) -> None:
    values = np.array([[[0, 1000]], [[0, 10]]]).astype(dtype)
    image, clipped = bands(ranges=((0.0, 1000.0), (0.0, 10.0))).stored(values, np.ones((1, 2), bool))
    assert image.tolist() == [[[0, 0], [255, 255]]] and not clipped


def test_statistics_are_those_of_the_pixels_that_were_measured() -> None:
    image = noise(2, np.uint8)
    valid = np.random.default_rng(1).random(image.shape[:2]) < 0.5
    sums = sums_of(image[:70], valid[:70]) + sums_of(image[70:], valid[70:])
    found = bands().measured(sums)
    assert np.allclose(found.mean, (image[valid] / 255).mean(axis=0))
    assert np.allclose(found.std, (image[valid] / 255).std(axis=0))
    assert bands().measured(np.zeros((3, 2))) == bands(), "nothing measured"


def test_json_brings_it_back() -> None:
    measured = bands(nodata=-9999.0, mean=(0.25, 0.5), std=(0.1, 0.2))
    assert Bands.from_json(measured.to_json()) == measured
    assert Bands.from_json({**bands().to_json(), "ranges": [[0.0, 1000.0], [-10.0, 10.0]]}) == bands()


def test_pictures_show_the_chosen_bands_around_their_mean() -> None:
    image = np.array([[[51, 102, 0, 204]]], np.uint8)
    four = Bands((1, 2, 3, 4), ("",) * 4, ((0.0, 1.0),) * 4, 8, (3, 1, 0))
    assert four.picture(image).tolist() == [[[204, 102, 51]]]
    known = Bands(
        (1, 2, 3, 4),
        ("",) * 4,
        ((0.0, 1.0),) * 4,
        8,
        (3, 1, 0),
        None,
        mean=(0.2, 0.6, 0.0, 0.0),
        std=(0.1, 0.1, 1.0, 0.1),
    )
    # The mean is mid grey, two deviations below it black, beyond two above it white.
    assert known.picture(image).tolist() == [[[255, 0, 128]]]
    assert [default_show(count) for count in (1, 2, 3, 5)] == [(0, 0, 0), (0, 1, 1), (0, 1, 2), (0, 1, 2)]
