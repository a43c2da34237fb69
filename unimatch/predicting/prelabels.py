"""What a network sees in an image as shapes that people edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unimatch.annotations.drawing import Drawing, Piece
from unimatch.annotations.geometry import runs
from unimatch.annotations.outlines import components, outlines, without_specks
from unimatch.annotations.shapes import draw_shapes
from unimatch.codecs.prepared import restored
from unimatch.errors import UserError
from unimatch.taxonomy import IGNORE_INDEX


@dataclass(frozen=True)
class Rules:
    """threshold: pixels whose class is less probable get none. tolerance: pixels that an outline may lie off.
    smallest: regions of fewer pixels go to the class around them. masks: brush masks in place of polygons.
    """

    threshold: float = 0.5
    tolerance: float = 1.0
    smallest: int = 20
    masks: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(f"--threshold must be from 0 to 1, found {self.threshold:g}")
        if self.tolerance < 0:
            raise UserError(f"--tolerance must be at least 0 pixels, found {self.tolerance:g}")
        if self.smallest < 0:
            raise UserError(f"--smallest must be at least 0 pixels, found {self.smallest}")


@dataclass
class Made:
    """Counts over images: pixels; of them with a class (`sure`), and with the same class, or none, once the
    shapes are drawn again (`same`); shapes, corners of polygons, masks among the shapes that polygons could
    not say, and regions that were thinner than the tolerance.
    """

    pixels: int = 0
    sure: int = 0
    same: int = 0
    shapes: int = 0
    corners: int = 0
    masks: int = 0
    lost: int = 0


def confident(ids: np.ndarray, conf: np.ndarray, threshold: float, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W] of `size`: class ids [h, w], IGNORE_INDEX where their probabilities [h, w] are lower."""
    return restored(np.where(conf < threshold, np.uint8(IGNORE_INDEX), ids), size)


def drawing_of(name: str, ids: np.ndarray, classes: Sequence[str], rules: Rules, made: Made) -> Drawing:
    """The shapes of class ids uint8 [H, W], bottom first; counted in `made`."""
    wanted = without_specks(ids, rules.smallest)
    size = (ids.shape[0], ids.shape[1])
    shapes: list[tuple[int, object]] = []
    if rules.masks:
        shapes = masks_of(wanted)
    else:
        regions, lost = outlines(wanted, rules.tolerance)
        made.lost += lost
        for one in regions:
            shapes.append((one.class_id, one.mask or [one.points.astype(float).ravel().tolist()]))
            made.masks += one.mask is not None
            made.corners += 0 if one.mask else len(one.points)
    drawn, _ = draw_shapes(
        [[target, shape, number] for number, (target, shape) in enumerate(shapes)], *size, IGNORE_INDEX
    )
    made.pixels += ids.size
    made.sure += int((ids != IGNORE_INDEX).sum())
    made.same += int((drawn == ids).sum())
    made.shapes += len(shapes)
    return Drawing(
        name, size, [Piece(classes[target], shape, number) for number, (target, shape) in enumerate(shapes)]
    )


def masks_of(ids: np.ndarray) -> list[tuple[int, object]]:
    """(class id, run-length code) of each connected region, the largest first."""
    parts = components(ids)
    sizes = np.bincount(parts.ravel())
    found: list[tuple[int, object]] = []
    for part in np.argsort(-sizes, kind="stable").tolist():
        own = parts == part
        class_id = int(ids.ravel()[own.argmax()])
        if class_id != IGNORE_INDEX:
            found.append((class_id, runs(own)))
    return found
