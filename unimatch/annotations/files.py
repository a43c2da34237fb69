"""The readers by the kind of file: `draw_file` of a file an image, `read_set` of a file for many."""

from __future__ import annotations

from pathlib import Path

from unimatch.annotations import cvat, label_studio, labelme, supervisely, yolo
from unimatch.annotations.drawing import Drawing, Size
from unimatch.annotations.labels import LabelClasses, Segments
from unimatch.annotations.names import plain_name
from unimatch.annotations.pictures import Annotations, Picture
from unimatch.errors import DataError

IMAGE_KINDS = ("labelme", "supervisely", "yolo")
SETS = {"cvat": cvat.read, "label_studio": label_studio.read}
SET_KINDS = tuple(SETS)


def draw_file(kind: str, data: bytes, where: str, size: Size, names: tuple[str, ...]) -> Drawing:
    """What a file says of its image of `size`; `names` of YOLO's classes. DataError: not its kind."""
    if kind == "yolo":
        return yolo.read(data, where, size, names)
    return (labelme.read if kind == "labelme" else supervisely.read)(data, where, size)


def read_set(source: Path, path: str, kind: str, rules: Segments, classes: tuple[str, ...]) -> Annotations:
    """What a file says about each picture; pictures without a shape are there too.

    DataError: not such a file, or one that has a picture twice.
    """
    try:
        data = (source / path).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    try:
        drawings = SETS[kind](data, path, rules)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        if isinstance(error, DataError):
            raise
        text = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{path}: is no {kind} file, or damaged: {text}") from error
    pictures: dict[str, Picture] = {}
    of_labels = LabelClasses.of(rules, classes)
    for number, drawing in enumerate(drawings, 1):
        assert drawing.image is not None
        name = plain_name(drawing.image)
        if name in pictures:
            raise DataError(
                f"{path}: {drawing.image!r} is there twice (entries {pictures[name].ids[0]}, {number}), so "
                "it is not known whose the shapes are; keep one, or write folders into the names"
            )
        shapes = [((False, 0.0, place), shape) for place, shape in enumerate(drawing.shapes(of_labels))]
        left_out, faults = dict(drawing.left_out), drawing.faults
        pictures[name] = Picture(
            drawing.image,
            drawing.size,
            [number],
            shapes,
            left_out=left_out,
            faults=faults,
            unlabeled=drawing.unlabeled,
        )
    aliases = [label_studio.upload_name(name) for name in pictures] if kind == "label_studio" else []
    return Annotations(path, list(pictures.values()), aliases)
