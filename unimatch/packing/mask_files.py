"""Mask files as programs write them, read as they are meant: ids of any whole numbers, or colours."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from unimatch.codecs import opening, volumes
from unimatch.errors import DataError
from unimatch.packing.findings import Note, Problem
from unimatch.packing.layout import Job
from unimatch.packing.recipe import LabelKind

# Pillow spreads the values of 2 and 4 bit grey over 0..255; ids are meant as stored.
GREY_STEP = {"L;2": 85, "L;4": 17}
STEP_OF_BITS = {2: 85, 4: 17}
GREY_NOTE = "{files} masks are RGB pictures of three equal channels and were read as grey: {examples}"
TURN_NOTE = "{files} masks were turned upright by an EXIF rotation of their own: {examples}"
DROP_NOTE = "{files} masks have more than one picture in the file, all but the first left out: {examples}"


@dataclass
class Mask:
    """What a mask file holds: [H, W] of unsigned or signed integers, ids or 0xRRGGBB or panoptic segment ids.
    Upright, if the file has an EXIF rotation."""

    values: np.ndarray
    palette: dict[int, int] | None = None  # index -> 0xRRGGBB of those that occur, each colour once
    lossy: str | None = None  # the format, if it does not keep pixels exactly
    notes: list[Note] = field(default_factory=list)


@dataclass(frozen=True)
class WrongKind(Exception):
    """A sound file of another kind of label than the recipe says."""

    problem: Problem


def read_mask(job: Job, name: str, kind: LabelKind, drop_extra: bool) -> Mask:
    """The mask in a file. WrongKind; DataError, OSError and Pillow's errors where it cannot be read."""
    if volumes.h5_member(name)[1] is not None:
        return Mask(volumes.ids(volumes.read_slice(job.source, name, job.slice), name))
    data = (job.source / name).read_bytes()
    with opening.open_picture(data, name) as opened:
        refuse_scaled(opened, data, name)
        notes = []
        extra = opening.more_than_one_picture(opened)
        if extra:
            if not drop_extra:
                raise DataError(opening.extra_refused(name, str(opened.format), extra))
            notes.append(Note(DROP_NOTE, name))
        lossy = opening.lossy_format(opened, data)
        read = read_ids if kind == "ids" else read_colors
        mask = read(opened, name) if kind != "panoptic" else Mask(read_segments(opened, name))
        turn = opening.exif_turn(opened)
        if turn > 1:
            mask.values = opening.upright(mask.values, turn)
            notes.append(Note(TURN_NOTE, name))
    mask.lossy = lossy
    mask.notes += notes
    return mask


def read_ids(opened: Image.Image, name: str) -> Mask:
    mode = opened.mode
    if mode in ("1", "L"):
        refuse_inverted(opened, name)
        step = grey_step(opened)  # known before the pixels are decoded only
        values = np.asarray(opened).astype(np.uint8, copy=False)
        return Mask(values // step if step > 1 else values)
    if mode == "P":
        values = np.asarray(opened)
        return Mask(values, used_palette(opened, values))
    if mode == "I" or mode.startswith("I;16"):
        refuse_inverted(opened, name)
        values = np.asarray(opened)
        return Mask(values.astype(values.dtype.newbyteorder("="), copy=False))
    if mode == "F":
        return Mask(volumes.ids(np.asarray(opened), name))
    if mode in ("LA", "PA", "RGB", "RGBA"):
        values = np.asarray(opened)
        refuse_transparent(values, mode, name)
        if mode in ("LA", "PA"):
            return Mask(values[..., 0])
        red = values[..., 0]
        if np.array_equal(red, values[..., 1]) and np.array_equal(red, values[..., 2]):
            return Mask(red, notes=[Note(GREY_NOTE, name)])
    text = f"{name}: has {mode} pixels, expected one channel of ids; is it label_kind colors?"
    raise WrongKind(Problem("colours instead of ids", text))


def read_colors(opened: Image.Image, name: str) -> Mask:
    mode = opened.mode
    if mode in ("1", "L", "I", "F", "LA") or mode.startswith("I;16"):
        text = f"{name}: has one channel ({mode}), expected RGB colours; is it label_kind ids?"
        raise WrongKind(Problem("ids instead of colours", text))
    # The transparent colour of a palette (mode P) is a colour like any other.
    values = np.asarray(opened.convert("RGBA" if mode in ("RGBA", "PA") else "RGB"))
    refuse_transparent(values, mode, name)
    return Mask(packed_colors(values))


def read_segments(opened: Image.Image, name: str) -> np.ndarray:
    """uint32 [H, W]: COCO writes the lowest byte first."""
    if opened.mode not in ("RGB", "RGBA"):
        text = f"{name}: has one channel ({opened.mode}), expected RGB colours; is it label_kind ids?"
        raise WrongKind(Problem("ids instead of colours", text))
    return packed_colors(np.asarray(opened.convert("RGB"))[..., ::-1])


def packed_colors(rgb: np.ndarray) -> np.ndarray:
    """uint32 [H, W] of 0xRRGGBB."""
    wide = rgb[..., :3].astype(np.uint32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def grey_step(opened: Image.Image) -> int:
    """What Pillow multiplies the ids of a file of few bits by."""
    tile = opened.tile  # type: ignore[attr-defined]
    coding = tile[0][3] if tile else None
    if opened.format == "TIFF":
        bits = opened.tag_v2.get(opening.BITS, (8,))  # type: ignore[attr-defined]
        return STEP_OF_BITS.get(bits[0] if isinstance(bits, tuple) else bits, 1) if opened.mode == "L" else 1
    return GREY_STEP.get(str(coding), 1)


def refuse_scaled(opened: Image.Image, data: bytes, name: str) -> None:
    """DataError for a file of whose values Pillow keeps the upper bits, or that it spreads over 0..255."""
    depth, white = opening.lost_depth(opened, data), opening.pnm_white(opened)
    if depth:
        raise DataError(
            f"{name}: has {opened.mode} pixels of {depth} bits a channel; save ids as grey of 8 or 16 bits, "
            "colours as RGB of 8"
        )
    if white:
        raise DataError(
            f"{name}: is a PGM or PPM whose white is {white}, so programs read other ids from it; save it as "
            "PNG, or with 255"
        )


def refuse_inverted(opened: Image.Image, name: str) -> None:
    """DataError for a TIFF whose white is 0, if it has more than the two values of a drawing: programs differ
    in whether id 1 is then 1, or 254."""
    if opened.format != "TIFF" or opened.mode == "1":
        return
    if opened.tag_v2.get(opening.PHOTOMETRIC) == opening.WHITE_IS_ZERO:  # type: ignore[attr-defined]
        raise DataError(
            f"{name}: is a TIFF in which 0 is white (MinIsWhite), so programs read other ids from it; save "
            "it with MinIsBlack, or as PNG"
        )


def refuse_transparent(values: np.ndarray, mode: str, name: str) -> None:
    """DataError where an alpha channel says more than that all is equally visible: a rubber may have left
    colours that nobody sees. Black under full transparency is nothing that was drawn."""
    if not mode.endswith("A"):
        return
    alpha = values[..., -1]
    seen = alpha == alpha.max()
    drawn = values[..., :-1].any(axis=-1)
    hidden = int((~seen & (drawn | (alpha > 0))).sum())
    if hidden or not alpha.max():
        raise DataError(
            f"{name}: has an alpha channel, and {hidden or alpha.size} transparent pixels have a value all "
            "the same; flatten the picture, so that each pixel shows its class, and save it without alpha"
        )


def used_palette(opened: Image.Image, values: np.ndarray) -> dict[int, int] | None:
    """The colours (0xRRGGBB) of the indices that occur; those that two of them have are left out."""
    palette = opened.getpalette("RGB") or []
    used = np.flatnonzero(np.bincount(values.ravel(), minlength=256)[: len(palette) // 3])
    colors = {i: palette[3 * i] << 16 | palette[3 * i + 1] << 8 | palette[3 * i + 2] for i in used.tolist()}
    listed = list(colors.values())
    return {i: color for i, color in colors.items() if listed.count(color) == 1}
