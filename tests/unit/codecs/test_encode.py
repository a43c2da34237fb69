"""How image files become members of a shard."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from unimatch.codecs.decode import decode_image
from unimatch.codecs.encode import ImageRules, jpeg, pack_image, png, webp
from unimatch.errors import DataError


def picture() -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(small, (80, 60), interpolation=cv2.INTER_NEAREST)


def as_file(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_sound_files_keep_their_bytes(kind: str, trust: bool) -> None:
    for mode in ("RGB", "L"):
        data = as_file(Image.fromarray(picture()).convert(mode), kind)
        stored = pack_image(data, "x", ImageRules(trust=trust))
        assert stored[:4] == (data, "jpg" if kind == "jpeg" else "png", (60, 80), None)


def test_trusted_images_are_not_decoded_but_must_be_whole() -> None:
    data = as_file(Image.fromarray(picture()), "png")
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    with pytest.raises(DataError, match="x: the image cannot be decoded"):
        pack_image(bytes(damaged), "x", ImageRules())
    assert pack_image(bytes(damaged), "x", ImageRules(trust=True))[0] == damaged
    for cut in (data[:-20], as_file(Image.fromarray(picture()), "jpeg")[:-20]):
        with pytest.raises(DataError, match="x: the image is cut short"):
            pack_image(cut, "x", ImageRules(trust=True))


@pytest.mark.parametrize("trust", [False, True])
def test_what_must_be_encoded_anew_is_so_when_trusted_too(trust: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = as_file(Image.fromarray(picture()), "jpeg", exif=exif)
    assert pack_image(turned, "x", ImageRules(trust=trust))[1:4] == ("jpg", (80, 60), "EXIF rotation")
    turned = as_file(Image.fromarray(picture()), "png", exif=exif)
    stored = pack_image(turned, "x", ImageRules(trust=trust))
    assert stored[1:4] == ("png", (80, 60), "EXIF rotation")
    assert (stored.turn, stored.full_size) == (6, (80, 60))
    assert (decode_image(stored[0], "x") == np.rot90(picture(), -1)).all()
    cmyk = as_file(Image.fromarray(picture()).convert("CMYK"), "jpeg")
    assert pack_image(cmyk, "x", ImageRules(trust=trust))[3] == "CMYK JPEG"


def test_png_as_lossless_webp() -> None:
    data, ext, size, note = pack_image(png(picture()), "x", ImageRules(png="webp"))[:4]
    assert (ext, size, note) == ("webp", (60, 80), "PNG as lossless WebP")
    assert (decode_image(data, "x") == picture()).all()


def test_png_as_jpeg_keeps_its_colours() -> None:
    data, ext, size, note = pack_image(png(picture()), "x", ImageRules(png="jpeg"))[:4]
    assert (ext, size, note) == ("jpg", (60, 80), "PNG as JPEG")
    expected = picture().astype(int)
    error = np.abs(decode_image(data, "x") - expected).mean()
    halved = np.abs(decode_image(jpeg(picture(), 95), "x") - expected).mean()
    assert error < 2 and error < 0.7 * halved  # colour at full resolution
    with Image.open(io.BytesIO(data)) as opened:
        assert all(layer[1:3] == (1, 1) for layer in opened.layer)


@pytest.mark.parametrize("storage", ["keep", "webp", "jpeg"])
def test_the_choice_for_png_leaves_jpeg_alone(storage: str) -> None:
    data = jpeg(picture(), 90)
    assert pack_image(data, "x", ImageRules(png=storage))[:2] == (data, "jpg")  # type: ignore[arg-type]


def test_sixteen_bits_and_grids_that_are_too_large_are_refused() -> None:
    with pytest.raises(DataError, match="x: has I;16 pixels; convert it to 8 bits"):
        pack_image(png(np.zeros((4, 4), np.uint16)), "x", ImageRules())
    with pytest.raises(DataError, match="x: a WebP has at most 16383 pixels a side; use png: keep"):
        webp(np.zeros((1, 16384, 3), np.uint8), "x")
    with pytest.raises(DataError, match="x: 80x60 pixels are too few for downscale 61"):
        pack_image(png(picture()), "x", ImageRules(downscale=61))
