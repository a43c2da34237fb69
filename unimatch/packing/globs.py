"""Globs over the source folder: linked folders are followed, hidden files stay out, and names fit whatever
Unicode form they are written in.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from unimatch.annotations.names import composed

GLOB_TOKEN = re.compile(r"\*+|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
ANY_BRACES = re.compile(r"\{([^{}]*)\}")
CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")  # of a template, in which {stem} and others stand too
WILD = "*?["


@dataclass
class Walk:
    """What globs met and did not go into, relative to the source folder."""

    source: Path
    loops: set[str] = field(default_factory=set)  # links back into a folder that is walked anyway
    hidden: set[str] = field(default_factory=set)  # folders whose names begin with a dot
    hidden_files: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)  # links that lead nowhere

    def files(self, pattern: str) -> Iterator[str]:
        """The files that a glob without {a,b} matches, each as a path below the source folder, unordered.

        `*` and `**` pass over names that begin with a dot, unless the glob's part does so too.
        """
        parts = PurePosixPath(pattern).parts
        yield from self._below("", parts, ())

    def _below(self, folder: str, parts: tuple[str, ...], seen: tuple[str, ...]) -> Iterator[str]:
        part, rest = parts[0], parts[1:]
        if part == "**":
            yield from self._deep(folder, rest, seen)
            return
        for name, is_folder in self._entries(folder, part, bool(rest)):
            path = f"{folder}/{name}" if folder else name
            if rest and is_folder:
                yield from self._below(path, rest, seen)
            elif not rest and not is_folder:
                yield path

    def _deep(self, folder: str, rest: tuple[str, ...], seen: tuple[str, ...]) -> Iterator[str]:
        """What `rest` matches in a folder and in all folders below; `rest` empty: all files."""
        real = os.path.realpath(self.source / folder)
        seen = (*seen, real)
        yield from self._below(folder, rest or ("*",), seen)
        for name, is_folder in self._entries(folder, "*", True):
            path = f"{folder}/{name}" if folder else name
            if not is_folder:
                continue
            if (self.source / path).is_symlink() and self._is_loop(path, seen):
                self.loops.add(path)
                continue
            yield from self._deep(path, rest, seen)

    def _is_loop(self, path: str, seen: tuple[str, ...]) -> bool:
        """Whether a linked folder lies in the walked tree, or holds it: its files would come twice, or for
        ever."""
        target = os.path.realpath(self.source / path)
        return any(os.path.commonpath([target, one]) in (target, seen[0], one) for one in seen)

    def _entries(self, folder: str, part: str, folders: bool) -> list[tuple[str, bool]]:
        """(name, whether it is a folder) of what fits a part of a glob; with `folders` no files."""
        at = self.source / folder
        if not any(mark in part for mark in WILD):
            name = part if part.isascii() or (at / part).exists() else same_name(at, part)
            there = at / (name or part)
            fitting = there.is_dir() or (not folders and there.is_file())
            return [(there.name, there.is_dir())] if fitting else []
        fits, found = part_pattern(composed(part)), []
        try:
            with os.scandir(at) as entries:
                for entry in entries:
                    if not fits.match(composed(entry.name)) or (folders and not entry.is_dir()):
                        continue
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.name.startswith(".") and not part.startswith("."):
                        (self.hidden if entry.is_dir() else self.hidden_files).add(path)
                    elif entry.is_dir() or entry.is_file():
                        found.append((entry.name, entry.is_dir()))
                    elif entry.is_symlink():
                        self.broken.add(path)
        except OSError:  # no such folder, or it may not be read: then it has no images, which is told
            return []
        return found


def same_name(folder: Path, name: str) -> str | None:
    """The entry of a folder whose name looks like `name` but is composed otherwise; None: none."""
    wanted = composed(name)
    try:
        with os.scandir(folder) as entries:
            return next((entry.name for entry in entries if composed(entry.name) == wanted), None)
    except OSError:
        return None


def on_disk(source: Path, path: str) -> str:
    """`path` as it is written on disk, where its parts may be composed otherwise; unchanged if there is no
    such file. `path` is relative to `source`.
    """
    if path.isascii() or (source / path).exists():
        return path
    found = PurePosixPath()
    for part in PurePosixPath(path).parts:
        name = part if (source / found / part).exists() else same_name(source / found, part)
        if name is None:
            return path
        found /= name
    return found.as_posix()


@functools.lru_cache(256)
def part_pattern(part: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(part))


def is_open(part: str) -> bool:
    """Whether a part of a glob may stand for several names."""
    return any(mark in part for mark in WILD)


def alternatives(pattern: str, braces: re.Pattern[str] = ANY_BRACES) -> list[str]:
    """The globs that a pattern with {a,b} stands for."""
    match = braces.search(pattern)
    if match is None:
        return [pattern]
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [one for choice in match[1].split(",") for one in alternatives(head + choice + tail, braces)]


def name_pattern(glob: str) -> re.Pattern[str]:
    """A glob's file name as a regular expression with a group for each `*`."""
    parts = []
    for token in GLOB_TOKEN.findall(glob):
        if token[0] == "*":
            parts.append("(.*)")
        elif token == "?":
            parts.append(".")
        elif len(token) > 1:  # [abc] or [!abc]
            inside = token[1:-1].replace("\\", "\\\\")
            parts.append(f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]")
        else:
            parts.append(re.escape(token))
    return re.compile("".join(parts), re.DOTALL)
