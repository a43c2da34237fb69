"""Pixels of views.ops against PIL doing the same to whole images, and against slow exact definitions."""

from __future__ import annotations

import colorsys
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.support import literal_views as literal
from unimatch.codecs import compiled
from unimatch.codecs.part import Part
from unimatch.views import ops

# (width, height): both orientations, one-pixel sides, sizes without a common factor
SIZES = [(1, 1), (1, 7), (9, 1), (2, 3), (37, 23), (23, 37), (64, 64), (101, 53)]


def noise(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Every pixel of every channel independent: the hardest image for a resampler."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(seed: int, side: int = 48) -> np.ndarray:
    """Smooth colours with a few hard edges, black and white included: like a photograph, only small."""
    image = np.asarray(
        Image.fromarray(noise(seed, 6, 6)).resize((side, side), Image.Resampling.BICUBIC)
    ).copy()
    image[5:9, :20] = 0
    image[20:30, 30:40] = 255
    return image


def levels(ours: Any, theirs: Any) -> np.ndarray:
    return np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))


def regions(seed: int, width: int, height: int) -> list[tuple[tuple[int, int], ops.Rect]]:
    """Resized sizes from a half to twice, and for each the whole, a corner and random regions."""
    rng = np.random.default_rng(seed)
    cases = []
    for factor in (0.5, 0.61, 0.83, 1.0, 1.17, 1.5, 2.0, rng.uniform(0.5, 2.0)):
        size = ops.resized_size(width, height, max(int(max(width, height) * factor), 1))
        cases += [(size, (0, 0, *size)), (size, (size[0] - 1, size[1] - 1, *size))]
        for _ in range(4):
            x0, y0 = int(rng.integers(size[0])), int(rng.integers(size[1]))
            cases.append(
                (size, (x0, y0, int(rng.integers(x0, size[0])) + 1, int(rng.integers(y0, size[1])) + 1))
            )
    return cases


def test_a_tall_image_is_resized_as_its_wide_twin() -> None:
    for width, height in ((30, 20), (31, 17), (100, 99), (7, 1)):
        for long_side in range(1, 60):
            wide = ops.resized_size(width, height, long_side)
            assert wide == (long_side, max(math.floor(height * long_side / width + 0.5), 1))
            assert ops.resized_size(height, width, long_side) == wide[::-1]


@pytest.mark.parametrize(("width", "height", "long_side", "expected"), [
    (500, 375, 500, (500, 375)),
    (500, 375, 250, (250, 188)),  # 187.5 rounds up
    (375, 500, 251, (188, 251)),  # 188.25
    (500, 338, 999, (999, 675)),  # 675.3
    (7, 7, 3, (3, 3)),
    (1000, 1, 500, (500, 1)),  # 0.5 rounds up
    (1000, 1, 300, (300, 1)),  # 0.3 would vanish
])  # fmt: skip
def test_resized_size_by_hand(width: int, height: int, long_side: int, expected: tuple[int, int]) -> None:
    assert ops.resized_size(width, height, long_side) == expected


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_resize_crop_is_pil_resize_then_crop(width: int, height: int) -> None:
    # 1 level: PIL rounds after each of its two passes, OpenCV once.
    image = noise(width * height, height, width)
    for size, region in regions(width + height, width, height):
        whole = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
        assert levels(ops.resize_crop(image, size, region), whole.crop(region)).max() <= 1, (size, region)


@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_crop_into_is_pil_resize_crop_pad_and_mirror(
    width: int, height: int, compile: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the whole image and from the part that `source` asks for, into memory that held something else.

    1 level: the compiled passes keep 2 (shrinking) or 7 bits below a level where PIL rounds between them.
    """
    monkeypatch.setattr(compiled, "AVAILABLE", compile and compiled.AVAILABLE)
    image = noise(width * height, height, width)
    for number, (size, region) in enumerate(regions(width + height, width, height)):
        flip = number % 2 == 1
        crop = max(region[2] - region[0], region[3] - region[1]) + number % 3
        shown = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR).crop(region)
        expected = ops.pad_flip(np.asarray(shown), crop, 0, flip)
        x0, y0, x1, y1 = ops.source(width, height, size, region)
        part = Part(image[y0:y1, x0:x1], x0, y0, width, height)
        results = [np.full((crop, crop, 3), 77, np.uint8) for _ in range(2)]
        for out, given in zip(results, (image, part), strict=True):
            ops.crop_into(out, given, size, region, flip)
        assert np.array_equal(*results)
        assert levels(results[0], Image.fromarray(expected)).max() <= 1, (size, region)


def test_resize_of_lines_and_single_pixels() -> None:
    for height, width in ((1, 9), (9, 1), (1, 1), (2, 2)):
        image = noise(height + width, height, width)
        for size in ((1, 1), (2, 3), (5, 1), (20, 30)):
            expected = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
            out = np.empty((30, 30, 3), np.uint8)
            ops.crop_into(out, image, size, (0, 0, *size), False)
            assert levels(out[: size[1], : size[0]], expected).max() <= 1, (height, width, size)


def test_operations_write_where_they_are_told() -> None:
    image = noise(3, 20, 30)
    for operation in (*ops.JITTER.values(), ops.gaussian_blur):
        out = np.zeros_like(image)
        assert operation(image, 0.7, out) is out and np.array_equal(out, operation(image, 0.7))
    out = np.zeros_like(image)
    assert ops.grayscale(image, out) is out and np.array_equal(out, ops.grayscale(image))


@pytest.mark.parametrize("long_side", [64, 127, 128, 200, 255])
def test_resize_crop_reads_the_needed_pixels_only(long_side: int) -> None:
    image, size = noise(0, 96, 128), ops.resized_size(128, 96, long_side)
    region = (size[0] // 2, size[1] // 2, size[0] // 2 + 8, size[1] // 2 + 8)
    changed = image.copy()
    far = np.ones(image.shape[:2], bool)
    far[36:76, 52:96] = False
    changed[far] = 255 - changed[far]
    assert np.array_equal(ops.resize_crop(image, size, region), ops.resize_crop(changed, size, region))


@pytest.mark.parametrize(("width", "height"), [*SIZES, (500, 338)])
def test_nearest_is_exactly_pil_resize_then_crop(width: int, height: int) -> None:
    label = noise(width * height, height, width, channels=1)
    for size, region in regions(width + height, width, height):
        whole = Image.fromarray(label).resize(size, Image.Resampling.NEAREST)
        ours = ops.resize_crop_nearest(label, size, region)
        assert ours.dtype == np.uint8 and np.array_equal(ours, np.asarray(whole.crop(region))), (size, region)


def test_nearest_matches_pil_at_every_size() -> None:
    line = np.arange(97, dtype=np.uint8)[None]
    for width in range(1, 400):
        theirs = np.asarray(Image.fromarray(line).resize((width, 1), Image.Resampling.NEAREST))
        assert np.array_equal(ops.resize_crop_nearest(line, (width, 1), (0, 0, width, 1)), theirs), width


def test_pad_flip_by_hand() -> None:
    label = np.array([[1, 2]], np.uint8)
    assert ops.pad_flip(label, 3, 255, False).tolist() == [[1, 2, 255], [255] * 3, [255] * 3]
    assert ops.pad_flip(label, 3, 255, True).tolist() == [[255, 2, 1], [255] * 3, [255] * 3]
    image = noise(0, 3, 3)
    assert np.array_equal(ops.pad_flip(image, 3, 0, True), image[:, ::-1])


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.0, 0.5, 0.7371, 1.0, 1.2, 1.5])
@pytest.mark.parametrize("make", [picture, lambda seed: noise(seed, 40, 30), lambda seed: noise(seed, 1, 1)])
def test_blends_are_pils(name: str, factor: float, make: Any) -> None:
    # 1 level from rounding the result; the grey image may be one level off too, which saturation multiplies
    # by |1 - factor| <= 1 before it rounds, and contrast likewise through its rounded mean.
    allowed = 1 if name == "brightness" else 2
    for seed in range(4):
        image = make(seed)
        theirs = literal.JITTER[name](Image.fromarray(image), factor)
        difference = levels(ops.JITTER[name](image, factor), theirs)
        assert difference.max() <= allowed
        assert difference.mean() < 0.1 or image.size == 3


def test_hue_turns_the_hue_and_nothing_else() -> None:
    # 8-bit HSV: a hue step of 1/256 turn moves a channel by up to 6 levels; half a step is lost going in,
    # half in rounding the shift; saturation in steps of 1/255 and the way back add about one each.
    image = noise(1, 24, 24)
    for shift in (-0.25, -0.11, 0.0, 0.2, 0.25, 0.5):
        exact = np.empty(image.shape)
        for place in np.ndindex(*image.shape[:2]):
            h, s, v = colorsys.rgb_to_hsv(*(image[place] / 255.0))
            exact[place] = np.multiply(colorsys.hsv_to_rgb((h + shift) % 1.0, s, v), 255.0)
        difference = levels(ops.adjust_hue(image, shift), exact)
        assert difference.max() <= 9 and difference.mean() < 1, (shift, difference.max(), difference.mean())


@pytest.mark.parametrize("shift", [-0.25, -0.1, 0.03, 0.25])
def test_hue_is_close_to_pils(shift: float) -> None:
    # PIL has 255 hues on a circle of 256 and truncates both: up to three hue steps of 6 levels.
    image = picture(3)
    difference = levels(ops.adjust_hue(image, shift), literal.hue(Image.fromarray(image), shift))
    assert difference.max() <= 18 and difference.mean() < 3


@pytest.mark.parametrize("level", [0, 1, 77, 254, 255])
def test_grey_images_stay_grey(level: int) -> None:
    image = np.full((5, 4, 3), level, np.uint8)
    for shift in (-0.25, 0.1, 0.25):
        assert np.array_equal(ops.adjust_hue(image, shift), image)
    for factor in (0.5, 1.3):
        assert np.array_equal(ops.adjust_saturation(image, factor), image)
        assert np.array_equal(ops.adjust_contrast(image, factor), image)
    assert np.array_equal(ops.grayscale(image), image)
    assert np.array_equal(ops.gaussian_blur(image, 1.7), image)


def test_grayscale_is_pils() -> None:
    image = noise(5, 50, 50)
    difference = levels(ops.grayscale(image), Image.fromarray(image).convert("L").convert("RGB"))
    assert difference.max() <= 1 and difference.mean() < 0.01  # 14 against 16 bits of weights


@pytest.mark.parametrize("sigma", [0.1, 0.2, 0.3, 0.45, 0.6, 1.0, 1.37, 2.0, 5.0])
def test_blur_is_three_box_filters(sigma: float) -> None:
    # Taps in steps of 1/256 can lose half a step each, 11 of them at sigma 2, twice: in noise about one
    # level, with half a level of rounding.
    for image in (noise(7, 40, 31), picture(7)):
        difference = levels(ops.gaussian_blur(image, sigma), literal.gaussian_blur(image, sigma))
        assert difference.max() <= 2 and difference.mean() < 0.6


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 1.0, 2.0, 5.0, 8.0])
def test_kernel_has_sum_one_and_the_asked_deviation(sigma: float) -> None:
    kernel = ops.blur_kernel(sigma).astype(np.float64)
    place = np.arange(len(kernel)) - len(kernel) // 2
    assert kernel.sum() == 1.0 and np.array_equal(kernel, kernel[::-1]) and kernel.min() > 0
    assert abs(np.sqrt((kernel * place**2).sum()) - sigma) <= max(0.012, 0.035 * sigma)


@pytest.mark.parametrize("sigma", [0.2, 0.5, 0.8, 1.0, 1.2, 1.5, 2.0])
def test_blur_is_pils(sigma: float) -> None:
    """Inside, every pixel to a few levels, and the gradients that are left; at the border PIL repeats pixels
    again after each box.
    """

    def gradients(image: np.ndarray) -> float:
        values = image.astype(np.float64)
        return float((np.diff(values, axis=0) ** 2).sum() + (np.diff(values, axis=1) ** 2).sum())

    for image in (picture(9, 96), noise(9, 96, 96)):
        theirs = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
        ours = ops.gaussian_blur(image, sigma)
        inside = np.s_[6:-6, 6:-6]
        assert levels(ours, theirs)[inside].max() <= 4 and levels(ours, theirs).mean() < 1
        assert gradients(ours[inside]) == pytest.approx(gradients(theirs[inside]), rel=0.06)


def test_no_blur_at_sigma_zero() -> None:
    assert np.array_equal(ops.gaussian_blur(noise(2, 9, 9), 0.0), noise(2, 9, 9))


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (2, 2)])
def test_one_pixel_images_keep_their_shape(shape: tuple[int, int]) -> None:
    image = noise(4, *shape)
    before = image.copy()
    results = [adjust(image, 0.25) for adjust in ops.JITTER.values()]
    results += [ops.grayscale(image), ops.gaussian_blur(image, 2.0)]
    assert all(result.shape == image.shape and result.dtype == np.uint8 for result in results)
    assert np.array_equal(image, before)
