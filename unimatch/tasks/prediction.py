"""From a network and whole images to class ids: in one pass, by sliding windows, or of the middle alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatch.errors import ConfigError
from unimatch.taxonomy import IGNORE_INDEX

WINDOWS_PER_PASS = 4  # bounds the memory of a sliding evaluation; the result does not depend on it


@dataclass
class EvaluateConfig:
    """How a whole image is predicted.

    mode: "whole" in one pass; "sliding" sums the softmax of overlapping windows; "centre" predicts the middle
        of the image and leaves the rest out of the metric.
    window: side of the windows or of the centre, in pixels; by default the training crop.
    multiple_of: in mode "whole", images are resized to the nearest multiple of this per side (halves up, at
        least one) and the logits back; 1 leaves them as they are. A vision transformer needs its patch size.
    """

    mode: Literal["whole", "sliding", "centre"] = "whole"
    window: int | None = None
    multiple_of: int = 1

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 2:
            raise ConfigError(f"window must be at least 2 pixels, found {self.window}")
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


def sliding_softmax(net: nn.Module, image: Tensor, window: int) -> Tensor:
    """float [B, K, H, W]: the softmax summed over windows, from the top left in steps of int(window * 2/3).

    Windows that reach over the right or lower border are cut off there, not moved inside, and every step
    inside the image starts one, as in the released evaluation. Windows of equal size share a pass.
    """
    height, width = image.shape[-2:]
    step = int(window * 2 / 3)
    corners: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for y in range(0, height, step):
        for x in range(0, width, step):
            corners.setdefault((min(window, height - y), min(window, width - x)), []).append((y, x))
    total: Tensor | None = None
    for (h, w), places in corners.items():
        for start in range(0, len(places), WINDOWS_PER_PASS):
            group = places[start : start + WINDOWS_PER_PASS]
            crops = torch.cat([image[..., y : y + h, x : x + w] for y, x in group])
            scores = net(crops)["logits"].float().softmax(dim=1)
            if total is None:
                total = scores.new_zeros(len(image), scores.shape[1], height, width)
            for (y, x), score in zip(group, scores.split(len(image)), strict=True):
                total[..., y : y + h, x : x + w] += score
    assert total is not None, "an image without pixels"
    return total


def resize(values: Tensor, size: tuple[int, int]) -> Tensor:
    """float [B, ..., H, W] with its last two axes resized to `size`, bilinear with aligned corners."""
    resized = F.interpolate(values.flatten(0, -4), size, mode="bilinear", align_corners=True)
    return resized.unflatten(0, values.shape[:-3])


@torch.no_grad()
def class_ids(net: nn.Module, values: Tensor, config: EvaluateConfig, window: int) -> Tensor:
    """uint8 [B, H, W]: class ids of normalised images [B, ..., C, H, W]; IGNORE_INDEX outside the middle in
    mode "centre". Leaves `net` in eval mode.

    window: side of the windows or of the middle, where the settings do not say it.
    """
    net.eval()
    height, width = values.shape[-2:]
    window = config.window or window
    if config.mode == "sliding":
        return sliding_softmax(net, values, window).argmax(dim=1).to(torch.uint8)
    if config.mode == "centre":
        h, w = min(window, height), min(window, width)
        y, x = (height - h) // 2, (width - w) // 2
        labels = values.new_full((len(values), height, width), IGNORE_INDEX, dtype=torch.uint8)
        middle = net(values[..., y : y + h, x : x + w])["logits"].argmax(dim=1)
        labels[:, y : y + h, x : x + w] = middle.to(torch.uint8)
        return labels

    def multiple(side: int) -> int:
        return max(1, int(side / config.multiple_of + 0.5)) * config.multiple_of

    size = (multiple(height), multiple(width))
    if size != (height, width):
        values = resize(values, size)
    logits = net(values)["logits"].float()
    if size != (height, width):
        logits = resize(logits, (height, width))
    return logits.argmax(dim=1).to(torch.uint8)
