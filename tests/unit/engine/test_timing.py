"""Clocks, with a time that only the test moves."""

from __future__ import annotations

import pytest
import torch

from unimatch.engine import timing
from unimatch.engine.timing import StepClock, Timed


class Time:
    now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return 0.5 * self.now  # another program had the other half


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_rates_are_over_the_steps_since_the_last_line(time: Time):
    clock = StepClock(torch.device("cpu"))
    for steps, wait, spent in ((((1.0, 2.0), (0.0, 3.0), (1.5, 2.5)), 2.5, 10.0), (((3.0, 1.0),), 3.0, 4.0)):
        for waiting, working in steps:
            time.now += waiting
            clock.data_ready()
            time.now += working
            clock.step_done()
        figures = clock.figures(8)
        assert figures.pop("memory_gib") > 0
        rates = {"images_per_s": 8 * len(steps) / spent, "step_s": spent / len(steps)}
        assert figures == {**rates, "data_wait": wait / spent, "cpu_s": 0.5 * spent / len(steps)}


def test_what_lies_between_steps_counts_in_none(time: Time):
    clock = StepClock(torch.device("cpu"))
    time.now += 1.0
    clock.data_ready()
    time.now += 50.0  # an evaluation, say
    clock.restart()
    clock.step_done()
    time.now += 1.0
    clock.data_ready()
    time.now += 3.0
    figures = clock.figures(4)
    assert (figures["step_s"], figures["images_per_s"], figures["data_wait"]) == (4.0, 1.0, 0.25)


def test_the_parts_of_a_step_are_told_apart_and_averaged(time: Time):
    class Layout:
        def __call__(self, batch: int) -> int:
            time.now += 1.0
            return batch + 1

        def backward(self, loss: torch.Tensor) -> None:
            time.now += 2.0

        def update(self) -> torch.Tensor:
            time.now += 4.0
            return torch.tensor(5.0)

        def network_state(self) -> str:
            return "asked of the layout itself"

    timed = Timed(Layout(), torch.device("cpu"))
    for _ in range(2):
        for _ in range(3):
            for _ in range(2):  # micro-batches
                assert timed(6) == 7
                timed.backward(torch.zeros(()))
            assert timed.update() == 5.0
        assert timed.figures() == {"forward_s": 2.0, "backward_s": 4.0, "update_s": 4.0}
    assert timed.network_state() == "asked of the layout itself"
