"""Who is slow: the clocks of processes, with a time that only the test moves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from unimatch.engine import paces, waits
from unimatch.engine.paces import LINES, Paces


class Time:
    now = 50.0

    def perf_counter(self) -> float:
        return self.now


class Processes:
    """What Paces asks of a Runtime: four processes on two hosts."""

    device = torch.device("cpu")
    gathers = False

    def __init__(self, world: int = 4) -> None:
        self.world = world

    def gather(self, host: str) -> list[str]:
        return [f"node{rank // 2}" for rank in range(self.world)]


def made(world: int = 4, synced_norms: bool = False, **changed: Any) -> Paces:
    processes: Any = Processes(world)
    for name, value in changed.items():
        setattr(processes, name, value)
    return Paces(processes, synced_norms)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(paces, "time", clock)
    monkeypatch.setattr(waits, "time", clock)
    return clock


def test_a_process_counts_what_it_did_by_itself(time: Time):
    own = made()

    def loader() -> Iterator[int]:
        for number in range(2):
            time.now += 0.25
            yield number

    samples = own.loaded(loader())
    for number in range(2):
        assert next(samples) == number
        time.now += 7.0  # something else
        for _ in range(3):  # micro-batches
            with own.forward():
                time.now += 1.0
                with waits.waiting():
                    time.now += 10.0  # for another process's batch norm
    assert own.own(2).tolist() == [3.0, 0.25]
    assert next(samples, None) is None
    assert own.own(1).tolist() == [0.0, 0.0], "since the last call"


def test_the_table_is_told_by_its_ends_and_its_middle():
    table = torch.tensor([[0.5, 0.0], [0.1, 0.0], [0.2, 4.0], [0.3, 0.0]])
    told = made().figures(table)
    assert told["own_load_s"] == {"min": 0.0, "median": 0.0, "max": 4.0, "slowest_rank": 2}
    assert told["own_forward_s"] == pytest.approx({"min": 0.1, "median": 0.25, "max": 0.5, "slowest_rank": 0})


@pytest.mark.parametrize(
    "changed", [{"gathers": True}, {"device": torch.device("cuda"), "synced_norms": True}]
)
def test_forward_passes_that_wait_for_others_are_not_compared(changed: dict[str, Any]):
    assert set(made(**changed).figures(torch.ones(4, 2))) == {"own_load_s"}


@pytest.mark.parametrize("changed", [{}, {"synced_norms": True}])
def test_forward_passes_whose_waits_are_known_are_compared(changed: dict[str, Any]):
    assert set(made(**changed).figures(torch.ones(4, 2))) == {"own_forward_s", "own_load_s"}


def test_one_process_is_compared_with_nobody(time: Time):
    alone = made(world=1)
    with alone.forward():
        time.now += 1.0
    assert alone.own(1).tolist() == [0.0, 0.0], "no clock runs for nobody"
    assert alone.figures(torch.ones(1, 2)) == {} and alone.slow(torch.ones(1, 2), 1.0) == []


def rows(*forward: float) -> torch.Tensor:
    return torch.tensor([[seconds, 0.0] for seconds in forward])


def test_who_is_slow_again_and_again_is_named_once():
    own = made()
    slow, fine = rows(0.1, 0.1, 0.12, 0.16), rows(0.1, 0.1, 0.1, 0.12)
    told = [own.slow(table, 0.3) for table in (slow, slow, fine, *[slow] * (LINES + 2))]
    assert [bool(lines) for lines in told] == [False] * 3 + [False] * (LINES - 1) + [True, False, False]
    (line,) = told[3 + LINES - 1]
    assert line == (
        "rank 3 on node1 is slow, and all wait for it: its forward passes take 160 ms a step in 3 log lines "
        "in a row, the median of all processes is 100"
    )


def test_of_two_processes_the_slower_one_is_slow():
    own = made(world=2)
    assert [own.slow(rows(0.1, 0.2), 0.3) for _ in range(LINES)][-1][0].startswith("rank 1 on node0 is slow")


def test_what_is_short_against_the_step_holds_nobody_up():
    own = made()
    assert not any(own.slow(rows(0.001, 0.001, 0.001, 0.006), 0.3) for _ in range(2 * LINES))
