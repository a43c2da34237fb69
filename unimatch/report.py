"""Writes what one run or several did as one page, report.html, that opens in any browser and asks no host for
anything: figures and curves, classes, the worst and best images, calibration and pseudo-labels, what was fed,
what it cost and how to repeat it. Also of a run that goes on: --watch writes it anew.

    unimatch report runs/my_run
    unimatch report runs/my_run --baseline runs/my_baseline
    unimatch report runs/my_run --watch
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from unimatch.durable import replace_file
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.runtime import Runtime
from unimatch.reports.compared import require_comparable
from unimatch.reports.look import Look, Wanted, look
from unimatch.reports.page import page
from unimatch.reports.runs import RunFiles, named, read_run

FILE = "report.html"
WATCH_S = 30.0


def arguments(args: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="unimatch report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, also unfinished ones")
    parser.add_argument(
        "--baseline", type=Path, metavar="RUN", help="the run that the others are held against"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"the page (default: {FILE} in the first run's folder)"
    )
    parser.add_argument("--images", type=int, default=12, help="worst and best images shown (default: 12)")
    parser.add_argument(
        "--samples",
        type=int,
        default=500,
        metavar="N",
        help="samples to measure at most, spread evenly; 0: only what the runs' folders say (default: 500)",
    )
    parser.add_argument("--data", metavar="NAME", help="which samples (default: the run's data.val)")
    parser.add_argument("--shards", metavar="PLACE", help="where the shards are now (default: the run's)")
    parser.add_argument("--batch", type=int, default=4, help="images of one size together (default: 4)")
    parser.add_argument("--workers", type=int, default=0, help="data workers (default: 0)")
    parser.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=WATCH_S,
        metavar="SECONDS",
        help=f"look for news so often (every {WATCH_S:g} s) and write the page anew until the runs are done",
    )
    options = parser.parse_args(args)
    for name, least in (("images", 0), ("samples", 0), ("batch", 1), ("workers", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name} must be at least {least}, found {getattr(options, name)}")
    if not options.samples and options.data is not None:
        parser.error("--data names samples to measure: leave it out beside --samples 0")
    if options.watch is not None and not options.watch > 0:
        parser.error(f"--watch must be above 0, found {options.watch:g}")
    return options


def main(args: list[str]) -> None:
    options = arguments(args)
    runtime = Runtime()
    folders = [*options.runs]
    if options.baseline and options.baseline.resolve() not in [folder.resolve() for folder in folders]:
        folders.append(options.baseline)
    out = options.out or folders[0] / FILE
    wanted = Wanted(
        options.images, options.samples, options.data, options.shards, options.batch, options.workers
    )
    networks: tuple[tuple[int, ...], Look] | None = None
    before: object = None
    while True:
        runs = [read_run(*each) for each in zip(folders, named(folders), strict=True)]
        require_comparable([run for run in runs if run.curve])
        steps = tuple(-1 if run.state is None else run.state.step for run in runs)
        if before != (news := [steps, *(run.done for run in runs)]):
            before = news
            if networks is None or networks[0] != steps:
                networks = steps, look(runs, wanted, runtime)
            baseline = _baseline(options.baseline, runs)
            out.parent.mkdir(parents=True, exist_ok=True)
            replace_file(out, page(runs, baseline, networks[1]).encode())
            print(f"{out} ({out.stat().st_size / 1e6:.1f} MB), {', '.join(map(_progress, runs))}", flush=True)
        if options.watch is None or all(run.is_finished for run in runs):
            return
        time.sleep(options.watch)


def _baseline(folder: Path | None, runs: list[RunFiles]) -> RunFiles | None:
    if folder is None:
        return None
    return next(run for run in runs if run.folder.resolve() == folder.resolve())


def _progress(run: RunFiles) -> str:
    return f"{run.name}: {run.done} of {run.total or '?'} steps"


if __name__ == "__main__":
    sys.exit(run_entry(main))
