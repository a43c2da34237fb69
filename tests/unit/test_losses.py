import math

import pytest
import torch

from unimatch.errors import ConfigError
from unimatch.losses import (
    LossConfig,
    PseudoLabels,
    cross_entropy,
    masked_consistency,
    ohem_cross_entropy,
    supervised_loss,
)
from unimatch.taxonomy import IGNORE_INDEX


def random_logits(seed: int = 0, shape: tuple[int, ...] = (2, 3, 4, 5)) -> torch.Tensor:
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_labels(seed: int = 1, ignored: float = 0.3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator)
    return labels.masked_fill(torch.rand(2, 4, 5, generator=generator) < ignored, IGNORE_INDEX)


def probability(logits: torch.Tensor, b: int, y: int, x: int, label: int) -> float:
    """The softmax of one pixel, by hand."""
    values = [math.exp(float(logits[b, k, y, x])) for k in range(logits.shape[1])]
    return values[label] / sum(values)


def pixels(labels: torch.Tensor) -> list[tuple[int, int, int]]:
    return [tuple(place) for place in (labels != IGNORE_INDEX).nonzero().tolist()]


def test_cross_entropy_is_the_mean_over_labelled_pixels():
    logits, labels = random_logits(), random_labels()
    slow = [-math.log(probability(logits, *place, int(labels[place]))) for place in pixels(labels)]
    assert 0 < len(slow) < labels.numel()
    assert float(cross_entropy(logits, labels)) == pytest.approx(sum(slow) / len(slow), rel=1e-6)


@pytest.mark.parametrize(
    ("threshold", "min_kept"), [(0.7, 1), (0.1, 5), (0.0, 3), (0.5, 1000), (1.0, 1), (0.2, 14)]
)
def test_ohem_keeps_the_pixels_of_its_definition(threshold, min_kept):
    logits, labels = random_logits(), random_labels()
    true = sorted(probability(logits, *place, int(labels[place])) for place in pixels(labels))
    wanted = min_kept * len(labels)
    if wanted > len(true):
        kept = true
    else:
        limit = max(threshold, true[wanted - 1])
        kept = [p for p in true if p <= limit + 1e-9]
    slow = sum(-math.log(p) for p in kept) / len(kept)
    assert float(ohem_cross_entropy(logits, labels, threshold, min_kept)) == pytest.approx(slow, rel=1e-5)


def test_ohem_keeps_every_pixel_where_the_quota_is_exactly_their_number():
    logits, labels = random_logits(), random_labels(ignored=0.0)
    ohem = ohem_cross_entropy(logits, labels, 0.0, labels[0].numel())
    torch.testing.assert_close(ohem, cross_entropy(logits, labels))


@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.95, 1.0])
def test_consistency_divides_by_valid_pixels_not_by_kept_ones(threshold):
    logits, labels = random_logits(), random_labels(ignored=0.0)
    generator = torch.Generator().manual_seed(5)
    conf, valid = (
        torch.rand(labels.shape, generator=generator),
        torch.rand(labels.shape, generator=generator) < 0.7,
    )
    conf[0, 0, 0], valid[0, 0, 0] = 0.6, True
    total = 0.0
    for place in pixels(labels):
        if valid[place] and conf[place] >= torch.tensor(threshold):
            total -= math.log(probability(logits, *place, int(labels[place])))
    expected = total / int(valid.sum())
    assert float(masked_consistency(logits, PseudoLabels(labels, conf, valid, threshold))) == pytest.approx(
        expected, rel=1e-6
    )


def test_a_confidence_equal_to_the_threshold_is_kept():
    logits, labels = torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64)
    conf, valid = torch.full((1, 1, 1), 0.75), torch.ones(1, 1, 1, dtype=torch.bool)
    equal, above = (PseudoLabels(labels, conf, valid, threshold) for threshold in (0.75, 0.76))
    assert float(masked_consistency(logits, equal)) == pytest.approx(math.log(2))
    assert float(masked_consistency(logits, above)) == 0.0


@pytest.mark.parametrize(
    "loss",
    [
        lambda logits, labels: cross_entropy(logits, labels),
        lambda logits, labels: ohem_cross_entropy(logits, labels, 0.7, 3),
        lambda logits, labels: masked_consistency(
            logits, PseudoLabels(labels.clamp(max=2), torch.ones(labels.shape), labels != IGNORE_INDEX, 0.5)
        ),
    ],
    ids=["ce", "ohem", "consistency"],
)
def test_no_pixel_at_all_gives_zero_and_a_zero_gradient(loss):
    logits = random_logits().requires_grad_()
    value = loss(logits, torch.full((2, 4, 5), IGNORE_INDEX))
    value.backward()
    assert float(value.detach()) == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_losses_of_half_precision_logits_are_computed_in_fp32():
    logits, labels = random_logits().bfloat16(), random_labels()
    for config in (LossConfig("ce"), LossConfig("ohem", 0.7, 2)):
        value = supervised_loss(config, logits, labels)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, supervised_loss(config, logits.float(), labels))
    pseudo = PseudoLabels(labels.clamp(max=2), torch.ones(labels.shape), labels != IGNORE_INDEX, 0.5)
    value = masked_consistency(logits, pseudo)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, masked_consistency(logits.float(), pseudo))


def test_the_configuration_chooses_the_loss_and_refuses_nonsense():
    logits, labels = random_logits(), random_labels()
    assert supervised_loss(LossConfig("ce"), logits, labels) == cross_entropy(logits, labels)
    ohem = LossConfig("ohem", 0.3, 2)
    assert supervised_loss(ohem, logits, labels) == ohem_cross_entropy(logits, labels, 0.3, 2)
    assert supervised_loss(ohem, logits, labels) != cross_entropy(logits, labels)
    with pytest.raises(ConfigError, match="ohem_threshold"):
        LossConfig("ohem", ohem_threshold=1.5)
    with pytest.raises(ConfigError, match="ohem_min_kept_per_image"):
        LossConfig("ohem", ohem_min_kept_per_image=0)
