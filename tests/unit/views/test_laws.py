"""The law of every number of a view, against its definition and against draws of the literal version.

Keys and seeds are fixed, so a test passes always or never; bounds are about four standard deviations, or the
0.1 % points of the Kolmogorov-Smirnov statistic.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tests.support import literal_views as literal
from tests.support.drawn import draw_colors, draw_geometry
from unimatch import keyed
from unimatch.keyed import Draws
from unimatch.views.base import BOX, COLOR, GEOMETRY, PARTNER
from unimatch.views.box import BoxConfig, draw_box
from unimatch.views.colors import ORDERS, BlurConfig, JitterConfig
from unimatch.views.natural import ViewConfig
from unimatch.views.ops import JITTER

CONFIG = ViewConfig(crop=40)
DRAWS = 4000


def draws_of(*parts: int) -> list[Draws]:
    return [Draws(keyed.key(*parts, n)) for n in range(DRAWS)]


def distance(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Kolmogorov-Smirnov distance of two samples over its 0.1 % point: below 1 if both have the same law."""
    points = np.sort(np.concatenate([ours, theirs]))
    f, g = (np.searchsorted(np.sort(x), points, side="right") / len(x) for x in (ours, theirs))
    return float(np.abs(f - g).max() / (1.95 * math.sqrt(1 / len(ours) + 1 / len(theirs))))


def uniform_distance(values: Sequence[float], low: float, high: float) -> float:
    """The same against the uniform law on [low, high]."""
    x = (np.sort(values) - low) / (high - low)
    steps = np.arange(len(x) + 1) / len(x)
    return float(max((x - steps[:-1]).max(), (steps[1:] - x).max()) * math.sqrt(len(x)) / 1.95)


def assert_uniform_over(values: Sequence[Any], expected: Sequence[Any]) -> None:
    """Exactly the expected values occur, equally often: chi-square within four deviations."""
    counts = Counter(values)
    assert set(counts) == set(expected)
    mean = len(values) / len(expected)
    chi_square = sum((counts[value] - mean) ** 2 / mean for value in expected)
    assert chi_square < len(expected) + 4 * math.sqrt(2 * len(expected))


def assert_fraction(values: Sequence[bool], p: float) -> None:
    assert abs(np.mean(values) - p) < 4 * math.sqrt(p * (1 - p) / len(values))


def assert_unrelated(first: Sequence[float], second: Sequence[float]) -> None:
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / math.sqrt(len(first))


def test_long_side_is_a_uniform_integer_with_both_ends() -> None:
    drawn = [draw_geometry(d, CONFIG, 21, 13) for d in draws_of(1)]
    assert_uniform_over([g.size[0] for g in drawn], range(10, 43))
    tall = [draw_geometry(d, CONFIG, 13, 21) for d in draws_of(1)]
    assert [g.size[::-1] for g in tall] == [g.size for g in drawn]


def test_crop_is_uniform_over_its_places_and_flip_a_fair_coin() -> None:
    config = replace(CONFIG, crop=10, scale=(1.0, 1.0))
    drawn = [draw_geometry(d, config, 30, 15) for d in draws_of(2)]
    assert_uniform_over([g.region[0] for g in drawn], range(21))
    assert_uniform_over([g.region[1] for g in drawn], range(6))
    assert all(g.region[2] - g.region[0] == 10 == g.region[3] - g.region[1] for g in drawn)
    assert_fraction([g.flip for g in drawn], 0.5)
    x, y, flip = (
        [float(v) for v in values] for values in zip(*((*g.region[:2], g.flip) for g in drawn), strict=True)
    )
    assert_unrelated(x, y)
    assert_unrelated(x, flip)


def test_geometry_has_the_literal_law() -> None:
    rng = np.random.default_rng(3)
    theirs = [literal.draw_weak(rng, 61, 47, 40) for _ in range(DRAWS)]
    ours = [draw_geometry(d, CONFIG, 61, 47) for d in draws_of(3)]
    for a, b in (
        ([g.size[0] for g in ours], [t["size"][0] for t in theirs]),
        ([g.size[1] for g in ours], [t["size"][1] for t in theirs]),
        ([g.region[0] for g in ours], [t["x"] for t in theirs]),
        ([g.region[1] for g in ours], [t["y"] for t in theirs]),
        ([g.region[0] / g.size[0] for g in ours], [t["x"] / t["size"][0] for t in theirs]),
    ):
        assert distance(a, b) < 1


def test_colors_have_the_literal_law() -> None:
    ours = [draw_colors(d, CONFIG) for d in draws_of(4)]
    jittered = [dict(c.jitter) for c in ours if c.jitter]
    assert_fraction([bool(c.jitter) for c in ours], 0.8)
    assert_fraction([c.gray for c in ours], 0.2)
    assert_fraction([c.sigma is not None for c in ours], 0.5)
    orders = [tuple(name for name, _ in c.jitter) for c in ours if c.jitter]
    assert_uniform_over(orders, ORDERS)
    assert len(set(ORDERS)) == 24
    for name in ("brightness", "contrast", "saturation"):
        assert uniform_distance([factors[name] for factors in jittered], 0.5, 1.5) < 1
    assert uniform_distance([factors["hue"] for factors in jittered], -0.25, 0.25) < 1
    assert uniform_distance([c.sigma for c in ours if c.sigma is not None], 0.1, 2.0) < 1
    # Independent of each other
    assert_unrelated([f["brightness"] for f in jittered], [f["contrast"] for f in jittered])
    assert_unrelated([f["saturation"] for f in jittered], [f["hue"] for f in jittered])
    assert_unrelated([len(c.jitter) for c in ours], [c.gray for c in ours])
    assert_unrelated([c.gray for c in ours], [c.sigma is None for c in ours])
    # And the literal draws agree
    rng = np.random.default_rng(4)
    theirs = [literal.draw_strong(rng) for _ in range(DRAWS)]
    for name in JITTER:
        literal_factors = [dict(t["jitter"])[name] for t in theirs if t["jitter"]]
        assert distance([factors[name] for factors in jittered], literal_factors) < 1


def test_every_setting_is_the_law_of_what_it_names() -> None:
    """None of these is a default, and no two are alike."""
    jitter = JitterConfig(p=0.7, brightness=0.1, contrast=0.2, saturation=0.3, hue=0.05)
    config = ViewConfig(
        crop=40, scale=(1.5, 1.75), flip=0.15, jitter=jitter, gray=0.35, blur=BlurConfig(0.25, (1.0, 3.0))
    )
    drawn = [draw_geometry(d, config, 20, 10) for d in draws_of(7)]
    assert_uniform_over([g.size[0] for g in drawn], range(30, 36))
    assert_fraction([g.flip for g in drawn], 0.15)
    colors = [draw_colors(d, config) for d in draws_of(8)]
    assert_fraction([bool(c.jitter) for c in colors], 0.7)
    assert_fraction([c.gray for c in colors], 0.35)
    assert_fraction([c.sigma is not None for c in colors], 0.25)
    assert uniform_distance([c.sigma for c in colors if c.sigma is not None], 1.0, 3.0) < 1
    jittered = [dict(c.jitter) for c in colors if c.jitter]
    for name, spread in (("brightness", 0.1), ("contrast", 0.2), ("saturation", 0.3)):
        assert uniform_distance([factors[name] for factors in jittered], 1 - spread, 1 + spread) < 1
    assert uniform_distance([factors["hue"] for factors in jittered], -0.05, 0.05) < 1
    box = BoxConfig(p=0.6, area=(0.1, 0.2), aspect=(0.5, 0.8))
    boxes = np.array([draw_box(d, box, 100_000) for d in draws_of(9)], np.float64)
    assert_fraction([bool(one.any()) for one in boxes], 0.6)
    width, height = ((boxes[:, i + 2] - boxes[:, i])[boxes.any(1)] for i in (0, 1))
    assert uniform_distance((width * height / 1e10).tolist(), 0.1, 0.2) < 1
    assert 0.4999 < (height / width).min() < 0.51 and 0.79 < (height / width).max() < 0.8001


def test_boxes_have_the_literal_law_and_lie_inside() -> None:
    crop = 64
    ours = np.array([draw_box(d, BoxConfig(), crop) for d in draws_of(5)])
    rng = np.random.default_rng(5)
    theirs = np.array([literal.rectangle(literal.draw_box_mask(rng, crop)) for _ in range(DRAWS)])
    assert_fraction([bool(box.any()) for box in ours], 0.5)
    ours, theirs = ours[ours.any(1)], theirs[theirs.any(1)]
    for boxes in (ours, theirs):
        assert boxes.min() >= 0 and boxes.max() <= crop
    # The largest 64-pixel boxes touch the border at some draw: the corner's range is not cut short.
    assert ours[:, :2].min() == 0 and (ours[:, 2:].max(0) == crop).all()

    def measures(boxes: np.ndarray) -> list[np.ndarray]:
        width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        return [boxes[:, 0], boxes[:, 1], width, height, width * height, height / width]

    for a, b in zip(measures(ours), measures(theirs), strict=True):
        assert distance(a.tolist(), b.tolist()) < 1


def test_box_area_is_uniform_and_aspect_in_range() -> None:
    # A crop so large that rounding the sides to pixels does not show.
    boxes = np.array([draw_box(d, BoxConfig(p=1.0), 100_000) for d in draws_of(6)], np.float64)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert uniform_distance((width * height / 1e10).tolist(), 0.02, 0.4) < 1
    aspect = height / width
    assert 0.2999 < aspect.min() < 0.32 and 2.9 < aspect.max() < 3.334


def test_views_are_independent() -> None:
    keys = range(DRAWS)
    partners = [keyed.key(n, PARTNER) for n in keys]
    first, second, partner = (
        [draw_colors(Draws(keyed.key(k, COLOR, v)), CONFIG) for k in ks]
        for ks, v in ((keys, 0), (keys, 1), (partners, 0))
    )
    for other in (second, partner):
        assert_unrelated([c.sigma or 0 for c in first], [c.sigma or 0 for c in other])
        assert_unrelated(
            [dict(c.jitter).get("hue", 0) for c in first], [dict(c.jitter).get("hue", 0) for c in other]
        )
        assert_fraction([a.gray and b.gray for a, b in zip(first, other, strict=True)], 0.04)
    ours, theirs = (
        [draw_geometry(Draws(keyed.key(k, GEOMETRY)), CONFIG, 61, 47) for k in ks] for ks in (keys, partners)
    )
    assert_unrelated([g.size[0] for g in ours], [g.size[0] for g in theirs])
    assert_unrelated([g.size[0] for g in ours], [c.sigma or 0 for c in first])
    boxes = [[draw_box(Draws(keyed.key(k, BOX, v)), BoxConfig(), 40) for k in keys] for v in (0, 1)]
    assert_unrelated([any(box) for box in boxes[0]], [any(box) for box in boxes[1]])
    assert_unrelated([any(box) for box in boxes[0]], [bool(c.jitter) for c in first])
    assert_unrelated([box[0] for box in boxes[0]], [box[0] for box in boxes[1]])
    assert_unrelated([box[0] for box in boxes[0]], [g.size[0] for g in ours])
