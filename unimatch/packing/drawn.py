"""Labels that are drawn from annotations: of COCO, of annotation tools, or of one mask a class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from unimatch.annotations import shapes
from unimatch.annotations.drawing import Drawing, Size
from unimatch.annotations.files import draw_file
from unimatch.annotations.labels import LabelClasses
from unimatch.errors import DataError
from unimatch.packing.findings import Note, Problem
from unimatch.packing.layout import Job

EMPTY_NOTE = "{files} images have annotations that cover no pixel, {amount} in all: {examples}"
LEFT_OUT_NOTE = "{{amount}} {} of {{files}} annotated images were left out: {{examples}}"
NO_SHAPE_NOTE = "{files} images have an annotation without any shape in it: {examples}"
NAME_NOTE = "{files} annotation files name another image than the one that they were found for: {examples}"


def draw(
    job: Job, kind: str, classes: LabelClasses, unannotated: int, size: Size
) -> tuple[np.ndarray | None, list[Problem], list[Note]]:
    """(uint8 [H, W] of class ids or None, what is wrong, what is to be told) of an image of `size`, as its
    annotations were drawn. DataError, OSError: they cannot be read."""
    if job.drawing is not None and job.label is None:
        content = json.loads(job.drawing)
        notes = [] if kind == "instances" else [*notes_of(job.image, content)]
        return _draw(job.image, content["shapes"], content["size"] or size, unannotated, notes)
    assert job.label is not None
    names = tuple(json.loads(job.drawing)) if job.drawing else ()
    drawing = draw_file(kind, (job.source / job.label).read_bytes(), job.label, size, names)
    pieces = drawing.shapes(classes)
    if drawing.faults:
        return None, [problem(job.label, fault) for fault in drawing.faults], []
    content = {"shapes": pieces, "left_out": drawing.left_out}
    notes = [*notes_of(job.label, content), *name_notes(job, drawing)]
    return _draw(job.label, pieces, drawing.size or size, unannotated, notes)


def _draw(
    where: str, drawn: list[list[Any]], size: Size, unannotated: int, notes: list[Note]
) -> tuple[np.ndarray, list[Problem], list[Note]]:
    try:
        label, empty = shapes.draw_shapes(drawn, *size, unannotated)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    return label, [], [*([Note(EMPTY_NOTE, where, len(empty))] if empty else []), *notes]


def problem(where: str, fault: str) -> Problem:
    kind = "unknown label" if fault.startswith("unknown label") else "bad annotation"
    return Problem(kind, f"{where}: {fault}")


def notes_of(where: str, content: Mapping[str, Any]) -> list[Note]:
    """What is told of annotations that are drawn."""
    left_out = content.get("left_out") or {}
    notes = [Note(LEFT_OUT_NOTE.format(what), where, count) for what, count in left_out.items()]
    return notes if content["shapes"] else [*notes, Note(NO_SHAPE_NOTE, where)]


def name_notes(job: Job, drawing: Drawing) -> list[Note]:
    """That a file names another image. The extension does not count: images are converted."""
    if not drawing.image:
        return []
    told, found = drawing.image.replace("\\", "/").rpartition("/")[2], job.image.rpartition("/")[2]
    same = told.rpartition(".")[0] == found.rpartition(".")[0] or job.label == job.image
    return [] if same else [Note(NAME_NOTE, f"{job.label} ({told})")]
