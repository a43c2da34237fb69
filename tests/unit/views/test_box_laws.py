"""Laws of rectangles that methods name, and where views and batches keep them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unimatch.keyed import Draws
from unimatch.methods.base import ViewNeeds
from unimatch.tasks.pixels import extra
from unimatch.views.base import Extra
from unimatch.views.box_laws import LAWS, draw_boxes
from unimatch.views.masks import draw_masks, valid_pixels
from unimatch.views.natural import NaturalViews, ViewConfig

CROP = 96


def drawn(law: str, count: int = 1500) -> np.ndarray:
    """int [count, n, 4]."""
    return np.array([draw_boxes(Draws(key), law, CROP) for key in range(count)])


def areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) / CROP**2


@pytest.mark.parametrize("law", LAWS)
def test_boxes_lie_inside_and_are_as_many_every_time(law):
    boxes = drawn(law, 300)
    assert boxes.shape[1] == (3 if law == "three" else 1)
    assert boxes.min() >= 0 and boxes.max() <= CROP
    assert (boxes[..., 2:] >= boxes[..., :2]).all()
    assert len(np.unique(boxes.reshape(300, -1), axis=0)) > 100


def test_areas_are_the_published_ones():
    assert np.abs(areas(drawn("half")) - 0.5).max() < 0.02
    three = areas(drawn("three"))
    assert np.ptp(three, axis=1).max() == 0.0
    assert three.sum(1).min() > 0.23 and three.sum(1).max() < 0.52 and three.sum(1).std() > 0.05
    assert np.abs(areas(drawn("two_thirds")) - 4 / 9).max() < 0.01
    assert np.abs(np.sqrt(areas(drawn("cutout"))).max() - 100 / 513) < 0.02
    half = areas(drawn("cutout_half"))
    assert 0.45 < (half == 0).mean() < 0.55 and half[half > 0].min() > 0.015 and half.max() < 0.41


@pytest.mark.parametrize(("law", "a", "b"), [("beta", 4, 4), ("beta_labeled", 8, 2)])
def test_the_sides_follow_the_beta_law(law, a, b):
    """Of boxes that the border does not clip, whose centres are far from it, so the sides must be small."""
    boxes = drawn(law, 4000)[:, 0]
    x0, _, x1, _ = boxes.T
    inside = (x0 > 0) & (x1 < CROP)
    side = (x1 - x0)[inside] / CROP
    rng = np.random.default_rng(0)
    wanted = np.sqrt(1 - rng.beta(a, b, 200_000))
    centre = rng.uniform(1 / 8, 1, 200_000)
    wanted = wanted[(centre - wanted / 2 > 0) & (centre + wanted / 2 < 1)]
    assert abs(side.mean() - wanted.mean()) < 0.02 and abs(side.std() - wanted.std()) < 0.02


def views(needs: ViewNeeds, on_device: bool = False) -> NaturalViews:
    return NaturalViews(ViewConfig(crop=CROP), needs.num_strong, needs.partner, on_device, extra(needs))


NEEDS = ViewNeeds(2, "same", unlabeled=True, ops="imas", boxes="three", areas=(("mix", "half"),))


def made(needs: ViewNeeds, key: int = 5) -> dict[str, np.ndarray]:
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    return views(needs).unlabeled(image, key)


def test_several_boxes_and_further_areas_become_masks_and_counts():
    arrays = [made(NEEDS, key) for key in range(4)]
    assert arrays[0]["boxes"].shape == (2, 3, 4) and arrays[0]["area_mix"].shape == (1, 4)
    assert not np.array_equal(arrays[0]["boxes"][0], arrays[0]["boxes"][1])
    stacked = {name: torch.from_numpy(np.stack([each[name] for each in arrays])) for name in arrays[0]}
    masks = draw_masks(stacked, torch.device("cpu"))
    for image, each in enumerate(arrays):
        for view in range(2):
            expected = np.zeros((CROP, CROP), bool)
            for x0, y0, x1, y1 in each["boxes"][view]:
                expected[y0:y1, x0:x1] = True
            assert np.array_equal(masks.boxes[view][image].numpy(), expected)
        x0, y0, x1, y1 = each["area_mix"][0]
        area = masks.areas["mix"][image]
        assert int(area.sum()) == (x1 - x0) * (y1 - y0) and area[y0:y1, x0:x1].all()
    counts = [int(count) for count in valid_pixels(stacked)]
    assert counts == [int(masks.valid.sum()), *(int(mask.sum()) for mask in masks.mixed_valid)]


def test_a_view_without_extras_is_what_it_was_beside_them():
    """The weak view, and what is drawn for other streams, do not depend on what else is asked for."""
    plain, more = made(ViewNeeds(2, "same", unlabeled=True)), made(NEEDS)
    assert np.array_equal(plain["weak"], more["weak"])
    assert np.array_equal(plain["partner_weak"], more["partner_weak"])
    assert plain["boxes"].shape == (2, 4) and not np.array_equal(plain["strong"], more["strong"])


def test_a_labelled_strong_view_is_made_of_the_labelled_crop():
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    label = image[..., 0] % 3
    needs = ViewNeeds(1, None, unlabeled=True, strong_labeled=True)
    found = views(needs).labeled(image, label, 9)
    plain = views(ViewNeeds(1, None, unlabeled=True)).labeled(image, label, 9)
    assert np.array_equal(found["image"], plain["image"]) and "strong" not in plain
    assert found["strong"].shape == (1, CROP, CROP, 3)
    assert not np.array_equal(found["strong"][0], found["image"])
    colors = views(needs, on_device=True).labeled(image, label, 9)
    assert set(colors) == {"image", "label", "colors"}


def test_nothing_extra_is_the_default():
    assert extra(ViewNeeds(1, None, unlabeled=True)) == Extra()
