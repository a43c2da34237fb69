import math

import pytest
import torch
from torch import Tensor

from unimatch.losses import (
    PseudoLabels,
    cross_entropy,
    cross_entropy_and_dice,
    dice_loss,
    masked_consistency,
    masked_dice,
)
from unimatch.taxonomy import IGNORE_INDEX


def literal_dice(logits: Tensor, labels: Tensor, kept: Tensor) -> float:
    """Pixel by pixel, in Python."""
    images, num_classes, height, width = logits.shape
    total = 0.0
    for c in range(num_classes):
        overlap = squares = truths = 0.0
        for b in range(images):
            for y in range(height):
                for x in range(width):
                    if not kept[b, y, x]:
                        continue
                    exps = [math.exp(v) for v in logits[b, :, y, x].tolist()]
                    p, t = exps[c] / sum(exps), float(labels[b, y, x] == c)
                    overlap, squares, truths = overlap + p * t, squares + p * p, truths + t * t
        total += 1 - (2 * overlap + 1e-5) / (squares + truths + 1e-5)
    return total / num_classes


@pytest.fixture
def sample() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator)
    labels = torch.randint(0, 4, (2, 5, 6), generator=generator)
    return logits, labels, torch.rand(2, 5, 6, generator=generator)


def test_equals_the_literal_version(sample: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, conf = sample
    everything = torch.ones_like(labels, dtype=torch.bool)
    assert dice_loss(logits, labels, everything).item() == pytest.approx(
        literal_dice(logits, labels, everything)
    )
    valid = everything.clone()
    valid[:, :, :2] = False
    expected = literal_dice(logits, labels, valid & (conf >= 0.4))
    assert masked_dice(logits, PseudoLabels(labels, conf, valid, 0.4)).item() == pytest.approx(expected)


def test_by_hand() -> None:
    """Two pixels, two classes: p = 0.8 and 0.4 for class 0, which is the truth of the first."""
    p = torch.tensor([[0.8, 0.4], [0.2, 0.6]]).view(1, 2, 1, 2)
    labels = torch.tensor([[[0, 1]]])
    first = 1 - 2 * 0.8 / (0.64 + 0.16 + 1)
    second = 1 - 2 * 0.6 / (0.04 + 0.36 + 1)
    found = dice_loss(p.log(), labels, torch.ones(1, 1, 2, dtype=torch.bool))
    assert found.item() == pytest.approx((first + second) / 2, abs=1e-5)


def test_supervised_is_the_mean_of_both_and_ignores_pixels(sample: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, _ = sample
    labels[0, 2:] = IGNORE_INDEX
    valid = labels != IGNORE_INDEX
    expected = (cross_entropy(logits, labels).item() + literal_dice(logits, labels, valid)) / 2
    assert cross_entropy_and_dice(logits, labels).item() == pytest.approx(expected)
    changed = torch.where(valid[:, None], logits, 100.0)
    torch.testing.assert_close(
        cross_entropy_and_dice(changed, labels), cross_entropy_and_dice(logits, labels)
    )


@pytest.mark.parametrize("why", ["invalid", "unsure", "ignored"])
def test_no_pixel_counts_gives_0_with_a_graph(sample: tuple[Tensor, Tensor, Tensor], why: str) -> None:
    logits, labels, conf = sample
    logits.requires_grad_()
    if why == "ignored":
        loss = cross_entropy_and_dice(logits, torch.full_like(labels, IGNORE_INDEX))
    else:
        valid = torch.full_like(labels, why == "unsure", dtype=torch.bool)
        loss = masked_dice(logits, PseudoLabels(labels, conf, valid, 2.0))
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None and bool((logits.grad == 0).all())


def test_a_class_that_is_nowhere_costs_nothing() -> None:
    logits = torch.tensor([40.0, -40.0, -40.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    assert dice_loss(logits, labels, labels == 0).item() == pytest.approx(0.0, abs=1e-6)


def test_half_precision_is_computed_in_fp32(sample: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, _ = sample
    large = logits.half().repeat(1, 1, 60, 60)  # sums beyond fp16's precision
    labels = labels.repeat(1, 60, 60)
    found = dice_loss(large, labels, labels >= 0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, dice_loss(large.double(), labels, labels >= 0).float())


def test_threshold_is_a_filter_not_a_weight(sample: tuple[Tensor, Tensor, Tensor]) -> None:
    """Few confident pixels make cross-entropy small, but not Dice."""
    logits, labels, conf = sample
    valid = torch.ones_like(labels, dtype=torch.bool)
    few = conf >= 0.9
    assert 0 < few.sum() < 10
    alone = literal_dice(logits, labels, few)
    pseudo = PseudoLabels(labels, conf, valid, 0.9)
    assert masked_dice(logits, pseudo).item() == pytest.approx(alone)
    assert masked_consistency(logits, pseudo) < cross_entropy(logits, labels) / 2
