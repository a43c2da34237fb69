"""Label maps become outlines that neighbours share, and are drawn again."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from unimatch.annotations.outlines import outlines, without_specks
from unimatch.annotations.shapes import draw_shapes
from unimatch.taxonomy import IGNORE_INDEX


def blobs(height: int, width: int, empty: bool = False, seed: int = 0) -> np.ndarray:
    """uint8 [height, width] of four classes in blobs, some of it without a class."""
    draw = np.random.default_rng(seed)
    noise = np.stack([ndimage.gaussian_filter(draw.normal(size=(height, width)), 3) for _ in range(4)])
    ids = noise.argmax(0).astype(np.uint8)
    if empty:
        ids[noise.max(0) < np.quantile(noise.max(0), 0.2)] = IGNORE_INDEX
    return ids


def drawn(ids: np.ndarray, tolerance: float) -> np.ndarray:
    regions, _ = outlines(ids, tolerance)
    shapes = [[one.class_id, one.mask or [one.points.ravel().tolist()], 0] for one in regions]
    return draw_shapes(shapes, *ids.shape, IGNORE_INDEX)[0]


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_without_a_tolerance_every_pixel_comes_back(seed: int, empty: bool):
    """Also of noise, whose regions touch at corners and lie in one another."""
    for ids in (blobs(30, 44, empty, seed), blobs(30, 44, empty, seed)[::3, ::4]):
        assert np.array_equal(drawn(ids, 0), ids)
    noise = np.random.default_rng(seed).integers(0, 3, (13, 17)).astype(np.uint8)
    assert np.array_equal(drawn(noise, 0), noise)


@pytest.mark.parametrize("tolerance", [1.0, 2.0])
def test_simplified_borders_leave_no_gap_and_stay_within_the_tolerance(tolerance: float):
    ids = blobs(90, 120)
    found = drawn(ids, tolerance)
    assert not (found == IGNORE_INDEX).any()
    wrong = found != ids
    assert 0 < wrong.mean() < 0.04 * tolerance
    for y, x in np.argwhere(wrong):  # its new class lies so near, but for pixels at the side of a line
        rows, columns = (slice(max(0, int(at - tolerance - 1)), int(at + tolerance + 2)) for at in (y, x))
        assert found[y, x] in ids[rows, columns]
    corners = [sum(len(one.points) for one in outlines(ids, amount)[0]) for amount in (0, tolerance)]
    assert corners[1] < corners[0] / 3


def test_a_ring_and_what_lies_in_it():
    ids = np.zeros((9, 9), np.uint8)
    ids[2:7, 2:7] = 1
    ids[3:6, 3:6] = 2
    regions, lost = outlines(ids, 0)
    assert ([one.class_id for one in regions], lost) == ([0, 1, 2], 0)
    assert [one.area for one in regions] == [81, 25, 9] and [one.mask for one in regions] == [None] * 3
    assert sorted(map(tuple, regions[2].points.tolist())) == [(3, 3), (3, 6), (6, 3), (6, 6)]


def test_what_is_empty_inside_an_outline_makes_it_a_mask():
    ids = np.zeros((9, 9), np.uint8)
    ids[2:7, 2:7] = 1
    ids[4, 4] = IGNORE_INDEX
    regions, _ = outlines(ids, 1)
    assert [one.mask is not None for one in regions] == [True, True]
    assert np.array_equal(drawn(ids, 1), ids)
    ids[4, 4], ids[0, :3] = 1, IGNORE_INDEX  # at the side it is outside
    assert [one.mask for one in outlines(ids, 0)[0]] == [None, None]


def test_regions_thinner_than_the_tolerance_are_counted():
    ids = np.zeros((20, 20), np.uint8)
    ids[10, 5:15] = 1
    regions, lost = outlines(ids, 1)
    assert ([one.class_id for one in regions], lost) == ([0], 1)


def test_specks_go_to_the_class_around_them():
    ids = np.zeros((10, 12), np.uint8)
    ids[:, 6:] = 1
    ids[4:6, 7:9] = 2  # among ones
    ids[4, 2] = IGNORE_INDEX
    ids[0:3, 0:3] = 3  # nine pixels stay
    cleaned = without_specks(ids, 5)
    assert np.array_equal(np.unique(cleaned), [0, 1, 3])
    assert (cleaned[4:6, 7:9] == 1).all() and cleaned[4, 2] == 0 and (cleaned[0:3, 0:3] == 3).all()
    assert without_specks(ids, 1) is ids
