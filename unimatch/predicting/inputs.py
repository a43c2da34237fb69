"""The images that predict, rank and prelabel are given: a file, or those of a folder and the folders below
it. What else lies there is counted.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from unimatch.codecs.volume_files import VOLUME_SUFFIXES
from unimatch.errors import UserError, summary
from unimatch.packing.globs import Walk
from unimatch.packing.leftovers import PICTURES, examples, not_walked
from unimatch.predicting.scenes import RASTERS
from unimatch.tasks.base import Task

RESULTS = ("ids", "colors", "overlays", "probabilities")  # folders that predict writes, beside FILES
LEGEND, COCO, FAILED = "legend.png", "coco.json", "failed.txt"
FILES = (LEGEND, COCO, FAILED)
ENDINGS = 5  # of other files, named one by one


def add_file_options(parser: argparse._ActionsContainer, required: bool = False) -> None:
    """--images and --second, for `find_inputs`, of a parser or a group of its options."""
    parser.add_argument(
        "--images",
        type=Path,
        required=required,
        metavar="FOLDER",
        help="images, also in folders below it; or one file",
    )
    parser.add_argument(
        "--second", type=Path, metavar="FOLDER", help="the second date of each image (change detection)"
    )


def check_images(images: Path) -> None:
    """UserError if what --images names is not there, before a network is loaded for it."""
    if not images.exists():
        more = "; shards at a URL are for --shards of predict and rank" if ":/" in str(images) else ""
        raise UserError(f"--images {images}: no such file or folder{more}")


def suffixes_of(task: Task) -> tuple[str, ...]:
    """How the names of files end that a run of this task reads."""
    if task.bands is not None:
        return RASTERS
    return PICTURES + (VOLUME_SUFFIXES if task.channels == 1 else ())


@dataclass(frozen=True)
class Inputs:
    """folders: of each date. names: of the images, relative to each of them, sorted. told: sentences about
    what lies there and is not predicted.
    """

    folders: list[Path]
    names: list[Path]
    told: list[str]


def find_inputs(
    images: Path, second: Path | None, out: Path, dates: int, suffixes: tuple[str, ...] = PICTURES
) -> Inputs:
    """The images of a folder, or one file; `second`: those of the second date, of the same names.

    out: where results go. UserError: no images, dates that do not match, or results among the images.
    """
    if dates == 1 and second is not None:
        raise UserError("--second is for runs of task change; this run reads single images")
    if dates == 2 and second is None:
        raise UserError(
            "this run compares two dates: name the folder of the first with --images and that of the second, "
            "with the same file names, with --second"
        )
    places = [("--images", images), *([("--second", second)] if second is not None else [])]
    if all(place.is_file() for _, place in places):
        if images.name != places[-1][1].name:
            raise UserError(f"{images} and {second} must have the same file name, as in two folders")
        return Inputs([place.parent for _, place in places], [Path(images.name)], [])
    for option, place in places:
        if not place.is_dir():
            raise UserError(f"{option} {place} is not a folder" + (" as the other is" * place.is_file()))
        if out.resolve() == place.resolve():
            raise UserError(f"--out {out} is the folder of images itself; results need one of their own")
    found = [_images(place, out, suffixes) for _, place in places]
    if second is not None:
        _refuse_lonely(images, found[0].names, second, found[1].names)
    told = list(dict.fromkeys(sentence for one in found for sentence in one.told))
    return Inputs([place for _, place in places], found[0].names, told)


def _images(folder: Path, out: Path, suffixes: tuple[str, ...]) -> Inputs:
    walk = Walk(folder)
    names, results, others = [], [], []
    is_results = lru_cache(None)(lambda place: place == out.resolve() or _holds_results(place))
    root = folder.resolve()
    for path in sorted(walk.files("**")):
        where = PurePosixPath(path)
        if any(
            is_results(root / parent) and _is_result(where.relative_to(parent)) for parent in where.parents
        ):
            results.append(path)
        elif path.lower().endswith(suffixes):
            names.append(Path(path))
        else:
            others.append(path)
    told = []
    if results:
        told.append(f"{len(results)} files of earlier results were left out: {examples(results)}")
    if walk.hidden_files:
        told.append(f"{len(walk.hidden_files)} files whose names begin with a dot were left out")
    told += not_walked(walk)
    if others:
        endings = Counter(PurePosixPath(path).suffix.lower() or "no ending" for path in others)
        kinds = summary([f"{count} {ending}" for ending, count in endings.most_common()], ENDINGS)
        told.append(f"{len(others)} files are of no kind that this run reads ({kinds}): {examples(others)}")
    if not names:
        reasons = "".join(f"; {sentence}" for sentence in told)
        raise UserError(f"no images in {folder}; looked for {', '.join(suffixes)}{reasons}")
    return Inputs([folder], names, told)


def _holds_results(folder: Path) -> bool:
    return (folder / LEGEND).is_file() and any((folder / name).is_dir() for name in RESULTS)


def _is_result(path: PurePosixPath) -> bool:
    """Whether a path in a folder of results is one of them."""
    return path.parts[0] in RESULTS or path.as_posix() in FILES


def _refuse_lonely(first: Path, names: list[Path], second: Path, others: list[Path]) -> None:
    lonely = [f"{first / name} (not in {second})" for name in sorted(set(names) - set(others))]
    lonely += [f"{second / name} (not in {first})" for name in sorted(set(others) - set(names))]
    if lonely:
        raise UserError(
            f"{len(lonely)} image(s) have no partner of the same name at the other date: {summary(lonely, 5)}"
        )
