"""Pictures for people: label maps in colour, overlays, contact sheets; uint8 [H, W, 3] RGB in and out."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from unimatch.taxonomy import IGNORE_INDEX

Colors = Sequence[tuple[int, int, int]]
IGNORE_COLOR = (0, 0, 0)


def label_colors(label: np.ndarray, colors: Colors) -> np.ndarray:
    """uint8 [H, W, 3]: each class id of `label` (integers, [H, W]) in its colour, IGNORE_INDEX in black.

    An id that is neither a class nor IGNORE_INDEX raises IndexError: a picture must not hide it.
    """
    table = np.zeros((IGNORE_INDEX + 1, 3), np.uint8)
    table[: len(colors)] = np.asarray(colors, np.uint8)
    table[IGNORE_INDEX] = IGNORE_COLOR
    known = (label >= 0) & (label < len(colors)) | (label == IGNORE_INDEX)
    if not known.all():
        raise IndexError(
            f"label ids {np.unique(label[~known]).tolist()} have no colour among {len(colors)} classes"
        )
    return table[label]


def as_rgb(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] to show: RGB as it is; of 16-bit grey [H, W] the brightest pixel becomes white."""
    if image.dtype == np.uint8:
        return image
    grey = np.round(image * (255 / max(int(image.max()), 1))).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def overlay(image: np.ndarray, label: np.ndarray, colors: Colors, alpha: float = 0.5) -> np.ndarray:
    """uint8 [H, W, 3]: `image` with class colours blended in by `alpha`; ignored pixels stay as they are."""
    blended = cv2.addWeighted(image, 1 - alpha, label_colors(label, colors), alpha, 0)
    return np.where((label == IGNORE_INDEX)[..., None], image, blended)


def grid(images: Sequence[np.ndarray], columns: int | None = None, gap: int = 2) -> np.ndarray:
    """uint8 [H, W, 3]: the images row by row on white, `columns` to a row (default: about as many as rows).

    A grey image [H, W] is shown as RGB. Images of several sizes are allowed: each cell fits the largest.
    """
    if not images:
        raise ValueError("a grid needs at least one image")
    tiles = [image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2) for image in images]
    columns = columns or int(np.ceil(np.sqrt(len(tiles))))
    rows = -(-len(tiles) // columns)
    height, width = max(tile.shape[0] for tile in tiles), max(tile.shape[1] for tile in tiles)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        top, left = (place // columns) * (height + gap), (place % columns) * (width + gap)
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet
