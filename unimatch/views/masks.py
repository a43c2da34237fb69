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


def spans(arrays: dict[str, np.ndarray], side: int) -> np.ndarray:
    """bool [R, 2, side]: the columns and the rows that each rectangle of an unlabelled sample covers.

    In the order of content, partner_content (if it has one), boxes, areas. Masks of many images are products
    of these: made by the workers, they spare the training a dozen launches.
    """
    names = ["content", "partner_content", "boxes", *(name for name in arrays if name.startswith(AREA))]
    corners = np.concatenate([arrays[name].reshape(-1, 2, 2, 1) for name in names if name in arrays])
    line = np.arange(side)
    return (line >= corners[:, 0]) & (line < corners[:, 1])


def draw_masks(arrays: dict[str, Tensor], device: torch.device) -> Masks:
    """The masks of the unlabelled arrays of a raw micro-batch, on the device."""
    columns, rows = arrays["spans"].to(device, non_blocking=True).transpose(0, 1).unbind(2)
    own, *drawn = (rows[..., :, None] & columns[..., None, :]).unbind()
    # No partner among the arrays: it is the neighbour in the batch.
    other = drawn.pop(0) if "partner_content" in arrays else swap_pairs(own)

    def union(name: str) -> Tensor:
        """Of the next rectangles, which are those of the last but one axis of an array."""
        several = [drawn.pop(0) for _ in range(arrays[name].shape[-2])]
        return torch.stack(several).any(0)

    views = range(arrays["boxes"].shape[1])
    boxes = [union("boxes") if arrays["boxes"].ndim == 4 else drawn.pop(0) for _ in views]
    return Masks(
        valid=own,
        boxes=tuple(boxes),
        partner_valid=other,
        mixed_valid=tuple(torch.where(box, other, own) for box in boxes),
        areas={name.removeprefix(AREA): union(name) for name in arrays if name.startswith(AREA)},
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
