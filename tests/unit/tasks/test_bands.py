"""Tasks on bands: normalised by their own statistics, decoded as they are stored, shown in three."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.tiny_set import TAXONOMY
from unimatch import config as config_io
from unimatch.codecs import tiles
from unimatch.codecs.bands import Bands
from unimatch.engine.build import build_network, build_task
from unimatch.engine.run_config import RunConfig
from unimatch.engine.runtime import Runtime
from unimatch.errors import ConfigError, DataError
from unimatch.shardset.archive import Record
from unimatch.tasks.change import ChangeTask, ChangeTaskConfig
from unimatch.tasks.natural import NaturalTask, NaturalTaskConfig
from unimatch.taxonomy import Taxonomy
from unimatch.views.change import ChangeViewConfig
from unimatch.views.natural import ViewConfig

MEAN, STD = (0.1, 0.2, 0.3, 0.4), (0.05, 0.1, 0.0, 0.2)


def bands(depth: int = 8) -> Bands:
    return Bands((4, 3, 2, 8), ("",) * 4, ((0.0, 1e4),) * 4, depth, (3, 0, 1), None, 8, "uint16", MEAN, STD)


def natural(depth: int = 8) -> NaturalTask:
    return NaturalTask(NaturalTaskConfig(ViewConfig(crop=16)), TAXONOMY, (0.5,) * 3, (0.2,) * 3, bands(depth))


def record(image: np.ndarray, second: np.ndarray | None = None) -> Record:
    later = None if second is None else tiles.encode(second)
    return Record("k", tiles.encode(image), "tif", later, None, None, image.shape[1], image.shape[0], "s:k")


@pytest.mark.parametrize(("depth", "dtype"), [(8, np.uint8), (16, np.uint16)])
def test_values_are_normalised_by_the_statistics_of_their_bands(depth: int, dtype: type) -> None:
    white = np.iinfo(dtype).max
    image = np.random.default_rng(0).integers(0, white, (1, 5, 6, 4), dtype, True)
    found = natural(depth).normalize(torch.from_numpy(image)).permute(0, 2, 3, 1).numpy()
    std = np.maximum(STD, 1 / white)  # a band of one value is divided by a level, not by 0
    assert np.allclose(found, (image / white - MEAN) / std, rtol=1e-4, atol=1e-4)


def test_images_of_another_kind_are_refused_with_shard_and_key() -> None:
    task, image = natural(), np.zeros((20, 20, 4), np.uint8)
    assert task.decode(record(image)).pixels.shape == (20, 20, 4)
    assert task.blank(1, 1).shape == (1, 1, 4) and natural(16).blank(1, 1).dtype == np.uint16
    with pytest.raises(DataError, match="s:k: an image of 3 channels of 8 bits, but 4 of 8"):
        task.decode(record(image[..., :3]))
    with pytest.raises(DataError, match="holds a pair"):
        task.decode(record(image, image))


def test_pairs_are_decoded_and_normalised() -> None:
    two = Taxonomy.of(["unchanged", "changed"])
    task = ChangeTask(ChangeTaskConfig(ChangeViewConfig(crop=16)), two, (0.5,) * 3, (0.2,) * 3, bands())
    first, second = (np.full((20, 20, 4), value, np.uint8) for value in (10, 90))
    assert task.decode(record(first, second), (0, 0, 9, 9)).pixels.shape == (2, 9, 9, 4)
    pixels = task.decode(record(first, second)).pixels
    assert pixels.shape == (2, 20, 20, 4) and pixels[1].min() == 90
    assert task.normalize(torch.from_numpy(pixels)[None]).shape == (1, 2, 4, 20, 20)
    assert len(task.show(pixels)) == 2


def test_the_chosen_bands_are_shown() -> None:
    image = np.zeros((2, 2, 4), np.uint8)
    image[..., 3] = 255
    shown = natural().show(image)[0]
    assert (shown[..., 0] == 255).all() and (shown[..., 1] == 0).all()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            "model.encoder.in_channels=3",
            r"in_channels is 3, but the samples are 4 channels .*bands 4, 3, 2, 8",
        ),
        ("model.encoder.in_channels=5", "set it to 4"),
    ],
)
def test_a_network_for_other_channels_is_refused(tiny_run: Path, change: str, text: str) -> None:
    config = config_io.load(tiny_run, RunConfig, [change])
    with pytest.raises(ConfigError, match=text):
        build_network(config, TAXONOMY, Runtime(), bands())


def test_a_network_for_four_channels_predicts(tiny_run: Path) -> None:
    config = config_io.load(tiny_run, RunConfig, ["model.encoder.in_channels=4"])
    net = build_network(config, TAXONOMY, Runtime(), bands())
    task = build_task(config, TAXONOMY, net, bands())
    assert task.predict(net, torch.zeros(1, 33, 40, 4, dtype=torch.uint8)).shape == (1, 33, 40)
    with pytest.raises(ConfigError, match="in_channels is 4, but task natural reads images of 3"):
        build_network(config, TAXONOMY, Runtime())


def test_slices_are_no_bands(tiny_run: Path) -> None:
    text = tiny_run.read_text().replace("name: natural", "name: medical")
    config = config_io.from_text(text, RunConfig, ["model.encoder.in_channels=4"])
    with pytest.raises(ConfigError, match="task medical reads grey slices, the samples are 4 channels"):
        build_network(config, TAXONOMY, Runtime(), bands())
