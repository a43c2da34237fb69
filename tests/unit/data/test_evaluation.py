"""Batches of evaluation: each image once over all ranks, in batches of one kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.tiny_set import (
    HEIGHT,
    TAXONOMY,
    WIDTH,
    image_bytes,
    label_array,
    label_bytes,
    write_tiny,
)
from unimatch.codecs.decode import decode_image
from unimatch.data.evaluation import eval_loader
from unimatch.shardset.archive import ShardSet, ShardWriter, finish_set


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("evaluation") / "set", ext="jpg")


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


def test_evaluation_separates_images_that_differ_in_one_side(tmp_path: Path) -> None:
    sizes = [(HEIGHT, WIDTH), (HEIGHT, WIDTH + 1), (HEIGHT + 1, WIDTH), (HEIGHT, WIDTH), (WIDTH, HEIGHT)]
    with ShardWriter(tmp_path, "val") as writer:
        for seed, (height, width) in enumerate(sizes):
            label = label_bytes(label_array(seed, height, width))
            image = image_bytes(seed, "png", height, width)
            writer.add(f"v{seed}", image, "png", label, width, height, label_ext="png")
    finish_set(tmp_path, TAXONOMY, {}, [writer])
    shards = ShardSet.open(tmp_path)
    batches = list(eval_loader(shards, shards.rows("val"), workers=0, batch=4))
    assert sorted(batch["keys"] for batch in batches) == [["v0", "v3"], ["v1"], ["v2"], ["v4"]]
    for batch in batches:
        assert batch["label"] is not None
        assert tuple(batch["label"].shape[1:]) == sizes[int(batch["keys"][0][1:])]
