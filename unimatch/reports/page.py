"""The page about one run or several: what `unimatch report` writes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from unimatch.engine.evaluate import over, shown
from unimatch.pages.document import document
from unimatch.reports.compared import best_line, by_class, notes
from unimatch.reports.look import Look
from unimatch.reports.runs import Line, RunFiles
from unimatch.tasks import TASKS

NO_FIGURE = ("images", "seconds", "samples", "labels", "step", "network", "kind")


def page(runs: Sequence[RunFiles], baseline: RunFiles | None, look: Look, now: datetime | None = None) -> str:
    """HTML. runs: the first one is looked at most closely; they may be held against each other (compared),
    and all of them against `baseline`, which is one of them.
    """
    first = runs[0]
    title = ", ".join(run.name for run in runs if run is not baseline) or first.name
    if baseline is not None and len(runs) > 1:
        title += f" against {baseline.name}"
    told = now or datetime.now(timezone.utc)
    data = {
        "title": title,
        "written": told.strftime("%Y-%m-%d %H:%M UTC"),
        "headline": first.headline,
        "baseline": None if baseline is None else baseline.name,
        "runs": [_run(run, baseline) for run in runs],
        "notes": notes(runs),
        **look.described(),
    }
    return document(title, "unimatch.reports", "report", data)


def _run(run: RunFiles, baseline: RunFiles | None) -> Line:
    """What the run's own folder says."""
    cls = TASKS[run.config.task.name].cls
    found = {
        **run.described(),
        "evaluated": bool(run.curve),
        "val": run.config.data.val,
        "curve": [[line["step"], _percent(line[run.headline])] for line in run.curve],
        "ece": [[line["step"], _percent(line.get("ece"))] for line in run.curve],
        "loss": run.over_steps("loss"),
        "kept": [[step, 100 * value] for step, value in run.over_steps("kept")],
        "pseudo": [_pseudo(line) for line in run.pseudo],
        "pseudo_wanted": run.config.evaluation.pseudo_labels,
        "unlabeled": run.config.batch.unlabeled is not None,
        "skipped": None if run.state is None else run.state.skipped,
        "cost": run.cost(),
    }
    if not run.curve:
        return found
    last, best = run.curve[-1], best_line(run)
    single = {name: value for name, value in last.items() if name not in NO_FIGURE and not _is_table(value)}
    found |= {
        "last": _percent(last[run.headline]),
        "best": _percent(best[run.headline]),
        "best_step": best["step"],
        "over": over(last),
        "figures": [[name, shown(name, value, cls)] for name, value in single.items()],
        "classes": {name: _percent(value) for name, value in by_class(last).items()},
        "tables": {
            name: {label: shown(name, each, cls) for label, each in value.items()}
            for name, value in last.items()
            if _is_table(value)
        },
        "table": next(name for name, value in last.items() if _is_table(value)),
        "images": last["images"],
        "against": None if baseline is None or baseline is run else _against(run, baseline),
    }
    return found


def _against(run: RunFiles, baseline: RunFiles) -> Line:
    """The difference to the baseline's evaluation after the same steps, in points, as a whole and by class;
    to its last one where there is no such.
    """
    last = run.curve[-1]
    same = [line for line in baseline.curve if line["step"] == last["step"]]
    other = same[0] if same else baseline.curve[-1]
    theirs = by_class(other)
    return {
        "step": other["step"],
        "same": bool(same),
        "points": _difference(last[run.headline], other[run.headline]),
        "classes": {name: _difference(value, theirs.get(name)) for name, value in by_class(last).items()},
    }


def _pseudo(line: Line) -> Line:
    """In percent; `yield`: of all measured pixels, those that are sure and were given to a class."""
    share = line["share"]
    return {
        "step": line["step"],
        "precision": _percent(line["precision"]),
        "share": 100 * share,
        "precision_of": {name: _percent(value) for name, value in line["precision_of"].items()},
        "yield_of": {name: 100 * share * value for name, value in line["share_of"].items()},
    }


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else 100 * (one - other)
