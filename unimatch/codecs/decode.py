"""Image and label files to arrays, and the checks that turn bad files into a DataError instead of grey
rows.
"""

from __future__ import annotations

import functools
import io
import struct
from typing import NamedTuple

import cv2
import numpy as np
import zstandard
from numpy.typing import DTypeLike

from unimatch.codecs import tiles
from unimatch.codecs.jpeg_layout import SOS, segments
from unimatch.errors import DataError
from unimatch.taxonomy import IGNORE_INDEX

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND\xaeB`\x82"
JPEG_END = b"\xff\xd9"
ZSTD_SIGNATURE = b"\x28\xb5\x2f\xfd"
NPY_SIGNATURE = b"\x93NUMPY\x01\x00"
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_PIXELS = 1 << 30  # OpenCV's limit too
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# EXIF rotation is ignored: labels are drawn on the stored pixels.
READ_IMAGE = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
READ_GREY = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION


class Header(NamedTuple):
    """What the first bytes of an image file say."""

    format: str  # "jpeg", "png", "webp" or "tiff"
    width: int
    height: int
    channels: int  # 0: palette; 3 for WebP
    depth: int  # bits a channel
    scan: int  # JPEG: offset of the first scan, or of the end of the data given; else 0


def image_header(data: bytes, where: str, what: str = "image") -> Header:
    """Format, size and channels of a JPEG, PNG, WebP or tiled TIFF from its first bytes."""
    try:
        if data[:2] == b"\xff\xd8":
            return _jpeg_header(data)
        if data[:8] == PNG_SIGNATURE:
            width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
            return Header("png", width, height, {0: 1, 2: 3, 3: 0, 4: 2, 6: 4}[kind], depth, 0)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_header(data)
        if data[:4] in TIFF_SIGNATURES:
            return Header("tiff", *tiles.read_format(data), 0)
    except (struct.error, IndexError, KeyError, ValueError) as error:
        if data[:4] in TIFF_SIGNATURES:
            raise DataError(
                f"{where}: the {what} is a TIFF of another program (or its header is damaged): here only "
                "those that packing writes are read; pack it with a recipe, or convert it to PNG"
            ) from error
        raise DataError(f"{where}: the {what}'s header is damaged or cut short; replace the file") from error
    kind = "is empty" if not data else "is not a JPEG, PNG or WebP"
    raise DataError(f"{where}: the {what} {kind}; replace or convert it")


def _jpeg_header(data: bytes) -> Header:
    """Walk the markers up to the first scan; the frame marker on the way holds the size."""
    frame = None
    for marker, at, end in segments(data):
        if marker in JPEG_FRAMES:
            depth, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            frame = Header("jpeg", width, height, channels, depth, 0)
        if marker == SOS or (frame is not None and end + 4 > len(data)):
            break
    if frame is None:
        raise ValueError("a scan before the frame")
    return frame._replace(scan=at)


def _webp_header(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("webp", width & 0x3FFF, height & 0x3FFF, 3, 8, 0)
    if kind == b"VP8L":
        (word,) = struct.unpack_from("<I", data, 21)
        return Header("webp", (word & 0x3FFF) + 1, (word >> 14 & 0x3FFF) + 1, 3, 8, 0)
    if kind == b"VP8X" and len(data) >= 30:
        width = int.from_bytes(data[24:27], "little") + 1
        return Header("webp", width, int.from_bytes(data[27:30], "little") + 1, 3, 8, 0)
    raise ValueError("unknown WebP chunk")


def _is_whole(data: bytes, header: Header) -> bool:
    """Whether the file has its end. Decoders differ: some return a cut JPEG with grey rows, and a warning on
    stderr.
    """
    if header.format == "jpeg":
        # The last two bytes nearly always; after the start of a scan this pair can only be the end, so that
        # bytes which some cameras append are no error. Before it, a thumbnail may hold the same pair.
        return data.endswith(JPEG_END) or data.find(JPEG_END, header.scan) >= 0
    if header.format == "png":
        return data.rfind(PNG_END) >= 0
    if header.format == "tiff":
        return tiles.is_whole(data)
    return len(data) >= int.from_bytes(data[4:8], "little") + 8


def decode_image(data: bytes, where: str) -> np.ndarray:
    """uint8 [H, W, 3] RGB of a JPEG, PNG, WebP or TIFF as `tiles` makes them; grey and palette images
    expanded, transparency dropped. uint16 [H, W] of a 16-bit greyscale PNG; uint8 or uint16 [H, W, C] of a
    TIFF of other channels.

    DataError: cut short, damaged, CMYK, or more than 8 bits a channel in colour.
    """
    header = whole_image(data, where)
    if header.format == "tiff":
        try:
            return tiles.TiledImage(data).part(0, 0, header.width, header.height)[0]
        except (ValueError, struct.error) as error:
            raise DataError(
                f"{where}: the image is damaged ({error}); replace the file and pack again"
            ) from error
    flags = READ_IMAGE if header.depth <= 8 else cv2.IMREAD_UNCHANGED
    return _decode(data, flags, where, "image")


def decode_rgb(data: bytes, where: str) -> np.ndarray:
    """uint8 [H, W, 3] RGB, as `decode_image`; DataError for a 16-bit image too."""
    image = decode_image(data, where)
    refuse_other_kind(image, 3, np.uint8, where)
    return image


def refuse_other_kind(image: np.ndarray, channels: int, dtype: DTypeLike, where: str) -> None:
    """DataError unless an image is [h, w, channels] of a type."""
    if image.ndim == 2:
        raise DataError(
            f"{where}: a 16-bit greyscale image, but this task reads 8 bits; convert it to 8 bits"
        )
    if (image.shape[-1], image.dtype) != (channels, dtype):
        found, wanted = (
            (count, 8 * np.dtype(t).itemsize)
            for count, t in ((image.shape[-1], image.dtype), (channels, dtype))
        )
        raise DataError(
            f"{where}: an image of {found[0]} channels of {found[1]} bits, but {wanted[0]} of {wanted[1]} "
            "are read here; use a set, and a model.encoder.in_channels, of one kind"
        )


def decode_grey(data: bytes, where: str) -> np.ndarray:
    """uint16 [H, W] of a greyscale image of at most 16 bits; from 8 bits 0 to 255 become 0 to 65535.

    DataError for a colour or palette image, and as `decode_image`.
    """
    header = whole_image(data, where)
    if header.channels != 1 or header.format == "tiff":
        kind = "a palette" if header.channels == 0 else "a colour"
        raise DataError(
            f"{where}: {kind} image ({header.format.upper()}), but this task reads greyscale; convert it to "
            "greyscale PNG of 8 or 16 bits and pack it again"
        )
    image = _decode(data, READ_GREY, where, "image")
    # 257 * 255 = 65535, so the fraction of the largest value stays exactly what it was.
    return image if image.dtype == np.uint16 else image.astype(np.uint16) * np.uint16(257)


def whole_image(data: bytes, where: str) -> Header:
    """The header of a file that `decode_image` takes and that has its end; the pixels are not decoded."""
    header = image_header(data, where)
    if header.format == "jpeg" and header.channels not in (1, 3):
        raise DataError(f"{where}: a JPEG of {header.channels} channels (CMYK?); convert it to RGB")
    if header.depth > 8 and header[3:5] != (1, 16) and header.format != "tiff":
        raise DataError(
            f"{where}: an image of {header.channels} channels with {header.depth} bits; convert it to 8 bits"
        )
    _check_whole(data, header, where, "image")
    return header


def decode_label(data: bytes, where: str) -> np.ndarray:
    """uint8 [H, W] class ids of an 8-bit greyscale PNG or a .npy array compressed by zstd.

    DataError for any other file.
    """
    if data[:4] == ZSTD_SIGNATURE:
        return _decode_npy(data, where)
    header = image_header(data, where, "label")
    if (header.format, header.channels, header.depth) != ("png", 1, 8):
        kind = {0: "palette", 1: "greyscale"}.get(header.channels, f"{header.channels}-channel")
        raise DataError(
            f"{where}: the label is a {header.depth}-bit {kind} {header.format.upper()}; it must be "
            "an 8-bit greyscale PNG of class ids (unimatch pack converts palette masks)"
        )
    _check_whole(data, header, where, "label")
    return _decode(data, cv2.IMREAD_UNCHANGED, where, "label")


def _decode_npy(data: bytes, where: str) -> np.ndarray:
    try:
        size = zstandard.frame_content_size(data)
        if not 0 < size <= MAX_PIXELS:  # unknown is -1: refused too, as it could be any size
            raise ValueError(f"{size} bytes")
        raw = zstandard.decompress(data)
        start = 10 + int.from_bytes(raw[8:10], "little")
        shape = _npy_shape(raw[:start])
        # A copy, as the array would otherwise be read-only.
        return np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy()
    except (zstandard.ZstdError, ValueError) as error:
        raise DataError(
            f"{where}: the label is damaged, cut short or no uint8 array [height, width] as .npy.zst "
            f"({error}); replace the file and pack again"
        ) from error


@functools.lru_cache(64)  # parsed as Python source, which takes longer than decompressing
def _npy_shape(header: bytes) -> tuple[int, int]:
    """Height and width in a .npy header. ValueError for anything but a uint8 array of two axes."""
    if not header.startswith(NPY_SIGNATURE):
        raise ValueError("no .npy header of version 1")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(header[8:]))
    if len(shape) != 2 or fortran_order or dtype != np.uint8:
        raise ValueError(f"{dtype} of shape {shape}")
    return shape[0], shape[1]


def _check_whole(data: bytes, header: Header, where: str, what: str) -> None:
    if not _is_whole(data, header):
        raise DataError(
            f"{where}: the {what} is cut short ({len(data)} bytes); replace the file and pack again"
        )


def _decode(data: bytes, flags: int, where: str, what: str) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # for instance more pixels than OpenCV's limit
        pixels = None
    if pixels is None:
        raise DataError(f"{where}: the {what} cannot be decoded; replace the file and pack again")
    return pixels


def class_counts(label: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 [num_classes]: pixels of each class of class ids uint8 [H, W]; ignored pixels are not counted."""
    return np.bincount(label.ravel(), minlength=IGNORE_INDEX + 1)[:num_classes].astype(np.int64)


def check_label(label: np.ndarray, num_classes: int, where: str) -> None:
    """DataError unless every value is a class id or IGNORE_INDEX."""
    # In uint8 arithmetic ids wrap to 256 - num_classes and above and IGNORE_INDEX becomes the limit: one
    # pass, no masks.
    limit = IGNORE_INDEX - num_classes
    if label.size == 0 or np.subtract(label, np.uint8(num_classes)).min() >= limit:
        return
    found = [int(value) for value in np.unique(label) if num_classes <= value < IGNORE_INDEX]
    listed = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
    raise DataError(
        f"{where}: label value(s) {listed}, but there are {num_classes} classes (0 to {num_classes - 1}) and "
        f"{IGNORE_INDEX} for ignored pixels; pack the data again with a mapping for these values"
    )
