"""Classes of a set that no pixel of a subset's masks has: such a class is not learned, or not measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from unimatch.codecs.bands import Bands
from unimatch.errors import summary
from unimatch.shardset.index import Shard

FEW = 2  # classes: where more are absent, the images are few rather than a setting wrong
FLAT = 1.0  # stored levels: a band that deviates less from its mean holds little but rounding
MUCH = 0.01  # of the pixels: where more are not labelled, that may be where a class went


def missing_classes(
    names: Sequence[str], subset: str, pixels: np.ndarray, ignored: int | None = None
) -> str | None:
    """A warning that names the classes without a pixel in a subset, or None. `pixels` int64 [num_classes] of
    its masks, `ignored` those that are not labelled.
    """
    absent = [name for name, count in zip(names, pixels.tolist(), strict=True) if not count]
    if not absent:
        return None
    classes = f"{len(absent)} of {len(names)} classes have" if len(absent) > 1 else "a class has"
    text = f"{subset}: {classes} no pixel in any mask: {summary(absent)}"
    total = int(pixels.sum()) + (ignored or 0)
    if ignored and ignored > MUCH * total and len(absent) <= FEW:
        text += (
            f"; {ignored / total:.1%} of the pixels are 'not labelled': did a class go there "
            "(ignore_id, ignore_color, id_map)?"
        )
    return text


def coverage(names: Sequence[str], shards: Mapping[str, Sequence[Shard]]) -> list[str]:
    """The warning of each subset that has masks and was counted."""
    found = []
    for subset, mine in shards.items():
        counted = [shard.class_pixels for shard in mine if shard.class_pixels is not None]
        if not counted:
            continue
        pixels = np.sum(counted, axis=0)
        area = sum(s.width * s.height for shard in mine for s in shard.samples if s.label_size)
        text = missing_classes(names, subset, pixels, area - int(pixels.sum()))
        if text:
            found.append(text)
    return found


def flat_bands(bands: Bands | None, shards: Mapping[str, Sequence[Shard]]) -> list[str]:
    """A warning for each subset of which a band has one value everywhere."""
    found = []
    for subset, mine in shards.items():
        sums = [shard.band_sums for shard in mine if shard.band_sums is not None]
        if bands is None or not sums:
            continue
        deviations = bands.measured(np.sum(sums, axis=0)).std
        flat = [band for band, std in zip(bands.order, deviations, strict=True) if std * bands.white < FLAT]
        if flat:
            found.append(
                f"{subset}: the bands {flat} hardly vary once they are scaled: is the scaling right "
                f"({[list(pair) for pair in bands.ranges]} became 0 and the largest value)?"
            )
    return found
