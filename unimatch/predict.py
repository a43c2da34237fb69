"""Writes what a trained run sees in a folder of images: class ids, colour masks and overlays as PNG.

`unimatch predict RUN --images FOLDER --out FOLDER`; a run of change detection also needs
`--second FOLDER`, the same file names at the second date, and its overlays show both dates side by side.
A medical run also takes whole volumes (.h5, .nii, .nii.gz): their class ids are written as files of the same
kind on the same grid, and the overlay is a sheet of all slices. legend.png says which colour is which class.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from unimatch.codecs.encode import png
from unimatch.codecs.nifti import AXCODES, STORED, check_axcodes
from unimatch.codecs.picture import label_colors, scaled
from unimatch.codecs.sheet import Sample, legend_picture, sheet, tile_side
from unimatch.codecs.volume_files import VOLUME_SUFFIXES, is_volume, read_volume, write_labels
from unimatch.engine.entry import Parser, run_entry
from unimatch.errors import DataError, UserError, summary
from unimatch.interface import Run, load

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def arguments(args: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="unimatch predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--images", type=Path, required=True, metavar="FOLDER", help="images, also in folders below it"
    )
    parser.add_argument(
        "--second", type=Path, metavar="FOLDER", help="the second date of each image (change detection)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="gets ids/, colors/, overlays/ and legend.png",
    )
    parser.add_argument(
        "--checkpoint", default="last", metavar="WHICH", help="last, best or a step (default: last)"
    )
    parser.add_argument(
        "--network", metavar="NAME", help="which network of the checkpoint (default: the headline one)"
    )
    parser.add_argument(
        "--alpha", type=float, default=0.5, help="strength of the colours in overlays, 0 to 1 (default: 0.5)"
    )
    parser.add_argument(
        "--axcodes",
        default=AXCODES,
        help="how the slices that the run was trained on lie, to turn NIfTI volumes alike: the directions of "
        f"slices, rows and columns, or {STORED!r} (default: {AXCODES})",
    )
    options = parser.parse_args(args)
    check_axcodes(options.axcodes)
    if not 0 <= options.alpha <= 1:
        parser.error(f"--alpha must be from 0 to 1, found {options.alpha:g}")
    return options


def main(args: list[str]) -> None:
    options = arguments(args)
    if not options.images.is_dir():
        raise UserError(f"--images {options.images} is not a folder")
    run = load(options.run, options.checkpoint, options.network)
    task = run.task
    names = _names(options.images, "--images", SUFFIXES + (VOLUME_SUFFIXES if task.channels == 1 else ()))
    folders = _dates(options.images, options.second, names, task.dates)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "legend.png").write_bytes(png(legend_picture(task.legend(ignored="not predicted"))))
    problems = []
    for name in tqdm(names, unit="image", dynamic_ncols=True, disable=None):
        try:
            if is_volume(name):
                _predict_volume(run, options.images / name, options, name)
                continue
            image = run.read(*[folder / name for folder in folders])
        except (DataError, OSError) as error:
            problems.append(str(error))
            continue
        ids = run.predict(image)
        _write(options.out / "ids" / name, ids)
        _write(options.out / "colors" / name, label_colors(ids, task.taxonomy.colors))
        _write(options.out / "overlays" / name, run.overlay(image, ids, options.alpha))
    print(f"{len(names) - len(problems)} images predicted with {run.folder}; see {options.out / 'overlays'}")
    if problems:
        raise UserError(
            f"{len(problems)} of {len(names)} images could not be read:\n  " + "\n  ".join(problems)
        )


def _predict_volume(run: Run, path: Path, options: argparse.Namespace, name: Path) -> None:
    """Writes ids/NAME, of the kind of the input, and overlays/NAME.png, a sheet of all slices."""
    volume, out = read_volume(path, options.axcodes), options.out
    images = volume.slices[..., None]
    ids = run.predict(images)
    write_labels(out / "ids" / name, ids, volume)
    across = math.ceil(math.sqrt(len(images)))
    side = tile_side(across)
    samples = []
    for number, (image, label) in enumerate(zip(images, ids, strict=True)):
        tile = run.task.paint(scaled(run.task.show(image)[0], side), label, options.alpha)
        samples.append(Sample([tile], f"slice {number}"))
    legend = run.task.legend("not predicted")
    _write(out / "overlays" / name, sheet(samples, across=across, legend=legend))


def _names(folder: Path, option: str, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """The images in a folder and those below it, as paths relative to it, sorted."""
    if not folder.is_dir():
        raise UserError(f"{option} {folder} is not a folder")
    found = (path for path in folder.rglob("*") if path.name.lower().endswith(suffixes))
    names = sorted(path.relative_to(folder) for path in found)
    if not names:
        raise UserError(f"no images in {folder}; looked for {', '.join(suffixes)}")
    return names


def _dates(images: Path, second: Path | None, names: list[Path], dates: int) -> list[Path]:
    """The folders that hold each date of the images; UserError unless they hold the same names."""
    if dates == 1:
        if second is not None:
            raise UserError("--second is for runs of task change; this run reads single images")
        return [images]
    if second is None:
        raise UserError(
            "this run compares two dates: name the folder of the first with --images and that of the second, "
            "with the same file names, with --second"
        )
    others = set(_names(second, "--second"))
    lonely = [f"{images / name} (not in {second})" for name in names if name not in others]
    lonely += [f"{second / name} (not in {images})" for name in sorted(others - set(names))]
    if lonely:
        raise UserError(
            f"{len(lonely)} image(s) have no partner of the same name at the other date: {summary(lonely, 5)}"
        )
    return [images, second]


def _write(path: Path, picture: np.ndarray) -> None:
    # The suffix stays in the name: a.jpg and a.png in one folder are two results.
    path = path.with_name(path.name + ".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(picture))


if __name__ == "__main__":
    sys.exit(run_entry(main))
