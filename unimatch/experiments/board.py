"""An experiment with a baseline as a board: means over seeds, and paired differences to the baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean, stdev
from typing import Any

from unimatch.experiments.definition import Experiment
from unimatch.experiments.differences import Difference, at_seconds, paired, resolution
from unimatch.experiments.results import Result
from unimatch.experiments.table import MISSING, row

Results = Sequence[Result]


@dataclass(frozen=True)
class Entry:
    """A row: the runs of one method under one setting, one a seed."""

    values: dict[str, str]  # of the axes
    name: str  # of the axis `across`
    results: list[Result]
    mean: float  # of the headline figure, in percent
    deviation: float | None  # None: one seed
    equal_steps: Difference | None  # to the baseline; None: the baseline itself, or it has no such run
    equal_seconds: Difference | None

    def over_seeds(self, of: Callable[[Result], float | None]) -> float | None:
        """The mean of a figure over the seeds that have it."""
        found = [value for value in map(of, self.results) if value is not None]
        return fmean(found) if found else None


@dataclass(frozen=True)
class Group:
    """What is compared: the rows of one setting of the other axes."""

    values: dict[str, str]
    entries: list[Entry]
    resolution: float | None  # the smallest difference that its seeds can tell, see differences.resolution

    @property
    def title(self) -> str:
        return titled(self.values)


def groups(experiment: Experiment, results: Results, headline: str) -> Iterator[Group]:
    """Those that have a finished run, in the order of the file."""
    config = experiment.config
    others = [axis for axis in config.axes if axis != config.across]
    for chosen in product(*(config.axes[axis] for axis in others)):
        values = dict(zip(others, chosen, strict=True))
        runs = {name: _of(results, {**values, config.across: name}) for name in config.axes[config.across]}
        base = _by_seed(runs[config.baseline or ""], headline)
        entries = []
        for name, mine in runs.items():
            if not mine:
                continue
            own, other = _by_seed(mine, headline), name != config.baseline
            seconds = _baseline_at(experiment, results, values, mine, headline) if other else {}
            entries.append(
                Entry(
                    {**values, config.across: name},
                    name,
                    mine,
                    fmean(own.values()),
                    stdev(own.values()) if len(own) > 1 else None,
                    paired(own, base) if other else None,
                    paired(own, seconds),
                )
            )
        if entries:
            gaps = [
                [own[seed] - base[seed] for seed in own.keys() & base.keys()]
                for own in (_by_seed(one.results, headline) for one in entries if one.name != config.baseline)
            ]
            yield Group(values, entries, resolution(gaps))


def along(found: Sequence[Group], axis: str) -> dict[str, dict[str, list[Entry]]]:
    """The rows that differ in one axis alone, by the values of the other axes and by name."""
    lines: dict[str, dict[str, list[Entry]]] = {}
    for group in found:
        title = titled({name: value for name, value in group.values.items() if name != axis})
        for entry in group.entries:
            lines.setdefault(title, {}).setdefault(entry.name, []).append(entry)
    return lines


def titled(values: Mapping[str, str]) -> str:
    """Values of axes in words."""
    return ", ".join(f"{axis} {value}" for axis, value in values.items())


def _of(results: Results, values: Mapping[str, str]) -> list[Result]:
    return [one for one in results if one.run.values == values]


def _by_seed(results: Results, headline: str) -> dict[int, float]:
    return {one.run.config.seed: one.headline(headline) for one in results}


def _baseline_at(
    experiment: Experiment, results: Results, values: Mapping[str, str], mine: Results, headline: str
) -> dict[int, float]:
    """By seed: the baseline's figure after the seconds of a method's run, between its own lengths."""
    config = experiment.config
    if config.budget is None:
        return {}
    alike = {axis: value for axis, value in values.items() if axis != config.budget}
    alike[config.across] = config.baseline or ""
    base = [one for one in results if all(one.run.values[axis] == value for axis, value in alike.items())]
    found = {}
    spent = fmean(one.seconds for one in mine)  # the clock's noise is no property of a seed
    for one in mine:
        seed = one.run.config.seed
        lengths = sorted({other.steps for other in base})
        curve = [
            (fmean(each.seconds for each in base if each.steps == steps), other.headline(headline))
            for steps in lengths
            for other in base
            if other.steps == steps and other.run.config.seed == seed
        ]
        value = at_seconds(curve, spent)
        if value is not None:
            found[seed] = value
    return found


def markdown(experiment: Experiment, results: Results, headline: str, missing: Sequence[str]) -> str:
    """The board; missing: what is said of runs that it lacks."""
    config = experiment.config
    lines = [config.about, ""]
    for group in groups(experiment, results, headline):
        if group.title:
            lines += [f"**{group.title}**", ""]
        lines += [*_figures(group, config.across, headline, config.budget is not None), ""]
        if group.resolution is not None:
            lines += [f"A difference of {group.resolution:.1f} points shows in half of such tables.", ""]
        lines += [*_classes(group, config.across), ""]
    lines += [*missing, *([""] if missing else []), *provenance(results)]
    lines += ["", *(f"- {note}" for note in config.notes)] if config.notes else []
    return "\n".join(lines) + "\n"


def _figures(group: Group, across: str, headline: str, budgets: bool) -> list[str]:
    head = [across, f"last {headline}", "deviation", "seeds", "to the baseline, equal steps"]
    head += ["equal seconds"] if budgets else []
    head += ["steps", "seconds", "GiB", "calibration error", "sure labels right", "sure share"]
    lines = [row(head), row(["---", *["---:"] * (len(head) - 1)])]
    for one in group.entries:
        cells = [one.name, f"{one.mean:.1f}", _number(one.deviation), str(len(one.results))]
        cells += [difference(one.equal_steps)] + ([difference(one.equal_seconds)] if budgets else [])
        cells += [str(one.results[0].steps), f"{one.over_seeds(lambda r: r.seconds):.0f}"]
        cells += [
            f"{one.over_seeds(lambda r: r.memory_gib):.2f}",
            _number(one.over_seeds(lambda r: percent(r.figures.get("ece")))),
            _number(one.over_seeds(lambda r: sure_labels(r, "precision"))),
            _number(one.over_seeds(lambda r: sure_labels(r, "share"))),
        ]
        lines.append(row(cells))
    return lines


def _classes(group: Group, across: str) -> list[str]:
    """Each class's mean over seeds."""
    names = list(group.entries[0].results[0].by_class)
    lines = [row([across, *names]), row(["---", *["---:"] * len(names)])]
    for one in group.entries:
        found = [one.over_seeds(lambda r, name=name: percent(r.by_class.get(name))) for name in names]  # type: ignore[misc]
        lines.append(row([one.name, *map(_number, found)]))
    return lines


def difference(value: Difference | None) -> str:
    """A mean and its interval; bold where noise does not explain it."""
    if value is None:
        return MISSING
    told = f"{value.mean:+.1f}" + ("" if value.half is None else f" \u00b1 {value.half:.1f}")
    return f"**{told}**" if value.sure else told


def sure_labels(result: Result, name: str) -> float | None:
    """Of the labels that the last network gives to unlabelled images."""
    return percent(result.pseudo[-1].get(name)) if result.pseudo else None


def percent(value: Any) -> float | None:
    return None if value is None else 100.0 * float(value)


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1f}"


def provenance(results: Results) -> list[str]:
    """Where the figures are from, a line each."""
    lines = []
    for name in ("commit", "sources", "machine", "torch"):
        lines.append(f"{name}: {', '.join(sorted({one.code[name] for one in results}))}  ")
    tested = sorted(
        {f"{one.figures.get('images')} samples, hash {one.figures.get('samples')}" for one in results}
    )
    splits = sorted({f"{one.splits.get('labeled')}" for one in results})
    lines += [f"evaluated: {', '.join(tested)}  ", f"labelled lists, hashes: {', '.join(splits)}  "]
    return [*lines, f"settings, hashes: {', '.join(sorted({one.settings for one in results}))}"]
