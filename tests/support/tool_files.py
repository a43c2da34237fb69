"""Small folders of images with files of annotation tools, made by hand, and what packing makes of them."""

from __future__ import annotations

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.folder_source import jpeg_bytes, labels_of, picture, save
from unimatch.errors import DataError
from unimatch.packing.folder import pack
from unimatch.packing.pack import Packed
from unimatch.packing.recipe import LabelKind, Recipe, Segments, SubsetSource

CLASSES = ("background", "road", "car")
HEIGHT, WIDTH = 12, 16
ROAD = [[2, 2], [10, 2], [10, 8], [2, 8]]  # columns 2 to 9, rows 2 to 7
CAR = [[4, 4], [6, 4], [6, 6], [4, 6]]


def image(root: Path, name: str = "img/a.jpg", height: int = HEIGHT, width: int = WIDTH) -> Path:
    save(root / name, jpeg_bytes(picture(height, width)))
    return root


Box = tuple[int, int, int, int]


def square(value: int, box: Box = (2, 2, 10, 8), on: np.ndarray | None = None) -> np.ndarray:
    """A label of 0 (or `on`) with `value` in a box of x0, y0, x1, y1."""
    label = np.zeros((HEIGHT, WIDTH), np.uint8) if on is None else on.copy()
    label[box[1] : box[3], box[0] : box[2]] = value
    return label


def tool(kind: LabelKind, where: SubsetSource, classes: tuple[str, ...] = CLASSES, **rules: Any) -> Recipe:
    segments = Segments(**{"other": "background", "unannotated": "other", **rules})
    return Recipe({"train": where}, classes, label_kind=kind, segments=segments)


def packed(recipe: Recipe, source: Path) -> tuple[dict[str, np.ndarray], Packed]:
    """The labels by key, and what was told."""
    out = source.parent / "out"
    made = pack(recipe, source, out, overwrite=True)
    return labels_of(out), made


def refused(recipe: Recipe, source: Path) -> str:
    with pytest.raises(DataError) as error:
        pack(recipe, source, source.parent / "out", overwrite=True)
    return str(error.value)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def png64(mask: np.ndarray, packed: bool = False) -> str:
    """Base64 of a PNG of a bool mask; `packed`: of its zlib stream."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG")
    data = file.getvalue()
    return base64.b64encode(zlib.compress(data) if packed else data).decode()
