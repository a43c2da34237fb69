"""What predict writes is called, and a picture that is made in parts is the one that is made whole."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from unimatch.codecs.picture import label_colors
from unimatch.predicting import results
from unimatch.predicting.results import picture_names
from unimatch.taxonomy import IGNORE_INDEX

COLORS = ((0, 0, 0), (200, 30, 60), (20, 220, 90))


def test_parts_give_the_picture_that_is_made_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.random.default_rng(0).choice(np.array([0, 1, 2, IGNORE_INDEX], np.uint8), (1100, 40))
    read = []
    for large in (results.LARGE, 100):
        monkeypatch.setattr(results, "LARGE", large)
        place = tmp_path / str(large) / "deep" / "a.png"
        results.write_picture(place, ids.shape, lambda rows: label_colors(ids[rows], COLORS))
        read.append(cv2.imread(str(place)))
    np.testing.assert_array_equal(read[0], read[1])
    np.testing.assert_array_equal(read[0][..., ::-1], label_colors(ids, COLORS))


@pytest.mark.parametrize(
    ("names", "pictures"),
    [
        ("a.png b/c.d.JPG b/a.jpg v.nii.gz w.h5", "a.png b/c.d.png b/a.png v.png w.png"),
        ("a.png a.jpg b.jpg", "a.png.png a.jpg.png b.png"),
        ("a.jpg a.jpg.tif", "a.png a.jpg.tif.png"),  # the second one's short name is the first one's long one
    ],
)
def test_no_two_files_have_one_picture(names: str, pictures: str) -> None:
    files = [Path(name) for name in names.split()]
    assert list(map(picture_names(files, stems=False), files)) == [Path(f"{file}.png") for file in files]
    assert list(map(picture_names(files, stems=True), files)) == list(map(Path, pictures.split()))
