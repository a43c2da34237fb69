"""The views of photographs: their settings, and a crop and colours for each key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from unimatch.codecs.part import Part
from unimatch.keyed import Draws
from unimatch.views import op_lists
from unimatch.views.allowed import check, check_p
from unimatch.views.base import Views
from unimatch.views.box import BoxConfig
from unimatch.views.colors import UNCHANGED, BlurConfig, Colors, JitterConfig, draw_colors
from unimatch.views.crop import Geometry, draw_geometry


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
        check(self.crop >= 1, "crop", self.crop, "1 or more")
        check(0 < self.scale[0] <= self.scale[1], "scale", self.scale, "0 < low <= high")
        check_p("flip", self.flip)
        check_p("gray", self.gray)

    def on_device(self, has_accelerator: bool) -> bool:
        """Whether the device makes the strong views of a run that has an accelerator, or has none."""
        return self.device == "accelerator" or (self.device == "auto" and has_accelerator)


class NaturalViews(Views):
    """Views of uint8 RGB [H, W, 3], or of bands [H, W, C] of 8 or 16 bits; settings: ViewConfig."""

    def placement(self, width: int, height: int, draws: Draws) -> Geometry:
        return draw_geometry(draws, width, height, self.config.crop, self.config.scale, self.config.flip)

    def warped(self, image: Part, placement: Geometry, out: np.ndarray | None) -> np.ndarray:
        return placement.image(image, out)

    def colored(self, weak: np.ndarray, key: int, out: np.ndarray) -> None:
        if self.extra.ops:
            op_lists.apply(weak, op_lists.draw_ops(Draws(key), self.extra.ops), out)
        else:
            self._colors(key).apply(weak, out)

    def color_row(self, key: int, wanted: bool) -> np.ndarray:
        if self.extra.ops:
            return op_lists.row(op_lists.draw_ops(Draws(key), self.extra.ops) if wanted else ())
        return (self._colors(key) if wanted else UNCHANGED).row()

    def _colors(self, key: int) -> Colors:
        return draw_colors(Draws(key), self.config.jitter, self.config.gray, self.config.blur)
