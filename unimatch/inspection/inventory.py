"""What lies in a folder, by folder and extension, for guessing what it is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from unimatch.codecs.opening import open_picture
from unimatch.errors import DataError
from unimatch.packing.globs import Walk
from unimatch.packing.names import stems_of

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
EXAMPLES = 3
IGNORED = ("ignore", "ignored", "void", "unlabeled", "unlabelled", "not labelled", "not labeled")


@dataclass
class Guess:
    """A recipe as settings, and what there is to say about it."""

    kind: str
    recipe: dict[str, Any]
    saw: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)


class Inventory:
    """The files below a folder. Paths are relative to it; hidden ones are left out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders: dict[str, list[str]] = {}  # names of the files in each folder
        for path in sorted(Walk(root).files("**/*")):
            folder, _, name = path.rpartition("/")
            self.folders.setdefault(folder, []).append(name)

    def files(self, *suffixes: str) -> list[str]:
        """The paths of all files with one of these endings."""
        return [join(folder, name) for folder in self.folders for name in self.named(folder, *suffixes)]

    def named(self, folder: str, *suffixes: str) -> list[str]:
        """The names in a folder with one of these endings."""
        return [name for name in self.folders.get(folder, []) if name.lower().endswith(suffixes)]

    def files_in(self, folder: str, *suffixes: str) -> list[str]:
        """The paths of the files in a folder with one of these endings."""
        return [join(folder, name) for name in self.named(folder, *suffixes)]

    def pictures(self, folder: str) -> list[str]:
        return self.named(folder, *PICTURES)

    def read(self, path: str) -> bytes:
        """DataError: it cannot be read."""
        try:
            return (self.root / path).read_bytes()
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error

    def sizes(self, paths: Sequence[str]) -> str:
        """Such as "640x480 pixels" of a few pictures."""
        found = Counter[str]()
        for path in paths[:: max(1, len(paths) // 20)][:20]:
            try:
                with open_picture(self.read(path), path) as opened:
                    found[f"{opened.size[0]}x{opened.size[1]}"] += 1
            except (DataError, OSError):
                found["unreadable"] += 1
        shown = [size for size, _ in found.most_common(EXAMPLES)]
        return f"{', '.join(shown)}{' and others' if len(found) > EXAMPLES else ''} pixels"


def join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def kinship(folder: str, other: str) -> int:
    """How many parts two folders share, such as train in images/train and masks/train: of folders whose files
    have equal names the closest is meant."""
    return sum((Counter(folder.split("/")) & Counter(other.split("/"))).values())


def stem(name: str) -> str:
    return stems_of(name)[0]


def choice(names: Iterable[str]) -> str:
    """The ending of a glob for these names: "*.jpg" or "*.{jpg,png}"."""
    endings = sorted({PurePosixPath(name).suffix[1:] for name in names})
    return f"*.{endings[0]}" if len(endings) == 1 else f"*.{{{','.join(endings)}}}"


def subset_name(folder: str) -> str:
    """The subset that a folder's name tells; train, if it tells none."""
    for part in reversed(folder.lower().split("/")):
        for word in re.split(r"[^a-z]+", part):
            if word in SPLITS:
                return SPLITS[word]
    return "train"


def named_subsets(entries: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The settings of each folder under the name of its subset; of several the folder's own name."""
    names = Counter(subset_name(folder) for folder, _ in entries)
    found: dict[str, dict[str, Any]] = {}
    for folder, settings in entries:
        name = subset_name(folder)
        if names[name] > 1:
            name = re.sub(r"[^A-Za-z0-9_]+", "_", folder).strip("_") or name
        while name in found:
            name += "_"
        found[name] = settings
    return found


def means_ignored(name: str) -> bool:
    """Whether a label's name says that its pixels are not labelled."""
    return name.strip("_ ").lower() in IGNORED


def class_settings(labels: Counter[str]) -> dict[str, Any]:
    """Classes of shapes: the labels, the most frequent first, behind a background."""
    background = next((name for name in labels if name.strip("_ ").lower() == "background"), None)
    ignored = [name for name in labels if means_ignored(name)]
    classes = [name for name, _ in labels.most_common() if name not in (background, *ignored)]
    segments: dict[str, Any] = {"other": background or "background", "unannotated": "other"}
    if ignored:
        segments["names"] = dict.fromkeys(ignored, "ignore")
    return {"classes": [background or "background", *classes], "segments": segments}


def counted(labels: Counter[str]) -> str:
    """Such as "car 12, road 3"."""
    shown = [f"{name} {count}" for name, count in labels.most_common(20)]
    return ", ".join(shown) + (f" and {len(labels) - 20} more" if len(labels) > 20 else "")
