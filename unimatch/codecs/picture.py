"""Label maps in colour, for people; uint8 [H, W, 3] RGB. How pictures stand together: codecs.sheet."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from unimatch.taxonomy import IGNORE_INDEX

Colors = Sequence[tuple[int, int, int]]
GAP = 2  # white pixels between the two dates of a pair
STRIPE = 4  # pixels of a light and of a dark stripe where nothing is labelled


def label_colors(label: np.ndarray, colors: Colors) -> np.ndarray:
    """uint8 [H, W, 3]: each class id of `label` (integers, [H, W]) in its colour, IGNORE_INDEX hatched.

    Stripes of black and white are no class's colour: a class may be black, and often is.
    An id that is neither a class nor IGNORE_INDEX raises IndexError: a picture must not hide it.
    """
    known = (label >= 0) & (label < len(colors)) | (label == IGNORE_INDEX)
    if not known.all():
        raise IndexError(
            f"label ids {np.unique(label[~known]).tolist()} have no colour among {len(colors)} classes"
        )
    table = np.zeros((IGNORE_INDEX + 1, 3), np.uint8)
    table[: len(colors)] = np.asarray(colors, np.uint8)
    painted = table[label]
    ignored = label == IGNORE_INDEX
    painted[ignored] = hatching(*label.shape)[ignored]
    return painted


def hatching(height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]: diagonal stripes of black and white, the look of "not labelled"."""
    y, x = np.ogrid[:height, :width]
    stripes = np.where((x + y) // STRIPE % 2, 255, 0).astype(np.uint8)
    return np.repeat(stripes[..., None], 3, axis=2)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] to show: RGB as it is; of 16-bit grey [H, W] the brightest pixel becomes white."""
    if image.dtype == np.uint8:
        return image
    grey = np.round(image * (255 / max(int(image.max()), 1))).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def overlay(
    image: np.ndarray, label: np.ndarray, colors: Colors, alpha: float = 0.5, clear: int | None = None
) -> np.ndarray:
    """uint8 [H, W, 3]: `image` with the colours of `label` blended in by `alpha`.

    Class `clear`, if there is one, leaves the image as it is. A label of another size is stretched over the
    image, each pixel taking the nearest id.
    """
    if label.shape != image.shape[:2]:
        # OpenCV's resize knows no int64.
        label = cv2.resize(label.astype(np.int32), image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    blended = cv2.addWeighted(image, 1 - alpha, label_colors(label, colors), alpha, 0)
    return blended if clear is None else np.where((label == clear)[..., None], image, blended)


def scaled(image: np.ndarray, side: int) -> np.ndarray:
    """The image with a longer side of `side` pixels, smaller or larger than it was, and the same shape."""
    height, width = image.shape[:2]
    factor = side / max(height, width)
    if factor == 1:
        return image
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 [H, W, 3]: pictures of one height as they are, two white pixels between them."""
    gap = np.full((pictures[0].shape[0], GAP, 3), 255, np.uint8)
    return np.hstack([part for picture in pictures for part in (gap, picture)][1:])
