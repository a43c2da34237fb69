"""The masks of an unlabelled micro-batch, made on the device from the rectangles that the views come with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unimatch.mixing import swap_pairs

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
    content, boxes = arrays["content"], arrays["boxes"]
    # No partner among the arrays: it is the neighbour in the batch.
    partner = arrays["partner_content"] if "partner_content" in arrays else swap_pairs(content)
    names = [name for name in arrays if name.startswith(AREA)]
    rows = [content[:, None], partner[:, None], boxes.flatten(1, -2), *(arrays[name] for name in names)]
    # All at once: a rectangle is a dozen launches, whatever the number of them.
    drawn = rectangle_mask(torch.cat(rows, 1).transpose(0, 1).to(device, non_blocking=True), height, width)
    own, other, boxed, *areas = drawn.split([row.shape[1] for row in rows])
    if boxes.ndim == 4:  # several to a view
        boxed = boxed.unflatten(0, boxes.shape[1:3]).any(1)
    return Masks(
        valid=own[0],
        boxes=boxed.unbind(0),
        partner_valid=other[0],
        mixed_valid=torch.where(boxed, other, own).unbind(0),
        areas={name.removeprefix(AREA): area.any(0) for name, area in zip(names, areas, strict=True)},
    )


def draw_areas(arrays: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The rectangles of Extra.labeled_areas among labelled arrays, bool [B, H, W] by name."""
    height, width = arrays["image"].shape[-3:-1]
    return {
        name.removeprefix(AREA): rectangle_mask(rows.to(device, non_blocking=True), height, width).any(1)
        for name, rows in arrays.items()
        if name.startswith(AREA)
    }


def valid_pixels(arrays: dict[str, Tensor]) -> list[int]:
    """Valid pixels of the weak and of each mixed strong view of a raw micro-batch, on the CPU.

    From the rectangles alone: a mixed view is valid outside its box where the image is, and inside where the
    partner is.
    """
    if arrays["boxes"].ndim == 4:  # several to a view, which may overlap
        masks = draw_masks(arrays, torch.device("cpu"))
        return [int(mask.sum()) for mask in (masks.valid, *masks.mixed_valid)]
    content, boxes = arrays["content"], arrays["boxes"].numpy()  # [B, V, 4]
    partner = arrays["partner_content"] if "partner_content" in arrays else swap_pairs(content)
    own, other = content.numpy()[:, None], partner.numpy()[:, None]
    whole = _area(own)
    mixed = whole - _area(_overlap(own, boxes)) + _area(_overlap(other, boxes))
    return [int(whole.sum()), *mixed.sum(0).tolist()]


def _area(rectangle: np.ndarray) -> np.ndarray:
    """int64 [...]: pixels inside rectangles [..., 4]; 0 where an end does not lie behind its start."""
    sides = rectangle[..., 2:].astype(np.int64) - rectangle[..., :2]
    return np.maximum(sides, 0).prod(-1)


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rectangles [..., 4] of the pixels inside both."""
    return np.concatenate([np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])], -1)
