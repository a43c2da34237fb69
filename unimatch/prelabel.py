"""Writes what a trained run sees in images as labels that people edit in an annotation tool.

unimatch prelabel RUN --images FOLDER --format cvat --out FOLDER [--only chosen.txt]

cvat           annotations.xml ("CVAT for images 1.1") and labels.json for the task's labels
label_studio   tasks.json, whose predictions people make annotations of, and label_config.xml
labelme        IMAGE.json for each image, which names it by its path, and labels.txt

Pixels of which the run is less sure than --threshold are left empty. What comes back from the tool is packed
as docs/data.md says. How holes and borders are written: docs/label_loop.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from tqdm import tqdm

from unimatch.annotations import cvat, label_studio, labelme
from unimatch.annotations.drawing import Drawing
from unimatch.codecs.volume_files import is_volume
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.options import add_which_weights
from unimatch.engine.prediction_mode import add_options, given
from unimatch.errors import DataError, UserError
from unimatch.interface import Run, load
from unimatch.packing.leftovers import PICTURES
from unimatch.predicting.inputs import add_file_options, check_images, find_inputs
from unimatch.predicting.prelabels import Made, Rules, confident, drawing_of
from unimatch.predicting.sources import only

FORMATS = ("cvat", "label_studio", "labelme")
LOCAL_FILES = "/data/local-files/?d="


def arguments(args: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="unimatch prelabel", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder")
    add_file_options(parser, required=True)
    parser.add_argument(
        "--only",
        type=Path,
        metavar="LIST",
        help="of these alone: paths or keys, such as the chosen.txt of rank",
    )
    parser.add_argument("--format", choices=FORMATS, required=True, help="the tool")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of the files")
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="less probable pixels are left empty (default: 0.5)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1.0,
        metavar="PIXELS",
        help="how far an outline may lie off (default: 1)",
    )
    parser.add_argument(
        "--smallest",
        type=int,
        default=20,
        metavar="PIXELS",
        help="smaller regions go to the class around them (default: 20)",
    )
    parser.add_argument("--masks", action="store_true", help="brush masks in place of polygons")
    parser.add_argument(
        "--address",
        default=LOCAL_FILES,
        metavar="PREFIX",
        help="label_studio: what stands before an image's path (default: %(default)s)",
    )
    add_which_weights(parser)
    add_options(parser)
    return parser.parse_args(args)


def main(args: list[str]) -> None:
    options = arguments(args)
    rules = Rules(options.threshold, options.tolerance, options.smallest, options.masks)
    check_images(options.images)
    run = load(options.run, options.checkpoint, options.network, **given(options))
    if run.task.bands is not None:
        raise UserError(
            "this run reads rasters of bands, which these tools do not show; unimatch predict writes their "
            "ids as GeoTIFF, which a GIS edits"
        )
    inputs = find_inputs(options.images, options.second, options.out, run.task.dates, PICTURES)
    if any(map(is_volume, inputs.names)):
        raise UserError(
            f"{options.images} is a volume, which these tools do not show; unimatch predict writes its ids "
            "as a file of its own kind"
        )
    names = inputs.names if options.only is None else only(inputs, options.only)
    if options.format == "labelme":
        _refuse_one_name(names)
    options.out.mkdir(parents=True, exist_ok=True)
    drawings: list[Drawing] = []
    made, problems = Made(), []
    for name in tqdm(names, unit="image", dynamic_ncols=True, disable=None):
        try:
            ids = _sure_ids(run, [folder / name for folder in inputs.folders], rules.threshold)
        except (DataError, OSError) as error:
            problems.append(str(error))
            continue
        drawing = drawing_of(name.as_posix(), ids, run.classes, rules, made)
        if options.format == "labelme":
            _write_labelme(drawing, inputs.folders[0] / name, options.out / name.with_suffix(".json"))
        else:
            drawings.append(drawing)
    _write_rest(run, drawings, options)
    _tell(made, len(names) - len(problems), rules, options)
    print("".join(f"note: {sentence}\n" for sentence in inputs.told), end="")
    if problems:
        raise UserError(
            f"{len(problems)} of {len(names)} images could not be read:\n  " + "\n  ".join(problems)
        )


def _refuse_one_name(names: list[Path]) -> None:
    """UserError: images that differ in their endings alone, which LabelMe has one file for."""
    known: dict[Path, Path] = {}
    for name in names:
        other = known.setdefault(name.with_suffix(""), name)
        if other != name:
            raise UserError(f"{other} and {name} would both have the file {name.with_suffix('.json')}")


def _sure_ids(run: Run, files: list[Path], threshold: float) -> np.ndarray:
    """uint8 [H, W] of the file's size. DataError: it cannot be read, or does not fit into memory."""
    image, size = run.open_file(*files)
    batch, _ = run.batched(image)
    try:
        with torch.inference_mode():
            (part,) = run.passes(batch)
            ids, conf = run.task.predicted(run.network, part, sure=True)
    except DataError as error:
        raise DataError(f"{files[0]}: {error}") from error
    assert conf is not None
    return confident(ids[0].cpu().numpy(), conf[0].cpu().numpy(), threshold, size)


def _write_labelme(drawing: Drawing, image: Path, target: Path) -> None:
    if target.exists() and b'"imagePath"' not in target.read_bytes():
        raise UserError(f"{target} is there and is no LabelMe file: choose another --out")
    target.parent.mkdir(parents=True, exist_ok=True)
    path = PurePosixPath(os.path.relpath(image.resolve(), target.resolve().parent)).as_posix()
    target.write_bytes(labelme.write(drawing, path))


def _write_rest(run: Run, drawings: list[Drawing], options: argparse.Namespace) -> None:
    """The files of all images together."""
    labels = dict(zip(run.classes, run.colors, strict=True))
    by = f"{options.run.resolve().name} step {run.step}"
    files = {
        "cvat": lambda: {"annotations.xml": cvat.write(drawings), "labels.json": cvat.label_file(labels)},
        "label_studio": lambda: {
            "tasks.json": label_studio.write(drawings, options.address, by),
            "label_config.xml": label_studio.label_config(labels),
        },
        "labelme": lambda: {"labels.txt": "".join(f"{name}\n" for name in labels).encode()},
    }[options.format]()
    for name, data in files.items():
        (options.out / name).write_bytes(data)


def _tell(made: Made, images: int, rules: Rules, options: argparse.Namespace) -> None:
    if not images:
        return
    print(f"{images} images as {options.format}: {made.shapes} shapes, {options.out}")
    print(f"{made.sure / made.pixels:.1%} of the pixels have a class (threshold {rules.threshold:g})")
    print(
        f"{made.same / made.pixels:.2%} of the pixels have the same class, or none, when the shapes are "
        "drawn again"
        + ("" if rules.masks else f"; outlines within {rules.tolerance:g} pixels, {made.corners} corners")
    )
    if made.masks:
        print(f"{made.masks} regions are masks, since an outline cannot leave out what is empty inside it")
    if made.lost:
        print(f"{made.lost} regions were thinner than the tolerance and were left out")


if __name__ == "__main__":
    sys.exit(run_entry(main))
