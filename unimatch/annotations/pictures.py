"""The pictures of an annotation file, and which of them an image on disk is.

A drawing is the JSON of all that one image's label needs, so that workers get a few bytes rather than the
whole annotation file: {"size": [height, width], "segments": [[class id, id], ...]} for panoptic segments, and
{"size": [height, width], "shapes": [[class id, shape, number], ...]} for shapes, bottom first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from unimatch.annotations.drawing import Size
from unimatch.annotations.names import NameIndex
from unimatch.errors import DataError, summary


@dataclass
class Picture:
    """One picture of an annotation file; entries of the same name are one picture."""

    name: str  # as it stands there
    size: Size | None  # None: the file does not say it
    ids: list[Any]
    # What the order of the shapes goes by, and [class id, shape, number].
    shapes: list[tuple[tuple[bool, float, int], list[Any]]] = field(default_factory=list)
    segments: list[list[int]] | None = None
    left_out: dict[str, int] = field(default_factory=dict)  # kinds of things that are no areas
    faults: list[str] = field(default_factory=list)  # of its annotations
    unlabeled: str | None = None  # why it counts as not annotated at all

    def drawing(self, panoptic: bool) -> bytes | None:
        """None: the file says nothing about it."""
        content: dict[str, Any] = {"size": self.size}
        if panoptic:
            if self.segments is None:
                return None
            content["segments"] = self.segments
        else:
            content["shapes"] = [shape for _, shape in sorted(self.shapes, key=lambda pair: pair[0])]
        if self.left_out:
            content["left_out"] = self.left_out
        return json.dumps(content, separators=(",", ":")).encode()


@dataclass
class Annotations:
    """The pictures of an annotation file, and how images on disk find them."""

    path: str
    pictures: list[Picture]
    aliases: Sequence[str] = ()  # of each picture another name, for images that have none of the first names

    def __post_init__(self) -> None:
        self._names = NameIndex([picture.name for picture in self.pictures])
        self._others = NameIndex(self.aliases)

    def places(self, image: str) -> list[int]:
        """The places of the pictures that an image on disk may be."""
        return self._names.find(image) or self._others.find(image)

    def find(self, image: str) -> int:
        """The place of the picture that an image on disk is. DataError: none, or several."""
        places = self.places(image)
        if len(places) == 1:
            return places[0]
        if places:
            names = summary((repr(self.pictures[place].name) for place in places), 3)
            raise DataError(f"{image}: {self.path} has several pictures that it could be: {names}")
        alike = [self.pictures[place].name for place in self._names.same_file(image)]
        names = summary((repr(name) for name in alike or [p.name for p in self.pictures]), 3)
        told = f"it has the file name in other folders: {names}" if alike else f"its file names are {names}"
        raise DataError(f"{image}: {self.path} has no annotation of it; {told}")

    @property
    def merged(self) -> list[Picture]:
        """Pictures of several entries."""
        return [picture for picture in self.pictures if len(picture.ids) > 1]
