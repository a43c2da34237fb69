"""Measured runs as people read them: a table, what it means, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from unimatch.scaling.calibrate import Measured, efficiency

EXPLAINED = """\
Medians over the steps after the warm-up, of rank 0; times in ms. Strong: the global batch is that of the
configuration (times --batch-factors). Weak: it is that for each process. Efficiency: images a second over
N times those of one DDP process. Data: the wait for a batch. Forward, backward, update: of as many single
processes, with the same micro-batch, at the same time, so that what they take from one another does not
count as communication. Communication: what the step takes longer than theirs: messages, waiting for the
slowest, synchronised batch norm and ZeRO's own work; below 0 is noise."""


def notes(processes: Sequence[int], slots: int, unit: str, problems: Sequence[str]) -> list[str]:
    """What stands below the table. slots: processes that run without sharing a `unit`, core or GPU."""
    found = [EXPLAINED, f"{slots} {unit}, one thread a process."]
    crowded = [count for count in processes if count > slots]
    if crowded:
        found.append(
            f"{', '.join(map(str, crowded))} processes share {slots}: their efficiency cannot exceed "
            f"{', '.join(f'{slots / count:.0%}' for count in crowded)}."
        )
    return found + [f"Left out: {problem}" for problem in problems]


def table(rows: list[Measured]) -> str:
    """Markdown, a row a run and kind of scaling."""
    lines = [
        "| scaling | mode | precision | processes | batch | ms a step | images/s | efficiency | GiB | data "
        "| forward | backward | update | communication |",
        "| --- | --- | --- |" + " ---: |" * 11,
    ]
    for kind in ("strong", "weak"):
        for row in rows:
            if kind not in row.kinds:
                continue
            share = efficiency(row, rows, kind)
            alone = row.alone
            parts = (row.parts.data, alone.forward, alone.backward, alone.update, row.communication)
            part_of_best = "-" if share is None else f"{share:.0%}"
            lines.append(
                f"| {kind} | {row.mode} | {row.precision} | {row.processes} "
                f"| {row.labeled} + {row.unlabeled} "
                f"| {1e3 * row.parts.step:.1f} | {row.images_s:.1f} | {part_of_best} "
                f"| {row.memory_gib:.2f} | {' | '.join(f'{1e3 * part:.1f}' for part in parts)} |"
            )
    return "\n".join(lines)


def plot(rows: list[Measured], path: Path) -> None:
    """Images a second over processes, for each kind of scaling, and where a step goes."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for kind, chart in zip(("strong", "weak"), axes, strict=False):
        lines: dict[str, list[Measured]] = {}
        for row in rows:
            if kind in row.kinds:
                each = row.samples if kind == "strong" else row.samples // row.processes
                lines.setdefault(f"{row.mode} {row.precision} batch {each}", []).append(row)
        for name, line in lines.items():
            line.sort(key=lambda row: row.processes)
            chart.plot([r.processes for r in line], [r.images_s for r in line], marker="o", label=name)
        unit = "batch fixed" if kind == "strong" else "batch a process fixed"
        chart.set(title=f"{kind} scaling ({unit})", xlabel="processes", ylabel="images/s", ylim=(0, None))
        chart.set_xticks(sorted({row.processes for row in rows}))
        chart.grid(alpha=0.3)
        if lines:
            chart.legend(fontsize=8)
    names = [f"{r.mode} {r.precision}\n{r.processes} x {r.samples // r.processes}" for r in rows]
    low = [0.0] * len(rows)
    for part in ("data", "forward", "backward", "update", "communication"):
        own = {"data": lambda r: r.parts.data, "communication": lambda r: max(0.0, r.communication)}
        values = [1e3 * own.get(part, lambda r: getattr(r.alone, part))(row) for row in rows]  # noqa: B023
        axes[2].bar(range(len(rows)), values, bottom=low, label=part)
        low = [a + b for a, b in zip(low, values, strict=True)]
    axes[2].set_xticks(range(len(rows)), names, fontsize=7, rotation=60)
    axes[2].set(title="where a step goes", ylabel="ms")
    axes[2].legend(fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)
