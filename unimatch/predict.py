"""Writes what a trained run sees in images: class ids, colour masks and overlays as PNG.

unimatch predict RUN --images FOLDER --out FOLDER              # files; on many processes with --launch
unimatch predict RUN --data test --out FOLDER                  # samples of the run's shards, or of --shards
unimatch predict RUN --data unlabeled.txt --labels FOLDER      # as a label set, which data.pseudo takes

A run of change detection also needs `--second FOLDER`, the same file names at the second date, and its
overlays show both dates side by side. A medical run also takes whole volumes (.h5, .nii, .nii.gz): their
class ids are written as files of the same kind on the same grid, and the overlay is a sheet of all slices.
legend.png says which colour is which class. A run on bands takes rasters (GeoTIFF and others) of any size and
writes ids as GeoTIFF on the same grid.

Started again after a kill, it goes on. Files are read and changed as packing did with those that the run
learnt from. All ways in and out: docs/predict.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from unimatch.codecs import nifti
from unimatch.codecs.nifti import AXCODES, STORED, check_axcodes
from unimatch.codecs.prepared import Preparation
from unimatch.codecs.volume_files import is_volume
from unimatch.engine.checkpoint import check_shards
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.launcher import add_launch_options, launched
from unimatch.engine.options import add_which_weights
from unimatch.engine.prediction_mode import add_options, given
from unimatch.engine.run_data import open_shards, require_dates
from unimatch.engine.runtime import Runtime
from unimatch.engine.selection import Selection, select
from unimatch.errors import UserError
from unimatch.predicting.folder import Outcome, write_folder
from unimatch.predicting.inputs import (
    FAILED,
    Inputs,
    add_file_options,
    check_images,
    find_inputs,
    suffixes_of,
)
from unimatch.predicting.label_sets import write_label_set
from unimatch.predicting.output import KINDS, USUAL, Output, refuse_kinds
from unimatch.predicting.predictor import Predictor, Reading
from unimatch.predicting.reading import Reader
from unimatch.predicting.results import picture_names
from unimatch.predicting.sources import Files, Samples, Source, only

OF_FILES = ("second", "only", "stems", "axcodes")  # options of files alone
OF_FOLDERS = ("write", "alpha")  # and of folders of results
FILES_TOGETHER, SAMPLES_TOGETHER = 1, 4


def arguments(args: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="unimatch predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder")
    add_inputs(parser.add_argument_group("images"))
    add_outputs(parser.add_argument_group("results"))
    add_which_weights(parser)
    parser.add_argument(
        "--with",
        dest="others",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="average with these runs, of the same classes and images",
    )
    add_options(parser)
    add_pace(parser)
    add_launch_options(parser)
    options = parser.parse_args(args)
    check(parser, options)
    return options


def add_inputs(group: argparse._ArgumentGroup) -> None:
    add_file_options(group)
    group.add_argument(
        "--only", type=Path, metavar="LIST", help="of these files alone: paths or keys, a line each"
    )
    group.add_argument("--data", metavar="NAME", help="samples of shards: a subset, or a key-list file")
    group.add_argument(
        "--shards",
        metavar="PLACE",
        help="other shards of these classes, folder or URL (default: the run's); without --data all of them",
    )
    group.add_argument(
        "--axcodes",
        help="how the slices that the run was trained on lie, to turn NIfTI volumes alike: the directions of "
        f"slices, rows and columns, or {STORED!r} (default: as the recipe says, or {AXCODES})",
    )


def add_outputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--out", type=Path, metavar="FOLDER", help="gets ids/, colors/, overlays/ and legend.png, or --write"
    )
    group.add_argument(
        "--write",
        nargs="+",
        choices=KINDS,
        default=list(USUAL),
        metavar="KIND",
        help=f"what --out gets: {', '.join(KINDS)} (default: {' '.join(USUAL)})",
    )
    group.add_argument("--labels", type=Path, metavar="FOLDER", help="gets a label set")
    group.add_argument(
        "--stems",
        action="store_true",
        help="a.png for the pictures of a.jpg in place of a.jpg.png, unless another file would have it too",
    )
    group.add_argument(
        "--alpha", type=float, default=0.5, help="strength of the colours in overlays, 0 to 1 (default: 0.5)"
    )


def add_pace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scales", type=float, nargs="+", default=[1.0], metavar="FACTOR", help="sizes that are averaged"
    )
    parser.add_argument("--flip", action="store_true", help="average with the mirrored image too")
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        metavar="P",
        help="pixels whose class is less probable get none, 255 in ids (default: 0)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        help=f"images of one size together (default: {FILES_TOGETHER} file, {SAMPLES_TOGETHER} samples)",
    )
    parser.add_argument("--workers", type=int, default=2, help="data workers per process (default: 2)")


def check(parser: Parser, options: argparse.Namespace) -> None:
    """UserError: options that do not go together."""
    of_shards = options.data is not None or options.shards is not None
    if (options.images is not None) == of_shards:
        parser.error("give --images for files, or --data and --shards for samples of a shard set")
    if (options.out is None) == (options.labels is None):
        parser.error("give --out for a folder of results, or --labels for a label set")

    def mixed(names: Sequence[str]) -> str | None:
        return next((one for one in names if getattr(options, one) != parser.get_default(one)), None)

    if of_shards and (name := mixed(OF_FILES)):
        parser.error(f"--{name} is for files: leave it out beside --data and --shards")
    if options.labels is not None and (name := mixed(("images", *OF_FOLDERS))):
        parser.error(f"--{name} is for --out: leave it out beside --labels")
    if options.axcodes is not None:
        check_axcodes(options.axcodes)
    if not 0 <= options.alpha <= 1:
        parser.error(f"--alpha must be from 0 to 1, found {options.alpha:g}")
    if options.batch is None:
        options.batch = FILES_TOGETHER if options.images is not None else SAMPLES_TOGETHER
    if not 0 <= options.threshold < 1:
        parser.error(f"--threshold must be from 0 to below 1, found {options.threshold:g}")
    for name, least in (("batch", 1), ("workers", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name} must be at least {least}, found {getattr(options, name)}")
    if min(options.scales) <= 0:
        parser.error(f"--scales must be above 0, found {min(options.scales):g}")


def main(args: list[str]) -> None:
    options = arguments(args)
    if launched("unimatch.predict", options, args):
        return
    runtime = Runtime()
    names = ("batch", "workers", "scales", "flip", "threshold")
    reading = Reading(**{name: getattr(options, name) for name in names})
    with runtime.together():
        if options.images is not None:
            check_images(options.images)
        runs = [options.run, *options.others]
        predictor = Predictor.restored(
            runs, options.checkpoint, options.network, runtime, given(options), reading
        )
        predictor.reading = replace(reading, timeout_s=predictor.first.config.data.timeout_s)
        source, told = opened(options, predictor)
    if options.labels is not None:
        assert isinstance(source, Samples)
        write_label_set(predictor, source.shards, source.rows, options.labels, runtime)
        if runtime.is_main:
            print(f"{len(source.rows)} samples labelled with {predictor.first.folder}: {options.labels}")
    else:
        predict(predictor, source, told, options, runtime)
    runtime.close()


def opened(options: argparse.Namespace, predictor: Predictor) -> tuple[Source, list[str]]:
    """The images, and sentences about how they are read."""
    first, task = predictor.first, predictor.task
    if options.images is None:
        data = first.config.data
        shards = open_shards(options.shards or data.shards, data.cache)
        check_shards(first.state, shards, first.folder)
        everything = Selection(shards, str(shards.root), np.arange(len(shards)), "")
        selection = everything if options.data is None else select(shards, options.data)
        require_dates(selection, task)
        return Samples(shards, selection.rows, task), []
    prepared = first.prepared or Preparation()
    if options.axcodes is not None:
        prepared = prepared.turned_to(options.axcodes)
    inputs = find_inputs(options.images, options.second, options.out, task.dates, suffixes_of(task))
    if options.only is not None:
        inputs = replace(inputs, names=only(inputs, options.only))
    what = "scenes" if task.bands is not None else "volumes" if any(map(is_volume, inputs.names)) else ""
    if what:
        refuse_kinds(options.write, what)
        if options.threshold:
            raise UserError(f"--threshold: of {what} all pixels get a class; leave it out")
    told = [*how_read(first.folder, first.prepared, prepared, inputs), *inputs.told]
    return Files(Reader(task, prepared), inputs), told


def how_read(folder: Path, known: Preparation | None, prepared: Preparation, inputs: Inputs) -> Iterator[str]:
    """Sentences about how files are read."""
    if known is None:
        yield (
            f"{folder} does not say what packing did to its images, such as downscale; files are read as "
            "they are"
        )
    if prepared.downscale > 1:
        yield (
            f"images are predicted at 1/{prepared.downscale} of their width and height, as packing made "
            "them; ids and colors have the size of the files, overlays are smaller"
        )
    if any(name.name.lower().endswith(nifti.SUFFIXES) for name in inputs.names):
        rules = prepared.scan_rules
        how = (
            f"window {list(rules.window)}" if rules.window else f"percentiles {list(rules.percentiles or ())}"
        )
        text = f"NIfTI volumes were turned to axcodes {rules.axcodes}, from black to white by {how}"
        if not prepared.knows_axcodes:
            text += "; if the slices that the run learnt from lie otherwise, give --axcodes"
        yield text


def predict(
    predictor: Predictor, source: Source, told: list[str], options: argparse.Namespace, runtime: Runtime
) -> None:
    """Writes a folder of results, as one of the processes that do it. UserError: images that have failed."""
    paths = source.paths if isinstance(source, Files) else []
    picture = picture_names(paths, options.stems)
    output = Output(options.out, options.write, predictor.task, picture, options.alpha)
    asked = {name: getattr(options, name) for name in ("write", "alpha", "stems", "axcodes")}
    outcome = write_folder(predictor, source, output, runtime, asked)
    if runtime.is_main:
        tell(outcome, predictor, told, options)
    if outcome.failed:
        more = outcome.failed - len(outcome.problems)
        raise UserError(
            f"{outcome.failed} of {outcome.images} images could not be read:\n  "
            + "\n  ".join(outcome.problems)
            + (f"\n  and {more} more: {options.out / FAILED}" if more else "")
        )


def tell(outcome: Outcome, predictor: Predictor, told: list[str], options: argparse.Namespace) -> None:
    done = outcome.images - outcome.failed
    place = options.out / "overlays" if "overlays" in options.write else options.out
    print(f"{done} images predicted with {predictor.first.folder}; see {place}")
    new = outcome.images - outcome.before
    shares = ", ".join(f"{100 * share:.0f} % {name}" for name, share in outcome.shares.items() if share)
    print(f"{new} images in {outcome.seconds:.1f} s, {new / outcome.seconds:.3g} a second: {shares}")
    if outcome.before:
        print(f"{outcome.before} images were done before")
    print("".join(f"note: {sentence}\n" for sentence in [*told, *outcome.told]), end="")


if __name__ == "__main__":
    sys.exit(run_entry(main))
