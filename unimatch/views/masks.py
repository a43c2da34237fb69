"""The masks of an unlabelled micro-batch, made on the device from the rectangles that the views come with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unimatch.mixing import swap_pairs


@dataclass
class Masks:
    """The masks of the unlabelled half, all bool [B, H, W]."""

    valid: Tensor
    boxes: tuple[Tensor, ...]
    partner_valid: Tensor
    mixed_valid: tuple[Tensor, ...]


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
    # All at once: a rectangle is a dozen launches, whatever the number of them.
    rectangles = torch.cat([content[None], partner[None], boxes.transpose(0, 1)])
    drawn = rectangle_mask(rectangles.to(device, non_blocking=True), height, width)
    valid, partner_valid, boxed = drawn[0], drawn[1], drawn[2:]
    mixed_valid = torch.where(boxed, partner_valid, valid)
    return Masks(valid, boxed.unbind(0), partner_valid, mixed_valid.unbind(0))


def valid_pixels(arrays: dict[str, Tensor]) -> list[int]:
    """Valid pixels of the weak and of each mixed strong view of a raw micro-batch, on the CPU.

    From the rectangles alone: a mixed view is valid outside its box where the image is, and inside where the
    partner is.
    """
    content = arrays["content"]
    partner = arrays["partner_content"] if "partner_content" in arrays else swap_pairs(content)
    own, other = content.numpy()[:, None], partner.numpy()[:, None]  # [B, 1, 4]
    boxes = arrays["boxes"].numpy()  # [B, V, 4]
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
