"""Writes what a trained run sees in a folder of images: class ids, colour masks and overlays as PNG.

`unimatch predict RUN --images FOLDER --out FOLDER`; a run of change detection also needs
`--second FOLDER`, the same file names at the second date, and its overlays show both dates side by side.
A medical run also takes whole volumes (.h5, .nii, .nii.gz): their class ids are written as files of the same
kind on the same grid, and the overlay is a sheet of all slices. legend.png says which colour is which class.
A run on bands takes rasters (GeoTIFF and others) of any size and writes ids as GeoTIFF on the same grid.

`unimatch predict RUN --data unlabeled.txt --labels FOLDER` labels samples of the run's shards instead, as a
label set, which data.pseudo of another run takes; on many processes with --launch. Started again, it goes on.

Files are read and changed as packing did with those that the run learnt from, see docs/predict.md.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from unimatch.codecs import nifti
from unimatch.codecs.encode import png
from unimatch.codecs.nifti import AXCODES, STORED, check_axcodes
from unimatch.codecs.picture import GAP, label_colors, scaled
from unimatch.codecs.prepared import restored
from unimatch.codecs.sheet import Sample, legend_picture, sheet, tile_side
from unimatch.codecs.volume_files import is_volume, write_labels
from unimatch.engine.checkpoint import check_shards
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.launcher import add_launch_options, launched
from unimatch.engine.options import add_which_weights
from unimatch.engine.prediction_mode import add_options, given
from unimatch.engine.restore import restore
from unimatch.engine.run_data import open_shards, require_dates
from unimatch.engine.runtime import Runtime
from unimatch.engine.selection import select
from unimatch.errors import DataError, UserError
from unimatch.interface import Run, load
from unimatch.predicting.inputs import LEGEND, Inputs, add_file_options, find_inputs, suffixes_of
from unimatch.predicting.label_sets import Reading, write_label_set
from unimatch.predicting.results import picture_names, write_picture
from unimatch.predicting.scenes import predict_scene

ALONE = ("second", "stems", "axcodes", "alpha")  # options of files alone


def arguments(args: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="unimatch predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder")
    add_file_options(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="gets ids/, colors/, overlays/ and legend.png",
    )
    parser.add_argument(
        "--stems",
        action="store_true",
        help="a.png for the pictures of a.jpg in place of a.jpg.png, unless another file would have it too",
    )
    add_label_options(parser)
    add_which_weights(parser)
    parser.add_argument(
        "--alpha", type=float, default=0.5, help="strength of the colours in overlays, 0 to 1 (default: 0.5)"
    )
    parser.add_argument(
        "--axcodes",
        help="how the slices that the run was trained on lie, to turn NIfTI volumes alike: the directions of "
        f"slices, rows and columns, or {STORED!r} (default: as the recipe says, or {AXCODES})",
    )
    add_options(parser)
    options = parser.parse_args(args)
    one, other = ("images", "out"), ("data", "labels")
    if sum(all(getattr(options, name) is not None for name in pair) for pair in (one, other)) != 1:
        parser.error("give --images and --out for files, or --data and --labels for samples of a shard set")
    mixed = [name for name in (*one, *ALONE) if getattr(options, name) != parser.get_default(name)]
    if options.labels is not None and mixed:
        parser.error(f"--{mixed[0]} is for files: leave it out beside --labels")
    if options.axcodes is not None:
        check_axcodes(options.axcodes)
    if not 0 <= options.alpha <= 1:
        parser.error(f"--alpha must be from 0 to 1, found {options.alpha:g}")
    return options


def main(args: list[str]) -> None:
    options = arguments(args)
    if options.labels is not None:
        if not launched("unimatch.predict", options, args):
            label(options)
        return
    if not options.images.exists():
        raise UserError(f"--images {options.images}: no such file or folder")
    run = load(options.run, options.checkpoint, options.network, **given(options))
    task = run.task
    inputs = find_inputs(options.images, options.second, options.out, task.dates, suffixes_of(task))
    told = [*_preparation(run, options.axcodes, inputs), *inputs.told]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / LEGEND).write_bytes(png(legend_picture(task.legend(ignored="not predicted"))))
    problems, pictures = [], picture_names(inputs.names, options.stems)
    for name in tqdm(inputs.names, unit="image", dynamic_ncols=True, disable=None):
        try:
            if task.bands is not None:
                files = [folder / name for folder in inputs.folders]
                told += _predict_scene(run, files, options, name, pictures[name])
            elif is_volume(name):
                _predict_volume(run, inputs.folders[0] / name, options, name, pictures[name])
            else:
                _predict_image(run, [folder / name for folder in inputs.folders], options, pictures[name])
        except (DataError, OSError) as error:
            problems.append(str(error))
    count = len(inputs.names)
    print(f"{count - len(problems)} images predicted with {run.folder}; see {options.out / 'overlays'}")
    print("".join(f"note: {sentence}\n" for sentence in told), end="")
    if problems:
        raise UserError(f"{len(problems)} of {count} images could not be read:\n  " + "\n  ".join(problems))


def add_label_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("samples of a shard set")
    group.add_argument("--data", metavar="NAME", help="which ones: a subset, or a key-list file")
    group.add_argument("--labels", type=Path, metavar="FOLDER", help="of the label set")
    group.add_argument(
        "--shards", metavar="PLACE", help="other shards of these classes, folder or URL (default: the run's)"
    )
    group.add_argument(
        "--scales", type=float, nargs="+", default=[1.0], metavar="FACTOR", help="sizes that are averaged"
    )
    group.add_argument("--flip", action="store_true", help="average with the mirrored image too")
    group.add_argument("--batch", type=int, default=4, help="images of one size together (default: 4)")
    group.add_argument("--workers", type=int, default=2, help="data workers per process (default: 2)")
    add_launch_options(group)


def label(options: argparse.Namespace) -> None:
    """Writes a label set, as one of the processes that do it."""
    runtime = Runtime()
    with runtime.together():
        restored = restore(options.run, options.checkpoint, options.network, runtime, given(options))
        data = restored.config.data
        shards = open_shards(options.shards or data.shards, data.cache)
        check_shards(restored.state, shards, restored.folder)
        selection = select(shards, options.data)
        require_dates(selection, restored.task)
    reading = Reading(options.batch, options.workers, data.timeout_s, options.scales, options.flip)
    write_label_set(restored, shards, selection.rows, options.labels, runtime, reading)
    if runtime.is_main:
        print(f"{len(selection.rows)} samples labelled with {restored.folder}: {options.labels}")
    runtime.close()


def _preparation(run: Run, axcodes: str | None, inputs: Inputs) -> Iterator[str]:
    """Gives the run the layout of volumes that was asked for; sentences about how files are read."""
    if not run.knows_preparation:
        yield (
            f"{run.folder} does not say what packing did to its images, such as downscale; files are read as "
            "they are"
        )
    if run.prepared.downscale > 1:
        yield (
            f"images are predicted at 1/{run.prepared.downscale} of their width and height, as packing made "
            "them; ids and colors have the size of the files, overlays are smaller"
        )
    if axcodes is not None:
        run.prepared = run.prepared.turned_to(axcodes)
    if any(name.name.lower().endswith(nifti.SUFFIXES) for name in inputs.names):
        rules = run.prepared.scan_rules
        how = (
            f"window {list(rules.window)}" if rules.window else f"percentiles {list(rules.percentiles or ())}"
        )
        told = f"NIfTI volumes were turned to axcodes {rules.axcodes}, from black to white by {how}"
        if not run.prepared.knows_axcodes:
            told += "; if the slices that the run learnt from lie otherwise, give --axcodes"
        yield told


def _predict_image(run: Run, files: list[Path], options: argparse.Namespace, name: Path) -> None:
    """Writes ids/NAME, colors/NAME and overlays/NAME, `name` being that of a PNG."""
    image, size = run.open_file(*files)
    try:
        small = run.predict(image)
    except DataError as error:
        raise DataError(f"{files[0]}: {error}") from error
    ids, colors = restored(small, size), run.task.taxonomy.colors
    write_picture(options.out / "ids" / name, size, lambda rows: ids[rows])
    write_picture(options.out / "colors" / name, size, lambda rows: label_colors(ids[rows], colors))

    def overlay(rows: slice) -> np.ndarray:
        return run.overlay(image[..., rows, :, :], small[rows], options.alpha)

    height, width = small.shape
    across = width * run.task.dates + GAP * (run.task.dates - 1)
    write_picture(options.out / "overlays" / name, (height, across), overlay)


def _predict_scene(
    run: Run, files: list[Path], options: argparse.Namespace, name: Path, shown: Path
) -> list[str]:
    """Writes ids/NAME on the grid of the file, with .tif behind if it is another kind, and overlays/SHOWN,
    which is smaller if need be.
    """
    is_tiff = name.suffix.lower() in (".tif", ".tiff")
    target = options.out / "ids" / (name if is_tiff else name.with_name(f"{name.name}.tif"))
    found = predict_scene(run.network, run.task, files, target)
    picture = run.task.paint(found.picture, found.ids, options.alpha)
    write_picture(options.out / "overlays" / shown, found.ids.shape, lambda rows: picture[rows])
    return found.told


def _predict_volume(run: Run, path: Path, options: argparse.Namespace, name: Path, shown: Path) -> None:
    """Writes ids/NAME, of the kind of the input, and overlays/SHOWN, a sheet of all slices."""
    volume, out = run.prepared.read_volume(path), options.out
    images = volume.slices[..., None]
    ids = run.predict(images)
    write_labels(out / "ids" / name, restored(ids, volume.size), volume)
    across = math.ceil(math.sqrt(len(images)))
    side = tile_side(across)
    samples = []
    for number, (image, label) in enumerate(zip(images, ids, strict=True)):
        tile = run.task.paint(scaled(run.task.show(image)[0], side), label, options.alpha)
        samples.append(Sample([tile], f"slice {number}"))
    legend = run.task.legend("not predicted")
    picture = sheet(samples, across=across, legend=legend)
    write_picture(out / "overlays" / shown, picture.shape[:2], lambda rows: picture[rows])


if __name__ == "__main__":
    sys.exit(run_entry(main))
