"""Picture files as people have them, opened by Pillow: with the project's own limit of pixels, the true
reason where one cannot be read, and what else than one picture lies in the file.
"""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from unimatch.codecs.decode import MAX_PIXELS, TIFF_SIGNATURES
from unimatch.errors import DataError

# Pillow takes more than 179 million pixels for an attack; here the files are the user's own, and the limit
# is that of the decoder that training uses: `open_picture` checks it.
Image.MAX_IMAGE_PIXELS = None

# Numbers of TIFF tags.
SUBFILE, WIDTH, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 258, 259, 262
ORIENTATION, SAMPLES, FORMAT = 274, 277, 339
REDUCED_OR_MASK = 1 | 4  # bits of SUBFILE: an overview or a transparency mask of another page
WHITE_IS_ZERO = 0
JPEG_COMPRESSIONS = (6, 7, 34892, 33003, 33005, 34712, 50001)  # JPEG, JPEG 2000, WebP
NUMBERS = {1: "unsigned", 2: "signed", 3: "float", 5: "complex", 6: "complex"}
MAX_BITS = 8
PNG_EXIF = (b"eXIf", b"Raw profile type exif")
# How many of a pixel's values Pillow's picture holds.
USED = {"RGB": 3, "RGBA": 4, "RGBX": 4, "CMYK": 4, "LA": 2, "La": 2, "RGBa": 4, "LAB": 3, "YCbCr": 3, "PA": 2}
# What decoders raise for damaged files; RuntimeError is that of AVIF.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, RuntimeError)
DAMAGE = (TypeError, KeyError, RuntimeError, EOFError, struct.error)  # what Pillow raises for some files
NOT_PICTURES = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"),
    (b"<!DOCTYPE html", "is a web page, not a picture; it was not downloaded"),
    (b"<html", "is a web page, not a picture; it was not downloaded"),
    (b"<svg", "is an SVG drawing; export it as PNG"),
    (b"%PDF", "is a PDF; export its pages as PNG"),
    (b"8BPS", "is a Photoshop file; export it as PNG"),
    (b"gimp xcf", "is a GIMP file; export it as PNG"),
    (b"PK\x03\x04", "is a zip archive; unpack it"),
    (b"\x1f\x8b", "is a gzip file; unpack it"),
    (b"\x89HDF", "is an HDF5 file; name the data set in the recipe: file.h5#name"),
    (b"\x93NUMPY", "is a NumPy array; save it as PNG"),
)


def open_picture(data: bytes, where: str) -> Image.Image:
    """The picture of a file's bytes, not yet decoded.

    DataError with the true reason: above MAX_PIXELS, a TIFF that is not read, or a file of another kind.
    """
    try:
        opened = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise DataError(f"{where}: {unknown(data)}") from error
    except DAMAGE as error:
        raise DataError(f"{where}: is damaged ({error})") from error
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{where}: is {width}x{height} pixels, at most {MAX_PIXELS} (2^30) are read; cut it into tiles"
        )
    return opened


def header_size(path: Path) -> tuple[int, int]:
    """Height and width that a file's header tells, as its pixels lie; 0, 0 where it tells none: then reading
    it gives the reason.
    """
    try:
        with Image.open(path) as opened:
            return opened.height, opened.width
    except (OSError, *DAMAGE):
        return 0, 0


class Picture(NamedTuple):
    """A file read as one picture of RGB, upright."""

    kind: str  # Pillow's name of the format
    mode: str  # and of the pixels
    lossy: bool  # a JPEG
    told_turned: bool  # it has an EXIF orientation other than 1, perhaps one that nobody knows
    turn: int  # the orientation that was applied
    dropped: str | None  # what the file has beside this picture, such as "4 bands"
    pixels: np.ndarray | None  # uint8 [H, W, 3]; None: those that `decode_image` gives


def read_picture(data: bytes, where: str, drop_extra: bool = False) -> Picture:
    """The one reader of pictures that come from people, for packing and for predicting.

    drop_extra: what is behind RGB, or behind the first page, is left out; otherwise it is refused.
    DataError, or what Pillow raises, for what is no whole picture of 8 bits a channel.
    """
    with open_picture(data, where) as opened:
        kind, mode = str(opened.format), opened.mode
        # Pillow decodes a whole PNG to look for EXIF behind the pixels; nearly none has any.
        has_exif = kind != "PNG" or any(mark in data for mark in PNG_EXIF)
        told = opened.getexif().get(ORIENTATION, 1) if has_exif else 1
        refuse_deep(opened, data, where)
        dropped = more_than_one_picture(opened)
        if dropped and not drop_extra:
            raise DataError(extra_refused(where, kind, dropped))
        odd, lossy = told not in (0, 1), kind in ("JPEG", "MPO")
        pixels = None
        if odd or dropped or mode not in ("RGB", "L") or not (lossy or kind == "PNG"):
            opened.load()
            ImageOps.exif_transpose(opened, in_place=True)  # so that large pictures are not copied
            pixels = np.asarray(opened if opened.mode == "RGB" else opened.convert("RGB"))
    return Picture(kind, mode, lossy, odd, valid_turn(told), dropped, pixels)


def refuse_deep(opened: Image.Image, data: bytes, where: str) -> None:
    """DataError for more than 8 bits a channel: how to scale them is the data set's matter."""
    mode, depth = opened.mode, lost_depth(opened, data)
    if mode in ("I", "F") or mode.startswith("I;16") or depth:
        pixels = f"{mode} pixels of {depth} bits" if depth else f"{mode} pixels"
        raise DataError(
            f"{where}: has {pixels}; convert it to 8 bits a channel, or pack it by `bands` "
            "and `scaling` in the recipe"
        )


def extra_refused(where: str, kind: str, extra: str) -> str:
    """The message for a file whose "4 bands" or "5 pages" are more than one picture."""
    bands = extra.endswith("bands")
    way = "save each as a file of its own"
    if bands:
        way = "save the three that are meant as RGB, keep all by `bands: [1, 2, ...]` in the recipe"
    left = "those behind the first three are" if bands else "all but the first are"
    return f"{where}: is a {kind} of {extra}; {way}, or set `drop_extra: true` in the recipe: {left} left out"


def unknown(data: bytes) -> str:
    """What a file is that Pillow does not know."""
    if not data:
        return "is empty"
    if data[:4] in TIFF_SIGNATURES:
        way = "save it as RGB or grey of 8 bits, or pack it by `bands` in the recipe"
        return f"is {tiff_kind(data)}, which is not read; {way}"
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1", b"hevc"):
        return "is a HEIC photo; convert it to JPEG"
    start = data[:64].lstrip()
    for mark, text in NOT_PICTURES:
        if start[: len(mark)].lower() == mark.lower():
            return text
    return "is not a picture"


def tiff_kind(data: bytes) -> str:
    """Such as "a TIFF of 4 bands of 16 bits (unsigned)"."""
    try:
        tags = first_tags(data)
        if WIDTH not in tags:
            return "a damaged TIFF"
        bands, bits, number = int(tags.get(SAMPLES, 1)), tags.get(BITS, (1,)), tags.get(FORMAT, (1,))
        depth = bits[0] if isinstance(bits, tuple) else bits
        kind = NUMBERS.get(number[0] if isinstance(number, tuple) else number, "unknown numbers")
        return f"a TIFF of {bands} band{'s' if bands > 1 else ''} of {depth} bits ({kind})"
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError):
        return "a damaged TIFF"


def first_tags(data: bytes) -> Any:
    """The tags of a TIFF's first page, by number."""
    file = io.BytesIO(data)
    header = file.read(16 if data[2:3] == b"+" or data[3:4] == b"+" else 8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(header)
    file.seek(tags.next)
    with warnings.catch_warnings():  # of a directory that is cut short
        warnings.simplefilter("ignore")
        tags.load(file)
    return tags


def more_than_one_picture(opened: Image.Image) -> str | None:
    """What of a file would be dropped if it were taken as one picture of grey or RGB: "4 bands" or
    "5 pages"; None: nothing.

    Transparency is no band, unless a TIFF calls a band so that has many values between none and full.
    """
    if opened.format != "TIFF":
        frames = 1 if opened.format in ("JPEG", "MPO") else getattr(opened, "n_frames", 1)
        return f"{frames} frames" if frames > 1 else None
    tags = opened.tag_v2  # type: ignore[attr-defined]
    bands, used = int(tags.get(SAMPLES, 1)), USED.get(opened.mode, 1)
    if bands > used or (opened.mode in ("RGBA", "LA") and not looks_transparent(opened)):
        return f"{bands} bands"
    pages = tiff_pages(opened)
    return f"{pages} pages" if pages > 1 else None


def looks_transparent(opened: Image.Image) -> bool:
    """Whether most pixels of the last channel are fully transparent or opaque. Some programs write any
    fourth band, such as near infrared, as transparency.
    """
    counts = opened.getchannel("A").histogram()
    return counts[0] + counts[255] >= sum(counts) / 2


def tiff_pages(opened: Image.Image) -> int:
    """Pages of a TIFF that are pictures of their own: overviews and transparency masks are not.

    DataError without the file's name: a page that cannot be read.
    """
    try:
        if not getattr(opened, "is_animated", False):
            return 1
        pages = 0
        for number in range(opened.n_frames):  # type: ignore[attr-defined]
            opened.seek(number)
            pages += not int(opened.tag_v2.get(SUBFILE, 0)) & REDUCED_OR_MASK  # type: ignore[attr-defined]
        opened.seek(0)
        return pages
    except DAMAGE as error:
        raise DataError(f"has a damaged page ({error})") from error


def lost_depth(opened: Image.Image, data: bytes) -> int | None:
    """Bits a channel of a picture of more than 8, of which Pillow keeps the upper 8; None: any other."""
    depth, kind = 8, opened.format
    if opened.mode not in USED:
        return None
    if kind == "TIFF":
        bits = opened.tag_v2.get(BITS, (1,))  # type: ignore[attr-defined]
        depth = max(bits) if isinstance(bits, tuple) else int(bits)
    elif kind == "PNG":
        depth = data[24]
    elif kind == "JPEG2000":
        at = data.find(b"\xff\x51") + 40  # the first component's entry in the marker of sizes
        depth = (data[at] & 127) + 1
    return depth if depth > MAX_BITS else None


def pnm_white(opened: Image.Image) -> int | None:
    """The value that is white in a PGM or PPM that is not decoded yet, and that Pillow scales to 255 or
    65535; None: it scales nothing.
    """
    coding = opened.tile[0][3] if opened.format == "PPM" and opened.tile else None  # type: ignore[attr-defined]
    if not isinstance(coding, tuple) or not isinstance(coding[-1], int):
        return None
    white = coding[-1]
    return None if white == (65535 if opened.mode == "I" else 255) else white


def lossy_format(opened: Image.Image, data: bytes) -> str | None:
    """The name of a format whose pixels are not exactly those that were drawn; None: an exact one."""
    kind = opened.format
    if kind in ("JPEG", "MPO"):
        return "JPEG"
    if kind == "WEBP":
        return "lossy WebP" if b"VP8 " in (data[12:16], *chunks(data)) else None
    if kind == "TIFF":
        compression = opened.tag_v2.get(COMPRESSION, 1)  # type: ignore[attr-defined]
        return "TIFF compressed as JPEG" if compression in JPEG_COMPRESSIONS else None
    if kind == "JPEG2000":
        # The byte behind the coding style's 9 others: 0 is the wavelet that loses something.
        at = data.find(b"\xff\x52")
        return "lossy JPEG 2000" if at < 0 or data[at + 13 : at + 14] == b"\0" else None
    return {"AVIF": "AVIF", "DDS": "DDS"}.get(kind or "")


def chunks(data: bytes) -> list[bytes]:
    """The names of a WebP's chunks."""
    names, at = [], 12
    while at + 8 <= len(data):
        names.append(data[at : at + 4])
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + (size & 1)
    return names


def exif_turn(opened: Image.Image) -> int:
    """The EXIF orientation of an opened and decoded file, 1 (as it lies) to 8. Pillow applies that of a TIFF
    by itself.
    """
    if "exif" not in opened.info and "Raw profile type exif" not in opened.info:
        return 1
    return valid_turn(opened.getexif().get(ORIENTATION, 1))


def valid_turn(value: Any) -> int:
    """`value` if it is an orientation, else 1: what programs do with others."""
    return value if isinstance(value, int) and 2 <= value <= 8 else 1


def upright(pixels: np.ndarray, turn: int) -> np.ndarray:
    """[H, W, ...] as EXIF orientation `turn` says it is to be shown."""
    if turn >= 5:  # rows become columns
        pixels = pixels.swapaxes(0, 1)
        turn = {5: 1, 6: 2, 7: 3, 8: 4}[turn]
    if turn in (2, 3):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if turn in (3, 4) else pixels
