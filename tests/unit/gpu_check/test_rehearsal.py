"""The parts of the checks in miniature, each by the function that a GPU runs; in this process, few cases."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from gpu_check import correctness, kernels, planned, speed
from gpu_check.accuracy import STATE
from gpu_check.cases import cases
from gpu_check.parts import PARTS
from gpu_check.results import Result, Teller, read

from unimatch.engine.trainer import Trainer

CASE = "r101-321"


def rehearse(name: str, out: Path) -> list[Result]:
    part = next(part for part in PARTS if part.name == name)
    part.run(Teller(name, out, rehearsal=True, until=time.monotonic() + 600))
    return read(out)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One case, and of the modes two or three."""
    for module in (speed, planned, kernels):
        monkeypatch.setattr(module, "GOALS", (CASE,))
    monkeypatch.setattr(speed, "cases", lambda rehearsal: {CASE: cases(rehearsal)[CASE]})
    monkeypatch.setattr(speed, "MODES", {CASE: (speed.ORDERED,)})
    wanted = ("fp32", "recomputed", "compiled")
    monkeypatch.setattr(correctness, "BOUNDS", [one for one in correctness.BOUNDS if one[0].name in wanted])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("plan", ["R101 at 321"]),
        ("correctness", ["fp32 against cpu", "recomputed against fp32", "compiled against fp32", "curves"]),
        (
            "speed",
            [f"R101 at 321: {mode}" for mode in (speed.PLAIN, speed.PLAIN_TF32, speed.ORDERED.name)]
            + [f"R101 at 321: {mode}" for mode in (speed.PLAIN, speed.PLAIN_TF32, speed.COMPILED.name)]
            + ["R101 at 321: largest batch"],
        ),
        ("input", ["1 workers, views by the workers", "1 workers, views by the device"]),
    ],
)
def test_a_part_tells_what_it_should(name: str, told: list[str], few: None, tmp_path: Path):
    found = rehearse(name, tmp_path)
    assert [one.name for one in found][: len(told)] == told
    assert not [one for one in found if one.passed is False]
    assert all(one.values or one.name.endswith("memory") for one in found)


def test_a_profile_is_a_table_of_kinds_and_of_what_lies_between(few: None, tmp_path: Path):
    found = {one.name: one.values for one in rehearse("profile", tmp_path)}
    assert found["R101 at 321: copies and conversions"]["launches_a_step"] > 0
    assert 0 < found["R101 at 321: the device"]["busy_share"] <= 1
    assert found["R101 at 321: the host"]["step_ms"] > 0


def test_a_slice_of_the_accuracy_run_goes_on_where_the_one_before_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plain = Trainer.step

    def stopped(trainer: Trainer, step: int, *rest):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)  # as the timer of a slice does
        return plain(trainer, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stopped)
        first = rehearse("accuracy", tmp_path)[-1]
    assert (tmp_path / STATE).stat().st_size < 16 * 2**20
    second, third = (rehearse("accuracy", tmp_path)[-1] for _ in range(2))
    steps = [
        (one.values["from_step"], one.values["to_step"], one.values["of"]) for one in (first, second, third)
    ]
    assert steps == [(0, 2, 4), (2, 4, 4), (4, 4, 4)]
    assert "run --parts accuracy again" in first.note and second.note.startswith("finished")
