"""Views of pairs: geometry and boxes are shared by the dates, colours are not."""

import numpy as np
import pytest

from tests.support.drawn import draw_colors
from unimatch import keyed
from unimatch.keyed import Draws
from unimatch.views.base import BOX, COLOR
from unimatch.views.box import draw_box
from unimatch.views.change import ChangeViewConfig, ChangeViews
from unimatch.views.colors import BlurConfig, JitterConfig
from unimatch.views.natural import NaturalViews

PLAIN = ChangeViewConfig(crop=40, jitter=JitterConfig(p=0.0), blur=BlurConfig(p=0.0))


def same_dates(seed: int, height: int = 50, width: int = 44) -> np.ndarray:
    one = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return np.stack([one, one])


@pytest.mark.parametrize("key", range(20))
def test_both_dates_have_one_geometry_and_it_is_that_of_natural_views(key):
    first, second = np.random.default_rng(key).integers(0, 256, (2, 30 + key, 45, 3)).astype(np.uint8)
    label = np.random.default_rng(key).integers(0, 2, (30 + key, 45)).astype(np.uint8)
    views, single = ChangeViews(PLAIN, 2, "same"), NaturalViews(PLAIN, 2, "same")
    made = views.labeled(np.stack([first, second]), label, key)
    for date, image in enumerate((first, second)):
        alone = single.labeled(image, label, key)
        assert np.array_equal(made["image"][date], alone["image"])
        assert np.array_equal(made["label"], alone["label"])
    made = views.unlabeled(np.stack([first, second]), key)
    assert made["weak"].shape == (2, 40, 40, 3) and made["strong"].shape == (2, 2, 40, 40, 3)
    for date, image in enumerate((first, second)):
        alone = single.unlabeled(image, key)
        for name in ("weak", "partner_weak"):
            assert np.array_equal(made[name][date], alone[name])
        for name in ("strong", "partner_strong"):  # without colours, so only geometry is left
            assert np.array_equal(made[name][:, date], alone[name])
        for name in ("content", "boxes", "partner_content"):
            assert np.array_equal(made[name], alone[name])


def test_colours_are_drawn_for_each_date_by_its_own_key():
    """Equal dates must look different in a strong view; each as its own stream of the key says."""
    config = ChangeViewConfig(crop=40, scale=(1.0, 1.0))
    different = 0
    for key in range(40):
        made = ChangeViews(config, 2, None).unlabeled(same_dates(key), key)
        assert np.array_equal(made["weak"][0], made["weak"][1])
        for v in range(2):
            for date in range(2):
                draws = Draws(keyed.key(keyed.key(key, COLOR, v), date))
                expected = draw_colors(draws, config).apply(made["weak"][date])
                assert np.array_equal(made["strong"][v, date], expected)
            different += not np.array_equal(made["strong"][v, 0], made["strong"][v, 1])
    # A date is left as it is with probability 0.2 * 0.5, so two are equal with 0.01: about 79 of 80 differ.
    assert different >= 74


def test_the_decisions_of_the_two_dates_are_independent():
    """A 2x2 table of "jittered" over 4000 keys: no correlation between dates, nor between views."""
    jittered = np.empty((4000, 2, 2), bool)
    for key in range(len(jittered)):
        for v in range(2):
            for date in range(2):
                draws = Draws(keyed.key(keyed.key(key, COLOR, v), date))
                jittered[key, v, date] = bool(draw_colors(draws, ChangeViewConfig(crop=8)).jitter)
    assert abs(jittered.mean() - 0.8) < 0.015
    table = np.corrcoef(jittered.reshape(len(jittered), 4).T) - np.eye(4)
    assert np.abs(table).max() < 0.06  # four standard deviations


def test_no_date_of_a_strong_view_is_grey_by_default():
    for key in range(60):
        made = ChangeViews(ChangeViewConfig(crop=24), 2, None).unlabeled(same_dates(key, 24, 24), key)
        spread = made["strong"].astype(int).max(-1) - made["strong"].min(-1)
        assert (spread.max((-1, -2)) > 10).all()


def test_published_scale_and_one_box_a_view():
    config = ChangeViewConfig(crop=40)
    assert config.scale == (0.8, 1.2) and config.gray == 0.0
    assert config.jitter == JitterConfig(0.8, 0.5, 0.5, 0.5, 0.25) and config.blur == BlurConfig(
        0.5, (0.1, 2.0)
    )
    seen = 0
    for key in range(30):
        boxes = ChangeViews(config, 2, "batch").unlabeled(same_dates(key), key)["boxes"]
        assert boxes.shape == (2, 4), "a box belongs to a view, not to a date"
        for v, box in enumerate(boxes):
            assert tuple(box) == draw_box(Draws(keyed.key(key, BOX, v)), config.box, 40)
        seen += bool(boxes.any())
    assert seen


def test_scales_fill_their_range():
    views = ChangeViews(ChangeViewConfig(crop=400), 0, None)
    label = np.zeros((100, 80), np.uint8)
    sides = []
    for key in range(300):
        made = views.labeled(np.zeros((2, 100, 80, 3), np.uint8), label, key)
        sides.append(int((made["label"] == 0).any(1).sum()))  # the long side, as the crop holds all of it
    assert min(sides) in (80, 81) and max(sides) in (119, 120) and len(set(sides)) > 38


def test_another_image_as_partner_brings_both_of_its_dates():
    views = ChangeViews(PLAIN, 1, "shuffled")
    other = same_dates(1)
    other[1] = 255 - other[1]
    made = views.unlabeled(same_dates(0), 5, other)
    again = ChangeViews(PLAIN, 1, "same").unlabeled(other, 5)
    assert np.array_equal(made["partner_weak"], again["partner_weak"])
    assert made["partner_weak"].shape == (2, 40, 40, 3)
    assert not np.array_equal(made["partner_weak"][0], made["partner_weak"][1])
