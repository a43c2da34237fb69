"""From samples to a finished shard set, which appears whole or not at all. Recipes share it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unimatch.data.writer import ShardWriter, finish_set
from unimatch.errors import DataError
from unimatch.taxonomy import IGNORE_INDEX, Taxonomy


@dataclass(frozen=True)
class NewSample:
    """What a recipe hands over: encoded image and label bytes and what the index needs to know of them."""

    key: str
    image: bytes
    image_ext: str
    label: bytes | None  # None: mask-free
    width: int
    height: int
    class_counts: np.ndarray | None  # int64 [num_classes]; None: mask-free


@dataclass(frozen=True)
class Packed:
    """What was written: samples and labelled samples of each subset, and why images were encoded anew."""

    subsets: dict[str, tuple[int, int]]
    notes: dict[str, int]


def labeled_sample(key: str, image: bytes, image_ext: str, label: np.ndarray, num_classes: int) -> NewSample:
    """The sample of an encoded image and its uint8 [H, W] label, which is stored as a single-channel PNG."""
    height, width = label.shape
    return NewSample(key, image, image_ext, png(label), width, height, class_counts(label, num_classes))


def class_counts(label: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 [num_classes]: pixels of each class; ignored pixels are not counted."""
    return np.bincount(label.ravel(), minlength=IGNORE_INDEX + 1)[:num_classes].astype(np.int64)


def png(array: np.ndarray) -> bytes:
    """PNG bytes of uint8 [H, W] or RGB [H, W, 3]."""
    return encode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, 6])


def jpeg(image: np.ndarray, quality: int) -> bytes:
    """JPEG bytes of uint8 RGB [H, W, 3]."""
    return encode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode(ext: str, array: np.ndarray, options: list[int]) -> bytes:
    done, data = cv2.imencode(ext, array if array.ndim == 2 else array[..., ::-1], options)
    assert done, f"OpenCV cannot encode {ext} of shape {array.shape}"
    return data.tobytes()


def write_set(
    root: Path,
    taxonomy: Taxonomy,
    subsets: Iterable[tuple[str, Iterable[NewSample]]],
    created: Mapping[str, Any],
    shard_bytes: int,
) -> None:
    """Write the samples of each subset in the given order, then the index, into the empty folder `root`."""
    writers = []
    for name, samples in subsets:
        with ShardWriter(root, name, max_bytes=shard_bytes) as writer:
            for s in samples:
                writer.add(s.key, s.image, s.image_ext, s.label, s.width, s.height, s.class_counts)
        writers.append(writer)
    finish_set(root, taxonomy, created, writers)


@contextmanager
def staged(out: Path, overwrite: bool) -> Iterator[Path]:
    """An empty folder beside `out` that takes its place when the block ends well, and is removed when it
    does not.

    An `out` that exists and is not empty is refused; with `overwrite` a shard set there is replaced, but
    only at the end, and anything that is not a shard set is still refused.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} exists and is not a folder; choose another --out")
    present = list(out.iterdir()) if out.exists() else []
    if present and not overwrite:
        raise DataError(
            f"{out} is not empty; choose another --out, or --overwrite to replace the shard set in it"
        )
    foreign = sorted(
        path.name for path in present if path.is_dir() or path.suffix not in (".tar", ".json", ".npy")
    )
    if foreign:
        raise DataError(f"{out} holds more than a shard set ({', '.join(foreign[:3])}); it is not replaced")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed run
    try:
        try:
            partial.mkdir(parents=True)
            yield partial
            if out.exists():
                shutil.rmtree(out)
            partial.rename(out)
        except OSError as error:
            raise DataError(f"cannot write {error.filename or out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
