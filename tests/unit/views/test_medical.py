"""Views of slices against SciPy and against loops over pixels."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from unimatch import keyed
from unimatch.errors import ConfigError
from unimatch.keyed import Draws
from unimatch.views.medical import (
    GreyJitterConfig,
    Greys,
    MedicalViewConfig,
    MedicalViews,
    SlicePlacement,
    draw_greys,
    draw_placement,
)

SIZES = [(24, 24), (40, 31), (17, 52)]


def slice_of(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint16 [height, width, 1], noise."""
    return (keyed.uniform(seed, height * width) * 65535).astype(np.uint16).reshape(height, width, 1)


def label_of(height: int, width: int) -> np.ndarray:
    return (keyed.uniform(9, height * width) * 4).astype(np.uint8).reshape(height, width)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop", [16, 24, 33])
def test_zoom_is_scipys_of_order_0(size: tuple[int, int], crop: int) -> None:
    image = slice_of(*size)
    expected = ndimage.zoom(image[..., 0], (crop / size[0], crop / size[1]), order=0)
    np.testing.assert_array_equal(SlicePlacement(crop).image(image)[..., 0], expected)
    assert SlicePlacement(crop).image(image).shape == (crop, crop, 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("degrees", [-20, -7, 1, 13, 19])
def test_rotation_is_scipys_of_order_0_then_the_zoom(size: tuple[int, int], degrees: int) -> None:
    image, label = slice_of(*size), label_of(*size)
    zoom = (32 / size[0], 32 / size[1])
    placement = SlicePlacement(32, degrees=degrees)
    for array, found in (
        (image[..., 0], placement.image(image)[..., 0]),
        (label, placement.label(label)),
    ):
        expected = ndimage.zoom(ndimage.rotate(array, degrees, order=0, reshape=False), zoom, order=0)
        # A source position may lie exactly between two pixels; the two roundings differ there.
        assert np.mean(found != expected) < 0.005
        assert found.dtype == array.dtype


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirror", [0, 1])
def test_turn_and_mirror(turns: int, mirror: int) -> None:
    image, label = slice_of(24, 24), label_of(24, 24)
    placement = SlicePlacement(24, turns, mirror)
    expected = np.flip(np.rot90(image[..., 0], turns), mirror)
    np.testing.assert_array_equal(placement.image(image)[..., 0], expected)
    np.testing.assert_array_equal(placement.label(label), np.flip(np.rot90(label, turns), mirror))


def test_rotation_turns_counter_clockwise_about_the_middle_and_leaves_0() -> None:
    label = np.full((101, 101), 3, np.uint8)
    label[50, 90] = 1  # right of the middle
    found = SlicePlacement(101, degrees=20).label(label)
    y, x = np.argwhere(found == 1).mean(0)
    assert (
        math.hypot(y - (50 - 40 * math.sin(math.radians(20))), x - (50 + 40 * math.cos(math.radians(20)))) < 1
    )
    assert found[50, 50] == 3 and found[0, 0] == found[-1, -1] == found[0, -1] == found[-1, 0] == 0


def test_law_of_the_placement() -> None:
    config = MedicalViewConfig(crop=8)
    drawn = [draw_placement(Draws(keyed.key(1, i)), config) for i in range(8000)]
    turned = [p for p in drawn if p.mirror is not None]
    assert len(turned) / len(drawn) == pytest.approx(0.5, abs=0.02)
    pairs = Counter((p.quarter_turns, p.mirror) for p in turned)
    assert len(pairs) == 8 and all(abs(n / len(turned) - 1 / 8) < 0.02 for n in pairs.values())
    assert all(p.degrees == 0 for p in turned)
    angles = Counter(p.degrees for p in drawn if p.mirror is None)
    rest = len(drawn) - len(turned)
    # Half of the rest is not rotated, and one angle of the forty is 0.
    assert angles[0] / rest == pytest.approx(0.5 + 0.5 / 40, abs=0.02)
    assert set(angles) == set(range(-20, 20))
    assert all(abs(n / rest - 1 / 80) < 0.006 for angle, n in angles.items() if angle)


def test_law_of_the_greys() -> None:
    drawn = [draw_greys(Draws(keyed.key(2, i)), MedicalViewConfig(crop=8)) for i in range(6000)]
    jittered = [g for g in drawn if g.jitter]
    assert len(jittered) / len(drawn) == pytest.approx(0.8, abs=0.02)
    assert np.mean([g.jitter[0][0] == "brightness" for g in jittered]) == pytest.approx(0.5, abs=0.03)
    for name in ("brightness", "contrast"):
        factors = np.array([dict(g.jitter)[name] for g in jittered])
        assert 0.5 <= factors.min() < 0.51 and 1.49 < factors.max() <= 1.5
        assert factors.mean() == pytest.approx(1.0, abs=0.02)
    sigmas = np.array([g.sigma for g in drawn if g.sigma is not None])
    assert len(sigmas) / len(drawn) == pytest.approx(0.5, abs=0.03)
    assert 0.1 <= sigmas.min() < 0.12 and 1.98 < sigmas.max() <= 2.0


@pytest.mark.parametrize("order", [("brightness", "contrast"), ("contrast", "brightness")])
def test_jitter_by_hand(order: tuple[str, str]) -> None:
    image = slice_of(9, 7)
    factors = {"brightness": 1.3, "contrast": 0.6}
    expected = image[..., 0].astype(float)
    for name in order:
        anchor = 0.0 if name == "brightness" else expected.mean()
        expected = np.clip(np.rint(anchor + factors[name] * (expected - anchor)), 0, 65535)
    found = Greys(tuple((name, factors[name]) for name in order), None).apply(image)
    assert found.dtype == np.uint16 and found.shape == image.shape
    np.testing.assert_allclose(found[..., 0], expected, atol=1.01)


def test_blur_is_a_gaussian_and_keeps_16_bits() -> None:
    image = np.zeros((33, 33, 1), np.uint16)
    image[16, 16] = 60000
    found = Greys((), 1.5).apply(image)[..., 0].astype(float)
    assert found.dtype == float and found.sum() == pytest.approx(60000, rel=0.01)
    offsets = np.arange(-16, 17)
    assert (found.sum(0) * offsets**2).sum() / found.sum() == pytest.approx(1.5**2, rel=0.07)  # taps of 1/256


def test_nothing_to_do_gives_the_slice_itself() -> None:
    image = slice_of(5, 5)
    assert Greys((), None).apply(image) is image


def make_views(partner: str | None = "shuffled", **changes: Any) -> MedicalViews:
    return MedicalViews(MedicalViewConfig(crop=24, **changes), 2, partner)


def test_labelled_views_keep_image_and_label_together() -> None:
    label = label_of(30, 26)
    image = (label.astype(np.uint16) * 1000)[..., None]
    moved = set()
    for key in range(40):
        arrays = make_views().labeled(image, label, key)
        assert arrays["image"].dtype == np.uint16 and arrays["label"].dtype == np.uint8
        np.testing.assert_array_equal(arrays["image"][..., 0], arrays["label"].astype(np.uint16) * 1000)
        moved.add(arrays["label"].tobytes())
    assert len(moved) > 8


def test_unlabelled_views_share_geometry_and_follow_the_key_alone() -> None:
    image, other = slice_of(30, 26), slice_of(20, 40, seed=5)
    plain = make_views(jitter=GreyJitterConfig(p=0.0))
    views = make_views()
    for key in range(20):
        arrays = views.unlabeled(image, key, other)
        assert arrays["weak"].shape == (24, 24, 1) and arrays["strong"].shape == (2, 24, 24, 1)
        assert {arrays[name].dtype for name in ("weak", "strong", "partner_weak")} == {np.dtype(np.uint16)}
        assert arrays["content"].tolist() == arrays["partner_content"].tolist() == [0, 0, 24, 24]
        again = views.unlabeled(image, key, other)
        assert all(np.array_equal(arrays[name], again[name]) for name in arrays)
        # One view more or less changes no other.
        fewer = MedicalViews(views.config, 1, "shuffled").unlabeled(image, key, other)
        np.testing.assert_array_equal(fewer["strong"][0], arrays["strong"][0])
        np.testing.assert_array_equal(fewer["boxes"][0], arrays["boxes"][0])
        # The geometry is that of the labelled view with this key, whatever is done to the greys.
        np.testing.assert_array_equal(arrays["weak"], plain.labeled(image, label_of(30, 26), key)["image"])
    assert not np.array_equal(arrays["strong"][0], arrays["strong"][1])


def test_partner_comes_from_the_other_slice() -> None:
    image, other = np.zeros((8, 8, 1), np.uint16), np.full((8, 8, 1), 500, np.uint16)
    arrays = make_views(jitter=GreyJitterConfig(0.0), rotate=0.0).unlabeled(image, 1, other)
    assert not arrays["weak"].any() and (arrays["partner_weak"] == 500).all()
    same = make_views("same", rotate=0.0).unlabeled(other, 1)
    assert (same["partner_weak"] == 500).all()
    assert "partner_weak" not in make_views("batch").unlabeled(image, 1)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="turn is 2; allowed: a probability"):
        MedicalViewConfig(crop=8, turn=2)
    with pytest.raises(ConfigError, match="degrees is 0; allowed: 1 to 180"):
        MedicalViewConfig(crop=8, degrees=0)
    with pytest.raises(ConfigError, match="crop is 1; allowed: 2 or more"):
        MedicalViewConfig(crop=1)
    with pytest.raises(ConfigError, match="jitter.contrast is -1; allowed: 0 or more"):
        GreyJitterConfig(contrast=-1)
