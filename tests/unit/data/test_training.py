"""Batches: the right samples, the same for any number of workers and ranks, and clear errors for bad ones."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.batches import SEED, load, one_bad, same, write_scenes
from tests.support.tiny_set import (
    HEIGHT,
    TAXONOMY,
    WIDTH,
    TinyTransform,
    damage,
    image_bytes,
    label_array,
    label_bytes,
    write_tiny,
)
from unimatch import keyed
from unimatch.codecs.decode import decode_image
from unimatch.data.evaluation import eval_loader
from unimatch.data.plan import Plan, Tag
from unimatch.data.samples import Pool, Samples
from unimatch.data.training import RawMicro, train_loader
from unimatch.errors import ConfigError, DataError
from unimatch.shardset.archive import ShardSet
from unimatch.views.natural import NaturalViews, ViewConfig


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("loader") / "set", ext="jpg")


def joined(micros: list[RawMicro], stream: str, name: str) -> torch.Tensor:
    return torch.cat([micro[stream][name] for micro in micros])  # type: ignore[literal-required]


def test_batches_hold_what_the_plan_says(root: Path) -> None:
    shards = ShardSet.open(root)
    plan = Plan([4, 1], [4, 4, 3], 2, 4, seed=SEED, partner="shuffled")
    transform = TinyTransform()
    for step, (micro,) in load(root, partner="shuffled"):
        (planned,) = plan.slots(step)
        labeled, unlabeled = micro["labeled"], micro["unlabeled"]
        assert unlabeled is not None and planned.unlabeled is not None and micro["skipped"] == 0
        assert labeled["image"].shape == (2, HEIGHT, WIDTH, 3) and labeled["image"].dtype == torch.uint8
        epoch, t = divmod(step, 2)
        for b, ordinal in enumerate(planned.labeled.ordinals.tolist()):
            image = decode_image(image_bytes(ordinal, "jpg"), "x")
            key = keyed.key(SEED, Tag.LABELED_VIEW, epoch, t * 2 + b)
            expected = transform.labeled(image, label_array(ordinal), key)
            assert all((labeled[name][b].numpy() == array).all() for name, array in expected.items())
            assert labeled["noise_key"][b] == keyed.signed(keyed.key(SEED, Tag.LABELED_NOISE, step, b))
        assert planned.unlabeled.partners is not None
        for b, pair in enumerate(zip(planned.unlabeled.ordinals, planned.unlabeled.partners, strict=True)):
            image, partner = (decode_image(image_bytes(int(ordinal), "jpg"), "x") for ordinal in pair)
            key = keyed.key(SEED, Tag.UNLABELED_VIEW, epoch, t * 4 + b)
            expected = transform.unlabeled(image, key, partner)
            assert {*expected, "noise_key"} == unlabeled.keys()
            assert all((unlabeled[name][b].numpy() == array).all() for name, array in expected.items())
    assert len(shards) == 15


@pytest.mark.parametrize("workers", [1, 4])
def test_tensors_do_not_depend_on_the_number_of_workers(root: Path, workers: int) -> None:
    here = load(root, partner="shuffled")
    assert [step for step, _ in here] == list(range(6))
    assert same(here, load(root, partner="shuffled", workers=workers))


@pytest.mark.parametrize("options", [{"workers": 1}, {"workers": 4}, {"workers": 3, "threads": True}])
@pytest.mark.parametrize("partner", ["same", "shuffled"])
def test_views_of_parts_are_those_of_whole_images(
    tmp_path: Path, options: dict[str, Any], partner: str
) -> None:
    """Real views, from files of which parts are decoded, by any workers: the batches of plain files."""
    batches = []
    for fast, extra in ((False, {"workers": 0}), (True, options)):
        root = tmp_path / str(fast)
        write_scenes(root, fast)
        transform = NaturalViews(ViewConfig(crop=48), 2, partner)
        batches.append(load(root, transform, partner=partner, **extra))
    assert same(*batches)
    strong = batches[0][0][1][0]["unlabeled"]["strong"]
    assert strong.shape == (4, 2, 48, 48, 3) and strong.float().std() > 10


def test_resuming_gives_the_same_steps(root: Path) -> None:
    assert same(load(root)[3:], load(root, start_step=3, workers=2))
    assert load(root, start_step=6) == []


def test_ranks_and_accumulation_deal_out_one_global_batch(root: Path) -> None:
    whole = load(root)
    ranks = [load(root, rank=rank, world=2) for rank in range(2)]
    micros = load(root, accumulation=2)
    for step in range(6):
        expected = whole[step][1]
        for parts in ([ranks[0][step][1][0], ranks[1][step][1][0]], micros[step][1]):
            assert len(parts) == 2
            for stream, name in [("labeled", "image"), ("unlabeled", "strong"), ("unlabeled", "noise_key")]:
                assert torch.equal(joined(parts, stream, name), joined(expected, stream, name))
    with pytest.raises(ConfigError, match=r"batch\.labeled is 2"):
        load(root, world=4)


def test_supervised_batches_have_no_unlabelled_part(root: Path) -> None:
    shards = ShardSet.open(root)
    rows = shards.rows("train")[:5]
    plan = Plan(shards.shard_sizes(rows), None, 2, seed=SEED)
    loader = train_loader(
        Samples(shards, rows),
        None,
        plan,
        TinyTransform(),
        stop_step=3,
        workers=1,
        num_classes=TAXONOMY.num_classes,
    )
    assert [micro["unlabeled"] for _, (micro,) in loader] == [None] * 3


class Sleepy(TinyTransform):
    def labeled(self, *args: Any, **options: Any) -> dict[str, np.ndarray]:
        time.sleep(60)
        return super().labeled(*args, **options)


def test_a_slow_worker_names_step_and_samples(root: Path) -> None:
    with pytest.raises(DataError, match=r"step 0 \(samples t00\d, .*t0.*\) within 0\.3 s"):
        load(root, Sleepy(), workers=1, timeout_s=0.3)


class Deadly(TinyTransform):
    def labeled(self, *args: Any, **options: Any) -> dict[str, np.ndarray]:
        os.kill(os.getpid(), 9)
        return {}


def test_a_killed_worker_is_an_error(root: Path) -> None:
    with pytest.raises(DataError, match=r"was killed \(signal 9.*step 0"):
        load(root, Deadly(), workers=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_one_clean_error(tmp_path: Path, workers: int) -> None:
    damage(write_tiny(tmp_path, ext="jpg"), "t006")
    with pytest.raises(DataError) as error:
        load(tmp_path, workers=workers)
    assert str(error.value).startswith("train-00001.tar:t006: the image")
    assert "Traceback" not in str(error.value)


def test_a_bad_label_is_an_error_only_where_labels_are_used(tmp_path: Path) -> None:
    damage(write_tiny(tmp_path), "t002", "label")
    shards = ShardSet.open(tmp_path)
    rows = shards.rows("train")
    plan = Plan([1], shards.shard_sizes(rows), 2, 4, seed=SEED)
    options: dict[str, Any] = {"stop_step": 4, "workers": 0, "num_classes": 3}
    samples = Samples(shards, rows[:1]), Pool([Samples(shards, rows)])
    assert len(list(train_loader(*samples, plan, TinyTransform(), **options))) == 4
    with pytest.raises(DataError, match=r"train-00000\.tar:t002: the label"):
        load(tmp_path)


BAD = [
    (
        image_bytes(1),
        label_bytes(np.full((HEIGHT, WIDTH), 37, np.uint8)),
        r"label value\(s\) 37, but there are 3",
    ),
    (image_bytes(1), label_bytes(label_array(1, HEIGHT - 1)), "the label is 16x11 pixels, the image 16x12"),
    (image_bytes(1), label_bytes(label_array(1).T.copy()), "the label is 12x16 pixels, the image 16x12"),
    (
        image_bytes(1, height=WIDTH, width=HEIGHT),
        label_bytes(label_array(1)),
        "the image is 12x16 pixels, the index says 16x12",
    ),
    (image_bytes(1, height=9), label_bytes(label_array(1)), "the image is 16x9 pixels, the index says 16x12"),
    (image_bytes(1), None, "has no label"),
    (b"text", label_bytes(label_array(1)), "is not a JPEG, PNG or WebP"),
]


@pytest.mark.parametrize(("image", "label", "message"), BAD)
def test_bad_samples_name_shard_and_key(
    tmp_path: Path, image: bytes, label: bytes | None, message: str
) -> None:
    shards = one_bad(tmp_path, image, label)
    rows = shards.rows("train")
    plan = Plan([4], None, 4, seed=SEED)
    options: dict[str, Any] = {"stop_step": 1, "num_classes": 3}
    for workers in (0, 1):
        with pytest.raises(DataError, match=rf"^train-00000\.tar:bad: .*{message}"):
            list(train_loader(Samples(shards, rows), None, plan, TinyTransform(), workers=workers, **options))
    if label is not None:
        with pytest.raises(DataError, match=rf"^train-00000\.tar:bad: .*{message}"):
            list(eval_loader(shards, rows, workers=0, batch=4))


def test_a_shard_cut_during_training_is_an_error_in_all_workers(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    shards = ShardSet.open(tmp_path)
    rows = shards.rows("train")
    plan = Plan(shards.shard_sizes(rows[:5]), shards.shard_sizes(rows), 2, 4, seed=SEED)
    loader = train_loader(
        Samples(shards, rows[:5]),
        Pool([Samples(shards, rows)]),
        plan,
        TinyTransform(),
        stop_step=1000,
        workers=2,
        num_classes=3,
        prefetch=1,
    )
    next(loader)
    os.truncate(tmp_path / "train-00001.tar", 2000)
    with pytest.raises(DataError, match=r"train-00001\.tar:t00\d: the shard ends after"):
        for _ in loader:
            pass
