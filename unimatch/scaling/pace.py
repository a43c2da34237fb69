"""How fast devices that nobody has measured take the steps of a run: the one source of predicted hours."""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from math import gcd

from unimatch.codecs.bands import Bands
from unimatch.engine.build import build_method, build_task, task_class
from unimatch.engine.run_config import BatchConfig, RunConfig
from unimatch.engine.steps import accumulation_steps
from unimatch.scaling.cost import FP32
from unimatch.scaling.footprint import step_flops
from unimatch.scaling.light import LightNetworks
from unimatch.scaling.step_time import Cluster, Work, step_time
from unimatch.taxonomy import Taxonomy

OPERATIONS_S = 25e12  # of a device, where the user gives no rate: a round figure, not measured


def add_rate_option(parser: argparse.ArgumentParser) -> None:
    """--tflops, as text for `cost.parse_tflops`."""
    parser.add_argument(
        "--tflops",
        default=f"{1e-12 * OPERATIONS_S:g}",
        metavar="N",
        help="10^12 operations a second that a device sustains, for the hours (default: %(default)s)",
    )


def assumed(operations_s: float) -> list[str]:
    """What predicted hours rest on, as lines to tell."""
    return [
        "Hours are predicted, not measured: convolutions and matrix products at "
        f"{1e-12 * operations_s:g} TFLOP/s a device",
        "(assumed: --tflops takes yours), DDP's messages and the wait for the slowest device by the model of",
        "docs/scaling.md, links as it assumes them. Evaluation, checkpoints and reading are not in them.",
    ]


def shown(hours: float) -> str:
    """Hours for people: three digits, or all that stand before the point."""
    return f"{hours:.3g}" if hours < 999.5 else f"{hours:.0f}"


@dataclass(frozen=True)
class Pace:
    """What a step of a run asks of its devices, each with its part of the global batch."""

    work: Work
    batch: BatchConfig
    paired: bool  # a step has unlabelled samples too

    def step_s(self, devices: int, cluster: Cluster) -> float:
        """Seconds of a step under DDP, as the run is configured and with data that is always there.

        UserError: so many devices cannot share the batch.
        """
        accumulation = accumulation_steps(self.batch, self.paired, devices)
        samples = self.batch.labeled + (self.batch.unlabeled or 0 if self.paired else 0)
        found = step_time(self.work, cluster, devices, samples / devices, accumulation=accumulation)
        return found.compute + found.messages

    def hours(self, steps: int, devices: int, cluster: Cluster) -> float:
        """Of a run of so many steps; UserError as `step_s`."""
        return steps * self.step_s(devices, cluster) / 3600


def pace_of(
    config: RunConfig,
    taxonomy: Taxonomy,
    bands: Bands | None = None,
    operations_s: float = OPERATIONS_S,
    networks: LightNetworks | None = None,
) -> Pace:
    """The pace of a run on devices that sustain so many floating-point operations a second.

    networks: those of other runs, with which this one may share its own.
    """
    dates = task_class(config, bands).dates
    light = (networks or LightNetworks()).of(config, taxonomy.num_classes, dates)
    net = copy.deepcopy(light.net)
    task = build_task(config, taxonomy, net, bands)
    method = build_method(config, task, net)
    paired = method.views.unlabeled
    counts = smallest_mixture(config.batch.labeled, (config.batch.unlabeled or 0) if paired else 0)
    before = light.tally.operations
    flops, passes = step_flops(net, method, task, config.task.config.views.crop, *counts)
    flops += light.tally.operations - before
    work = Work(
        image_s=flops / sum(counts) / operations_s,
        fixed_s=0.0,
        parameter_mb=1e-6 * FP32 * light.parameters,
        norms=light.norms if config.sync_batchnorm == "global" else 0,
        blocks=light.blocks,
        rest_mb=1e-6 * FP32 * light.rest,
        passes_forward=passes.forward,
        passes_trained=passes.trained,
        passes_followers=passes.followers,
        shard_kb_per_sample=0.0,
    )
    return Pace(work, config.batch, paired)


def smallest_mixture(labeled: int, unlabeled: int) -> tuple[int, int]:
    """The fewest samples that mix as these do and can make a pass."""
    divisor = gcd(labeled, unlabeled)
    if labeled // divisor % 2 or unlabeled // divisor % 2:  # neighbours are paired, and norms need two images
        return 2 * labeled // divisor, 2 * unlabeled // divisor
    return labeled // divisor, unlabeled // divisor
