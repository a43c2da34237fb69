"""The area of a shape, which is counted in its run-length code, is that of the pixels that it is drawn on."""

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as masks

from unimatch.annotations.shapes import shape_area, shape_mask

SIZE = (30, 40)
SQUARE = [4, 4, 24, 4, 24, 20, 4, 20]
CODE = masks.encode(np.asfortranarray(np.tri(*SIZE, dtype=np.uint8)))


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ([SQUARE], 20 * 16),
        ([SQUARE, [30, 4, 36, 4, 36, 10, 30, 10]], 20 * 16 + 36),
        ({"outline": SQUARE, "holes": []}, 20 * 16),
        # One hole lies half outside; two holes overlap.
        ({"outline": SQUARE, "holes": [[20, 4, 30, 4, 30, 20, 20, 20]]}, 16 * 16),
        ({"outline": SQUARE, "holes": [[6, 6, 10, 6, 10, 9, 6, 9], [8, 6, 12, 6, 12, 9, 8, 9]]}, 320 - 18),
        ({"size": list(SIZE), "counts": CODE["counts"].decode()}, 30 * 31 // 2),
        ({"size": list(SIZE), "counts": [5, 7, 30 * 40 - 12]}, 7),
    ],
)
def test_an_area_is_the_pixels_of_the_mask(shape: Any, area: int) -> None:
    assert shape_area(shape, *SIZE) == shape_mask(shape, *SIZE).sum() == area


def test_what_cannot_be_drawn_covers_nothing() -> None:
    assert shape_area([[0, 0, 1, 1]], *SIZE) == shape_area({"size": [1, 1], "counts": [1]}, *SIZE) == 0
