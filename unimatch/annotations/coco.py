"""COCO's annotations: panoptic segments and instances as drawings of class ids.

Source: the COCO data format, https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from unimatch.annotations.labels import OTHERS, Segments
from unimatch.annotations.names import plain_name
from unimatch.annotations.pictures import Annotations, Picture
from unimatch.annotations.shapes import shape_area
from unimatch.errors import DataError, summary
from unimatch.registry import nearest
from unimatch.taxonomy import IGNORE_INDEX

Kind = Literal["panoptic", "instances"]


def read_annotations(
    source: Path, path: str, kind: Kind, rules: Segments, classes: tuple[str, ...]
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
        known = pictures.setdefault(name, Picture(entry["file_name"], (height, width), []))
        if known.size != (height, width):
            assert known.size is not None
            sizes = f"{known.size[1]}x{known.size[0]} and {width}x{height}"
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
        targets = rules.targets(classes)
        called = {rules.names.get(name, name) for name in categories.values()}
        absent = [name for name in classes if name not in called and name != rules.other]
        if absent:
            near = nearest(absent[0], list(categories.values()))
            raise DataError(
                f"{path}: has no category of the class {absent[0]!r}; {near}; `segments: names` says which "
                "categories belong to a class of another name"
            )
        stray = [name for name in rules.names if name not in (*categories.values(), OTHERS)]
        if stray:
            near = nearest(stray[0], list(categories.values()))
            raise DataError(f"{path}: has no category {stray[0]!r}, which `segments: names` names; {near}")
        self.other = IGNORE_INDEX if rules.other is None else targets[rules.other]
        self.crowd = rules.crowd
        others = targets.get(OTHERS, self.other)
        self.by_category = {key: targets.get(name, others) for key, name in categories.items()}

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
            assert picture.size is not None
            if not isinstance(area, (int, float)):
                area = shape_area(shape, *picture.size)
            # Smaller ones on top, as small things mostly stand in front of, or on, large ones; crowds, which
            # are drawn roughly, below all things.
            order = (not crowd, -area, number if isinstance(number, int) else place)
            picture.shapes.append((order, [class_id, shape, number]))
        except (KeyError, DataError) as error:
            picture.faults.append(fault(f"annotation {number}", error))


def fault(what: str, error: Exception) -> str:
    return f"{what}: {f'has no {error}' if isinstance(error, KeyError) else error}"
