"""COCO's annotations: panoptic segments and instances as drawings of class ids.

Source: the COCO data format, https://cocodataset.org/#format-data. A drawing is the JSON of all that one
image's label needs, so that workers get a few bytes rather than the whole annotation file:
{"size": [height, width], "segments": [[class id, id], ...]} for panoptic segments, and
{"size": [height, width], "shapes": [[class id, segmentation, annotation id], ...]} for instances, bottom
first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unimatch.errors import DataError, summary
from unimatch.packing.coco_names import NameIndex, plain_name
from unimatch.packing.recipe import LabelKind, Segments
from unimatch.packing.shapes import shape_area
from unimatch.registry import nearest
from unimatch.taxonomy import IGNORE_INDEX


@dataclass
class Picture:
    """One picture of an annotation file; entries of the same name are one picture."""

    name: str  # `file_name` as it stands there
    height: int
    width: int
    ids: list[Any]
    # What the order of the shapes goes by, and [class id, segmentation, annotation id].
    shapes: list[tuple[tuple[bool, float, int], list[Any]]] = field(default_factory=list)
    segments: list[list[int]] | None = None
    faults: list[str] = field(default_factory=list)  # of its annotations

    def drawing(self, kind: LabelKind) -> bytes | None:
        """None: the file says nothing about it."""
        content: dict[str, Any] = {"size": [self.height, self.width]}
        if kind == "panoptic":
            if self.segments is None:
                return None
            content["segments"] = self.segments
        else:
            content["shapes"] = [shape for _, shape in sorted(self.shapes, key=lambda pair: pair[0])]
        return json.dumps(content, separators=(",", ":")).encode()


@dataclass
class Annotations:
    """The pictures of an annotation file, and how images on disk find them."""

    path: str
    pictures: list[Picture]

    def __post_init__(self) -> None:
        self._names = NameIndex([picture.name for picture in self.pictures])

    def places(self, image: str) -> list[int]:
        """The places of the pictures that an image on disk may be."""
        return self._names.find(image)

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


def read_annotations(
    source: Path, path: str, kind: LabelKind, rules: Segments, classes: tuple[str, ...]
) -> Annotations:
    """What an annotation file says about each picture.

    DataError: not such a file, another kind of annotations, a class that is no category, or entries that
    contradict each other.
    """
    try:
        content = json.loads((source / path).read_bytes())
        categories: dict[Any, str] = {}
        for entry in content["categories"]:
            if categories.setdefault(entry["id"], entry["name"]) != entry["name"]:
                names = f"{categories[entry['id']]!r} and {entry['name']!r}"
                raise DataError(f"{path}: the category id {entry['id']} is {names}; are these merged files?")
        pictures = read_pictures(path, content["images"])
        rule = ClassRule(path, rules, classes, categories)
        by_id = {number: picture for picture in pictures for number in picture.ids}
        annotations = content["annotations"]
        check_owners(path, annotations, by_id)
        if kind == "panoptic":
            read_segments(path, annotations, by_id, rule)
        else:
            read_shapes(path, annotations, by_id, rule)
        return Annotations(path, pictures)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        text = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{path}: is not a COCO {kind} annotation file: {text}") from error


def read_pictures(path: str, entries: list[dict[str, Any]]) -> list[Picture]:
    """The pictures of `images`. DataError: an id that two of them have, or a name with two sizes."""
    pictures: dict[str, Picture] = {}
    names: dict[Any, str] = {}
    for entry in entries:
        name = plain_name(entry["file_name"])
        for side in ("height", "width"):
            if not (isinstance(entry.get(side), (int, float)) and entry[side] == int(entry[side]) > 0):
                found = "no" if entry.get(side) is None else f"{entry[side]!r} as"
                raise DataError(f"{path}: {entry['file_name']!r} has {found} {side!r} in `images`")
        if names.setdefault(entry["id"], name) != name:
            raise DataError(
                f"{path}: the image id {entry['id']} is {names[entry['id']]!r} and {name!r}, so it is not "
                "known whose the annotations are; were files merged without new ids?"
            )
        height, width = int(entry["height"]), int(entry["width"])
        known = pictures.setdefault(name, Picture(entry["file_name"], height, width, []))
        if (known.height, known.width) != (height, width):
            sizes = f"{known.width}x{known.height} and {width}x{height}"
            raise DataError(
                f"{path}: {entry['file_name']!r} is there twice, of {sizes} pixels: two pictures of one "
                "name; write their folders into file_name"
            )
        if entry["id"] not in known.ids:
            known.ids.append(entry["id"])
    return list(pictures.values())


def check_owners(path: str, annotations: list[dict[str, Any]], by_id: dict[Any, Picture]) -> None:
    """DataError for annotations of images that are not listed."""
    lost = [entry for entry in annotations if entry["image_id"] not in by_id]
    if lost:
        shown = summary((f"annotation {e.get('id')} of image {e['image_id']}" for e in lost), 3)
        raise DataError(f"{path}: {len(lost)} x {shown}, which `images` does not have")


class ClassRule:
    """What class a segment has, by its category and whether it is a crowd."""

    def __init__(self, path: str, rules: Segments, classes: tuple[str, ...], categories: dict[Any, str]):
        names = {name: place for place, name in enumerate(classes)}
        absent = [name for name in classes if name not in categories.values() and name != rules.other]
        if absent:
            near = nearest(absent[0], list(categories.values()))
            raise DataError(f"{path}: has no category of the class {absent[0]!r}; {near}")
        self.other = IGNORE_INDEX if rules.other is None else names[rules.other]
        self.crowd = rules.crowd
        self.by_category = {key: names.get(name, self.other) for key, name in categories.items()}

    def of(self, category: Any, crowd: int) -> int:
        if category not in self.by_category:
            raise DataError(f"has the category {category}, which is not listed")
        if crowd and self.crowd != "class":
            return IGNORE_INDEX if self.crowd == "ignore" else self.other
        return self.by_category[category]


def read_segments(
    path: str, annotations: list[dict[str, Any]], by_id: dict[Any, Picture], rule: ClassRule
) -> None:
    """Give pictures their panoptic segments, or a fault."""
    for entry in annotations:
        if "segments_info" not in entry:
            raise DataError(
                f"{path}: has no segments_info, so no panoptic segments; is it label_kind instances?"
            )
        picture = by_id[entry["image_id"]]
        if picture.segments is not None:
            raise DataError(f"{path}: {picture.name!r} has two annotations of panoptic segments; keep one")
        picture.segments = []
        for segment in entry["segments_info"]:
            try:
                class_id = rule.of(segment["category_id"], segment.get("iscrowd", 0))
                picture.segments.append([class_id, segment["id"]])
            except (KeyError, DataError) as error:
                picture.faults.append(fault(f"segment {segment.get('id')}", error))


def read_shapes(
    path: str, annotations: list[dict[str, Any]], by_id: dict[Any, Picture], rule: ClassRule
) -> None:
    """Give pictures their shapes, or a fault."""
    if annotations and not any("segmentation" in entry for entry in annotations):
        panoptic = any("segments_info" in entry for entry in annotations)
        told = "is it label_kind panoptic?" if panoptic else "boxes alone are no masks"
        raise DataError(f"{path}: has no segmentation, so no instances; {told}")
    for place, entry in enumerate(annotations):
        picture, number = by_id[entry["image_id"]], entry.get("id", f"number {place + 1}")
        try:
            shape, crowd = entry.get("segmentation"), entry.get("iscrowd", 0)
            if not shape:
                kind = "empty" if isinstance(shape, (list, dict)) else "missing (null)"
                raise DataError(f"its segmentation is {kind}; a box without a mask?")
            class_id = rule.of(entry["category_id"], crowd)
            area = entry.get("area")
            if not isinstance(area, (int, float)):
                area = shape_area(shape, picture.height, picture.width)
            # Smaller ones on top, as small things mostly stand in front of, or on, large ones; crowds, which
            # are drawn roughly, below all things.
            order = (not crowd, -area, number if isinstance(number, int) else place)
            picture.shapes.append((order, [class_id, shape, number]))
        except (KeyError, DataError) as error:
            picture.faults.append(fault(f"annotation {number}", error))


def fault(what: str, error: Exception) -> str:
    return f"{what}: {f'has no {error}' if isinstance(error, KeyError) else error}"
