"""From a recipe to the list of its images: globs, placeholders, lists and keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from zlib import crc32

from unimatch import keyed
from unimatch.codecs.volumes import h5_member, num_slices
from unimatch.errors import DataError, UserError
from unimatch.packing.coco import read_annotations
from unimatch.packing.pack import Problem
from unimatch.packing.recipe import Recipe, SubsetSource
from unimatch.shardset.key_list import read_lines

GLOB_TOKEN = re.compile(r"\*+|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
ALTERNATIVES = re.compile(r"\{([^{}]*)\}")
NOT_PLAIN = re.compile(rb"[^A-Za-z0-9_/-]")  # what a key cannot hold as it is


@dataclass(frozen=True)
class Job:
    """One image, pair or slice to pack. Paths are relative to `source`; `file#name` is a data set in HDF5."""

    source: Path
    key: str
    image: str
    label: str | None = None
    second: str | None = None
    slice: int | None = None  # the place in a volume; None: the file is one image
    # What the label is drawn from, as JSON, and the file that it comes from.
    drawing: bytes | None = None
    annotations: str | None = None

    @property
    def member(self) -> str | None:
        """The name of the image's data set in an HDF5 file; None: an image file."""
        return h5_member(self.image)[1]

    @property
    def has_label(self) -> bool:
        return self.label is not None or self.drawing is not None

    def files(self) -> list[Path]:
        """The files that the sample is made from."""
        paths = (self.image, self.second, self.label, self.annotations)
        return [self.source / h5_member(path)[0] for path in paths if path is not None]


@dataclass(frozen=True)
class Found:
    """An image that a glob matched: its path below the source, and what the placeholders stand for."""

    path: str
    folder: str  # {dir}
    name: str | None  # {name}; None: no `*` in the glob's file name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.path).stem

    def fill(self, template: str) -> str:
        """The path that a template means for this image, relative to the source folder."""
        text = template.replace("{dir}", self.folder).replace("{stem}", self.stem)
        return PurePosixPath(text.replace("{name}", self.name or "")).as_posix()


def find_jobs(
    recipe: Recipe, classes: tuple[str, ...], source: Path
) -> tuple[dict[str, list[Job]], list[Problem]]:
    """The jobs of each subset in packing order, and what is wrong with the layout. Reads no image."""
    chosen, problems = choose_images(recipe, source)
    jobs: dict[str, list[Job]] = {}
    seen: dict[str, str] = {}
    for subset, images in chosen.items():
        where = recipe.subsets[subset]
        drawings: dict[str, bytes] | None = None
        if where.annotations is not None:
            try:
                assert recipe.segments is not None
                drawings = read_annotations(
                    source, where.annotations, recipe.label_kind, recipe.segments, classes
                )
            except DataError as error:
                problems.append(Problem("bad annotations", str(error)))
                continue
        # Neighbours in a folder look alike (frames of one drive): shuffled here, shards are mixed. The
        # slices of one volume stay together, since they are looked at together.
        order = keyed.permutation(keyed.key(recipe.seed, crc32(subset.encode())), len(images))
        groups: list[list[Job]] = [[] for _ in images]
        for place, image in enumerate(images):
            key = sample_key(image.path)
            if key in seen:
                text = f"{image.path} ({subset}) has the key of {seen[key]}: {key}"
                problems.append(Problem("duplicate key", text))
                continue
            seen[key] = f"{image.path} ({subset})"
            try:
                groups[place] = list(image_jobs(source, key, image, where, drawings))
            except DataError as error:
                kind = "image without annotations" if drawings is not None else "unreadable image"
                problems.append(Problem(kind, str(error)))
        jobs[subset] = [job for place in order for job in groups[place]]
    return jobs, problems


def image_jobs(
    source: Path, key: str, image: Found, where: SubsetSource, drawings: dict[str, bytes] | None
) -> Iterator[Job]:
    """The jobs of one image file: one, or one a slice of a volume."""
    member = h5_member(where.images)[1]
    path = image.path if member is None else f"{image.path}#{member}"
    label = None if where.labels is None else image.fill(where.labels)
    second = None if where.second is None else image.fill(where.second)
    drawing = None
    if drawings is not None:
        below = (PurePosixPath(image.folder) / PurePosixPath(image.path).name).as_posix()
        drawing = drawings.get(below, drawings.get(PurePosixPath(image.path).name))
        if drawing is None:
            raise DataError(f"{image.path}: {where.annotations} has no annotation of it")
    depth = None if member is None else num_slices(source, path)
    if depth is None:
        yield Job(source, key, path, label, second, None, drawing, where.annotations)
        return
    for index in range(depth):
        yield Job(source, f"{key}/{index:03d}", path, label, second, index)


def sample_key(image: str) -> str:
    """The key of an image: its path without extension, where other characters than letters, digits, '_',
    '-' and '/' are written as %XX of their UTF-8 bytes. `urllib.parse.unquote` gives the path back.
    """
    data = PurePosixPath(image).with_suffix("").as_posix().encode("utf-8", "surrogateescape")
    return NOT_PLAIN.sub(lambda found: b"%%%02X" % ord(found[0]), data).decode()


# Which images


def choose_images(recipe: Recipe, source: Path) -> tuple[dict[str, list[Found]], list[Problem]]:
    """The images of each subset by path; a subset that is optional and absent is missing in the answer."""
    problems: list[Problem] = []
    chosen: dict[str, list[Found]] = {}
    waiting = list(recipe.subsets)
    while waiting:  # a subset that leaves out others comes after them; the recipe has no circles
        subset = next(name for name in waiting if not set(recipe.subsets[name].all_but) & set(waiting))
        waiting.remove(subset)
        where = recipe.subsets[subset]
        images = find_images(source, h5_member(where.images)[0])
        absent = [path for path in where.lists if not (source / path).is_file()]
        if where.optional and (absent or not images):
            continue
        if not images:
            problems.append(Problem("empty subset", f"{subset}: no file matches {where.images!r}"))
            continue
        if where.lists:
            images, found = pick(images, source, where)
            problems += found
        taken = {image.path for other in where.all_but for image in chosen.get(other, [])}
        images = [image for image in images if image.path not in taken]
        if where.skip_unlabeled:
            assert where.labels is not None
            labels = [source / h5_member(image.fill(where.labels))[0] for image in images]
            images = [image for image, label in zip(images, labels, strict=True) if label.is_file()]
        if images:
            chosen[subset] = images
        elif not where.optional and not absent:
            text = f"{subset}: none of the files that match {where.images!r} is left"
            problems.append(Problem("empty subset", text))
    if not chosen and not problems:
        problems.append(Problem("empty subset", "no subset has any files; is this the right folder?"))
    return {name: chosen[name] for name in recipe.subsets if name in chosen}, problems


def find_images(source: Path, pattern: str) -> list[Found]:
    """The files that a glob matches, by path. Files whose name begins with a dot are left out unless the
    glob's does too: file managers leave such beside the images.
    """
    found: dict[str, Found] = {}
    for one in alternatives(pattern):
        parts = PurePosixPath(one).parts
        fixed = PurePosixPath(*parts[: next(i for i, part in enumerate(parts) if open_part(part, i, parts))])
        name = name_pattern(parts[-1])
        for file in source.glob(one):
            path = file.relative_to(source)
            if not file.is_file() or (path.name.startswith(".") and not parts[-1].startswith(".")):
                continue
            match = name.fullmatch(path.name)
            stars = match.groups() if match else ()
            folder = PurePosixPath(path.parent.as_posix()).relative_to(fixed).as_posix()
            found[path.as_posix()] = Found(path.as_posix(), folder, stars[-1] if stars else None)
    return [found[path] for path in sorted(found)]


def open_part(part: str, place: int, parts: tuple[str, ...]) -> bool:
    """Whether a part of a glob stands for more than one folder, or is the file name."""
    return any(mark in part for mark in "*?[") or place == len(parts) - 1


def alternatives(pattern: str) -> list[str]:
    """The globs that a pattern with {a,b} stands for."""
    match = ALTERNATIVES.search(pattern)
    if match is None:
        return [pattern]
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [one for choice in match[1].split(",") for one in alternatives(head + choice + tail)]


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


# Lists


def pick(images: list[Found], source: Path, where: SubsetSource) -> tuple[list[Found], list[Problem]]:
    """The images that the lines of the subset's lists name, by path, and the lines that name none or several.

    A line is the image's path below the source folder, its last parts, or its {name}, each with or without
    extension; behind it the path of a mask may stand, as in published lists.
    """
    exact: dict[str, int] = {}
    loose: dict[str, int] = {}
    for place, image in enumerate(images):
        exact[image.path] = place
        names = set() if image.name is None else {image.name}
        parts = PurePosixPath(image.path).parts
        for first in range(len(parts)):
            tail = PurePosixPath(*parts[first:])
            names |= {tail.as_posix(), tail.with_suffix("").as_posix()}
        for name in names:
            loose[name] = place if name not in loose else -1  # -1: several images have it
    picked: set[int] = set()
    problems: list[Problem] = []
    for path in where.lists:
        try:
            lines = read_lines(source / path)
        except UserError as error:
            problems.append(Problem("unreadable list", str(error)))
            continue
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            places = [exact.get(text, loose.get(text)) for text in readings(line)]
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
    yield line.removeprefix("./").lstrip("/")
    for gap in re.finditer(r"\s+", line):
        if re.search(r"[./]", line[gap.end() :]):  # so that `name -1` does not pass for "image mask"
            yield line[: gap.start()].removeprefix("./").lstrip("/")
