"""What a step of each method costs beside UniMatch's: time in turns, operations, memory of activations."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from unimatch import config as config_io
from unimatch.benchmarks.timing import in_turns
from unimatch.engine.build import build_method, build_network, build_task
from unimatch.engine.optim import build_optimizer
from unimatch.engine.run_config import RunConfig
from unimatch.engine.runtime import Runtime
from unimatch.engine.trainer import StepModule
from unimatch.methods import METHODS
from unimatch.models.segmentor import Segmentor
from unimatch.scaling.footprint import LATE, blank_micro, shape_only, step_bytes, step_flops
from unimatch.tasks.base import Task
from unimatch.taxonomy import Taxonomy

CLASSES = 8
REFERENCE = "unimatch"
RUN = """
out: unused
data: {{shards: unused, labeled: a.txt, unlabeled: b.txt}}
batch: {{labeled: {size}, unlabeled: {size}}}
model:
  encoder: {{name: {encoder}, weights: none}}
  head: {{name: deeplabv3plus}}
method: {{name: {method}}}
task: {{name: natural, views: {{crop: {crop}}}}}
optimizer: {{lr: 0.001}}
schedule: {{steps: 1000}}
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--encoder", default="resnet18", help="its name (%(default)s)")
    parser.add_argument("--crop", type=int, default=128, help="side of the crops (%(default)s)")
    parser.add_argument("--size", type=int, default=4, help="images of either kind (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="times each method steps (%(default)s)")
    parser.add_argument("--methods", nargs="+", choices=METHODS.names(), default=METHODS.names())


def run(options: argparse.Namespace) -> str:
    """Markdown: a row a method; all but milliseconds, parameters and megabytes are over UniMatch's."""
    names = list(dict.fromkeys([REFERENCE, *options.methods]))
    runtime = Runtime()
    cases = {name: _step(_config(options, name), runtime) for name in names}
    # On a CPU the process's own seconds: what runs beside it weighs less.
    clock = time.process_time if runtime.device.type == "cpu" else time.perf_counter
    timings = in_turns(cases, options.rounds, clock=clock)
    sizes = {name: _sizes(_config(options, name)) for name in names}
    rows = []
    for timing in timings:
        # Rates are steps a second.
        turns = [its / mine for mine, its in zip(timing.rates, timings[0].rates, strict=True)]
        flops, peak, beside, memory = sizes[timing.name]
        cells = [f"{1e3 / timing.rate:.0f}", f"{median(turns):.2f}", f"{min(turns):.2f} to {max(turns):.2f}"]
        cells += [f"{flops / sizes[REFERENCE][0]:.2f}", f"{peak / sizes[REFERENCE][1]:.2f}"]
        rows.append(f"| {timing.name} | {' | '.join(cells)} | {beside / 1e6:.1f} | {memory / 1e6:.0f} |")
    head = (
        "| method | ms a step | time | range | operations | activations | M parameters beside the network | "
        "peak MB |"
    )
    return "\n".join([head, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", *rows])


def _config(options: argparse.Namespace, method: str) -> RunConfig:
    text = RUN.format(size=options.size, encoder=options.encoder, method=method, crop=options.crop)
    config: RunConfig = config_io.from_text(text, RunConfig)
    return config


def _taxonomy() -> Taxonomy:
    return Taxonomy.of([f"class {index}" for index in range(CLASSES)])


def _step(config: RunConfig, runtime: Runtime) -> Callable[[], int]:
    """One step of training on black images: loss, gradient, update and what the method does behind it."""
    net = build_network(config, _taxonomy(), runtime)
    task = build_task(config, _taxonomy(), net)
    method = build_method(config, task, net)
    optimizer = build_optimizer(net, config.optimizer, method.parts)
    size, crop = config.batch.labeled, config.task.config.views.crop
    raw = blank_micro(task, method, crop, crop, size, size if method.views.unlabeled else 0)
    module = StepModule(net, method)

    def step() -> int:
        loss, _ = module(task.to_device(raw, runtime.device), LATE)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_update(net, LATE)
        if runtime.device.type == "cuda":
            torch.cuda.synchronize()
        return 1

    return step


def _sizes(config: RunConfig) -> tuple[float, float, float, float]:
    """Operations of a step, the most bytes of its activations, parameters of all modules beside the network,
    and the most bytes that a step needs: activations, parameters in fp32, and of those that are trained the
    gradient and the optimiser's momentum.
    """

    def made() -> tuple[Segmentor, Task]:
        net = shape_only(config.model, CLASSES)
        return net, build_task(config, _taxonomy(), net)

    size, crop = config.batch.labeled, config.task.config.views.crop
    net, task = made()
    method = build_method(config, task, net)
    unlabeled = size if method.views.unlabeled else 0
    others = {**method.eval_nets(net), **method.companions()}
    beside = sum(p.numel() for one in others.values() if one is not net for p in one.parameters())
    trained = sum(p.numel() for one in (net, method.parts) for p in one.parameters())
    whole = sum(p.numel() for p in net.parameters()) + beside
    flops, _ = step_flops(net, method, task, crop, size, unlabeled)
    net, task = made()
    method = build_method(config, task, net)
    (peak,), _ = step_bytes(net, method, task, [blank_micro(task, method, crop, crop, size, unlabeled)], None)
    return flops, float(peak), float(beside), float(peak + 4 * (whole + 2 * trained))
