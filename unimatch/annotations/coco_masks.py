"""Class ids as COCO's annotations: a run-length code for each class of an image.

Source: the COCO data format, https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as masks

from unimatch.durable import sync
from unimatch.taxonomy import IGNORE_INDEX

Entry = dict[str, Any]
"""{"image": {"file_name", "height", "width"}, "annotations": [...]} without ids."""


def entry(name: str, ids: np.ndarray, conf: np.ndarray | None = None) -> Entry:
    """What is said of an image: class ids uint8 [H, W], and float [H, W], their probabilities.

    An annotation a class that occurs, in the order of ids: `category_id` is the class id, `score` the mean
    probability. Pixels of IGNORE_INDEX are in none.
    """
    annotations = []
    for class_id in np.unique(ids[ids != IGNORE_INDEX]).tolist():
        mask = ids == class_id
        code = masks.encode(np.asfortranarray(mask, np.uint8))
        made = {
            "category_id": class_id,
            "segmentation": {"size": list(ids.shape), "counts": code["counts"].decode()},
            "area": int(masks.area(code)),
            "bbox": masks.toBbox(code).tolist(),
            "iscrowd": 0,
        }
        if conf is not None:
            made["score"] = round(float(conf[mask].mean(dtype=np.float64)), 4)
        annotations.append(made)
    height, width = ids.shape
    return {
        "image": {"file_name": name, "height": height, "width": width},
        "annotations": annotations,
    }


def write(path: Path, classes: Sequence[str], entries: Iterable[Entry], again: Iterable[Entry]) -> None:
    """Writes the file of all images; ids count from 1 in the order of `entries`, which come twice (`again`),
    so that millions need no memory.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        categories = [{"id": number, "name": name} for number, name in enumerate(classes)]
        file.write(f'{{"categories": {json.dumps(categories)},\n"images": [')
        _listed(file.write, ({"id": n, **one["image"]} for n, one in enumerate(entries, 1)))
        file.write('],\n"annotations": [')
        _listed(file.write, _numbered(again))
        file.write("]}\n")
    sync(temporary)
    temporary.replace(path)


def _numbered(entries: Iterable[Entry]) -> Iterator[dict[str, Any]]:
    number = 0
    for image, one in enumerate(entries, 1):
        for annotation in one["annotations"]:
            number += 1
            yield {"id": number, "image_id": image, **annotation}


def _listed(write: Any, items: Iterable[Any]) -> None:
    """A line each, commas between."""
    for number, item in enumerate(items):
        write(("," if number else "") + "\n" + json.dumps(item))
