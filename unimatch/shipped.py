"""The files that travel with the package: recipes, splits, configurations, launch files; found by a name.

A name is the file's path without its suffix, and without the folders that add nothing: `recipes/camvid`,
`splits/pascal/92`, `configs/base/camvid`, `launch/cpu2`, `launch/deepspeed/zero2`. With the suffix it means
the same.
"""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent
FOLDERS = ("configs", "launch", "shards/recipes", "shards/splits")
# setup.cfg puts them into the installed package; in a clone they lie beside it.
ROOT = _PACKAGE / "files" if (_PACKAGE / "files").is_dir() else _PACKAGE.parent
SUFFIXES = (".yaml", ".json", ".sh", ".sbatch", ".py", ".txt")
SHORT = {"shards/recipes/": "recipes/", "shards/splits/": "splits/", "launch/accelerate/": "launch/"}


@cache
def names() -> dict[str, Path]:
    """Every shipped file by its name, sorted."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    return dict(sorted((_plain(path.relative_to(ROOT).as_posix()), path) for path in paths))


def find(name: str, kind: str = "") -> Path | None:
    """The shipped file of a name, which may leave out its first folder where that is `kind`."""
    known = names()
    return known.get(_plain(name)) or known.get(f"{kind}/{_plain(name)}")


def found(name: str, kind: str, beside: Path = Path()) -> Path:
    """The file that `name` is the path of, from the folder `beside`; if there is none, the shipped file of
    that name; else the path as it is.
    """
    path = beside / name
    return path if path.is_file() else find(name, kind) or path


def of_kind(kind: str) -> list[str]:
    """The names of that kind without its folder."""
    return [name.removeprefix(f"{kind}/") for name in names() if name.startswith(f"{kind}/")]


def like(name: str, kind: str) -> list[str]:
    """Those of that kind that look like `name`, the most similar first."""
    return difflib.get_close_matches(_plain(name).removeprefix(f"{kind}/"), of_kind(kind), n=3, cutoff=0.6)


def _plain(name: str) -> str:
    """The name of a shipped path, and of a name with a suffix."""
    for long, short in SHORT.items():
        if name.startswith(long):
            name = short + name.removeprefix(long)
    stem, dot, suffix = name.rpartition(".")
    return stem if f".{suffix}" in SUFFIXES and dot else name
