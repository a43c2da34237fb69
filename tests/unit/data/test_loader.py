"""Batches: the right samples, the same for any number of workers and ranks, and clear errors for bad ones."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

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
from unimatch.codecs.encode import ImageRules, jpeg, pack_image, png
from unimatch.data.loader import RawMicro, eval_loader, train_loader
from unimatch.data.plan import Plan, Tag
from unimatch.errors import ConfigError, DataError
from unimatch.packing import synthetic
from unimatch.packing.pack import labeled_sample
from unimatch.shardset.archive import ShardSet, ShardWriter, finish_set
from unimatch.taxonomy import IGNORE_INDEX
from unimatch.views.natural import NaturalViews, ViewConfig

SEED = 5
Batches = list[tuple[int, list[RawMicro]]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("loader") / "set", ext="jpg")


def load(root: Path, transform: Any = None, partner: Any = None, **options: Any) -> Batches:
    """Batches of 2 labelled (of t000 to t004) and 4 unlabelled samples of a tiny set."""
    shards = ShardSet.open(root)
    rows = shards.rows("train")
    labeled, unlabeled = rows[:5], rows
    plan = Plan(shards.shard_sizes(labeled), shards.shard_sizes(unlabeled), 2, 4, seed=SEED, partner=partner)
    settings = {"stop_step": 6, "workers": 0, "num_classes": TAXONOMY.num_classes, "timeout_s": 20.0}
    loader = train_loader(
        shards, labeled, unlabeled, plan, transform or TinyTransform(), **{**settings, **options}
    )
    return list(loader)


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


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


def write_scenes(root: Path, fast: bool) -> None:
    """Twelve scenes, JPEG and PNG in turns."""
    writer = ShardWriter(root, "train")
    with writer:
        for number in range(12):
            image, label = synthetic.render(number, 150, 210)
            data = jpeg(image, 90) if number % 2 else png(image)
            data, ext, _, _ = pack_image(data, "", ImageRules(fast_decode=fast))
            label = np.where(label < TAXONOMY.num_classes, label, IGNORE_INDEX).astype(np.uint8)
            writer.add(**vars(labeled_sample(f"t{number:03d}", data, ext, label, TAXONOMY.num_classes)))
    finish_set(root, TAXONOMY, {}, [writer])


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
        shards, rows, None, plan, TinyTransform(), stop_step=3, workers=1, num_classes=TAXONOMY.num_classes
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
    assert len(list(train_loader(shards, rows[:1], rows, plan, TinyTransform(), **options))) == 4
    with pytest.raises(DataError, match=r"train-00000\.tar:t002: the label"):
        load(tmp_path)


def one_bad(
    root: Path, image: bytes, label: bytes | None, width: int = WIDTH, height: int = HEIGHT
) -> ShardSet:
    """A set of three good samples and `bad`."""
    with ShardWriter(root, "train") as writer:
        for seed in range(3):
            writer.add(f"k{seed}", image_bytes(seed), "png", label_bytes(label_array(seed)), WIDTH, HEIGHT)
        writer.add("bad", image, "png", label, width, height)
    finish_set(root, TAXONOMY, {}, [writer])
    return ShardSet.open(root)


BAD = [
    (
        image_bytes(1),
        label_bytes(np.full((HEIGHT, WIDTH), 37, np.uint8)),
        r"label value\(s\) 37, but there are 3",
    ),
    (image_bytes(1), label_bytes(label_array(1, HEIGHT - 1)), "the label is 16x11 pixels, the image 16x12"),
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
            list(train_loader(shards, rows, None, plan, TinyTransform(), workers=workers, **options))
    if label is not None:
        with pytest.raises(DataError, match=rf"^train-00000\.tar:bad: .*{message}"):
            list(eval_loader(shards, rows, workers=0, batch=4))


def test_a_shard_cut_during_training_is_an_error_in_all_workers(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    shards = ShardSet.open(tmp_path)
    rows = shards.rows("train")
    plan = Plan(shards.shard_sizes(rows[:5]), shards.shard_sizes(rows), 2, 4, seed=SEED)
    loader = train_loader(
        shards, rows[:5], rows, plan, TinyTransform(), stop_step=1000, workers=2, num_classes=3, prefetch=1
    )
    next(loader)
    os.truncate(tmp_path / "train-00001.tar", 2000)
    with pytest.raises(DataError, match=r"train-00001\.tar:t00\d: the shard ends after"):
        for _ in loader:
            pass


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
        list(train_loader(shards, rows, None, plan, TinyTransform(), **options))


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_deals_each_image_once_in_batches_of_one_size(
    root: Path, world: int, workers: int
) -> None:
    shards = ShardSet.open(root)
    rows = shards.rows("val")
    seen = []
    for rank in range(world):
        for batch in eval_loader(shards, rows, rank=rank, world=world, workers=workers, batch=3):
            assert batch["label"] is not None and len(batch["keys"]) <= 3
            assert batch["image"].shape == (*batch["label"].shape, 3) and batch["image"].dtype == torch.uint8
            for b, key in enumerate(batch["keys"]):
                seed = int(key[1:])
                assert (batch["label"][b].numpy() == label_array(seed, HEIGHT + seed % 2)).all()
                assert (
                    batch["image"][b].numpy()
                    == decode_image(image_bytes(seed, "jpg", HEIGHT + seed % 2), "x")
                ).all()
            seen += batch["keys"]
    assert sorted(seen) == [f"v{seed}" for seed in range(100, 104)]


def test_evaluation_separates_images_with_and_without_labels(root: Path) -> None:
    shards = ShardSet.open(root)
    batches = list(eval_loader(shards, shards.rows("train"), workers=0, batch=4))
    assert sorted((len(batch["keys"]), batch["label"] is None) for batch in batches) == [
        (1, False), (2, True), (4, False), (4, True),
    ]  # fmt: skip
