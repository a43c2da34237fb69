"""The runs of an experiment as a person reads them: what there is to run, and how far each is."""

from __future__ import annotations

from unimatch.errors import UserError
from unimatch.experiments.definition import Experiment, Run
from unimatch.experiments.progress import claimed, progress_of
from unimatch.experiments.size import Paces, classes_of, steps_of
from unimatch.experiments.table import MISSING
from unimatch.scaling.pace import Pace, assumed, shown
from unimatch.scaling.step_time import Cluster


def listing(experiment: Experiment, runs: list[Run], devices: list[int], operations_s: float) -> str:
    """What there is to run."""
    config = experiment.config
    lines = [f"{experiment.name}: {config.about}", f"{len(experiment.runs)} runs from {experiment.base}", ""]
    for axis, values in config.axes.items():
        lines += [
            f"{axis}  {value}: {' '.join(changes) or 'as in the base'}" for value, changes in values.items()
        ]
    head = [*config.axes, "seed", "steps", *(f"hours on {count}" for count in devices), "folder"]
    rule = ["---"] * len(config.axes) + ["---:"] * (2 + len(devices)) + ["---"]
    lines += ["", f"| run | {' | '.join(head)} |", f"| ---: | {' | '.join(rule)} |"]
    paces = Paces(classes_of(runs[0].config, experiment.recipe), operations_s)
    columns: dict[int, list[float | None]] = {count: [] for count in devices}
    for one in runs:
        steps = steps_of(one.config)
        cells = [str(one.number), *one.values.values(), str(one.config.seed)]
        cells.append(MISSING if steps is None else str(steps))
        for count, column in columns.items():
            column.append(None if steps is None else _hours(paces.of(one.config), steps, count))
            cells.append(MISSING if column[-1] is None else shown(column[-1]))
        lines.append(f"| {' | '.join([*cells, str(one.config.out)])} |")
    lines.append("")
    for count, column in columns.items():
        known = [hours for hours in column if hours is not None]
        part = "" if len(known) == len(column) else f" for {len(known)} of them"
        lines.append(f"{len(column)} runs on {count} device(s): {shown(sum(known))} hours{part}")
    if any(None in column for column in columns.values()):
        lines.append(
            f"{MISSING}: nothing says how many samples there are, or so many devices cannot share a batch"
        )
    return "\n".join([*lines, *assumed(operations_s)])


def _hours(pace: Pace, steps: int, devices: int) -> float | None:
    """Of a run; None: so many devices cannot share its batch."""
    try:
        return pace.hours(steps, devices, Cluster())
    except UserError:
        return None


def status(runs: list[Run]) -> str:
    """How far each run is."""
    lines = []
    for one in runs:
        state = progress_of(one.config)
        running = ""
        if state.begun and not state.finished:
            with claimed(one.config) as free:
                running = "" if free else ", running"
        figure = f", {100 * state.last:.2f}" if state.finished and state.last is not None else ""
        lines.append(f"{one.number:4} {one.name}: {state}{running}{figure}")
    return "\n".join(lines)
