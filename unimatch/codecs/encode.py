"""Arrays to image and label files, and which image files are stored with the bytes they have."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
import zstandard

from unimatch.codecs import opening, tiles
from unimatch.codecs.decode import decode_image, image_header, whole_image
from unimatch.codecs.jpeg_layout import Unsuitable
from unimatch.codecs.restart import add_restarts
from unimatch.errors import DataError

LabelFormat = Literal["zst", "png"]
PngStorage = Literal["keep", "webp", "jpeg"]
JPEG_QUALITY = 95
KEPT = "JPEG without restart markers"  # how the note of an image that keeps its bytes begins
ZSTD_LEVEL = 9  # decoding takes the same time at every level


@dataclass(frozen=True)
class ImageRules:
    """How image files become members of a shard."""

    downscale: int = 1  # divides width and height, area average
    png: PngStorage = "keep"  # PNG files as they are, as lossless WebP, or as JPEG of quality 95 in 4:4:4
    fast_decode: bool = False  # store so that a part can be decoded alone; no pixel changes
    trust: bool = False  # check header and end marker of files that keep their bytes, but do not decode them
    # A file of more than RGB, or of several pages: what is behind them is left out; otherwise it is refused.
    drop_extra: bool = False


class Encoded(NamedTuple):
    """An image as it is stored."""

    data: bytes
    ext: str
    size: tuple[int, int]  # height, width
    note: str | None = None  # for the report: why it was encoded anew
    turn: int = 1  # the EXIF orientation that was applied; 1: none
    full_size: tuple[int, int] | None = None  # before `downscale`; None: `size`
    dropped: str | None = None  # what the file has beside this picture, such as "4 bands"
    # Of rasters of bands: bool [H, W], pixels without data, None: none; values clipped; see bands.sums_of.
    missing: np.ndarray | None = None
    clipped: int = 0
    sums: np.ndarray | None = None


def pack_image(data: bytes, where: str, rules: ImageRules) -> Encoded:
    """An image file as it is stored.

    With `fast_decode` a JPEG gets restart markers where it can have them, and a colour PNG becomes a tiled
    TIFF; the pixels are compared.
    """
    plain = _pack_plainly(data, where, rules)
    if not rules.fast_decode or plain.ext == "webp":
        return plain
    if plain.ext == "png":
        image = decode_image(plain.data, where)
        if image_header(plain.data, where).channels not in (0, 3, 4):
            return plain
        made, kind, how = tiles.encode(image), "tif", "PNG as TIFF with tiles"
    else:
        try:
            made, kind, how = add_restarts(plain.data), plain.ext, "JPEG with restart markers"
        except Unsuitable as error:
            return plain._replace(note=plain.note or f"{KEPT}, {error}")
        image = decode_image(plain.data, where)
    assert np.array_equal(decode_image(made, where), image), f"{where}: {how} has other pixels"
    return plain._replace(data=made, ext=kind, note=plain.note or how)


def _pack_plainly(data: bytes, where: str, rules: ImageRules) -> Encoded:
    """The same without `fast_decode`.

    JPEG that every decoder reads alike keep their bytes, and so do PNG with `png: keep`. EXIF rotation is
    applied, as decoders disagree about it. DataError, or what Pillow raises, for what is no whole picture.
    """
    picture = opening.read_picture(data, where, rules.drop_extra)
    note = changed_for(picture, rules)
    if note is None and rules.downscale == 1:
        # Decoded even if it is stored as it is, unless it is trusted: a damaged file must be found now.
        size = whole_size(data, where) if rules.trust else decode_image(data, where).shape[:2]
        return Encoded(data, "jpg" if picture.lossy else "png", size)
    image = decode_image(data, where) if picture.pixels is None else picture.pixels
    full = (image.shape[0], image.shape[1])
    image = downscaled(image, rules.downscale, where)
    stored, ext = _stored(image, picture.lossy, where, rules)
    size = (image.shape[0], image.shape[1])
    return Encoded(stored, ext, size, note, picture.turn, full, picture.dropped)


def changed_for(picture: opening.Picture, rules: ImageRules) -> str | None:
    """Why an image is encoded anew, whatever its size; None: it keeps its bytes."""
    if picture.told_turned:
        return "EXIF rotation"
    if picture.pixels is not None:
        return f"{picture.mode} {picture.kind}"
    if picture.kind == "PNG" and rules.png != "keep":
        return f"PNG as {'lossless WebP' if rules.png == 'webp' else 'JPEG'}"
    return None


def downscaled(image: np.ndarray, factor: int, where: str) -> np.ndarray:
    """[H, W] or [H, W, C] with both sides divided by `factor`, rounded down: the area average."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    if min(height, width) < 1:
        raise DataError(
            f"{where}: {image.shape[1]}x{image.shape[0]} pixels are too few for downscale {factor}"
        )
    return image if factor == 1 else cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


class AsPacked(NamedTuple):
    """What training would see of a file if it had been packed."""

    pixels: np.ndarray  # uint8 [h, w, 3]
    full_size: tuple[int, int]  # height, width before `downscale`
    mode: str  # Pillow's name of the file's pixels


def as_packed(data: bytes, where: str, rules: ImageRules) -> AsPacked:
    """The pixels that `pack_image` would store of a file. DataError as there."""
    picture = opening.read_picture(data, where, rules.drop_extra)
    whole = decode_image(data, where) if picture.pixels is None else picture.pixels
    image = downscaled(whole, rules.downscale, where)
    changed = rules.downscale > 1 or changed_for(picture, rules) is not None
    if changed and (picture.lossy or rules.png == "jpeg"):  # stored as JPEG, which is not exact
        image = decode_image(_stored(image, picture.lossy, where, rules)[0], where)
    return AsPacked(image, (whole.shape[0], whole.shape[1]), picture.mode)


def _stored(image: np.ndarray, lossy: bool, where: str, rules: ImageRules) -> tuple[bytes, str]:
    """Bytes and extension of uint8 RGB [H, W, 3] that came from a JPEG (`lossy`) or from another file."""
    if lossy:
        return jpeg(image, JPEG_QUALITY), "jpg"
    if rules.png == "jpeg":
        return jpeg(image, JPEG_QUALITY, full_color=True), "jpg"
    if rules.png == "webp":
        return webp(image, where), "webp"
    return png(image), "png"


def whole_size(data: bytes, where: str) -> tuple[int, int]:
    header = whole_image(data, where)
    return header.height, header.width


def encode_label(label: np.ndarray, label_format: LabelFormat) -> tuple[bytes, str]:
    """File bytes and extension (of names.LABEL_EXTENSIONS) of uint8 [H, W] class ids."""
    assert label.ndim == 2 and label.dtype == np.uint8, f"{label.dtype} of shape {label.shape}"
    if label_format == "png":
        return png(label), "png"
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(label), version=(1, 0), allow_pickle=False)
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
    return compressor.compress(buffer.getvalue()), "npy.zst"


def png(array: np.ndarray) -> bytes:
    """PNG bytes of uint8 or uint16 [H, W], or RGB [H, W, 3]."""
    return _encode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, 6])


def jpeg(image: np.ndarray, quality: int, full_color: bool = False) -> bytes:
    """JPEG bytes of uint8 RGB [H, W, 3]. `full_color`: colour at full resolution (4:4:4), else halved."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if full_color:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return _encode(".jpg", image, options)


def webp(image: np.ndarray, where: str) -> bytes:
    """Lossless WebP bytes of uint8 RGB [H, W, 3]. DataError above WebP's largest size."""
    if max(image.shape) > 16383:
        raise DataError(f"{where}: a WebP has at most 16383 pixels a side; use png: keep")
    return _encode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 101])  # above 100: lossless


def _encode(ext: str, array: np.ndarray, options: list[int]) -> bytes:
    done, data = cv2.imencode(ext, array if array.ndim == 2 else array[..., ::-1], options)
    assert done, f"OpenCV cannot encode {ext} of shape {array.shape}"
    return data.tobytes()
