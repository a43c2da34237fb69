"""From a network and whole images to class ids: in one pass, by sliding windows, or of the middle alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatch.errors import ConfigError
from unimatch.taxonomy import IGNORE_INDEX

WINDOWS_PER_PASS = 4  # bounds the memory of a sliding evaluation; the result does not depend on it
BAND_PIXELS = 1 << 24  # nor on this, but for sums in another order

Read = Callable[[int, int, int, int], Tensor]
"""The network's input [B, ..., C, h, w] at y, x of size h, w."""
Normalize = Callable[[Tensor], Tensor]
"""From images [B, ..., H, W, C] as decoded to what the network takes, [B, ..., C, H, W]."""

Mode = Literal["whole", "sliding", "centre"]
MODES: tuple[Mode, ...] = get_args(Mode)
Border = Literal["cut", "inside"]
BORDERS: tuple[Border, ...] = get_args(Border)


@dataclass
class EvaluateConfig:
    """How a whole image is predicted.

    mode: "whole" in one pass; "sliding" sums the softmax of overlapping windows; "centre" predicts the middle
        of the image and leaves the rest out of the metric.
    window: side of the windows or of the centre, in pixels; by default the training crop.
    stride: pixels from one window to the next in mode "sliding"; by default int(window * 2/3).
    border: what of windows that reach over the right or lower border. "cut": they are smaller, and every
        stride inside the image starts one (UniMatch); "inside": the last one is moved back, and all have one
        size (UniMatch V2), as a vision transformer needs it.
    multiple_of: in mode "whole", images are resized to the nearest multiple of this per side (halves up, at
        least one) and the logits back; 1 leaves them as they are. A vision transformer needs its patch size.
    """

    mode: Mode = "whole"
    window: int | None = None
    stride: int | None = None
    border: Border = "cut"
    multiple_of: int = 1

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 2:
            raise ConfigError(f"window must be at least 2 pixels, found {self.window}")
        if self.stride is not None and self.mode != "sliding":
            raise ConfigError(f"stride has no meaning with mode {self.mode!r}; use mode 'sliding'")
        if self.border != "cut" and self.mode != "sliding":
            raise ConfigError(f"border has no meaning with mode {self.mode!r}; use mode 'sliding'")
        if self.multiple_of < 1:
            raise ConfigError(f"multiple_of must be at least 1, found {self.multiple_of}")
        if self.window is not None and self.mode == "whole":
            raise ConfigError(
                "window has no meaning with mode 'whole'; use mode 'sliding' or 'centre', or leave it out"
            )
        if self.multiple_of != 1 and self.mode != "whole":
            raise ConfigError(
                f"multiple_of has no meaning with mode {self.mode!r}; use mode 'whole', or leave it out"
            )

    def changed(self, **changes: Any) -> EvaluateConfig:
        """The same with other settings. What is set for a mode is not kept for another one."""
        other = changes.get("mode", self.mode) != self.mode
        return EvaluateConfig(**changes) if other else replace(self, **changes)

    def windows(self, crop: int) -> tuple[int, int]:
        """Side and stride of the windows, with training crops of side `crop`. ConfigError: gaps between."""
        window = self.window or crop
        stride = int(window * 2 / 3) if self.stride is None else self.stride
        if not 1 <= stride <= window:
            raise ConfigError(
                f"stride must be from 1 to the window's {window} pixels, found {self.stride}: pixels between "
                "windows would have no class"
            )
        return window, stride


def starts(side: int, window: int, stride: int, border: str) -> list[int]:
    """Where windows start along a side, see EvaluateConfig.border."""
    if border == "cut":
        return list(range(0, side, stride))
    last = max(0, side - window)
    return [*range(0, last, stride), last]


def sliding_ids(
    net: nn.Module, read: Read, size: tuple[int, int], window: int, stride: int, border: str = "cut"
) -> Iterator[tuple[int, Tensor]]:
    """(y, uint8 [B, h, W]): class ids of the rows from y on, in bands from the top: those of the largest sum
    of `sliding_sums`.
    """
    for top, sums in sliding_sums(net, read, size, window, stride, border):
        yield top, sums.argmax(dim=1).to(torch.uint8)


def sliding_sums(
    net: nn.Module, read: Read, size: tuple[int, int], window: int, stride: int, border: str = "cut"
) -> Iterator[tuple[int, Tensor]]:
    """(y, float [B, K, h, W]): of the rows from y on, in bands from the top, the softmax summed over windows,
    which start at the top left in steps of `stride`.

    Windows of equal size share a pass. Sums are kept for a band of at most BAND_PIXELS, or of one row of
    windows, not for the whole image.
    """
    height, width = size
    tops, lefts = (starts(side, window, stride, border) for side in size)
    sums: Tensor | None = None  # [B, K, h, W] of rows that windows further down add to
    first = 0
    while first < len(tops):
        top, last = tops[first], first
        while last + 1 < len(tops) and (tops[last + 1] + window - top) * width <= BAND_PIXELS:
            last += 1
        end = min(height, tops[last] + window)
        done = tops[last + 1] if last + 1 < len(tops) else height  # no window further down has rows above
        total = _band(net, read, tops[first : last + 1], lefts, (end, width), window)
        if sums is not None:
            total[..., : sums.shape[-2], :] += sums
        yield top, total[..., : done - top, :]
        sums = total[..., done - top :, :].clone()
        del total
        first = last + 1


def _band(
    net: nn.Module, read: Read, tops: list[int], lefts: list[int], size: tuple[int, int], window: int
) -> Tensor:
    """float [B, K, h, W]: the softmax summed over the windows that start in the rows `tops`."""
    bottom, width = size
    corners: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for y in tops:
        for x in lefts:
            corners.setdefault((min(window, bottom - y), min(window, width - x)), []).append((y, x))
    total: Tensor | None = None
    for (h, w), places in corners.items():
        for start in range(0, len(places), WINDOWS_PER_PASS):
            group = places[start : start + WINDOWS_PER_PASS]
            crops = [read(y, x, h, w) for y, x in group]
            scores = net(torch.cat(crops))["logits"].float().softmax(dim=1)
            if total is None:
                total = scores.new_zeros(len(crops[0]), scores.shape[1], bottom - tops[0], width)
            for (y, x), score in zip(group, scores.split(len(crops[0])), strict=True):
                y -= tops[0]
                total[..., y : y + h, x : x + w] += score
    assert total is not None, "an image without pixels"
    return total


def resize(values: Tensor, size: tuple[int, int]) -> Tensor:
    """float [B, ..., H, W] with its last two axes resized to `size`, bilinear with aligned corners."""
    resized = F.interpolate(values.flatten(0, -4), size, mode="bilinear", align_corners=True)
    return resized.unflatten(0, values.shape[:-3])


Predicted = tuple[Tensor, Tensor | None]
"""(uint8 [B, H, W], class ids; float32 [B, H, W], the probabilities of these classes, if asked for)"""


def named(logits: Tensor, sure: bool) -> Predicted:
    """The classes of logits float [B, K, H, W]; sure: with their softmax."""
    best, ids = logits.max(dim=1)
    return ids.to(torch.uint8), (best - logits.logsumexp(dim=1)).exp() if sure else None


@torch.no_grad()
def predicted(
    net: nn.Module,
    image: Tensor,
    normalize: Normalize,
    config: EvaluateConfig,
    crop: int,
    sure: bool = False,
) -> Predicted:
    """The classes of images [B, ..., H, W, C] as decoded; IGNORE_INDEX outside the middle in mode "centre".
    Leaves `net` in eval mode.

    crop: the side of training crops.
    sure: with their probabilities, in mode "sliding" means over windows.
    """
    net.eval()
    if config.mode == "sliding":
        return _joined(image, _windows(net, image, normalize, config, crop), sure)
    logits, padding = _one_pass(net, image, normalize, config, crop)
    ids, conf = named(logits, sure)
    return (
        F.pad(ids, padding, value=IGNORE_INDEX) if any(padding) else ids,
        F.pad(conf, padding) if conf is not None and any(padding) else conf,
    )


@torch.no_grad()
def spread(
    net: nn.Module, image: Tensor, normalize: Normalize, config: EvaluateConfig, crop: int
) -> tuple[Tensor, Tensor]:
    """(the classes as `predicted` says, float32 [B, K, H, W]: the probabilities of all of them; 0 outside the
    middle in mode "centre").
    """
    net.eval()
    if config.mode == "sliding":
        parts = [
            (sums.argmax(dim=1).to(torch.uint8), sums / sums.sum(dim=1, keepdim=True))
            for _, sums in _windows(net, image, normalize, config, crop)
        ]
        return torch.cat([ids for ids, _ in parts], dim=1), torch.cat([one for _, one in parts], dim=2)
    logits, padding = _one_pass(net, image, normalize, config, crop)
    ids = F.pad(named(logits, sure=False)[0], padding, value=IGNORE_INDEX)
    return ids, F.pad(logits.softmax(dim=1), padding)


def _windows(
    net: nn.Module, image: Tensor, normalize: Normalize, config: EvaluateConfig, crop: int
) -> Iterator[tuple[int, Tensor]]:
    """`sliding_sums` of images of one size."""

    def read(y: int, x: int, h: int, w: int) -> Tensor:
        return normalize(image[..., y : y + h, x : x + w, :])

    size = (image.shape[-3], image.shape[-2])
    return sliding_sums(net, read, size, *config.windows(crop), config.border)


def _one_pass(
    net: nn.Module, image: Tensor, normalize: Normalize, config: EvaluateConfig, crop: int
) -> tuple[Tensor, tuple[int, int, int, int]]:
    """Logits float32 [B, K, h, w] of the whole images or of their middles, and the pixels left, right, above
    and below that they lack.
    """
    height, width = image.shape[-3:-1]
    if config.mode == "centre":
        window, _ = config.windows(crop)
        h, w = min(window, height), min(window, width)
        y, x = (height - h) // 2, (width - w) // 2
        middle = normalize(image[..., y : y + h, x : x + w, :])
        return net(middle)["logits"].float(), (x, width - w - x, y, height - h - y)

    values = normalize(image)
    if config.multiple_of == 1:
        return net(values)["logits"].float(), (0, 0, 0, 0)

    def multiple(side: int) -> int:
        return max(1, int(side / config.multiple_of + 0.5)) * config.multiple_of

    size = (multiple(height), multiple(width))
    if size != (height, width):
        values = resize(values, size)
    logits = net(values)["logits"].float()
    if size != (height, width):
        logits = resize(logits, (height, width))
    return logits, (0, 0, 0, 0)


def _joined(image: Tensor, bands: Iterator[tuple[int, Tensor]], sure: bool) -> Predicted:
    """Of the bands of `sliding_sums`, for images of one size."""
    labels = image.new_empty((len(image), *image.shape[-3:-1]), dtype=torch.uint8)
    conf = torch.empty(labels.shape, device=labels.device) if sure else None
    for top, sums in bands:
        rows = slice(top, top + sums.shape[2])
        best, ids = sums.max(dim=1)
        labels[:, rows] = ids.to(torch.uint8)
        if conf is not None:
            conf[:, rows] = best / sums.sum(dim=1)
    return labels, conf
