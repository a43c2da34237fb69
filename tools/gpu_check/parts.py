"""The questions, in the order in which they are asked, and how long each may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import accuracy, correctness, inputs, kernels, planned, sharded, speed, suite
from .results import Teller

TOTAL_S = 530.0  # of all parts together; the rest of nine minutes is for the start and the last report


@dataclass(frozen=True)
class Part:
    """One question. What its predecessors leave of their time it may use, too."""

    name: str
    asks: str
    run: Callable[[Teller], None]
    limit_s: float
    beside: bool = False  # needs no GPU: runs beside the others from the start
    by_default: bool = True


PARTS = (
    Part("plan", "what unimatch plan says of the cases below", planned.run, 300.0, beside=True),
    Part("tests", "do the tests of tests/gpu pass", suite.run, 75.0),
    Part("correctness", "are losses those of the CPU, in every mode", correctness.run, 80.0),
    Part("speed", "images a second and memory, against a plain PyTorch step", speed.run, 220.0),
    Part("input", "how long does training wait for its input", inputs.run, 70.0),
    Part("profile", "where does the time go", kernels.run, 35.0),
    Part("sharded", "do ZeRO-2 and FSDP run on one GPU", sharded.run, 40.0),
    Part("accuracy", "a published run, in slices that resume", accuracy.run, 480.0, by_default=False),
)


def chosen(names: list[str]) -> list[Part]:
    """Those of these names, in their order; without names, those of an ordinary run."""
    return [part for part in PARTS if (part.name in names if names else part.by_default)]
