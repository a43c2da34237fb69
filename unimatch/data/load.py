"""One sample loaded: its bytes read, decoded and compared with the index and the classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unimatch.codecs.decode import check_label, decode_label
from unimatch.codecs.part import Part, Rect
from unimatch.data.images import rgb
from unimatch.data.samples import Pseudo
from unimatch.data.stages import stage
from unimatch.errors import DataError
from unimatch.shardset.archive import Record, ShardSet

Decode = Callable[[Record, Rect], Part]
"""From a sample's bytes to at least the pixels [..., h, w, C] of a rectangle, see data.images. Picklable."""
Choose = Callable[[int, int], Rect]
"""From width and height of an image to the pixels that are needed of it."""


def all_of(width: int, height: int) -> Rect:
    return 0, 0, width, height


def load_image(shards: ShardSet, row: int, decode: Decode = rgb, choose: Choose = all_of) -> Part:
    """The needed pixels of a sample's image; its label is not read. DataError names shard and key."""
    with stage("read"):
        record = shards.read(row, with_label=False)
    with stage("decode"):
        return _image(record, decode, choose)


def load_pair(
    shards: ShardSet,
    row: int,
    num_classes: int,
    decode: Decode = rgb,
    choose: Choose = all_of,
    pseudo: Pseudo | None = None,
) -> tuple[Part, np.ndarray]:
    """The needed pixels of a sample's image, or more, and its label, uint8 [H, W]: that of `pseudo`, or where
    this has none its own.

    DataError if they do not fit each other, the index or the classes, or if there is no label.
    """
    with stage("read"):
        given = None if pseudo is None else pseudo.read(row)
        record = shards.read(row, with_label=given is None)
        label_bytes, where = given or (record.label, record.where)
    if label_bytes is None:
        raise DataError(
            f"{record.where}: has no label, but the split uses it as a labelled sample; remove its key"
        )
    with stage("decode"):
        image, label = _image(record, decode, choose), decode_label(label_bytes, where)
    if label.shape != (image.height, image.width):
        raise DataError(
            f"{where}: the label is {label.shape[1]}x{label.shape[0]} pixels, the image "
            f"{image.width}x{image.height}; pack the right pair again"
        )
    check_label(label, num_classes, where)
    return image, label


def _image(record: Record, decode: Decode, choose: Choose) -> Part:
    image = decode(record, choose(record.width, record.height))
    if (image.width, image.height) != (record.width, record.height):
        raise DataError(
            f"{record.where}: the image is {image.width}x{image.height} pixels, the index says "
            f"{record.width}x{record.height}; pack the data again"
        )
    return image
