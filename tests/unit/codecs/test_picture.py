"""Label maps in colour, by hand."""

import numpy as np
import pytest

from unimatch.codecs.picture import STRIPE, as_rgb, hatching, label_colors, overlay, scaled
from unimatch.taxonomy import IGNORE_INDEX

COLORS = ((255, 0, 0), (0, 0, 255), (0, 0, 0))


def test_overlay_by_hand() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    label = np.array([[0, 1, 255]])
    assert label_colors(label, COLORS).tolist() == [[[255, 0, 0], [0, 0, 255], [0, 0, 0]]]
    assert overlay(image, label, COLORS, 0.2).tolist() == [[[131, 80, 80], [80, 80, 131], [80, 80, 80]]]
    cleared = overlay(image, label, COLORS, 0.2, clear=0)
    assert cleared.tolist() == [[[100, 100, 100], [80, 80, 131], [80, 80, 80]]]
    with pytest.raises(IndexError, match=r"\[3\]"):
        label_colors(np.array([[3]]), COLORS)


@pytest.mark.parametrize(
    "paint",
    [
        lambda label: label_colors(label, COLORS),
        lambda label: overlay(np.full((16, 16, 3), 90, np.uint8), label, COLORS),
    ],
)
def test_what_is_not_labelled_looks_like_no_class(paint) -> None:
    """A class may be black: ignored pixels are striped, and in every square of two stripes' size."""
    ignored = paint(np.full((16, 16), IGNORE_INDEX, np.uint8))
    black = paint(np.full((16, 16), 2, np.uint8))
    assert len(np.unique(black)) == 1
    for y in range(0, 16, 2 * STRIPE):
        for x in range(0, 16, 2 * STRIPE):
            seen = ignored[y : y + 2 * STRIPE, x : x + 2 * STRIPE, 0]
            dark, light = np.unique(seen)
            assert (seen == dark).sum() == (seen == light).sum() and int(light) - int(dark) > 100


def test_stripes_are_diagonal() -> None:
    stripes = hatching(9, 12)
    assert stripes.shape == (9, 12, 3) and set(np.unique(stripes)) == {0, 255}
    assert np.array_equal(stripes[1:, :-1], stripes[:-1, 1:])


def test_a_label_of_another_size_is_stretched() -> None:
    image = np.zeros((6, 9, 3), np.uint8)
    label = np.array([[0, 1, 2], [1, 2, 0]])
    whole = np.repeat(np.repeat(label, 3, axis=0), 3, axis=1)
    assert np.array_equal(overlay(image, label, COLORS), overlay(image, whole, COLORS))
    assert np.array_equal(overlay(image, label.astype(np.uint8), COLORS), overlay(image, whole, COLORS))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((3000, 4000, 3), (240, 320, 3)), ((5, 7, 3), (229, 320, 3)), ((4000, 20, 3), (320, 2, 3)),
     ((1, 4000), (1, 320)), ((64, 64), (320, 320))],
)  # fmt: skip
def test_scaled_has_the_longer_side_asked_for(shape, expected) -> None:
    assert scaled(np.zeros(shape, np.uint8), 320).shape == expected


def test_scaled_to_its_own_size_is_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 20, 3), np.uint8)
    assert np.array_equal(scaled(image, 32), image)
    assert (scaled(np.full((8, 6, 3), 77, np.uint8), 320) == 77).all()


def test_grey_of_16_bits_is_stretched_to_white() -> None:
    deep = np.array([[0, 1500, 3000]], np.uint16)
    assert as_rgb(deep).tolist() == [[[0] * 3, [128] * 3, [255] * 3]]
    assert not as_rgb(np.zeros((2, 2), np.uint16)).any()
