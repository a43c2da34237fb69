"""Trains a run, or several one after the other.

One process: unimatch train --config RUN.yaml
Many: unimatch train --launch gpu8 --config RUN.yaml
With accelerate's own options (hosts, ports, restarts):
  accelerate launch --config_file "$(unimatch where launch/gpu8)" -m unimatch.train --config RUN.yaml
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from unimatch import config as config_io
from unimatch.engine.build import build_trainer
from unimatch.engine.checkpoint import last_checkpoint, load_state
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.launcher import add_launch_options, launched
from unimatch.engine.log import RunLog
from unimatch.engine.options import add_overrides, add_timeout
from unimatch.engine.preflight import preflight
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_folder import refuse_changes, start_run_folder
from unimatch.engine.runtime import Runtime
from unimatch.engine.stages import FOLDER, last_run, stages_of
from unimatch.errors import UserError
from unimatch.predicting.stage_labels import label_stage


def main(args: list[str]) -> None:
    parser = Parser(prog="unimatch train", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--config",
        required=True,
        nargs="+",
        metavar="RUN.yaml",
        help="run configuration: a file (`unimatch init run` writes one), or a name of `unimatch where`;\n"
        "several are trained one after the other in the same processes, which spares the starts",
    )
    add_overrides(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the last checkpoint in the run folder; starts at step 0 if there is none",
    )
    add_timeout(parser)
    add_launch_options(parser)
    options = parser.parse_args(args)
    if launched("unimatch.train", options, args):
        return

    configs = [config_io.load(path, RunConfig, options.overrides) for path in options.config]
    train_runs(configs, options.resume, options.timeout)


def train_runs(configs: Sequence[RunConfig], resume: bool, timeout_s: float) -> None:
    """Trains each run to its last step, as one of its processes.

    Each is the run that it is by itself, to the last bit. resume: each from its last checkpoint. timeout_s:
    of every wait for the other processes. UserError: what cannot be trained; later runs are not begun.
    Stopped: a signal ended the run that was training, after a checkpoint.
    """
    runtime = runtime_of(configs, timeout_s)
    for number, config in enumerate(configs):
        if number:
            runtime.release()
        train_with_stages(config, runtime, resume)
    runtime.close()


def runtime_of(configs: Sequence[RunConfig], timeout_s: float) -> Runtime:
    """What all of these runs may be trained in; UserError if they need different ones."""
    config = configs[0]
    for name in ("precision", "sync_batchnorm"):
        if len({getattr(one, name) for one in configs}) > 1:
            raise UserError(f"the runs differ in {name}, which belongs to the processes: start them apart")
    if len({one.out.resolve() for one in configs}) < len(configs):
        raise UserError("two of the runs have the same `out`")
    runtime = Runtime(config.precision, timeout_s)
    runtime.watch()
    return runtime


def train_with_stages(config: RunConfig, runtime: Runtime, resume: bool) -> None:
    """Trains a run, and before it the runs of its method's stages, which label samples for those behind them:
    see engine.stages. Each stage that is done is passed over; UserError as `train_one`.
    """
    before = stages_of(config)
    if before and not resume and (config.out / FOLDER).exists():
        raise UserError(
            f"{config.out} already holds stages of a run; continue it with --resume, or choose another "
            "folder with --set out=FOLDER"
        )
    for number, stage in enumerate(before):
        if is_complete(stage.config, runtime):
            told = "is trained"
        else:
            train_one(stage.config, runtime, resume=True)
            runtime.release()
            told = "was trained"
        if runtime.is_main:
            print(f"stage {number + 1} of {len(before)} {told}; {stage.labels} has its labels", flush=True)
        label_stage(stage, before[:number], config, runtime)
    train_one(last_run(config), runtime, resume)


def is_complete(config: RunConfig, runtime: Runtime) -> bool:
    """Whether the run in `config.out` has done its last step. UserError: it is another run."""
    complete = False
    with runtime.together():
        last = last_checkpoint(config.out)
        if last is not None:
            refuse_changes(config)
            state = load_state(last)
            complete = state.total is not None and state.step >= state.total
    return all(runtime.gather(complete))


def train_one(config: RunConfig, runtime: Runtime, resume: bool) -> None:
    """Trains a run to its last step in processes that may have trained others; call `release` between two."""
    data, report = preflight(config, runtime, resume)
    if runtime.is_main:
        print(report, flush=True)
    with runtime.together():
        trainer, banner = build_trainer(config, data, runtime, resume)
    with runtime.together():
        if runtime.is_main:
            start_run_folder(config, resume)
        log = RunLog(config.out, runtime.is_main, trainer.state.step, trainer.total_steps, config)
    with log:
        log.say(banner)
        trainer.train(log)
        log.say(trainer.result())


if __name__ == "__main__":
    sys.exit(run_entry(main))
