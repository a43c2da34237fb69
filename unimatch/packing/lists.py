"""Lists that choose among the images of a subset: text files of a recipe's `lists`, a line an image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from unimatch.annotations.names import composed
from unimatch.errors import UserError
from unimatch.packing.findings import Problem
from unimatch.packing.globs import on_disk
from unimatch.packing.names import Found, stems_of
from unimatch.packing.recipe import SubsetSource
from unimatch.shardset.key_list import read_lines


def pick(images: list[Found], source: Path, where: SubsetSource) -> tuple[list[Found], list[Problem]]:
    """The images that the lines of the subset's lists name, by path, and the lines that name none or several.

    A line is the image's path below the source folder, its last parts, or its {name}, each with or without
    extension; behind it the path of a mask may stand, as in published lists. Backslashes count as slashes,
    and the Unicode form of names does not count.
    """
    exact: dict[str, int] = {}
    loose: dict[str, int] = {}
    for place, image in enumerate(images):
        path = composed(image.path)
        exact[path] = place if path not in exact else -1
        names = set() if image.name is None else {image.name}
        parts = PurePosixPath(image.path).parts
        for first in range(len(parts)):
            tail = PurePosixPath(*parts[first:])
            names |= {tail.as_posix(), *(tail.with_name(stem).as_posix() for stem in stems_of(tail.name))}
        for name in map(composed, names):
            loose[name] = place if name not in loose else -1  # -1: several images have it
    picked: set[int] = set()
    problems: list[Problem] = []
    for path in where.lists:
        try:
            lines = read_lines(source / on_disk(source, path))
        except UserError as error:
            problems.append(Problem("unreadable list", str(error)))
            continue
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            places = [exact.get(text, loose.get(text)) for text in readings(composed(line))]
            known = [place for place in places if place is not None]
            if not known:
                text = f"{path}:{number}: no file that matches {where.images!r} is {line!r}"
                problems.append(Problem("list line without image", text))
            elif known[0] < 0:
                text = f"{path}:{number}: several images are {line!r}; write more of the path"
                problems.append(Problem("ambiguous list line", text))
            else:
                picked.add(known[0])
    return [images[place] for place in sorted(picked)], problems


def readings(line: str) -> Iterator[str]:
    """What a line may name: all of it, or what stands before the path of a mask."""
    for text in dict.fromkeys((line, line.replace("\\", "/"))):
        yield text.removeprefix("./").lstrip("/")
        for gap in re.finditer(r"\s+", text):
            if re.search(r"[./]", text[gap.end() :]):  # so that `name -1` does not pass for "image mask"
                yield text[: gap.start()].removeprefix("./").lstrip("/")
