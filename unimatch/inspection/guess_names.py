"""What beside masks says how their classes are called: a text file of names."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Any

from unimatch.errors import DataError
from unimatch.inspection.inventory import Guess, Inventory, means_ignored
from unimatch.packing.classes import parse_classes
from unimatch.packing.recipe import Color
from unimatch.taxonomy import IGNORE_INDEX

FILES = {"classes", "class_names", "classnames", "labels", "label_names", "names", "categories"}

Entry = tuple[int, str, Color | None]  # id, name, colour of a class


def listed_classes(inventory: Inventory, guess: Guess) -> list[Entry]:
    """The classes of the first text file that lists some, a line each: `id name`, with or without a colour,
    or names alone, which are numbered. None of them: there is no such file.
    """
    for path in inventory.files(".txt", ".names"):
        if PurePosixPath(path).stem.lower() not in FILES:
            continue
        try:
            entries = parse_classes(inventory.root / path)
        except DataError:
            entries = _plain(inventory.read(path))
            if entries:
                guess.unsure.append(
                    f"{path} has no ids: its names are taken for 0, 1 and so on, in its order"
                )
        if entries:
            guess.saw.append(f"{path} names {len(entries)} classes")
            return entries
    return []


def _plain(data: bytes) -> list[Entry]:
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        return []
    names = len(lines) > 1 and len(set(lines)) == len(lines) and all(len(line) < 40 for line in lines)
    numbered = any(line[0].isdigit() for line in lines)  # a list of files or ids, not of names
    return [(number, line, None) for number, line in enumerate(lines)] if names and not numbered else []


def named_ids(entries: list[Entry], values: Collection[int], palette: dict[int, Color]) -> dict[str, Any]:
    """The settings of a recipe for masks that hold these ids, coloured as the list says, else as the palette.

    Empty: the list has no name for some of the values.
    """
    names = {number: name for number, name, _ in entries}
    ignored = [number for number, name in names.items() if means_ignored(name)]
    if IGNORE_INDEX in values and IGNORE_INDEX not in names:
        ignored.append(IGNORE_INDEX)
    classes = [number for number in names if number not in ignored]
    if not classes or set(values) - set(classes) - set(ignored) or set(values) == {0, IGNORE_INDEX}:
        return {}  # of 0 and 255 alone, 255 may be a class
    found: dict[str, Any] = {"classes": [names[number] for number in classes]}
    given = {number: color for number, _, color in entries if color is not None} or palette
    found |= own_colors(classes, given)
    if classes != list(range(len(classes))) or len(ignored) > 1:
        found["id_map"] = {number: place for place, number in enumerate(classes)}
        found["id_map"] |= dict.fromkeys(ignored, IGNORE_INDEX)
    elif ignored:
        found["ignore_id"] = ignored[0]
    return found


def own_colors(classes: Collection[int], given: dict[int, Color]) -> dict[str, Any]:
    """The setting `colors`, if each class has a colour that no other has and not all of them are greys."""
    colors = [tuple(given[number]) for number in classes if number in given]
    if len(set(colors)) < len(classes) or all(len(set(color)) == 1 for color in colors):
        return {}
    return {"colors": [list(color) for color in colors]}


def named_colors(entries: list[Entry], colors: Collection[tuple[int, ...]]) -> dict[str, Any]:
    """The same for masks that hold colours. Empty: the list has no name for some of them."""
    classes = [(name, color) for _, name, color in entries if color is not None and not means_ignored(name)]
    ignored = [color for _, name, color in entries if color is not None and means_ignored(name)]
    known = {color for _, color in classes}
    if not classes or len(known) < len(classes) or len(ignored) > 1 or set(colors) - known - set(ignored):
        return {}
    found: dict[str, Any] = {
        "classes": [name for name, _ in classes],
        "colors": [list(color) for _, color in classes],
    }
    return found | {"ignore_color": list(ignored[0])} if ignored else found
