"""The medical task: batches, losses, predictions at the crop's size, units and figures."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.medical_set import ORGANS, scan, write_medical_run, write_scans
from tests.support.sheets import tiles_of
from unimatch import config as config_io
from unimatch import losses
from unimatch.codecs.sheet import TILE
from unimatch.codecs.volume_files import read_volume
from unimatch.data.evaluation import eval_loader
from unimatch.engine.build import build_network, build_task, build_trainer
from unimatch.engine.evaluate import report
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_data
from unimatch.engine.runtime import Runtime
from unimatch.errors import ConfigError, DataError
from unimatch.methods.base import ViewNeeds
from unimatch.shardset.archive import ShardSet
from unimatch.tasks import MedicalTask, MedicalTaskConfig
from unimatch.tasks.medical import MedicalEvaluateConfig
from unimatch.taxonomy import Taxonomy
from unimatch.views.medical import MedicalViewConfig

ACDC = Taxonomy.of(["background", "right ventricle", "myocardium", "left ventricle"])
CPU = torch.device("cpu")
CROP = 16


def make_task(per: Any = "volume", mean: float = 0.0, std: float = 1.0) -> MedicalTask:
    config = MedicalTaskConfig(MedicalViewConfig(crop=CROP), MedicalEvaluateConfig(per))
    return MedicalTask(config, ORGANS, (mean,), (std,))


def raw_micro(partner: str | None = "shuffled", size: int = 4) -> dict[str, Any]:
    """What the loader would give for slices of several sizes."""
    transform = make_task().transform(ViewNeeds(2, partner, True))
    labeled, unlabeled = [], []
    for key in range(size):
        images, labels = scan(key, 1, 20 + key, 18)
        image, other = images[0][..., None], scan(50 + key, 1, 14, 22)[0][0][..., None]
        labeled.append(transform.labeled(image, labels[0], key) | {"noise_key": np.int64(key)})
        arrays = transform.unlabeled(image, 100 + key, other if partner == "shuffled" else None)
        unlabeled.append(arrays | {"noise_key": np.int64(key)})

    def stack(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        return {name: torch.from_numpy(np.stack([one[name] for one in samples])) for name in samples[0]}

    return {"labeled": stack(labeled), "unlabeled": stack(unlabeled)}


class Threshold(nn.Module):
    """Class 0, 1 or 2 by the grey value, as logits; remembers the sizes that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        self.sizes.append(tuple(image.shape))
        return {
            "logits": torch.cat(
                [-((image - v) ** 2) for v in (9000 / 65535, 55000 / 65535, 30000 / 65535)], 1
            )
        }


def test_batches_are_fractions_of_white() -> None:
    raw = raw_micro()
    batch = make_task().to_device(raw, CPU)
    assert batch.unlabeled is not None and batch.unlabeled.partner is not None
    assert batch.labeled.image.shape == (4, 1, CROP, CROP)
    expected = raw["labeled"]["image"].numpy().astype(np.float64)[:, None, ..., 0] / 65535
    np.testing.assert_allclose(batch.labeled.image.numpy(), expected, atol=1e-6)
    strong = raw["unlabeled"]["partner_strong"].numpy().astype(np.float64)[:, 1, None, ..., 0] / 65535
    np.testing.assert_allclose(batch.unlabeled.partner.strong[1].numpy(), strong, atol=1e-6)
    assert bool(batch.unlabeled.valid.all()) and all(bool(v.all()) for v in batch.unlabeled.mixed_valid)
    assert make_task().pixel_counts(raw) == [4 * CROP * CROP] * 4
    # A pretrained encoder's statistics are obeyed.
    shifted = make_task(mean=0.4, std=0.2).to_device(raw, CPU)
    torch.testing.assert_close(shifted.labeled.image, (batch.labeled.image - 0.4) / 0.2, rtol=1e-4, atol=1e-5)


def test_losses_are_those_of_the_published_runs() -> None:
    task, generator = make_task(), torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, generator=generator)
    labels = torch.randint(0, 3, (2, 8, 8), generator=generator)
    conf, valid = torch.rand(2, 8, 8, generator=generator), torch.ones(2, 8, 8, dtype=torch.bool)
    ce, dice = losses.cross_entropy(logits, labels), losses.dice_loss(logits, labels, valid)
    torch.testing.assert_close(task.supervised_loss(logits, labels), (ce + dice) / 2)
    found = task.consistency_loss(logits, losses.PseudoLabels(labels, conf, valid, 0.5))
    torch.testing.assert_close(found, losses.dice_loss(logits, labels, conf >= 0.5))


@pytest.mark.parametrize("size", [(CROP, CROP), (25, 40), (9, 12)])
def test_prediction_goes_through_the_crop_and_back(size: tuple[int, int]) -> None:
    net = Threshold().train()
    values = torch.rand(2, *size, 1, generator=torch.Generator().manual_seed(1)) * 65535
    image = values.to(torch.int32).to(torch.uint16)
    found = make_task().predict(net, image)
    assert net.sizes == [(2, 1, CROP, CROP)] and not net.training
    assert found.shape == (2, *size) and found.dtype == torch.uint8
    # By hand: bilinear with pixel centres at halves, there and back.
    grey = image.to(torch.float64).numpy()[..., 0] / 65535
    small = np.stack([bilinear(one, CROP, CROP) for one in grey])
    logits = net(torch.from_numpy(small)[:, None])["logits"].numpy()
    large = np.stack([[bilinear(channel, *size) for channel in one] for one in logits])
    assert np.mean(found.numpy() != large.argmax(1)) < 0.01  # rounding of ties


def bilinear(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixel by pixel; positions outside the outer centres repeat them."""
    result = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            sy = max((y + 0.5) * array.shape[0] / height - 0.5, 0)
            sx = max((x + 0.5) * array.shape[1] / width - 0.5, 0)
            y0, x0 = int(sy), int(sx)
            y1, x1 = min(y0 + 1, array.shape[0] - 1), min(x0 + 1, array.shape[1] - 1)
            fy, fx = sy - y0, sx - x0
            top = (1 - fx) * array[y0, x0] + fx * array[y0, x1]
            result[y, x] = (1 - fy) * top + fy * ((1 - fx) * array[y1, x0] + fx * array[y1, x1])
    return result


@pytest.mark.parametrize(
    ("per", "key", "unit"),
    [
        ("volume", "data/patient1/007", "data/patient1"),
        ("volume", "data/patient1_slice_7", "data/patient1_slice_7"),
        ("volume", "007", "007"),
        ("image", "data/patient1/007", "data/patient1/007"),
    ],
)
def test_units(per: str, key: str, unit: str) -> None:
    assert make_task(per).unit(key) == unit


def evaluated(task: MedicalTask, shards: ShardSet, rank: int = 0, world: int = 1, batch: int = 2) -> Any:
    """The metric of one of `world` processes."""
    metric = task.metric()
    loader = eval_loader(
        shards,
        shards.rows("val"),
        rank=rank,
        world=world,
        workers=0,
        batch=batch,
        decode=task.decode,
        unit=task.unit,
    )
    for arrays in loader:
        assert arrays["label"] is not None
        metric.update(task.predict(Threshold(), arrays["image"]), arrays["label"], arrays["keys"])
    return metric


def test_volumes_count_once_whatever_the_processes_and_batches(tmp_path: Any) -> None:
    shards = ShardSet.open(write_scans(tmp_path / "shards", val=5))
    task = make_task()
    one = evaluated(task, shards)
    figures = task.figures(one)
    state = one.state
    assert state[1].tolist() == [0, 5, 5]  # volumes; the background has no figures
    for world in (2, 3, 7):
        states = [evaluated(task, shards, rank, world, batch=3).state for rank in range(world)]
        assert torch.equal(torch.stack(states).sum(0), state)
    # By hand, from the scans: Dice over the voxels of a volume, then the mean over volumes.
    dices = []
    for number in range(5):
        images, labels = scan(100 + number, 2 + number % 3, 44 + 4 * (number % 2), 40)
        found = task.predict(Threshold(), torch.from_numpy(images[..., None])).numpy()
        dices.append(
            [
                2 * ((found == k) & (labels == k)).sum() / ((found == k).sum() + (labels == k).sum())
                for k in (1, 2)
            ]
        )
    assert list(figures["dice"].values()) == pytest.approx(np.mean(dices, axis=0).tolist())
    assert figures["mean_dice"] == pytest.approx(np.mean(dices))
    assert figures["undefined"] == {"ring": 0, "disc": 0}


def test_images_by_themselves_are_another_figure(tmp_path: Any) -> None:
    shards = ShardSet.open(write_scans(tmp_path / "shards", val=3))
    volumes, images = evaluated(make_task(), shards), evaluated(make_task("image"), shards)
    assert int(volumes.state[1].sum()) == 2 * 3
    assert int(images.state[1].sum()) > 2 * 3
    assert make_task().figures(volumes)["mean_dice"] != make_task().figures(images)["mean_dice"]


def test_figures_and_report_of_absent_classes() -> None:
    task, metric = make_task(), make_task().metric()
    labels = torch.zeros(2, 6, 6, dtype=torch.uint8)
    metric.update(labels, labels, ["v/0", "v/1"])
    figures = task.figures(metric)
    assert figures["mean_dice"] is None and figures["dice"] == {"ring": None, "disc": None}
    labels[:, 2:4] = 1
    invented = labels.clone()
    invented[0, 0, 0] = 2
    metric.update(invented, labels, ["w/0", "w/1"])
    figures = task.figures(metric)
    assert figures["dice"] == {"ring": 1.0, "disc": 0.0} and figures["mean_dice"] == 0.5
    assert figures["hd95"] == {"ring": 0.0, "disc": None} and figures["mean_hd95"] == 0.0
    assert figures["undefined"] == {"ring": 0, "disc": 1}
    lines = report(figures, task)
    assert [line.split()[0] for line in lines[1:3]] == ["ring", "disc"]
    assert lines[2].split()[1:] == ["0.00", "undefined", "undefined", "1"]
    assert "0.00 vox" in lines[1] and lines[-1].split() == ["mean_dice", "50.00"]
    metric = task.metric()
    metric.update(*(torch.full((1, 8, 8), 1, dtype=torch.uint8) for _ in range(2)), ["a/000"])
    figures = task.figures(metric)
    assert figures["dice"] == {"ring": 1.0, "disc": None} and figures["mean_dice"] == 1.0
    assert figures["mean_asd"] == 0.0


def test_pictures(tmp_path: Any) -> None:
    config = config_io.load(write_medical_run(tmp_path), RunConfig)
    net = build_network(config, ORGANS, Runtime())
    task = build_task(config, ORGANS, net)
    sheets = task.pictures(net, task.to_device(raw_micro(), CPU))
    assert set(sheets) == {"labeled", "unlabeled"} and all(s.dtype == np.uint8 for s in sheets.values())
    for row in tiles_of(sheets["labeled"], 4, 3, TILE):
        image, truth, _ = row
        assert (image == image[..., :1]).all() and (truth == image).all(axis=2).any(), "background stays grey"
    (shown,) = task.show(scan(0, 1, 9, 8)[0][0][..., None])
    assert shown.shape == (9, 8, 3)


def test_a_network_for_colours_is_refused_before_training(tmp_path: Any) -> None:
    path = write_medical_run(tmp_path)
    config = config_io.load(path, RunConfig, ["model.encoder.in_channels=3"])
    with pytest.raises(ConfigError, match="in_channels is 3, but task medical reads images of 1 channel"):
        build_trainer(config, open_data(config), Runtime(), resume=False)


def test_colour_images_are_refused_by_shard_and_key(tiny_shards: Any) -> None:
    shards = ShardSet.open(tiny_shards)
    with pytest.raises(DataError, match="a colour image .*this task reads greyscale"):
        evaluated(make_task(), shards)


def test_a_pretrained_kind_of_network_takes_slices_too(tmp_path: Any) -> None:
    encoder = "model.encoder={name: test_efficientnet, weights: none, in_channels: 1}"
    overrides = [encoder, "model.head={name: deeplabv3plus, channels: 16}"]
    config = config_io.load(write_medical_run(tmp_path), RunConfig, overrides)
    net = build_network(config, ORGANS, Runtime())
    task = build_task(config, ORGANS, net)
    assert isinstance(task, MedicalTask) and task.mean.item() == pytest.approx(255 * 0.449)
    image = torch.from_numpy(scan(3, 2, 30, 21)[0][..., None])
    assert task.predict(net, image).shape == (2, 30, 21)


def test_a_perfect_prediction_of_real_volumes(real_data: Any) -> None:
    """ACDC's own labels as predictions: every class of every volume scores 1, at distance 0."""
    files = sorted((real_data / "acdc" / "data").glob("*.h5"))[:3]
    assert files
    metric = MedicalTask(MedicalTaskConfig(MedicalViewConfig(crop=256)), ACDC, (0.0,), (1.0,)).metric()
    for path in files:
        volume = read_volume(path)
        assert volume.slices.max() == 65535
        with h5py.File(path) as file:
            label = torch.from_numpy(file["label"][()])
        assert label.shape == volume.slices.shape
        metric.update(label, label, [f"{path.stem}/{index:03d}" for index in range(len(label))])
    assert metric.dice() == [1.0] * 3 and metric.hd95() == metric.asd() == [0.0] * 3
