"""Strong views by some operations of a list, drawn at random: names, laws and pixels.

One definition in torch for the workers, an image at a time, and for the device, a batch at a time, so the two
differ by the rounding of a device's sums alone. Values stay on whole grey levels after every operation; the
operations are Pillow's, to a level. What means something for RGB of 8 bits only (hue, colour, equalize) is
passed over for other images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unimatch.keyed import Draws
from unimatch.views import bands
from unimatch.views.on_device import blur_kernels, blur_radius, blurred, hue_turned, luma

MOST = 3  # operations of a view
OP_ROW = 2 * MOST
LARGEST_SIGMA = 2.0
NUDGE = 1e-3  # a whole number stays one when it is rounded down
Op = Callable[[Tensor, Tensor, float], Tensor]


def _mixed(image: Tensor, other: Tensor, factor: Tensor, white: float) -> Tensor:
    """factor * image + (1 - factor) * other, rounded down as Pillow does."""
    return (other + factor * (image - other) + NUDGE).floor().clamp(0.0, white)


def _autocontrast(image: Tensor, factor: Tensor, white: float) -> Tensor:
    low, high = image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True)
    span = high - low
    return torch.where(span > 0, ((image - low) * white / span.clamp(min=1.0) + NUDGE).floor(), image)


def _equalize(image: Tensor, factor: Tensor, white: float) -> Tensor:
    levels = image.long().flatten(2)  # [N, C, H * W]
    counts = image.new_zeros(*levels.shape[:2], 256).scatter_add_(2, levels, image.new_ones(levels.shape))
    used = torch.arange(256, device=image.device) * (counts > 0)
    last = counts.gather(2, used.amax(2, keepdim=True))
    step = ((counts.sum(2, keepdim=True) - last) / 255.0).floor()
    before = counts.cumsum(2) - counts
    table = (((step / 2).floor() + before) / step.clamp(min=1.0) + NUDGE).floor().clamp(max=255.0)
    return torch.where(step[..., None] > 0, table.gather(2, levels).view_as(image), image)


def _contrast(image: Tensor, factor: Tensor, white: float) -> Tensor:
    grey = luma(image) if image.shape[1] == bands.RGB else image
    mean = (grey.mean((1, 2, 3), keepdim=True, dtype=torch.float64) + 0.5).floor().float()
    return _mixed(image, mean, factor, white)


def _sharpness(image: Tensor, factor: Tensor, white: float) -> Tensor:
    kernel = image.new_tensor([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]])
    channels = image.shape[1]
    smooth = F.conv2d(image, kernel.expand(channels, 1, 3, 3), groups=channels)
    smooth = (smooth / 13.0 + 0.5 + NUDGE).floor()
    other = image.clone()  # the border stays
    other[..., 1:-1, 1:-1] = smooth
    return _mixed(image, other, factor, white)


def _posterize(image: Tensor, factor: Tensor, white: float) -> Tensor:
    step = (white + 1.0) / 2.0**factor
    return (image / step).floor() * step


def _solarize(image: Tensor, factor: Tensor, white: float) -> Tensor:
    return torch.where(image < factor * (white + 1.0), image, white - image)


def _blur(image: Tensor, factor: Tensor, white: float) -> Tensor:
    return blurred(image.contiguous(), blur_kernels(factor.flatten(), blur_radius(LARGEST_SIGMA)))


OPS: dict[str, Op] = {
    "identity": lambda image, factor, white: image,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "blur": _blur,
    "contrast": _contrast,
    "brightness": lambda image, factor, white: _mixed(image, torch.zeros_like(image), factor, white),
    "color": lambda image, factor, white: _mixed(image, luma(image).expand_as(image), factor, white),
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "hue": lambda image, factor, white: hue_turned(image, (factor * 256.0).round().squeeze(1)),
    "invert": lambda image, factor, white: white - image,
}
OF_RGB = {"equalize", "color", "hue"}
CODES = {name: code for code, name in enumerate(OPS)}  # of the identity: 0
FACTORS = {"blur": (0.1, LARGEST_SIGMA), "posterize": (4.0, 8.0), "hue": (-0.5, 0.5), "solarize": (0.0, 1.0)}


@dataclass(frozen=True)
class OpList:
    """Which operations, how many of them (both ends included), and the law of each factor, uniform."""

    names: tuple[str, ...]
    count: tuple[int, int]
    low: float  # of contrast, brightness, color and sharpness; at most 0.95

    def law(self, name: str) -> tuple[float, float]:
        if name in ("contrast", "brightness", "color", "sharpness"):
            return self.low, 0.95
        return FACTORS.get(name, (0.0, 0.0))


LISTS = {
    "augseg": OpList(tuple(OPS)[:-1], (1, 3), 0.05),
    "imas": OpList(tuple(OPS), (2, 2), 0.1),
}
Drawn = tuple[tuple[str, float], ...]  # names of OPS with their factors, in the order of use


def draw_ops(draws: Draws, name: str) -> Drawn:
    """Operations of a list, with replacement."""
    chosen = LISTS[name]
    found = []
    for _ in range(draws.integer(chosen.count[0], chosen.count[1] + 1)):
        op = chosen.names[draws.integer(0, len(chosen.names))]
        factor = draws.uniform(*chosen.law(op))
        found.append((op, float(int(factor)) if op == "posterize" else factor))  # whole bits
    return tuple(found)


def row(drawn: Drawn) -> np.ndarray:
    """float64 [OP_ROW]: codes, then factors; 0 is the identity."""
    codes, factors = np.zeros(MOST), np.zeros(MOST)
    for place, (name, factor) in enumerate(drawn):
        codes[place], factors[place] = CODES[name], factor
    return np.concatenate([codes, factors])


def apply(weak: np.ndarray, drawn: Drawn, out: np.ndarray) -> None:
    """Writes an image [H, W, C] of 8 or 16 bits after these operations to `out`."""
    image = torch.from_numpy(np.ascontiguousarray(weak))[None]
    made = _changed(image, torch.from_numpy(row(drawn))[None], {name for name, _ in drawn})
    out[...] = made[0].permute(1, 2, 0).numpy()


@torch.no_grad()
def listed_views(weak: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
    """V of float32 [B, C, H, W], whole numbers from 0: `weak` [B, H, W, C] after the operations of rows,
    float64 [B, V, OP_ROW] on the same device. fp32 under autocast too.

    Nothing waits for the device: it computes every operation for every image, and takes what the rows say.
    """
    with torch.autocast(weak.device.type, enabled=False):
        return tuple(_changed(weak, each, OPS) for each in rows.unbind(1)) if rows.shape[1] else ()


def _changed(weak: Tensor, rows: Tensor, names: Iterable[str]) -> Tensor:
    white = 255.0 if weak.dtype == torch.uint8 else 65535.0
    image = weak.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    left_out = set() if bands.is_rgb(image.shape[1], weak.dtype) else OF_RGB
    for place in range(MOST):
        code, factor = (rows[:, index].float().view(-1, 1, 1, 1) for index in (place, MOST + place))
        start = image
        for name in names:
            if CODES[name] and name not in left_out:
                image = torch.where(code == CODES[name], OPS[name](start, factor, white), image)
    return image
