"""Small folders of images and labels, and what the tests of recipes do with them."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from unimatch.codecs.decode import decode_image, decode_label
from unimatch.errors import DataError
from unimatch.packing.folder import pack
from unimatch.packing.recipe import Recipe, SubsetSource
from unimatch.shardset.archive import ShardSet

RECIPES = Path(__file__).parents[2] / "shards" / "recipes"
CLASSES = ("road", "car", "sky")
COLORS = ((128, 64, 128), (0, 0, 142), (70, 130, 180))


def picture(height: int = 12, width: int = 16, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return cv2.resize(small, (width, height))


def jpeg_bytes(image: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=92, **options)
    return file.getvalue()


def ids(height: int = 12, width: int = 16) -> np.ndarray:
    """Columns 0..3 road, 4..7 car, 8..11 sky, the rest 11 = not labelled."""
    label = np.full((height, width), 11, np.uint8)
    for k in range(3):
        label[:, 4 * k : 4 * k + 4] = k
    return label


def save(path: Path, data: np.ndarray | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        Image.fromarray(data).save(path)


def make_source(root: Path, names: tuple[str, ...] = ("a", "b", "c")) -> Path:
    for seed, name in enumerate(names):
        save(root / "img" / f"{name}.jpg", jpeg_bytes(picture(seed=seed)))
        save(root / "lab" / f"{name}.png", ids())
    return root


def recipe(**changes: object) -> Recipe:
    values: dict = {
        "classes": CLASSES,
        "ignore_id": 11,
        "subsets": {"train": SubsetSource("img/*.jpg", "lab/{stem}.png")},
    }
    return Recipe(**{**values, **changes})


def refused(source: Path, out: Path, **changes: object) -> str:
    with pytest.raises(DataError) as error:
        pack(recipe(**changes), source, out)
    assert not out.exists() and not list(out.parent.glob("*.partial"))
    return str(error.value)


def only(out: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Image and label of the one sample in a set."""
    shards = ShardSet.open(out)
    assert len(shards) == 1
    record = shards.read(0)
    label = None if record.label is None else decode_label(record.label, record.where)
    return decode_image(record.image, record.where), label


def labels_of(out: Path, subset: str = "train") -> dict[str, np.ndarray]:
    """The label of each labelled sample of a subset, by key."""
    shards = ShardSet.open(out)
    records = [shards.read(row) for row in shards.rows(subset)]
    return {r.key: decode_label(r.label, r.where) for r in records if r.label is not None}
