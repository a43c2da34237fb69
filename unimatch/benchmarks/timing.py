"""A and B in one run: cases take turns, and ratios are formed within each round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tqdm import tqdm


@dataclass(frozen=True)
class Timing:
    """Rates of one case, one a round, in units (images, steps) a second."""

    name: str
    rates: tuple[float, ...]
    wall: tuple[float, ...]  # the same by wall time, whatever clock `rates` go by

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


def in_turns(
    cases: Mapping[str, Callable[[], int]],
    rounds: int,
    cores: Mapping[str, int] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """Each case once a round, `rounds` times, after one round that does not count.

    A case does its work and returns how many units it did. The order changes from round to round, so that no
    case always follows the same other one. With `cores`, rates are divided by the cores that a case uses.
    `clock` tells the seconds that count.
    """
    names = list(cases)
    rates: dict[str, list[float]] = {name: [] for name in names}
    wall: dict[str, list[float]] = {name: [] for name in names}
    with tqdm(total=(rounds + 1) * len(names), desc="measuring", unit="case", disable=None) as bar:
        for turn in range(rounds + 1):
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                bar.set_postfix_str(name)
                began, started = time.perf_counter(), clock()
                units = cases[name]()
                seconds, elapsed = clock() - started, time.perf_counter() - began
                if turn > 0:
                    share = (cores or {}).get(name, 1)
                    rates[name].append(units / seconds / share)
                    wall[name].append(units / elapsed / share)
                bar.update()
    return [Timing(name, tuple(rates[name]), tuple(wall[name])) for name in names]


def table(timings: list[Timing], unit: str, baseline: str | None = None, wall: bool = False) -> str:
    """A Markdown table: the median rate, its range, and the ratio to `baseline` (the first case by default).

    The ratio is the median of the rounds' ratios; the range beside it is that of the rounds. `wall` adds a
    column with the median rate by wall time.
    """
    base = next(t for t in timings if t.name == (baseline or timings[0].name))
    lines = [f"| case | {unit} | range | ratio | range |", "| --- | ---: | ---: | ---: | ---: |"]
    if wall:
        lines = [lines[0] + " by wall time |", lines[1] + " ---: |"]
    for timing in timings:
        ratios = [mine / other for mine, other in zip(timing.rates, base.rates, strict=True)]
        cells = [
            timing.name,
            _number(timing.rate),
            f"{_number(min(timing.rates))} to {_number(max(timing.rates))}",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
        ]
        cells += [_number(statistics.median(timing.wall))] if wall else []
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
