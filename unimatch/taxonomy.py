"""The classes of a data set, and the one label value that stands for "not labelled"."""

from __future__ import annotations

import colorsys
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from unimatch.errors import DataError

IGNORE_INDEX = 255
MAX_CLASSES = IGNORE_INDEX


@dataclass(frozen=True)
class Taxonomy:
    """Class names and RGB colours; a class's id is its place in the list."""

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.names) <= MAX_CLASSES:
            raise DataError(f"a taxonomy needs 2 to {MAX_CLASSES} classes, found {len(self.names)}")
        if len(self.names) != len(self.colors):
            raise DataError(
                f"a taxonomy needs one colour a class: {len(self.names)} names, {len(self.colors)} colours"
            )
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise DataError(f"class names must differ; repeated: {', '.join(repeated)}")

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def hash(self) -> str:
        """16 hex digits that change when a class is renamed, added, removed or moved."""
        return hashlib.sha256(json.dumps(list(self.names)).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        return {
            "names": list(self.names),
            "colors": [list(color) for color in self.colors],
            "hash": self.hash,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Taxonomy:
        return cls(tuple(data["names"]), tuple((int(r), int(g), int(b)) for r, g, b in data["colors"]))

    @classmethod
    def of(cls, names: list[str]) -> Taxonomy:
        """A taxonomy with colours spread over the hue circle."""
        return cls(tuple(names), default_colors(len(names)))


def default_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """`count` RGB colours, neighbours far apart in hue (golden-angle steps), none of them black.

    Class 0 is grey: it is often the background, and most of a picture. Class 1 is pink, a colour that few
    things have: it is often the one that matters.
    """
    colors = [(150, 150, 150)]
    for index in range(1, count):
        hue = (0.87 + (index - 1) * 0.618033988749895) % 1.0
        value = (0.75, 1.0, 0.9)[index % 3]
        r, g, b = colorsys.hsv_to_rgb(hue, 0.65, value)
        colors.append((round(r * 255), round(g * 255), round(b * 255)))
    return tuple(colors)
