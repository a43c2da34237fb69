"""Trains the runs of a table, one after the other, and shows its figures beside the published ones.

unimatch experiment list pascal                    # its runs: settings, folders, steps, hours as of `plan`
unimatch experiment run pascal --launch gpu8       # those that are not finished; started again, it goes on
unimatch experiment run pascal --only 3            # one of them, for a queue or an array of jobs
unimatch experiment run board_camvid --jobs        # as many at a time as there are cores, a thread each
unimatch experiment status pascal
unimatch experiment table pascal
unimatch experiment table board_camvid --html board.html --plots board

FILE is an experiment's YAML file, or the name of one that came with unimatch (`unimatch where` lists them).
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from unimatch.cores import share_of_cores
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.launcher import add_launch_options, apart, launch_path, launched
from unimatch.engine.options import add_overrides, add_timeout
from unimatch.engine.run_data import open_shards
from unimatch.engine.runtime import Runtime
from unimatch.engine.signals import SIGNALS, Stopped
from unimatch.errors import UserError
from unimatch.experiments.board import markdown as board
from unimatch.experiments.definition import Experiment, Run, load_experiment
from unimatch.experiments.jobs import SideBySide
from unimatch.experiments.listing import listing, status
from unimatch.experiments.page import page
from unimatch.experiments.plots import draw
from unimatch.experiments.progress import claimed, progress_of
from unimatch.experiments.results import require_comparable, result_of
from unimatch.experiments.table import missing, table
from unimatch.scaling.cost import parse_tflops
from unimatch.scaling.pace import add_rate_option
from unimatch.tasks import TASKS
from unimatch.train import runtime_of, train_with_stages

DEVICES = [1, 4, 8]
# Exit status of a run that a signal stopped, while it was starting and later -> that of the command.
STOPPED = {code: 128 + number for number in SIGNALS for code in (-number, 128 + number)}


def main(args: list[str]) -> None:
    options = arguments(args)
    experiment = load_experiment(options.file, options.overrides, options.out)
    chosen = experiment.where(experiment.chosen(options.only), options.where)
    if options.action == "list":
        print(listing(experiment, chosen, options.devices, parse_tflops(options.tflops)))
    elif options.action == "status":
        print(status(chosen))
    elif options.action == "table":
        print(told(replace(experiment, runs=chosen), options), end="")
    else:
        launch = launch_path(options)
        require_data(chosen)
        if options.jobs is not None:
            rest = without(args, "--only", "--jobs")
            jobs = SideBySide("unimatch.experiment", rest, options.jobs or share_of_cores())
            _tell(jobs.train(chosen), len(chosen))
        elif launch is not None and len(chosen) > 1:
            run_apart(chosen, args)
        elif not launched("unimatch.experiment", options, args):
            run(chosen, options.timeout)


def arguments(args: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="unimatch experiment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("list", "run", "status", "table"))
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--only", metavar="NUMBERS", help="these runs, such as 3 or 1-4,9")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="AXIS=VALUE[,VALUE]",
        help="the runs of these values of an axis alone; may be repeated",
    )
    add_overrides(
        parser, "replace one value in every run; give it to each command, since it makes other runs"
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
    parser.add_argument(
        "--jobs",
        type=int,
        nargs="?",
        const=0,
        metavar="N",
        help="run: so many runs at a time, in processes of one thread; without a number one a core",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="table: also as a page, of a board")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="table: also as pictures, of a board")
    parser.add_argument(
        "--mixed-code", action="store_true", help="table: of a board, also by several versions or machines"
    )
    add_timeout(parser)
    add_launch_options(parser)
    options = parser.parse_args(args)
    for problem in mistakes(options):
        parser.error(problem)
    return options


def mistakes(options: argparse.Namespace) -> Iterator[str]:
    """Options that are not for the action, or impossible, a sentence each."""
    action = options.action
    if min(options.devices) < 1:
        yield f"--devices must be at least 1, found {min(options.devices)}"
    if action != "run" and (options.launch, options.processes) != (None, None):
        yield f"--launch and --processes are for run; {action} trains nothing"
    if options.jobs is not None and (action != "run" or options.launch is not None):
        yield "--jobs is for run without --launch: each run is then one process"
    if options.jobs is not None and options.jobs < 0:
        yield f"--jobs must be at least 1, found {options.jobs}"
    if action == "table" and options.only is not None:
        yield "--only is not for table, which shows all runs"
    for_table = {"--html": options.html, "--plots": options.plots, "--mixed-code": options.mixed_code or None}
    given = [name for name, value in for_table.items() if value is not None]
    if action != "table" and given:
        yield f"{given[0]} is for table, not for {action}"


def told(experiment: Experiment, options: argparse.Namespace) -> str:
    """The table: of an experiment with a baseline as a board, also as the page and pictures asked for."""
    headline = TASKS[experiment.runs[0].config.task.name].cls.headline
    states = {one.number: progress_of(one.config) for one in experiment.runs}
    if experiment.config.baseline is None:
        for name in ("html", "plots"):
            if getattr(options, name) is not None:
                raise UserError(
                    f"--{name}: {experiment.name} has no baseline, so it is no board: set `baseline`"
                )
        return table(experiment, states, headline)
    finished = [
        result_of(one, headline)
        for one in experiment.runs
        if states[one.number].finished and states[one.number].last is not None
    ]
    if not finished:
        raise UserError(f"no run of {experiment.name} is finished: unimatch experiment run {experiment.name}")
    require_comparable(finished, options.mixed_code)
    if options.html is not None:
        options.html.write_text(page(experiment, finished, headline), encoding="utf-8")
    if options.plots is not None:
        draw(experiment, finished, headline, options.plots)
    return board(experiment, finished, headline, missing(experiment.runs, states))


def require_data(runs: list[Run]) -> None:
    """UserError, before any process is started, if none of the runs that are left has its data."""
    problems: dict[str, None] = {}
    for one in runs:
        if not progress_of(one.config).finished:
            try:
                open_shards(one.config.data.shards, one.config.data.cache)
            except (UserError, OSError) as error:
                problems[str(error)] = None
            else:
                return
    if problems:
        raise UserError("no run can start: " + "\n".join(problems))


def run(runs: list[Run], timeout_s: float) -> None:
    """Trains those that are not finished, also after one that failed.

    UserError, at the end: which ones failed, and why. Stopped: a signal ended the run that was training.
    """
    runtime = runtime_of([one.config for one in runs], timeout_s)
    failed: list[str] = []
    trained = 0
    for one in runs:
        try:
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
        except UserError as error:  # the same on all processes
            failed.append(f"run {one.number} ({one.config.out}): {error}")
            if runtime.is_main and one is not runs[-1]:
                print(f"failed: {failed[-1]}", file=sys.stderr, flush=True)
    runtime.close()
    _tell(failed, len(runs))


def _tell(failed: list[str], count: int) -> None:
    """UserError if some of `count` runs failed."""
    if failed:
        head = [f"{len(failed)} of {count} runs failed"] if count > 1 else []
        raise UserError("\n".join([*head, *failed]))


def _why_not(one: Run, mine: bool) -> str:
    """Why a run is passed over; nothing: it is to be trained. UserError: its folder holds another run."""
    if not mine:
        return "another program is training it"
    state = progress_of(one.config)
    if state.problem is not None:
        raise UserError(state.problem)
    return str(state) if state.finished else ""


def _train(one: Run, runtime: Runtime) -> None:
    """UserError: it cannot be trained; where there are no other processes, whatever else went wrong too."""
    try:
        train_with_stages(one.config, runtime, resume=True)
    except UserError:
        raise
    except Stopped:
        if runtime.is_main:
            print(f"stopped in run {one.number}; the same command continues the experiment", flush=True)
        raise
    except Exception as error:
        if runtime.world > 1:  # the others wait for this process, and notice only when it ends
            raise
        traceback.print_exc()
        raise UserError(f"{type(error).__name__}: {error}") from None


def without(args: list[str], *names: str) -> list[str]:
    """The arguments of the command without these options and their values."""
    own = argparse.ArgumentParser(allow_abbrev=False)
    for name in names:
        own.add_argument(name, nargs="?")
    return own.parse_known_args(args)[1]


def run_apart(runs: list[Run], args: list[str]) -> None:
    """Trains those that are not finished, each in processes of its own: whatever ends one leaves the others.

    args: of the command; --only is replaced. UserError, at the end: which ones failed. SystemExit: a signal
    ended the run that was training.
    """
    rest, failed = without(args, "--only"), []
    for one in runs:
        state = progress_of(one.config)
        if state.finished:
            print(f"run {one.number}, {one.name}: {state}", flush=True)
            continue
        status = apart("unimatch.experiment", [*rest, "--only", str(one.number)])
        if status in STOPPED:
            sys.exit(STOPPED[status])
        if status:
            failed.append(f"run {one.number} ({one.config.out}): status {status}; its messages tell why")
    _tell(failed, len(runs))


if __name__ == "__main__":
    sys.exit(run_entry(main))
