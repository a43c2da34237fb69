"""Samples for a page: the image, and the classes over it as pictures of a few colours, in limited room."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from unimatch.codecs.encode import jpeg
from unimatch.codecs.picture import Colors, hatching, scaled
from unimatch.data.load import load_pair
from unimatch.engine.restore import Restored
from unimatch.engine.runtime import Runtime
from unimatch.engine.selection import Selection
from unimatch.pages.document import embedded
from unimatch.reports.measured import Score, predictions
from unimatch.tasks.base import Task
from unimatch.taxonomy import IGNORE_INDEX

ROOM = 9_000_000  # bytes of all samples of a page
# Longer side in pixels and JPEG quality: the first that fits is taken.
SIZES = ((640, 85), (512, 80), (400, 75), (320, 70), (256, 65), (192, 60), (128, 50), (64, 30))


@dataclass(frozen=True)
class Seen:
    """A sample as decoded, its truth, and what networks say of it by their name."""

    image: np.ndarray
    label: np.ndarray
    said: Mapping[str, tuple[np.ndarray, np.ndarray]]


def pictured(
    worst: Sequence[Score],
    best: Sequence[Score],
    selection: Selection,
    nets: Mapping[str, Restored],
    runtime: Runtime,
) -> list[dict[str, Any]]:
    """For JSON: each sample's key and figures, and its pictures by name, which `layers` makes."""
    task = next(iter(nets.values())).task
    wanted, shards = [*worst, *best], selection.shards
    rows = dict(zip(shards.keys(selection.rows), selection.rows.tolist(), strict=True))
    found = []
    for number, score in enumerate(wanted):
        part, label = load_pair(shards, rows[score.key], task.taxonomy.num_classes, task.decode)
        said = {name: predictions(net, part.pixels, runtime) for name, net in nets.items()}
        pictures = layers(Seen(part.pixels, label, said), task, ROOM // len(wanted))
        told = {"key": score.key, "value": score.value, "conf": score.conf, "accuracy": score.accuracy}
        found.append({**told, "kind": "worst" if number < len(worst) else "best", "layers": pictures})
    return found


def layers(seen: Seen, task: Task, room: int) -> dict[str, str]:
    """Addresses of the pictures by name, at most `room` characters unless the smallest are more: each date,
    "truth", and for each network its classes and, behind its name, " confidence" (black 0, white 1).

    Classes are transparent where overlays leave the image as it is, and hatched where nothing is labelled.
    """
    found: dict[str, str] = {}
    for side, quality in SIZES:
        found = _layers(seen, task, side, quality)
        if sum(map(len, found.values())) <= room:
            break
    return found


def _layers(seen: Seen, task: Task, side: int, quality: int) -> dict[str, str]:
    side = min(side, max(seen.label.shape))  # none is made larger than it is
    dates = [scaled(date, side) for date in task.show(seen.image)]
    height, width = dates[0].shape[:2]
    names = ["image"] if len(dates) == 1 else [f"date {number}" for number in range(1, len(dates) + 1)]
    found = {name: embedded(jpeg(date, quality)) for name, date in zip(names, dates, strict=True)}

    def classes(ids: np.ndarray) -> str:
        small = cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        return embedded(class_png(small, task.taxonomy.colors, task.background), "png")

    found["truth"] = classes(seen.label)
    for name, (ids, conf) in seen.said.items():
        found[name] = classes(ids)
        grey = cv2.resize(conf, (width, height), interpolation=cv2.INTER_AREA)
        shown = (255 * grey).round().clip(0, 255).astype(np.uint8)
        found[f"{name} confidence"] = embedded(jpeg(np.repeat(shown[..., None], 3, 2), quality))
    return found


def class_png(ids: np.ndarray, colors: Colors, clear: int | None) -> bytes:
    """A PNG of few colours: each class id of `ids` (uint8 [H, W]) in its colour, class `clear` transparent,
    IGNORE_INDEX in stripes of black and white as everywhere else.
    """
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colors)] = np.asarray(colors, np.uint8)
    black, white = (IGNORE_INDEX - 1 if len(colors) < IGNORE_INDEX else IGNORE_INDEX), IGNORE_INDEX
    palette[white] = 255
    stripes = np.where(hatching(*ids.shape)[..., 0] > 0, white, black).astype(np.uint8)
    picture = Image.fromarray(np.where(ids == IGNORE_INDEX, stripes, ids))
    picture = picture.copy()
    picture.putpalette(palette.tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True, **({} if clear is None else {"transparency": clear}))
    return file.getvalue()
