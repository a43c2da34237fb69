"""The views of medical slices: greyscale, turned instead of cropped, and zoomed to one size."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from unimatch.codecs.part import Part, Rect
from unimatch.keyed import Draws
from unimatch.views import op_lists, ops
from unimatch.views.allowed import check, check_p
from unimatch.views.base import Views
from unimatch.views.box import BoxConfig
from unimatch.views.colors import BlurConfig


@dataclass(frozen=True)
class GreyJitterConfig:
    """Brightness and contrast of a strong view, in random order; the defaults are the published ones."""

    p: float = 0.8  # probability that a strong view is jittered at all
    brightness: float = 0.5  # factor uniform in [1 - b, 1 + b], not below 0
    contrast: float = 0.5  # the same

    def __post_init__(self) -> None:
        check_p("jitter.p", self.p)
        for name in ("brightness", "contrast"):
            check(getattr(self, name) >= 0, f"jitter.{name}", getattr(self, name), "0 or more")


@dataclass(frozen=True)
class MedicalViewConfig:
    """Weak and strong views of slices; the defaults are the published ones."""

    crop: int  # side in pixels that every slice is zoomed to, in training and in evaluation
    turn: float = 0.5  # probability of 0 to 3 quarter turns and a mirror image along a random axis
    rotate: float = 0.5  # where there is no turn: probability of a rotation
    degrees: int = 20  # of a rotation: a whole number, uniform in [-degrees, degrees)
    jitter: GreyJitterConfig = field(default_factory=GreyJitterConfig)  # of strong views
    blur: BlurConfig = field(default_factory=BlurConfig)  # Gaussian blur of strong views
    box: BoxConfig = field(default_factory=BoxConfig)  # CutMix boxes

    def __post_init__(self) -> None:
        check(self.crop >= 2, "crop", self.crop, "2 or more")
        check_p("turn", self.turn)
        check_p("rotate", self.rotate)
        check(1 <= self.degrees <= 180, "degrees", self.degrees, "1 to 180")


@dataclass(frozen=True)
class SlicePlacement:
    """A slice after quarter turns (counter-clockwise), then a mirror image, or after a rotation about its
    centre; then zoomed to `crop` pixels a side. Every step takes the nearest pixel.
    """

    crop: int
    quarter_turns: int = 0
    mirror: int | None = None  # the axis that is reversed: 0 or 1
    degrees: int = 0  # counter-clockwise

    @property
    def content(self) -> Rect:
        """The whole crop: what a rotation leaves empty is black background, as published."""
        return 0, 0, self.crop, self.crop

    def source(self, width: int, height: int) -> Rect:
        """All pixels: a rotation takes them from anywhere."""
        return 0, 0, width, height

    def image(self, image: np.ndarray) -> np.ndarray:
        """[crop, crop, 1] of [H, W, 1]; 0 where a rotation leaves nothing."""
        return self._sampled(image)

    def label(self, label: np.ndarray) -> np.ndarray:
        """uint8 [crop, crop] of [H, W]; class 0 where a rotation leaves nothing."""
        return self._sampled(label)

    def _sampled(self, array: np.ndarray) -> np.ndarray:
        array = np.rot90(array, self.quarter_turns)
        if self.mirror is not None:
            array = np.flip(array, self.mirror)
        rows, columns = (zoomed(size, self.crop) for size in array.shape[:2])
        if not self.degrees:
            return array[rows[:, None], columns]
        y, x, inside = rotated(rows[:, None], columns, array.shape[0], array.shape[1], self.degrees)
        sampled = array[y, x]
        sampled[~inside] = 0
        return sampled


def zoomed(size: int, target: int) -> np.ndarray:
    """int64 [target]: the source pixel of each target pixel, the first and last ones on each other; nearest,
    halves up (SciPy's zoom of order 0).
    """
    return np.floor(np.arange(target) * ((size - 1) / (target - 1)) + 0.5).astype(np.int64)


def rotated(
    rows: np.ndarray, columns: np.ndarray, height: int, width: int, degrees: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(y, x, inside) of the broadcast shape: the source pixels of a rotation about the centre that keeps the
    size; nearest, halves up (SciPy's rotate of order 0). Where `inside` is False they are outside, and y and
    x any pixel.
    """
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y = cos * rows + (sin * columns + (middle_y - cos * middle_y - sin * middle_x))
    x = -sin * rows + (cos * columns + (middle_x + sin * middle_y - cos * middle_x))
    inside = (y >= 0) & (y <= height - 1) & (x >= 0) & (x <= width - 1)
    return _nearest(y, height), _nearest(x, width), inside


def _nearest(position: np.ndarray, size: int) -> np.ndarray:
    return np.clip(np.floor(position + 0.5), 0, size - 1).astype(np.int64)


def draw_placement(draws: Draws, config: MedicalViewConfig) -> SlicePlacement:
    """A turn with a mirror image, else a rotation, else neither, each by its probability."""
    if draws.bool(config.turn):
        turns = draws.integer(0, 4)
        return SlicePlacement(config.crop, quarter_turns=turns, mirror=draws.integer(0, 2))
    if draws.bool(config.rotate):
        return SlicePlacement(config.crop, degrees=draws.integer(-config.degrees, config.degrees))
    return SlicePlacement(config.crop)


@dataclass(frozen=True)
class Greys:
    """What is done to the grey values of a strong view, in this order."""

    jitter: tuple[tuple[str, float], ...]  # "brightness" or "contrast", with its factor
    sigma: float | None  # of the blur; None for no blur

    def apply(self, image: np.ndarray) -> np.ndarray:
        """uint16 [H, W, 1] of the same; `image` itself where nothing is to be done."""
        for name, factor in self.jitter:
            # Brightness blends with black, contrast with the mean.
            rest = 0.0 if name == "brightness" else (1.0 - factor) * float(image.mean())
            image = cv2.addWeighted(image, factor, image, 0.0, rest).reshape(image.shape)
        if self.sigma is not None:
            image = ops.gaussian_blur(image, self.sigma).reshape(image.shape)
        return image


def draw_greys(draws: Draws, config: MedicalViewConfig) -> Greys:
    """Brightness and contrast with their factors in random order, and blur, each with its own probability."""
    jitter: tuple[tuple[str, float], ...] = ()
    if draws.bool(config.jitter.p):
        jitter = tuple(
            (name, draws.uniform(max(0.0, 1.0 - spread), 1.0 + spread))
            for name, spread in (
                ("brightness", config.jitter.brightness),
                ("contrast", config.jitter.contrast),
            )
        )
        if draws.bool(0.5):
            jitter = jitter[::-1]
    sigma = draws.uniform(*config.blur.sigma) if draws.bool(config.blur.p) else None
    return Greys(jitter, sigma)


class MedicalViews(Views):
    """Views of slices, uint16 [H, W, 1]; settings: MedicalViewConfig.

    The released code cuts unlabelled slices to 8 bits first; here all keep their 16.
    """

    def placement(self, width: int, height: int, draws: Draws) -> SlicePlacement:
        return draw_placement(draws, self.config)

    def warped(self, image: Part, placement: SlicePlacement, out: np.ndarray | None) -> np.ndarray:
        slice_ = placement.image(image.pixels)
        if out is None:
            return slice_
        out[...] = slice_
        return out

    def colored(self, weak: np.ndarray, key: int, out: np.ndarray) -> None:
        if self.extra.ops:
            op_lists.apply(weak, op_lists.draw_ops(Draws(key), self.extra.ops), out)
        else:
            out[...] = draw_greys(Draws(key), self.config).apply(weak)
