"""A shard set of procedural scenes, made in seconds from a seed: for the demo and the tests.

Numbers come from `keyed` by (seed, subset, index), so a scene does not depend on how many others are made.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from unimatch import keyed
from unimatch.codecs.encode import jpeg
from unimatch.errors import ConfigError
from unimatch.packing.pack import Outcome, Packed, labeled_sample, write_set
from unimatch.packing.scenes.camera import render
from unimatch.packing.scenes.classes import TAXONOMY

SUBSETS = ("train", "val")
MIN_SIZE = 32
LOWEST_QUALITY = 80  # of the JPEGs, whose qualities differ
SHARD_BYTES = 1 << 20  # small: a set of a few megabytes should still show how several shards behave


@dataclass(frozen=True)
class SceneJob:
    """One scene to draw."""

    subset: str
    index: int

    @property
    def key(self) -> str:
        return f"{self.subset}/{self.index:06d}"

    def files(self) -> list[Path]:
        return []


def draw(job: SceneJob, seed: int, height: int, width: int) -> Outcome:
    """The scene, encoded."""
    key = keyed.key(seed, SUBSETS.index(job.subset), job.index)
    image, label = render(key, height, width)
    data = jpeg(image, LOWEST_QUALITY + key % 16)
    return Outcome(labeled_sample(job.key, data, "jpg", label, TAXONOMY.num_classes))


def write_synthetic(
    out: Path,
    *,
    train: int = 400,
    val: int = 100,
    height: int = 96,
    width: int = 128,
    seed: int = 0,
    workers: int = 1,
    overwrite: bool = False,
) -> Packed:
    """Write a shard set with subsets of `train` and `val` scenes of `height` x `width` pixels.

    Another seed gives other scenes of the same world. The same arguments give the same bytes.
    """
    counts = {"train": train, "val": val}
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name} must be at least 1 image, found {count}")
    if min(height, width) < MIN_SIZE:
        raise ConfigError(f"size must be at least {MIN_SIZE}x{MIN_SIZE} pixels, found {height}x{width}")
    return write_set(
        out,
        TAXONOMY,
        {name: [SceneJob(name, index) for index in range(count)] for name, count in counts.items()},
        functools.partial(draw, seed=seed, height=height, width=width),
        {"recipe": "synthetic", "height": height, "width": width, "seed": seed},
        shard_bytes=SHARD_BYTES,
        workers=workers,
        overwrite=overwrite,
        source_name="the scenes",
    )
