"""report.json and report.md: what was asked, what was found, what is missing and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .results import Result

if TYPE_CHECKING:
    from .orchestra import Ended

PLAN_WITHIN = 0.1  # of measured memory: the goal of `unimatch plan`
PLANNED_MODE = "bf16"  # what the part "plan" counts
LARGEST = "largest batch"
DONE = "done"  # how a part ends that ends by itself
HIDDEN = ("curves",)  # long, and in report.json
WORDS = {True: "yes", False: "NO", None: ""}


def write(
    out: Path, machine: dict[str, str], endings: Sequence[Ended], found: Sequence[Result], rehearsal: bool
) -> bool:
    """Whether every part ended by itself and nothing was found wrong."""
    found = [*found, *plan_against_measured(found)]
    wrong = [one for one in found if one.passed is False]
    parts = {one.part.name: {"status": one.status, "seconds": round(one.seconds, 1)} for one in endings}
    content = {
        "rehearsal": rehearsal,
        "machine": machine,
        "parts": parts,
        "wrong": len(wrong),
        "results": [asdict(one) for one in found],
    }
    _put(out / "report.json", json.dumps(content, indent=1) + "\n")
    _put(out / "report.md", _text(machine, endings, found, rehearsal))
    return not wrong and all(one.status == DONE for one in endings)


def _put(path: Path, text: str) -> None:
    """Whole or not at all: the machine may be taken away at any moment."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


def plan_against_measured(found: Sequence[Result]) -> list[Result]:
    """For each case that was both planned and measured, how far the plan is off; a goal for memory alone."""
    planned = {one.name: one.values for one in found if one.part == "plan" and one.values}
    lines = []
    for one in found:
        case, _, what = one.name.partition(": ")
        if one.part != "speed" or case not in planned:
            continue
        if what == PLANNED_MODE:
            says, takes = planned[case]["peak_gib"], one.values.get("peak_gib")
        elif what == LARGEST:
            says, takes = planned[case]["most_samples"], one.values.get("samples")
        else:
            continue
        if takes:
            off = says / takes - 1
            values = {"plan": says, "measured": takes, "off": round(off, 3)}
            passed = abs(off) <= PLAN_WITHIN if what == PLANNED_MODE else None
            lines.append(
                Result("plan", f"{case}: {'GiB' if passed is not None else LARGEST}", values, passed)
            )
    return lines


def _text(machine: dict[str, str], endings: Sequence[Ended], found: Sequence[Result], rehearsal: bool) -> str:
    lines = ["# What the GPU says", ""]
    if rehearsal:
        lines += ["**A rehearsal on a CPU, with tiny shapes: its figures say nothing about any GPU.**", ""]
    lines += [f"- {name}: {value}" for name, value in machine.items()]
    lines += ["", "| part | asks | ended | seconds |", "| --- | --- | --- | ---: |"]
    lines += [f"| {one.part.name} | {one.part.asks} | {one.status} | {one.seconds:.0f} |" for one in endings]
    wrong = [f"{one.part.name}: {one.status}" for one in endings if one.status != DONE]
    wrong += [
        f"{one.part}: {one.name}{': ' + one.note if one.note else ''}" for one in found if one.passed is False
    ]
    lines += ["", f"Not as it should be: {len(wrong)}", "", *(f"- {line}" for line in wrong)]
    for ended in endings:
        members = [one for one in found if one.part == ended.part.name and one.name not in HIDDEN]
        lines += ["", f"## {ended.part.name}", ""]
        if ended.tail:
            lines += ["```", *ended.tail, "```", ""]
        lines += _tables(members) if members else ["Nothing was found."]
    return "\n".join(lines) + "\n"


def _tables(found: Sequence[Result]) -> list[str]:
    """A table for each set of columns, in the order in which they came."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    for one in found:
        groups.setdefault(tuple(one.values), []).append(one)
    lines = []
    for names, members in groups.items():
        good, notes = (
            any(getattr(one, name) not in (None, "") for one in members) for name in ("passed", "note")
        )
        head = ["", *names, *(["as it should be"] if good else []), *(["note"] if notes else [])]
        lines += [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * len(names)}{' --- |' * (good + notes)}"]
        for one in members:
            cells = [one.name, *map(_cell, one.values.values())]
            cells += ([WORDS[one.passed]] if good else []) + ([one.note] if notes else [])
            lines.append(f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in cells)} |")
        lines.append("")
    return lines[:-1]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
