"""Says what a run will take before it is started: memory, micro-batch, steps and traffic. Trains nothing.

unimatch plan --config RUN.yaml --devices 64 --device-memory 80GB --network 200Gbit
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from unimatch import config as config_io
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.log import banner
from unimatch.engine.options import add_overrides
from unimatch.engine.run_config import RunConfig
from unimatch.errors import UserError
from unimatch.scaling import cost
from unimatch.scaling.cost import human
from unimatch.scaling.forecast import SPARE, Forecast, Mode, forecast
from unimatch.scaling.pace import OPERATIONS_S, add_rate_option, assumed, shown
from unimatch.scaling.step_time import Cluster

ASSUMED = (
    "Assumed: parameters, gradients, messages in fp32 (DeepSpeed may send bf16 under bf16). DeepSpeed's",
    f"buffers of {cost.REDUCE_BUCKET / 1e6:.0f} M elements, two with overlap_comm (ZeRO-2 in launch/).",
    "No offload, no compilation; rings. ZeRO-3 may gather for each pass; what it keeps is not sent.",
    "FSDP: two blocks gathered at a time, the rest all along; fp32, though bf16 halves blocks on GPUs.",
    "Activations are counted tensor by tensor, without the workspaces inside kernels.",
)
NAMES = ("DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3", "FSDP")  # by number of cost
FILES = ("gpu8", "zero1", "zero2", "zero3", "gpu8_fsdp")


def main(args: list[str]) -> None:
    parser = Parser(prog="unimatch plan", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", required=True, metavar="RUN.yaml", help="as of unimatch train")
    add_overrides(parser)
    parser.add_argument("--devices", type=int, required=True, help="GPUs, or CPU processes")
    parser.add_argument("--device-memory", required=True, help="of each, such as 80GB")
    parser.add_argument("--devices-per-node", type=int, default=8)
    parser.add_argument("--network", help="rate at which a node sends to the others, such as 200Gbit")
    add_rate_option(parser)
    options = parser.parse_args(args)
    if options.devices < 1 or options.devices_per_node < 1:
        raise UserError("--devices and --devices-per-node must be at least 1")
    config = config_io.load(options.config, RunConfig, options.overrides)
    # Not by argparse's `type`, which would keep a mistake's reason to itself.
    memory, rate = cost.parse_bytes(options.device_memory), cost.parse_tflops(options.tflops)
    network = None if options.network is None else cost.parse_rate(options.network)
    print(report(config, options.devices, options.devices_per_node, memory, network, rate))


def report(
    config: RunConfig,
    devices: int,
    per_node: int,
    device_bytes: float,
    network_rate: float | None,
    operations_s: float = OPERATIONS_S,
) -> str:
    """The whole answer as text. UserError where the run itself would end with one."""
    found = forecast(config, devices, device_bytes, operations_s)
    cluster = Cluster(devices_per_node=per_node)
    if network_rate is not None:
        cluster.between = replace(cluster.between, gbyte_s=1e-9 * network_rate)
    overview = _overview(config, found, per_node) | {"time": _time(found, cluster)}
    lines = [
        banner(f"{config.method.name}, {devices} devices of {human(device_bytes)}", overview),
        "",
        f"memory of a device, {human(found.room)} planned with ({SPARE:.0%} left free)",
        *_memory_table(found.modes),
        "",
        "sent by a device in a step, with as many micro-batches as fit above (else as configured)",
        *_traffic_table(found.modes, devices, per_node, network_rate),
        "",
        "advice",
        f"  {recommended(found.modes)}",
        *(f"  {line}" for line in advice(found)),
        *([f"  {found.too_short}"] if found.too_short else []),
        "",
        *ASSUMED,
        *assumed(operations_s),
    ]
    return "\n".join(lines)


def _overview(config: RunConfig, found: Forecast, per_node: int) -> dict[str, str]:
    """The run as it is configured, by name."""
    network, passes, sizes = found.network, found.passes, found.sizes
    measured = " and ".join(f"{count} samples ({human(size)})" for count, size in found.points)
    nodes = max(1, found.devices / per_node)
    return {
        "network": f"{network.parameters / 1e6:.2f} M parameters ({human(network.bytes)})"
        + (f", {network.trained_bytes / network.bytes:.1%} of them trained" if network.frozen else "")
        + "; a step runs "
        f"it {passes.forward} times, {passes.trained} of them with gradients"
        + (f"; {network.copies} more beside it" if network.copies else ""),
        "batch norms": f"{found.norms}{_norm_messages(config, found)}",
        "optimizer": f"{config.optimizer.name}, {network.moments} values a parameter, fp32",
        "activations": f"{human(found.activations.per_sample)} a sample in one pass + "
        f"{human(found.activations.fixed)}, {config.precision}"
        + (", recomputed" if config.activation_checkpointing else "")
        + f"; line through {measured}",
        "global batch": f"{sizes[0]} labelled" + (f" + {sizes[1]} unlabelled" if sizes[1] else ""),
        "as configured": f"{found.samples // found.devices // found.accumulation} samples a pass and device, "
        f"accumulated {found.accumulation}x",
        "run": f"{found.steps} steps, {found.steps * found.samples} samples "
        f"({found.steps * sizes[0]} labelled), "
        f"{found.steps / found.steps_per_epoch:.3g} epochs of {found.steps_per_epoch} steps",
        "shards": f"{human(found.read_bytes)} read a step, {human(found.read_bytes / nodes)} of it by a node "
        "(times the steps a second)",
    }


def _time(found: Forecast, cluster: Cluster) -> str:
    """Seconds of a step and hours of the run, as it is configured."""
    step_s = found.pace.step_s(found.devices, cluster)
    hours = found.pace.hours(found.steps, found.devices, cluster)
    return f"{step_s:.3g} s a step, {shown(hours)} hours under DDP as configured; predicted"


def _norm_messages(config: RunConfig, found: Forecast) -> str:
    if config.sync_batchnorm != "global" or found.devices == 1 or not found.norms:
        return ""
    accumulation = found.modes[0].accumulation or found.accumulation
    count = cost.norm_messages(found.norms, found.passes, accumulation)
    return f"; synchronised, {count} messages a step that wait for every device"


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
        rows.append(f"| {NAMES[mode.stage]} | {cells} |" + (f" {out / rate:.3f} |" if rate else ""))
    return rows


def recommended(modes: list[Mode]) -> str:
    """The mode to take: the first one under which a pass that cuts the global batch fits on a device.

    modes: in the order of cost.IN_ORDER: one that parts more than it must only costs time.
    """
    for place, mode in enumerate(modes):
        if mode.accumulation and mode.stage == 0:
            return (
                f"take DDP: weights, gradients, optimizer state fit ({human(mode.memory.state)}) and leave "
                f"room for {mode.most} samples a pass; parts would cost time and gain nothing that is needed"
            )
        if mode.accumulation:
            others = " and ".join(NAMES[other.stage] for other in modes[:place])
            return (
                f"take {NAMES[mode.stage]} (launch/accelerate/{FILES[mode.stage]}.yaml): {others} cannot "
                "hold a pass that cuts the batch evenly"
            )
    return (
        "no mode holds a pass that cuts the batch evenly: take more memory or devices, a smaller crop, "
        "activation_checkpointing: true, or zero3_offload.yaml, whose state lies in the hosts' memory"
    )


def advice(found: Forecast) -> list[str]:
    """What each way costs beside DDP."""
    network, activations, room = found.network, found.activations, found.room
    plain, *others = found.modes
    need = plain.memory.state + activations.of(found.samples / found.devices / found.accumulation)
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
                f"{human(parts.exchange)}{_smaller(mode, network.largest)}"
            )
        else:
            text = f"saves {human(gain)} of memory, {gain / room:.1%} of it, or "
            text += f"{gain / activations.per_sample:.1f} samples a pass"
        if plain.traffic.total:
            text += f"; sends {mode.traffic.total / plain.traffic.total:.3g} times DDP's bytes"
        lines.append(f"{NAMES[mode.stage]} {text}")
    return lines


def _smaller(mode: Mode, largest: int) -> str:
    """How a mode's buffers are made smaller, where a launch file can."""
    if mode.stage == cost.FSDP:
        return ""
    return f" (reduce_bucket_size in the DeepSpeed settings makes them smaller, down to {largest})"


if __name__ == "__main__":
    sys.exit(run_entry(main))
