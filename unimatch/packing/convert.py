"""One job of a recipe to a sample, or to all that is wrong with its files. Runs in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from unimatch.annotations import labelme
from unimatch.codecs import scans, volumes
from unimatch.codecs.bands import Bands
from unimatch.codecs.encode import Encoded, ImageRules, LabelFormat, downscaled, pack_image, png
from unimatch.codecs.opening import UNREADABLE
from unimatch.codecs.scans import ScanRules
from unimatch.packing.band_settings import RASTER_KINDS
from unimatch.packing.findings import Note, Problem
from unimatch.packing.labels import Label, LabelRules, Turned, read_label
from unimatch.packing.layout import Job
from unimatch.packing.pack import NewSample, Outcome, labeled_sample
from unimatch.packing.rasters import CLIPPED_NOTE, EMPTY_NOTE, MISSING_NOTE, pack_bands, read_raster_label
from unimatch.packing.recipe import DrawnOn
from unimatch.taxonomy import IGNORE_INDEX

DROPPED = "{{files}} files have {}, of which only the first picture in RGB was taken: {{examples}}"
SECOND_TURNED = (
    "{files} images of the second date were turned upright (EXIF rotation), those of the first were not, "
    "and their masks were taken as drawn on the upright pictures: {examples}"
)

T = TypeVar("T")


@dataclass(frozen=True)
class Rules:
    """How the files of a recipe become samples."""

    images: ImageRules
    labels: LabelRules
    scans: ScanRules | None
    label_format: LabelFormat
    num_classes: int
    bands: Bands | None = None  # of rasters; None: ordinary pictures


def convert(job: Job, rules: Rules) -> Outcome:
    """Read, check and encode the image, or two, and the label of a sample."""
    problems: list[Problem] = []

    def attempt(what: str, name: str, read: Callable[[], T]) -> T | None:
        """What `read` returns, or None and a problem."""
        try:
            return read()
        except FileNotFoundError:
            of = "" if name == job.image else f" ({what} of {job.image})"
            problems.append(Problem(f"missing {what}", f"{name}: no such file{of}", job.image))
        except UNREADABLE as error:
            problems.append(Problem(f"unreadable {what}", f"{name}: {reason(error, name)}", job.image))
        return None

    image = attempt("image", job.image, lambda: read_image(job, job.image, rules))
    second = None
    if job.second is not None:
        name = job.second
        second = attempt("second image", name, lambda: read_image(job, name, rules))
    label = None
    alone = bool(job.parts) or rules.labels.kind in ("ids", "colors", "panoptic")
    if job.has_label and (image is not None or alone):  # shapes are drawn for the size of an image
        size = (image.full_size or image.size) if image is not None else (0, 0)
        turned = Turned(image.turn, image.full_size or image.size) if image and image.turn > 1 else None
        label = attempt(
            "label",
            job.label or (job.parts[0][1] if job.parts else None) or job.annotations or job.image,
            lambda: (
                read_raster_label(job, rules.labels)
                if rules.bands is not None and rules.labels.kind in RASTER_KINDS
                else read_label(job, rules.labels, rules.images.downscale, size, turned)
            ),
        )
        problems += label.problems if label else []
    if image is not None:
        problems += mismatches(job, image, second, label, rules.labels.drawn_on)
    if problems or image is None:
        return Outcome(None, tuple(replace(problem, image=job.image) for problem in problems))
    ids = label.ids if label else None
    missing = without_data(image, second)
    if missing is not None:
        if missing.all():
            return Outcome(None, notes=(Note(EMPTY_NOTE, job.key),))
        if ids is not None:
            ids[missing] = IGNORE_INDEX
    return Outcome(
        make_sample(job, image, second, ids, rules),
        note=image.note or (second and second.note),
        notes=tuple(facts(job, image, second, label)),
        palette=(job.label or "", label.palette) if label and label.palette else None,
    )


def mismatches(
    job: Job, image: Encoded, second: Encoded | None, label: Label | None, drawn_on: DrawnOn
) -> list[Problem]:
    """What does not go together in a sample."""
    found = []
    if label is not None and second is not None and drawn_on == "stored" and two_ways(image, second):
        text = (
            f"{job.second}: has the EXIF rotation {second.turn}, {job.image} {image.turn} (1: none), "
            "so no mask lies on the stored pixels of both (labels_drawn_on: stored); turn the pair and its "
            "mask upright"
        )
        found.append(Problem("pair turned in two ways", text))
    if second is not None and second.size != image.size:
        found.append(size_mismatch(job.second, second.size, job, image))
    if label is not None and label.ids is not None and label.ids.shape != image.size:
        name = job.parts[0][1] if job.parts else job.label
        found.append(size_mismatch(name, label.ids.shape, job, image))
    if second is not None and second.ext != image.ext:
        text = f"{job.second}: is stored as {second.ext}, its image {job.image} as {image.ext}; convert one"
        found.append(Problem("mixed pair", text))
    return found


def without_data(image: Encoded, second: Encoded | None) -> np.ndarray | None:
    """bool [H, W]: pixels that hold no data, at any date; None: there are none."""
    masks = [one.missing for one in (image, second) if one is not None and one.missing is not None]
    return np.logical_or.reduce(masks) if masks else None


def facts(job: Job, image: Encoded, second: Encoded | None, label: Label | None) -> Iterator[Note]:
    """What is told of a sample that is packed."""
    for name, one in ((job.image, image), (job.second, second)):
        if name and one and one.dropped:
            yield Note(DROPPED.format(one.dropped), name)
        if name and one and one.clipped:
            yield Note(CLIPPED_NOTE, name, one.clipped)
        if name and one and one.missing is not None:
            yield Note(MISSING_NOTE, name, int(one.missing.sum()))
    yield from label.notes if label else []
    if label and second and second.turn > 1 and image.turn == 1:
        yield Note(SECOND_TURNED, job.second or job.image)


def two_ways(image: Encoded, second: Encoded) -> bool:
    """Whether the dates of a pair were turned differently, and no size tells on which of them, before it was
    turned, a mask was drawn."""
    turns, (height, width) = {image.turn, second.turn}, image.full_size or image.size
    sized = height != width and 1 in turns and max(turns) >= 5
    return len(turns) > 1 and not sized


def size_mismatch(name: str | None, size: tuple[int, ...], job: Job, image: Encoded) -> Problem:
    height, width = image.size
    turned = ", after its EXIF rotation" if image.turn > 1 else ""
    what = name or f"annotations of {job.image}"
    text = f"{what}: is {size[1]}x{size[0]} pixels, its image {job.image} {width}x{height}{turned}"
    return Problem("size mismatch", text)


def make_sample(
    job: Job, image: Encoded, second: Encoded | None, label: np.ndarray | None, rules: Rules
) -> NewSample:
    data, ext, (height, width) = image[:3]
    later = second and second.data
    if label is None:
        made = NewSample(job.key, data, ext, None, width, height, None, second=later)
    else:
        form = rules.label_format
        made = labeled_sample(job.key, data, ext, label, rules.num_classes, label_format=form, second=later)
    if image.sums is None:
        return made
    return replace(made, band_sums=image.sums if second is None else image.sums + second.sums)


def read_image(job: Job, name: str, whole: Rules) -> Encoded:
    """The image as it is stored. DataError and others of UNREADABLE; FileNotFoundError: no such file."""
    rules = whole.images
    if whole.bands is not None:
        return pack_bands(job, name, whole.bands)
    if name.lower().endswith(".json"):
        return pack_image(labelme.embedded_image((job.source / name).read_bytes(), name), name, rules)
    if job.scan is not None:
        assert whole.scans is not None and job.slice is not None
        values = scans.read_scan_slice(job.source, name, job.slice, job.scan, whole.scans)
    elif job.member is None:
        return pack_image((job.source / name).read_bytes(), name, rules)
    else:
        values = volumes.grey(volumes.read_slice(job.source, name, job.slice), name)
    values = downscaled(values, rules.downscale, name)
    return Encoded(png(values), "png", (values.shape[0], values.shape[1]))


def reason(error: Exception, name: str) -> str:
    """The error in a few words, without the file's name, which stands before it."""
    text = getattr(error, "strerror", None) or str(error)
    return text.splitlines()[0].removeprefix(f"{name}: ") if text else type(error).__name__
