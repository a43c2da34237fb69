"""Walking tars, whoever wrote them: what an index is made from, and what it is checked against."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from unimatch.codecs.decode import decode_label, image_header
from unimatch.errors import DataError, summary
from unimatch.shardset.index import BLOCK, Sample, Shard, digest
from unimatch.shardset.names import IMAGE_EXTENSIONS, IMAGES, LABEL_EXTENSIONS, SHARD_NAME, key_problem

# Enough of an image file to hold the marker with its size behind large EXIF and ICC blocks.
HEADER_BYTES = 1 << 18


def scan(root: Path, label_member: str | None = None) -> list[Shard]:
    """All tars in `root` as shards, walked member by member. DataError lists what is wrong with them.

    `label_member`: what the labels of another program's tars end on, such as seg.png.
    """
    shards, problems = [], []
    for path in tars_in(root):
        match = SHARD_NAME.fullmatch(path.name)
        if match is None:
            problems.append(f"{path.name}: the name should look like train-00000.tar")
            continue
        try:
            shards.append(scan_tar(path, match["subset"], label_member))
        except DataError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path.name}: {error.strerror}")
    if problems:
        raise DataError(f"{root} cannot be indexed: " + summary(problems))
    if not shards:
        raise DataError(f"{root} holds no shards (*.tar)")
    return shards


def tars_in(root: Path) -> list[Path]:
    """The tars of a folder, by name, without hidden files (macOS leaves `._x.tar` beside x.tar)."""
    return sorted(path for path in root.glob("*.tar") if not is_hidden(path.name))


def is_hidden(member: str) -> bool:
    """Whether a member's name begins with a dot, so that it is no sample: macOS puts a `._a.jpg`
    (AppleDouble) before each a.jpg.
    """
    return member.rpartition("/")[2].startswith(".")


def scan_tar(path: Path, subset: str, label_member: str | None = None, kind: str = IMAGES) -> Shard:
    """One tar as a Shard. DataError: damaged or cut short, or a sample without an image, or, in a label set,
    with one or without a label.
    """
    groups: dict[str, dict[str, tuple[int, int]]] = {}
    problems = []
    for name, offset, size in members(path):
        if is_hidden(name):
            continue
        key, ending = split_name(name)
        group = groups.setdefault(key, {})
        if ending in group:
            problems.append(f"{name}: occurs twice")
        group[ending] = (offset, size)
    samples = []
    with open(path, "rb") as file:
        for key, group in groups.items():
            sample = _sample(key, group, label_member, kind)
            if isinstance(sample, str):
                problems.append(f"key {key!r} {sample}")
                continue
            width, height = _size(file.fileno(), sample, f"{path.name}:{key}")
            samples.append(sample._replace(width=width, height=height))
        if problems:
            raise DataError(f"{path.name}: {summary(problems)}")
        file.seek(0)
        sha256 = digest(file)
    samples.sort(key=lambda sample: (sample.image_offset, sample.label_offset))
    return Shard(path.name, subset, path.stat().st_size, sha256, samples)


def split_name(member: str) -> tuple[str, str]:
    """(key, ending in lower case) of a member: the ending is what follows the first dot of its base name."""
    folder, slash, base = member.removeprefix("./").rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, ending.lower()


def _size(file: int, sample: Sample, where: str) -> tuple[int, int]:
    """Width and height of a sample's image, or of its label where there is none."""
    if sample.image_size:
        header = image_header(
            os.pread(file, min(sample.image_size, HEADER_BYTES), sample.image_offset), where
        )
        return header.width, header.height
    height, width = decode_label(os.pread(file, sample.label_size, sample.label_offset), where).shape
    return width, height


def _sample(
    key: str, group: dict[str, tuple[int, int]], label_member: str | None, set_kind: str
) -> Sample | str:
    """The sample of these members (offset and size by extension) with size 0x0; or what is wrong."""
    problem = key_problem(key)
    if problem:
        return problem
    names = [label_member] if label_member else [f"label.{kind}" for kind in LABEL_EXTENSIONS]
    labels = [name for name in names if name in group]
    single = [kind for kind in group if kind in IMAGE_EXTENSIONS and kind not in labels]
    pairs = [kind for kind in IMAGE_EXTENSIONS if f"a.{kind}" in group and f"b.{kind}" in group]
    halves = [kind for kind in group if kind[:2] in ("a.", "b.") and kind[2:] in IMAGE_EXTENSIONS]
    if set_kind != IMAGES and (len(labels) != 1 or len(group) != 1):
        return f"has {', '.join(group)}; in a label set it needs one label and nothing else"
    if set_kind == IMAGES and (len(single) + len(pairs) != 1 or len(halves) != 2 * len(pairs)):
        return f"has {len(single) + len(halves)} images ({', '.join(group)}); needs one, or a pair .a and .b"
    if len(labels) > 1:
        return f"has {len(labels)} labels ({', '.join(group)})"
    kind = (single + pairs or [""])[0]
    image_offset, image_size = group.get(f"a.{kind}" if pairs else kind, (0, 0))
    second_offset, second_size = group[f"b.{kind}"] if pairs else (0, 0)
    label_offset, label_size = group[labels[0]] if labels else (0, 0)
    return Sample(
        key=key.encode(),
        image_offset=image_offset,
        image_size=image_size,
        image_ext=kind.encode(),
        second_offset=second_offset,
        second_size=second_size,
        label_offset=label_offset,
        label_size=label_size,
        label_ext=next(kind.encode() for kind in LABEL_EXTENSIONS if labels[0].endswith(kind))
        if labels
        else b"",
        width=0,
        height=0,
    )


def members(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, offset of the data, size) of the regular files in a tar. DataError unless the tar is whole.

    `tarfile` takes a cut at a member's edge, or a damaged header, for the end, so the end marker is checked
    here.
    """
    size_bytes = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isreg():
                    yield member.name, member.offset_data, member.size
                tar.members = []  # type: ignore[attr-defined] # otherwise tarfile keeps every header
            end = tar.offset
    except tarfile.TarError as error:
        raise DataError(f"{path.name}: not a whole tar ({error}); copy or pack it again") from error
    with open(path, "rb") as file:
        marker = os.pread(file.fileno(), BLOCK, end)
    if len(marker) < BLOCK or any(marker):
        what = (
            "ends without the end marker: cut short" if len(marker) < BLOCK else "has a damaged member header"
        )
        raise DataError(f"{path.name}: {what} at byte {end} of {size_bytes}; copy or pack it again")
