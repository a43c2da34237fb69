"""Rasters to samples: windows of bands scaled to what is stored, and labels on the same grid."""

from __future__ import annotations

import re
from itertools import chain

import numpy as np

from unimatch.codecs import tiles, volumes
from unimatch.codecs.bands import Bands, default_show, sums_of
from unimatch.codecs.encode import Encoded
from unimatch.codecs.rasters import read_bands, read_header
from unimatch.errors import DataError
from unimatch.packing.findings import Note
from unimatch.packing.labels import Label, LabelRules, class_ids, translate
from unimatch.packing.layout import Job, Layout
from unimatch.packing.mask_files import Mask, packed_colors
from unimatch.taxonomy import IGNORE_INDEX

HELD_OUT = re.compile(r"(val|test)")  # how the names of subsets and lists start that are not trained on
PLACES, SIDE = 200, 256  # squares of pixels that percentiles are taken over
WHOLE_TYPES = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}
MISSING_NOTE = (
    "{amount} pixels of {files} images hold no data: they are 0, and not labelled where there is a label: "
    "{examples}"
)
EMPTY_NOTE = "{files} tiles or images hold no data at all and were left out: {examples}"
CLIPPED_NOTE = "{amount} values of {files} images lie outside the scaling and were clipped: {examples}"
LABEL_NODATA_NOTE = (
    "{amount} pixels of {files} label rasters have the value that the file calls no-data, and which is a "
    "class: they were taken as the class: {examples}"
)
LABEL_HIDDEN_NOTE = (
    "{amount} pixels of {files} label rasters are no-data and became 'not labelled': {examples}"
)


def set_bands(layout: Layout) -> tuple[Bands | None, list[str]]:
    """What the channels of a layout's images will be, and what is to be told; None: ordinary pictures.

    DataError: the numbers in the files do not say how they are to be scaled, nor does the recipe.
    """
    survey, recipe = layout.rasters, layout.recipe
    if survey is None:
        return None, []
    order, scaling, told = recipe.bands, recipe.scaling, list(survey.sentences())
    names, count, numbers = ("",) * len(order), 0, ""
    ranges: tuple[tuple[float, float], ...] = ((0.0, 1.0),) * len(order)  # of a set that has no image at all
    if survey.first is not None and any(layout.jobs.values()):
        name, header = survey.first
        names, count, numbers = header.names_of(order), header.count, header.dtype
        if scaling is None and WHOLE_TYPES.get(header.dtype, (0.0, 0.0))[1] == (1 << recipe.depth) - 1:
            ranges = (WHOLE_TYPES[header.dtype],) * len(order)
        elif scaling is None:
            low, high = (np.round(found, 4).tolist() for found in percentiles(layout, (0, 100)).T)
            raise DataError(
                f"{name}: holds {header.dtype} numbers, of which {recipe.depth} bits are to be stored; say "
                "which become 0 and the largest value, such as scaling: {range: [0, 10000]}. In a sample the "
                f"bands {list(order)} go from {low} to {high}"
            )
        elif scaling.percentiles is not None:
            found = percentiles(layout, scaling.percentiles)
            ranges = tuple((float(low), float(high)) for low, high in found)
            for band, (low, high) in zip(order, ranges, strict=True):
                if not low < high:
                    raise DataError(
                        f"band {band} has one value, {low:g}, between the percentiles of the scaling"
                    )
            told.append(
                f"the percentiles {list(scaling.percentiles)} of the bands {list(order)} are "
                f"{[list(pair) for pair in ranges]}, which became 0 and the largest value"
            )
        else:
            ranges = scaling.ranges or ((scaling.range or (0.0, 1.0)),) * len(order)
    show = tuple(order.index(band) for band in recipe.show) or default_show(len(order))
    return Bands(order, names, ranges, recipe.depth, show, recipe.nodata, count, numbers), told


def percentiles(layout: Layout, wanted: tuple[float, float]) -> np.ndarray:
    """float64 [C, 2] of the values that were measured, in squares spread over the images to train on."""
    named = {name: jobs for name, jobs in layout.jobs.items() if not HELD_OUT.match(name)} or layout.jobs
    jobs = list(chain.from_iterable(named.values()))
    recipe, parts = layout.recipe, [np.zeros((len(layout.recipe.bands), 0))]
    for place in np.unique(np.linspace(0, len(jobs) - 1, min(PLACES, len(jobs))).astype(int)).tolist():
        job = jobs[place]
        assert job.window is not None
        x0, y0, x1, y1 = job.window
        x, y = max(x0, (x0 + x1 - SIDE) // 2), max(y0, (y0 + y1 - SIDE) // 2)
        rect = (x, y, min(x + SIDE, x1), min(y + SIDE, y1))
        for name in (job.image, job.second):
            if name is not None and (job.source / name).is_file():
                try:
                    values, valid = read_bands(job.source / name, recipe.bands, rect, recipe.nodata)
                except DataError:
                    continue  # told when it is packed
                parts.append(values[:, valid])
    found = np.concatenate(parts, axis=1)
    if not found.size:
        raise DataError(
            "the places at which the bands were looked at hold no data; give scaling: {range: ...}"
        )
    return np.percentile(found, wanted, axis=1).T.astype(np.float64)


def pack_bands(job: Job, name: str, bands: Bands) -> Encoded:
    """The window of a raster as it is stored. DataError, and FileNotFoundError: no such file."""
    assert job.window is not None
    values, valid = read_bands(job.source / name, bands.order, job.window, bands.nodata, name)
    image, clipped = bands.stored(values, valid)
    return Encoded(
        tiles.encode(image),
        "tif",
        (image.shape[0], image.shape[1]),
        missing=None if valid.all() else ~valid,
        clipped=clipped,
        sums=sums_of(image, valid),
    )


def read_raster_label(job: Job, rules: LabelRules) -> Label:
    """The label of a window of a raster. DataError, and FileNotFoundError: no such file."""
    assert job.window is not None and job.label is not None
    path, name = job.source / job.label, job.label
    header = read_header(path, name)
    wanted = (1,) if rules.kind == "ids" else (1, 2, 3)
    if header.count < len(wanted) or (rules.kind == "ids" and header.count > 1):
        found = f"{header.count} band" + ("s" if header.count > 1 else "")
        other = "colors" if rules.kind == "ids" else "ids"
        raise DataError(f"{name}: has {found}, expected {len(wanted)}; is it label_kind {other}?")
    values, valid = read_bands(path, wanted, job.window, where=name)
    if rules.kind == "colors":
        ids = packed_colors(np.moveaxis(values, 0, -1))
    else:
        ids = np.where(valid, values[0], 0) if values.dtype.kind == "f" else values[0]
        ids = volumes.ids(ids, name) if values.dtype.kind == "f" else ids
    known = class_ids(ids, rules.pairs)[1] & (valid if values.dtype.kind == "f" else True)
    hidden, kept = ~valid & ~known, ~valid & known
    if hidden.any():
        ids = np.where(hidden, np.asarray(rules.pairs[0][0]).astype(ids.dtype), ids)
    label = translate(Mask(ids, lossy=header.lossy), rules.pairs, rules, name)
    for text, where in ((LABEL_HIDDEN_NOTE, hidden), (LABEL_NODATA_NOTE, kept)):
        if where.any():
            label.notes.append(Note(text, name, int(where.sum())))
    if label.ids is not None:
        label.ids[hidden] = IGNORE_INDEX
    return label
