"""How far two class maps agree, image by image."""

from __future__ import annotations

import torch
from torch import Tensor


def confusions(reference: Tensor, labels: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """float [B, K, K]: valid pixels of each image by class in the reference and in `labels`."""
    places = (reference * num_classes + labels).flatten(1)
    table = torch.zeros(len(labels), num_classes**2, device=labels.device)
    return table.scatter_add_(1, places, valid.flatten(1).float()).unflatten(1, (num_classes, num_classes))


def weighted_iou(table: Tensor, left_out: int | None) -> Tensor:
    """[B]: the mean of the classes' IoU, weighed by their pixels in the reference, of tables [B, K, K]; 0
    where there are none.
    """
    truth, found = table.sum(2), table.sum(1)
    hits = table.diagonal(dim1=1, dim2=2)
    iou = hits / (truth + found - hits).clamp(min=1)
    if left_out is not None:
        truth = truth.clone()
        truth[:, left_out] = 0
    return (iou * truth).sum(1) / truth.sum(1).clamp(min=1)
