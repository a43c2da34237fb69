"""Values in masks that no class has: taken as the nearest one within a tolerance, or explained."""

from __future__ import annotations

import numpy as np

from unimatch.errors import ConfigError
from unimatch.packing.classes import Pairs
from unimatch.packing.findings import Problem
from unimatch.packing.recipe import LabelKind
from unimatch.taxonomy import IGNORE_INDEX

MAX_SHOWN = 5  # unknown values named one by one
ADVISED = 64  # the tolerance that messages propose, where classes are far enough apart
SEVERAL = 3  # different values: fewer are no noise
MANY = 0.01  # of a picture's pixels: a value that so many have is no noise
STEP = 1 << 14  # values compared with all classes at a time


def channels(values: np.ndarray, kind: LabelKind) -> np.ndarray:
    """int64 [N, C]: C = 3 for colours (0xRRGGBB), 1 for ids."""
    values = np.asarray(values, np.int64)
    if kind != "colors":
        return values[:, None]
    return np.stack([values >> 16, values >> 8 & 255, values & 255], 1)


def distances(values: np.ndarray, kind: LabelKind, pairs: Pairs) -> np.ndarray:
    """int64 [N, K] of values and known ones: of colours the largest difference of a channel."""
    known = channels(np.array([value for value, _ in pairs]), kind)
    return np.abs(channels(values, kind)[:, None] - known[None]).max(axis=2)


def largest_tolerance(kind: LabelKind, pairs: Pairs) -> int:
    """Up to which no value is near two known ones; 0: known ones are neighbours."""
    apart = distances(np.array([value for value, _ in pairs]), kind, pairs)
    np.fill_diagonal(apart, 255)
    return max(0, (int(apart.min()) - 1) // 2)


def check_tolerance(tolerance: int, kind: LabelKind, pairs: Pairs) -> None:
    """ConfigError for a tolerance within which a value could be two classes."""
    if tolerance > largest_tolerance(kind, pairs):
        most, what = largest_tolerance(kind, pairs), "colours" if kind == "colors" else "ids"
        raise ConfigError(
            f"label_tolerance {tolerance}: two of the known {what} are so close that at most {most} tells "
            "them apart"
        )


def snap(values: np.ndarray, kind: LabelKind, pairs: Pairs, tolerance: int) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 class id of the nearest known value or IGNORE_INDEX, bool whether it is near) of each value."""
    targets = np.array([target for _, target in pairs], np.uint8)
    taken, near = np.empty(len(values), np.uint8), np.empty(len(values), bool)
    for start in range(0, len(values), STEP):
        part = slice(start, start + STEP)
        apart = distances(values[part], kind, pairs)
        near[part] = apart.min(axis=1) <= tolerance
        taken[part] = np.where(near[part], targets[apart.argmin(axis=1)], IGNORE_INDEX)
    return taken, near


def lossy_problem(form: str, kind: LabelKind, pairs: Pairs, where: str) -> Problem:
    """That a mask is of a format that changes pixels, and what to do."""
    most = 0 if kind == "panoptic" else largest_tolerance(kind, pairs)
    text = f"{where}: is a {form}, which changes the values of pixels; export masks as PNG"
    if most:
        text += f", or {tolerance_way(most)}"
    elif kind != "panoptic":
        text += " (the ids are too close together to tell a class from noise)"
    return Problem("lossy mask", text)


def tolerance_way(most: int) -> str:
    return (
        f"set `label_tolerance: {min(ADVISED, most)}`: values at most so far from a known one are taken as "
        "it, others become 'not labelled', and both are counted"
    )


def unknown_problem(
    wrong: np.ndarray, counts: np.ndarray, values: np.ndarray, kind: LabelKind, pairs: Pairs, where: str
) -> Problem:
    """The unknown values of a mask and how many pixels have them, the likely cause, and the way out."""
    shown = [
        f"{describe(kind, int(value))} ({count} pixels)"
        for value, count in zip(wrong[:MAX_SHOWN], counts[:MAX_SHOWN], strict=True)
    ]
    more = f" and {len(wrong) - MAX_SHOWN} more" if len(wrong) > MAX_SHOWN else ""
    title = {"ids": "unknown id", "colors": "unknown colour"}.get(kind, "unknown segment")
    hint = "; not in the annotations" if kind == "panoptic" else ""
    if kind == "ids":
        hint = f"; the recipe knows {known_ids(pairs)}"
    if kind != "panoptic":
        hint += soft_hint(wrong, counts, kind, pairs)
    if kind == "ids" and len(wrong) == 1:
        hint += single_hint(int(wrong[0]), values, pairs)
    return Problem(title, f"{where}: {title} {', '.join(shown)}{more}{hint}")


def soft_hint(wrong: np.ndarray, counts: np.ndarray, kind: LabelKind, pairs: Pairs) -> str:
    """For many values that lie close to known ones: soft edges, or the traces of a lossy format."""
    most = largest_tolerance(kind, pairs)
    if len(wrong) < SEVERAL or most < 8:
        return ""
    _, near = snap(wrong, kind, pairs, most)
    if counts[near].sum() * 2 < counts.sum():
        return ""
    cause = "as soft edges or an earlier JPEG leave them"
    return f"; most are close to known ones, {cause}: export them hard, or {tolerance_way(most)}"


def single_hint(value: int, values: np.ndarray, pairs: Pairs) -> str:
    """The line of a recipe that says what the only unknown id of a mask may be."""
    known = [file_id for file_id, _ in pairs]
    classes = [file_id for file_id, target in pairs if target != IGNORE_INDEX]
    present = set(np.unique(values).tolist())
    way = ""
    if present <= {0, value} and known == [0, 1]:
        way = f"if it is class 1: `id_map: {{0: 0, {value}: 1}}`; "
    elif value == len(classes) and classes == list(range(len(classes))) and 0 not in present:
        way = "if the ids count from 1: `first_id: 1`; "
    if len(classes) == len(known):
        return f"; {way}if it means 'not labelled': `ignore_id: {value}`"
    return f"; {way}if it means 'not labelled' too: an `id_map` of all ids, with {value}: 255 in it"


def far_values(counts: np.ndarray, size: int) -> np.ndarray:
    """bool [N]: values that too many pixels of a picture of `size` have to be noise."""
    return counts > max(size * MANY, 16)


def describe(kind: LabelKind, value: int) -> str:
    return f"[{value >> 16}, {value >> 8 & 255}, {value & 255}]" if kind == "colors" else str(value)


def known_ids(pairs: Pairs) -> str:
    ids = [file_id for file_id, _ in pairs]
    return f"{ids[0]} to {ids[-1]}" if len(ids) == ids[-1] - ids[0] + 1 else str(ids)
