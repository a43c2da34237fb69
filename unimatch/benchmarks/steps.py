"""The steps of several configurations in turns: forward, backward, update and teacher, without any input."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from unimatch import config as config_io
from unimatch.benchmarks.timing import in_turns, table
from unimatch.engine.build import adapt, build_method, build_network, build_task
from unimatch.engine.optim import build_optimizer
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_shards
from unimatch.engine.runtime import Runtime
from unimatch.engine.trainer import StepModule
from unimatch.errors import UserError
from unimatch.scaling.footprint import LATE, blank_micro


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="RUN.yaml", help="as of unimatch train")
    parser.add_argument(
        "--case",
        action="append",
        required=True,
        metavar="NAME:KEY=VALUE;...",
        dest="cases",
        help="a row: its name and its settings; the first row is what the others are compared with",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--steps", type=int, default=3, help="of a case in its turn")
    parser.add_argument("--rounds", type=int, default=7)


def run(options: argparse.Namespace) -> str:
    """A table: steps a second of each case, and what they are of the first one's. On a CPU seconds are the
    process's own, so that what runs beside it counts less.
    """
    cases: dict[str, Callable[[], int]] = {}
    runtime = Runtime()
    for text in options.cases:
        name, colon, settings = text.partition(":")
        if not colon or name in cases:
            raise UserError(f"--case {text}: write NAME:KEY=VALUE;KEY=VALUE, each name once")
        changes = [*options.overrides, *(one for one in settings.split(";") if one), "out=runs/none"]
        cases[name] = _case(config_io.load(Path(options.config), RunConfig, changes), runtime, options.steps)
    on_cpu = runtime.device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    return table(in_turns(cases, options.rounds, clock=clock), "steps/s", wall=on_cpu)


def _case(config: RunConfig, runtime: Runtime, steps: int) -> Callable[[], int]:
    """Takes some steps on one micro-batch of the configured sizes, over and over, and says how many."""
    shards = open_shards(config.data.shards, config.data.cache)
    net = build_network(config, shards.taxonomy, runtime)
    task = build_task(config, shards.taxonomy, net)
    method = build_method(config, task, net)
    optimizer = build_optimizer(net, config.optimizer)
    adapt(net, config, runtime)
    crop, unlabeled = config.task.config.views.crop, config.batch.unlabeled or 0
    sizes = (config.batch.labeled, unlabeled if method.views.unlabeled else 0)
    batch = task.to_device(blank_micro(task, method, crop, crop, *sizes), runtime.device)
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
    step = partial(StepModule(net, method), batch, LATE)

    def take() -> int:
        for _ in range(steps):
            with torch.autocast(runtime.device.type, dtype=dtype, enabled=dtype is not None):
                loss, _ = step()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            method.after_update(net, LATE)
        if runtime.device.type == "cuda":
            torch.cuda.synchronize()
        return steps

    return take
