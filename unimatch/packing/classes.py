"""The classes of a recipe: their names and colours, and which values in label files stand for them."""

from __future__ import annotations

import re
from pathlib import Path

from unimatch.errors import ConfigError, DataError
from unimatch.packing.globs import on_disk
from unimatch.packing.recipe import Color, Recipe
from unimatch.taxonomy import IGNORE_INDEX, Taxonomy, default_colors

CLASS_LINE = re.compile(
    r"(?P<id>\d+)\s+(?P<name>.*?)(\s+[\[(]?(?P<r>\d+)[\s,]+(?P<g>\d+)[\s,]+(?P<b>\d+)[\])]?)?"
)
# CVAT's labelmap.txt: label:color_rgb:parts:actions
LABELMAP_LINE = re.compile(r"(?P<name>.+?):(?P<r>\d+),(?P<g>\d+),(?P<b>\d+):[^:]*:[^:]*")

Pairs = tuple[tuple[int, int], ...]  # (id or 0xRRGGBB in the file, class id or IGNORE_INDEX), rising


def read_classes(recipe: Recipe, source: Path) -> tuple[Taxonomy, Pairs]:
    """The taxonomy, and how values in label files become its ids (no pairs for COCO's segments)."""
    if recipe.classes_file is None:
        entries = [
            (recipe.first_id + place, name, recipe.colors[place] if recipe.colors else None)
            for place, name in enumerate(recipe.classes)
        ]
        ignore_color = None
        names = recipe.classes
        listed = {i: name for i, name, _ in entries}
        listed = {i: names[k] for i, k in recipe.id_map.items() if k in range(len(names))} or listed
        if recipe.ignore_id in listed:
            raise ConfigError(
                f"ignore_id {recipe.ignore_id} is the class {listed[recipe.ignore_id]!r}; give another id"
            )
    else:
        lines = parse_classes(source / on_disk(source, recipe.classes_file))
        entries = [entry for entry in lines if entry[0] != recipe.ignore_id]
        ignore_color = next((color for i, _, color in lines if i == recipe.ignore_id), None)
    names = tuple(name for _, name, _ in entries)
    known = [color for _, _, color in entries if color is not None]
    if len(known) not in (0, len(entries)) or (recipe.label_kind == "colors" and not known):
        raise DataError(f"{recipe.classes_file}: give every class a colour (R G B), or none of them")
    taxonomy = Taxonomy(names, tuple(known) or default_colors(len(names)))
    pairs: dict[int, int] = {}
    if recipe.label_kind == "ids":
        pairs = dict(recipe.id_map) or {file_id: place for place, (file_id, _, _) in enumerate(entries)}
        if recipe.ignore_id is not None:
            pairs[recipe.ignore_id] = IGNORE_INDEX
    elif recipe.label_kind == "colors":
        pairs = {packed(color): place for place, color in enumerate(known)}
        if len(pairs) < len(known):
            raise DataError(
                "two classes have the same colour, so label files that hold colours cannot be read"
            )
        ignore_color = recipe.ignore_color or ignore_color
        if ignore_color is not None and packed(ignore_color) in pairs:
            name = names[pairs[packed(ignore_color)]]
            raise ConfigError(f"ignore_color {list(ignore_color)} is the class {name!r}; give another colour")
        if ignore_color is not None:
            pairs[packed(ignore_color)] = IGNORE_INDEX
    bad = {value for value in pairs.values() if value != IGNORE_INDEX and not 0 <= value < len(names)}
    if bad:
        raise ConfigError(
            f"id_map leads to {sorted(bad)}: classes are 0 to {len(names) - 1}, {IGNORE_INDEX} is ignore"
        )
    return taxonomy, tuple(sorted(pairs.items()))


def packed(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def parse_classes(path: Path) -> list[tuple[int, str, Color | None]]:
    """(id, name, colour) of each line; empty lines and lines that start with # do not count. The lines of
    CVAT's labelmap.txt are numbered.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"classes_file {path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    entries: list[tuple[int, str, Color | None]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = LABELMAP_LINE.fullmatch(line.strip()) or CLASS_LINE.fullmatch(line.strip())
        if match is None or not match["name"]:
            raise DataError(
                f"{path}:{number}: expected 'id name', 'id name R G B' or 'name:R,G,B::' (CVAT), found "
                f"{line.strip()!r}"
            )
        color = (int(match["r"]), int(match["g"]), int(match["b"])) if match["r"] else None
        if color is not None and max(color) > 255:
            raise DataError(f"{path}:{number}: colour values go from 0 to 255, found {list(color)}")
        class_id = int(match["id"]) if match.re is CLASS_LINE else len(entries)
        if any(class_id == entry[0] for entry in entries):
            raise DataError(f"{path}:{number}: the id {class_id} is given twice")
        entries.append((class_id, match["name"], color))
    return entries
