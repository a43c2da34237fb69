"""One scene: what its parts share."""

from __future__ import annotations

import numpy as np

from unimatch import keyed
from unimatch.packing.scenes.canvas import Canvas
from unimatch.packing.scenes.classes import COMMON, PAINTS, SKY, USUAL


class Scene:
    """One scene: the draws, the camera and the light that its objects share."""

    def __init__(self, key: int, height: int, width: int) -> None:
        self.draws = keyed.Draws(key)
        self.key = key
        self.canvas = Canvas(height, width, keyed.key(key, 1))
        self.height, self.width = height, width
        draws = self.draws
        self.horizon = height * draws.uniform(0.3, 0.6)
        self.sky_color = self.color(SKY)
        self.haze = draws.uniform(0.2, 0.6) if draws.bool(0.25) else 0.0
        self.shapes = 0

    def color(self, class_id: int) -> np.ndarray:
        """float32 [3]: one of the class's usual paints, now and then any other, shifted a little."""
        paints = USUAL[class_id] if self.draws.bool(0.95) else COMMON
        base = PAINTS[paints[self.draws.integer(0, len(paints))]]
        shift = [self.draws.uniform(-16, 16) for _ in range(3)]
        return np.clip(base * self.draws.uniform(0.75, 1.2) + shift, 8, 250).astype(np.float32)

    def hazed(self, depth: float) -> tuple[float, np.ndarray]:
        """Haze at a depth in [0, 1], where 1 is the horizon."""
        return self.haze * depth, self.sky_color

    def wobble(self, amount: float) -> np.ndarray:
        """float64 [24]: radii around 1, smoothed so that a crown looks grown rather than broken."""
        self.shapes += 1
        raw = 1 + amount * (keyed.uniform(keyed.key(self.key, 2, self.shapes), 24) * 2 - 1)
        return (np.roll(raw, 1) + raw + np.roll(raw, -1)) / 3

    def texture(self, *limits: float) -> tuple[float, ...]:
        return tuple(self.draws.uniform(0, limit) for limit in limits)
