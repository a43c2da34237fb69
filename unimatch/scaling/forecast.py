"""What a configured run will take: memory, micro-batches, steps, traffic and reading, in each mode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from unimatch.engine.build import build_method, build_task, task_class
from unimatch.engine.label_passes import too_short
from unimatch.engine.run_config import BatchConfig, OptimizerConfig, RunConfig
from unimatch.engine.run_data import open_shards, require_unlabeled, training_samples
from unimatch.engine.selection import Selection, Unlabeled
from unimatch.engine.steps import accumulation_steps, plan_of, run_steps
from unimatch.engine.trainer import StepModule
from unimatch.errors import UserError
from unimatch.methods.base import Method
from unimatch.models.segmentor import Segmentor
from unimatch.scaling import cost
from unimatch.scaling.cost import Activations, Memory, Network, Passes, Traffic
from unimatch.scaling.footprint import blank_micro, network_of, shape_only, step_bytes
from unimatch.scaling.pace import Pace, pace_of, smallest_mixture
from unimatch.tasks.base import Task

Points = tuple[tuple[int, float], tuple[int, float]]  # (samples, bytes) of two micro-batches
SPARE = 0.1  # of the device's memory: the driver's context, kernels' workspaces, gaps between blocks


@dataclass(frozen=True)
class Mode:
    """One way of laying the run over the devices."""

    stage: int
    memory: Memory
    left: float  # bytes for activations
    most: int  # samples that they hold in one pass
    max_per_device: int  # of them used, so that the global batch divides; 0: the run does not fit
    accumulation: int  # then; 0: the run does not fit
    traffic: Traffic


@dataclass(frozen=True)
class Forecast:
    """What a run will take of `devices` devices; a mode for each of ZeRO's stages, and FSDP."""

    devices: int
    room: float  # bytes of a device that are planned with
    network: Network
    norms: int  # batch norms
    passes: Passes
    activations: Activations
    points: Points  # what they were measured on
    sizes: tuple[int, int]  # samples of the global batch, labelled and unlabelled
    accumulation: int  # as configured
    steps: int
    steps_per_epoch: int
    read_bytes: float  # from the shards in a step
    pace: Pace  # of its steps
    modes: list[Mode]
    too_short: str | None  # why pseudo-labels may not pay

    @property
    def samples(self) -> int:
        """Of the global batch."""
        return sum(self.sizes)


def forecast(config: RunConfig, devices: int, device_bytes: float, operations_s: float) -> Forecast:
    """operations_s: that a device sustains. UserError where the run itself would end with one."""
    shards = open_shards(config.data.shards, config.data.cache)
    bands = shards.bands()
    recompute, dates = config.activation_checkpointing, task_class(config, bands).dates
    net = shape_only(config.model, shards.taxonomy.num_classes, recompute, dates)
    task = build_task(config, shards.taxonomy, net, bands)
    method = build_method(config, task, net)
    views, paired = method.views, method.views.unlabeled
    samples = training_samples(config, shards)
    require_unlabeled(config, samples.unlabeled, method)
    labeled, unlabeled = samples.labeled, samples.unlabeled
    sizes = (config.batch.labeled, (config.batch.unlabeled or 0) if paired else 0)
    accumulation = accumulation_steps(config.batch, paired, devices)
    steps_per_epoch = plan_of(config, views, samples.learned, unlabeled).steps_per_epoch
    steps = run_steps(config, views, len(samples.learned), None if unlabeled is None else len(unlabeled))

    others = {**method.eval_nets(net), **method.companions()}.values()
    copies = sum(other is not net and other is not method.parts for other in others)
    network = network_of(StepModule(net, method), _moments(config.optimizer), copies)
    sample = shards.index[labeled.rows[0]]
    activations, passes, points = _activations(config, net, method, task, sample, sizes)
    room = device_bytes * (1 - SPARE)
    return Forecast(
        devices,
        room,
        network,
        sum(isinstance(module, nn.BatchNorm2d) for module in StepModule(net, method).modules()),
        passes,
        activations,
        points,
        sizes,
        accumulation,
        steps,
        steps_per_epoch,
        _read_bytes(labeled, unlabeled, sizes, views.partner),
        pace_of(config, shards.taxonomy, bands, operations_s),
        [
            mode_of(config.batch, paired, views.partner, network, activations, passes, room, devices, stage)
            for stage in cost.IN_ORDER
        ],
        too_short(labeled, sizes[0], steps, task) if paired else None,
    )


def _moments(optimizer: OptimizerConfig) -> int:
    """Values that the optimiser keeps a parameter."""
    return 2 if optimizer.name == "adamw" else int(optimizer.momentum != 0)


def mode_of(
    batch: BatchConfig,
    paired: bool,
    partner: str | None,
    network: Network,
    activations: Activations,
    passes: Passes,
    room: float,
    devices: int,
    stage: int,
) -> Mode:
    """The run under one of ZeRO's stages (0: DDP) or FSDP; `room`: bytes of a device."""
    parts = cost.memory(network, stage, devices)
    left = room - parts.state
    most = activations.most(left) if left > 0 else 0
    limit, times = micro_batch(batch, paired, partner, devices, most)
    sent = cost.traffic(network, stage, devices, times or accumulation_steps(batch, paired, devices), passes)
    return Mode(stage, parts, left, most, limit, times, sent)


def _activations(
    config: RunConfig, net: Segmentor, method: Method, task: Task, sample: np.void, sizes: tuple[int, int]
) -> tuple[Activations, Passes, Points]:
    """The line through two micro-batches of the run's own mixture, and these; `sample`: an index row."""
    unit = smallest_mixture(*sizes)
    image = int(sample["width"]), int(sample["height"])
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
    counts = [(times * unit[0], times * unit[1]) for times in (1, 2)]
    batches = [blank_micro(task, method, *image, *count, has_accelerator=True) for count in counts]
    found, passes = step_bytes(net, method, task, batches, dtype)
    few, many = ((sum(count), float(peak)) for count, peak in zip(counts, found, strict=True))
    return Activations.through((few, many)), passes, (few, many)


def _read_bytes(
    labeled: Selection,
    unlabeled: Unlabeled | None,
    sizes: tuple[int, int],
    partner: str | None,
) -> float:
    """Mean bytes that a step reads, from the index."""
    total = sizes[0] * _mean_bytes(labeled, "image_size", "second_size", "label_size")
    if unlabeled is not None and sizes[1]:
        parts = zip(unlabeled.sets, unlabeled.shares(), strict=True)
        image = sum(share * _mean_bytes(one, "image_size", "second_size") for one, share in parts)
        total += sizes[1] * image * (2 if partner == "shuffled" else 1)
    return total


def _mean_bytes(selection: Selection, *names: str) -> float:
    """Of a sample, from these fields of the index."""
    return sum(float(selection.shards.index[name][selection.rows].mean(dtype=np.float64)) for name in names)


def micro_batch(
    batch: BatchConfig, paired: bool, partner: str | None, devices: int, most: int
) -> tuple[int, int]:
    """(batch.max_per_device, accumulation): the largest pass of at most `most` samples; (0, 0): none fits."""
    if not most:
        return 0, 0
    try:
        steps = accumulation_steps(BatchConfig(batch.labeled, batch.unlabeled, most), paired, devices)
    except UserError:
        return 0, 0
    other = (batch.unlabeled or 0) // devices // steps if paired else 0
    if partner == "batch" and other % 2:
        return 0, 0
    return batch.labeled // devices // steps + other, steps
