"""An experiment's figures beside the published ones, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

from unimatch.experiments.definition import Experiment, Published, Run
from unimatch.experiments.progress import Progress

MISSING = "-"


def table(experiment: Experiment, states: Mapping[int, Progress], headline: str) -> str:
    """Ours at the last step, mean and range over seeds, and in hindsight; the paper's; what others published.

    states: by the number of the run.
    """
    config = experiment.config
    others = [axis for axis in config.axes if axis != config.across]
    head = [*others, config.across, f"last {headline}", "seeds", "range", "best in hindsight", "published"]
    lines = [config.about, "", row(head), row(["---"] * (len(others) + 1) + ["---:"] * 5)]
    sources: list[str] = []
    for values in product(*(config.axes[axis] for axis in [*others, config.across])):
        mine = dict(zip([*others, config.across], values, strict=True))
        if config.skips(mine):
            continue
        runs = [run for run in experiment.runs if run.values == mine]
        lines.append(
            row(
                [
                    *values,
                    *_ours([states[run.number] for run in runs]),
                    _theirs(config.published, mine, config.across, sources),
                ]
            )
        )
    rest = [one for one in config.published if one.name is not None]
    if rest:
        lines += [
            "",
            "Published by others:",
            "",
            *_others(rest, others, list(config.axes[config.across]), sources),
        ]
    lines += ["", *(f"[{number}] {source}" for number, source in enumerate(sources, 1))]
    lines += missing(experiment.runs, states)
    lines += ["", *(f"- {note}" for note in config.notes)] if config.notes else []
    return "\n".join(lines) + "\n"


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ours(states: Sequence[Progress]) -> list[str]:
    """The last step's mean, of how many seeds, its range, and the mean of the best."""
    done = [state for state in states if state.finished and state.last is not None]
    count = f"{len(done)} of {len(states)}"
    if not done:
        return [MISSING, count, MISSING, MISSING]
    last = [100 * state.last for state in done if state.last is not None]
    best = [100 * state.best for state in done if state.best is not None]
    spread = f"{min(last):.1f} to {max(last):.1f}" if len(last) > 1 else MISSING
    return [f"{_mean(last):.1f}", count, spread, f"{_mean(best):.1f}"]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _theirs(published: Sequence[Published], mine: Mapping[str, str], across: str, sources: list[str]) -> str:
    """The published figures of these values, each with the number of its source."""
    cells = []
    for one in published:
        fits = one.name is None and all(mine[axis] == value for axis, value in one.at.items())
        figure = one.figures.get(mine[across]) if fits else None
        if figure is not None:
            cells.append(f"{figure:.1f} [{_number(one.source, sources)}]")
    return ", ".join(cells) or MISSING


def _others(
    rest: Sequence[Published], axes: Sequence[str], columns: Sequence[str], sources: list[str]
) -> list[str]:
    """Of other works, with the axes that one of them names."""
    axes = [axis for axis in axes if any(axis in one.at for one in rest)]
    lines = [row(["work", *axes, *columns, "source"])]
    lines.append(row(["---"] * (1 + len(axes)) + ["---:"] * len(columns) + ["---"]))
    for one in rest:
        figures = [one.figures.get(column) for column in columns]
        cells = [MISSING if figure is None else f"{figure:.1f}" for figure in figures]
        known = [one.at.get(axis, MISSING) for axis in axes]
        lines.append(row([one.name or "", *known, *cells, f"[{_number(one.source, sources)}]"]))
    return lines


def _number(source: str, sources: list[str]) -> int:
    """The source's number in the list below the table, to which it is added."""
    if source not in sources:
        sources.append(source)
    return sources.index(source) + 1


def missing(runs: Sequence[Run], states: Mapping[int, Progress]) -> list[str]:
    """What the table lacks: how many runs, and those that are begun or cannot be used."""
    left = [run for run in runs if not states[run.number].finished or states[run.number].last is None]
    if not left:
        return []
    lines = ["", f"{len(left)} of {len(runs)} runs are missing."]
    for run in left:
        state = states[run.number]
        told = "finished, but never evaluated" if state.finished else str(state)
        if state.begun or state.problem:
            lines.append(f"- run {run.number} ({run.name}): {told}")
    return lines
