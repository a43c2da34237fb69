"""Decoding: the right pixels, and an error for everything that has none."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import zstandard
from PIL import Image

from tests.support.tiny_set import image_bytes, label_array, label_bytes
from unimatch.codecs import tiles
from unimatch.codecs.decode import (
    check_label,
    decode_grey,
    decode_image,
    decode_label,
    decode_rgb,
    image_header,
    whole_image,
)
from unimatch.codecs.encode import LabelFormat, encode_label, png
from unimatch.errors import DataError
from unimatch.shardset.names import LABEL_EXTENSIONS
from unimatch.taxonomy import IGNORE_INDEX

EXTENSIONS = ("jpg", "png", "webp")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def picture() -> Image.Image:
    return Image.open(io.BytesIO(image_bytes(3, "png", 40, 56))).convert("RGB")


def png16(channels: int) -> bytes:
    """A 16-bit PNG of 4x4 pixels of value 700."""
    done, data = cv2.imencode(".png", np.full((4, 4, channels), 700, np.uint16))
    assert done
    return data.tobytes()


def with_thumbnail(data: bytes) -> bytes:
    """A JPEG with another whole JPEG, end marker included, in its EXIF block."""
    block = b"Exif\0\0" + image_bytes(1, "jpg")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]


def test_images_are_rgb_like_pillow(picture: Image.Image) -> None:
    for data in (encoded(picture, "png"), encoded(picture, "jpeg"), encoded(picture, "webp", lossless=True)):
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
        found = decode_image(data, "x")
        assert found.shape == (40, 56, 3) and found.dtype == np.uint8
        assert np.abs(found - expected).max() <= 2  # inverse DCTs of libjpeg versions differ by a level


def test_grey_palette_alpha_and_progressive_images(picture: Image.Image) -> None:
    grey = np.asarray(picture.convert("L"))
    for data in (encoded(picture.convert("L"), "png"), encoded(picture.convert("LA"), "png")):
        assert (decode_image(data, "x") == grey[..., None]).all()
    assert decode_image(encoded(picture.convert("L"), "jpeg"), "x").shape == (40, 56, 3)
    palette = picture.convert("P")
    assert (decode_image(encoded(palette, "png"), "x") == np.asarray(palette.convert("RGB"))).all()
    assert (decode_image(encoded(picture.convert("RGBA"), "png"), "x") == np.asarray(picture)).all()
    progressive = encoded(picture, "jpeg", progressive=True)
    assert decode_image(progressive, "x").shape == (40, 56, 3)


def test_exif_rotation_is_ignored(picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    data = encoded(picture, "jpeg", exif=exif)
    assert decode_image(data, "x").shape == (40, 56, 3)
    assert (decode_image(data, "x") == decode_image(encoded(picture, "jpeg"), "x")).all()


@pytest.mark.parametrize("ext", EXTENSIONS)
def test_a_cut_image_is_an_error_at_every_length(ext: str, picture: Image.Image) -> None:
    data = image_bytes(5, ext, 40, 56)
    for size in [
        0,
        1,
        5,
        11,
        20,
        len(data) // 4,
        len(data) // 2,
        len(data) - 20,
        len(data) - 2,
        len(data) - 1,
    ]:
        with pytest.raises(DataError, match="^shard:key: "):
            decode_image(data[:size], "shard:key")
    if ext != "webp":  # which has no end mark and no checksum: there only the shard's hash tells
        with pytest.raises(DataError, match="^shard:key: "):  # a file system's zeros in place of the end
            decode_image(data[: len(data) // 2] + bytes(len(data) - len(data) // 2), "shard:key")


@pytest.mark.parametrize("ext", [*EXTENSIONS, "tif"])
def test_a_file_that_is_trusted_has_its_end(ext: str) -> None:
    data = tiles.encode(decode_image(image_bytes(5), "x")) if ext == "tif" else image_bytes(5, ext)
    assert whole_image(data, "x").format == {"jpg": "jpeg", "tif": "tiff"}.get(ext, ext)
    for cut in (1, 2, 9):
        with pytest.raises(DataError, match="^x: the image is cut short"):
            whole_image(data[:-cut], "x")


def test_a_cut_jpeg_with_a_thumbnail_is_an_error_too() -> None:
    data = with_thumbnail(image_bytes(5, "jpg", 40, 56))
    assert decode_image(data, "x").shape == (40, 56, 3)
    with pytest.raises(DataError, match="cut short"):
        decode_image(data[: len(data) - 100], "x")


def test_bytes_behind_the_end_are_no_error() -> None:
    for ext in EXTENSIONS:
        data = image_bytes(5, ext)
        assert (decode_image(data + b"\0\0camera notes", "x") == decode_image(data, "x")).all()


def test_cmyk_sixteen_bits_and_other_files_are_refused(picture: Image.Image) -> None:
    with pytest.raises(DataError, match=r"4 channels \(CMYK\?\); convert it to RGB"):
        decode_image(encoded(picture.convert("CMYK"), "jpeg"), "x")
    deep = Image.fromarray(np.full((4, 4), 700, np.uint16))
    with pytest.raises(DataError, match="16-bit greyscale image, but this task"):
        decode_rgb(encoded(deep, "png"), "x")
    with pytest.raises(DataError, match="an image of 3 channels with 16 bits"):
        decode_image(png16(3), "x")
    for data, what in (
        (b"", "is empty"),
        (b"GIF89a....", "is not a JPEG"),
        (encoded(picture, "bmp"), "is not"),
    ):
        with pytest.raises(DataError, match=f"x: the image {what}"):
            decode_image(data, "x")


def test_headers_say_size_and_channels(picture: Image.Image) -> None:
    files = {
        encoded(picture, "jpeg"): ("jpeg", 3),
        with_thumbnail(encoded(picture, "jpeg", progressive=True)): ("jpeg", 3),
        encoded(picture.convert("L"), "jpeg"): ("jpeg", 1),
        encoded(picture, "png"): ("png", 3),
        encoded(picture.convert("P"), "png"): ("png", 0),
        encoded(picture, "webp"): ("webp", 3),
        encoded(picture, "webp", lossless=True): ("webp", 3),
        encoded(picture.convert("RGBA"), "webp", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"): ("webp", 3),  # VP8X
    }
    for data, (kind, channels) in files.items():
        header = image_header(data, "x")
        assert header[:4] == (kind, 56, 40, channels) and header.depth == 8
    data = with_thumbnail(encoded(picture, "jpeg"))
    end_of_frame = data.rindex(b"\xff\xc0") + 19
    assert image_header(data[:end_of_frame], "x")[1:3] == (56, 40)  # the first bytes of a file are enough


def test_labels_keep_their_ids() -> None:
    label = label_array(7)
    assert (decode_label(label_bytes(label), "x") == label).all()


def test_sixteen_bit_grey_keeps_its_values() -> None:
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    found = decode_image(png(values), "x")
    assert found.dtype == np.uint16 and (found == values).all()
    assert (decode_image(png16(1), "x") == np.full((4, 4), 700)).all()


@pytest.mark.parametrize("label_format", ["zst", "png"])
def test_encoded_labels_come_back(label_format: LabelFormat) -> None:
    label = label_array(5, 37, 53)
    data, ext = encode_label(label[::2], label_format)
    found = decode_label(data, "x")
    assert found.dtype == np.uint8 and (found == label[::2]).all()
    found[0, 0] = 3  # writable, as views change labels in place
    assert ext in LABEL_EXTENSIONS


def test_numpy_reads_a_compressed_label() -> None:
    label = label_array(5)
    assert (np.load(io.BytesIO(zstandard.decompress(encode_label(label, "zst")[0]))) == label).all()


def test_a_damaged_compressed_label_is_an_error_wherever_it_is() -> None:
    label = label_array(5, 37, 53)
    data, _ = encode_label(label, "zst")
    for at in range(len(data)):
        with pytest.raises(DataError, match="shard:key: the label"):
            decode_label(data[:at], "shard:key")
        changed = bytearray(data)
        changed[at] ^= 0x10
        try:  # a few bits have no meaning, but no change gives other ids
            assert (decode_label(bytes(changed), "shard:key") == label).all()
        except DataError as error:
            assert "shard:key: the label" in str(error)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4), np.int64), "int64 of shape"),
        (np.zeros((2, 4, 4), np.uint8), "uint8 of shape"),
        (np.zeros((4, 5), np.uint8, order="F"), "uint8 of shape"),
        (None, "no .npy header"),
    ],
)
def test_other_arrays_are_no_labels(array: np.ndarray | None, message: str) -> None:
    buffer = io.BytesIO(b"something else" if array is None else b"")
    if array is not None:
        np.save(buffer, array)
    with pytest.raises(DataError, match=message):
        decode_label(zstandard.compress(buffer.getvalue()), "x")


def test_a_compressed_bomb_is_refused_without_decompressing_it() -> None:
    frame = b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little") + bytes(8)
    for data in (frame, zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100))):
        with pytest.raises(DataError, match="the label is damaged"):
            decode_label(data, "x")


def test_other_labels_are_refused(picture: Image.Image) -> None:
    binary = Image.fromarray(np.eye(8, dtype=bool))
    for data, kind in [
        (encoded(picture, "png"), "8-bit 3-channel PNG"),
        (encoded(picture.convert("P"), "png"), "8-bit palette PNG"),
        (encoded(binary, "png"), "1-bit greyscale PNG"),
        (encoded(Image.fromarray(np.zeros((4, 4), np.uint16)), "png"), "16-bit greyscale PNG"),
        (encoded(picture.convert("L"), "jpeg"), "8-bit greyscale JPEG"),
    ]:
        with pytest.raises(DataError, match=f"x: the label is a {kind}; it must be"):
            decode_label(data, "x")
    data = label_bytes(label_array(7, 60, 60))
    with pytest.raises(DataError, match="the label is cut short"):
        decode_label(data[:-20], "x")
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    with pytest.raises(DataError, match="the label cannot be decoded"):
        decode_label(bytes(flipped), "x")


def test_a_bomb_is_refused_without_decoding_it() -> None:
    header = struct.pack(">IIBBBBB", 1 << 20, 1 << 20, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    with pytest.raises(DataError, match="cannot be decoded"):
        decode_image(data, "x")


@pytest.mark.parametrize("num_classes", [2, 11, 150, 254, 255])
def test_label_check_agrees_with_the_obvious_one(num_classes: int) -> None:
    for value in range(256):
        label = np.zeros((4, 4), np.uint8)
        label[2, 3] = value
        if value < num_classes or value == IGNORE_INDEX:
            check_label(label, num_classes, "x")
        else:
            with pytest.raises(
                DataError, match=rf"x: label value\(s\) {value}, but there are {num_classes} classes"
            ):
                check_label(label, num_classes, "x")


def test_label_check_lists_the_values() -> None:
    with pytest.raises(DataError, match=r"value\(s\) 37, 40,"):
        check_label(np.array([[0, 40, 255, 37]], np.uint8), 11, "x")
    check_label(np.zeros((0, 0), np.uint8), 11, "x")


@pytest.mark.parametrize("ext", ["png", "jpg"])
def test_grey_of_8_bits_becomes_16(ext: str) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    done, data = cv2.imencode(f".{ext}", values, [cv2.IMWRITE_JPEG_QUALITY, 100])
    found = decode_grey(data.tobytes(), "here")
    assert done and found.dtype == np.uint16 and found.shape == (16, 16)
    assert (found % 257 == 0).all()
    np.testing.assert_allclose(found / 65535, values / 255, atol=0 if ext == "png" else 0.02)


def test_grey_of_16_bits_stays() -> None:
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16) + np.uint16(3)
    data = cv2.imencode(".png", values)[1].tobytes()
    np.testing.assert_array_equal(decode_grey(data, "here"), values)


def test_colours_are_no_grey() -> None:
    data = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    with pytest.raises(
        DataError, match=r"here: a colour image \(PNG\), but this task reads greyscale; convert"
    ):
        decode_grey(data, "here")
    buffer = io.BytesIO()
    Image.new("P", (4, 4)).save(buffer, "PNG")
    with pytest.raises(DataError, match="here: a palette image"):
        decode_grey(buffer.getvalue(), "here")
    with pytest.raises(DataError, match="cut short"):
        decode_grey(cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes()[:-14], "here")
