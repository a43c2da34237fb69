"""The generic recipe: a folder of images and a folder of label pictures become a shard set.

Every file is read and checked while it is packed; all problems are reported together, and then nothing is
left behind.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal
from zlib import crc32

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from unimatch import keyed
from unimatch.data.encode import ImageRules, pack_image
from unimatch.data.pack import NewSample, Outcome, Packed, Problem, labeled_sample, write_set
from unimatch.errors import ConfigError, DataError
from unimatch.taxonomy import IGNORE_INDEX, Taxonomy, default_colors

PLACEHOLDER = re.compile(r"\{[^}]*\}")
CLASS_LINE = re.compile(
    r"(?P<id>\d+)\s+(?P<name>.*?)(\s+[\[(]?(?P<r>\d+)[\s,]+(?P<g>\d+)[\s,]+(?P<b>\d+)[\])]?)?"
)
ID_MODES = ("1", "L", "P", "I", "I;16")  # Pillow's names of the single-channel pictures
GREY_STEP = {
    "L;2": 85,
    "L;4": 17,
}  # Pillow spreads the values of 2 and 4 bit grey over 0..255; ids are meant as stored
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)

Color = tuple[int, int, int]


@dataclass
class SubsetSource:
    """Where the images and labels of one subset lie, relative to the source folder."""

    images: str  # a glob, such as "images/train/*.jpg"; "**" goes into subfolders
    # The label of an image: {stem} is the image's name without extension, {dir} its folder below the fixed
    # part of the glob. None: the images carry no masks.
    labels: str | None = None

    def __post_init__(self) -> None:
        for name, text in (("images", self.images), ("labels", self.labels)):
            if text is not None and (
                not text or PurePosixPath(text).is_absolute() or ".." in PurePosixPath(text).parts
            ):
                raise ConfigError(f"{name} must be a path inside the source folder, found {text!r}")
        unknown = [text for text in PLACEHOLDER.findall(self.labels or "") if text not in ("{stem}", "{dir}")]
        if unknown:
            raise ConfigError(f"labels knows {{stem}} and {{dir}}, found {unknown[0]}")
        if self.labels is not None and "{stem}" not in self.labels:
            raise ConfigError(f"labels needs {{stem}}, else all images share the label {self.labels!r}")


@dataclass
class FolderRecipe:
    """How a folder becomes a shard set. Exactly one of `classes` and `classes_file` names the classes."""

    subsets: dict[str, SubsetSource]  # one shard series each: train, val, ...
    classes: tuple[str, ...] = ()  # class names; the id of a class is its place
    # A text file in the source folder with lines "id name" or "id name R G B". The classes are its lines in
    # order without the one of `ignore_id`; the ids in it are those of the label files.
    classes_file: str | None = None
    colors: tuple[tuple[int, int, int], ...] = ()  # RGB of each class, for pictures and for `labels: colors`
    labels: Literal["ids", "colors"] = (
        "ids"  # label files hold ids (grey or palette) or RGB colours of the classes
    )
    ignore_id: int | None = None  # the id in label files that means "not labelled"
    ignore_color: tuple[int, int, int] | None = (
        None  # the same for `labels: colors`; the file's line of ignore_id says it too
    )
    id_map: dict[int, int] = field(
        default_factory=dict
    )  # id in label files -> class id, or 255 = ignore; empty: as they are
    downscale: int = 1  # divides width and height: area average for images, nearest for labels
    shard_mb: int = 256  # largest size of a shard in MiB
    seed: int = 0  # of the order in which samples are packed

    def __post_init__(self) -> None:
        if not self.subsets:
            raise ConfigError("subsets must name at least one subset")
        for name in self.subsets:
            if not re.fullmatch(r"[A-Za-z0-9_]+", name):
                raise ConfigError(f"subsets: a name may hold letters, digits and '_', found {name!r}")
        if bool(self.classes) == (self.classes_file is not None):
            raise ConfigError("classes: give either classes or classes_file")
        if self.colors and len(self.colors) != len(self.classes):
            raise ConfigError(
                f"colors needs one colour a class of `classes`: {len(self.classes)}, found {len(self.colors)}"
            )
        if self.labels == "colors" and self.classes and not self.colors:
            raise ConfigError("colors must be given where label files hold colours")
        if self.labels == "colors" and self.id_map:
            raise ConfigError("id_map is for label files that hold ids; here they hold colours")
        for name, low in (("downscale", 1), ("shard_mb", 1)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name} must be at least {low}, found {getattr(self, name)}")
        for color in (*self.colors, *([self.ignore_color] if self.ignore_color else [])):
            if not all(0 <= value <= 255 for value in color):
                raise ConfigError(f"colors: values go from 0 to 255, found {list(color)}")


@dataclass(frozen=True)
class LabelRules:
    """How label files are read: `pairs` are (id or 0xRRGGBB in the file, class id or IGNORE_INDEX)."""

    kind: Literal["ids", "colors"]
    pairs: tuple[tuple[int, int], ...]
    num_classes: int
    downscale: int


@dataclass(frozen=True)
class Job:
    """One image to pack. Paths are relative to `source`."""

    source: Path
    key: str
    image: str
    label: str | None

    def files(self) -> list[Path]:
        return [self.source / name for name in (self.image, self.label) if name is not None]


def pack(recipe: FolderRecipe, source: Path, out: Path, workers: int = 1, overwrite: bool = False) -> Packed:
    """Write the shard set; the same bytes for any number of workers. DataError lists all that is wrong."""
    if not source.is_dir():
        raise DataError(f"the source folder {source} does not exist")
    taxonomy, rules = read_classes(recipe, source)
    jobs, problems = find_jobs(recipe, source)
    return write_set(
        out,
        taxonomy,
        jobs,
        functools.partial(convert, rules=rules),
        {"recipe": "folder", **asdict(recipe)},
        shard_bytes=recipe.shard_mb << 20,
        workers=workers,
        overwrite=overwrite,
        source_name=str(source),
        problems=problems,
    )


# Classes


def read_classes(recipe: FolderRecipe, source: Path) -> tuple[Taxonomy, LabelRules]:
    """The taxonomy, and how values in label files become its ids."""
    if recipe.classes_file is None:
        entries = [
            (i, name, color) for i, (name, color) in enumerate(zip_colors(recipe.classes, recipe.colors))
        ]
    else:
        entries = parse_classes(source / recipe.classes_file)
    ignore_color = next((color for i, _, color in entries if i == recipe.ignore_id), None)
    if recipe.classes_file is None:
        ignore_color = None  # a listed class is a class; ignore_id lies outside
        if recipe.ignore_id is not None and recipe.ignore_id < len(entries):
            raise ConfigError(
                f"ignore_id {recipe.ignore_id} is the class {entries[recipe.ignore_id][1]!r}; give another id"
            )
    else:
        entries = [entry for entry in entries if entry[0] != recipe.ignore_id]
    names = tuple(name for _, name, _ in entries)
    known = [color for _, _, color in entries if color is not None]
    if len(known) not in (0, len(entries)) or (recipe.labels == "colors" and not known):
        raise DataError(f"{recipe.classes_file}: give every class a colour (R G B), or none of them")
    taxonomy = Taxonomy(names, tuple(known) or default_colors(len(names)))
    if recipe.labels == "ids":
        pairs = dict(recipe.id_map) or {source_id: place for place, (source_id, _, _) in enumerate(entries)}
        if recipe.ignore_id is not None:
            pairs[recipe.ignore_id] = IGNORE_INDEX
    else:
        pairs = {packed(color): place for place, color in enumerate(known)}
        if len(pairs) < len(known):
            raise DataError(
                "two classes have the same colour, so label files that hold colours cannot be read"
            )
        ignore_color = recipe.ignore_color or ignore_color
        if ignore_color is not None:
            pairs[packed(ignore_color)] = IGNORE_INDEX
    bad = {value for value in pairs.values() if value != IGNORE_INDEX and not 0 <= value < len(names)}
    if bad:
        raise ConfigError(
            f"id_map leads to {sorted(bad)}: classes are 0 to {len(names) - 1}, {IGNORE_INDEX} is ignore"
        )
    return taxonomy, LabelRules(recipe.labels, tuple(sorted(pairs.items())), len(names), recipe.downscale)


def zip_colors(names: Iterable[str], colors: tuple[Color, ...]) -> list[tuple[str, Color | None]]:
    return [(name, colors[i] if colors else None) for i, name in enumerate(names)]


def packed(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def parse_classes(path: Path) -> list[tuple[int, str, Color | None]]:
    """(id, name, colour) of each line; empty lines and lines that start with # do not count."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"classes_file {path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    entries: list[tuple[int, str, Color | None]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = CLASS_LINE.fullmatch(line.strip())
        if match is None or not match["name"]:
            raise DataError(f"{path}:{number}: expected 'id name' or 'id name R G B', found {line.strip()!r}")
        color = (int(match["r"]), int(match["g"]), int(match["b"])) if match["r"] else None
        if color is not None and max(color) > 255:
            raise DataError(f"{path}:{number}: colour values go from 0 to 255, found {list(color)}")
        if any(match["id"] == str(entry[0]) for entry in entries):
            raise DataError(f"{path}:{number}: the id {match['id']} is given twice")
        entries.append((int(match["id"]), match["name"], color))
    return entries


# Files


def find_jobs(recipe: FolderRecipe, source: Path) -> tuple[dict[str, list[Job]], list[Problem]]:
    """The images of each subset in packing order, and the problems that need no file to be read."""
    jobs: dict[str, list[Job]] = {}
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    for subset, where in recipe.subsets.items():
        images = sorted(
            path.relative_to(source).as_posix() for path in source.glob(where.images) if path.is_file()
        )
        if not images:
            problems.append(Problem("empty subset", f"{subset}: no file matches {where.images!r}"))
        found = []
        for image in images:
            key = sample_key(image)
            if key in seen:
                problems.append(
                    Problem("duplicate key", f"{image} ({subset}) has the key of {seen[key]}: {key}")
                )
                continue
            seen[key] = f"{image} ({subset})"
            label = label_path(where, image) if where.labels is not None else None
            found.append(Job(source, key, image, label))
        # Neighbours in a folder look alike (frames of one drive): shuffled here, shards are mixed.
        order = keyed.permutation(keyed.key(recipe.seed, crc32(subset.encode())), len(found))
        jobs[subset] = [found[i] for i in order]
    return jobs, problems


def sample_key(image: str) -> str:
    """The key of an image: its path without extension, where other characters than letters, digits, '_',
    '-' and '/' are written as %XX of their UTF-8 bytes. `urllib.parse.unquote` gives the path back.
    """
    stem = PurePosixPath(image).with_suffix("").as_posix()
    plain = re.compile(rb"[A-Za-z0-9_/-]")
    data = stem.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if plain.match(bytes([byte])) else f"%{byte:02X}" for byte in data)


def label_path(where: SubsetSource, image: str) -> str:
    """The label of an image, relative to the source folder."""
    fixed = []
    for part in PurePosixPath(where.images).parts[:-1]:
        if any(mark in part for mark in "*?["):
            break
        fixed.append(part)
    folder = PurePosixPath(image).parent.relative_to(PurePosixPath(*fixed)).as_posix()
    assert where.labels is not None
    text = where.labels.replace("{stem}", PurePosixPath(image).stem).replace("{dir}", folder)
    return PurePosixPath(text).as_posix()


# One sample; runs in worker processes


def convert(job: Job, rules: LabelRules) -> Outcome:
    """Read, check and encode one image and its label."""
    problems: list[Problem] = []
    image: tuple[bytes, str, tuple[int, int], str | None] | None = None
    label: np.ndarray | None = None
    try:
        image = pack_image((job.source / job.image).read_bytes(), job.image, ImageRules(rules.downscale))
    except (DataError, *UNREADABLE) as error:
        problems.append(Problem("unreadable image", f"{job.image}: {reason(error, job.image)}"))
    if job.label is not None:
        try:
            label, found = read_label(job.source / job.label, job.label, rules)
            problems += found
        except FileNotFoundError:
            problems.append(Problem("missing label", f"{job.label}: no such file (label of {job.image})"))
        except UNREADABLE as error:
            problems.append(Problem("unreadable label", f"{job.label}: {reason(error, job.label)}"))
    if image is not None and label is not None and image[2] != label.shape:
        (height, width), (rows, columns) = image[2], label.shape
        turned = ", after its EXIF rotation" if image[3] == "EXIF rotation" else ""
        text = f"{job.label}: is {columns}x{rows} pixels, its image {job.image} {width}x{height}{turned}"
        problems.append(Problem("size mismatch", text))
    if problems or image is None:
        return Outcome(None, tuple(problems))
    data, ext, (height, width), note = image
    if label is None:
        return Outcome(NewSample(job.key, data, ext, None, width, height, None), note=note)
    return Outcome(labeled_sample(job.key, data, ext, label, rules.num_classes), note=note)


def reason(error: Exception, name: str) -> str:
    """The error in a few words, without the file's name, which stands before it."""
    if isinstance(error, UnidentifiedImageError):
        return "is not a picture"
    text = getattr(error, "strerror", None) or str(error)
    return text.splitlines()[0].removeprefix(f"{name}: ") if text else type(error).__name__


def read_label(path: Path, where: str, rules: LabelRules) -> tuple[np.ndarray | None, list[Problem]]:
    """(uint8 [H, W] of class ids and IGNORE_INDEX, problems); None where the file is of the wrong kind."""
    with Image.open(path) as opened:
        grey = opened.mode in ID_MODES
        if rules.kind == "ids":
            if not grey:
                text = (
                    f"{where}: has {opened.mode} pixels, expected one channel of ids; is it 'labels: colors'?"
                )
                return None, [Problem("colours instead of ids", text)]
            coding = opened.tile[0][3] if opened.tile else None
            values = np.asarray(opened).astype(np.int64) // GREY_STEP.get(str(coding), 1)
        else:
            if grey and opened.mode != "P":
                text = f"{where}: has one channel ({opened.mode}), expected RGB colours; is it 'labels: ids'?"
                return None, [Problem("ids instead of colours", text)]
            rgb = np.asarray(opened.convert("RGB")).astype(np.int64)
            values = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    sources, targets = lookup(rules)
    place = np.minimum(np.searchsorted(sources, values), len(sources) - 1)
    known = sources[place] == values
    problems = []
    if not known.all():
        wrong, counts = np.unique(values[~known], return_counts=True)
        shown = [
            describe(rules, int(value), int(count))
            for value, count in zip(wrong[:5], counts[:5], strict=True)
        ]
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        kind = "unknown id" if rules.kind == "ids" else "unknown colour"
        problems.append(Problem(kind, f"{where}: {kind} {', '.join(shown)}{more}{allowed(rules)}"))
    label = np.where(known, targets[place], IGNORE_INDEX).astype(np.uint8)
    if rules.downscale > 1:
        size = (label.shape[1] // rules.downscale, label.shape[0] // rules.downscale)
        if min(size) < 1:
            return None, problems  # as the image is: reported there
        label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return label, problems


def describe(rules: LabelRules, value: int, count: int) -> str:
    name = str(value) if rules.kind == "ids" else f"[{value >> 16}, {value >> 8 & 255}, {value & 255}]"
    return f"{name} ({count} pixels)"


def allowed(rules: LabelRules) -> str:
    if rules.kind == "colors":
        return ""
    ids = [source for source, _ in rules.pairs]
    return (
        f"; the recipe knows {ids[0]} to {ids[-1]}"
        if len(ids) == ids[-1] - ids[0] + 1
        else f"; the recipe knows {ids}"
    )


@functools.cache
def lookup(rules: LabelRules) -> tuple[np.ndarray, np.ndarray]:
    """int64 values in label files, rising, and the uint8 class ids that they become."""
    pairs = np.array(rules.pairs, np.int64)
    return pairs[:, 0], pairs[:, 1].astype(np.uint8)
