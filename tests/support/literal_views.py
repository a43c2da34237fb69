"""The views written down as literally as possible, for tests: PIL, whole images, masks, no thought of speed.

`draw_*` are the laws, drawn from a numpy generator; the others make pixels from given numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

IGNORE = 255


def draw_weak(rng: np.random.Generator, width: int, height: int, crop: int) -> dict[str, Any]:
    long_side = int(rng.integers(int(max(width, height) * 0.5), int(max(width, height) * 2.0), endpoint=True))
    size = resized_size(width, height, long_side)
    x = int(rng.integers(0, max(size[0], crop) - crop, endpoint=True))
    y = int(rng.integers(0, max(size[1], crop) - crop, endpoint=True))
    return {"size": size, "x": x, "y": y, "flip": rng.random() < 0.5}


def resized_size(width: int, height: int, long_side: int) -> tuple[int, int]:
    if height > width:
        return int(width * long_side / height + 0.5), long_side
    return long_side, int(height * long_side / width + 0.5)


def weak(
    image: Image.Image, label: Image.Image, crop: int, size: tuple[int, int], x: int, y: int, flip: bool
) -> tuple[Image.Image, Image.Image, np.ndarray]:
    """Image, label and bool mask of the pixels that are not padding: resize everything, pad, crop, flip."""
    valid = Image.fromarray(np.full((size[1], size[0]), 255, np.uint8))
    pad = (0, 0, max(crop - size[0], 0), max(crop - size[1], 0))
    made = []
    for whole, fill in (
        (image.resize(size, Image.Resampling.BILINEAR), 0),
        (label.resize(size, Image.Resampling.NEAREST), IGNORE),
        (valid, 0),
    ):
        view = ImageOps.expand(whole, border=pad, fill=fill).crop((x, y, x + crop, y + crop))
        made.append(view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else view)
    return made[0], made[1], np.asarray(made[2]) > 0


def hue(image: Image.Image, shift: float) -> Image.Image:
    h, s, v = image.convert("HSV").split()
    turned = (np.asarray(h).astype(np.int32) + int(shift * 255)) % 256
    return Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), s, v)).convert("RGB")


JITTER = {
    "brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "saturation": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "hue": hue,
}


def draw_strong(rng: np.random.Generator) -> dict[str, Any]:
    jitter: list[tuple[str, float]] = []
    if rng.random() < 0.8:
        for name in rng.permutation(["brightness", "contrast", "saturation", "hue"]):
            jitter.append((str(name), rng.uniform(-0.25, 0.25) if name == "hue" else rng.uniform(0.5, 1.5)))
    gray = rng.random() < 0.2
    return {"jitter": jitter, "gray": gray, "sigma": rng.uniform(0.1, 2.0) if rng.random() < 0.5 else None}


def strong(image: Image.Image, jitter: Any, gray: bool, sigma: float | None) -> Image.Image:
    for name, factor in jitter:
        image = JITTER[name](image, factor)
    if gray:
        image = image.convert("L").convert("RGB")
    return image if sigma is None else image.filter(ImageFilter.GaussianBlur(sigma))


def draw_box_mask(rng: np.random.Generator, crop: int) -> np.ndarray:
    """bool [crop, crop], True inside the CutMix box."""
    mask = np.zeros((crop, crop), bool)
    if rng.random() < 0.5:
        area = rng.uniform(0.02, 0.4) * crop * crop
        while True:
            aspect = rng.uniform(0.3, 1 / 0.3)
            width, height = int(math.sqrt(area / aspect)), int(math.sqrt(area * aspect))
            x, y = int(rng.integers(0, crop)), int(rng.integers(0, crop))
            if x + width <= crop and y + height <= crop:
                break
        mask[y : y + height, x : x + width] = True
    return mask


def rectangle(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The rectangle that `mask` is; an error if it is no rectangle; zeros if it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    rect = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    assert mask.sum() == (rect[2] - rect[0]) * (rect[3] - rect[1])
    return rect


def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """float64 [H, W, 3]: three box filters along each axis, unrounded, borders repeated.

    A box holds whole pixels and at each end a part of one: as few whole ones as can have its variance.
    """

    def variance(whole: int, part: float) -> float:
        squares = sum(place**2 for place in range(-whole, whole + 1)) + 2 * part * (whole + 1) ** 2
        return squares / (2 * whole + 1 + 2 * part)

    whole = next(number for number in range(100) if variance(number, 1.0) > sigma**2 / 3)
    low, high = 0.0, 1.0
    for _ in range(60):
        part = (low + high) / 2
        low, high = (part, high) if variance(whole, part) < sigma**2 / 3 else (low, part)
    box = np.array([low, *[1.0] * (2 * whole + 1), low]) / (2 * whole + 1 + 2 * low)
    radius = 3 * (whole + 1)
    blurred = np.pad(image.astype(np.float64), ((radius, radius), (radius, radius), (0, 0)), "edge")
    for axis in (0, 1):
        for _ in range(3):
            blurred = np.apply_along_axis(np.convolve, axis, blurred, box, "valid")
    return blurred
