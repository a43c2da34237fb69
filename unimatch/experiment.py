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
import traceback
from contextlib import ExitStack
from pathlib import Path

from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.launcher import add_launch_options, apart, launch_path, launched
from unimatch.engine.options import add_overrides, add_timeout
from unimatch.engine.runtime import Runtime
from unimatch.engine.signals import SIGNALS, Stopped
from unimatch.errors import UserError
from unimatch.experiments.definition import Run, load_experiment
from unimatch.experiments.listing import listing, status
from unimatch.experiments.progress import claimed, progress_of
from unimatch.experiments.table import table
from unimatch.scaling.cost import parse_tflops
from unimatch.scaling.pace import add_rate_option
from unimatch.tasks import TASKS
from unimatch.train import runtime_of, train_with_stages

DEVICES = [1, 4, 8]
# Exit status of a run that a signal stopped, while it was starting and later -> that of the command.
STOPPED = {code: 128 + number for number in SIGNALS for code in (-number, 128 + number)}


def main(args: list[str]) -> None:
    parser = Parser(
        prog="unimatch experiment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("list", "run", "status", "table"))
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--only", metavar="NUMBERS", help="these runs, such as 3 or 1-4,9")
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
    add_timeout(parser)
    add_launch_options(parser)
    options = parser.parse_args(args)
    if min(options.devices) < 1:
        parser.error(f"--devices must be at least 1, found {min(options.devices)}")
    if options.action != "run" and (options.launch, options.processes) != (None, None):
        parser.error(f"--launch and --processes are for run; {options.action} trains nothing")
    if options.action == "table" and options.only is not None:
        parser.error("--only is not for table, which shows all runs")
    experiment = load_experiment(options.file, options.overrides, options.out)
    chosen = experiment.chosen(options.only)
    if options.action == "run":
        if launch_path(options) is not None and len(chosen) > 1:
            run_apart(chosen, args)
        elif not launched("unimatch.experiment", options, args):
            run(chosen, options.timeout)
    elif options.action == "list":
        print(listing(experiment, chosen, options.devices, parse_tflops(options.tflops)))
    elif options.action == "status":
        print(status(chosen))
    else:
        states = {one.number: progress_of(one.config) for one in experiment.runs}
        headline = TASKS[experiment.runs[0].config.task.name].cls.headline
        print(table(experiment, states, headline), end="")


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


def run_apart(runs: list[Run], args: list[str]) -> None:
    """Trains those that are not finished, each in processes of its own: whatever ends one leaves the others.

    args: of the command; --only is replaced. UserError, at the end: which ones failed. SystemExit: a signal
    ended the run that was training.
    """
    own = argparse.ArgumentParser(allow_abbrev=False)
    own.add_argument("--only")
    rest = own.parse_known_args(args)[1]
    failed = []
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
