"""Picture files of other programs: what else is in them, and the reason where they are not read."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.support.tiff_files import FLOAT, tiff_bytes
from unimatch.codecs import opening
from unimatch.codecs.decode import decode_image
from unimatch.codecs.encode import ImageRules, pack_image
from unimatch.errors import DataError


def picture(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 250, (6, 8, channels), np.uint8)


def as_file(kind: str, *frames: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    first, *more = [Image.fromarray(frame) for frame in frames]
    pages = {"save_all": True, "append_images": more} if more else {}
    first.save(file, kind, **pages, **options)
    return file.getvalue()


def bands(count: int, extra: tuple[int, ...]) -> bytes:
    return tiff_bytes(picture(count), 8, photometric=2, extra=extra)


@pytest.mark.parametrize("turn", range(1, 9))
def test_turned_pixels_are_those_that_pillow_shows(turn: int) -> None:
    exif = Image.Exif()
    exif[opening.ORIENTATION] = turn
    with Image.open(io.BytesIO(as_file("PNG", picture(), exif=exif))) as opened:
        opened.load()
        assert opening.exif_turn(opened) == turn
        shown = np.asarray(ImageOps.exif_transpose(opened))
    assert np.array_equal(opening.upright(picture(), turn), shown)


@pytest.mark.parametrize(
    ("data", "extra"),
    [
        (bands(4, (0,)), "4 bands"),  # RGB and one of no named kind
        (bands(4, (2,)), "4 bands"),  # called transparency, but with values like a picture's
        (bands(5, (0, 0)), "5 bands"),
        (tiff_bytes(picture(2), 8, extra=(0,)), "2 bands"),
        (as_file("TIFF", picture(), picture()), "2 pages"),
        (as_file("WEBP", picture(), 255 - picture(), lossless=True), "2 frames"),
        (as_file("PNG", picture(), 255 - picture()), "2 frames"),
        (as_file("GIF", picture()[..., 0], 255 - picture()[..., 0]), "2 frames"),
    ],
)
def test_what_would_be_dropped_is_refused_or_told(data: bytes, extra: str) -> None:
    with pytest.raises(DataError, match=f"x: is a .* of {extra}; save .*`drop_extra: true"):
        pack_image(data, "x", ImageRules())
    stored = pack_image(data, "x", ImageRules(drop_extra=True))
    assert stored.dropped == extra and stored.size == (6, 8)
    assert decode_image(stored.data, "x").shape == (6, 8, 3)


def test_transparency_and_overviews_are_no_other_pictures() -> None:
    opaque = np.dstack([picture(), np.full((6, 8), 255, np.uint8)])
    for data in (as_file("TIFF", opaque), as_file("PNG", opaque), as_file("MPO", picture(), picture())):
        assert pack_image(data, "x", ImageRules()).dropped is None
    file = io.BytesIO()
    overview = Image.fromarray(picture()[::2, ::2])
    overview.encoderinfo = {"tiffinfo": {opening.SUBFILE: 1}}
    Image.fromarray(picture()).save(file, "TIFF", save_all=True, append_images=[overview])
    with Image.open(io.BytesIO(file.getvalue())) as opened:
        assert opened.n_frames == 2
    assert pack_image(file.getvalue(), "x", ImageRules()).dropped is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "x: is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\n<!doctype HTML><html>", "is a web page"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "is a HEIC photo; convert it to JPEG"),
        (b"nothing", "x: is not a picture"),
        (tiff_bytes(np.zeros((6, 8), np.float64), 64, FLOAT), "a TIFF of 1 band of 64 bits .float., which"),
        (tiff_bytes(picture(4), 8, extra=(0, 0, 0)), "a TIFF of 4 bands of 8 bits .unsigned., which is not"),
        (b"II*\0\xff\xff\xff\xff", "is a damaged TIFF"),
    ],
)
def test_the_true_reason_is_told(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        opening.open_picture(data, "x")


def test_a_damaged_page_is_a_reason() -> None:
    """The offset of a second page that is none."""
    data = bytearray(tiff_bytes(picture(), 8, photometric=2))
    after = 8 + 2 + 12 * int.from_bytes(data[8:10], "little")
    data[after : after + 4] = (len(data) - 40).to_bytes(4, "little")
    with pytest.raises((DataError, OSError)):
        pack_image(bytes(data), "x", ImageRules())


def test_the_upper_byte_of_deep_colour_is_not_taken_for_the_picture() -> None:
    deep = tiff_bytes(picture().astype(np.uint16) * 16, 16, photometric=2)
    with pytest.raises(DataError, match="x: has RGB pixels of 16 bits; convert it to 8 bits a channel"):
        pack_image(deep, "x", ImageRules())


@pytest.mark.parametrize(("kind", "channels"), [("png", 3), ("png", 4), ("jp2", 3)])
def test_nor_is_that_of_deep_colour_in_other_files(kind: str, channels: int) -> None:
    """Of 12 bits in 16, as cameras and microscopes write them, the upper 8 are a dark picture."""
    deep = np.full((64, 64, channels), 255 << 4, np.uint16)
    done, data = cv2.imencode(f".{kind}", deep)
    assert done
    with pytest.raises(DataError, match=r"x: has RGBA? pixels of 16 bits; convert it to 8 bits a channel"):
        pack_image(data.tobytes(), "x", ImageRules())


def test_large_pictures_are_read_up_to_the_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Image.MAX_IMAGE_PIXELS is None  # Pillow's own limit ends a packing as an attack
    monkeypatch.setattr(opening, "MAX_PIXELS", 47)
    with pytest.raises(DataError, match="x: is 8x6 pixels, at most 47 .* cut it into tiles"):
        opening.open_picture(as_file("PNG", picture()), "x")


@pytest.mark.parametrize(
    ("kind", "options", "lossy"),
    [
        ("JPEG", {}, "JPEG"),
        ("WEBP", {"lossless": False}, "lossy WebP"),
        ("WEBP", {"lossless": False, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}, "lossy WebP"),
        ("WEBP", {"lossless": True}, None),
        ("TIFF", {"compression": "jpeg"}, "TIFF compressed as JPEG"),
        ("TIFF", {"compression": "tiff_lzw"}, None),
        ("JPEG2000", {"irreversible": True}, "lossy JPEG 2000"),
        ("JPEG2000", {}, None),
        ("PNG", {}, None),
    ],
)
def test_formats_that_change_pixels(kind: str, options: dict[str, Any], lossy: str | None) -> None:
    data = as_file(kind, picture().repeat(8, 0).repeat(8, 1), **options)
    with Image.open(io.BytesIO(data)) as opened:
        assert opening.lossy_format(opened, data) == lossy
