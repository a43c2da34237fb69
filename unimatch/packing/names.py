"""Names of images and of what belongs to them: placeholders of recipes, and the keys of samples."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unimatch.codecs.volumes import h5_member
from unimatch.errors import DataError
from unimatch.packing.globs import CHOICE, alternatives, on_disk

NOT_PLAIN = re.compile(rb"[^A-Za-z0-9_/-]")  # what a key cannot hold as it is
VOLUME_SUFFIX = ".nii.gz"
DOUBLE_SUFFIXES = (VOLUME_SUFFIX, ".ome.tif", ".ome.tiff")


class Ambiguous(DataError):
    """Several files that a template may mean."""


@dataclass(frozen=True)
class Found:
    """An image that a glob matched: its path below the source, and what the placeholders stand for."""

    path: str
    folder: str  # {dir}
    name: str | None  # {name}; None: no `*` in the glob's file name
    is_folder: bool = False  # a DICOM series: then {stem} and {file} are the folder's name

    @property
    def key(self) -> str:
        """The key of its sample, or what those of its slices begin with."""
        return sample_key(f"{self.path}.dcm" if self.is_folder else self.path)

    @property
    def file(self) -> str:
        return PurePosixPath(self.path).name

    def paths(self, template: str) -> list[str]:
        """The paths that a template may mean for this image, relative to the source folder: several where it
        has {a,b}, and of `a.ome.tif`, whose {stem} is `a` and, as other programs read it, `a.ome`.
        """
        stems = [self.file] if self.is_folder else stems_of(self.file)
        found = []
        for one in alternatives(template, CHOICE):
            parent = PurePosixPath(self.folder).parent.as_posix()
            marks = {"{dir}": self.folder, "{parent}": parent, "{name}": self.name or "", "{file}": self.file}
            for stem in stems:
                text = fill(one, {**marks, "{stem}": stem})
                found.append(PurePosixPath(text).as_posix())
        return found

    def resolve(self, source: Path, template: str) -> str:
        """The one file that a template means, as it is written on disk; where there is none, the first path.
        Ambiguous: there are several.
        """
        written = [member_on_disk(source, path) for path in self.paths(template)]
        if len(written) == 1:
            return written[0]
        there = [path for path in dict.fromkeys(written) if is_there(source, path)]
        if len(there) > 1:
            raise Ambiguous(f"{self.path}: {' and '.join(there)} both fit {template!r}; keep one")
        return (there or written)[0]

    def has(self, source: Path, template: str) -> bool:
        """Whether there is a file that a template means."""
        return any(is_there(source, member_on_disk(source, path)) for path in self.paths(template))


def member_on_disk(source: Path, path: str) -> str:
    file, member = h5_member(path)
    return on_disk(source, file) + (f"#{member}" if member else "")


def is_there(source: Path, path: str) -> bool:
    return (source / h5_member(path)[0]).is_file()


def fill(template: str, marks: dict[str, str]) -> str:
    """The template with each {mark} replaced, once: a name may itself hold braces."""
    return re.sub("|".join(map(re.escape, marks)), lambda found: marks[found[0]], template)


def stems_of(file: str) -> list[str]:
    """What {stem} may stand for: the name without extension, where `.nii.gz` and `.ome.tif` are one."""
    plain = PurePosixPath(file).stem
    for suffix in DOUBLE_SUFFIXES:
        if file.lower().endswith(suffix) and len(file) > len(suffix):
            return [file[: -len(suffix)], plain]
    return [plain]


def sample_key(image: str) -> str:
    """The key of an image: its path without extension, where other characters than letters, digits, '_',
    '-' and '/' are written as %XX of their UTF-8 bytes. `urllib.parse.unquote` gives the path back.
    """
    path = PurePosixPath(image)
    if image.lower().endswith(VOLUME_SUFFIX):
        path = path.with_suffix("")
    data = path.with_suffix("").as_posix().encode("utf-8", "surrogateescape")
    return NOT_PLAIN.sub(lambda found: b"%%%02X" % ord(found[0]), data).decode()
