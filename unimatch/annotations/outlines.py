"""Class ids as outlines that people can edit, of which neighbours share each border.

A border between two regions is simplified once, so that no gap opens and nothing overlaps: it is cut where
three regions meet, and each piece goes through Douglas and Peucker's rule. Coordinates: see `geometry`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from unimatch.annotations.geometry import runs
from unimatch.taxonomy import IGNORE_INDEX

OUTSIDE = -1  # the label of what is around a picture
AROUND = np.ones((3, 3), np.uint8)
Point = tuple[int, int]  # x, y of a corner of pixels


@dataclass(frozen=True)
class Region:
    """A connected region of one class, and what lies in it. points: int [n, 2] (x, y) of its outline, whose
    holes are what smaller regions lie on. mask: COCO's run-length code of its pixels alone, if something in
    its outline has no class, which no outline says; else None.
    """

    class_id: int
    points: np.ndarray
    mask: dict[str, object] | None
    area: int  # pixels inside the outline


def outlines(ids: np.ndarray, tolerance: float) -> tuple[list[Region], int]:
    """(the regions of a label map uint8 [H, W], larger ones first, so that each lies below what is in it; how
    many were thinner than the tolerance and are left out). Nothing is said of IGNORE_INDEX.

    tolerance: pixels that an outline may lie off.
    """
    parts = components(ids)
    junction = junctions(ids)
    found, lost = [], 0
    boxes = ndimage.find_objects(parts + 1)
    for part, ring in rings(parts):
        area = enclosed(ring)
        if area <= 0:  # a hole
            continue
        y, x = boxes[part][0].start, boxes[part][1].start
        own = parts[boxes[part]] == part
        class_id = int(ids[boxes[part]][own][0])
        if class_id == IGNORE_INDEX:
            continue
        inside = ndimage.binary_fill_holes(own, AROUND)
        empty = bool((ids[boxes[part]][inside] == IGNORE_INDEX).any())
        points = simplified(ring, junction, tolerance)
        if len(points) < 3 and not empty:
            lost += 1
            continue
        mask = None
        if empty:
            whole = np.zeros(ids.shape, bool)
            whole[y : y + own.shape[0], x : x + own.shape[1]] = own
            mask = runs(whole)
        found.append(Region(class_id, points, mask, area))
    return sorted(found, key=lambda one: -one.area), lost


def without_specks(ids: np.ndarray, smallest: int) -> np.ndarray:
    """The label map with each region of fewer pixels given to the class that most of its neighbours have."""
    if smallest <= 1:
        return ids
    parts = components(ids)
    found = ids.copy()
    sizes = np.bincount(parts.ravel())
    boxes = ndimage.find_objects(parts + 1)
    for part in np.flatnonzero(sizes < smallest).tolist():
        rows, columns = (slice(max(0, one.start - 1), one.stop + 1) for one in boxes[part])
        own = parts[rows, columns] == part
        around = ndimage.binary_dilation(own, AROUND) & ~own & (sizes[parts[rows, columns]] >= smallest)
        if around.any():
            found[rows, columns][own] = np.bincount(ids[rows, columns][around]).argmax()
    return found


def components(ids: np.ndarray) -> np.ndarray:
    """int32 [H, W] from 0: the numbers of regions of one class whose pixels share sides."""
    parts, count = np.zeros(ids.shape, np.int32), 0
    for class_id in np.unique(ids).tolist():
        numbers, more = ndimage.label(ids == class_id)
        np.copyto(parts, numbers - 1 + count, where=numbers > 0)
        count += more
    return parts


def junctions(ids: np.ndarray) -> np.ndarray:
    """bool [H + 1, W + 1]: corners of pixels that simplifying keeps: those of the picture, and where three or
    more borders meet.
    """
    framed = np.pad(ids.astype(np.int16), 1, constant_values=OUTSIDE)
    across = framed[1:, :] != framed[:-1, :]  # borders between rows, [H + 1, W + 2]
    down = framed[:, 1:] != framed[:, :-1]  # between columns, [H + 2, W + 1]
    meeting = across[:, 1:].astype(int) + across[:, :-1] + down[1:] + down[:-1]
    kept = meeting >= 3
    kept[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    return np.asarray(kept)


def rings(parts: np.ndarray) -> Iterator[tuple[int, list[Point]]]:
    """(region, its corners in order) of each closed border of each region, which lies to its right. Pixels
    that touch at a corner alone are kept apart.
    """
    height, width = parts.shape
    framed = np.pad(parts, 1, constant_values=OUTSIDE)
    wide = width + 2
    flat = framed.ravel()
    # Sides of a pixel clockwise: top, right, bottom, left; steps to what is ahead, and beyond the side.
    ahead = (1, wide, -1, -wide)
    beyond = (-wide, 1, wide, -1)
    corner = ((0, 0), (1, 0), (1, 1), (0, 1))  # where the walk along a side begins
    own = np.zeros(len(flat), bool)
    own.reshape(framed.shape)[1:-1, 1:-1] = True
    left: list[set[int]] = []
    for step in beyond:
        left.append(set(np.flatnonzero(own & (flat != np.roll(flat, -step))).tolist()))
    for start in sorted(left[0] | left[2]):
        for first in (0, 2):
            if start not in left[first]:
                continue
            pixel, side, ring = start, first, []
            while pixel in left[side]:
                left[side].remove(pixel)
                y, x = divmod(pixel, wide)
                ring.append((x - 1 + corner[side][0], y - 1 + corner[side][1]))
                turned, before = (side + 1) % 4, (side - 1) % 4
                if flat[pixel] != flat[pixel + beyond[turned]]:
                    side = turned
                elif flat[pixel + ahead[side]] != flat[pixel + ahead[side] + beyond[side]]:
                    pixel += ahead[side]
                else:
                    pixel, side = pixel + ahead[side] + beyond[side], before
            yield int(flat[start]), ring


def enclosed(ring: list[Point]) -> int:
    """Pixels inside a ring that goes clockwise, as people see it; negative of one that does not."""
    x, y = np.array(ring, np.int64).T
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) // 2


def simplified(ring: list[Point], junction: np.ndarray, tolerance: float) -> np.ndarray:
    """int [n, 2]: the ring with fewer corners, each of its pieces as the neighbour's ring has it."""
    points = np.array(ring, np.int32)
    cuts = np.flatnonzero(junction[points[:, 1], points[:, 0]])
    if not len(cuts):  # an island: the same two ends from within and from without
        first = np.lexsort((points[:, 0], points[:, 1]))[0]
        cuts = np.sort([first, farthest(points, first)])
    elif len(cuts) == 1:
        cuts = np.sort([cuts[0], farthest(points, cuts[0])])
    points = np.roll(points, -cuts[0], axis=0)
    ends = [*(cuts - cuts[0]).tolist(), len(points)]
    closed = np.concatenate([points, points[:1]])
    kept = [piece(closed[a : b + 1], tolerance)[:-1] for a, b in zip(ends[:-1], ends[1:], strict=True)]
    return np.concatenate(kept)


def farthest(points: np.ndarray, place: int) -> int:
    """The place of the point farthest from one; of equal ones the uppermost, then the leftmost."""
    away = ((points - points[place]).astype(np.int64) ** 2).sum(1)
    return int(np.lexsort((points[:, 0], points[:, 1], -away))[0])


def piece(points: np.ndarray, tolerance: float) -> np.ndarray:
    """A line of corners with fewer of them, the same forwards and backwards."""
    turned = tuple(points[0, ::-1]) > tuple(points[-1, ::-1])
    line = points[::-1] if turned else points
    kept, todo = {0, len(line) - 1}, [(0, len(line) - 1)]
    while todo:
        first, last = todo.pop()
        (x, y), (dx, dy) = line[first], line[last] - line[first]
        inner = line[first + 1 : last]
        off = np.abs((inner[:, 0] - x) * dy - (inner[:, 1] - y) * dx)
        if len(off) and off.max() > tolerance * np.hypot(dx, dy):
            middle = first + 1 + int(off.argmax())
            kept.add(middle)
            todo += [(first, middle), (middle, last)]
    line = line[sorted(kept)]
    return line[::-1] if turned else line
