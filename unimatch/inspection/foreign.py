"""Tars in the webdataset layout that other programs wrote: what they hold, and what training lacks."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unimatch.codecs.decode import decode_image, decode_label, image_header
from unimatch.errors import DataError, summary
from unimatch.packing.classes import parse_classes
from unimatch.shardset.index import INDEX_JSON
from unimatch.shardset.names import IMAGE_EXTENSIONS, LABEL_EXTENSIONS, SHARD_NAME, key_problem
from unimatch.shardset.scan import is_hidden, members, split_name, tars_in
from unimatch.taxonomy import IGNORE_INDEX, Taxonomy, default_colors

PEEKS = 3  # members of each kind that are decoded
PICTURES = (*IMAGE_EXTENSIONS, "npy.zst")
LABELS = tuple(f"label.{extension}" for extension in LABEL_EXTENSIONS)


@dataclass
class Kind:
    """The members with one ending, such as `jpg` or `seg.png`."""

    members: int = 0
    size_bytes: int = 0
    peeks: list[bytes] = field(default_factory=list)
    content: str = ""  # for people
    usable: str | None = None  # "image", "label", or neither
    why_not: str | None = None  # for a picture that is neither


@dataclass(frozen=True)
class Survey:
    """What the tars of a folder hold, and what is wrong with them."""

    root: Path
    subsets: Counter[str]  # tars in each
    samples: int
    kinds: dict[str, Kind]
    several_images: int  # samples with more than one member that is an image by its ending
    no_image: int
    hidden: int  # members whose names begin with a dot: no samples
    problems: list[str]


def survey(root: Path) -> Survey:
    """Walk all tars in a folder and look into a few members of each kind. DataError: no tars there."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    paths = tars_in(root)
    if not paths:
        raise DataError(f"{root} holds no tars (*.tar); compressed ones (.tar.gz) must be unpacked by gunzip")
    kinds: dict[str, Kind] = {}
    subsets: Counter[str] = Counter()
    problems: list[str] = []
    samples = several = none = hidden = 0
    for path in paths:
        name = SHARD_NAME.fullmatch(path.name)
        if name is None:
            problems.append(f"{path.name}: the name should look like train-00000.tar")
        subsets[name["subset"] if name else path.stem] += 1
        images: Counter[str] = Counter()  # by key
        try:
            for member, offset, size in members(path):
                if is_hidden(member):
                    hidden += 1
                    continue
                key, kind = split_name(member)
                found = kinds.setdefault(kind, Kind())
                found.members += 1
                found.size_bytes += size
                images[key] += kind in IMAGE_EXTENSIONS
                if len(found.peeks) < PEEKS and kind.endswith(PICTURES):
                    with open(path, "rb") as file:
                        found.peeks.append(os.pread(file.fileno(), size, offset))
        except DataError as error:
            problems.append(str(error))
        bad = [f"key {key!r} {key_problem(key)}" for key in images if key_problem(key)]
        problems += [f"{path.name}: {summary(bad, 2)}"] if bad else []
        samples += len(images)
        several += sum(count > 1 for count in images.values())
        none += sum(count == 0 for count in images.values())
    for ending, found in kinds.items():
        judge(ending, found)
    return Survey(root, subsets, samples, kinds, several, none, hidden, problems)


def judge(ending: str, kind: Kind) -> None:
    """Fill in what the members of a kind are, from those that were looked into."""
    if not kind.peeks:
        kind.content = "not read"
        return
    try:
        labels = [decode_label(data, f"*.{ending}") for data in kind.peeks]
        ids = np.unique(np.concatenate([label.ravel() for label in labels])).tolist()
        classes = [i for i in ids if i != IGNORE_INDEX]
        shown = f"ids {classes[0]} to {classes[-1]}" if classes else "no ids"
        kind.content = f"8-bit grey, {shown}" + (f" and {IGNORE_INDEX}" if IGNORE_INDEX in ids else "")
        # A photograph in grey has nearly all values; label files have as many as there are classes.
        kind.usable = "label" if ending not in ("jpg", "jpeg", "webp") else "image"
        return
    except DataError as error:
        kind.why_not = str(error).partition(": ")[2]
    try:
        image = decode_image(kind.peeks[0], f"*.{ending}")
        header = image_header(kind.peeks[0], f"*.{ending}")
        pixels = {0: "palette", 1: "grey"}.get(header.channels, f"{header.channels} channels")
        kind.content = f"{header.format.upper()}, {image.shape[1]}x{image.shape[0]}, {pixels}"
        kind.usable = "image" if ending in IMAGE_EXTENSIONS else None
    except DataError as error:
        kind.content = f"cannot be read: {str(error).partition(': ')[2]}"


def describe(found: Survey) -> str:
    """A table for people: the subsets, and the members by their ending."""
    width = max(len("ending"), *map(len, found.kinds)) if found.kinds else len("ending")
    tars = ", ".join(f"{name} ({count} tars)" for name, count in list(found.subsets.items())[:10])
    more = f" and {len(found.subsets) - 10} more" if len(found.subsets) > 10 else ""
    lines = [f"{found.root}: {found.samples} samples; subsets: {tars}{more}"]
    lines.append(f"{'ending':<{width}}  {'members':>9}  {'MiB':>9}  content of the first {PEEKS}")
    for ending, kind in sorted(found.kinds.items()):
        size = f"{kind.size_bytes / 2**20:.1f}"
        lines.append(f"{ending:<{width}}  {kind.members:>9}  {size:>9}  {kind.content}")
    if found.hidden:
        lines.append(
            f"{found.hidden} members whose names begin with a dot are left out (on macOS, COPYFILE_DISABLE=1 "
            "keeps tar from adding them)"
        )
    return "\n".join(lines)


def advice(found: Survey) -> str:
    """What training lacks and what to do about it, a point a line; then the command that comes next."""
    points = [f"{problem}" for problem in found.problems[:10]]
    if len(found.problems) > 10:
        points.append(f"... and {len(found.problems) - 10} more such problems")
    own = [ending for ending in LABELS if ending in found.kinds]
    alike = [
        ending
        for ending, kind in found.kinds.items()
        if kind.usable == "label" and ending not in own and found.kinds[ending].members < 2 * found.samples
    ]
    # Of a sample with two pictures the one that looks like a label is one; alone it is a grey image.
    alike = [ending for ending in alike if ending not in IMAGE_EXTENSIONS or found.several_images]
    pictures = [e for e, k in found.kinds.items() if k.usable is None and k.why_not and k.peeks]
    label = (own or alike or [""])[0]
    images = found.no_image if found.several_images == 0 else 0
    if found.no_image == found.samples:
        points.append(
            f"no images: they are the members that end on .{', .'.join(IMAGE_EXTENSIONS)}, directly behind "
            "the key; rename them while packing anew (unimatch pack on the unpacked files)"
        )
    elif images:
        points.append(f"{images} samples have no image; take them out of the tars")
    if found.several_images and label not in IMAGE_EXTENSIONS:
        points.append(f"{found.several_images} samples have more than one image; keep one")
    if not label:
        points.append(
            f"no labels (.{' or .'.join(LABELS)}, 8-bit grey ids): without them the samples can only be "
            "unlabelled ones"
        )
    for ending in pictures:
        points.append(
            f".{ending}: not a label that can be used as it is ({found.kinds[ending].why_not}); if it is "
            "the label, unpack the tars and pack the files with a recipe, which converts it "
            "(unimatch init recipe writes one to fill in)"
        )
    for ending in alike:
        share = found.kinds[ending].members
        points.append(
            f".{ending}: looks like the label ({share} of {found.samples} samples): --label-ext {ending}"
        )
    if len(found.subsets) > 20:
        points.append(
            f"{len(found.subsets)} subsets, as the part of a tar's name before -00000 names one: rename them "
            "to train-00000.tar, train-00001.tar ..."
        )
    indexed = (found.root / INDEX_JSON).exists()
    if indexed:
        points.append(f"{INDEX_JSON} is there: they are indexed already (check without --foreign)")
    else:
        points.append("no index and no class names: --classes, in the order of the ids in the labels")
    lines = ["for training:", *(f"- {point}" for point in points)]
    if not indexed and not found.problems:
        wanted = f" --label-ext {label}" if label and label not in own else ""
        lines.append(f"next: unimatch check --foreign {found.root} --classes NAMES{wanted}")
    return "\n".join(lines)


def taxonomy_of(text: str) -> Taxonomy:
    """The classes named in `text`: a,b,c or a file with lines "id name" or "id name R G B".

    The ids in the tars' labels stay as they are, so those of the file must be 0, 1, 2 ...; 255 is left out.
    """
    if not Path(text).is_file():
        return Taxonomy.of([name.strip() for name in text.split(",")])
    entries = sorted(entry for entry in parse_classes(Path(text)) if entry[0] != IGNORE_INDEX)
    if [number for number, _, _ in entries] != list(range(len(entries))):
        raise DataError(
            f"{text}: the ids must be 0 to {len(entries) - 1}, as labels are used as they are; pack the "
            "unpacked files with a recipe (unimatch init recipe writes one) to change ids"
        )
    made = default_colors(len(entries))
    colors = tuple(color or made[number] for number, _, color in entries)
    return Taxonomy(tuple(name for _, name, _ in entries), colors)
