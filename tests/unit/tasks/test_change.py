"""The change task: batches of pairs, figures by hand, pictures, and a network for pairs."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.change_set import CHANGES, pair
from tests.support.sheets import tiles_of
from unimatch.codecs.picture import scaled
from unimatch.codecs.sheet import GAP, TILE, tile_side
from unimatch.errors import ConfigError
from unimatch.methods.base import ViewNeeds
from unimatch.metrics import ConfusionMatrix
from unimatch.tasks import TASKS, ChangeTask, ChangeTaskConfig
from unimatch.tasks.prediction import EvaluateConfig
from unimatch.taxonomy import IGNORE_INDEX, Taxonomy
from unimatch.views.change import ChangeViewConfig

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
CPU = torch.device("cpu")
SIDE = 16


def make_task(**evaluate) -> ChangeTask:
    config = ChangeTaskConfig(ChangeViewConfig(crop=SIDE), evaluate=EvaluateConfig(**evaluate))
    return ChangeTask(config, CHANGES, MEAN, STD)


def raw_micro(partner: str | None, size: int = 4) -> dict:
    """What the loader would give; some pairs are smaller than the crop."""
    transform = make_task().transform(ViewNeeds(2, partner, True))
    labeled, unlabeled = [], []
    for key in range(size):
        images, label = pair(key, 14 + key, 20)
        other = pair(50 + key, 20, 15)[0] if partner == "shuffled" else None
        labeled.append(transform.labeled(images, label, key) | {"noise_key": np.int64(key)})
        unlabeled.append(transform.unlabeled(images, 100 + key, other) | {"noise_key": np.int64(key)})

    def stack(samples: list[dict]) -> dict:
        return {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}

    return {"labeled": stack(labeled), "unlabeled": stack(unlabeled) if partner else None}


def normalized(image: torch.Tensor) -> torch.Tensor:
    """[B, 2, H, W, 3] -> [B, 2, 3, H, W], date by date and channel by channel."""
    result = torch.empty(*image.shape[:2], 3, *image.shape[2:4])
    for date, channel in itertools.product(range(2), range(3)):
        result[:, date, channel] = (image[:, date, ..., channel] / 255.0 - MEAN[channel]) / STD[channel]
    return result


@pytest.mark.parametrize("partner", ["same", "shuffled", "batch"])
def test_batches_have_an_axis_of_dates_and_masks_have_none(partner):
    raw = raw_micro(partner)
    batch = make_task().to_device(raw, CPU)
    x, u = batch.labeled, batch.unlabeled
    assert x.image.shape == (4, 2, 3, SIDE, SIDE) and x.label.shape == (4, SIDE, SIDE)
    torch.testing.assert_close(x.image, normalized(raw["labeled"]["image"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(u.weak, normalized(raw["unlabeled"]["weak"]), rtol=0, atol=1e-5)
    for v in range(2):
        expected = normalized(raw["unlabeled"]["strong"][:, v])
        torch.testing.assert_close(u.strong[v], expected, rtol=0, atol=1e-5)
        assert u.boxes[v].shape == u.mixed_valid[v].shape == u.valid.shape == (4, SIDE, SIDE)
        if partner == "batch":
            torch.testing.assert_close(u.partner.strong[v], expected[[1, 0, 3, 2]], rtol=0, atol=1e-5)
    assert u.partner.weak.shape == u.weak.shape and not u.valid.all()
    # Each date of each image lies in memory as convolutions like it.
    assert x.image.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    counts = make_task().pixel_counts(raw)
    masks = [x.label != IGNORE_INDEX, u.valid, *u.mixed_valid]
    assert counts == [int(mask.sum()) for mask in masks], "pixels are counted once, not once a date"


def confusion(table) -> ConfusionMatrix:
    metric = ConfusionMatrix(2)
    metric.counts = torch.tensor(table)
    return metric


def test_figures_by_hand():
    # 50 unchanged found, 10 false alarms, 5 missed, 35 changed found.
    found = make_task().figures(confusion([[50, 10], [5, 35]]))
    assert found["iou_changed"] == pytest.approx(35 / 50)
    assert found["f1"] == pytest.approx(70 / 85)
    assert found["precision"] == pytest.approx(35 / 45)
    assert found["recall"] == pytest.approx(35 / 40)
    assert found["accuracy"] == pytest.approx(85 / 100)
    assert found["iou"] == pytest.approx({"unchanged": 50 / 65, "changed": 35 / 50})
    assert found["f1"] == pytest.approx(2 * 35 / 45 * 35 / 40 / (35 / 45 + 35 / 40))
    assert ChangeTask.headline == next(iter(found))


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ([[9, 0], [0, 0]], (None, None, None, None, 1.0)),  # no change anywhere: 0/0 throughout
        ([[7, 2], [0, 0]], (0.0, 0.0, 0.0, None, 7 / 9)),  # only false alarms: nothing to recall
        ([[7, 0], [2, 0]], (0.0, 0.0, None, 0.0, 7 / 9)),  # all missed: nothing to be precise about
        ([[0, 0], [0, 0]], (None, None, None, None, None)),  # every pixel ignored
        ([[0, 0], [0, 5]], (1.0, 1.0, 1.0, 1.0, 1.0)),
    ],
)
def test_figures_where_something_is_absent(table, expected):
    found = make_task().figures(confusion(table))
    names = ("iou_changed", "f1", "precision", "recall", "accuracy")
    assert tuple(found[name] for name in names) == pytest.approx(expected)
    assert found["iou"]["changed"] == (None if expected[0] is None else pytest.approx(expected[0]))


def test_figures_come_from_the_sums_of_the_set_not_from_means_over_images():
    task = make_task()
    truth = torch.tensor([[[1, 1, 1, 1]], [[0, 0, 0, 1]], [[0, 0, 0, IGNORE_INDEX]]])
    said = torch.tensor([[[1, 1, 1, 0]], [[1, 0, 0, 0]], [[0, 0, 0, 1]]])
    metric = task.metric()
    for one, other in zip(said, truth, strict=True):
        metric.update(one[None], other[None], ["x"])
    assert task.figures(metric)["iou_changed"] == pytest.approx(3 / 6)  # not (3/4 + 0/2 [+ 0/0]) / n
    assert metric.counts.sum() == 11


class DifferenceNet(nn.Module):
    """Says "changed" where the dates differ; refuses to be asked in train mode or with gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, image, perturb=None):
        assert not self.training and not torch.is_grad_enabled()
        self.sizes.append(tuple(image.shape))
        difference = (image[:, 0] - image[:, 1]).abs().sum(1)
        return {"logits": torch.stack([torch.full_like(difference, 0.5), difference], dim=1)}


@pytest.mark.parametrize(
    ("settings", "size"),
    [({}, (20, 30)), ({"mode": "sliding", "window": 9}, None), ({"multiple_of": 7}, (21, 28))],
)
def test_predictions_take_both_dates_in_every_mode(settings, size):
    images, _ = pair(3, 20, 30)
    images[1] = images[0]
    images[1, 5:12, 8:20] = 255 - images[0, 5:12, 8:20] // 2
    net = DifferenceNet().train()
    labels = make_task(**settings).predict(net, torch.from_numpy(images)[None])
    truth = torch.zeros(1, 20, 30, dtype=torch.uint8)
    truth[:, 5:12, 8:20] = 1
    assert labels.dtype == torch.uint8 and labels.shape == truth.shape and not net.training
    wrong = (labels != truth).sum()
    assert wrong == 0 if "multiple_of" not in settings else wrong < 40  # the border is resized
    if size:
        assert net.sizes == [(1, 2, 3, *size)]
    else:
        assert len(net.sizes) > 1


def test_the_middle_alone():
    images, _ = pair(3, 20, 30)
    labels = make_task(mode="centre").predict(DifferenceNet(), torch.from_numpy(images)[None])
    assert (labels[:, 2:18, 7:23] != IGNORE_INDEX).all() and (labels == IGNORE_INDEX).sum() == 20 * 30 - 256


def test_sheets_show_both_dates_and_mark_changes_alone():
    task = make_task()
    raw = raw_micro("same", size=5)
    sheets = task.pictures(DifferenceNet().train(), task.to_device(raw, CPU))
    side = tile_side(6)  # dates, truth and prediction on each
    assert side == TILE and 6 * (side + GAP) < sheets["labeled"].shape[1] < 6 * (side + GAP) + 20
    small = tile_side(9)  # 2 weak, 2 x 2 strong, 2 labels, confidence
    assert 9 * (small + GAP) < sheets["unlabeled"].shape[1] < 9 * (small + GAP) + 20
    for row, tiles in enumerate(tiles_of(sheets["labeled"], 4, 6, side)):
        label = np.kron(raw["labeled"]["label"][row].numpy(), np.ones((side // SIDE,) * 2, int))
        for date in range(2):
            image = scaled(raw["labeled"]["image"][row, date].numpy(), side)
            assert np.array_equal(tiles[date], image)
            assert np.array_equal(tiles[2 + date][label == 0], image[label == 0]), "unchanged stays as it is"
            marked = image[label == 1] / 2 + np.array(CHANGES.colors[1]) / 2
            assert np.abs(tiles[2 + date][label == 1] - marked).max(initial=0) <= 1


def test_the_task_is_for_two_classes_and_pairs():
    entry = TASKS["change"]
    assert entry.cls is ChangeTask and entry.config is ChangeTaskConfig and ChangeTask.dates == 2
    with pytest.raises(ConfigError, match="two classes apart.*the shards have 3"):
        ChangeTask(ChangeTaskConfig(ChangeViewConfig(crop=8)), Taxonomy.of(["a", "b", "c"]), MEAN, STD)
    assert make_task().blank(4, 6).shape == (2, 4, 6, 3)
