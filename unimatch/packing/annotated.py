"""What the annotations of a subset say about each of its images, as the layout of a recipe needs it."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unimatch.annotations import coco, files, yolo
from unimatch.annotations.labels import LabelClasses
from unimatch.annotations.names import composed
from unimatch.annotations.pictures import Annotations, Picture
from unimatch.errors import DataError
from unimatch.packing.findings import EXAMPLES, Problem
from unimatch.packing.globs import CHOICE, Walk, alternatives, on_disk
from unimatch.packing.names import Found, is_there
from unimatch.packing.recipe import CLASS, PLACEHOLDERS, Recipe, SubsetSource


@dataclass
class Annotated:
    """The annotation files of a recipe, each read once."""

    source: Path
    recipe: Recipe
    classes: tuple[str, ...]
    sets: dict[str, Annotations] = field(default_factory=dict)  # by their path
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of YOLO's classes, by the path
    bad: set[str] = field(default_factory=set)

    def read(self, where: SubsetSource) -> None:
        """Read the annotation file of a subset, if it has one. DataError, once: it cannot be read."""
        path = where.annotations
        if path is None or path in (*self.sets, *self.names, *self.bad):
            return
        recipe, disk = self.recipe, on_disk(self.source, path)
        try:
            if recipe.label_kind == "yolo":
                self.names[path] = self._class_names(disk)
                return
            assert recipe.segments is not None
            args = (self.source, disk, recipe.label_kind, recipe.segments, self.classes)
            read = files.read_set if recipe.label_kind in files.SET_KINDS else coco.read_annotations
            self.sets[path] = read(*args)  # type: ignore[arg-type]
        except DataError:
            self.bad.add(path)
            raise

    def _class_names(self, path: str) -> tuple[str, ...]:
        try:
            return yolo.class_names((self.source / path).read_bytes(), path)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error

    def of(self, where: SubsetSource) -> Annotations | None:
        """The file for many images of a subset; None: it has none."""
        return self.sets.get(where.annotations or "")

    def has(self, image: Found, where: SubsetSource) -> bool:
        """Whether an image has a label, or something that looks like one and is told when it is read."""
        annotations = self.of(where)
        if annotations is None:
            return any(image.has(self.source, one) for one in self.recipe.label_templates(where))
        places = annotations.places(image.path)
        return bool(places) and not (len(places) == 1 and annotations.pictures[places[0]].unlabeled)

    def picture(self, image: Found, where: SubsetSource) -> tuple[Picture, bytes] | None:
        """The picture of an image, and what its label is drawn from; None: the subset has no such file.

        DataError: none, several, or a bad one.
        """
        annotations = self.of(where)
        if annotations is None:
            return None
        picture = annotations.pictures[annotations.find(image.path)]
        if picture.unlabeled:
            raise DataError(
                f"{image.path}: is not annotated in {annotations.path}: {picture.unlabeled}; skip_unlabeled: "
                "true leaves such images out"
            )
        if picture.faults:
            more = f" and {len(picture.faults) - 1} more" if len(picture.faults) > 1 else ""
            raise DataError(f"{annotations.path}: {picture.name}: {picture.faults[0]}{more}")
        drawing = picture.drawing(self.recipe.label_kind == "panoptic")
        if drawing is None:
            raise DataError(f"{image.path}: {annotations.path} has no annotation of it")
        return picture, drawing

    def yolo_names(self, where: SubsetSource) -> bytes | None:
        """The names of YOLO's classes as JSON; None: another kind of label."""
        if self.recipe.label_kind != "yolo":
            return None
        return json.dumps(self.names.get(where.annotations or "", self.classes)).encode()

    def parts(self, image: Found, where: SubsetSource) -> tuple[str, tuple[tuple[int, str], ...]]:
        """(the path of the masks of an image of one mask a class, (class id, path) of those that it has)."""
        assert self.recipe.segments is not None and where.labels is not None
        targets = self.recipe.segments.targets(self.classes)
        paths = [
            (target, image.resolve(self.source, template))
            for target, template in zip(targets.values(), self.recipe.label_templates(where), strict=True)
        ]
        return image.resolve(self.source, where.labels), tuple(
            one for one in paths if is_there(self.source, one[1])
        )


def stray_masks(
    walk: Walk, recipe: Recipe, classes: Sequence[str], matched: Mapping[str, Sequence[Found]]
) -> Iterator[Problem]:
    """A problem for each label that mask files of the packed images name, and that is no class."""
    if recipe.label_kind != "class_masks":
        return
    assert recipe.segments is not None
    targets = recipe.segments.targets(classes)
    found: dict[str, list[str]] = {}
    for subset, images in matched.items():
        where = recipe.subsets[subset]
        known = {
            composed(path)
            for image in images
            for one in recipe.label_templates(where)
            for path in image.paths(one)
        }
        ends: dict[str, set[str]] = {}  # what stands before a class, and what may stand behind it
        for image in images:
            for path in image.paths(where.labels or CLASS):
                head, _, tail = path.partition(CLASS)
                ends.setdefault(composed(head), set()).add(composed(tail.replace(CLASS, "")))
        for path in sorted(mask_files(walk, where.labels or CLASS)):
            label = None if composed(path) in known else label_in(composed(path), ends)
            if label is not None:
                found.setdefault(label, []).append(path)
    for label, paths in sorted(found.items()):
        _, told = LabelClasses(tuple(targets.items())).ids([label])
        shown = ", ".join(paths[:EXAMPLES]) + (", ..." if len(paths) > EXAMPLES else "")
        yield Problem("unknown label", f"{shown}: {len(paths)} masks of an {told[0]}")


def label_in(path: str, ends: Mapping[str, set[str]]) -> str | None:
    """The label in the path of a mask of one of the images, by what may stand before and behind it."""
    for place in range(len(path), -1, -1):
        for tail in ends.get(path[:place], ()):
            label = path[place : len(path) - len(tail)]
            if path.endswith(tail) and label and "/" not in label:
                return label
    return None


def mask_files(walk: Walk, template: str) -> set[str]:
    """All files that a template of one mask a class may mean."""
    found: set[str] = set()
    for one in alternatives(template, CHOICE):
        pattern = glob.escape(one)
        for mark in (*PLACEHOLDERS, CLASS):
            pattern = pattern.replace(mark, "*")
        parts = zip(one.split("/"), pattern.split("/"), strict=True)
        pattern = "/".join("**" if part in ("{dir}", "{parent}") else glob_part for part, glob_part in parts)
        found.update(walk.files(pattern))
    return found
