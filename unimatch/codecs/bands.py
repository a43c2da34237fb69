"""What the channels of an image are where it is no photograph: which bands of the files they were, how their
values were scaled, and how three of them are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

WIDTH_SHOWN = 2.0  # deviations from the mean, on each side, that a picture spans from black to white


@dataclass(frozen=True)
class Bands:
    """The channels of a set's images, in their order.

    order: of each channel the band in the files, from 1. names: what the files call it, or "".
    ranges: of each channel the values that became 0 and the largest one; those outside were clipped.
    depth: bits a channel, 8 or 16. show: the places of three channels in `order`, for red, green and blue.
    nodata: the value in files that means that nothing was measured, beside what the files say themselves.
    count, numbers: how many bands the files have, and of which type, such as "uint16".
    mean, std: of each channel, of values from 0 to 1; empty before they were measured.
    """

    order: tuple[int, ...]
    names: tuple[str, ...]
    ranges: tuple[tuple[float, float], ...]
    depth: int
    show: tuple[int, ...]
    nodata: float | None = None
    count: int = 0
    numbers: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8 if self.depth == 8 else np.uint16)

    @property
    def white(self) -> int:
        """The largest value of a channel."""
        return (1 << self.depth) - 1

    @property
    def is_rgb(self) -> bool:
        """Whether operations on hue and saturation apply: three channels of 8 bits."""
        return len(self.order) == 3 and self.depth == 8

    def describe(self) -> str:
        """Such as "4 channels of 8 bits (bands 4, 3, 2, 8)"."""
        return f"{len(self.order)} channels of {self.depth} bits (bands {', '.join(map(str, self.order))})"

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value != ()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Bands:
        found = {each.name: content[each.name] for each in fields(cls) if each.name in content}
        listed = {name: _tuples(value) for name, value in found.items() if isinstance(value, list)}
        return cls(**{**found, **listed})

    def measured(self, sums: np.ndarray) -> Bands:
        """The same with mean and deviation of `sums`, see `sums_of`; as it is where there are no pixels."""
        count, total, squares = np.asarray(sums, np.float64)
        if not count.all():
            return self
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
        return replace(self, mean=tuple((mean / self.white).tolist()), std=tuple((std / self.white).tolist()))

    def stored(self, values: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, int]:
        """uint8 or uint16 [h, w, C] of numbers [C, h, w] as in the files, and how many of them were clipped.

        Pixels that are not `valid` (bool [h, w]) become 0.
        """
        result = np.empty((*values.shape[1:], len(values)), self.dtype)
        clipped = 0
        for channel, (plane, (low, high)) in enumerate(zip(values, self.ranges, strict=True)):
            known = np.where(valid, plane, low).astype(np.float64)
            clipped += int(((known < low) | (known > high)).sum())
            scaled = (np.clip(known, low, high) - low) * (self.white / (high - low))
            result[..., channel] = np.where(valid, np.rint(scaled), 0)
        return result, clipped

    def picture(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] of an image as stored, [H, W, C]: the channels to show, each between two deviations
        below and above its mean.
        """
        shown = list(self.show)
        values = image[..., shown].astype(np.float32) / self.white
        if self.mean:
            mean, std = (np.asarray(each, np.float32)[shown] for each in (self.mean, self.std))
            values = (values - mean) / np.maximum(std, 1e-6) / (2 * WIDTH_SHOWN) + 0.5
        return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def default_show(channels: int) -> tuple[int, ...]:
    """The first three channels; of fewer the last one again."""
    return tuple(min(place, channels - 1) for place in range(3))


def sums_of(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """float64 [3, C]: of the valid pixels of [h, w, C] their number, sum and sum of squares a channel."""
    inside = image[valid].astype(np.float64)
    count = np.full(image.shape[-1], len(inside), np.float64)
    return np.stack([count, inside.sum(axis=0), (inside**2).sum(axis=0)])


def _tuples(value: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(_tuples(each) if isinstance(each, list) else each for each in value)
