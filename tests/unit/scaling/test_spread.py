"""How unequal processes were, read back from made-up logs of known inequality."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from unimatch.engine import checkpoint
from unimatch.errors import UserError
from unimatch.scaling import spread
from unimatch.scaling.spread import expected_largest, measured

EVERY = 10


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes the log of a run of so many processes, a sigma from step to step, and a rank 2 so slow."""

    def written(world: int, sigma: float, slow: float, lines: int = 300) -> Path:
        draw = random.Random(1)
        with (tmp_path / "metrics.jsonl").open("w") as file:
            for line in range(1, lines + 1):
                own = []
                for rank in range(world):
                    steps = [math.exp(draw.gauss(-sigma * sigma / 2, sigma)) for _ in range(EVERY)]
                    own.append((slow if rank == 2 else 1.0) * sum(steps) / EVERY)
                ordered = sorted(own)
                told = {
                    "min": ordered[0],
                    "median": (ordered[(world - 1) // 2] + ordered[world // 2]) / 2,
                    "max": ordered[-1],
                    "slowest_rank": own.index(ordered[-1]),
                }
                file.write(json.dumps({"kind": "train", "step": line * EVERY, "own_forward_s": told}) + "\n")
        monkeypatch.setattr(checkpoint, "last_checkpoint", lambda _: tmp_path)
        monkeypatch.setattr(checkpoint, "load_state", lambda _: SimpleNamespace(world=world))
        return tmp_path

    return written


@pytest.mark.parametrize(
    ("world", "sigma", "slow"), [(4, 0.1, 1.0), (16, 0.02, 1.0), (8, 0.1, 1.4), (4, 0.05, 2.0)]
)
def test_what_was_drawn_is_found(run, world: int, sigma: float, slow: float):
    found = measured(run(world, sigma, slow))
    assert found[0] == pytest.approx(sigma, rel=0.25)
    assert found[1] == pytest.approx(slow, rel=0.02)


def test_of_few_processes_a_slow_one_hides_the_spread(run):
    sigma, slow = measured(run(3, 0.05, 2.0))
    assert sigma is None and slow == pytest.approx(2.0, rel=0.02)


def test_a_run_that_does_not_say_it(run):
    folder = run(4, 0.1, 1.0, lines=spread.LEAST_LINES - 1)
    with pytest.raises(UserError, match="has 4 log lines with the times of several processes, 5 are needed"):
        measured(folder)


@pytest.mark.parametrize(("count", "value"), [(1, 0.0), (2, 1 / math.sqrt(math.pi)), (5, 1.16296)])
def test_the_largest_of_normal_numbers(count: int, value: float):
    assert expected_largest(count) == pytest.approx(value, abs=2e-3)
