"""A shard set of tiny random images, and a transform that is quick to check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from unimatch import keyed
from unimatch.codecs.part import Part, Rect, as_part
from unimatch.packing.pack import NewSample
from unimatch.shardset.archive import ShardSet, ShardWriter, finish_set
from unimatch.taxonomy import IGNORE_INDEX, Taxonomy

TAXONOMY = Taxonomy.of(["road", "tree", "car"])
HEIGHT, WIDTH = 12, 16


def image_bytes(seed: int, ext: str = "png", height: int = HEIGHT, width: int = WIDTH) -> bytes:
    """An encoded image of smooth noise."""
    noise = (keyed.uniform(seed, height * width * 3) * 256).astype(np.uint8).reshape(height, width, 3)
    done, data = cv2.imencode(f".{ext}", cv2.blur(noise, (3, 3)))
    assert done
    return data.tobytes()


def label_array(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 [height, width] of class ids and ignored pixels."""
    ids = np.array([0, 1, 2, IGNORE_INDEX], np.uint8)
    return ids[(keyed.uniform(seed + 1000, height * width) * 4).astype(int)].reshape(height, width)


def label_bytes(label: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", label)
    assert done
    return data.tobytes()


def class_counts(label: np.ndarray) -> np.ndarray:
    return np.bincount(label.ravel(), minlength=256)[: TAXONOMY.num_classes]


def write_tiny(
    root: Path, train: int = 11, labeled: int = 5, val: int = 4, per_shard: int = 4, ext: str = "png"
) -> Path:
    """`train` samples of which the first `labeled` have a mask, and `val` samples with masks of two sizes."""
    with ShardWriter(root, "train", max_samples=per_shard) as train_writer:
        for seed in range(train):
            label = label_array(seed) if seed < labeled else None
            train_writer.add(
                f"t{seed:03d}",
                image_bytes(seed, ext),
                ext,
                None if label is None else label_bytes(label),
                WIDTH,
                HEIGHT,
                None if label is None else class_counts(label),
                label_ext="png",
            )
    with ShardWriter(root, "val", max_samples=per_shard) as val_writer:
        for seed in range(100, 100 + val):
            height = HEIGHT + seed % 2
            label = label_array(seed, height)
            image = image_bytes(seed, ext, height)
            val_writer.add(
                f"v{seed}",
                image,
                ext,
                label_bytes(label),
                WIDTH,
                height,
                class_counts(label),
                label_ext="png",
            )
    finish_set(root, TAXONOMY, {"recipe": "tiny"}, [train_writer, val_writer])
    return root


def write_samples(
    root: Path, taxonomy: Taxonomy, subsets: Mapping[str, Sequence[NewSample]], max_bytes: int = 1 << 20
) -> Path:
    """A set of the samples as they are, whatever their bytes."""
    writers = []
    for name, samples in subsets.items():
        with ShardWriter(root, name, max_bytes=max_bytes) as writer:
            for sample in samples:
                writer.add(**vars(sample))
        writers.append(writer)
    finish_set(root, taxonomy, {}, writers)
    return root


def damage(root: Path, key: str, member: str = "image") -> None:
    """Overwrite the middle of a sample's image or label with zeros, in place."""
    shards = ShardSet.open(root)
    entry = shards.index[shards.keys(np.arange(len(shards))).index(key)]
    offset, size = int(entry[f"{member}_offset"]), int(entry[f"{member}_size"])
    with open(root / shards.shard_names[entry["shard"]], "r+b") as file:
        file.seek(offset + size // 2)
        file.write(bytes(size - size // 2))


class TinyTransform:
    """Whole images, with noise from the key added, so that keys, orders and partners show in the result."""

    def region(self, width: int, height: int, key: int, role: str) -> Rect:
        return 0, 0, width, height

    def labeled(
        self, image: Part | np.ndarray, label: np.ndarray, key: int, out: dict[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        return {"image": self._noisy(as_part(image).pixels, key), "label": label}

    def unlabeled(
        self,
        image: Part | np.ndarray,
        key: int,
        partner_image: Part | np.ndarray | None = None,
        out: dict[str, np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        pixels = as_part(image).pixels
        views = {"weak": pixels, "strong": np.stack([self._noisy(pixels, key), self._noisy(pixels, key + 1)])}
        if partner_image is not None:
            views["partner_weak"] = as_part(partner_image).pixels
        return views

    def _noisy(self, image: np.ndarray, key: int) -> np.ndarray:
        noise = keyed.bits(key & keyed.MASK, image.size).astype(np.uint8)
        return image + noise.reshape(image.shape)
