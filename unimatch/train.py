"""Trains one run.

One process:   python -m unimatch.train --config RUN.yaml
Many of them:  accelerate launch --config_file launch/accelerate/FILE.yaml -m unimatch.train --config RUN.yaml
"""

from __future__ import annotations

import argparse
import sys

from unimatch import config as config_io
from unimatch.engine.build import build_trainer
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.log import RunLog
from unimatch.engine.preflight import preflight
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_folder import start_run_folder
from unimatch.engine.runtime import Runtime


def main(args: list[str]) -> None:
    parser = Parser(prog="unimatch.train", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", required=True, metavar="RUN.yaml", help="run configuration, see configs/")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="replace one value, for instance --set optimizer.lr=0.01; may be repeated",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the last checkpoint in the run folder; starts at step 0 if there is none",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="a process that lets the others wait this long ends the run (default: 600)",
    )
    options = parser.parse_args(args)

    config = config_io.load(options.config, RunConfig, options.overrides)
    runtime = Runtime(config.precision, options.timeout, broadcast_buffers=config.sync_batchnorm == "off")
    runtime.watch()
    data, report = preflight(config, runtime, options.resume)
    if runtime.is_main:
        print(report, flush=True)
    with runtime.together():
        trainer, banner = build_trainer(config, data, runtime, options.resume)
    with runtime.together():
        if runtime.is_main:
            start_run_folder(config, options.resume)
        log = RunLog(config.out, runtime.is_main, trainer.state.step, trainer.total_steps)
    with log:
        log.say(banner)
        trainer.train(log)
        log.say(trainer.result())
    runtime.close()


if __name__ == "__main__":
    sys.exit(run_entry(main))
