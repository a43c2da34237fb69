import math

import pytest
import torch

from unimatch.metrics import Calibration, ConfusionMatrix
from unimatch.taxonomy import IGNORE_INDEX


def test_hand_counts_with_an_absent_class_and_ignored_pixels():
    metric = ConfusionMatrix(4)
    label = torch.tensor([[[0, 0, 1, 1], [2, 2, IGNORE_INDEX, IGNORE_INDEX]]], dtype=torch.uint8)
    prediction = torch.tensor([[[0, 1, 1, 1], [2, 0, 0, 1]]], dtype=torch.uint8)
    metric.update(prediction, label)
    assert metric.counts.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    iou = metric.iou().tolist()
    assert iou[:3] == pytest.approx([1 / 3, 2 / 3, 1 / 2])
    assert math.isnan(iou[3])
    assert metric.miou() == pytest.approx(0.5)
    assert metric.accuracy() == pytest.approx(4 / 6)


def test_a_class_that_is_only_predicted_counts_as_zero():
    metric = ConfusionMatrix(3)
    metric.update(torch.tensor([0, 2]), torch.tensor([0, 0]))
    assert metric.iou()[0] == 0.5 and metric.iou()[2] == 0.0 and math.isnan(metric.iou()[1])
    assert metric.miou() == pytest.approx(0.25)


def test_figures_come_from_sums_over_images_not_from_means_of_images():
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 5, (2, 3 + i, 4), generator=generator) for i in range(4)]
    metric, halves = ConfusionMatrix(5), [ConfusionMatrix(5), ConfusionMatrix(5)]
    for i, (prediction, label) in enumerate(images):
        metric.update(prediction, label)
        halves[i % 2].update(prediction, label)
    assert torch.equal(metric.counts, halves[0].counts + halves[1].counts)
    for k in range(5):
        intersection = sum(int(((p == k) & (y == k)).sum()) for p, y in images)
        union = sum(int(((p == k) | (y == k)).sum()) for p, y in images)
        assert float(metric.iou()[k]) == pytest.approx(intersection / union)
    right = sum(int((p == y).sum()) for p, y in images)
    assert metric.accuracy() == pytest.approx(right / sum(y.numel() for _, y in images))


def test_no_counted_pixel_gives_nan_and_an_ignored_prediction_is_left_out():
    metric = ConfusionMatrix(2)
    metric.update(torch.zeros(1, 2, 2, dtype=torch.int64), torch.full((1, 2, 2), IGNORE_INDEX))
    metric.update(torch.full((1, 2, 2), IGNORE_INDEX), torch.zeros(1, 2, 2, dtype=torch.int64))
    assert int(metric.counts.sum()) == 0
    assert math.isnan(metric.miou()) and math.isnan(metric.accuracy())


def test_the_largest_taxonomy_does_not_overflow_uint8():
    metric = ConfusionMatrix(255)
    metric.update(torch.tensor([253], dtype=torch.uint8), torch.tensor([254], dtype=torch.uint8))
    assert int(metric.counts[254, 253]) == 1


def test_an_id_out_of_range_is_not_counted_somewhere_else():
    with pytest.raises(AssertionError, match="class id above 1"):
        ConfusionMatrix(2).update(torch.tensor([0]), torch.tensor([2]))


def test_the_calibration_error_by_hand():
    """Two of three pixels of 0.9 are right, one of one of 0.5; ignored pixels count nowhere."""
    found = Calibration()
    prediction = torch.tensor([[[0, 0, 1, 1, 2, 2]]])
    label = torch.tensor([[[0, 0, 2, 1, IGNORE_INDEX, 2]]])
    conf = torch.tensor([[[0.9, 0.9, 0.9, 0.5, 0.9, 1.0]]])
    found.update(prediction, conf, label)
    expected = (abs(2 - 3 * 0.9) + abs(1 - 0.5) + 0.0) / 5
    assert found.error() == pytest.approx(expected, rel=1e-5)
    other = Calibration()
    other.update(prediction[..., :2], conf[..., :2], label[..., :2])
    rest = Calibration()
    rest.update(prediction[..., 2:], conf[..., 2:], label[..., 2:])
    assert torch.equal(other.state + rest.state, found.state), "parts add up, exactly"
    assert math.isnan(Calibration().error())
