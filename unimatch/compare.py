"""Compares finished runs: a table (summary.md), curves over steps (curves.png), predictions (overlays.png),
and the page of `unimatch report` about all of them (report.html).

The pictures of predictions are of samples spread evenly over the evaluation set; the page has the worst and
the best.

unimatch compare RUN [RUN ...] --out FOLDER
"""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from unimatch.codecs.encode import jpeg, png
from unimatch.codecs.picture import scaled
from unimatch.codecs.sheet import Sample, sheet, tile_side
from unimatch.data.load import load_pair
from unimatch.engine.checkpoint import check_shards
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.restore import restore
from unimatch.engine.run_data import open_shards
from unimatch.engine.runtime import Runtime
from unimatch.engine.selection import select
from unimatch.errors import UserError
from unimatch.reports.compared import notes, require_comparable, table
from unimatch.reports.look import Wanted, look
from unimatch.reports.measured import predictions
from unimatch.reports.page import page
from unimatch.reports.runs import RunFiles, named, read_run, require_evaluated

JPEG_QUALITY = 85


def main(args: list[str]) -> None:
    parser = Parser(
        prog="unimatch compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run folders; the folder's name is the label")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for summary.md, curves.png, overlays.png, report.html"
    )
    parser.add_argument("--images", type=int, default=6, help="samples in the overlay picture (default: 6)")
    parser.add_argument("--jpeg", action="store_true", help="overlays.jpg instead of overlays.png: smaller")
    options = parser.parse_args(args)
    options.out.mkdir(parents=True, exist_ok=True)

    runs = [read_run(*each) for each in zip(options.runs, named(options.runs), strict=True)]
    for run in runs:
        require_evaluated(run)
    require_comparable(runs)
    told = table(runs) + "".join(f"\n{note}\n" for note in notes(runs))
    (options.out / "summary.md").write_text(told)
    _plot(runs, options.out / "curves.png")
    picture = _overlays(runs, options.images)
    overlays = options.out / ("overlays.jpg" if options.jpeg else "overlays.png")
    overlays.write_bytes(jpeg(picture, JPEG_QUALITY) if options.jpeg else png(picture))
    found = look(runs, Wanted(images=options.images), Runtime())
    (options.out / "report.html").write_text(page(runs, None, found))
    print(told)
    for name in ("summary.md", "curves.png", overlays.name, "report.html"):
        print(options.out / name)


def _plot(runs: Sequence[RunFiles], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    headline = runs[0].headline
    for run in runs:
        values = [line[headline] for line in run.curve]
        axes.plot(
            [line["step"] for line in run.curve],
            [math.nan if value is None else 100 * value for value in values],
            marker="o",
            markersize=3,
            label="\n".join(textwrap.wrap(run.name, 80)),
        )
    axes.set(xlabel="optimiser steps", ylabel=f"{headline}, %")
    axes.grid(alpha=0.3)
    longest = max(len(run.name) for run in runs)
    figure.legend(loc="outside lower center", ncols=1 if longest > 24 else 3)  # over no curve
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _overlays(runs: Sequence[RunFiles], count: int) -> np.ndarray:
    """uint8 [H, W, 3]: rows are samples spread evenly over the evaluation set; columns are image (each
    date), truth, then each run's last network, both on the last date.
    """
    runtime = Runtime()
    restored = [restore(run.folder, "last", None, runtime) for run in runs]
    first = restored[0]
    shards = open_shards(first.config.data.shards, first.config.data.cache)
    for one in restored:
        check_shards(one.state, shards, one.folder)
    if first.config.data.val is None:
        raise UserError(f"{runs[0].folder} has no data.val any more: name another run first")
    task = first.task
    images = ["image"] if task.dates == 1 else [f"date {number + 1}" for number in range(task.dates)]
    titles = [*images, "truth", *(run.name for run in runs)]
    side = tile_side(len(titles))
    samples = []
    chosen = select(shards, first.config.data.val).spread(count).rows
    for row, key in zip(chosen.tolist(), shards.keys(chosen), strict=True):
        part, label = load_pair(shards, row, shards.taxonomy.num_classes, task.decode)
        shown = [scaled(date, side) for date in task.show(part.pixels)]
        tiles = [*shown, task.paint(shown[-1], label)]
        tiles += [task.paint(shown[-1], predictions(one, part.pixels, runtime)[0]) for one in restored]
        samples.append(Sample(tiles, key))
    return sheet(samples, titles, legend=task.legend())


if __name__ == "__main__":
    sys.exit(run_entry(main))
