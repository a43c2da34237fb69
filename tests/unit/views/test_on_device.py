"""Strong views made in batches against views.ops doing the same to one image after another.

What is allowed: one grey level at one pixel in ten thousand after one operation, where fp32 rounds a near tie
to the other side. In a chain such a pixel may be turned or stretched, so its difference is bounded less
tightly than their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.drawn import draw_colors
from unimatch import keyed
from unimatch.keyed import Draws
from unimatch.views import ops
from unimatch.views.base import COLOR, PARTNER
from unimatch.views.colors import (
    COLOR_ROW,
    JITTER_CODES,
    MAX_SIGMA,
    ORDERS,
    UNCHANGED,
    BlurConfig,
    Colors,
    JitterConfig,
)
from unimatch.views.natural import NaturalViews, ViewConfig
from unimatch.views.on_device import blur_kernels, blur_radius, strong_views

CONFIG = ViewConfig(crop=40)
EXTREME = ViewConfig(
    crop=40,
    jitter=JitterConfig(p=1.0, brightness=3.0, contrast=3.0, saturation=3.0, hue=0.5),
    blur=BlurConfig(p=0.7, sigma=(0.0, MAX_SIGMA)),
)
RADIUS = blur_radius(MAX_SIGMA)


def draw(key: int, config: ViewConfig) -> Colors:
    return draw_colors(Draws(key), config)


def images(side: int, width: int) -> np.ndarray:
    """uint8 [8, side, width, 3]: noise, padded noise, smooth, two colours, black, white, flat, greyish."""
    rng = np.random.default_rng(side)
    made = rng.integers(0, 256, (8, side, width, 3)).astype(np.uint8)
    made[1, side // 2 :] = 0
    made[2] = np.linspace(0, 255, side * width * 3).reshape(side, width, 3)
    made[3] = np.where(made[3, ..., :1] > 99, (255, 0, 3), (7, 250, 250))
    made[4], made[5], made[6] = 0, 255, (90, 17, 201)
    made[7] = made[7, ..., :1] // 2 + made[7] // 100
    return made


def on_device(image: np.ndarray, colors: Sequence[Sequence[Colors]], radius: int = RADIUS) -> np.ndarray:
    """[B, V, H, W, 3] of images [B, H, W, 3] and the colours of their views, [B][V]."""
    rows = torch.from_numpy(np.stack([[one.row() for one in each] for each in colors]))
    made = strong_views(torch.from_numpy(image), rows, radius)
    assert all(view.dtype == torch.float32 for view in made)
    return torch.stack(made, dim=1).permute(0, 1, 3, 4, 2).numpy()


def differences(image: np.ndarray, colors: Sequence[Sequence[Colors]], radius: int = RADIUS) -> np.ndarray:
    made = on_device(image, colors, radius)
    expected = [[one.apply(each) for one in some] for each, some in zip(image, colors, strict=True)]
    assert np.array_equal(made, np.rint(made)) and made.min() >= 0 and made.max() <= 255
    return np.abs(made - np.array(expected, np.float64))


def assert_close(difference: np.ndarray, most: float = 1.0) -> None:
    assert difference.max() <= most
    assert np.mean(difference > 0) <= 1e-4 or np.sum(difference > 0) <= 1


def test_the_row_holds_what_was_drawn():
    names = list(JITTER_CODES)
    for key in range(400):
        drawn = draw(key, CONFIG)
        row = drawn.row()
        assert row.shape == (COLOR_ROW,) and row.dtype == np.float64
        *places, gray, sigma = row.tolist()
        jitter = tuple(
            (names[int(code)], factor)
            for code, factor in zip(places[:4], places[4:], strict=True)
            if code >= 0
        )
        assert (jitter, bool(gray), sigma or None) == (drawn.jitter, drawn.gray, drawn.sigma)
    assert Colors((), False, None).row().tolist() == [-1] * 4 + [0] * 6


def test_the_transform_hands_over_the_colours_of_the_views_it_would_make():
    """Same keys, same numbers; the weak view, the boxes and the partner's are those of the CPU path."""
    image = images(50, 60)[0]
    unseen = 0
    for partner in ("same", "shuffled", None):
        workers, device = (NaturalViews(CONFIG, 2, partner, on_device=value) for value in (False, True))
        other = images(50, 60)[1] if partner == "shuffled" else None
        for key in range(40):
            made, left = workers.unlabeled(image, key, other), device.unlabeled(image, key, other)
            assert set(left) == {name.replace("strong", "colors") for name in made}
            for name in set(left) & set(made):
                assert np.array_equal(left[name], made[name]), name
            for v in range(2):
                drawn = draw(keyed.key(key, COLOR, v), CONFIG)
                assert np.array_equal(left["colors"][v], drawn.row())
                if partner:
                    drawn = draw(keyed.key(keyed.key(key, PARTNER), COLOR, v), CONFIG)
                    if not left["boxes"][v].any():
                        drawn, unseen = UNCHANGED, unseen + 1
                    assert np.array_equal(left["partner_colors"][v], drawn.row())
    assert unseen > 20


def test_little_more_than_the_weak_crop_leaves_the_workers():
    arrays = NaturalViews(CONFIG, 2, "same", on_device=True).unlabeled(images(50, 60)[0], 3)
    crops = [name for name, value in arrays.items() if value.dtype == np.uint8]
    assert sorted(crops) == ["partner_weak", "weak"]
    assert arrays.pop("spans").nbytes == 4 * 2 * CONFIG.crop  # of two contents and two boxes
    assert sum(value.nbytes for name, value in arrays.items() if name not in crops) < 500


SINGLE = [
    *[(name, factor) for name in ("brightness", "contrast", "saturation")
      for factor in (0.0, 0.5, 0.7371, 1.0, 1.2, 1.5, 4.0)],
    *[("hue", shift) for shift in (-0.5, -0.25, -0.11, -0.001, 0.0, 0.002, 0.2, 0.25, 0.5)],
]  # fmt: skip


@pytest.mark.parametrize("shape", [(48, 37), (1, 1), (1, 9), (5, 2)])
def test_each_jitter_alone(shape: tuple[int, int]):
    image = images(*shape)
    differs = differences(image, [[Colors((one,), False, None) for one in SINGLE]] * len(image))
    for v, one in enumerate(SINGLE):
        assert differs[:, v].max() <= 1, one
        assert_close(differs[:, v])


def test_hue_of_many_colours():
    """Every fourth level of each channel with every other: all sextants, ties of channels, greys."""
    level = np.arange(0, 256, 4, dtype=np.uint8)
    lattice = np.stack(np.meshgrid(level, level[::-1] + 3, level, indexing="ij"), axis=-1)
    lattice[::2, ::2] = lattice[::2, ::2, :, [1, 1, 0]]
    shifts = [Colors((("hue", shift),), False, None) for shift in (0.0, 0.13, -0.4)]
    assert_close(differences(lattice.reshape(1, 512, 512, 3), [shifts], radius=0))


def test_gray_alone():
    image = images(48, 37)
    assert differences(image, [[Colors((), True, None)]] * len(image)).max() == 0


def test_kernels_are_those_of_the_cpu_path():
    sigmas = np.concatenate([np.linspace(0.0, MAX_SIGMA, 4001), 10.0 ** np.linspace(-9, 0, 200)])
    for most in (2.0, MAX_SIGMA):
        radius, some = blur_radius(most), sigmas[sigmas <= most]
        found = blur_kernels(torch.from_numpy(some), radius).numpy()
        assert found.shape[1] == 2 * radius + 1 and (found.sum(1) == 256).all()
        for sigma, taps in zip(some, found, strict=True):
            expected = 256.0 * ops.blur_kernel(sigma)
            assert np.array_equal(taps, np.pad(expected, radius - len(expected) // 2)), sigma
    assert [blur_radius(sigma) for sigma in (0.0, 2.0, 8.0)] == [0, 5, 19]


@pytest.mark.parametrize("shape", [(48, 37), (1, 1), (1, 9), (5, 2)])
def test_blur_alone(shape: tuple[int, int]):
    image = images(*shape)
    sigmas = (None, 0.0, 1e-6, 0.1, 0.3, 0.5, 1.0, 1.7, 2.0, 5.0, 8.0)
    for sigma in sigmas:  # alone, so that a wrong one is named
        assert_close(differences(image, [[Colors((), False, sigma)]] * len(image)))
    # Every image of a batch with another kernel.
    assert_close(differences(image, [[Colors((), False, sigma)] for sigma in sigmas[2 : 2 + len(image)]]))
    small = [[Colors((), False, sigma)] for sigma in (None, 2.0, 0.1, 0.3, 0.5, 1.0, 1.7, 1.9)]
    assert_close(differences(image, small, radius=blur_radius(2.0)))


def test_all_orders():
    image = images(24, 24)[:4]
    factors = {"brightness": 1.3, "contrast": 0.6, "saturation": 1.4, "hue": 0.2}
    orders = [Colors(tuple((name, factors[name]) for name in order), False, None) for order in ORDERS]
    made = on_device(image, [orders] * len(image))
    assert len({made[0, v].tobytes() for v in range(24)}) == 24, "two orders must not give the same view"
    assert_close(differences(image, [orders] * len(image)), most=4)


@pytest.mark.parametrize(("config", "most"), [(CONFIG, 4), (EXTREME, 30)], ids=["published", "extreme"])
def test_whole_chains(config: ViewConfig, most: int):
    """400 views a configuration. With factors up to 4 a difference of one level can grow to many."""
    image, radius = images(40, 40), blur_radius(config.blur.sigma[1])
    found = [
        differences(
            image, [[draw(n * 1000 + b * 10 + v, config) for v in range(5)] for b in range(8)], radius
        )
        for n in range(10)
    ]
    assert_close(np.stack(found), most)
    assert np.mean(found) < 1e-3


def test_photographs(real_data: Path):
    """In 120 views of real images no pixel differed when this was written."""
    paths = sorted((real_data / "camvid" / "images").rglob("*.jpg"))[:12]
    assert len(paths) == 12
    made = [np.asarray(Image.open(path).convert("RGB").resize((160, 120))) for path in paths]
    colors = [[draw(10 * b + v, CONFIG) for v in range(10)] for b in range(12)]
    found = differences(np.stack(made), colors, blur_radius(2.0))
    assert found.max() <= 4 and np.mean(found > 0) < 1e-6


def test_an_image_does_not_depend_on_its_neighbours():
    image = images(20, 30)
    colors = [[draw(10 * b + v, CONFIG) for v in range(2)] for b in range(len(image))]
    together = on_device(image, colors)
    for b in range(len(image)):
        assert np.array_equal(on_device(image[b : b + 1], colors[b : b + 1]), together[b : b + 1])


def test_autocast_and_the_callers_arrays_are_left_alone():
    image = torch.from_numpy(images(20, 30))
    rows = torch.from_numpy(np.stack([[draw(10 * b + v, CONFIG).row() for v in range(2)] for b in range(8)]))
    before = image.clone(), rows.clone()
    plain = strong_views(image, rows, RADIUS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = strong_views(image, rows, RADIUS)
    for ours, theirs in zip(cast, plain, strict=True):
        assert ours.dtype == torch.float32 and torch.equal(ours, theirs) and not ours.requires_grad
    assert torch.equal(image, before[0]) and torch.equal(rows, before[1])
    assert strong_views(image, rows[:, :0], RADIUS) == ()


def test_one_graph_for_all_draws():
    """torch.compile traces the whole function, and other parameters do not make it trace again."""
    traced = []

    def count(graph: torch.fx.GraphModule, _: list[torch.Tensor]):
        traced.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(strong_views, backend=count, fullgraph=True)
    image = torch.from_numpy(images(12, 14))
    for config in (CONFIG, replace(CONFIG, gray=1.0), EXTREME):
        rows = torch.from_numpy(np.stack([[draw(b, config).row()] for b in range(8)]))
        for ours, theirs in zip(
            compiled(image, rows, RADIUS), strong_views(image, rows, RADIUS), strict=True
        ):
            assert torch.equal(ours, theirs)
    assert len(traced) == 1
    torch._dynamo.reset()
