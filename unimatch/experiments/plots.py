"""A board as pictures: differences to the baseline, figures over what they cost, and over labelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from unimatch.experiments.board import Entry, Group, along, groups
from unimatch.experiments.definition import Experiment
from unimatch.experiments.results import Result

ABOVE, BELOW, LEVEL = "#06702b", "#a3100f", "#555555"  # colours of a difference


def draw(experiment: Experiment, results: Sequence[Result], headline: str, folder: Path) -> None:
    """Writes differences.png, seconds.png and labels.png, as far as the board has what they show."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures(experiment, results, headline).items():
        figure.suptitle(experiment.config.about, fontsize=9)
        figure.savefig(folder / f"{name}.png", dpi=110)
        plt.close(figure)


def figures(experiment: Experiment, results: Sequence[Result], headline: str) -> dict[str, Figure]:
    """By name: differences; seconds, where the board has lengths; labels, where it has counts of them."""
    budget, labels = experiment.config.budget, experiment.config.labels
    found = list(groups(experiment, results, headline))
    drawn = {"differences": _differences(found, experiment.config.baseline or "")}
    if budget is not None:
        lines = along(found, budget)
        drawn["seconds"] = _over(lines, lambda one: one.over_seeds(lambda r: r.seconds) or 0.0, headline)
        drawn["seconds"].supxlabel("seconds of training; the points of a line are lengths", fontsize=9)
        axis = drawn["seconds"].axes[0]
        axis.set_xscale("log")
        axis.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_formatter="")
    if labels is not None:
        lines = {title: _several(names) for title, names in along(found, labels).items()}
        lines = {title: names for title, names in lines.items() if names}
        if lines:
            drawn["labels"] = _over(lines, lambda one: float(one.values[labels]), headline)
            drawn["labels"].supxlabel(f"{labels}, how many", fontsize=9)
    return drawn


def _several(names: dict[str, list[Entry]]) -> dict[str, list[Entry]]:
    return {name: line for name, line in names.items() if len(line) > 1}


def _differences(found: Sequence[Group], baseline: str) -> Figure:
    """A panel a group: each method's mean difference of equal steps with its 95 % interval."""
    shown = [group for group in found if any(one.equal_steps for one in group.entries)]
    counts = [sum(one.equal_steps is not None for one in group.entries) for group in shown]
    figure, grid = plt.subplots(
        max(len(shown), 1),
        squeeze=False,
        sharex=True,
        figsize=(7, 1.2 + sum(0.5 + 0.22 * count for count in counts)),
        height_ratios=[count + 1.5 for count in counts] or None,
        layout="constrained",
    )
    for group, axes in zip(shown, grid[:, 0], strict=False):
        named = [(one.name, one.equal_steps) for one in reversed(group.entries) if one.equal_steps]
        for y, (_, difference) in enumerate(named):
            color = {1: ABOVE, -1: BELOW, 0: LEVEL}[difference.sure]
            axes.errorbar(difference.mean, y, xerr=difference.half, fmt="o", color=color, capsize=2)
        axes.axvline(0.0, color="grey", linewidth=1)
        axes.set_yticks(range(len(named)), [name for name, _ in named], fontsize=8)
        axes.set_ylim(-0.7, len(named) - 0.3)
        axes.set_title(group.title, fontsize=8)
        axes.grid(axis="x", alpha=0.3)
    grid[-1, 0].set_xlabel(f"points to {baseline}, equal steps, 95 %")
    return figure


def _over(lines: dict[str, dict[str, list[Entry]]], at: Callable[[Entry], float], headline: str) -> Figure:
    """A panel for each setting: each method's mean over `at`, with its deviation over seeds."""
    figure, grid = plt.subplots(
        1,
        len(lines),
        squeeze=False,
        sharex=True,
        sharey=True,
        figsize=(1.6 + 4.2 * len(lines), 4.4),
        layout="constrained",
    )
    styles = dict(zip(_names(lines), _styles(), strict=False))
    for (title, names), axes in zip(lines.items(), grid[0], strict=True):
        for name, entries in names.items():
            points = sorted((at(one), one.mean, one.deviation or 0.0) for one in entries)
            x, y, spread = zip(*points, strict=True)
            axes.errorbar(x, y, yerr=spread, label=name, markersize=4, capsize=2, **styles[name])
        axes.set_title(title, fontsize=8)
        axes.grid(alpha=0.3)
    grid[0, 0].set_ylabel(f"{headline}, last step, %")
    handles = {name: handle for axes in grid[0] for handle, name in _legend(axes)}
    figure.legend(list(handles.values()), list(handles), loc="outside right center", fontsize=7)
    return figure


def _legend(axes: Axes) -> Iterator[tuple[Artist, str]]:
    return zip(*axes.get_legend_handles_labels(), strict=True)


def _names(lines: dict[str, dict[str, list[Entry]]]) -> list[str]:
    return list(dict.fromkeys(name for names in lines.values() for name in names))


def _styles() -> Iterator[dict[str, str]]:
    """More than there are methods: ten colours, with each marker."""
    for marker in "osD^":
        for color in plt.rcParams["axes.prop_cycle"].by_key()["color"]:
            yield {"marker": marker, "color": color}
