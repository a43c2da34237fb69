"""The masks of an unlabelled micro-batch, made on the device from the rectangles that the views come with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unimatch.mixing import paste, swap_pairs

AREA = "area_"  # how the names of the arrays of Extra.areas begin


@dataclass
class Masks:
    """The masks of the unlabelled half, all bool [B, H, W]."""

    valid: Tensor
    boxes: tuple[Tensor, ...]
    partner_valid: Tensor
    mixed_valid: tuple[Tensor, ...]
    areas: dict[str, Tensor]


def rectangle_mask(rectangle: Tensor, height: int, width: int) -> Tensor:
    """bool [..., height, width]: True inside integer rectangles [..., 4], (x0, y0, x1, y1), ends excluded."""
    x0, y0, x1, y1 = rectangle[..., None].unbind(-2)
    y = torch.arange(height, device=rectangle.device)
    x = torch.arange(width, device=rectangle.device)
    return ((y >= y0) & (y < y1))[..., :, None] & ((x >= x0) & (x < x1))[..., None, :]


def draw_masks(arrays: dict[str, Tensor], device: torch.device) -> Masks:
    """The masks of the unlabelled arrays of a raw micro-batch, on the device."""
    height, width = arrays["weak"].shape[-3:-1]

    def mask(name: str) -> Tensor:
        return rectangle_mask(arrays[name].to(device, non_blocking=True), height, width)

    valid, boxes = mask("content"), _joined(mask("boxes")).unbind(1)
    # No partner among the arrays: it is the neighbour in the batch.
    partner_valid = mask("partner_content") if "partner_content" in arrays else swap_pairs(valid)
    mixed_valid = tuple(paste(valid, partner_valid, box) for box in boxes)
    areas = {name.removeprefix(AREA): mask(name).any(1) for name in arrays if name.startswith(AREA)}
    return Masks(valid, boxes, partner_valid, mixed_valid, areas)


def _joined(boxes: Tensor) -> Tensor:
    """[B, V, H, W]: the box of each view, of more than one [B, V, n, H, W] all of them."""
    return boxes.any(2) if boxes.ndim == 5 else boxes


def valid_pixels(arrays: dict[str, Tensor]) -> list[Tensor]:
    """int64 scalars: valid pixels of the weak and of each mixed strong view of a raw micro-batch.

    From the rectangles alone: a mixed view is valid outside its box where the image is, and inside where the
    partner is.
    """
    valid = arrays["content"]
    partner = arrays["partner_content"] if "partner_content" in arrays else swap_pairs(valid)
    counts = [_area(valid).sum()]
    if arrays["boxes"].ndim == 4:  # several to a view, which may overlap
        size = arrays["weak"].shape[-3:-1]
        own, other = rectangle_mask(valid, *size), rectangle_mask(partner, *size)
        boxes = _joined(rectangle_mask(arrays["boxes"], *size)).unbind(1)
        return [*counts, *(paste(own, other, box).sum() for box in boxes)]
    for box in arrays["boxes"].unbind(1):
        outside = _area(valid) - _area(_overlap(valid, box))
        counts.append((outside + _area(_overlap(partner, box))).sum())
    return counts


def _area(rectangle: Tensor) -> Tensor:
    """int64 [B]: pixels inside rectangles [B, 4]; 0 where an end does not lie behind its start."""
    x0, y0, x1, y1 = rectangle.long().unbind(-1)
    return (x1 - x0).clamp(min=0) * (y1 - y0).clamp(min=0)


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Rectangles [B, 4] of the pixels inside both."""
    return torch.cat([torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])], dim=1)
