"""Mixing that needs predictions, or none of the boxes of strong views."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from unimatch.data.sample import Labeled, Unlabeled
from unimatch.methods.ops import keyed_uniform, paste, swap_pairs
from unimatch.taxonomy import IGNORE_INDEX

Mix = Literal["cutmix", "classmix", "cutout"]


def class_mix(labels: Tensor, key: Tensor, num_classes: int) -> Tensor:
    """bool [B, H, W]: the pixels of half of the classes of each image, rounded down, drawn by its key (Olsson
    et al., ClassMix, WACV 2021).
    """
    classes = torch.arange(num_classes, device=labels.device)
    present = (labels.flatten(1)[..., None] == classes).any(1)  # [B, K]
    draws = torch.where(present, keyed_uniform(key, num_classes), 2.0)
    rank = draws.argsort(1).argsort(1)
    chosen = rank < (present.sum(1, keepdim=True) // 2)
    return chosen.gather(1, labels.flatten(1)).view_as(labels)


def labelled_classes(
    x: Labeled, u: Unlabeled, share: float, num_classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(image, label, bool [B, H, W]): for each unlabelled image a labelled crop, its label, and of its
    labelled pixels half of the classes; drawn by the unlabelled image's key, nothing but for a share of them.
    """
    count = len(u.weak)
    # In proportion, so that the pairs do not depend on how a batch is cut into micro-batches.
    donor = torch.arange(count, device=x.label.device) * len(x.label) // count
    label = x.label[donor]
    known = label != IGNORE_INDEX
    area = class_mix(label.masked_fill(~known, num_classes), u.noise_key + 1, num_classes + 1) & known
    area &= (keyed_uniform(u.noise_key + 2, 1)[:, 0] < share)[:, None, None]
    return x.image[donor], label, area


def with_neighbour(
    u: Unlabeled, labels: Tensor, mix: Mix | None, num_classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(image, labels, valid) of weak views with a part of their neighbour: inside the area "mix", or of half
    of its classes; or without that area, where nothing counts then. None: as they are.
    """
    if mix is None:
        return u.weak, labels, u.valid
    box = u.areas["mix"]
    if mix == "cutout":
        return paste(u.weak, torch.zeros_like(u.weak), box), labels, u.valid & ~box
    if mix == "classmix":
        box = class_mix(swap_pairs(labels), u.noise_key, num_classes)
    image, target, valid = (paste(each, swap_pairs(each), box) for each in (u.weak, labels, u.valid))
    return image, target, valid
