"""What the model of docs/scaling.md says: checked on measured runs, and of larger machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from unimatch.scaling.calibrate import Calibration, Measured
from unimatch.scaling.step_time import MODES, Cluster, Mode, StepTime, Work, step_time


@dataclass
class Simulation:
    """What `simulate` predicts; a YAML file of it may be given with --settings."""

    work: Work = field(default_factory=Work)
    cluster: Cluster = field(default_factory=Cluster)
    devices: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
    samples_per_device: float = 16.0  # weak scaling
    global_batch: float = 1024.0  # strong scaling, for as many devices as have a sample

    def __post_init__(self) -> None:
        if not self.devices or min(self.devices) < 1:
            raise ValueError("devices must be numbers of at least 1")
        if self.samples_per_device <= 0 or self.global_batch <= 0:
            raise ValueError("samples_per_device and global_batch must be above 0")


@dataclass(frozen=True)
class Rate:
    """How fast so many devices train a network in one mode."""

    mode: Mode
    devices: int
    samples: float  # a device's
    time: StepTime
    images_s: float
    efficiency: float  # of images a second, those of as many single devices with the weak or the whole batch


def rates(work: Work, settings: Simulation, kind: str) -> Iterator[Rate]:
    """kind: weak, the same samples a device; strong, the same ones in all."""
    total = settings.samples_per_device if kind == "weak" else settings.global_batch
    alone = total / step_time(work, settings.cluster, 1, total).step
    for devices in settings.devices:
        samples = total if kind == "weak" else total / devices
        if samples < 1:
            continue
        for mode in MODES:
            found = step_time(work, settings.cluster, devices, samples, mode)
            rate = devices * samples / found.step
            yield Rate(mode, devices, samples, found, rate, rate / devices / alone)


def check(calibration: Calibration, rows: list[Measured], path: Path) -> str:
    """Measured against predicted step times, the fitted runs marked and left out of the error."""
    lines = [
        "| mode | precision | processes | batch | measured ms | predicted ms | error |",
        "| --- | --- |" + " ---: |" * 5,
    ]
    errors, points = [], []
    for row in rows:
        if row.precision != calibration.fitted[-1].precision:
            continue  # compute was measured in one precision
        found, true = calibration.predict(row), row.parts.busy
        used = row in calibration.fitted
        if not used:
            errors.append(found / true - 1)
        points.append((true, found, used))
        lines.append(
            f"| {row.mode} | {row.precision} | {row.processes} | {row.labeled} + {row.unlabeled} "
            f"| {1e3 * true:.1f} | {1e3 * found:.1f} | {'fitted' if used else f'{found / true - 1:+.0%}'} |"
        )
    summary = "No run was left to check the model with: all were used to fit it."
    if errors:
        size = sorted(map(abs, errors))
        summary = f"Error on the {len(errors)} runs that were not fitted: median {median(size):.0%}, "
        summary += f"largest {size[-1]:.0%}."
    figure, axes = plt.subplots(figsize=(5, 4.5), layout="constrained")
    for used, name in ((True, "fitted"), (False, "predicted")):
        chosen = [(1e3 * true, 1e3 * found) for true, found, is_used in points if is_used == used]
        if chosen:
            axes.scatter(*zip(*chosen, strict=True), label=name)
    ends = [1e3 * min(p[0] for p in points), 1e3 * max(p[0] for p in points)]
    axes.plot(ends, ends, color="grey", linewidth=1)
    axes.set(xlabel="measured step, ms", ylabel="model's step, ms", title="check on measured runs")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)
    plt.close(figure)
    notes = "\n".join(f"- {note}" for note in calibration.notes)
    return "\n".join(lines) + f"\n\n{summary}\n\nThe model of this machine:\n\n{notes}"


def predictions(settings: Simulation, path: Path) -> str:
    """A table and a plot over numbers of devices: weak and strong scaling, each mode."""
    work, cluster = settings.work, settings.cluster
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    lines = [
        "| scaling | mode | devices | samples a device | ms a step | compute | messages | data | images/s "
        "| efficiency |",
        "| --- | --- |" + " ---: |" * 8,
    ]
    one = {"weak": settings.samples_per_device, "strong": settings.global_batch}
    for (kind, total), plot in zip(one.items(), axes, strict=False):
        found = list(rates(work, settings, kind))
        for mode in MODES:
            mine = [rate for rate in found if rate.mode == mode]
            for rate in mine:
                time = rate.time
                parts = " | ".join(
                    f"{1e3 * part:.1f}" for part in (time.step, time.compute, time.messages, time.data)
                )
                lines.append(
                    f"| {kind} | {mode} | {rate.devices} | {rate.samples:g} | {parts} | {rate.images_s:.1f} "
                    f"| {rate.efficiency:.0%} |"
                )
            if mine:
                counts, efficiencies = zip(*((rate.devices, rate.efficiency) for rate in mine), strict=True)
                plot.plot(counts, efficiencies, marker=".", label=mode)
        fixed = f"{total:g} samples a device" if kind == "weak" else f"{total:g} samples in all"
        plot.set(title=f"{kind} scaling, {fixed}", xlabel="devices", ylabel="efficiency", ylim=(0, 1.1))
        plot.set_xscale("log", base=2)
        plot.grid(alpha=0.3)
        plot.legend(fontsize=8)
    times = [step_time(work, cluster, n, settings.samples_per_device) for n in settings.devices]
    names = ("compute", "messages", "data")
    layers = [[1e3 * getattr(one, name) for one in times] for name in names]
    axes[2].stackplot(settings.devices, layers, labels=names)
    axes[2].set(title="a DDP step, weak scaling", xlabel="devices", ylabel="ms")
    axes[2].set_xscale("log", base=2)
    axes[2].legend(fontsize=8, loc="lower right")
    figure.suptitle("predicted by the model, not measured")
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return "Predicted, not measured:\n\n" + "\n".join(lines)
