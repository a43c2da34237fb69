"""Operations of the lists against Pillow's own, and the laws by which they are drawn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from unimatch.keyed import Draws
from unimatch.views import ops
from unimatch.views.op_lists import CODES, LISTS, MOST, OP_ROW, OPS, apply, draw_ops, listed_views, row

PILLOW = {
    "identity": (0.0, lambda image, f: image),
    "autocontrast": (0.0, lambda image, f: ImageOps.autocontrast(image)),
    "equalize": (0.0, lambda image, f: ImageOps.equalize(image)),
    "contrast": (0.3, lambda image, f: ImageEnhance.Contrast(image).enhance(f)),
    "brightness": (0.4, lambda image, f: ImageEnhance.Brightness(image).enhance(f)),
    "color": (0.5, lambda image, f: ImageEnhance.Color(image).enhance(f)),
    "sharpness": (0.2, lambda image, f: ImageEnhance.Sharpness(image).enhance(f)),
    "posterize": (5.0, lambda image, f: ImageOps.posterize(image, int(f))),
    "solarize": (0.5, lambda image, f: ImageOps.solarize(image, 128)),
    "invert": (0.0, lambda image, f: ImageOps.invert(image)),
}


def noise(seed: int = 0, channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    """Not all levels, so that autocontrast and equalize have work to do."""
    top = 180 if dtype == np.uint8 else 40000
    smooth = np.linspace(0, 60, 20)[:, None, None]
    return (np.random.default_rng(seed).integers(20, top, (20, 24, channels)) + smooth).astype(dtype)


def applied(image: np.ndarray, *drawn: tuple[str, float]) -> np.ndarray:
    out = np.empty_like(image)
    apply(image, drawn, out)
    return out


@pytest.mark.parametrize("name", PILLOW)
def test_an_operation_is_pillows_to_a_level(name):
    factor, pillow = PILLOW[name]
    image = noise()
    expected = np.asarray(pillow(Image.fromarray(image), factor)).astype(int)
    difference = np.abs(applied(image, (name, factor)).astype(int) - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.02
    assert name == "identity" or np.abs(expected - image).mean() > 1


def test_hue_and_blur_are_the_jitters():
    image = noise()
    hue = np.abs(applied(image, ("hue", 0.3)).astype(int) - ops.adjust_hue(image, 0.3))
    blur = np.abs(applied(image, ("blur", 1.5)).astype(int) - ops.gaussian_blur(image, 1.5))
    assert hue.max() <= 1 and blur.max() <= 1
    assert set(PILLOW) | {"hue", "blur"} == set(OPS)


@pytest.mark.parametrize("name", LISTS)
def test_the_device_makes_the_views_of_the_workers_to_the_bit(name):
    drawn = [draw_ops(Draws(key), name) for key in range(24)]
    weak = np.stack([noise(key) for key in range(24)])
    rows = torch.from_numpy(np.stack([row(each) for each in drawn]))
    (made,) = listed_views(torch.from_numpy(weak), rows[:, None])
    for image, each, view in zip(weak, drawn, made, strict=True):
        assert np.array_equal(view.permute(1, 2, 0).numpy(), applied(image, *each)), each
    assert rows.shape == (24, OP_ROW) and len({tuple(each) for each in drawn}) > 15


@pytest.mark.parametrize("name", LISTS)
def test_operations_are_drawn_by_their_laws(name):
    drawn = [draw_ops(Draws(key), name) for key in range(3000)]
    chosen = LISTS[name]
    counts = Counter(map(len, drawn))
    low, high = chosen.count
    assert set(counts) == set(range(low, high + 1)) and max(counts) <= MOST
    assert min(counts.values()) > 0.8 * 3000 / len(counts)
    names = Counter(op for each in drawn for op, _ in each)
    assert set(names) == set(chosen.names)
    assert min(names.values()) > 0.75 * names.total() / len(names)
    for op, factor in (pair for each in drawn for pair in each):
        first, last = chosen.law(op)
        assert first <= factor <= last
    assert {factor for each in drawn for op, factor in each if op == "posterize"} == {4.0, 5.0, 6.0, 7.0}
    assert ("invert" in names) == (name == "imas")


def test_what_is_of_rgb_passes_over_other_images():
    grey, five = noise(1, 1, np.uint16), noise(2, 5)
    for image in (grey, five):
        for name in ("equalize", "color", "hue"):
            assert np.array_equal(applied(image, (name, 0.4)), image)
        for name in ("autocontrast", "brightness", "contrast", "sharpness", "invert"):
            assert not np.array_equal(applied(image, (name, 0.4)), image)
    assert applied(grey, ("invert", 0.0)).max() == 65535 - grey.min()
    assert applied(grey, ("posterize", 4.0)).max() % 4096 == 0


def test_codes_are_names_in_order_and_nothing_is_zero():
    assert CODES["identity"] == 0 and row(()).tolist() == [0.0] * OP_ROW
