"""Measures how training scales on this machine, and extends it to larger ones by a stated model.

unimatch scale run --config RUN.yaml --processes 1 2 4 --modes ddp zero2 --out runs/scaling
unimatch scale simulate --measured runs/scaling/scaling.json --out runs/scaling

`run` starts short trainings of real processes and writes scaling.json, scaling.md and scaling.png. `simulate`
predicts step times with the model of docs/scaling.md; with --measured it takes the compute from there and
first checks itself on those runs; with --spread RUN devices are as unequal as the processes of a run were. It
writes simulation.md, simulation.png and, if checked, check.png.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from unimatch import config as config_io
from unimatch import shipped
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.options import add_overrides
from unimatch.engine.run_config import BatchConfig, RunConfig
from unimatch.engine.run_data import open_shards
from unimatch.errors import UserError
from unimatch.experiments.definition import load_experiment
from unimatch.experiments.size import Paces, classes_of
from unimatch.scaling import measured, networks, spread
from unimatch.scaling.calibrate import MODES, Calibration, Exchange, Measured, Parts, calibrate
from unimatch.scaling.cost import parse_tflops
from unimatch.scaling.pace import add_rate_option, pace_of
from unimatch.scaling.predicted import Simulation, check, predictions
from unimatch.scaling.short_runs import ShortRuns, time_messages
from unimatch.scaling.step_time import Mode, Work

Case = tuple[str, int, Mode, int, int]  # precision, processes, mode, labelled and unlabelled samples


def main(args: list[str]) -> None:
    parser = Parser(
        prog="unimatch scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    run = commands.add_parser("run", help="measure on this machine")
    run.add_argument("--config", type=Path, required=True)
    add_overrides(run)
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
    simulate.add_argument(
        "--spread",
        type=Path,
        metavar="RUN",
        help="how unequal devices are: as the processes of this run were",
    )
    simulate.add_argument(
        "--experiment",
        metavar="FILE",
        help="of the networks of its runs, one each value of `across`: `networks` came with unimatch",
    )
    add_rate_option(simulate)
    simulate.add_argument("--settings", type=Path, metavar="FILE.yaml")
    add_overrides(simulate, "replace one value of --settings; may be repeated")
    simulate.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(args)
    options.out.mkdir(parents=True, exist_ok=True)
    (_run if options.command == "run" else _simulate)(options)


# Measuring.


def _run(options: argparse.Namespace) -> None:
    if min([*options.processes, *options.batch_factors]) < 1 or not 0 <= options.warm_up < options.steps:
        raise UserError("--processes and --batch-factors start at 1; --warm-up must be below --steps")
    config = config_io.load(options.config, RunConfig, options.overrides)
    bench = ShortRuns(
        options.config,
        options.overrides,
        bool(config.batch.unlabeled),
        options.out / "runs",
        shipped.ROOT / "launch" / "deepspeed",
        options.steps,
        options.warm_up,
        options.timeout,
    )
    rows, problems = _measure(bench, _cases(options, config.batch))
    exchanges = [e for count in options.processes if count > 1 for e in time_messages(count, options.timeout)]
    machine = _machine()
    shards = open_shards(config.data.shards, config.data.cache)
    result = {
        "config": str(options.config),
        "overrides": options.overrides,
        "machine": machine,
        "steps": options.steps,
        "warm_up": options.warm_up,
        "work": asdict(pace_of(config, shards.taxonomy, shards.bands()).work),
        "rows": [asdict(row) for row in rows],
        "exchanges": [asdict(one) for one in exchanges],
        "left_out": problems,
    }
    (options.out / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
    kind = "GPUs" if machine["gpu"] else "CPU cores"
    notes = measured.notes(options.processes, machine["slots"], kind, problems)
    text = "\n\n".join([measured.table(rows), *notes])
    (options.out / "scaling.md").write_text(text + "\n")
    measured.plot(rows, options.out / "scaling.png")
    print(text)


def _machine() -> dict[str, Any]:
    """What the runs are measured on; slots: GPUs, else cores."""
    return {
        "slots": torch.cuda.device_count() or len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "threads": 1,
    }


def _cases(options: argparse.Namespace, batch: BatchConfig) -> dict[Case, set[str]]:
    """The runs to measure, each once, and the kinds of scaling that it is for."""
    found: dict[Case, set[str]] = {}
    grid = product(options.precisions, options.batch_factors, options.processes, options.modes, options.kinds)
    for precision, factor, count, mode, kind in grid:
        if mode == "fsdp" and count == 1:  # nothing lies in parts
            continue
        times = factor * (count if kind == "weak" else 1)
        case = (precision, count, mode, batch.labeled * times, (batch.unlabeled or 0) * times)
        found.setdefault(case, set()).add(kind)
    return found


def _measure(bench: ShortRuns, cases: Mapping[Case, Iterable[str]]) -> tuple[list[Measured], list[str]]:
    """What could be measured, and why the others could not; UserError if nothing could."""
    rows, problems = [], []
    for number, (case, kinds) in enumerate(cases.items(), 1):
        name = "{2} {0}, {1} processes, batch {3} + {4}".format(*case)
        print(f"[{number}/{len(cases)}] {name}", flush=True)
        try:
            rows.append(bench.measure(*case, kinds=tuple(sorted(kinds))))
        except UserError as error:
            problems.append(f"{name}: {error}")
            print(f"  left out: {error}", flush=True)
    if not rows:
        raise UserError("no run succeeded:\n" + "\n".join(problems))
    return rows, problems


# Predicting.


def _simulate(options: argparse.Namespace) -> None:
    defaults, sections = Simulation(), []
    if options.measured is not None:
        calibration, rows = read_measured(options.measured)
        # What a step computes is measured; the machines of the prediction are those of the settings.
        defaults = replace(defaults, work=calibration.work)
        sections.append(check(calibration, rows, options.out / "check.png"))
    if options.spread is not None:
        sigma, slow = spread.measured(options.spread)
        cluster = replace(defaults.cluster, slow_device=slow)
        told = "spread from step to step not known, there are too few of them"
        if sigma is not None:
            cluster, told = replace(cluster, straggler_sigma=sigma), f"spread from step to step {sigma:.3g}"
        defaults = replace(defaults, cluster=cluster)
        sections.append(
            f"Of the processes of {options.spread}: {told}; the one that is always slowest takes {slow:.3g} "
            "times the median (1: none is)."
        )
    text = config_io.dump(defaults)
    settings = config_io.from_text(text, Simulation, options.overrides, "the simulation's defaults")
    if options.settings is not None:
        settings = config_io.load(options.settings, Simulation, options.overrides)
    told = config_io.plain(settings)
    if options.experiment is not None:
        del told["work"]  # its runs say what a step is
    sections.append(
        "Assumptions (docs/scaling.md has the equations; each is a setting):\n\n```yaml\n"
        + config_io.dump(told)
        + "```"
    )
    if options.experiment is None:
        sections.append(predictions(settings, options.out / "simulation.png"))
    else:
        operations_s = parse_tflops(options.tflops)
        works = _works(options.experiment, operations_s)
        sections += [networks.asked(works, operations_s)]
        sections += [networks.compared(works, settings, options.out / "networks.png")]
    report = "\n\n".join(sections)
    (options.out / "simulation.md").write_text(report + "\n")
    print(report)


def _works(name: str, operations_s: float) -> dict[str, Work]:
    """What a step of the experiment's runs asks of a device, by the values of `across`."""
    experiment = load_experiment(name)
    paces = Paces(classes_of(experiment.runs[0].config, experiment.recipe), operations_s)
    runs = {one.values[experiment.config.across]: one for one in reversed(experiment.runs)}
    return {value: paces.of(runs[value].config).work for value in reversed(runs)}


def read_measured(path: Path) -> tuple[Calibration, list[Measured]]:
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
        raise UserError(f"{path} is no result of unimatch scale run: {error!r}") from error
    if not any(row.processes == 1 and row.mode == "ddp" for row in rows):
        raise UserError(
            f"{path} has no run of one DDP process to calibrate from: measure with --processes 1 ..."
        )
    return calibrate(rows, exchanges, work, machine["slots"], machine["gpu"] is not None), rows


if __name__ == "__main__":
    sys.exit(run_entry(main))
