"""The views of natural images: what is drawn for an image, and the image made from it.

Every random number of a view comes from its own key, derived from the sample's key, so a view depends on
nothing but that key: not on the worker, on the number of views, or on what was drawn before it. Drawing and
applying are separate functions, so that the law of each parameter and the pixels can be tested apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, Literal, Protocol

import numpy as np

from unimatch import keyed
from unimatch.codecs.part import Part, Rect, around, as_part
from unimatch.errors import ConfigError
from unimatch.keyed import Draws
from unimatch.taxonomy import IGNORE_INDEX
from unimatch.views import ops

# What a sample's key is extended with, one stream of numbers each.
GEOMETRY, COLOR, BOX, PARTNER = range(4)
ORDERS = tuple(permutations(ops.JITTER))
Arrays = dict[str, np.ndarray]
Role = Literal["labeled", "unlabeled", "partner"]
EMPTY_BOX = (0, 0, 0, 0)
# Rejection sampling of boxes takes below a thousand tries on average up to this fraction of the crop.
MAX_BOX_AREA = 0.8
# A strong view's colours as numbers: four codes and four factors in the order of use, gray, sigma.
JITTER_CODES = {name: code for code, name in enumerate(ops.JITTER)}
NO_JITTER = -1
COLOR_ROW = 2 * len(JITTER_CODES) + 2
# Beyond it the 8-bit taps of ops.gaussian_kernel become too coarse.
MAX_SIGMA = 8.0


def _check(ok: bool, name: str, value: object, allowed: str) -> None:
    if not ok:
        raise ConfigError(f"{name} is {value!r}; allowed: {allowed}")


def _check_p(name: str, value: float) -> None:
    _check(0.0 <= value <= 1.0, name, value, "a probability, 0 to 1")


@dataclass(frozen=True)
class JitterConfig:
    """Colour jitter of a strong view, in random order; the defaults are the published ones."""

    p: float = 0.8  # probability that a strong view is jittered at all
    brightness: float = 0.5  # factor uniform in [1 - b, 1 + b], not below 0
    contrast: float = 0.5  # the same
    saturation: float = 0.5  # the same
    hue: float = 0.25  # turn uniform in [-h, h] of the full circle

    def __post_init__(self) -> None:
        _check_p("jitter.p", self.p)
        for name in ("brightness", "contrast", "saturation"):
            _check(getattr(self, name) >= 0, f"jitter.{name}", getattr(self, name), "0 or more")
        _check(0 <= self.hue <= 0.5, "jitter.hue", self.hue, "0 to 0.5")


@dataclass(frozen=True)
class BlurConfig:
    """Gaussian blur of a strong view."""

    p: float = 0.5  # probability that a strong view is blurred
    sigma: tuple[float, float] = (0.1, 2.0)  # standard deviation in pixels, uniform in this range

    def __post_init__(self) -> None:
        _check_p("blur.p", self.p)
        ok = 0 <= self.sigma[0] <= self.sigma[1] <= MAX_SIGMA
        _check(ok, "blur.sigma", self.sigma, f"0 <= low <= high <= {MAX_SIGMA}")


@dataclass(frozen=True)
class BoxConfig:
    """The CutMix box of a strong view."""

    p: float = 0.5  # probability of a box at all
    area: tuple[float, float] = (0.02, 0.4)  # fraction of the crop, uniform in this range
    aspect: tuple[float, float] = (0.3, 1 / 0.3)  # height / width, uniform in this range

    def __post_init__(self) -> None:
        _check_p("box.p", self.p)
        low, high = self.area
        _check(0 < low <= high <= MAX_BOX_AREA, "box.area", self.area, f"0 < low <= high <= {MAX_BOX_AREA}")
        _check(0 < self.aspect[0] <= self.aspect[1], "box.aspect", self.aspect, "0 < low <= high")
        squarest = min(max(1.0, self.aspect[0]), self.aspect[1])
        fits = high * max(squarest, 1 / squarest) <= MAX_BOX_AREA
        _check(fits, "box.aspect", self.aspect, f"ranges with a shape in which a box of area {high} fits")


@dataclass(frozen=True)
class ViewConfig:
    """Weak and strong views of natural images; the defaults are the published ones.

    device: who makes the strong views from the weak one: "cpu" the data workers; "accelerator" the device
        that trains, from the same random numbers, so that the workers make and hand over weak views only;
        "auto" the device if it is a GPU, else the workers.
    """

    crop: int  # side of the square crop, in pixels
    scale: tuple[float, float] = (0.5, 2.0)  # resized long side, uniform in this range times the image's own
    flip: float = 0.5  # probability of a horizontal flip
    jitter: JitterConfig = field(default_factory=JitterConfig)  # colour jitter of strong views
    gray: float = 0.2  # probability that a strong view loses its colour
    blur: BlurConfig = field(default_factory=BlurConfig)  # Gaussian blur of strong views
    box: BoxConfig = field(default_factory=BoxConfig)  # CutMix boxes
    device: Literal["cpu", "accelerator", "auto"] = "auto"  # who makes the strong views

    def __post_init__(self) -> None:
        _check(self.crop >= 1, "crop", self.crop, "1 or more")
        _check(0 < self.scale[0] <= self.scale[1], "scale", self.scale, "0 < low <= high")
        _check_p("flip", self.flip)
        _check_p("gray", self.gray)

    def on_device(self, has_accelerator: bool) -> bool:
        """Whether the device makes the strong views of a run that has an accelerator, or has none."""
        return self.device == "accelerator" or (self.device == "auto" and has_accelerator)


@dataclass(frozen=True)
class Geometry:
    """A crop: `region` of the image resized to `size`, padded right and below to `crop`, then flipped."""

    crop: int
    size: tuple[int, int]  # width, height of the whole resized image
    region: Rect  # in the resized image
    flip: bool

    @property
    def content(self) -> Rect:
        """The pixels of the crop that show image rather than padding."""
        width, height = self.region[2] - self.region[0], self.region[3] - self.region[1]
        left = self.crop - width if self.flip else 0
        return left, 0, left + width, height

    def source(self, width: int, height: int) -> Rect:
        """The pixels that are read of an image of this size."""
        return ops.source(width, height, self.size, self.region)

    def image(self, image: Part | np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 [crop, crop, 3], `out` if given, of an image or what `source` says of it; padding is 0."""
        out = np.empty((self.crop, self.crop, 3), np.uint8) if out is None else out
        ops.crop_into(out, image, self.size, self.region, self.flip)
        return out

    def label(self, label: np.ndarray) -> np.ndarray:
        """uint8 [crop, crop] of uint8 [H, W]; padding is IGNORE_INDEX."""
        cropped = ops.resize_crop_nearest(label, self.size, self.region)
        return ops.pad_flip(cropped, self.crop, IGNORE_INDEX, self.flip)


@dataclass(frozen=True)
class Colors:
    """What is done to the colours of a strong view, in this order."""

    jitter: tuple[tuple[str, float], ...]  # names of ops.JITTER with their factor
    gray: bool
    sigma: float | None  # of the blur; None for no blur

    def apply(self, image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 [H, W, 3] of the same, written to `out` if it is given; `image` itself where there is nothing
        to do and no `out`.
        """
        steps: list[tuple[Callable[..., np.ndarray], tuple[float, ...]]] = [
            (ops.JITTER[name], (factor,)) for name, factor in self.jitter
        ]
        if self.gray:
            steps.append((ops.grayscale, ()))
        if self.sigma is not None:
            steps.append((ops.gaussian_blur, (self.sigma,)))
        for number, (step, numbers) in enumerate(steps, 1):
            image = step(image, *numbers, out if number == len(steps) else None)
        if steps or out is None:
            return image
        out[...] = image
        return out

    def row(self) -> np.ndarray:
        """float64 [COLOR_ROW]: the same as numbers, from which a device makes the view.

        For each place in the order a code of JITTER_CODES (NO_JITTER: nothing), then for each its factor,
        then 1 for gray or 0, then sigma, 0 for no blur. Doubles, so that nothing is rounded on the way.
        """
        codes, factors = np.full(len(JITTER_CODES), NO_JITTER, np.float64), np.zeros(len(JITTER_CODES))
        for place, (name, factor) in enumerate(self.jitter):
            codes[place], factors[place] = JITTER_CODES[name], factor
        return np.concatenate([codes, factors, [float(self.gray), self.sigma or 0.0]])


UNCHANGED = Colors((), False, None)


def draw_geometry(draws: Draws, config: ViewConfig, width: int, height: int) -> Geometry:
    """Long side a uniform integer (both ends included), crop uniform over its places, flip."""
    long_side = max(width, height)
    low, high = int(long_side * config.scale[0]), int(long_side * config.scale[1])
    size = ops.resized_size(width, height, max(draws.integer(low, high + 1), 1))
    x = draws.integer(0, max(size[0] - config.crop, 0) + 1)
    y = draws.integer(0, max(size[1] - config.crop, 0) + 1)
    region = (x, y, min(x + config.crop, size[0]), min(y + config.crop, size[1]))
    return Geometry(config.crop, size, region, draws.bool(config.flip))


def draw_colors(draws: Draws, config: ViewConfig) -> Colors:
    """Jitter with its four factors in random order, grayscale and blur, each with its own probability."""
    strength = config.jitter
    jitter: tuple[tuple[str, float], ...] = ()
    if draws.bool(strength.p):
        order = ORDERS[draws.integer(0, len(ORDERS))]
        factors = {"hue": draws.uniform(-strength.hue, strength.hue)}
        for name in ("brightness", "contrast", "saturation"):
            spread = getattr(strength, name)
            factors[name] = draws.uniform(max(0.0, 1.0 - spread), 1.0 + spread)
        jitter = tuple((name, factors[name]) for name in order)
    gray = draws.bool(config.gray)
    sigma = draws.uniform(*config.blur.sigma) if draws.bool(config.blur.p) else None
    return Colors(jitter, gray, sigma)


def draw_box(draws: Draws, config: BoxConfig, crop: int) -> Rect:
    """A CutMix box that lies inside the crop, EMPTY_BOX with probability 1 - p.

    The area is drawn once; aspect and corner are drawn again until the box fits, as in the reference. So the
    area keeps its law, and of two shapes the one with more places in the crop is the more frequent.
    """
    if not draws.bool(config.p):
        return EMPTY_BOX
    area = draws.uniform(*config.area) * crop * crop
    while True:
        aspect = draws.uniform(*config.aspect)
        width, height = int(math.sqrt(area / aspect)), int(math.sqrt(area * aspect))
        x, y = draws.integer(0, crop), draws.integer(0, crop)
        if x + width <= crop and y + height <= crop:
            # A box may round to nothing in a crop of a few pixels.
            return (x, y, x + width, y + height) if width and height else EMPTY_BOX


class Placement(Protocol):
    """Where the pixels of a crop come from."""

    @property
    def content(self) -> Rect: ...

    def source(self, width: int, height: int) -> Rect: ...

    def label(self, label: np.ndarray) -> np.ndarray: ...


class Views:
    """Makes a sample's views from its decoded image and its key. Picklable; holds no state.

    What is drawn and done is a subclass's affair; `config` has at least `crop` and `box`. `partner` says what
    is pasted into the boxes: "same" another crop of the same image, "shuffled" a crop of another image,
    "batch" or None nothing that this class has to make. `on_device`: the strong views are left to the device,
    which gets their colours as numbers; for subclasses with `color_row`.
    """

    def __init__(self, config: Any, num_strong: int, partner: str | None, on_device: bool = False) -> None:
        assert num_strong >= 0 and partner in ("same", "shuffled", "batch", None), (num_strong, partner)
        self.config = config
        self.num_strong = num_strong
        self.partner = partner
        self.on_device = on_device

    def region(self, width: int, height: int, key: int, role: Role) -> Rect:
        """The pixels that are read of an image of this size: as a labelled sample, as an unlabelled one, or
        as the partner of the unlabelled one with this key.
        """
        if role == "partner":
            return self._placed(width, height, keyed.key(key, PARTNER)).source(width, height)
        own = self._placed(width, height, key).source(width, height)
        if role == "unlabeled" and self.partner == "same":
            return around(own, self.region(width, height, key, "partner"))
        return own

    def labeled(
        self, image: Part | np.ndarray, label: np.ndarray, key: int, out: Arrays | None = None
    ) -> Arrays:
        """image [..., S, S, C] as decoded, written to the array of `out` with this name, and label uint8
        [S, S].
        """
        part, out = as_part(image), out or {}
        placement = self._placed(part.width, part.height, key)
        return {"image": self.warped(part, placement, out.get("image")), "label": placement.label(label)}

    def unlabeled(
        self,
        image: Part | np.ndarray,
        key: int,
        partner_image: Part | np.ndarray | None = None,
        out: Arrays | None = None,
    ) -> Arrays:
        """weak [..., S, S, C] as decoded, strong [V, ..., S, S, C], rectangles content int32 [4], boxes int32
        [V, 4].

        With a partner of its own also partner_weak, partner_strong and partner_content. Where a box is empty
        nobody sees the partner's strong view, and its weak one stands there. With `on_device`, in place of
        each "strong" stands "colors" float64 [V, ..., COLOR_ROW]. Images are written to the arrays of `out`
        that have these names.
        """
        draws = [Draws(keyed.key(key, BOX, v)) for v in range(self.num_strong)]
        boxes = np.array([draw_box(d, self.config.box, self.config.crop) for d in draws], np.int32)
        out = out or {}
        views = self._views(as_part(image), key, [True] * self.num_strong, out, "")
        views["boxes"] = boxes.reshape(self.num_strong, 4)
        if self.partner in ("same", "shuffled"):
            source = image if self.partner == "same" else partner_image
            assert source is not None, "the loader gives a partner image where the plan has shuffled partners"
            seen = [bool(box.any()) for box in boxes]
            views |= self._views(as_part(source), keyed.key(key, PARTNER), seen, out, "partner_")
        return views

    def placement(self, width: int, height: int, draws: Draws) -> Placement:
        """Draws the geometry that all views of an image of this size share."""
        raise NotImplementedError

    def warped(self, image: Part, placement: Any, out: np.ndarray | None) -> np.ndarray:
        """The crop of an image as decoded, written to `out` if it is given."""
        raise NotImplementedError

    def colored(self, weak: np.ndarray, key: int, out: np.ndarray) -> None:
        """Writes a strong view of a weak one to `out`; `key` says what is done to the colours."""
        raise NotImplementedError

    def color_row(self, key: int, wanted: bool) -> np.ndarray:
        """float64 [..., COLOR_ROW]: what `colored` does, as numbers; of no change unless it is `wanted`."""
        raise NotImplementedError

    def _placed(self, width: int, height: int, key: int) -> Placement:
        return self.placement(width, height, Draws(keyed.key(key, GEOMETRY)))

    def _views(self, image: Part, key: int, wanted: list[bool], out: Arrays, prefix: str) -> Arrays:
        """One weak view and, for each of `wanted`, a strong one or its colours, all of one geometry."""
        placement = self._placed(image.width, image.height, key)
        weak = self.warped(image, placement, out.get(f"{prefix}weak"))
        views = {f"{prefix}weak": weak, f"{prefix}content": np.array(placement.content, np.int32)}
        colors = [keyed.key(key, COLOR, v) for v in range(len(wanted))]
        if self.on_device:
            rows = [self.color_row(*pair) for pair in zip(colors, wanted, strict=True)]
            return {**views, f"{prefix}colors": np.stack(rows) if rows else np.empty((0, COLOR_ROW))}
        strong = out.get(f"{prefix}strong")
        if strong is None:
            strong = np.empty((len(wanted), *weak.shape), weak.dtype)
        for v, want in enumerate(wanted):
            if want:
                self.colored(weak, colors[v], strong[v])
            else:
                strong[v] = weak
        return {**views, f"{prefix}strong": strong}


class NaturalViews(Views):
    """Views of uint8 [H, W, 3]; settings: ViewConfig."""

    def placement(self, width: int, height: int, draws: Draws) -> Geometry:
        return draw_geometry(draws, self.config, width, height)

    def warped(self, image: Part, placement: Geometry, out: np.ndarray | None) -> np.ndarray:
        return placement.image(image, out)

    def colored(self, weak: np.ndarray, key: int, out: np.ndarray) -> None:
        draw_colors(Draws(key), self.config).apply(weak, out)

    def color_row(self, key: int, wanted: bool) -> np.ndarray:
        return (draw_colors(Draws(key), self.config) if wanted else UNCHANGED).row()
