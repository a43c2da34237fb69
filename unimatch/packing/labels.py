"""Label files to class ids: by id, by colour, or drawn from COCO's segments."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from unimatch.codecs import volumes
from unimatch.packing import coco
from unimatch.packing.classes import Pairs
from unimatch.packing.layout import Job
from unimatch.packing.pack import Problem
from unimatch.packing.recipe import LabelKind
from unimatch.taxonomy import IGNORE_INDEX

ID_MODES = ("1", "L", "P", "I", "I;16")  # Pillow's names of the single-channel pictures
# Pillow spreads the values of 2 and 4 bit grey over 0..255; ids are meant as stored.
GREY_STEP = {"L;2": 85, "L;4": 17}
MAX_SHOWN = 5  # unknown values named one by one


@dataclass(frozen=True)
class LabelRules:
    """How labels are read; `pairs` are (id or 0xRRGGBB in the file, class id or IGNORE_INDEX)."""

    kind: LabelKind
    pairs: Pairs
    unannotated: int = IGNORE_INDEX  # of COCO's segments: the class of pixels of no segment


def read_label(job: Job, rules: LabelRules, downscale: int) -> tuple[np.ndarray | None, list[Problem]]:
    """(uint8 [H, W] of class ids and IGNORE_INDEX, problems); None where the file is of the wrong kind or
    too small for `downscale`. DataError, OSError and Pillow's errors where it cannot be read.
    """
    problems: list[Problem] = []
    if rules.kind == "instances":
        assert job.drawing is not None
        label = coco.draw_instances(job.drawing, rules.unannotated)
    else:
        assert job.label is not None
        values, problem = read_values(job, job.label, rules.kind)
        if values is None:
            return None, problem
        pairs = rules.pairs
        if rules.kind == "panoptic":
            assert job.drawing is not None
            pairs = coco.segment_pairs(job.drawing, rules.unannotated)
        label, problems = translate(values, pairs, rules.kind, job.label)
    if downscale > 1:
        size = (label.shape[1] // downscale, label.shape[0] // downscale)
        if min(size) < 1:
            return None, problems  # as the image is: reported there
        label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return label, problems


def read_values(job: Job, name: str, kind: LabelKind) -> tuple[np.ndarray | None, list[Problem]]:
    """(int64 [H, W] of ids, of 0xRRGGBB, or of panoptic segment ids, problems)."""
    if volumes.h5_member(name)[1] is not None:
        return volumes.ids(volumes.read_slice(job.source, name, job.slice), name), []
    with Image.open(job.source / name) as opened:
        single = opened.mode in ID_MODES
        if kind == "ids":
            if not single:
                text = (
                    f"{name}: has {opened.mode} pixels, expected one channel of ids; is it label_kind colors?"
                )
                return None, [Problem("colours instead of ids", text)]
            coding = opened.tile[0][3] if opened.tile else None
            return np.asarray(opened).astype(np.int64) // GREY_STEP.get(str(coding), 1), []
        if single and (opened.mode != "P" or kind == "panoptic"):
            text = f"{name}: has one channel ({opened.mode}), expected RGB colours; is it label_kind ids?"
            return None, [Problem("ids instead of colours", text)]
        rgb = np.asarray(opened.convert("RGB")).astype(np.int64)
    if kind == "panoptic":  # COCO writes the lowest byte first
        return rgb[..., 0] | rgb[..., 1] << 8 | rgb[..., 2] << 16, []
    return rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2], []


def translate(
    values: np.ndarray, pairs: Pairs, kind: LabelKind, where: str
) -> tuple[np.ndarray, list[Problem]]:
    """(uint8 class ids of int64 values, problems); values that `pairs` does not know become IGNORE_INDEX."""
    sources, targets = lookup(pairs)
    place = np.minimum(np.searchsorted(sources, values), len(sources) - 1)
    known = sources[place] == values
    problems = []
    if not known.all():
        wrong, counts = np.unique(values[~known], return_counts=True)
        shown = [
            f"{describe(kind, int(value))} ({count} pixels)"
            for value, count in zip(wrong[:MAX_SHOWN], counts[:MAX_SHOWN], strict=True)
        ]
        more = f" and {len(wrong) - MAX_SHOWN} more" if len(wrong) > MAX_SHOWN else ""
        title = {"ids": "unknown id", "colors": "unknown colour"}.get(kind, "unknown segment")
        hint = {"ids": f"; the recipe knows {known_ids(pairs)}", "panoptic": "; not in the annotations"}
        problems.append(Problem(title, f"{where}: {title} {', '.join(shown)}{more}{hint.get(kind, '')}"))
    return np.where(known, targets[place], IGNORE_INDEX).astype(np.uint8), problems


@functools.lru_cache(8)
def lookup(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """int64 values in label files, rising, and the uint8 class ids that they become."""
    table = np.array(pairs, np.int64)
    return table[:, 0], table[:, 1].astype(np.uint8)


def describe(kind: LabelKind, value: int) -> str:
    return f"[{value >> 16}, {value >> 8 & 255}, {value & 255}]" if kind == "colors" else str(value)


def known_ids(pairs: Pairs) -> str:
    ids = [file_id for file_id, _ in pairs]
    return f"{ids[0]} to {ids[-1]}" if len(ids) == ids[-1] - ids[0] + 1 else str(ids)
