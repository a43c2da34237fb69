"""A shard set of tiny scans: a bright ring (class 1) around a grey disc (class 2) on noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support.tiny_set import write_samples
from unimatch.codecs.encode import png
from unimatch.packing.pack import NewSample, labeled_sample
from unimatch.packing.splits import draw_splits, write_split
from unimatch.shardset.archive import ShardSet
from unimatch.taxonomy import Taxonomy

ORGANS = Taxonomy(("background", "ring", "disc"), ((0, 0, 0), (255, 70, 70), (80, 120, 255)))


def scan(seed: int, depth: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """uint16 [D, H, W] and label uint8 [D, H, W]. The outer slices of a scan of three or more are empty."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    middle = draw.uniform(0.4, 0.6, 2) * (height, width)
    distance = np.hypot(y - middle[0], x - middle[1])
    labels = np.zeros((depth, height, width), np.uint8)
    for index in range(depth):
        if depth >= 3 and index in (0, depth - 1):
            continue
        radius = draw.uniform(0.2, 0.3) * min(height, width)
        labels[index][distance < radius] = 1
        labels[index][distance < 0.5 * radius] = 2
    values = np.array([9000, 55000, 30000])[labels] + draw.normal(0, 4000, labels.shape)
    return values.clip(0, 65535).astype(np.uint16), labels


def sample(key: str, image: np.ndarray, label: np.ndarray) -> NewSample:
    return labeled_sample(key, png(image), "png", label, ORGANS.num_classes)


def write_scans(root: Path, train: int = 12, val: int = 5) -> Path:
    """`train` single slices, and `val` volumes of several depths and sizes, keyed as make_shards.py does."""
    slices = []
    for number in range(train):
        images, labels = scan(number, 1, 40, 48)
        slices.append(sample(f"slices/scan{number}_slice_0", images[0], labels[0]))
    volumes = []
    for number in range(val):
        images, labels = scan(100 + number, 2 + number % 3, 44 + 4 * (number % 2), 40)
        for index, pair in enumerate(zip(images, labels, strict=True)):
            volumes.append(sample(f"scans/{number}/{index:03d}", *pair))
    return write_samples(root, ORGANS, {"train": slices, "val": volumes})


MEDICAL_RUN = """
out: {out}
data:
  {{shards: {shards}, labeled: {split}/labeled.txt, unlabeled: {split}/unlabeled.txt, val: val, workers: 0}}
batch: {{labeled: 4, unlabeled: 4}}
model:
  encoder: {{name: unet, weights: none, in_channels: 1}}
  head: {{name: unet}}
method: {{name: unimatch, mix_partner: shuffled}}
task:
  name: medical
  views: {{crop: 32}}
optimizer: {{lr: 0.01}}
schedule: {{steps: 20}}
log: {{every_steps: 1, pictures_every_steps: 0}}
evaluation: {{every_steps: 10, batch: 3, workers: 0}}
checkpoint: {{every_steps: 10}}
"""


def write_medical_run(folder: Path, **counts: int) -> Path:
    """Shards and a split in `folder`, and the configuration file of a 20-step run in `folder/run`."""
    shards, split, path = folder / "shards", folder / "split", folder / "run.yaml"
    write_scans(shards, **counts)
    write_split(draw_splits(ShardSet.open(shards), "train", [5])[0], split)
    path.write_text(MEDICAL_RUN.format(out=folder / "run", shards=shards, split=split))
    return path
