"""The colours of a strong view: what is drawn for one, and what is done to its pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from unimatch.keyed import Draws
from unimatch.views import bands, ops
from unimatch.views.allowed import check, check_p

ORDERS = tuple(permutations(ops.JITTER))
# A strong view's colours as numbers: four codes and four factors in the order of use, gray, sigma.
JITTER_CODES = {name: code for code, name in enumerate(ops.JITTER)}
NO_JITTER = -1
COLOR_ROW = 2 * len(JITTER_CODES) + 2
# Beyond it the 8-bit taps of ops.blur_kernel become too coarse.
MAX_SIGMA = 8.0


@dataclass(frozen=True)
class JitterConfig:
    """Colour jitter of a strong view, in random order; the defaults are the published ones."""

    p: float = 0.8  # probability that a strong view is jittered at all
    brightness: float = 0.5  # factor uniform in [1 - b, 1 + b], not below 0
    contrast: float = 0.5  # the same
    saturation: float = 0.5  # the same
    hue: float = 0.25  # turn uniform in [-h, h] of the full circle

    def __post_init__(self) -> None:
        check_p("jitter.p", self.p)
        for name in ("brightness", "contrast", "saturation"):
            check(getattr(self, name) >= 0, f"jitter.{name}", getattr(self, name), "0 or more")
        check(0 <= self.hue <= 0.5, "jitter.hue", self.hue, "0 to 0.5")


@dataclass(frozen=True)
class BlurConfig:
    """Gaussian blur of a strong view."""

    p: float = 0.5  # probability that a strong view is blurred
    sigma: tuple[float, float] = (0.1, 2.0)  # standard deviation in pixels, uniform in this range

    def __post_init__(self) -> None:
        check_p("blur.p", self.p)
        ok = 0 <= self.sigma[0] <= self.sigma[1] <= MAX_SIGMA
        check(ok, "blur.sigma", self.sigma, f"0 <= low <= high <= {MAX_SIGMA}")


@dataclass(frozen=True)
class Colors:
    """What is done to the colours of a strong view, in this order."""

    jitter: tuple[tuple[str, float], ...]  # names of ops.JITTER with their factor
    gray: bool
    sigma: float | None  # of the blur; None for no blur

    def apply(self, image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 [H, W, 3] of the same, written to `out` if it is given; `image` itself where there is nothing
        to do and no `out`. Other images than RGB of 8 bits: as `bands.recolored`.
        """
        if not bands.is_rgb(image.shape[-1], image.dtype):
            made = bands.recolored(image, self.jitter, self.sigma)
            if out is None:
                return made
            out[...] = made
            return out
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


def draw_colors(draws: Draws, strength: JitterConfig, gray: float, blur: BlurConfig) -> Colors:
    """Jitter with its four factors in random order, grayscale and blur, each with its own probability."""
    jitter: tuple[tuple[str, float], ...] = ()
    if draws.bool(strength.p):
        order = ORDERS[draws.integer(0, len(ORDERS))]
        factors = {"hue": draws.uniform(-strength.hue, strength.hue)}
        for name in ("brightness", "contrast", "saturation"):
            spread = getattr(strength, name)
            factors[name] = draws.uniform(max(0.0, 1.0 - spread), 1.0 + spread)
        jitter = tuple((name, factors[name]) for name in order)
    greyed = draws.bool(gray)
    sigma = draws.uniform(*blur.sigma) if draws.bool(blur.p) else None
    return Colors(jitter, greyed, sigma)
