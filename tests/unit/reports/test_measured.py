"""What a report measures itself: figures, the order of images, and their pictures in limited room."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unimatch.engine.log import evaluations
from unimatch.engine.restore import restore
from unimatch.engine.runtime import Runtime
from unimatch.engine.selection import select
from unimatch.reports.measured import Score, extremes, image_score, measure, predictions
from unimatch.reports.samples import Seen, class_png, layers
from unimatch.shardset.archive import ShardSet
from unimatch.taxonomy import IGNORE_INDEX

COLORS = ((10, 20, 30), (200, 0, 0), (0, 0, 200))


def test_what_is_measured_is_what_the_run_logged(done: Path, tiny_shards: Path) -> None:
    runtime, logged = Runtime(), evaluations(done)[-1]
    restored, val = restore(done, "last", None, runtime), select(ShardSet.open(tiny_shards), "val")
    found = measure(restored, val, runtime, count=500, batch=4, workers=0)
    told = found.described()
    counts = found.counts.astype(float)
    with np.errstate(invalid="ignore"):
        iou = counts.diagonal() / (counts.sum(0) + counts.sum(1) - counts.diagonal())
    assert np.nanmean(iou) == pytest.approx(logged["miou"]) and told["ece"] == pytest.approx(logged["ece"])
    assert (told["step"], told["network"], told["samples"], told["of"]) == (2, logged["network"], 10, 10)
    rows = np.array(told["confusion"])[np.array(told["pixels"]) > 0]
    assert rows.sum(1) == pytest.approx(1, abs=1e-3)

    record = ShardSet.open(tiny_shards)
    score, row = found.scores[3], dict(zip(record.keys(val.rows), val.rows.tolist(), strict=True))
    image, label = _decoded(record, row[score.key])
    ids, conf = predictions(restored, image, runtime)
    assert score.accuracy == pytest.approx((ids == label)[label != IGNORE_INDEX].mean())
    assert score.conf == pytest.approx(float(conf.mean()), abs=1e-6)
    one_by_one = [
        ((ids == k) & (label == k)).sum() / ((ids == k) | (label == k))[label != IGNORE_INDEX].sum()
        for k in range(len(found.classes))
        if ((ids == k) | (label == k))[label != IGNORE_INDEX].any()
    ]
    assert score.value == pytest.approx(np.mean(one_by_one))

    some = measure(restored, val, runtime, count=3, batch=4, workers=0).described()
    assert (some["samples"], some["of"]) == (3, 10)


def _decoded(shards: ShardSet, row: int) -> tuple[np.ndarray, np.ndarray]:
    from unimatch.data.load import load_pair

    part, label = load_pair(shards, row, shards.taxonomy.num_classes)
    return part.pixels, label


@pytest.mark.parametrize(
    ("counts", "background", "value"),
    [
        ([[5, 5, 0], [0, 10, 0], [0, 0, 0]], None, (0.5 + 10 / 15) / 2),  # the third occurs nowhere
        ([[5, 5, 0], [0, 10, 0], [0, 0, 0]], 0, 10 / 15),
        ([[9, 0, 0], [0, 0, 0], [0, 0, 0]], 0, None),
        ([[8, 1, 0], [0, 0, 0], [0, 0, 0]], 0, 0.0),  # a false alarm
    ],
)
def test_an_images_score(counts: list[list[int]], background: int | None, value: float | None) -> None:
    assert image_score(torch.tensor(counts), background) == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    ("count", "worst", "best"),
    [(4, "ab", "ed"), (3, "ab", "e"), (99, "abc", "ed"), (1, "a", ""), (0, "", "")],
)
def test_worst_and_best_share_no_image(count: int, worst: str, best: str) -> None:
    values = {"c": 0.5, "a": 0.1, "x": None, "e": 0.9, "b": 0.2, "d": 0.8}
    found = extremes([Score(key, value, 0.5, 0.5) for key, value in values.items()], count)
    assert tuple("".join(one.key for one in part) for part in found) == (worst, best)


def test_classes_as_a_picture() -> None:
    ids = np.repeat(np.arange(3, dtype=np.uint8), 8).reshape(3, 8)
    ids = np.concatenate([ids, np.full((8, 8), IGNORE_INDEX, np.uint8)])
    for clear in (None, 0):
        shown = np.asarray(Image.open(io.BytesIO(class_png(ids, COLORS, clear))).convert("RGBA"))
        assert (shown[:3, :, :3] == np.array(COLORS)[:, None]).all()
        assert (shown[0, :, 3] == (255 if clear is None else 0)).all() and (shown[1:, :, 3] == 255).all()
        assert set(map(tuple, shown[3:, :, :3].reshape(-1, 3).tolist())) == {(0, 0, 0), (255, 255, 255)}


def _seen(size: tuple[int, int], noise: bool) -> tuple[Seen, Any]:
    draw = np.random.default_rng(0)
    image = draw.integers(0, 256, (*size, 3), dtype=np.uint8) if noise else np.zeros((*size, 3), np.uint8)
    label = draw.integers(0, 3, size, dtype=np.uint8) if noise else np.zeros(size, np.uint8)
    conf = draw.random(size, dtype=np.float32) if noise else np.ones(size, np.float32)
    task = SimpleNamespace(
        show=lambda image: [image], taxonomy=SimpleNamespace(colors=COLORS), background=None
    )
    return Seen(image, label, {"run": (label, conf)}), task


@pytest.mark.parametrize("noise", [True, False])
def test_two_hundred_samples_find_room(noise: bool) -> None:
    """Noise is what compresses worst; a plain image keeps its size."""
    seen, task = _seen((240, 320), noise)
    found = layers(seen, task, room=9_000_000 // 200)
    assert set(found) == {"image", "truth", "run", "run confidence"}
    assert sum(map(len, found.values())) <= 45_000
    image = Image.open(io.BytesIO(base64.b64decode(found["image"].split(",")[1])))
    assert image.width < 300 if noise else image.width == 320
