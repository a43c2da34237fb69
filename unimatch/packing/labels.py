"""Label files to class ids: by id, by colour, from one mask a class, or drawn from segments and shapes."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from unimatch.annotations.drawing import Size
from unimatch.annotations.labels import LabelClasses
from unimatch.annotations.shapes import segment_pairs
from unimatch.codecs import scans
from unimatch.codecs.opening import upright
from unimatch.codecs.scans import ScanRules
from unimatch.packing import drawn
from unimatch.packing.classes import Pairs
from unimatch.packing.findings import Note, Problem
from unimatch.packing.layout import Job
from unimatch.packing.mask_files import Mask, WrongKind, read_mask
from unimatch.packing.recipe import DrawnOn, LabelKind
from unimatch.packing.unknown_values import far_values, lossy_problem, snap, unknown_problem
from unimatch.taxonomy import IGNORE_INDEX

STRIP = 256  # rows translated at a time
NEAR_NOTE = (
    "{{amount}} pixels of {{files}} masks were taken as the nearest class, at most {} away: {{examples}}"
)
FAR_NOTE = (
    "{{amount}} pixels of {{files}} masks are further than {} from every class and became 'not labelled': "
    "{{examples}}"
)
GREYS_NOTE = (
    "{files} masks have palettes of greys that are known ids themselves, but other ones than their indices, "
    "which were taken as ids: {examples}"
)
COLORS_NOTE = (
    "{files} masks have palettes in which a class has the colour that the recipe gives to another one; the "
    "indices were taken as ids: {examples}"
)
OVERLAP_NOTE = (
    "{amount} pixels of {files} images are in the masks of several classes, and became the one that comes "
    "later in `classes`: {examples}"
)
BINARY = ((0, 0), (255, 1))  # what the values of one class's mask mean, where it has more than two


@dataclass(frozen=True)
class LabelRules:
    """How labels are read; `pairs` are (id or 0xRRGGBB in the file, class id or IGNORE_INDEX)."""

    kind: LabelKind
    pairs: Pairs
    unannotated: int = IGNORE_INDEX  # the class of pixels of no segment, shape or mask
    tolerance: int = 0  # largest difference at which a value is taken as the nearest known one
    drawn_on: DrawnOn = "upright"
    drop_extra: bool = False
    colors: tuple[int, ...] = ()  # 0xRRGGBB of each class, where the recipe gives them
    classes: LabelClasses = LabelClasses(())  # of the labels of shapes
    scans: ScanRules | None = None
    overlap: bool = False  # whether masks of one class each may overlap


@dataclass(frozen=True)
class Turned:
    """That an image was turned by its EXIF orientation, and its height and width then."""

    turn: int
    size: tuple[int, int]


@dataclass
class Label:
    """uint8 [H, W] of class ids and IGNORE_INDEX, or None where the file is of the wrong kind or too small
    for `downscale`; and what there is to tell."""

    ids: np.ndarray | None
    problems: list[Problem] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    palette: dict[int, int] | None = None


def read_label(
    job: Job, rules: LabelRules, downscale: int, size: Size, turned: Turned | None = None
) -> Label:
    """The label of a job, whose image is of `size`. DataError, OSError and Pillow's errors where it cannot be
    read."""
    if rules.kind in ("ids", "colors", "panoptic"):
        assert job.label is not None
        label = read_values(job, job.label, rules)
    elif rules.kind == "class_masks":
        label = read_class_masks(job, rules)
    else:
        if turned is not None and turned.turn >= 5 and rules.drawn_on != "upright":
            size = size[::-1]  # of files that do not tell it
        label = Label(*drawn.draw(job, rules.kind, rules.classes, rules.unannotated, size))
    if label.ids is None:
        return label
    if turned is not None:
        sized = rules.kind != "yolo"  # its coordinates fit every size
        label.ids, note = on_upright(label.ids, turned, rules.drawn_on, job.label or job.image, sized)
        label.notes += [note] if note else []
    if downscale > 1:
        size = (label.ids.shape[1] // downscale, label.ids.shape[0] // downscale)
        if min(size) < 1:
            label.ids = None  # as the image is: reported there
        else:
            label.ids = cv2.resize(label.ids, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return label


def read_values(job: Job, name: str, rules: LabelRules) -> Label:
    """The label that one file of values is."""
    try:
        if job.scan is not None:
            assert rules.scans is not None and job.slice is not None
            mask = Mask(scans.read_label_slice(job.source, name, job.slice, rules.scans))
        else:
            mask = read_mask(job, name, rules.kind, rules.drop_extra)
    except WrongKind as error:
        return Label(None, [error.problem])
    pairs = rules.pairs
    if rules.kind == "panoptic":
        assert job.drawing is not None
        pairs = segment_pairs(job.drawing, rules.unannotated)
    return translate(mask, pairs, rules, name)


def read_class_masks(job: Job, rules: LabelRules) -> Label:
    """The label of one mask a class, each of 0 and one other value."""
    if not job.parts:
        raise FileNotFoundError(job.label)
    label, taken = Label(None), np.zeros((0, 0), bool)
    for class_id, name in sorted(job.parts):
        try:
            mask = read_mask(job, name, "ids", rules.drop_extra)
        except WrongKind as error:
            label.problems.append(error.problem)
            continue
        part = translate(mask, binary_pairs(mask.values), replace(rules, kind="ids"), name)
        if part.problems and not mask.lossy:
            count = len(np.unique(mask.values))
            text = f"{name}: has {count} values, the mask of one class has 0 and another one"
            way = "export it without soft edges, or set `label_tolerance: 64`: near 0 and near 255"
            part.problems = [Problem("more than two values", f"{text}; {way}")]
        label.problems += part.problems
        label.notes += part.notes
        if part.ids is None:
            continue
        if label.ids is None:
            label.ids = np.full(part.ids.shape, rules.unannotated, np.uint8)
            taken = np.zeros(part.ids.shape, bool)
        if part.ids.shape != label.ids.shape:
            text = f"{name}: is {part.ids.shape[::-1]} pixels, the mask before it {label.ids.shape[::-1]}"
            label.problems.append(Problem("size mismatch", text))
            continue
        covered = part.ids != 0
        double = int((covered & taken).sum())
        if double and not rules.overlap:
            others = ", ".join(other for place, other in sorted(job.parts) if place < class_id)
            text = (
                f"{name}: {double} of its pixels are also in {others}; correct the masks, or set `segments: "
                "overlap: later`: the class that comes later in `classes` lies on top"
            )
            label.problems.append(Problem("overlapping masks", text))
        elif double:
            label.notes.append(Note(OVERLAP_NOTE, job.image, double))
        taken |= covered
        label.ids[covered] = np.where(part.ids[covered] == 1, np.uint8(class_id), IGNORE_INDEX)
    return label


def binary_pairs(values: np.ndarray) -> Pairs:
    """What the values of one class's mask mean: 0 and another one, or, of more, 0 and 255."""
    found = np.unique(values).tolist()
    other = [value for value in found if value]
    return ((0, 0), (other[0], 1)) if len(other) == 1 and len(found) <= 2 else BINARY


def on_upright(
    label: np.ndarray, turned: Turned, drawn_on: DrawnOn, where: str, sized: bool = True
) -> tuple[np.ndarray, Note | None]:
    """The label on the pixels of the image that was turned upright, and what to tell about it.

    A quarter turn swaps width and height, so the size of the label tells which pixels it was drawn on; else
    the recipe does, as it does for a label that was drawn on any size (not `sized`). A label of neither size
    stays as it is: that is told as a mismatch.
    """
    stored = turned.size[::-1] if turned.turn >= 5 else turned.size
    if label.shape not in (turned.size, stored):
        return label, None
    if turned.size != stored and sized:
        told, is_stored = "by their size", label.shape == stored
    else:
        told, is_stored = f"labels_drawn_on: {drawn_on}", drawn_on == "stored"
    head = "{files} images with a mask were turned upright (EXIF rotation), "
    if is_stored:
        text = f"and their masks, drawn on the stored pixels ({told}), with them"
        return upright(label, turned.turn), Note(f"{head}{text}: {{examples}}", where)
    text = f"their masks were taken as drawn on the upright picture ({told})"
    if turned.size == stored or not sized:
        text += "; if they were drawn on the stored pixels, set labels_drawn_on: stored"
    return label, Note(f"{head}{text}: {{examples}}", where)


def translate(mask: Mask, pairs: Pairs, rules: LabelRules, where: str) -> Label:
    """The class ids of a mask's values. Values that `pairs` does not know become IGNORE_INDEX, which is a
    problem, or the nearest class within the recipe's tolerance."""
    if mask.lossy and not rules.tolerance:
        return Label(None, [lossy_problem(mask.lossy, rules.kind, pairs, where)])
    ids, known = class_ids(mask.values, pairs)
    label = Label(ids, notes=mask.notes, palette=mask.palette)
    greys = other_greys(mask.palette or {}, pairs)
    if known.all():
        label.notes += [Note(GREYS_NOTE, where)] if greys else []
        label.notes += [Note(COLORS_NOTE, where)] if others_color(mask.palette or {}, rules) else []
        return label
    unknown = mask.values[~known]
    wrong, place, counts = np.unique(unknown, return_inverse=True, return_counts=True)
    if rules.tolerance:
        taken, near = snap(wrong, rules.kind, pairs, rules.tolerance)
        ids[~known] = taken[place]
        far = ~near & far_values(counts, ids.size)  # so many pixels of one value are no noise
        for text, some in ((NEAR_NOTE, near), (FAR_NOTE, ~near & ~far)):
            if some.any():
                label.notes.append(Note(text.format(rules.tolerance), where, int(counts[some].sum())))
        wrong, counts = wrong[far], counts[far]
    if len(wrong):
        problem = unknown_problem(wrong, counts, mask.values, rules.kind, pairs, where)
        hint = f"; these are indices of a palette that shows the known ids {greys}: save it as grey"
        label.problems.append(replace(problem, text=problem.text + hint) if greys else problem)
    return label


def others_color(palette: dict[int, int], rules: LabelRules) -> bool:
    """Whether a palette gives an id the colour of another class."""
    classes = dict(rules.pairs)
    return any(
        color in rules.colors and rules.colors[classes[index]] != color
        for index, color in palette.items()
        if classes[index] < len(rules.colors)
    )


def other_greys(palette: dict[int, int], pairs: Pairs) -> list[int]:
    """The greys that a palette shows, if all are known ids and some are other ones than their indices.

    Programs that make files smaller turn grey into such a palette, and then the greys are the ids.
    """
    values = {index: color & 255 for index, color in palette.items()}
    known = {value for value, _ in pairs}
    grey = all(
        color == value * 0x010101 for color, value in zip(palette.values(), values.values(), strict=True)
    )
    other = any(index != value for index, value in values.items())
    return sorted(values.values()) if grey and other and known.issuperset(values.values()) else []


def class_ids(values: np.ndarray, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 class ids of integer values, bool whether `pairs` knows them); unknown ones: IGNORE_INDEX."""
    if values.dtype in (np.uint8, np.uint16):
        targets, is_known = table(pairs, int(np.iinfo(values.dtype).max) + 1)
        return targets[values], is_known[values]
    sources, wanted = lookup(pairs)
    ids, known = np.empty(values.shape, np.uint8), np.empty(values.shape, bool)
    for row in range(0, len(values), STRIP):  # so that large pictures need little memory beside themselves
        part = values[row : row + STRIP].astype(np.int64)
        place = np.minimum(np.searchsorted(sources, part), len(sources) - 1)
        known[row : row + STRIP] = sources[place] == part
        ids[row : row + STRIP] = wanted[place]
    ids[~known] = IGNORE_INDEX
    return ids, known


@functools.lru_cache(8)
def table(pairs: Pairs, size: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [size] the class id of each value, and bool [size] whether it is known."""
    targets, known = np.full(size, IGNORE_INDEX, np.uint8), np.zeros(size, bool)
    for value, target in pairs:
        if 0 <= value < size:
            targets[value], known[value] = target, True
    return targets, known


@functools.lru_cache(8)
def lookup(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """int64 values in label files, rising, and the uint8 class ids that they become."""
    found = np.array(pairs, np.int64)
    return found[:, 0], found[:, 1].astype(np.uint8)
