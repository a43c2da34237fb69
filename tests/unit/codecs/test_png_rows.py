"""Pictures written a few rows at a time are the pictures."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from unimatch.codecs.png_rows import write_png_rows


@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "colour"])
@pytest.mark.parametrize(("height", "width", "rows"), [(7, 5, 3), (6, 1, 2), (1, 9, 4), (40, 33, 40)])
def test_any_program_reads_the_picture_again(
    tmp_path: Path, height: int, width: int, rows: int, channels: tuple[int, ...]
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (height, width, *channels), np.uint8)
    parts = (picture[top : top + rows] for top in range(0, height, rows))
    write_png_rows(tmp_path / "a.png", (height, width), parts)
    read = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read if not channels else read[..., ::-1], picture)
