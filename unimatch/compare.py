"""Compares finished runs: a table (summary.md), curves over steps (curves.png), predictions (overlays.png).

The pictures of predictions are of samples spread evenly over the evaluation set.

unimatch compare RUN [RUN ...] --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from unimatch.codecs.encode import jpeg, png
from unimatch.codecs.picture import scaled
from unimatch.codecs.sheet import Sample, sheet, tile_side
from unimatch.config import plain
from unimatch.data.load import load_pair
from unimatch.engine import checkpoint
from unimatch.engine.checkpoint import check_shards
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.evaluate import over
from unimatch.engine.log import evaluations
from unimatch.engine.restore import restore
from unimatch.engine.run_data import open_shards
from unimatch.engine.run_folder import IMPORTED, flat, read_config
from unimatch.engine.runtime import Runtime
from unimatch.errors import UserError
from unimatch.tasks import TASKS

JPEG_QUALITY = 85
Curves = dict[str, list[dict[str, Any]]]  # by run: its evaluations, one a step


def main(args: list[str]) -> None:
    parser = Parser(
        prog="unimatch compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run folders; the folder's name is the label")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for summary.md, curves.png and overlays.png"
    )
    parser.add_argument("--images", type=int, default=6, help="samples in the overlay picture (default: 6)")
    parser.add_argument("--jpeg", action="store_true", help="overlays.jpg instead of overlays.png: smaller")
    options = parser.parse_args(args)
    options.out.mkdir(parents=True, exist_ok=True)

    names = [run.resolve().name for run in options.runs]
    if len(set(names)) < len(names):
        names = [str(run) for run in options.runs]
    curves = {name: _curve(run) for name, run in zip(names, options.runs, strict=True)}
    headlines = {TASKS[read_config(run).task.name].cls.headline for run in options.runs}
    if len(headlines) > 1:
        raise UserError(f"these runs have different tasks, whose figures ({', '.join(headlines)}) differ")
    headline = headlines.pop()
    _require_same_samples(options.runs, names, curves)
    table = _table(curves, headline) + _notes(options.runs, names, curves)
    (options.out / "summary.md").write_text(table)
    _plot(curves, headline, options.out / "curves.png")
    picture = _overlays(options.runs, names, options.images)
    overlays = options.out / ("overlays.jpg" if options.jpeg else "overlays.png")
    overlays.write_bytes(jpeg(picture, JPEG_QUALITY) if options.jpeg else png(picture))
    print(table)
    for name in ("summary.md", "curves.png", overlays.name):
        print(options.out / name)


def _curve(run: Path) -> list[dict[str, Any]]:
    """Evaluations of a run's headline network, one a step."""
    lines = evaluations(run)
    if not lines and (imported := run / IMPORTED).exists():
        file, config = (
            shlex.quote(str(path)) for path in (json.loads(imported.read_text())["file"], run / "config.yaml")
        )
        raise UserError(
            f"{run} was imported and never evaluated, so there are no figures to compare; import it again:\n"
            f"  unimatch import {file} --config {config} --evaluate --out FOLDER"
        )
    if not lines and not (run / "metrics.jsonl").exists():
        raise UserError(f"{run} is not a run folder: it has no metrics.jsonl")
    if not lines:
        raise UserError(f"{run} was never evaluated: set data.val in its configuration")
    return lines


def _require_same_samples(runs: list[Path], names: list[str], curves: Curves) -> None:
    """UserError unless all runs were evaluated on the same samples: other figures cannot be compared."""
    hashes = [curves[name][-1].get("samples") for name in names]
    if not all(hashes):  # runs of older versions know the hash of their keys
        hashes = [checkpoint.load_state(checkpoint.find(run, "last")).splits.get("val") for run in runs]
    masks = [curves[name][-1].get("labels") for name in names]
    if len(set(hashes)) == 1 and len({one for one in masks if one}) < 2:
        return
    places = [read_config(run).data for run in runs]
    told = "\n".join(
        f"  {name}: {place.val} of {place.shards} (hash {found}, masks {of or 'unknown'})"
        for name, place, found, of in zip(names, places, hashes, masks, strict=True)
    )
    raise UserError(
        "these runs were evaluated on different samples, so their figures cannot stand in one table:\n"
        f"{told}\nEvaluate each on the same ones: unimatch evaluate RUN --data NAME --shards PLACE"
    )


def _notes(runs: list[Path], names: list[str], curves: Curves) -> str:
    """What else a reader of the table must know."""
    notes = []
    for name, curve in curves.items():
        if left_out := over(curve[-1]):
            notes.append(f"{name}: the mean is{left_out}")
    ways = [flat(plain(read_config(run).task.config.evaluate)) for run in runs]
    for setting in ways[0]:
        values = [way[setting] for way in ways]
        if any(value != values[0] for value in values):
            told = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
            notes.append(f"evaluated in different ways: task.evaluate.{setting}: {told}")
    return "".join(f"\n{note}\n" for note in notes)


def _table(curves: Curves, headline: str) -> str:
    """Markdown, a row a run. The last step is the result; the best one is chosen by hindsight."""
    table = _by_class(next(iter(curves.values()))[-1])
    lines = [
        f"| run | steps | last {headline} | best {headline} (step) | {' | '.join(table)} |",
        f"| --- | ---: | ---: | ---: |{' ---: |' * len(table)}",
    ]
    for name, curve in curves.items():
        last, best = curve[-1], max(curve, key=lambda line: _or(line[headline], -1.0))
        values = _by_class(last)
        cells = " | ".join(_percent(values.get(c), 1) for c in table)
        lines.append(
            f"| {name} | {last['step']} | {_percent(last[headline], 2)} "
            f"| {_percent(best[headline], 2)} ({best['step']}) | {cells} |"
        )
    return "\n".join(lines) + "\n"


def _by_class(line: dict[str, Any]) -> dict[str, float | None]:
    """The first figures by class of an evaluation; the others, where there are more, stay in the log."""
    return next(value for value in line.values() if isinstance(value, dict))


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _percent(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"


def _plot(curves: Curves, headline: str, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, curve in curves.items():
        axes.plot(
            [line["step"] for line in curve],
            [100 * _or(line[headline], math.nan) for line in curve],
            marker="o",
            markersize=3,
            label="\n".join(textwrap.wrap(name, 80)),
        )
    axes.set(xlabel="optimiser steps", ylabel=f"{headline}, %")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=1 if max(map(len, curves)) > 24 else 3)  # over no curve
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _overlays(runs: list[Path], names: list[str], count: int) -> np.ndarray:
    """uint8 [H, W, 3]: rows are samples spread evenly over the evaluation set; columns are image (each
    date), truth, then each run's last network, both on the last date.
    """
    runtime = Runtime()
    restored = [restore(run, "last", None, runtime) for run in runs]
    first = restored[0]
    shards = open_shards(first.config.data.shards, first.config.data.cache)
    for one in restored:
        check_shards(one.state, shards, one.folder)
    if first.config.data.val is None:
        raise UserError(f"{runs[0]} has no data.val any more: name another run first")
    rows = shards.rows(first.config.data.val)
    task = first.task
    images = ["image"] if task.dates == 1 else [f"date {number + 1}" for number in range(task.dates)]
    titles = [*images, "truth", *names]
    side = tile_side(len(titles))
    samples = []
    chosen = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]
    for row, key in zip(chosen.tolist(), shards.keys(chosen), strict=True):
        part, label = load_pair(shards, row, shards.taxonomy.num_classes, task.decode)
        image = part.pixels
        shown = [scaled(date, side) for date in task.show(image)]
        tiles = [*shown, task.paint(shown[-1], label)]
        for one in restored:
            with torch.inference_mode():
                predicted = one.task.predict(one.net, torch.from_numpy(image)[None].to(runtime.device))[0]
            tiles.append(task.paint(shown[-1], predicted.to("cpu", torch.uint8).numpy()))
        samples.append(Sample(tiles, key))
    return sheet(samples, titles, legend=task.legend())


if __name__ == "__main__":
    sys.exit(run_entry(main))
