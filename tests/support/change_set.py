"""A shard set of tiny pairs: ground of one texture, and bright squares, of which some are new at date two."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support.tiny_set import write_samples
from unimatch.codecs.encode import png
from unimatch.packing.pack import NewSample, labeled_sample
from unimatch.packing.splits import draw_splits, write_split
from unimatch.shardset.archive import ShardSet
from unimatch.taxonomy import Taxonomy

CHANGES = Taxonomy(("unchanged", "changed"), ((0, 0, 0), (255, 50, 30)))


def pair(seed: int, height: int, width: int, changed: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [2, H, W, 3] and label uint8 [H, W]; the light of the second date differs everywhere."""
    draw = np.random.default_rng(seed)
    ground = 90 + draw.integers(-20, 20, (height, width, 1)) + draw.integers(-15, 15, 3)
    first, label = ground.copy(), np.zeros((height, width), np.uint8)
    second = ground + draw.integers(-25, 25, 3)
    for new in (False, *[True] * (2 if changed else 0)):
        side = int(draw.integers(height // 5, height // 2))
        y, x = int(draw.integers(0, height - side)), int(draw.integers(0, width - side))
        area = np.s_[y : y + side, x : x + side]
        second[area] = 210
        if new:
            label[area] = 1
        else:
            first[area] = 210
    label[(first[..., 0] == 210) & (label == 1)] = 0
    return np.stack([first, second]).clip(0, 255).astype(np.uint8), label


def sample(key: str, seed: int, height: int, width: int, changed: bool = True) -> NewSample:
    images, label = pair(seed, height, width, changed)
    return labeled_sample(key, png(images[0]), "png", label, 2, second=png(images[1]))


def write_changes(root: Path, train: int = 12, val: int = 7, height: int = 48, width: int = 64) -> Path:
    """`train` pairs, and `val` pairs of two sizes."""
    subsets = {
        "train": [sample(f"train/{i}", i, height, width) for i in range(train)],
        "val": [sample(f"val/{i}", 100 + i, height + 4 * (i % 2), width) for i in range(val)],
    }
    return write_samples(root, CHANGES, subsets)


CHANGE_RUN = """
out: {out}
data:
  {{shards: {shards}, labeled: {split}/labeled.txt, unlabeled: {split}/unlabeled.txt, val: val, workers: 0}}
batch: {{labeled: 4, unlabeled: 4}}
model:
  encoder: {{name: test_efficientnet, weights: none, output_stride: 16}}
  head: {{name: deeplabv3plus, rates: [1, 2, 3], channels: 32}}
method: {{name: unimatch}}
task:
  name: change
  views: {{crop: 48}}
optimizer: {{lr: 0.01}}
schedule: {{steps: 20}}
log: {{every_steps: 1, pictures_every_steps: 0}}
evaluation: {{every_steps: 10, batch: 1, workers: 0}}
checkpoint: {{every_steps: 10}}
"""


def write_change_run(folder: Path, **counts: int) -> Path:
    """Shards and a split in `folder`, and the configuration file of a 20-step run in `folder/run`."""
    shards, split, path = folder / "shards", folder / "split", folder / "run.yaml"
    write_changes(shards, **counts)
    write_split(draw_splits(ShardSet.open(shards), "train", [5])[0], split)
    path.write_text(CHANGE_RUN.format(out=folder / "run", shards=shards, split=split))
    return path
