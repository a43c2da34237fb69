"""A board as one HTML file that asks no host for anything: the figures as JSON, and what shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from unimatch.experiments.board import Entry, Group, along, groups, percent, provenance, sure_labels
from unimatch.experiments.definition import Experiment
from unimatch.experiments.pictures import Strips
from unimatch.experiments.results import Result
from unimatch.pages.document import document, embedded

IMAGES = 3


def page(experiment: Experiment, results: Sequence[Result], headline: str, images: int = IMAGES) -> str:
    """HTML; images: how many samples are shown as the first seed of each row predicts them, 0: none."""
    config = experiment.config
    strips = Strips(images) if images else None
    found = list(groups(experiment, results, headline))
    data = {
        "about": config.about,
        "headline": headline,
        "across": config.across,
        "baseline": config.baseline,
        "truth": embedded(strips.truth(results[0].run.config.out)) if strips else None,
        "groups": [_group(one, headline, strips) for one in found],
        "labels": _over_labels(found, config.labels) if config.labels else [],
        "notes": [*config.notes, *(line.strip() for line in provenance(results))],
    }
    return document(config.about, "unimatch.experiments", "board", data)


def _group(group: Group, headline: str, strips: Strips | None) -> dict[str, Any]:
    rows = [_row(one, headline, strips) for one in group.entries]
    return {"title": group.title or "all runs", "resolution": group.resolution, "rows": rows}


def _over_labels(found: Sequence[Group], axis: str) -> list[dict[str, Any]]:
    """By setting: each name's means over how many are labelled, where there are several."""
    shown = []
    for title, names in along(found, axis).items():
        lines = [
            {"name": name, "points": sorted([float(one.values[axis]), one.mean] for one in entries)}
            for name, entries in names.items()
            if len(entries) > 1
        ]
        if lines:
            shown.append({"title": title, "lines": lines})
    return shown


def _row(entry: Entry, headline: str, strips: Strips | None) -> dict[str, Any]:
    first = entry.results[0]
    return {
        "name": entry.name,
        "mean": entry.mean,
        "deviation": entry.deviation,
        "steps": first.steps,
        "seconds": entry.over_seeds(lambda one: one.seconds),
        "gib": entry.over_seeds(lambda one: one.memory_gib),
        "ece": entry.over_seeds(lambda one: percent(one.figures.get("ece"))),
        "precision": entry.over_seeds(lambda one: sure_labels(one, "precision")),
        "share": entry.over_seeds(lambda one: sure_labels(one, "share")),
        "steps_difference": _difference(entry.equal_steps),
        "seconds_difference": _difference(entry.equal_seconds),
        "runs": [_run(one, headline) for one in entry.results],
        "picture": embedded(strips.predicted(first.run.config.out)) if strips else None,
    }


def _difference(value: Any) -> dict[str, Any] | None:
    return None if value is None else {**asdict(value), "sure": value.sure}


def _run(result: Result, headline: str) -> dict[str, Any]:
    return {
        "name": result.run.name,
        "seed": result.run.config.seed,
        "figure": result.headline(headline),
        "curve": [[line["step"], percent(line[headline])] for line in result.curve],
        "classes": {name: percent(value) for name, value in result.by_class.items()},
        "pseudo": [
            {"step": line["step"], "of": {name: percent(each) for name, each in line["precision_of"].items()}}
            for line in result.pseudo
        ],
        "settings": result.settings,
        "labeled": result.splits.get("labeled"),
        "commit": result.code["commit"],
        "machine": result.code["machine"],
    }
