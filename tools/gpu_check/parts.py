"""The questions, in the order in which they are asked, and how long each may take."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from .results import Teller

TOTAL_S = 530.0  # of all parts together; the rest of nine minutes is for the start and the last report


@dataclass(frozen=True)
class Part:
    """One question. What its predecessors leave of their time it may use, too."""

    name: str
    module: str  # of this package; it has `run`
    asks: str
    limit_s: float
    beside: bool = False  # needs no GPU: runs beside the others from the start
    by_default: bool = True

    def run(self, teller: Teller) -> None:
        """In a process of its own. Only here is imported what may be missing or broken on a machine."""
        import_module(f"{__package__}.{self.module}").run(teller)


PARTS = (
    Part("plan", "planned", "what unimatch plan says of the cases below", 300.0, beside=True),
    Part("tests", "suite", "do the tests of tests/gpu pass", 75.0),
    Part("correctness", "correctness", "are losses those of the CPU, in every mode", 90.0),
    Part("speed", "speed", "images a second and memory, against a plain PyTorch step", 200.0),
    Part("input", "inputs", "how long does training wait for its input", 70.0),
    Part("profile", "kernels", "where does the time go", 55.0),
    Part("sharded", "sharded", "do ZeRO-2 and FSDP run on one GPU", 40.0),
    Part("accuracy", "accuracy", "a published run, in slices that resume", 480.0, by_default=False),
)


def chosen(names: list[str], rehearsal: bool = False) -> list[Part]:
    """Those of these names, in their order; without names those of an ordinary run, of a rehearsal all."""
    return [part for part in PARTS if (part.name in names if names else rehearsal or part.by_default)]
