"""Measures how training scales on this machine, and extends it to larger ones by a stated model.

unimatch scale run --config RUN.yaml --processes 1 2 4 --modes ddp zero2 --out runs/scaling
unimatch scale simulate --measured runs/scaling/scaling.json --out runs/scaling

`run` starts short trainings of real processes and writes scaling.json, scaling.md and scaling.png. `simulate`
predicts step times with the model of docs/scaling.md; with --measured it takes the compute from there and
first checks itself on those runs. It writes simulation.md, simulation.png and, if checked, check.png.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from unimatch import config as config_io
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.run_config import RunConfig
from unimatch.errors import UserError
from unimatch.scaling.calibrate import MODES, Calibration, Exchange, Measured, Parts, calibrate, efficiency
from unimatch.scaling.short_runs import ShortRuns, time_messages, work_of
from unimatch.scaling.step_time import Cluster, Work, step_time

ROOT = Path(__file__).resolve().parents[1]
EXPLAINED = """\
Medians over the steps after the warm-up, of rank 0; times in ms. Strong: the global batch is that of the
configuration (times --batch-factors). Weak: it is that for each process. Efficiency: images a second over
N times those of one DDP process. Data: the wait for a batch. Forward, backward, update: of as many single
processes, with the same micro-batch, at the same time, so that what they take from one another does not
count as communication. Communication: what the step takes longer than theirs: messages, waiting for the
slowest, synchronised batch norm and ZeRO's own work; below 0 is noise."""


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


def main(args: list[str]) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    run = commands.add_parser("run", help="measure on this machine")
    run.add_argument("--config", type=Path, required=True)
    run.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    run.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    run.add_argument("--modes", nargs="+", choices=MODES, default=["ddp"])
    run.add_argument("--precisions", nargs="+", choices=["fp32", "bf16", "fp16"], default=["fp32"])
    run.add_argument("--batch-factors", type=int, nargs="+", default=[1])
    run.add_argument("--kinds", nargs="+", choices=["strong", "weak"], default=["strong", "weak"])
    run.add_argument("--steps", type=int, default=14)
    run.add_argument("--warm-up", type=int, default=4, help="first steps that do not count")
    run.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="of each short run")
    run.add_argument("--out", type=Path, required=True)
    simulate = commands.add_parser("simulate", help="predict")
    simulate.add_argument("--measured", type=Path, metavar="scaling.json")
    simulate.add_argument("--settings", type=Path, metavar="FILE.yaml")
    simulate.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    simulate.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(args)
    options.out.mkdir(parents=True, exist_ok=True)
    (_run if options.command == "run" else _simulate)(options)


# Measuring.


def _run(options: argparse.Namespace) -> None:
    if min([*options.processes, *options.batch_factors]) < 1 or not 0 <= options.warm_up < options.steps:
        raise UserError("--processes and --batch-factors start at 1; --warm-up must be below --steps")
    config = config_io.load(options.config, RunConfig, options.overrides)
    slots = torch.cuda.device_count() or len(os.sched_getaffinity(0))
    wanted: dict[tuple[Any, ...], set[str]] = {}
    base = (config.batch.labeled, config.batch.unlabeled or 0)
    grid = product(options.precisions, options.batch_factors, options.processes, options.modes, options.kinds)
    for precision, factor, count, mode, kind in grid:
        times = factor * (count if kind == "weak" else 1)
        case = (precision, count, mode, base[0] * times, base[1] * times)
        wanted.setdefault(case, set()).add(kind)
    bench = ShortRuns(
        options.config,
        options.overrides,
        bool(config.batch.unlabeled),
        options.out / "runs",
        ROOT / "launch" / "deepspeed",
        options.steps,
        options.warm_up,
        options.timeout,
    )
    rows, problems = [], []
    for number, (case, kinds) in enumerate(wanted.items(), 1):
        name = "{2} {0}, {1} processes, batch {3} + {4}".format(*case)
        print(f"[{number}/{len(wanted)}] {name}", flush=True)
        try:
            rows.append(bench.measure(*case, kinds=tuple(sorted(kinds))))
        except UserError as error:
            problems.append(f"{name}: {error}")
            print(f"  left out: {error}", flush=True)
    if not rows:
        raise UserError("no run succeeded:\n" + "\n".join(problems))
    exchanges = [e for count in options.processes if count > 1 for e in time_messages(count, options.timeout)]
    result = {
        "config": str(options.config),
        "overrides": options.overrides,
        "machine": {
            "slots": slots,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "torch": torch.__version__,
            "threads": 1,
        },
        "steps": options.steps,
        "warm_up": options.warm_up,
        "work": asdict(work_of(config)),
        "rows": [asdict(row) for row in rows],
        "exchanges": [asdict(one) for one in exchanges],
        "left_out": problems,
    }
    (options.out / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
    crowded = [count for count in options.processes if count > slots]
    notes = [
        EXPLAINED,
        f"{slots} {'GPUs' if torch.cuda.is_available() else 'CPU cores'}, one thread a process.",
    ]
    if crowded:
        notes.append(
            f"{', '.join(map(str, crowded))} processes share {slots}: their efficiency cannot exceed "
            f"{', '.join(f'{slots / count:.0%}' for count in crowded)}."
        )
    notes += [f"Left out: {problem}" for problem in problems]
    table = _table(rows)
    (options.out / "scaling.md").write_text("\n\n".join([table, *notes]) + "\n")
    _plot_measured(rows, options.out / "scaling.png")
    print("\n\n".join([table, *notes]))


def _table(rows: list[Measured]) -> str:
    lines = [
        "| scaling | mode | precision | processes | batch | ms a step | images/s | efficiency | GiB | data "
        "| forward | backward | update | communication |",
        "| --- | --- | --- |" + " ---: |" * 11,
    ]
    for kind in ("strong", "weak"):
        for row in rows:
            if kind not in row.kinds:
                continue
            share = efficiency(row, rows, kind)
            alone = row.alone
            parts = (row.parts.data, alone.forward, alone.backward, alone.update, row.communication)
            part_of_best = "-" if share is None else f"{share:.0%}"
            lines.append(
                f"| {kind} | {row.mode} | {row.precision} | {row.processes} "
                f"| {row.labeled} + {row.unlabeled} "
                f"| {1e3 * row.parts.step:.4g} | {row.images_s:.4g} | {part_of_best} "
                f"| {row.memory_gib:.3g} | {' | '.join(f'{1e3 * part:.3g}' for part in parts)} |"
            )
    return "\n".join(lines)


def _plot_measured(rows: list[Measured], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for kind, plot in zip(("strong", "weak"), axes, strict=False):
        lines: dict[str, list[Measured]] = {}
        for row in rows:
            if kind in row.kinds:
                each = row.samples if kind == "strong" else row.samples // row.processes
                lines.setdefault(f"{row.mode} {row.precision} batch {each}", []).append(row)
        for name, line in lines.items():
            line.sort(key=lambda row: row.processes)
            plot.plot([r.processes for r in line], [r.images_s for r in line], marker="o", label=name)
        unit = "batch fixed" if kind == "strong" else "batch a process fixed"
        plot.set(title=f"{kind} scaling ({unit})", xlabel="processes", ylabel="images/s", ylim=(0, None))
        plot.set_xticks(sorted({row.processes for row in rows}))
        plot.grid(alpha=0.3)
        if lines:
            plot.legend(fontsize=8)
    names = [f"{r.mode} {r.precision}\n{r.processes} x {r.samples // r.processes}" for r in rows]
    low = [0.0] * len(rows)
    for part in ("data", "forward", "backward", "update", "communication"):
        own = {"data": lambda r: r.parts.data, "communication": lambda r: max(0.0, r.communication)}
        values = [1e3 * own.get(part, lambda r: getattr(r.alone, part))(row) for row in rows]  # noqa: B023
        axes[2].bar(range(len(rows)), values, bottom=low, label=part)
        low = [a + b for a, b in zip(low, values, strict=True)]
    axes[2].set_xticks(range(len(rows)), names, fontsize=7, rotation=60)
    axes[2].set(title="where a step goes", ylabel="ms")
    axes[2].legend(fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


# Predicting.


def _simulate(options: argparse.Namespace) -> None:
    defaults, sections = Simulation(), []
    if options.measured is not None:
        calibration, rows = _read(options.measured)
        # What a step computes is measured; the machines of the prediction are those of the settings.
        defaults = replace(defaults, work=calibration.work)
        sections.append(_check(calibration, rows, options.out / "check.png"))
    text = config_io.dump(defaults)
    settings = config_io.from_text(text, Simulation, options.overrides, "the simulation's defaults")
    if options.settings is not None:
        settings = config_io.load(options.settings, Simulation, options.overrides)
    sections.append(_predictions(settings, options.out / "simulation.png"))
    sections.append(
        "Assumptions (docs/scaling.md has the equations; each is a setting):\n\n```yaml\n"
        + config_io.dump(settings)
        + "```"
    )
    report = "\n\n".join(sections)
    (options.out / "simulation.md").write_text(report + "\n")
    print(report)


def _read(path: Path) -> tuple[Calibration, list[Measured]]:
    """What `run` wrote, and the model fitted to the part of it that is not used to check."""
    try:
        stored = json.loads(path.read_text())
        rows = [
            Measured(**{**row, "parts": Parts(**row["parts"]), "alone": Parts(**row["alone"])})
            for row in stored["rows"]
        ]
        exchanges = [Exchange(**one) for one in stored["exchanges"]]
        work, machine = Work(**stored["work"]), stored["machine"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no result of tools/scaling.py run: {error!r}") from error
    if not any(row.processes == 1 and row.mode == "ddp" for row in rows):
        raise UserError(
            f"{path} has no run of one DDP process to calibrate from: measure with --processes 1 ..."
        )
    return calibrate(rows, exchanges, work, machine["slots"], machine["gpu"] is not None), rows


def _check(calibration: Calibration, rows: list[Measured], path: Path) -> str:
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
            f"| {1e3 * true:.4g} | {1e3 * found:.4g} | {'fitted' if used else f'{found / true - 1:+.0%}'} |"
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


def _predictions(settings: Simulation, path: Path) -> str:
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
        base = total / step_time(work, cluster, 1, total, 0).step
        for stage, mode in enumerate(MODES):
            curve = []
            for devices in settings.devices:
                samples = total if kind == "weak" else total / devices
                if samples < 1:
                    continue
                found = step_time(work, cluster, devices, samples, stage)
                rate = devices * samples / found.step
                curve.append((devices, rate / devices / base))
                parts = " | ".join(
                    f"{1e3 * part:.3g}" for part in (found.step, found.compute, found.messages, found.data)
                )
                lines.append(
                    f"| {kind} | {mode} | {devices} | {samples:g} | {parts} | {rate:.4g} "
                    f"| {curve[-1][1]:.0%} |"
                )
            if curve:
                plot.plot(*zip(*curve, strict=True), marker=".", label=mode)
        fixed = f"{total:g} samples a device" if kind == "weak" else f"{total:g} samples in all"
        plot.set(title=f"{kind} scaling, {fixed}", xlabel="devices", ylabel="efficiency", ylim=(0, 1.1))
        plot.set_xscale("log", base=2)
        plot.grid(alpha=0.3)
        plot.legend(fontsize=8)
    times = [step_time(work, cluster, n, settings.samples_per_device, 0) for n in settings.devices]
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


if __name__ == "__main__":
    sys.exit(run_entry(main))
