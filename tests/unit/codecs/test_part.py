from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from unimatch.codecs.part import Part, around, as_part

PIXELS = np.arange(2 * 6 * 9 * 3).reshape(2, 6, 9, 3)  # two dates of 6 x 9 pixels
LEFT, TOP = 4, 7
PART = Part(PIXELS, LEFT, TOP, width=40, height=30)


def test_it_covers_what_it_holds_and_not_a_pixel_more():
    inside = (LEFT, TOP, LEFT + 9, TOP + 6)
    assert PART.covers(inside) and PART.covers((LEFT + 1, TOP + 1, LEFT + 2, TOP + 2))
    for side, step in enumerate((-1, -1, 1, 1)):
        beyond = list(inside)
        beyond[side] += step
        assert not PART.covers(tuple(beyond))


@pytest.mark.parametrize(("x0", "y0"), list(product((0, 1, 8), (0, 2, 5))))
def test_a_cut_holds_the_pixels_of_its_place(x0, y0):
    rect = (LEFT + x0, TOP + y0, LEFT + 9, TOP + 6)
    cut = PART.cut(rect)
    assert np.array_equal(cut.pixels, PIXELS[:, y0:, x0:])
    assert (cut.left, cut.top, cut.width, cut.height) == (*rect[:2], 40, 30) and cut.covers(rect)


def test_the_rectangle_around_two_holds_both():
    assert around((3, 1, 5, 9), (4, 0, 8, 2)) == (3, 0, 8, 9)
    assert around((4, 0, 8, 2), (3, 1, 5, 9)) == (3, 0, 8, 9)


def test_a_whole_image_is_its_own_part():
    part = as_part(PIXELS)
    assert (part.left, part.top, part.width, part.height) == (0, 0, 9, 6)
    assert as_part(PART) is PART
