"""CutMix on tensors: pasting a partner into a box, and the partner beside an image in its own batch.

A leaf, because both sides need it: a method mixes images and pseudo-labels, a task mixes the masks whose
pixels it counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def paste(image: Tensor, partner: Tensor, box: Tensor) -> Tensor:
    """`image` with `partner` inside the box.

    image, partner: [B, ..., H, W] with any axes between (none for labels and masks, C for an image, two dates
    and C ...);
    box: bool [B, H, W], the same for all of them.
    """
    box = box.view(len(box), *[1] * (image.ndim - 3), *box.shape[-2:])
    return torch.where(box, partner, image)


def joined(images: Sequence[Tensor]) -> Tensor:
    """[B, ..., C, H, W] of several batches, one after another. Each image lies in memory as it did
    (channels_last), also where it has two dates, of which torch.cat alone would change the order.
    """
    inner = images[0].shape[1:-3]
    return torch.cat([image.flatten(0, -4) for image in images]).unflatten(0, (-1, *inner))


def swap_pairs(values: Tensor) -> Tensor:
    """[B, ...] with neighbours exchanged, 0 <-> 1, 2 <-> 3, ...; an odd last one stays, paired with itself.

    A pair never crosses a micro-batch of even size, so the partner of an image does not depend on the number
    of processes; a partner taken by reversing or rolling the batch would.
    """
    order = torch.arange(len(values), device=values.device) ^ 1
    return values[order.clamp_(max=len(values) - 1)]
