import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.sheets import tiles_of
from unimatch.codecs.picture import hatching, scaled
from unimatch.codecs.sheet import GAP, TILE
from unimatch.errors import ConfigError
from unimatch.losses import LossConfig, PseudoLabels
from unimatch.methods.base import ViewNeeds
from unimatch.tasks import TASKS, NaturalTask, NaturalTaskConfig, prediction
from unimatch.tasks.prediction import EvaluateConfig
from unimatch.taxonomy import IGNORE_INDEX, Taxonomy
from unimatch.views.masks import rectangle_mask
from unimatch.views.natural import ViewConfig

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
TAXONOMY = Taxonomy.of(["road", "sky", "tree"])
CPU = torch.device("cpu")
SIDE = 16


def make_task(crop: int = SIDE, loss: LossConfig | None = None, **evaluate) -> NaturalTask:
    config = NaturalTaskConfig(ViewConfig(crop=crop), loss or LossConfig(), EvaluateConfig(**evaluate))
    return NaturalTask(config, TAXONOMY, MEAN, STD)


def raw_micro(partner: str | None, size: int = 4, views: int = 2, on_device: bool = False) -> dict:
    """What the loader would give: views of random images, some smaller than the crop."""
    generator = np.random.default_rng(0)
    transform = make_task().transform(ViewNeeds(views, partner, True), on_device)
    labeled, unlabeled = [], []
    for key in range(size):
        image, other = generator.integers(0, 256, (2, 14 + key, 20, 3), np.uint8)
        label = generator.integers(0, 3, image.shape[:2], np.uint8)
        label[:5] = IGNORE_INDEX
        labeled.append(transform.labeled(image, label, key) | {"noise_key": np.int64(-key)})
        shuffled = other if partner == "shuffled" else None
        unlabeled.append(transform.unlabeled(image, 100 + key, shuffled) | {"noise_key": np.int64(key)})

    def stack(samples: list[dict]) -> dict:
        return {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}

    return {"labeled": stack(labeled), "unlabeled": stack(unlabeled) if partner else None}


def slow_mask(rectangle) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    x0, y0, x1, y1 = (int(value) for value in rectangle)
    mask[y0:y1, x0:x1] = True
    return mask


def slow_normalize(image: torch.Tensor) -> np.ndarray:
    values = (image.numpy() / 255.0 - np.array(MEAN)) / np.array(STD)
    return np.moveaxis(values, -1, -3)


def close(found: torch.Tensor, expected: np.ndarray) -> bool:
    return found.dtype == torch.float32 and np.allclose(found.numpy(), expected, rtol=0, atol=1e-5)


def test_rectangles_become_masks():
    generator = np.random.default_rng(0)
    corners = np.sort(generator.integers(0, SIDE + 1, (5, 3, 2, 2)), axis=2)  # (low, high) x (x, y)
    rectangles = corners.reshape(5, 3, 4).astype(np.int32)
    rectangles[0, 0] = 0  # an empty box
    rectangles[0, 1] = (0, 0, SIDE, SIDE)
    masks = rectangle_mask(torch.from_numpy(rectangles), SIDE, SIDE)
    assert masks.dtype == torch.bool and masks.shape == (5, 3, SIDE, SIDE)
    for b in range(5):
        for v in range(3):
            assert np.array_equal(masks[b, v].numpy(), slow_mask(rectangles[b, v]))
    wide = rectangle_mask(torch.tensor([[1, 0, 5, 2]]), 3, 7)
    assert wide.int().tolist() == [[[0, 1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0, 0], [0] * 7]]


@pytest.mark.parametrize("partner", ["same", "shuffled", "batch"])
def test_to_device_agrees_with_masks_drawn_by_hand(partner):
    raw = raw_micro(partner)
    arrays = raw["unlabeled"]

    task = make_task()
    pixels = torch.tensor(task.pixel_counts(raw))
    batch = task.to_device(raw, CPU, pixels / 7)
    x, u = batch.labeled, batch.unlabeled
    assert close(x.image, slow_normalize(raw["labeled"]["image"]))
    assert x.image.is_contiguous(memory_format=torch.channels_last)
    assert x.label.dtype == torch.int64 and np.array_equal(x.label.numpy(), raw["labeled"]["label"].numpy())
    assert x.noise_key.tolist() == [0, -1, -2, -3] and u.noise_key.tolist() == [0, 1, 2, 3]

    valid = np.stack([slow_mask(rectangle) for rectangle in arrays["content"]])
    neighbour = [1, 0, 3, 2]
    other = {
        "weak": arrays["weak"][neighbour], "strong": arrays["strong"][neighbour], "valid": valid[neighbour]
    } if partner == "batch" else {
        "weak": arrays["partner_weak"], "strong": arrays["partner_strong"],
        "valid": np.stack([slow_mask(rectangle) for rectangle in arrays["partner_content"]]),
    }  # fmt: skip
    assert not valid.all() and not other["valid"].all(), "some image must be padded"
    assert u.partner_in_batch == (partner == "batch")
    assert close(u.weak, slow_normalize(arrays["weak"])) and np.array_equal(u.valid.numpy(), valid)
    assert close(u.partner.weak, slow_normalize(other["weak"]))
    assert np.array_equal(u.partner.valid.numpy(), other["valid"])
    counts = [int((raw["labeled"]["label"] != IGNORE_INDEX).sum()), int(valid.sum())]
    some_box = False
    for v in range(2):
        box = np.stack([slow_mask(rectangle) for rectangle in arrays["boxes"][:, v]])
        some_box = some_box or box.any()
        mixed_valid = np.where(box, other["valid"], valid)
        assert close(u.strong[v], slow_normalize(arrays["strong"][:, v]))
        assert close(u.partner.strong[v], slow_normalize(other["strong"][:, v]))
        assert np.array_equal(u.boxes[v].numpy(), box) and np.array_equal(
            u.mixed_valid[v].numpy(), mixed_valid
        )
        counts.append(int(mixed_valid.sum()))
    assert some_box
    assert pixels.tolist() == counts
    shares = [x.share, u.share, *u.mixed_share]
    assert [float(share) for share in shares] == pytest.approx([count / 7 for count in counts])


def test_padding_is_zero_before_normalisation():
    u = make_task().to_device(raw_micro("same"), CPU).unlabeled
    black = -torch.tensor(MEAN) / torch.tensor(STD)
    assert torch.allclose(u.weak.permute(0, 2, 3, 1)[~u.valid], black, atol=1e-6)


def test_without_unlabelled_views_and_without_shares():
    raw = raw_micro(None)
    batch = make_task().to_device(raw, CPU)
    assert batch.unlabeled is None and float(batch.labeled.share) == 1.0
    assert len(make_task().pixel_counts(raw)) == 1
    batch = make_task().to_device(raw_micro("batch"), CPU)
    assert [float(s) for s in (batch.unlabeled.share, *batch.unlabeled.mixed_share)] == [1.0] * 3


class PixelNet(nn.Module):
    """Logits that depend on a pixel's surroundings and on the size of the input, so that windows matter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 5, padding=2)
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, image, perturb=None):
        assert not self.training and not torch.is_grad_enabled()
        self.sizes.append(tuple(image.shape))
        return {"logits": 3 * self.conv(image) + image.mean((2, 3), keepdim=True)}


def some_images(height: int, width: int) -> torch.Tensor:
    values = torch.randint(
        0, 256, (2, 3, height // 4 + 1, width // 4 + 1), generator=torch.Generator().manual_seed(1)
    )
    smooth = F.interpolate(values.float(), (height, width), mode="bilinear", align_corners=True)
    return smooth.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def agree(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal, but for pixels where rounding decides between two classes."""
    assert found.dtype == torch.uint8 and found.shape == expected.shape
    assert len(expected.unique()) > 1
    assert float((found != expected).double().mean()) < 0.002


def test_whole_image():
    task, net, image = make_task(), PixelNet().train(), some_images(13, 22)
    labels = task.predict(net, image)
    with torch.no_grad():
        agree(labels, net(torch.from_numpy(slow_normalize(image)).float())["logits"].argmax(1))


@pytest.mark.parametrize(
    ("height", "width", "size"), [(13, 22, (14, 28)), (20, 21, (14, 28)), (3, 35, (14, 42))]
)
def test_whole_image_at_the_nearest_multiple(height, width, size):
    task, net, image = make_task(multiple_of=14), PixelNet(), some_images(height, width)
    labels = task.predict(net, image)
    assert net.sizes == [(2, 3, *size)]
    with torch.no_grad():
        values = torch.from_numpy(slow_normalize(image)).float()
        values = F.interpolate(values, size, mode="bilinear", align_corners=True)
        logits = F.interpolate(net(values)["logits"], (height, width), mode="bilinear", align_corners=True)
    agree(labels, logits.argmax(1))


@pytest.mark.parametrize(
    ("height", "width", "window"), [(23, 37, 9), (12, 12, 12), (7, 9, 12), (16, 33, 16), (9, 5, 2)]
)
def test_sliding_windows_agree_with_the_literal_loop(height, width, window):
    task, net, image = make_task(mode="sliding", window=window), PixelNet(), some_images(height, width)
    labels = task.predict(net, image)
    assert max(shape[0] for shape in net.sizes) <= 8
    values = torch.from_numpy(slow_normalize(image)).float()
    total = torch.zeros(2, 3, height, width)
    windows, y = 0, 0
    with torch.no_grad():
        while y < height:
            x = 0
            while x < width:
                crop = values[:, :, y : min(height, y + window), x : min(width, x + window)]
                total[:, :, y : min(height, y + window), x : min(width, x + window)] += net(crop)[
                    "logits"
                ].softmax(1)
                windows += 1
                x += int(window * 2 / 3)
            y += int(window * 2 / 3)
    agree(labels, total.argmax(1))
    assert sum(shape[0] for shape in net.sizes) == 2 * 2 * windows


def test_sliding_windows_are_as_large_as_the_crop_by_default():
    net = PixelNet()
    make_task(mode="sliding").predict(net, some_images(20, 20))
    assert max(shape[2] for shape in net.sizes) == SIDE


@pytest.mark.parametrize("stride", [3, 5, 8])
@pytest.mark.parametrize("band", [1, 8 * 31, 14 * 31, 10**9])
def test_bands_of_windows_are_the_whole_image(monkeypatch, stride, band):
    """Sums kept for a few rows of windows at a time give the classes of sums kept for the whole image."""
    monkeypatch.setattr(prediction, "BAND_PIXELS", band)
    net, image, height, width = PixelNet(), some_images(29, 31), 29, 31
    labels = make_task(mode="sliding", window=8, stride=stride).predict(net, image)
    values = torch.from_numpy(slow_normalize(image)).float()
    total = torch.zeros(2, 3, height, width)
    with torch.no_grad():
        for y in range(0, height, stride):
            for x in range(0, width, stride):
                scores = net(values[:, :, y : y + 8, x : x + 8])["logits"].softmax(1)
                total[:, :, y : y + 8, x : x + 8] += scores
    agree(labels, total.argmax(1))


@pytest.mark.parametrize("band", [1, 10**9])
@pytest.mark.parametrize(
    ("height", "width", "window"), [(23, 37, 9), (12, 12, 12), (14, 9, 8), (16, 33, 16), (5, 30, 12)]
)
def test_windows_that_are_moved_inside_agree_with_the_literal_loop(monkeypatch, height, width, window, band):
    """UniMatch V2's: the last window of a row or column ends at the border, and none follows it."""
    monkeypatch.setattr(prediction, "BAND_PIXELS", band)
    net, image = PixelNet(), some_images(height, width)
    labels = make_task(mode="sliding", window=window, border="inside").predict(net, image)
    values, step = torch.from_numpy(slow_normalize(image)).float(), int(window * 2 / 3)
    total = torch.zeros(2, 3, height, width)
    sizes = set()
    with torch.no_grad():
        y = 0
        while True:
            x = 0
            while True:
                crop = values[:, :, y : y + window, x : x + window]
                sizes.add(crop.shape[2:])
                total[:, :, y : y + window, x : x + window] += net(crop)["logits"].softmax(1)
                if x + window >= width:
                    break
                x = min(x + step, width - window)
            if y + window >= height:
                break
            y = min(y + step, height - window)
    agree(labels, total.argmax(1))
    assert sizes == {(min(window, height), min(window, width))}


def test_cityscapes_has_eight_windows_as_released():
    rows, columns = (prediction.starts(side, 798, 532, "inside") for side in (1024, 2048))
    assert (rows, columns) == ([0, 226], [0, 532, 1064, 1250])


def test_a_stride_that_leaves_gaps_is_refused_before_training():
    for stride in (0, 9):
        with pytest.raises(ConfigError, match="stride must be from 1 to the window's 8 pixels"):
            make_task(mode="sliding", window=8, stride=stride)
    with pytest.raises(ConfigError, match=f"1 to the window's {SIDE} pixels"):
        make_task(mode="sliding", stride=SIDE + 1)


@pytest.mark.parametrize(
    ("height", "width", "place"),
    [(20, 25, (2, 18, 4, 20)), (10, 25, (0, 10, 4, 20)), (25, 20, (4, 20, 2, 18))],
)
def test_centre_leaves_the_rest_out(height, width, place):
    task, net, image = make_task(mode="centre"), PixelNet(), some_images(height, width)
    labels = task.predict(net, image)
    top, bottom, left, right = place
    with torch.no_grad():
        values = torch.from_numpy(slow_normalize(image)).float()[:, :, top:bottom, left:right]
        agree(labels[:, top:bottom, left:right], net(values)["logits"].argmax(1))
    assert int((labels == IGNORE_INDEX).sum()) == 2 * (height * width - (bottom - top) * (right - left))
    metric = task.metric()
    metric.update(labels, torch.zeros_like(labels))
    assert int(metric.counts.sum()) == 2 * (bottom - top) * (right - left)


def test_losses_are_the_configured_ones():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]]).T[None, :, None]  # [1, 3, 1, 2]
    labels = torch.tensor([[[0, 2]]])
    easy, hard = (-math.log(logits[0, :, 0, i].softmax(0)[k]) for i, k in ((0, 0), (1, 2)))
    assert float(make_task().supervised_loss(logits, labels)) == pytest.approx((easy + hard) / 2)
    ohem = make_task(loss=LossConfig("ohem", 0.5, 1))
    assert float(ohem.supervised_loss(logits, labels)) == pytest.approx(hard)
    conf, valid = torch.tensor([[[0.9, 0.5]]]), torch.ones(1, 1, 2, dtype=torch.bool)
    pseudo = PseudoLabels(labels, conf, valid, 0.6)
    assert float(ohem.consistency_loss(logits, pseudo)) == pytest.approx(easy / 2)


def test_pictures_show_labelled_and_unlabelled_images():
    task = make_task()
    batch = task.to_device(raw_micro("batch", size=6), CPU)
    pictures = task.pictures(PixelNet(), batch)
    assert set(pictures) == {"labeled", "unlabeled"}
    factor = TILE // SIDE
    tiles = {name: tiles_of(pictures[name], 4, n, TILE) for name, n in (("labeled", 3), ("unlabeled", 5))}
    raw = raw_micro("batch", size=6)
    for name, columns in (("labeled", 3), ("unlabeled", 5)):
        assert pictures[name].dtype == np.uint8
        assert 0 <= pictures[name].shape[1] - columns * (TILE + GAP) < 20
    for row in range(4):
        shown = scaled(raw["labeled"]["image"][row].numpy(), TILE)
        assert np.array_equal(tiles["labeled"][row][0], shown)
        ignored = np.kron(raw["labeled"]["label"][row] == IGNORE_INDEX, np.ones((factor, factor), bool))
        hatched = shown[ignored] / 2 + hatching(TILE, TILE)[ignored] / 2
        assert ignored.any() and np.abs(tiles["labeled"][row][1][ignored] - hatched).max() <= 1
    raw = raw["unlabeled"]
    row = next(row for row in range(4) if raw["boxes"][row, 0].any())
    x0, y0, x1, y1 = raw["boxes"][row, 0].tolist()
    mixed = raw["strong"][row, 0].numpy().copy()
    mixed[y0:y1, x0:x1] = raw["strong"][row ^ 1, 0].numpy()[y0:y1, x0:x1]
    expected = scaled(mixed, TILE)
    x0, y0, x1, y1 = (factor * value for value in (x0, y0, x1, y1))
    expected[[y0, y1 - 1], x0:x1] = expected[y0:y1, [x0, x1 - 1]] = 255
    assert np.array_equal(tiles["unlabeled"][row][1], expected)
    without = task.pictures(PixelNet(), task.to_device(raw_micro(None), CPU))
    assert set(without) == {"labeled"}


def test_the_registry_knows_the_task():
    entry = TASKS["natural"]
    assert entry.cls is NaturalTask and entry.config is NaturalTaskConfig
    assert NaturalTask.headline == "miou" and callable(getattr(make_task().metric(), NaturalTask.headline))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "sliding", "window": 1}, "window"),
        ({"mode": "whole", "window": 64}, "window has no meaning"),
        ({"mode": "sliding", "multiple_of": 14}, "multiple_of has no meaning"),
        ({"border": "inside"}, "border has no meaning"),
        ({"stride": 3}, "stride has no meaning with mode 'whole'"),
        ({"mode": "centre", "stride": 3}, "stride has no meaning"),
        ({"multiple_of": 0}, "multiple_of"),
    ],
)
def test_evaluation_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        EvaluateConfig(**settings)


@pytest.mark.parametrize(
    "settings", [{}, {"multiple_of": 14}, {"mode": "sliding", "window": 16, "stride": 16}]
)
def test_how_sure_a_prediction_is(settings):
    """The softmax of the class that is predicted; over windows that do not overlap it is that of each."""
    net, image = PixelNet(), some_images(16, 32)
    ids, conf = make_task(**settings).predicted(net, image, sure=True)
    values = torch.from_numpy(slow_normalize(image)).float()
    with torch.no_grad():
        if "multiple_of" in settings:
            values = F.interpolate(values, (14, 28), mode="bilinear", align_corners=True)
            logits = net(values)["logits"]
            logits = F.interpolate(logits, (16, 32), mode="bilinear", align_corners=True)
        else:
            parts = values.split(16 if "mode" in settings else 32, dim=3)
            logits = torch.cat([net(part)["logits"] for part in parts], dim=3)
    agree(ids, logits.argmax(1))
    torch.testing.assert_close(conf, logits.softmax(1).max(1).values, rtol=2e-3, atol=2e-3)
    assert make_task(**settings).predicted(net, image)[1] is None


def test_outside_the_centre_nothing_is_sure():
    task, image = make_task(mode="centre", window=8), some_images(16, 20)
    ids, conf = task.predicted(PixelNet(), image, sure=True)
    inside = torch.zeros(16, 20, dtype=torch.bool)
    inside[4:12, 6:14] = True
    assert torch.equal(ids != IGNORE_INDEX, inside.expand(2, -1, -1)) and torch.equal(
        conf > 0, ids != IGNORE_INDEX
    )
