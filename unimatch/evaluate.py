"""Evaluates a run: `unimatch evaluate RUN [--data test] [--launch gpu8]`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from unimatch.engine.build import build_evaluator
from unimatch.engine.checkpoint import check_shards
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.evaluate import report
from unimatch.engine.launcher import add_launch_options, launched
from unimatch.engine.options import add_which_weights
from unimatch.engine.prediction_mode import add_options, given
from unimatch.engine.restore import restore
from unimatch.engine.run_data import open_shards
from unimatch.engine.runtime import Runtime
from unimatch.engine.selection import select
from unimatch.errors import UserError


def arguments(args: list[str]) -> argparse.Namespace:
    parser = Parser(prog="unimatch evaluate", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--data", metavar="NAME", help="subset of the shards or key-list file (default: the run's data.val)"
    )
    parser.add_argument(
        "--shards", metavar="PLACE", help="other shards of these classes, folder or URL (default: the run's)"
    )
    add_which_weights(parser)
    parser.add_argument(
        "--batch", type=int, default=4, help="equal-sized images predicted together (default: 4)"
    )
    add_options(parser)
    parser.add_argument("--workers", type=int, default=2, help="data workers per process (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    add_launch_options(parser)
    options = parser.parse_args(args)
    if options.batch < 1:
        parser.error(f"--batch must be at least 1, found {options.batch}")
    if options.workers < 0:
        parser.error(f"--workers must be at least 0, found {options.workers}")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: {options.json.parent} is not a folder")
    return options


def main(args: list[str]) -> None:
    options = arguments(args)
    if launched("unimatch.evaluate", options, args):
        return
    changes = given(options)
    runtime = Runtime()
    with runtime.together():
        restored = restore(options.run, options.checkpoint, options.network, runtime, changes)
        data = restored.config.data
        shards = open_shards(options.shards or data.shards, data.cache)
        check_shards(restored.state, shards, restored.folder)
        name = options.data or data.val
        if name is None:
            raise UserError(
                f"{options.run} was trained without data.val: say what to evaluate on with --data"
            )
        evaluator = build_evaluator(
            select(shards, name),
            restored.task,
            runtime,
            options.batch,
            options.workers,
            data.timeout_s,
        )
    figures = evaluator(restored.net)
    if runtime.is_main:
        print("".join(f"{option} {value}\n" for option, value in changes.items()), end="")
        print(f"{restored.folder} on {name}: {figures['images']} images in {figures['seconds']:.1f} s")
        print("\n".join(report(figures, restored.task)))
    with runtime.together():
        if options.json and runtime.is_main:
            text = json.dumps({"data": name, "step": restored.state.step, **changes, **figures}, indent=1)
            options.json.write_text(text + "\n")
    runtime.close()


if __name__ == "__main__":
    sys.exit(run_entry(main))
