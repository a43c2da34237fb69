"""Trains the runs of a table, one after the other, and shows its figures beside the published ones.

unimatch experiment list pascal                    # its runs: settings, folders, steps, hours as of `plan`
unimatch experiment run pascal --launch gpu8       # those that are not finished; started again, it goes on
unimatch experiment run pascal --only 3            # one of them, for a queue or an array of jobs
unimatch experiment status pascal
unimatch experiment table pascal

FILE is an experiment's YAML file, or the name of one that came with unimatch (`unimatch where` lists them).
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.launcher import add_launch_options, launched
from unimatch.engine.runtime import Runtime
from unimatch.engine.signals import Stopped
from unimatch.errors import UserError
from unimatch.experiments.definition import Experiment, Run, load_experiment
from unimatch.experiments.progress import claimed, progress_of
from unimatch.experiments.size import Paces, classes_of, steps_of
from unimatch.experiments.table import MISSING, table
from unimatch.scaling.cost import parse_tflops
from unimatch.scaling.pace import Pace, add_rate_option, assumed, shown
from unimatch.scaling.step_time import Cluster
from unimatch.tasks import TASKS
from unimatch.train import TIMEOUT_S, runtime_of, train_one

DEVICES = [1, 4, 8]


def main(args: list[str]) -> None:
    parser = Parser(
        prog="unimatch experiment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("list", "run", "status", "table"))
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--only", metavar="NUMBERS", help="these runs, such as 3 or 1-4,9")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="replace one value in every run; give it to each command, since it makes other runs",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="of the run folders, in place of the file's"
    )
    parser.add_argument(
        "--devices",
        type=int,
        nargs="+",
        default=DEVICES,
        metavar="N",
        help="list: hours on so many (default: 1 4 8)",
    )
    add_rate_option(parser)
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS", help="as of train")
    add_launch_options(parser)
    options = parser.parse_args(args)
    if min(options.devices) < 1:
        parser.error(f"--devices must be at least 1, found {min(options.devices)}")
    if options.launch is not None and options.action != "run":
        parser.error(f"--launch is for run; {options.action} trains nothing")
    experiment = load_experiment(options.file, options.overrides, options.out)
    chosen = experiment.chosen(options.only)
    if options.action == "run":
        if not launched("unimatch.experiment", options, args):
            run(chosen, options.timeout)
    elif options.action == "list":
        print(listing(experiment, chosen, options.devices, parse_tflops(options.tflops)))
    elif options.action == "status":
        print(status(chosen))
    else:
        states = {one.number: progress_of(one.config) for one in experiment.runs}
        headline = TASKS[experiment.runs[0].config.task.name].cls.headline
        print(table(experiment, states, headline), end="")


def listing(experiment: Experiment, runs: list[Run], devices: list[int], operations_s: float) -> str:
    """What there is to run."""
    config = experiment.config
    lines = [f"{experiment.name}: {config.about}", f"{len(experiment.runs)} runs from {experiment.base}", ""]
    for axis, values in config.axes.items():
        lines += [
            f"{axis}  {value}: {' '.join(changes) or 'as in the base'}" for value, changes in values.items()
        ]
    head = [*config.axes, "seed", "steps", *(f"hours on {count}" for count in devices), "folder"]
    rule = ["---"] * len(config.axes) + ["---:"] * (2 + len(devices)) + ["---"]
    lines += ["", f"| run | {' | '.join(head)} |", f"| ---: | {' | '.join(rule)} |"]
    paces = Paces(classes_of(runs[0].config, config.recipe), operations_s)
    columns: dict[int, list[float | None]] = {count: [] for count in devices}
    for one in runs:
        steps = steps_of(one.config)
        cells = [str(one.number), *one.values.values(), str(one.config.seed)]
        cells.append(MISSING if steps is None else str(steps))
        for count, column in columns.items():
            column.append(_hours(paces.of(one.config), steps, count))
            cells.append(MISSING if column[-1] is None else shown(column[-1]))
        lines.append(f"| {' | '.join([*cells, str(one.config.out)])} |")
    lines.append("")
    for count, column in columns.items():
        known = [hours for hours in column if hours is not None]
        part = "" if len(known) == len(column) else f" for {len(known)} of them"
        lines.append(f"{len(column)} runs on {count} device(s): {shown(sum(known))} hours{part}")
    if any(None in column for column in columns.values()):
        lines.append(
            f"{MISSING}: nothing says how many samples there are, or so many devices cannot share a batch"
        )
    return "\n".join([*lines, *assumed(operations_s)])


def _hours(pace: Pace, steps: int | None, devices: int) -> float | None:
    """Of a run; None: the steps are not known, or so many devices cannot share its batch."""
    if steps is None:
        return None
    try:
        return pace.hours(steps, devices, Cluster())
    except UserError:
        return None


def status(runs: list[Run]) -> str:
    """How far each run is."""
    lines = []
    for one in runs:
        state = progress_of(one.config)
        running = ""
        if state.begun and not state.finished:
            with claimed(one.config) as free:
                running = "" if free else ", running"
        figure = f", {100 * state.last:.2f}" if state.finished and state.last is not None else ""
        lines.append(f"{one.number:4} {one.name}: {state}{running}{figure}")
    return "\n".join(lines)


def run(runs: list[Run], timeout_s: float) -> None:
    """Trains those that are not finished. UserError: one cannot be trained; those after it are not begun."""
    runtime = runtime_of([one.config for one in runs], timeout_s)
    trained = 0
    for one in runs:
        with ExitStack() as stack:
            told = ""
            with runtime.together():
                # One process decides for all: another program may finish the run meanwhile.
                if runtime.is_main:
                    told = _why_not(one, stack.enter_context(claimed(one.config)))
                    print(f"run {one.number}, {one.name}: {told or 'training'}", flush=True)
            if not runtime.gather(told)[0]:
                if trained:
                    runtime.release()
                trained += 1
                _train(one, runtime)
    runtime.close()


def _why_not(one: Run, mine: bool) -> str:
    """Why a run is passed over; nothing: it is to be trained. UserError: its folder holds another run."""
    if not mine:
        return "another program is training it"
    state = progress_of(one.config)
    if state.problem is not None:
        raise UserError(f"run {one.number} ({one.config.out}): {state.problem}")
    return str(state) if state.finished else ""


def _train(one: Run, runtime: Runtime) -> None:
    try:
        train_one(one.config, runtime, resume=True)
    except UserError as error:
        raise UserError(f"run {one.number} ({one.config.out}): {error}") from error
    except Stopped:
        if runtime.is_main:
            print(f"stopped in run {one.number}; the same command continues the experiment", flush=True)
        raise


if __name__ == "__main__":
    sys.exit(run_entry(main))
