"""Batches of small sets, and sets to load them from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from tests.support.tiny_set import (
    HEIGHT,
    TAXONOMY,
    WIDTH,
    TinyTransform,
    image_bytes,
    label_array,
    label_bytes,
)
from unimatch import keyed
from unimatch.codecs.encode import ImageRules, jpeg, pack_image, png
from unimatch.data.plan import Plan
from unimatch.data.samples import Pool, Samples
from unimatch.data.training import RawMicro, train_loader
from unimatch.packing.pack import labeled_sample
from unimatch.shardset.archive import ShardSet, ShardWriter, finish_set

SEED = 5
Batches = list[tuple[int, list[RawMicro]]]


def load(root: Path, transform: Any = None, partner: Any = None, **options: Any) -> Batches:
    """Batches of 2 labelled (of t000 to t004) and 4 unlabelled samples of a tiny set."""
    shards = ShardSet.open(root)
    rows = shards.rows("train")
    labeled, unlabeled = rows[:5], rows
    plan = Plan(shards.shard_sizes(labeled), shards.shard_sizes(unlabeled), 2, 4, seed=SEED, partner=partner)
    settings = {"stop_step": 6, "workers": 0, "num_classes": TAXONOMY.num_classes, "timeout_s": 20.0}
    loader = train_loader(
        Samples(shards, labeled),
        Pool([Samples(shards, unlabeled)]),
        plan,
        transform or TinyTransform(),
        **{**settings, **options},
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


def write_scenes(root: Path, fast: bool) -> None:
    """Twelve pictures of soft spots of all colours, JPEG and PNG in turns."""
    writer = ShardWriter(root, "train")
    with writer:
        for number in range(12):
            spots = (keyed.uniform(number, 10 * 14 * 3) * 256).astype(np.uint8).reshape(10, 14, 3)
            image = cv2.resize(spots, (210, 150), interpolation=cv2.INTER_CUBIC)
            data = jpeg(image, 90) if number % 2 else png(image)
            data, ext = pack_image(data, "", ImageRules(fast_decode=fast))[:2]
            label = label_array(number, 150, 210)
            writer.add(**vars(labeled_sample(f"t{number:03d}", data, ext, label, TAXONOMY.num_classes)))
    finish_set(root, TAXONOMY, {}, [writer])


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
