"""Writes a run's network as one file for other programs, and checks it against the run's own predictions.

unimatch export runs/NAME --out NAME.onnx              # checked on the run's data.val
unimatch export runs/NAME --out NAME.onnx --int8       # 8 bits, calibrated with unlabelled images
unimatch export runs/NAME --format torch.export --out NAME.pt2 --images photos

Into the file go images as stored ([batch, height, width, channel], uint8; two dates: [batch, date, height,
width, channel]; medical slices: uint16), out of it come class ids (uint8) and their probabilities (float32),
[batch, height, width]. Classes, colours and the rest lie in its metadata, see docs/export.md.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

import torch

from unimatch.durable import sync
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.options import add_which_weights
from unimatch.engine.restore import Restored, restore
from unimatch.engine.runtime import Runtime
from unimatch.errors import UserError
from unimatch.exporting.compare import compare, in_turns
from unimatch.exporting.formats import FORMATS, in_numpy, require_onnx
from unimatch.exporting.graph import Graph, Sizes, description, example, in_one_pass, sizes_of
from unimatch.exporting.images import Files, Samples
from unimatch.exporting.quantize import quantize
from unimatch.interface import Run
from unimatch.predicting.inputs import add_file_options

AGREES = 0.999  # of the pixels of a file in fp32: what rounding leaves is a thousandth of that and less


def arguments(args: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="unimatch export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help=".onnx, .pt2 or .pt")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="(default: onnx)")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument("--fp16", action="store_true", help="the network computes in half precision")
    precision.add_argument("--int8", action="store_true", help="the network computes in 8 bits (ONNX)")
    parser.add_argument(
        "--mode",
        choices=("whole",),
        help="predict images in one pass, where the run's figures are those of windows",
    )
    add_which_weights(parser)
    images = parser.add_argument_group("images to check the file on: samples, or files in their place")
    images.add_argument(
        "--data", metavar="NAME", help="subset of the shards or key-list file (default: the run's data.val)"
    )
    images.add_argument(
        "--shards", metavar="PLACE", help="other shards of these classes, folder or URL (default: the run's)"
    )
    add_file_options(images)
    parser.add_argument(
        "--calibration",
        type=int,
        default=64,
        metavar="COUNT",
        help="--int8: unlabelled images of the run, or of --images, by which ranges are set (default: 64)",
    )
    parser.add_argument(
        "--turns", type=int, default=10, help="how often each is timed on one image (default: 10; 0: not)"
    )
    options = parser.parse_args(args)
    suffix = FORMATS[options.format][0]
    if options.out.suffix != suffix:
        parser.error(f"--out {options.out}: a file of --format {options.format} ends on {suffix}")
    if options.out.exists():
        raise UserError(f"{options.out} exists: name another file, or remove it")
    if not options.out.parent.is_dir():
        raise UserError(f"--out {options.out}: {options.out.parent} is not a folder")
    if options.int8 and options.format != "onnx":
        parser.error("--int8 is ONNX Runtime's quantisation: it takes --format onnx")
    if options.images and (options.data or options.shards):
        parser.error("--images is for files, --data and --shards for samples: leave one of them out")
    if options.calibration < 1 or options.turns < 0:
        parser.error("--calibration must be at least 1, --turns at least 0")
    if options.format == "onnx":
        require_onnx()
    return options


def main(args: list[str]) -> None:
    options = arguments(args)
    runtime = Runtime()
    found = restore(options.run, options.checkpoint, options.network, runtime)
    found.net.cpu()
    in_one_pass(found.config, found.net.encoder.patch, options.mode == "whole")
    images = (
        Files(found, Run(found), options.images, options.second, options.out)
        if options.images
        else Samples(found, options.shards, options.data, runtime)
    )
    batches = images.batches()
    first = next(batches)
    sizes = sizes_of(found.config, found.net.encoder.patch, first.image.shape)
    own = in_numpy(lambda image: found.task.predicted(found.net, image, sure=True))
    # In a folder beside the file: it gets its name when it is whole and was checked.
    with tempfile.TemporaryDirectory(prefix=".export-", dir=options.out.parent) as folder:
        made = _made(options, found, images, sizes, Path(folder))
        file = FORMATS[options.format][2](made)
        compared = compare(found.task, own, file, itertools.chain([first], batches), sizes.taken)
        if not (options.fp16 or options.int8) and compared.agreement < AGREES:
            raise UserError(
                f"the file says another class than the run for {1 - compared.agreement:.2%} of the pixels of "
                f"{images.told}, and was not kept: choose another --format, and report encoder and head"
            )
        print(f"{options.out}: {made.stat().st_size / 1e6:.1f} MB, {sizes.describe()}")
        print("\n".join([f"checked on {images.told}", *(f"  {one}" for one in compared.lines(found.task))]))
        if options.turns:
            seconds = in_turns((own, file), first.image[:1], options.turns)
            height, width = first.image.shape[-3:-1]
            print(
                f"one image of {width}x{height} on the CPU, {torch.get_num_threads()} threads, in turns: "
                f"PyTorch {1000 * seconds[0]:.1f} ms, the file {1000 * seconds[1]:.1f} ms "
                f"({seconds[0] / seconds[1]:.2f} times as fast)"
            )
        made.replace(options.out)
        sync(options.out.parent)
    runtime.close()


def _made(
    options: argparse.Namespace, found: Restored, images: Files | Samples, sizes: Sizes, folder: Path
) -> Path:
    """The file, in a folder for what comes before it."""
    suffix, write, _ = FORMATS[options.format]
    precision = "int8" if options.int8 else "fp16" if options.fp16 else "fp32"
    told = description(found, sizes, precision)
    path = folder / f"{precision}{suffix}"
    graph = Graph(found.net, found.task, options.fp16)
    if not options.int8:
        write(graph, example(found.task, sizes), sizes, path, told)
        return path
    whole = folder / f"fp32{suffix}"
    write(graph, example(found.task, sizes), sizes, whole, told)
    given = (one for one in images.unlabeled(options.calibration) if sizes.takes(one))
    quantize(whole, path, given, told)
    return path


if __name__ == "__main__":
    sys.exit(run_entry(main))
