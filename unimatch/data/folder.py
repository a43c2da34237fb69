"""The generic recipe: a folder of images and a folder of label pictures become a shard set.

Every file is read and checked while it is packed; all problems are reported together, and then nothing is
left behind.
"""

from __future__ import annotations

import functools
import io
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path, PurePosixPath
from typing import Literal
from zlib import crc32

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from unimatch import keyed
from unimatch.data.decode import decode_image
from unimatch.data.pack import NewSample, Packed, jpeg, labeled_sample, png, staged, write_set
from unimatch.errors import ConfigError, DataError, UserError
from unimatch.taxonomy import IGNORE_INDEX, Taxonomy, default_colors

MAX_LINES = 20  # problems shown one by one; the rest is counted
JPEG_QUALITY = 95
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


@dataclass(frozen=True)
class Problem:
    kind: str  # what it is counted under
    text: str


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a sample, or problems; `note` says why an image was encoded anew."""

    sample: NewSample | None
    problems: tuple[Problem, ...] = ()
    note: str | None = None


def pack(recipe: FolderRecipe, source: Path, out: Path, workers: int = 1, overwrite: bool = False) -> Packed:
    """Write the shard set; the same bytes for any number of workers. DataError lists all that is wrong."""
    if not source.is_dir():
        raise DataError(f"the source folder {source} does not exist")
    taxonomy, rules = read_classes(recipe, source)
    jobs, problems = find_jobs(recipe, source)
    notes: Counter[str] = Counter()
    everything = list(chain.from_iterable(jobs.values()))
    with (
        staged(out, overwrite) as root,
        tqdm(total=len(everything), unit="image", desc="packing", disable=None) as bar,
    ):
        outcomes = convert_all(everything, rules, workers)

        def samples(subset: str) -> Iterator[NewSample]:
            for outcome in islice(outcomes, len(jobs[subset])):
                problems.extend(outcome.problems)
                notes.update([outcome.note] if outcome.note else [])
                bar.update()
                # Once something is wrong nothing will be kept: only look for what else is wrong.
                if outcome.sample is not None and not problems:
                    yield outcome.sample

        created = {"recipe": "folder", **asdict(recipe)}
        streams = {name: samples(name) for name in jobs}
        try:
            write_set(root, taxonomy, streams.items(), created, recipe.shard_mb << 20)
        except UserError:
            if not problems:
                raise
            # A set that lacks the bad samples was refused. What is wrong with those says more: see the rest.
            for stream in streams.values():
                deque(stream, maxlen=0)
        if problems:
            bar.close()
            raise DataError(report(problems, source))
    counts = {name: (len(found), sum(job.label is not None for job in found)) for name, found in jobs.items()}
    return Packed(counts, dict(sorted(notes.items())))


def report(problems: list[Problem], source: Path) -> str:
    """The problems: how many of which kind, then the first lines of each kind."""
    kinds = Counter(problem.kind for problem in problems)
    head = f"{len(problems)} problems in {source}, nothing was written"
    lines = [f"{head}: {', '.join(f'{count} x {kind}' for kind, count in sorted(kinds.items()))}"]
    rank: Counter[str] = Counter()  # so that one frequent kind does not hide the others
    ranked = []
    for problem in problems:
        ranked.append((rank[problem.kind], problem))
        rank[problem.kind] += 1
    chosen = sorted(ranked, key=lambda pair: pair[0])[:MAX_LINES]
    lines += [f"  {problem.text}" for _, problem in sorted(chosen, key=lambda pair: (pair[1].kind, pair[0]))]
    if len(problems) > MAX_LINES:
        lines.append(f"  ... and {len(problems) - MAX_LINES} more")
    return "\n".join(lines)


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


def convert_all(jobs: list[Job], rules: LabelRules, workers: int) -> Iterator[Outcome]:
    """The outcome of each job, in order; the number of outcomes held at a time is bounded."""
    if workers <= 1:
        for job in jobs:
            yield convert(job, rules)
        return
    waiting: deque[Future[Outcome]] = deque()
    # Spawned, not forked: OpenCV's and tqdm's threads do not survive a fork.
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(convert, job, rules))
                if len(waiting) >= 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise DataError("a packing worker was killed (out of memory?); try fewer --workers") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def convert(job: Job, rules: LabelRules) -> Outcome:
    """Read, check and encode one image and its label."""
    problems: list[Problem] = []
    image: tuple[bytes, str, tuple[int, int], str | None] | None = None
    label: np.ndarray | None = None
    try:
        image = pack_image((job.source / job.image).read_bytes(), job.image, rules.downscale)
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


def pack_image(data: bytes, where: str, downscale: int) -> tuple[bytes, str, tuple[int, int], str | None]:
    """(bytes, extension, (height, width), why it was encoded anew or None).

    JPEG and PNG that every decoder reads alike keep their bytes. EXIF rotation is applied, as
    decoders disagree about it.
    """
    with Image.open(io.BytesIO(data)) as opened:
        kind, mode = opened.format, opened.mode
        turned = opened.getexif().get(0x0112, 1) not in (0, 1)
        if mode in ("I", "F") or mode.startswith("I;16"):
            raise DataError(f"{where}: has {mode} pixels; convert it to 8 bits a channel first")
        plain = (kind in ("JPEG", "MPO") and mode in ("RGB", "L")) or (kind == "PNG" and mode in ("RGB", "L"))
        note = "EXIF rotation" if turned else None if plain else f"{mode} {kind}"
        if note is None:
            # Decoded even if it is stored as it is: a damaged file must be found now.
            image = decode_image(data, where)
        else:
            image = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    lossy = kind in ("JPEG", "MPO")
    height, width = image.shape[0] // downscale, image.shape[1] // downscale
    if min(height, width) < 1:
        raise DataError(
            f"{where}: {image.shape[1]}x{image.shape[0]} pixels are too few for downscale {downscale}"
        )
    if downscale > 1:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    elif note is None:
        return data, "jpg" if lossy else "png", (height, width), None
    return (
        jpeg(image, JPEG_QUALITY) if lossy else png(image),
        "jpg" if lossy else "png",
        (height, width),
        note,
    )


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
