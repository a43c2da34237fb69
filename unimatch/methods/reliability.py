"""Certain and uncertain pixels, and the contrast of classes between them (U2PL, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unimatch.data.sample import Labeled
from unimatch.methods.base import Group
from unimatch.methods.contrast import Queues, contrast, sample
from unimatch.methods.parts import resized
from unimatch.taxonomy import IGNORE_INDEX

ANCHORS, NEGATIVES = 256, 50  # of a class; of an anchor
KEYS = 256  # of a class that enter its queue, from each process's micro-batch
ANCHOR_CONFIDENCE, TEMPERATURE = 0.3, 0.5


@dataclass
class Sorted:
    """Labelled, then unlabelled pixels [B, H, W] by how sure the teacher is of them."""

    labels: Tensor  # of the labels, then pseudo-labels; IGNORE_INDEX where there is none
    certain: Tensor  # labelled, or of low entropy
    uncertain: Tensor  # unlabelled and of high entropy, or labelled
    num_labeled: int

    @staticmethod
    def of(x: Labeled, target: Tensor, valid: Tensor, entropies: Tensor, percent: float) -> Sorted:
        """entropies: of both halves; the lowest `percent` of the valid unlabelled ones are low, the highest
        are high.
        """
        known = torch.where(valid, entropies[len(x.label) :], torch.nan)
        quantiles = torch.tensor([percent, 100.0 - percent], device=known.device) / 100.0
        low, high = torch.nanquantile(known.flatten(), quantiles).unbind()
        marked = x.label != IGNORE_INDEX
        return Sorted(
            torch.cat([x.label, torch.where(valid, target, IGNORE_INDEX)]),
            torch.cat([marked, known <= low]),
            torch.cat([marked, known >= high]),
            len(x.label),
        )

    def unlabeled(self, mask: Tensor) -> Tensor:
        return mask[self.num_labeled :]

    def smaller(self, size: torch.Size) -> Sorted:
        """At another size, by the nearest pixel."""

        def nearest(values: Tensor) -> Tensor:
            return F.interpolate(values[:, None].float(), size=tuple(size), mode="nearest")[:, 0]

        certain, uncertain = (nearest(each) > 0.5 for each in (self.certain, self.uncertain))
        return Sorted(nearest(self.labels).long(), certain, uncertain, self.num_labeled)


def class_contrast(
    vectors: Tensor,
    theirs: Tensor,
    probability: Tensor,
    found: Sorted,
    ranks: tuple[int, int],
    queues: Queues,
    group: Group,
) -> Tensor:
    """The mean over classes that have anchors and negatives, a scalar; fills the queues first.

    vectors: [B, D, h, w] of the student, with a graph; theirs: of the teacher; probability: [B, K, H, W] of
    the teacher. A class's anchors are certain pixels of it that the teacher gives more than 0.3; its positive
    is the teacher's mean vector of its certain pixels; its negatives are labelled pixels of other classes
    that rank it below ranks[0] (0 is the likeliest), and uncertain pixels that rank it from ranks[0] to below
    ranks[1].
    """
    found, probability = found.smaller(vectors.shape[-2:]), resized(probability, vectors.shape[-2:])
    rank = probability.argsort(1, descending=True).argsort(1)
    is_labeled = torch.zeros_like(found.certain)
    is_labeled[: found.num_labeled] = True
    flat, target = (each.movedim(1, -1).flatten(0, 2) for each in (vectors, theirs))
    keys, kept, anchors, taken, positive = [], [], [], [], []
    for number in range(probability.shape[1]):
        own = found.labels == number
        hard = found.uncertain & is_labeled & ~own & (rank[:, number] < ranks[0])
        outside = (rank[:, number] >= ranks[0]) & (rank[:, number] < ranks[1])
        hard |= found.uncertain & ~is_labeled & outside
        places, used = sample(hard.flatten(), KEYS)
        keys.append(target[places])
        kept.append(used)
        certain = (own & found.certain).flatten()
        # Drawn with weights, not by an index: a class without pixels has a positive of zeros, and no anchor.
        positive.append((target * certain[:, None]).sum(0) / certain.sum().clamp(min=1))
        sure = certain & (probability[:, number] > ANCHOR_CONFIDENCE).flatten()
        places, used = sample(sure, ANCHORS)
        anchors.append(flat[places])
        taken.append(used)
    every = group.gather(torch.stack(keys, 1)), group.gather(torch.stack(kept, 1).float())
    queues.push(every[0].movedim(1, 0), every[1].movedim(1, 0) > 0.5)
    drawn, filled = queues.draw(len(anchors[0]), NEGATIVES)
    assert queues.features is not None
    total, present = vectors.sum() * 0.0, torch.zeros((), device=vectors.device)
    for number, used in enumerate(taken):
        losses = contrast(
            anchors[number],
            positive[number][None],
            queues.features[number],
            TEMPERATURE,
            places=drawn[number],
        )
        counts = used.any() & filled[number]
        total = total + (losses * used).sum() / used.sum().clamp(min=1) * counts
        present = present + counts
    return total / present.clamp(min=1)
