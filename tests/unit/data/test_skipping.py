"""Samples that cannot be read: which one stands in their place, what is counted and logged, and the limit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.batches import SEED, load, one_bad, same
from tests.support.tiny_set import (
    TinyTransform,
    damage,
    image_bytes,
    label_array,
    label_bytes,
    write_tiny,
)
from unimatch.codecs.decode import decode_image
from unimatch.data.plan import Plan
from unimatch.data.samples import Samples
from unimatch.data.training import train_loader
from unimatch.errors import DataError


class Plain(TinyTransform):
    """Without the noise of keys."""

    def _noisy(self, image: np.ndarray, key: int) -> np.ndarray:
        return image


def test_unreadable_samples_are_replaced_by_the_next_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(write_tiny(tmp_path, ext="jpg"), "t006")
    damage(tmp_path, "t007")
    damage(tmp_path, "t003", "label")
    with caplog.at_level(logging.WARNING):
        batches = load(tmp_path, stop_step=8, skip_ceiling=3)
    assert len(caplog.records) == 3  # once each, though they come up every epoch
    assert same(batches, load(tmp_path, stop_step=8, skip_ceiling=3, workers=3))
    plan = Plan([4, 1], [4, 4, 3], 2, 4, seed=SEED)
    replaced = {6: {6, 7}, 7: {7}}
    met: set[int] = set()
    for step, (micro,) in batches:
        (planned,) = plan.slots(step)
        assert planned.unlabeled is not None and micro["unlabeled"] is not None
        bad = {3} & set(planned.labeled.ordinals.tolist())
        for b, ordinal in enumerate(planned.unlabeled.ordinals.tolist()):
            bad |= replaced.get(ordinal, set())
            expected = decode_image(image_bytes(8 if ordinal in replaced else ordinal, "jpg"), "x")
            assert (micro["unlabeled"]["weak"][b].numpy() == expected).all()
        assert micro["skipped"] == len(bad)
        met |= bad
    assert met == {3, 6, 7}


def test_the_last_samples_are_replaced_by_the_first(tmp_path: Path) -> None:
    for key in ("t003", "t004", "t009", "t010"):
        damage(write_tiny(tmp_path, ext="jpg") if key == "t003" else tmp_path, key)
    first = decode_image(image_bytes(0, "jpg"), "x")
    plan, met = Plan([4, 1], [4, 4, 3], 2, 4, seed=SEED), set()
    for step, (micro,) in load(tmp_path, transform=Plain(), stop_step=8, skip_ceiling=9):
        (planned,) = plan.slots(step)
        assert planned.unlabeled is not None and micro["unlabeled"] is not None
        for slots, images in (
            (planned.labeled, micro["labeled"]["image"]),
            (planned.unlabeled, micro["unlabeled"]["weak"]),
        ):
            last = {3, 4} if slots is planned.labeled else {9, 10}
            for ordinal, image in zip(slots.ordinals.tolist(), images.numpy(), strict=True):
                if ordinal in last:
                    assert (image == first).all()
                    met.add(ordinal)
    assert met == {3, 4, 9, 10}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_ceiling_of_skipped_samples(tmp_path: Path, workers: int) -> None:
    damage(write_tiny(tmp_path, ext="jpg"), "t006")
    damage(tmp_path, "t007")
    damage(tmp_path, "t003", "label")
    with pytest.raises(
        DataError, match=r"3 samples cannot be read, data\.skip_ceiling allows 2; the last: train-0000"
    ):
        load(tmp_path, stop_step=8, skip_ceiling=2, workers=workers)


def test_a_split_without_a_readable_sample_is_an_error(tmp_path: Path) -> None:
    shards = one_bad(tmp_path, b"text", label_bytes(label_array(0)))
    rows = shards.rows("train")[3:]
    plan = Plan([1], None, 2, seed=SEED)
    options: dict[str, Any] = {"stop_step": 1, "num_classes": 3, "workers": 0, "skip_ceiling": 99}
    with pytest.raises(DataError, match=r"no sample of the split can be read; train-00000\.tar:bad"):
        list(train_loader(Samples(shards, rows), None, plan, TinyTransform(), **options))
