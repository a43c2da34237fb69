"""Arrays to image and label files, and which image files are stored with the bytes they have."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
import zstandard
from PIL import Image, ImageOps

from unimatch.codecs import opening, tiles
from unimatch.codecs.decode import decode_image, image_header, whole_image
from unimatch.codecs.jpeg_layout import Unsuitable
from unimatch.codecs.restart import add_restarts
from unimatch.errors import DataError

LabelFormat = Literal["zst", "png"]
PngStorage = Literal["keep", "webp", "jpeg"]
JPEG_QUALITY = 95
KEPT = "JPEG without restart markers"  # how the note of an image that keeps its bytes begins
PNG_EXIF = (b"eXIf", b"Raw profile type exif")
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
    with opening.open_picture(data, where) as opened:
        kind, mode = opened.format, opened.mode
        # Pillow decodes a whole PNG to look for EXIF behind the pixels; nearly none has any.
        has_exif = kind != "PNG" or any(mark in data for mark in PNG_EXIF)
        told = opened.getexif().get(opening.ORIENTATION, 1) if has_exif else 1
        turn, odd = opening.valid_turn(told), told not in (0, 1)
        refuse_deep(opened, where)
        dropped = opening.more_than_one_picture(opened)
        if dropped and not rules.drop_extra:
            raise DataError(extra_refused(where, str(kind), dropped))
        lossy = kind in ("JPEG", "MPO")
        plain = (lossy or kind == "PNG") and mode in ("RGB", "L") and not dropped
        note = "EXIF rotation" if odd else None if plain else f"{mode} {kind}"
        if note is None and kind == "PNG" and rules.png != "keep":
            note = f"PNG as {'lossless WebP' if rules.png == 'webp' else 'JPEG'}"
        if note is None and rules.downscale == 1:
            # Decoded even if it is stored as it is, unless it is trusted: a damaged file must be found now.
            size = whole_size(data, where) if rules.trust else decode_image(data, where).shape[:2]
            return Encoded(data, "jpg" if lossy else "png", size)
        if odd or not plain:
            image = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
        else:
            image = decode_image(data, where)
    full = (image.shape[0], image.shape[1])
    height, width = full[0] // rules.downscale, full[1] // rules.downscale
    if min(height, width) < 1:
        raise DataError(f"{where}: {full[1]}x{full[0]} pixels are too few for downscale {rules.downscale}")
    if rules.downscale > 1:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    stored, ext = _stored(image, lossy, where, rules)
    return Encoded(stored, ext, (height, width), note, turn, full, dropped)


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


def refuse_deep(opened: Image.Image, where: str) -> None:
    """DataError for more than 8 bits a channel: how to scale them is the data set's matter."""
    mode, depth = opened.mode, opening.deep_tiff(opened)
    if mode in ("I", "F") or mode.startswith("I;16") or depth:
        pixels = f"{mode} pixels of {depth} bits" if depth else f"{mode} pixels"
        raise DataError(f"{where}: has {pixels}; convert it to 8 bits a channel first")


def extra_refused(where: str, kind: str, extra: str) -> str:
    """The message for a file whose "4 bands" or "5 pages" are more than one picture."""
    bands = extra.endswith("bands")
    way = "save the three that are meant as RGB" if bands else "save each as a file of its own"
    left = "those behind the first three are" if bands else "all but the first are"
    return f"{where}: is a {kind} of {extra}; {way}, or set `drop_extra: true` in the recipe: {left} left out"


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
