"""What `unimatch bench memory` calls measured: the memory of this process, as Linux counts it."""

from __future__ import annotations

from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PAGESIZE, mmap
from pathlib import Path

import pytest

from tests.support.training import bare
from unimatch.benchmarks.memory import Peak, Taken, _table, measured
from unimatch.engine.runtime import Runtime

BLOCK = 64 * 2**20


def test_the_most_that_a_process_held_is_remembered_until_it_starts_anew():
    peak = Peak()
    before = peak.now
    # Pages of its own: an array could lie where others were freed, which this process holds already.
    with mmap(-1, BLOCK, MAP_PRIVATE | MAP_ANONYMOUS) as block:
        block[::PAGESIZE] = bytes(BLOCK // PAGESIZE)
        assert peak.now - before == pytest.approx(BLOCK, rel=0.1)
    assert peak.most - before == pytest.approx(BLOCK, rel=0.1) and peak.now - before < 0.1 * BLOCK
    peak.restart()
    assert peak.most - before < 0.1 * BLOCK


def test_steps_are_measured_from_the_third_on_and_without_the_last(tiny_run: Path):
    readings = [9.0, 9.0, 3.0, 4.0, 8.0]  # the last one saves

    class Told(Peak):
        @property
        def most(self) -> float:
            return readings.pop(0)

    config = bare(tiny_run, "method={name: supervised}", "schedule.steps=5", "log.every_steps=5")
    assert measured(config, Runtime(), Told()) == 4.0 and not readings


def test_a_row_says_how_far_the_plan_is_off():
    found = {"as it is": Taken(2e8, 9e8, 1e9), "frozen": Taken(1e8, 4e8, 5e8)}
    *_, first, second = _table(found).splitlines()
    assert first == "| as it is | 200 MB | 900 MB | 1.1 GB | 1 GB | +10.0% |  |  |"
    assert second == "| frozen | 100 MB | 400 MB | 500 MB | 500 MB | +0.0% | -600 MB | -500 MB |"
