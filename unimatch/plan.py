"""Says what a run will take before it is started: memory, micro-batch, steps and traffic. Trains nothing.

python -m unimatch.plan --config RUN.yaml --devices 64 --device-memory 80GB --network 200Gbit
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from math import gcd

import numpy as np
import torch
from torch import nn

from unimatch import config as config_io
from unimatch.data.plan import Plan
from unimatch.engine.build import (
    accumulation_steps,
    build_method,
    build_task,
    open_shards,
    select,
    task_class,
)
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.log import banner
from unimatch.engine.run_config import BatchConfig, RunConfig
from unimatch.engine.schedule import total_steps
from unimatch.errors import UserError
from unimatch.scaling import cost
from unimatch.scaling.cost import STAGES, Activations, Memory, Network, Passes, Traffic, human
from unimatch.scaling.footprint import blank_micro, network_of, shape_only, step_bytes
from unimatch.shardset.archive import ShardSet

SPARE = 0.1  # of the device's memory: the driver's context, kernels' workspaces, gaps between blocks
ASSUMED = (
    "Assumed: parameters, gradients, messages in fp32 (DeepSpeed may send bf16 under bf16). DeepSpeed's",
    f"buffers of {cost.REDUCE_BUCKET / 1e6:.0f} M elements, two with overlap_comm (ZeRO-2 in launch/).",
    "No offload, no compilation; rings. ZeRO-3 may gather for each pass; what it keeps is not sent.",
    "Activations are counted tensor by tensor, without the workspaces inside kernels.",
)
NAMES = ("DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3")


def main(args: list[str]) -> None:
    parser = Parser(prog="unimatch.plan", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", required=True, metavar="RUN.yaml", help="run configuration, see configs/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--devices", type=int, required=True, help="GPUs, or CPU processes")
    parser.add_argument("--device-memory", type=cost.parse_bytes, required=True, help="of each, such as 80GB")
    parser.add_argument("--devices-per-node", type=int, default=8)
    parser.add_argument(
        "--network", type=cost.parse_rate, help="rate at which a node sends to the others, such as 200Gbit"
    )
    options = parser.parse_args(args)
    if options.devices < 1 or options.devices_per_node < 1:
        raise UserError("--devices and --devices-per-node must be at least 1")
    config = config_io.load(options.config, RunConfig, options.overrides)
    print(report(config, options.devices, options.devices_per_node, options.device_memory, options.network))


def report(
    config: RunConfig, devices: int, per_node: int, device_bytes: float, network_rate: float | None
) -> str:
    """The whole answer as text. UserError where the run itself would end with one."""
    shards = open_shards(config.data.shards, config.data.cache)
    dates = task_class(config).dates
    net = shape_only(config.model, shards.taxonomy.num_classes, dates=dates)
    task = build_task(config, shards.taxonomy, net)
    method = build_method(config, task, net)
    paired = method.views.unlabeled
    if paired and not (config.data.unlabeled and config.batch.unlabeled):
        raise UserError(
            f"method {config.method.name} uses unlabelled samples: set data.unlabeled and batch.unlabeled"
        )
    labeled = select(shards, config.data.labeled).rows
    unlabeled = select(shards, config.data.unlabeled).rows if config.data.unlabeled else None
    sizes = (config.batch.labeled, (config.batch.unlabeled or 0) if paired else 0)
    accumulation = accumulation_steps(config.batch, paired, devices)
    data = Plan(
        shards.shard_sizes(labeled),
        shards.shard_sizes(unlabeled) if unlabeled is not None and paired else None,
        config.batch.labeled,
        config.batch.unlabeled if paired else None,
        partner=method.views.partner,
        epoch_samples=len(unlabeled) if unlabeled is not None else len(labeled),
    )
    steps = total_steps(config.schedule, data.steps_per_epoch)

    adaptive = config.optimizer.name == "adamw"
    moments = 2 if adaptive else int(config.optimizer.momentum != 0)
    copies = sum(other is not net for other in method.eval_nets(net).values())
    network = network_of(net, moments, copies)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    activations, passes, measured = _activations(config, shards, labeled, sizes)

    samples, room = sum(sizes), device_bytes * (1 - SPARE)
    modes = [
        _mode(config.batch, paired, method.views.partner, network, activations, passes, room, devices, stage)
        for stage in STAGES
    ]
    norm_line = ""
    if config.sync_batchnorm == "global" and devices > 1 and norms:
        count = cost.norm_messages(norms, passes, modes[0].accumulation or accumulation)
        norm_line = f"; synchronised, {count} messages a step that wait for every device"
    plain = banner(
        f"{config.method.name}, {devices} devices of {human(device_bytes)}",
        {
            "network": f"{network.parameters / 1e6:.2f} M parameters ({human(network.bytes)}); a step runs "
            f"it {passes.forward} times, {passes.trained} of them with gradients"
            + (f"; {copies} more beside it" if copies else ""),
            "batch norms": f"{norms}{norm_line}",
            "optimizer": f"{config.optimizer.name}, {moments} values a parameter, fp32",
            "activations": f"{human(activations.per_sample)} a sample in one pass + "
            f"{human(activations.fixed)}, {config.precision}"
            + (", recomputed" if config.activation_checkpointing else "")
            + f"; line through {measured}",
            "global batch": f"{sizes[0]} labelled" + (f" + {sizes[1]} unlabelled" if paired else ""),
            "as configured": f"{samples // devices // accumulation} samples a pass and device, accumulated "
            f"{accumulation}x",
            "run": f"{steps} steps, {steps * samples} samples ({steps * sizes[0]} labelled), "
            f"{steps / data.steps_per_epoch:.3g} epochs of {data.steps_per_epoch} steps",
            "shards": _shard_reading(
                shards, labeled, unlabeled, sizes, method.views.partner, devices, per_node
            ),
        },
    )
    lines = [
        plain,
        "",
        f"memory of a device, {human(room)} planned with ({SPARE:.0%} left free)",
        *_memory_table(modes),
        "",
        "sent by a device in a step, with as many micro-batches as fit above (else as configured)",
        *_traffic_table(modes, devices, per_node, network_rate),
        "",
        "advice",
        *(
            f"  {line}"
            for line in advice(network, modes, activations, samples / devices / accumulation, room)
        ),
        "",
        *ASSUMED,
    ]
    return "\n".join(lines)


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


def _mode(
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
    parts = cost.memory(network, stage, devices)
    left = room - parts.state
    most = activations.most(left) if left > 0 else 0
    limit, times = micro_batch(batch, paired, partner, devices, most)
    sent = cost.traffic(
        network.bytes, stage, devices, times or accumulation_steps(batch, paired, devices), passes
    )
    return Mode(stage, parts, left, most, limit, times, sent)


def _activations(
    config: RunConfig, shards: ShardSet, labeled: np.ndarray, sizes: tuple[int, int]
) -> tuple[Activations, Passes, str]:
    """The line through two micro-batches of the run's own mixture, and what they were."""
    unit = [size // gcd(*sizes) for size in sizes]
    if sum(unit) % 2 or any(size % 2 for size in unit):  # neighbours are paired, and norms need two images
        unit = [2 * size for size in unit]
    row = shards.index[labeled[0]]
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
    points = []
    passes = Passes(1, 1)
    for times in (1, 2):
        num_classes, recompute = shards.taxonomy.num_classes, config.activation_checkpointing
        net = shape_only(config.model, num_classes, recompute, task_class(config).dates)
        task = build_task(config, shards.taxonomy, net)
        method = build_method(config, task, net)
        counts = (times * unit[0], times * unit[1])
        raw = blank_micro(task, method, int(row["width"]), int(row["height"]), *counts, has_accelerator=True)
        found, passes = step_bytes(net, method, task, raw, dtype)
        points.append((sum(counts), float(found)))
    text = " and ".join(f"{count} samples ({human(size)})" for count, size in points)
    return Activations.through((points[0], points[1])), passes, text


def _shard_reading(
    shards: ShardSet,
    labeled: np.ndarray,
    unlabeled: np.ndarray | None,
    sizes: tuple[int, int],
    partner: str | None,
    devices: int,
    per_node: int,
) -> str:
    """Mean bytes that a step reads, from the index."""
    images = shards.index["image_size"].astype(np.float64) + shards.index["second_size"]
    total = sizes[0] * float((images + shards.index["label_size"])[labeled].mean())
    if unlabeled is not None and sizes[1]:
        total += sizes[1] * float(images[unlabeled].mean()) * (2 if partner == "shuffled" else 1)
    nodes = max(1, devices / per_node)
    return f"{human(total)} read a step, {human(total / nodes)} of it by a node (times the steps a second)"


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


def _memory_table(modes: list[Mode]) -> list[str]:
    rows = [
        "| mode | parameters | gradients | optimizer | buffers | left | samples | batch.max_per_device |",
        "| --- |" + " ---: |" * 7,
    ]
    for mode in modes:
        parts = mode.memory
        sizes = (parts.parameters, parts.gradients, parts.optimizer, parts.exchange, mode.left)
        fit = (
            f"{mode.max_per_device}, accumulated {mode.accumulation}x"
            if mode.accumulation
            else "does not fit"
        )
        rows.append(f"| {NAMES[mode.stage]} | {' | '.join(map(human, sizes))} | {mode.most} | {fit} |")
    return rows


def _traffic_table(modes: list[Mode], devices: int, per_node: int, rate: float | None) -> list[str]:
    head = "| mode | gradients | parameters | leaves a node |"
    rows = [
        head + (" seconds at full rate |" if rate else ""),
        "| --- |" + " ---: |" * (4 if rate else 3),
    ]
    for mode in modes:
        out = cost.leaving_a_node(mode.traffic.total, devices, per_node)
        cells = f"{human(mode.traffic.gradients)} | {human(mode.traffic.parameters)} | {human(out)}"
        rows.append(f"| {NAMES[mode.stage]} | {cells} |" + (f" {out / rate:.3g} |" if rate else ""))
    return rows


def advice(
    network: Network, modes: list[Mode], activations: Activations, samples: float, room: float
) -> list[str]:
    """What each way costs beside DDP; `samples`: of a pass on a device, as configured."""
    plain, *others = modes
    need = plain.memory.state + activations.of(samples)
    if need <= room:
        lines = [
            f"DDP holds the run as configured: {human(need)}, {human(plain.memory.state)} of it state; there "
            "is no need to part it"
        ]
    elif plain.accumulation:
        lines = [
            f"as configured the run needs {human(need)} under DDP: set batch.max_per_device="
            f"{plain.max_per_device} (the result does not change with sync_batchnorm off or no batch norm)"
        ]
    else:
        lines = [
            f"DDP does not fit: it needs {human(plain.memory.state + activations.of(2))} for two samples"
        ]
    for mode in others:
        parts = mode.memory
        gain = plain.memory.state - parts.state
        saved = gain + parts.exchange
        if gain < 0:
            text = (
                f"costs {human(-gain)} more memory than DDP: its parts save {human(saved)}, its buffers take "
                f"{human(parts.exchange)} (reduce_bucket_size in the DeepSpeed settings makes them "
                f"smaller, down to {network.largest})"
            )
        else:
            text = f"saves {human(gain)} of memory, {gain / room:.1%} of it, or "
            text += f"{gain / activations.per_sample:.1f} samples a pass"
        if plain.traffic.total:
            text += f"; sends {mode.traffic.total / plain.traffic.total:.3g} times DDP's bytes"
        lines.append(f"{NAMES[mode.stage]} {text}")
    return lines


if __name__ == "__main__":
    sys.exit(run_entry(main))
