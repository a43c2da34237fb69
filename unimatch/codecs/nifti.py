"""NIfTI files as stacks of slices that all lie alike, whatever the order and directions of the file's axes.

A file's affine says in which direction of the body each of its axes grows. `axcodes` are three letters for
the axes [slice, row, column] of an array, each the direction in which its index grows: L or R (left, right of
the body), A or P (front, back), S or I (up, down), as in nibabel and MONAI. Arrays are turned and mirrored,
never resampled: a tilted volume takes the nearest of the 48 ways to lie.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt2axcodes,
    ornt_transform,
)

from unimatch.errors import ConfigError, DataError

SUFFIXES = (".nii", ".nii.gz")
AXCODES = "SAR"  # axial slices from below; rows to the front, columns to the right: nibabel's RAS, transposed
STORED = "stored"  # no turn: the axes [z, y, x] of the file as they lie
DIRECTIONS = ("RL", "AP", "SI")


@dataclass(frozen=True)
class Nifti:
    """A file's slices, and what writes ids back on its grid.

    values: [D, H, W], the file's own numbers with its scale factor applied.
    turn: int [3, 2], nibabel's orientation that takes [D, H, W] to the file's axes [X, Y, Z].
    unplaced: the file does not say how it lies, so its axes are taken as those of a RAS file.
    """

    values: np.ndarray
    image: Any
    turn: np.ndarray
    unplaced: bool


def check_axcodes(axcodes: str) -> None:
    """ConfigError unless it names each axis of the body once, or is "stored"."""
    named = sorted(axis for letter in axcodes for axis, pair in enumerate(DIRECTIONS) if letter in pair)
    if axcodes != STORED and (len(axcodes) != 3 or named != [0, 1, 2]):
        raise ConfigError(
            "axcodes are the directions in which slices, rows and columns go: one letter of R L, one of A P "
            f"and one of S I, such as {AXCODES}, or {STORED!r}; found {axcodes!r}"
        )


def read_nifti(path: Path, axcodes: str = AXCODES) -> Nifti:
    """The volume of a file as `axcodes` say that slices, rows and columns lie.

    DataError: no such file, another content, several volumes, a flat slice of another plane than `axcodes`
    ask for, or an affine that says nothing.
    """
    check_axcodes(axcodes)
    with _reading(path):
        image: Any = nibabel.load(path)
        values = np.asarray(image.dataobj)
    return turned(path, image, values, axcodes)


def turned(path: Path, image: Any, values: np.ndarray, axcodes: str) -> Nifti:
    """The same of an image that was opened, and its values."""
    if values.dtype.kind not in "biuf":
        raise DataError(f"{path}: has {values.dtype} voxels, expected one number each")
    values = values.reshape(_shape(path, values.shape))
    lies, wanted = _orientations(path, image, axcodes)
    slices = apply_orientation(values, ornt_transform(lies, wanted))
    if len(slices) > 1 and 1 in slices.shape[1:]:
        raise DataError(f"{path}: {_other_plane(values.shape, ornt2axcodes(lies), ornt2axcodes(wanted))}")
    return Nifti(slices, image, ornt_transform(wanted, lies).astype(np.int64), _unplaced(image))


@dataclass(frozen=True)
class Grid:
    """Where the slices of a file lie, without their values: the shape [D, H, W], and the affine that takes
    (slice, row, column) to millimetres; None: the file does not say it, or the axes are as `stored`."""

    shape: tuple[int, int, int]
    affine: np.ndarray | None


def read_grid(path: Path, axcodes: str = AXCODES) -> Grid:
    """The grid of a file as `read_nifti` turns it, from its header alone. DataError as there."""
    with _reading(path):
        image: Any = nibabel.load(path)
    return grid(path, image, axcodes)


def grid(path: Path, image: Any, axcodes: str) -> Grid:
    """The same of an image that was opened."""
    check_axcodes(axcodes)
    shape = _shape(path, image.shape)
    lies, wanted = _orientations(path, image, axcodes)
    turn = ornt_transform(lies, wanted)
    # Each axis of the file, the first to be mapped: which one of the slices', and how long.
    sides = {int(to): side for (to, _), side in zip(turn, shape, strict=True)}
    placed = None if _unplaced(image) or axcodes == STORED else image.affine @ inv_ornt_aff(turn, shape)
    return Grid((sides[0], sides[1], sides[2]), placed)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (ImageFileError, OSError, EOFError, ValueError, TypeError, zlib.error) as error:
        raise DataError(f"{path}: no NIfTI file, or damaged: {error}") from error


def _shape(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """[X, Y, Z] of a file's array."""
    if len(shape) > 3 and shape[3:] == (1,) * (len(shape) - 3):
        shape = shape[:3]
    if len(shape) not in (2, 3) or 0 in shape:
        raise DataError(
            f"{path}: has the shape {list(shape)}, expected [X, Y] or [X, Y, Z]; write the volumes "
            "of a series to one file each"
        )
    return (shape[0], shape[1], shape[2] if len(shape) == 3 else 1)


def _unplaced(image: Any) -> bool:
    return not (image.header["sform_code"] or image.header["qform_code"])


def _orientations(path: Path, image: Any, axcodes: str) -> tuple[np.ndarray, np.ndarray]:
    """nibabel's orientations of the file's axes as they lie, and as they are wanted."""
    as_it_lies = _unplaced(image) or axcodes == STORED
    lies = axcodes2ornt(tuple("RAS")) if as_it_lies else io_orientation(image.affine)
    if np.isnan(lies).any():
        raise DataError(f"{path}: its affine maps no volume; correct it, or give axcodes {STORED!r}")
    return lies, lies[::-1] if axcodes == STORED else axcodes2ornt(tuple(axcodes))


def write_ids(path: Path, ids: np.ndarray, like: Nifti) -> None:
    """Writes class ids, uint8 [D, H, W] on the slices of `like`, with the shape, axes, affine and units of
    its file.
    """
    image = like.image
    header = image.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0  # the range to show was that of the scan's values
    header.set_intent("label")
    labels = apply_orientation(ids, like.turn).reshape(image.shape)
    nibabel.save(type(image)(labels, image.affine, header), path)


def _other_plane(shape: tuple[int, ...], along: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    """What is wrong with a single slice across another direction than that of the slices asked for."""
    flat = along[shape.index(1)]
    axis = next(pair for pair in DIRECTIONS if flat in pair)
    fitting = flat + "".join(letter for letter in wanted if letter not in axis)
    return (
        f"is a single slice across {flat} ({' x '.join(map(str, shape))} voxels along {', '.join(along)}), "
        f"but axcodes {''.join(wanted)!r} cut slices across {wanted[0]}; for such files give {fitting!r}"
    )
