"""Views of any number of channels: the geometry of RGB, and the colours that mean something for any band."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from unimatch.codecs.part import Part
from unimatch.views.change import ChangeViewConfig, ChangeViews
from unimatch.views.colors import Colors, JitterConfig
from unimatch.views.natural import NaturalViews, ViewConfig
from unimatch.views.on_device import blur_radius, strong_views

KINDS = [(1, np.uint8), (2, np.uint8), (4, np.uint8), (7, np.uint8), (3, np.uint16), (4, np.uint16)]
CONFIG = ViewConfig(crop=40)


def picture(channels: int, dtype: type, height: int = 60, width: int = 70, seed: int = 0) -> np.ndarray:
    rough = np.random.default_rng(seed).random((7, 9, channels), np.float32)
    planes = [
        cv2.resize(rough[..., c], (width, height), interpolation=cv2.INTER_CUBIC) for c in range(channels)
    ]
    return (np.stack(planes, axis=-1).clip(0, 1) * np.iinfo(dtype).max).astype(dtype)


def label(height: int = 60, width: int = 70) -> np.ndarray:
    return (np.arange(height * width).reshape(height, width) % 3).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_each_channel_is_cropped_as_a_channel_of_a_photograph(channels: int) -> None:
    views = NaturalViews(CONFIG, 0, None)
    image = picture(channels, np.uint8)
    for key in range(12):  # enlarged and shrunk, padded and flipped
        found = views.labeled(image, label(), key)
        assert found["image"].shape == (40, 40, channels)
        for c in range(channels):
            rgb = views.labeled(np.repeat(image[..., c : c + 1], 3, axis=2), label(), key)
            assert np.array_equal(found["image"][..., c], rgb["image"][..., 0])
            assert np.array_equal(found["label"], rgb["label"])


def test_sixteen_bits_are_cropped_alike() -> None:
    views = NaturalViews(CONFIG, 0, None)
    image = picture(3, np.uint8)
    for key in range(12):
        deep = views.labeled(image.astype(np.uint16) * 257, label(), key)["image"]
        assert deep.dtype == np.uint16
        shallow = views.labeled(image, label(), key)["image"].astype(float)
        assert np.abs(deep / 257 - shallow).max() <= 1.5


@pytest.mark.parametrize(("channels", "dtype"), KINDS)
def test_a_part_gives_the_view_of_the_whole(channels: int, dtype: type) -> None:
    views = NaturalViews(CONFIG, 1, "same")
    image = picture(channels, dtype)
    for key in range(8):
        rect = views.region(70, 60, key, "unlabeled")
        part = Part.whole(image).cut(rect)
        cut = Part(part.pixels[: rect[3] - rect[1], : rect[2] - rect[0]].copy(), rect[0], rect[1], 70, 60)
        whole, found = views.unlabeled(image, key), views.unlabeled(cut, key)
        assert all(np.array_equal(whole[name], found[name]) for name in whole)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_brightness_and_contrast_are_of_each_band_and_the_rest_is_passed_over(dtype: type) -> None:
    image, white = picture(4, dtype), np.iinfo(dtype).max
    jitter = (("hue", 0.2), ("brightness", 1.3), ("saturation", 0.1), ("contrast", 0.6))
    found = Colors(jitter, True, None).apply(image)
    bright = np.rint(np.clip(image * 1.3, 0, white))
    expected = np.rint(np.clip(0.6 * bright + 0.4 * bright.mean(axis=(0, 1)), 0, white))
    assert found.dtype == dtype and np.abs(found - expected).max() <= 1
    unchanged = Colors((("hue", 0.2), ("saturation", 0.1)), True, None).apply(image)
    assert np.array_equal(unchanged, image)
    out = np.zeros_like(image)
    assert Colors(jitter, False, 1.0).apply(image, out) is out and out.any()


def test_blur_is_that_of_each_band() -> None:
    image = picture(5, np.uint8)
    found = Colors((), False, 1.5).apply(image)
    for c in range(5):
        rgb = Colors((), False, 1.5).apply(np.repeat(image[..., c : c + 1], 3, axis=2))
        assert np.array_equal(found[..., c], rgb[..., 0])


def test_the_same_is_drawn_for_bands_and_for_photographs() -> None:
    views, image = NaturalViews(CONFIG, 2, "same"), picture(4, np.uint8)
    photo = views.unlabeled(image[..., :3].copy(), 5)
    bands = views.unlabeled(image, 5)
    assert np.array_equal(photo["weak"], bands["weak"][..., :3])
    assert np.array_equal(photo["boxes"], bands["boxes"])


@pytest.mark.parametrize(("channels", "dtype"), KINDS)
def test_a_device_makes_the_same_views(channels: int, dtype: type) -> None:
    config = ViewConfig(crop=40, jitter=JitterConfig(p=1.0))
    image = picture(channels, dtype)
    for key in range(6):
        cpu = NaturalViews(config, 2, "same").unlabeled(image, key)
        raw = NaturalViews(config, 2, "same", on_device=True).unlabeled(image, key)
        made = strong_views(
            torch.from_numpy(raw["weak"])[None], torch.from_numpy(raw["colors"])[None], blur_radius(2.0)
        )
        for view in range(2):
            difference = made[view][0].permute(1, 2, 0).numpy() - cpu["strong"][view].astype(np.float64)
            assert np.abs(difference).max() <= 2


def test_pairs_of_bands() -> None:
    views = ChangeViews(ChangeViewConfig(crop=40), 1, "same")
    pair = np.stack([picture(4, np.uint16), picture(4, np.uint16, seed=1)])
    found = views.unlabeled(pair, 3)
    assert found["weak"].shape == (2, 40, 40, 4) and found["weak"].dtype == np.uint16
    single = NaturalViews(ChangeViewConfig(crop=40), 1, "same").unlabeled(pair[1], 3)
    assert np.array_equal(found["weak"][1], single["weak"])
