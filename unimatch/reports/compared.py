"""Runs held against each other: whether they may be, and the table of their figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unimatch.config import plain
from unimatch.engine.evaluate import over
from unimatch.engine.run_folder import flat
from unimatch.errors import UserError
from unimatch.reports.runs import RunFiles


def require_comparable(runs: Sequence[RunFiles]) -> None:
    """UserError unless all runs have one task and were evaluated on the same samples: other figures cannot
    be compared.
    """
    headlines = {run.headline for run in runs}
    if len(headlines) > 1:
        told = ", ".join(sorted(headlines))
        raise UserError(f"these runs have different tasks, whose figures ({told}) differ")
    hashes = [run.curve[-1].get("samples") for run in runs]
    if not all(hashes):  # runs of older versions know the hash of their keys
        hashes = [None if run.state is None else run.state.splits.get("val") for run in runs]
    masks = [run.curve[-1].get("labels") for run in runs]
    if len(set(hashes)) < 2 and len({one for one in masks if one}) < 2:
        return
    told = "\n".join(
        f"  {run.name}: {run.config.data.val} of {run.config.data.shards} (hash {found}, masks "
        f"{of or 'unknown'})"
        for run, found, of in zip(runs, hashes, masks, strict=True)
    )
    raise UserError(
        "these runs were evaluated on different samples, so their figures cannot stand in one table:\n"
        f"{told}\nEvaluate each on the same ones: unimatch evaluate RUN --data NAME --shards PLACE"
    )


def notes(runs: Sequence[RunFiles]) -> list[str]:
    """What else a reader of the figures must know."""
    found = []
    for run in runs:
        if run.curve and (left_out := over(run.curve[-1])):
            found.append(f"{run.name}: the mean is{left_out}")
    ways = [flat(plain(run.config.task.config.evaluate)) for run in runs]
    for setting in ways[0]:
        values = [way.get(setting) for way in ways]
        if any(value != values[0] for value in values):
            told = ", ".join(f"{run.name} {value}" for run, value in zip(runs, values, strict=True))
            found.append(f"evaluated in different ways: task.evaluate.{setting}: {told}")
    return found


def table(runs: Sequence[RunFiles]) -> str:
    """Markdown, a row a run. The last step is the result; the best one is chosen by hindsight."""
    headline, classes = runs[0].headline, by_class(runs[0].curve[-1])
    lines = [
        f"| run | steps | last {headline} | best {headline} (step) | {' | '.join(classes)} |",
        f"| --- | ---: | ---: | ---: |{' ---: |' * len(classes)}",
    ]
    for run in runs:
        last, best = run.curve[-1], best_line(run)
        values = by_class(last)
        cells = " | ".join(_percent(values.get(c), 1) for c in classes)
        lines.append(
            f"| {run.name} | {last['step']} | {_percent(last[headline], 2)} "
            f"| {_percent(best[headline], 2)} ({best['step']}) | {cells} |"
        )
    return "\n".join(lines) + "\n"


def best_line(run: RunFiles) -> dict[str, Any]:
    """The evaluation with the highest headline."""
    return max(run.curve, key=lambda line: -1.0 if line[run.headline] is None else line[run.headline])


def by_class(line: dict[str, Any]) -> dict[str, float | None]:
    """The first figures by class of an evaluation; the others, where there are more, stay in the log."""
    return next(value for value in line.values() if isinstance(value, dict))


def _percent(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"
