"""Views against PIL under the same random numbers, and what the transform guarantees."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import literal_views as literal
from tests.support.drawn import draw_colors, draw_geometry
from unimatch import keyed
from unimatch.errors import ConfigError
from unimatch.keyed import Draws
from unimatch.views.base import COLOR, GEOMETRY, PARTNER
from unimatch.views.box import EMPTY_BOX, MAX_BOX_AREA, BoxConfig, draw_box
from unimatch.views.colors import ORDERS, BlurConfig, Colors, JitterConfig
from unimatch.views.natural import NaturalViews, ViewConfig
from unimatch.views.ops import JITTER

CONFIG = ViewConfig(crop=40)


def sample(seed: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image and a blocky label."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    label = Image.fromarray(rng.integers(0, 21, (5, 6), dtype=np.uint8))
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(image), np.array(label.resize((width, height), Image.Resampling.NEAREST))


@pytest.mark.parametrize(
    ("width", "height"), [(61, 47), (47, 61), (120, 90), (25, 20), (33, 300), (3, 2), (2, 1)]
)
def test_weak_view_is_pil_resize_pad_crop_flip(width: int, height: int) -> None:
    image, label = sample(width, width, height)
    transform = NaturalViews(CONFIG, 2, None)
    for n in range(25):
        g = draw_geometry(Draws(keyed.key(n, GEOMETRY)), CONFIG, width, height)
        if min(int(min(width, height) * g.size[0] / width + 0.5), *g.size) < 1:
            continue  # PIL refuses an empty image; ours has at least one pixel
        theirs, their_label, valid = literal.weak(
            Image.fromarray(image), Image.fromarray(label), 40, g.size, g.region[0], g.region[1], g.flip
        )
        ours = transform.labeled(image, label, n)
        assert ours["image"].shape == (40, 40, 3) and ours["label"].shape == (40, 40)
        assert np.abs(ours["image"].astype(int) - np.asarray(theirs)).max() <= 1
        assert np.array_equal(ours["label"], np.asarray(their_label))
        made = transform.unlabeled(image, n)
        assert np.array_equal(made["weak"], ours["image"])  # the same law and key give the same crop
        assert tuple(made["content"]) == literal.rectangle(valid)
        # Padding is black and ignored, content is neither ignored nor, in this image, unlabelled.
        assert not ours["image"][~valid].any() and (ours["label"][~valid] == 255).all()
        assert (ours["label"][valid] < 255).all()


def test_strong_view_is_close_to_pils() -> None:
    # Each operation is within one or two levels of PIL's except hue (8-bit HSV on both sides) and blur (PIL's
    # is three box filters); later factors up to 1.5 stretch what came before. So the mean says more than the
    # maximum.
    means, worst = [], []
    for n in range(60):
        image, _ = sample(n, 40, 40)
        colors = draw_colors(Draws(n), CONFIG)
        theirs = literal.strong(Image.fromarray(image), colors.jitter, colors.gray, colors.sigma)
        difference = np.abs(colors.apply(image).astype(int) - np.asarray(theirs))
        means.append(difference.mean())
        worst.append(difference.max())
    assert np.mean(means) < 1.2 and np.max(means) < 4.0 and np.max(worst) <= 32, (
        np.mean(means), np.max(means), np.max(worst)
    )  # fmt: skip


def test_strong_view_applies_the_operations_in_the_drawn_order() -> None:
    image, _ = sample(1, 16, 16)
    factors = {"brightness": 1.5, "contrast": 0.5, "saturation": 1.5, "hue": 0.2}
    made = set()
    for order in ORDERS:
        colors = Colors(tuple((name, factors[name]) for name in order), False, None)
        expected = image
        for name in order:
            expected = JITTER[name](expected, factors[name])
        assert np.array_equal(colors.apply(image), expected)
        made.add(expected.tobytes())
    assert len(made) > 12
    gray = Colors((("hue", 0.2),), True, None).apply(image)
    assert (gray == gray[..., :1]).all()


def test_image_and_label_are_moved_alike() -> None:
    # At its own size an image that shows its label must give views that show theirs, flipped or not.
    _, label = sample(2, 60, 50)
    transform = NaturalViews(replace(CONFIG, scale=(1.0, 1.0)), 0, None)
    for n in range(10):
        made = transform.labeled(np.repeat(label[..., None], 3, 2), label, n)
        assert np.array_equal(made["image"][..., 0], made["label"])


def test_boxes_in_tiny_crops() -> None:
    for crop, least in ((1, 0), (2, 10), (3, 100), (5, 200)):
        drawn = [draw_box(Draws(n), BoxConfig(p=1.0), crop) for n in range(300)]
        boxes = [box for box in drawn if box != EMPTY_BOX]
        assert all(0 <= x0 < x1 <= crop and 0 <= y0 < y1 <= crop for x0, y0, x1, y1 in boxes)
        assert len(boxes) >= least, "in most crops of a few pixels a box is found"


def test_the_largest_allowed_box_area_is_still_found() -> None:
    config = BoxConfig(p=1.0, area=(MAX_BOX_AREA, MAX_BOX_AREA))
    box = np.array([draw_box(Draws(n), config, 100) for n in range(20)])
    assert ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) > 7700).all()


def unlabeled(
    key: int, num_strong: int = 2, partner: str | None = "same", **changes: Any
) -> dict[str, np.ndarray]:
    image, _ = sample(0, 61, 47)
    other, _ = sample(1, 50, 70)
    given = other if partner == "shuffled" else None
    return NaturalViews(replace(CONFIG, **changes), num_strong, partner).unlabeled(image, key, given)


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_shapes_and_types() -> None:
    made = unlabeled(1)
    found = {name: (array.shape, array.dtype) for name, array in made.items()}
    uint8, int32 = np.dtype(np.uint8), np.dtype(np.int32)
    own = {"weak": ((40, 40, 3), uint8), "strong": ((2, 40, 40, 3), uint8), "content": ((4,), int32)}
    assert found == {
        **own,
        "boxes": ((2, 4), int32),
        **{f"partner_{name}": value for name, value in own.items()},
        "spans": ((4, 2, 40), np.dtype(bool)),
    }
    assert unlabeled(1, partner="batch").keys() == {*own, "boxes", "spans"}
    assert unlabeled(1, num_strong=0)["boxes"].shape == (0, 4)


def test_a_view_depends_on_its_key_alone() -> None:
    assert same(unlabeled(5), unlabeled(5)) and not same(unlabeled(5), unlabeled(6))
    image, label = sample(0, 61, 47)
    transform = NaturalViews(CONFIG, 2, "same")
    copy = pickle.loads(pickle.dumps(transform))
    before = image.copy()
    for n in (3, 1, 2):  # in any order, by any copy
        assert same(transform.unlabeled(image, n), copy.unlabeled(image, n))
        assert same(transform.labeled(image, label, n), copy.labeled(image, label, n))
    assert np.array_equal(image, before)
    # Neither a partner nor further views change the ones before.
    one, two = unlabeled(7, num_strong=1, partner=None), unlabeled(7)
    assert np.array_equal(one["weak"], two["weak"])
    assert np.array_equal(one["strong"][0], two["strong"][0]) and np.array_equal(
        one["boxes"][0], two["boxes"][0]
    )


def test_strong_views_differ_and_share_the_weak_geometry() -> None:
    plain = unlabeled(3, jitter=JitterConfig(p=0.0), gray=0.0, blur=BlurConfig(p=0.0))
    assert all(np.array_equal(view, plain["weak"]) for view in plain["strong"])
    made = unlabeled(3, jitter=JitterConfig(p=1.0), gray=0.0, box=BoxConfig(p=1.0))
    assert not np.array_equal(*made["strong"]) and not np.array_equal(made["strong"][0], plain["weak"])
    assert not np.array_equal(*made["boxes"])  # a box of its own for each view


def test_partners() -> None:
    other, _ = sample(1, 50, 70)
    image, _ = sample(0, 61, 47)
    boxes = BoxConfig(p=1.0)
    for partner, source in (("same", image), ("shuffled", other)):
        made = unlabeled(9, partner=partner, box=boxes)
        alone = NaturalViews(CONFIG, 2, None).unlabeled(source, keyed.key(9, PARTNER))
        for name in ("weak", "strong", "content"):
            assert np.array_equal(made[f"partner_{name}"], alone[name])
    assert not np.array_equal(unlabeled(9)["weak"], unlabeled(9)["partner_weak"])


def test_a_partner_that_no_box_shows_is_not_coloured() -> None:
    made = unlabeled(9, box=BoxConfig(p=0.0), jitter=JitterConfig(p=1.0))
    assert not made["boxes"].any()
    assert all(np.array_equal(view, made["partner_weak"]) for view in made["partner_strong"])


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (2, 2), (1, 900)])
def test_images_of_a_pixel_or_a_line(size: tuple[int, int]) -> None:
    image, label = np.full((*size, 3), 200, np.uint8), np.full(size, 3, np.uint8)
    for n in range(20):
        made = NaturalViews(CONFIG, 2, "same").unlabeled(image, n)
        x0, y0, x1, y1 = made["content"]
        assert 0 <= x0 < x1 <= 40 and 0 <= y0 < y1 <= 40
        valid = np.zeros((40, 40), bool)
        valid[y0:y1, x0:x1] = True
        assert np.array_equal(made["weak"][..., 0], np.where(valid, 200, 0))
        assert np.array_equal(
            NaturalViews(CONFIG, 0, None).labeled(image, label, n)["label"], np.where(valid, 3, 255)
        )


def test_real_photographs(real_data: Any) -> None:
    path = sorted((real_data / "voc2012").rglob("JPEGImages/*.jpg"))[0]
    whole = Image.open(path).convert("RGB")
    image, config = np.asarray(whole), ViewConfig(crop=321)
    for n in range(6):
        made = NaturalViews(config, 1, None).unlabeled(image, n)
        g = draw_geometry(Draws(keyed.key(n, GEOMETRY)), config, *whole.size)
        colors = draw_colors(Draws(keyed.key(n, COLOR, 0)), config)
        weak, _, _ = literal.weak(whole, whole.convert("L"), 321, g.size, g.region[0], g.region[1], g.flip)
        strong = literal.strong(weak, colors.jitter, colors.gray, colors.sigma)
        assert np.abs(made["weak"].astype(int) - np.asarray(weak)).max() <= 1
        assert np.abs(made["strong"][0].astype(int) - np.asarray(strong)).mean() < 2.5


@pytest.mark.parametrize(("make", "field"), [
    (lambda: ViewConfig(crop=0), "crop"),
    (lambda: ViewConfig(crop=8, scale=(2.0, 0.5)), "scale"),
    (lambda: ViewConfig(crop=8, scale=(0.0, 1.0)), "scale"),
    (lambda: ViewConfig(crop=8, flip=1.5), "flip"),
    (lambda: ViewConfig(crop=8, gray=-0.1), "gray"),
    (lambda: JitterConfig(p=2.0), "jitter.p"),
    (lambda: JitterConfig(contrast=-1.0), "jitter.contrast"),
    (lambda: JitterConfig(hue=0.6), "jitter.hue"),
    (lambda: BlurConfig(sigma=(2.0, 0.1)), "blur.sigma"),
    (lambda: BlurConfig(sigma=(0.1, 20.0)), "blur.sigma"),
    (lambda: BoxConfig(p=-1.0), "box.p"),
    (lambda: BoxConfig(area=(0.0, 0.4)), "box.area"),
    (lambda: BoxConfig(area=(0.02, 0.9)), "box.area"),
    (lambda: BoxConfig(aspect=(3.0, 0.3)), "box.aspect"),
    (lambda: BoxConfig(area=(0.3, 0.6), aspect=(2.0, 3.0)), "box.aspect"),
])  # fmt: skip
def test_wrong_settings_name_the_field(make: Any, field: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{field} is .*; allowed: "):
        make()
