"""What a finished run of an experiment left: its figures, what they cost, and where they are from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unimatch.config import plain
from unimatch.engine import checkpoint
from unimatch.engine.log import evaluations, read_metrics
from unimatch.engine.run_folder import flat, settings_hash
from unimatch.engine.step_log import over_steps
from unimatch.errors import UserError
from unimatch.experiments.definition import Run

UNKNOWN = "unknown"  # of runs of older versions


@dataclass(frozen=True)
class Result:
    """Of one finished run. Figures are those of the last step; fractions, unless the task says otherwise."""

    run: Run
    figures: dict[str, Any]  # as the last evaluation logged them
    curve: list[dict[str, Any]]  # all evaluations
    pseudo: list[dict[str, Any]]  # how good pseudo-labels were, at each evaluation
    steps: int
    seconds: float  # of all training steps: of the CPU, or on a GPU of the clock
    memory_gib: float  # at most
    settings: str  # hash of all settings that decide what it computes
    splits: dict[str, str]  # hashes of its key lists
    code: dict[str, str]  # commit, sources, machine, torch

    def headline(self, name: str) -> float:
        """In percent."""
        return 100.0 * float(self.figures[name])

    @property
    def by_class(self) -> dict[str, float | None]:
        """The first table of figures by class."""
        return next((value for value in self.figures.values() if isinstance(value, dict)), {})


def result_of(run: Run, headline: str) -> Result:
    """Of a run that is finished and was evaluated."""
    folder = run.config.out
    curve = evaluations(folder)
    code = json.loads((folder / "env.json").read_text())
    lines = read_metrics(folder, "train")
    last = checkpoint.last_checkpoint(folder)
    assert last is not None and curve[-1][headline] is not None, "finished and evaluated"
    return Result(
        run,
        curve[-1],
        curve,
        read_metrics(folder, "pseudo_labels"),
        curve[-1]["step"],
        _seconds(lines),
        max((line["memory_gib"] for line in lines), default=0.0),
        settings_hash(run.config),
        checkpoint.load_state(last).splits,
        {name: str(code.get(name, UNKNOWN)) for name in ("commit", "sources", "machine", "torch")},
    )


def _seconds(lines: Sequence[dict[str, Any]]) -> float:
    """Of all steps. Of a CPU the process's own time, which other programs do not lengthen."""
    return over_steps(lines, lambda line: float(line.get("cpu_s", line["step_s"])))


def require_comparable(results: Sequence[Result], mixed_code: bool = False) -> None:
    """UserError unless the figures of all runs may stand in one table: the same samples and masks were
    evaluated, in the same way; runs of one seed and one set of lists have the same labelled samples; all were
    computed by the same code on the same kind of machine. mixed_code: without the last.
    """
    wrong = _differing(results, lambda one: one.figures.get("samples"), "evaluated samples")
    wrong += _differing(results, lambda one: one.figures.get("labels"), "masks of the evaluated samples")
    wrong += _differing(
        results, lambda one: str(flat(plain(one.run.config.task.config.evaluate))), "way of evaluation"
    )
    lists: dict[tuple[int, str | None], list[Result]] = {}
    for one in results:
        data = one.run.config.data
        lists.setdefault((one.run.config.seed, data.split or data.labeled), []).append(one)
    for some in lists.values():
        wrong += _differing(some, lambda one: one.splits.get("labeled"), "labelled samples of one seed")
    if not mixed_code:
        for name in ("sources", "machine", "torch"):
            wrong += _differing(results, lambda one, name=name: one.code[name], name)
    if wrong:
        raise UserError(
            "these runs cannot stand in one table:\n  "
            + "\n  ".join(wrong)
            + "\nTrain them again with one version, on one machine and data; --mixed-code takes runs that "
            "differ in sources, machine or torch alone, and says so"
        )


def _differing(results: Sequence[Result], of: Any, what: str) -> list[str]:
    """A line that names the values and one run of each, if there are several."""
    found: dict[Any, list[str]] = {}
    for one in results:
        found.setdefault(of(one), []).append(one.run.name)
    if len(found) < 2:
        return []
    told = "; ".join(f"{value} ({len(names)} runs, {names[0]})" for value, names in found.items())
    return [f"{what}: {told}"]
