"""Connected components of class maps, by torch operations whose number does not depend on the maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ROUNDS = 24  # a component that winds more often than this may count as several


def largest_components(labels: Tensor, num_classes: int) -> Tensor:
    """Labels int64 [B, H, W] in which each class but 0 has only its largest component, of pixels that touch
    at a side or a corner; the others become 0. Of two that are as large one stays.
    """
    ids = components(labels)
    flat, classes = ids.flatten(1), labels.flatten(1)
    pixels = torch.zeros_like(flat).scatter_add_(1, flat, torch.ones_like(flat))
    rank = pixels.gather(1, flat) * flat.shape[1] + flat  # by size, then by number
    best = rank.new_zeros(len(labels), num_classes).scatter_reduce_(1, classes, rank, "amax")
    kept = (rank == best.gather(1, classes)).view_as(labels)
    return torch.where(kept, labels, 0)


def components(labels: Tensor) -> Tensor:
    """int64 [B, H, W]: the largest place of each pixel's component.

    In turns a number runs through whole rows and columns of one class, and steps over corners.
    """
    ids = torch.arange(labels[0].numel(), device=labels.device).view_as(labels[0]).expand_as(labels)
    rows, columns = _runs(labels), _runs(labels.transpose(1, 2))
    for _ in range(ROUNDS):
        ids = _spread(ids, rows)
        ids = _spread(ids.transpose(1, 2), columns).transpose(1, 2)
        ids = _over_corners(ids, labels)
    return ids


def _runs(labels: Tensor) -> Tensor:
    """int64 [B, H, W]: the number of each pixel's run in its row."""
    changes = (labels[..., 1:] != labels[..., :-1]).long().cumsum(-1)
    return F.pad(changes, (1, 0))


def _spread(ids: Tensor, runs: Tensor) -> Tensor:
    """Each pixel gets the largest number of its run."""
    largest = torch.zeros_like(ids).scatter_reduce(-1, runs, ids, "amax")
    return largest.gather(-1, runs)


def _over_corners(ids: Tensor, labels: Tensor) -> Tensor:
    height, width = labels.shape[1:]
    padded, classes = F.pad(ids, (1, 1, 1, 1)), F.pad(labels, (1, 1, 1, 1), value=-1)
    for y in (0, 2):
        for x in (0, 2):
            part = slice(None), slice(y, y + height), slice(x, x + width)
            ids = torch.maximum(ids, torch.where(classes[part] == labels, padded[part], 0))
    return ids
