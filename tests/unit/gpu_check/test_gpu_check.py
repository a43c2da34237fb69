"""The program around the checks: limits, reports, a refusal; and its yardstick, the plain PyTorch step."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gpu_check import __main__, machine, orchestra, plain, report, slices, suite
from gpu_check.cases import cases
from gpu_check.kernels import OTHER, Span, busy_us, kind_of
from gpu_check.parts import PARTS, TOTAL_S, Part, chosen
from gpu_check.results import Result, Teller, read
from gpu_check.workload import Mode, build

from unimatch.methods.base import Progress

CPU = torch.device("cpu")


def test_without_a_gpu_there_is_a_refusal_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, "ask", lambda: {machine.PROBLEM: " (torch cannot be imported: no)"})
    assert __main__.main([str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "no CUDA device was found" in told and told.endswith("(torch cannot be imported: no)\n")
    assert not (tmp_path / "out").exists()


def test_an_ordinary_run_asks_all_but_accuracy_within_nine_minutes():
    names = [part.name for part in chosen([])]
    assert names == ["plan", "tests", "correctness", "speed", "input", "profile", "sharded"]
    assert sum(part.limit_s for part in chosen([]) if not part.beside) <= TOTAL_S < 540
    assert chosen([], rehearsal=True) == list(PARTS)
    assert [part.name for part in chosen(["accuracy", "tests"])] == ["tests", "accuracy"]
    assert all(part.limit_s <= TOTAL_S for part in PARTS)


def test_a_part_that_fails_or_does_not_end_is_a_line_of_the_report(tmp_path: Path, monkeypatch):
    programs = {
        "good": "print('fine')",
        "bad": "import sys; print('first\\nlast words'); sys.exit(3)",
        "endless": "import subprocess as s; s.Popen(['sleep', '61']); print('on and on', flush=True); "
        "s.run(['sleep', '61'])",
    }
    parts = [Part(name, "none", f"is it {name}", 0.7) for name in programs]
    monkeypatch.setattr(orchestra, "GRACE_S", 0.01)
    monkeypatch.setattr(
        orchestra, "command", lambda part, *_: [sys.executable, "-S", "-c", programs[part.name]]
    )
    began = time.monotonic()
    assert not orchestra.play(parts, tmp_path, True, 60.0, {"gpu": "none"})
    assert time.monotonic() - began < 10  # `sleep` holds nothing up
    found = json.loads((tmp_path / "report.json").read_text())
    states = [part["status"] for part in found["parts"].values()]
    assert states == ["done", "failed with exit status 3", "stopped at its limit"]
    text = (tmp_path / "report.md").read_text()
    assert "last words" in text and "on and on" in text and "| good | is it good | done |" in text
    assert "Not as it should be: 2\n\n- bad: failed with exit status 3\n- endless: stopped" in text
    assert "===== bad =====\nfirst\nlast words" in (tmp_path / "log.txt").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.md", "log.txt"}


def test_a_part_for_which_no_time_is_left_is_not_begun(tmp_path: Path):
    assert not orchestra.play([PARTS[1]], tmp_path, True, 1.0, {})
    assert "no time was left" in (tmp_path / "report.md").read_text()


def test_what_was_told_before_an_end_is_read_and_a_cut_line_is_not(tmp_path: Path):
    Teller("speed", tmp_path, True, time.monotonic()).tell("case", True, rate=float("nan"), count=3)
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"part": "speed", "na')
    (found,) = read(tmp_path)
    assert (found.name, found.values, found.passed) == ("case", {"rate": "nan", "count": 3}, True)


def test_the_plan_is_held_against_what_was_measured():
    found = [
        Result("plan", "A at 1", {"peak_gib": 9.5, "most_samples": 120}),
        Result("plan", "B at 2", {"peak_gib": 12.0, "most_samples": 90}),
        Result("speed", "A at 1: bf16", {"peak_gib": 10.0}),
        Result("speed", "A at 1: fp32", {"peak_gib": 20.0}),
        Result("speed", "B at 2: bf16", {"peak_gib": 10.0}),
        Result("speed", "A at 1: largest batch", {"samples": 100}),
        Result("speed", "B at 2: largest batch", {}),
    ]
    close, off, largest = report.plan_against_measured(found)
    assert (close.name, close.passed, close.values["off"]) == ("A at 1: GiB", True, -0.05)
    assert (off.passed, off.values["off"]) == (False, 0.2)
    assert (largest.name, largest.passed, largest.values["off"]) == ("A at 1: largest batch", None, 0.2)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (
            "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc",
            "convolutions and matrix products",
        ),
        ("void at::native::batch_norm_collect_statistics_channels_last_kernel<...>", "batch and layer norms"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<...>", "optimiser and teacher"),
        ("Memcpy HtoD (Pinned -> Device)", "copies and conversions"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::AddFunctor>", "element by element"),
        ("flash_fwd_kernel", "attention"),
        ("unheard_of", OTHER),
    ],
)
def test_kernels_are_told_apart_by_their_names(name: str, kind: str):
    assert kind_of(name) == kind


def test_time_of_kernels_that_overlap_counts_once_and_short_pauses_are_no_gaps():
    spans = [
        Span("a", 0, 100),
        Span("b", 50, 120),
        Span("c", 125, 130),
        Span("d", 230, 240),
        Span("e", 60, 70),
    ]
    assert busy_us(spans) == (135.0, 100.0, 1)


def test_slices_come_back_to_the_last_bit(tmp_path: Path):
    folder = tmp_path / "source" / "data" / "slices"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    made = {}
    for name in ("patient_1", "patient_2"):
        image, label = random.integers(0, 257, (9, 7)), random.integers(0, 4, (9, 7), np.uint8)
        image[0, :3] = 256
        made[name] = image.astype(np.float32) / 256, label
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["image"], file["label"] = made[name]
    assert slices.write(tmp_path / "source", tmp_path / "small.zip") == 2
    assert slices.read(tmp_path / "small.zip", tmp_path / "again") == 2
    for name, (image, label) in made.items():
        with h5py.File(tmp_path / "again" / "data" / "slices" / f"{name}.h5") as file:
            assert file["image"].dtype == np.float32 and np.array_equal(file["image"][:], image)
            assert file["label"].dtype == np.uint8 and np.array_equal(file["label"][:], label)
    with h5py.File(folder / "patient_1.h5", "w") as file:
        file["image"], file["label"] = np.full((2, 2), 0.3, np.float32), np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="not in steps of 1/256"):
        slices.write(tmp_path / "source", tmp_path / "small.zip")


@pytest.mark.parametrize("key", ["r101-321", "change", "medical", "vit-b-518"])
def test_the_plain_step_has_the_loss_of_the_trainers_step(key: str, monkeypatch: pytest.MonkeyPatch):
    """The same network and views; without dropout, which each draws in its own way."""
    case = cases(rehearsal=True)[key]
    work = build(case, Mode("fp32"))
    net, method = work.trainer.net, work.trainer.method
    changes = {"complementary_dropout": False} if key == "vit-b-518" else {"feature_dropout": 0.0}
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    yardstick = plain.Plain(copy.deepcopy(net), case, CPU)
    batch = work.trainer.task.to_device(work.raw, CPU, work.shares)
    x, u = batch.labeled, batch.unlabeled
    assert u is not None and u.partner is not None
    views = {"image": x.image, "label": x.label, "weak": u.weak, "ignored": torch.where(u.valid, 0, 255)}
    views |= {"other_weak": u.partner.weak, "other_ignored": torch.where(u.partner.valid, 0, 255)}
    for number, (strong, partner, box) in enumerate(zip(u.strong, u.partner.strong, u.boxes, strict=True), 1):
        views |= {f"strong{number}": strong, f"other_strong{number}": partner, f"box{number}": box.float()}
    assert {name: value.shape for name, value in yardstick.batch.items()}.items() <= {
        name: value.shape for name, value in views.items()
    }.items()
    # Some pixels pass and others do not.
    with torch.no_grad():
        tau = float(copy.deepcopy(net).train()(u.weak)["logits"].softmax(1).amax(1).median())
    method.config = dataclasses.replace(method.config, threshold=tau, **changes)
    monkeypatch.setattr(plain, "TAU", tau)
    monkeypatch.setattr(F, "dropout2d", lambda values, p: values)
    monkeypatch.setattr(torch, "bernoulli", lambda probabilities: probabilities)
    loss, logs = method.step(net, batch, Progress(5, 10, 0))
    assert 0 < float(logs["kept"]) < 1 and any(bool(box.any()) for box in u.boxes)
    found = yardstick._loss_v2(views) if yardstick.is_v2 else yardstick._loss(views)
    assert found.item() == pytest.approx(loss.item(), rel=1e-5)


def test_each_test_of_the_suite_is_told_as_soon_as_it_has_ended(tmp_path: Path):
    lines = suite.Lines(Teller("tests", tmp_path, True, time.monotonic()))

    def ended(name: str, when: str, outcome: str, longrepr: object = None) -> None:
        place = ("tests/gpu/test_a.py", 3, name)
        report = SimpleNamespace(location=place, when=when, outcome=outcome, longrepr=longrepr, duration=0.25)
        lines.pytest_runtest_logreport(report)  # type: ignore[arg-type]

    for when in ("setup", "call", "teardown"):
        ended("test_good", when, "passed")
    ended("test_bad", "call", "failed", SimpleNamespace(reprcrash=SimpleNamespace(message="assert 1 == 2")))
    ended("test_torn", "teardown", "failed", "no fixture")
    ended("test_gpu[bf16]", "setup", "skipped", ("conftest.py", 9, "Skipped: needs a CUDA device"))
    found = [(one.name, one.passed, one.note) for one in read(tmp_path)]
    assert found == [
        ("test_a: test_good", True, ""),
        ("test_a: test_bad", False, "assert 1 == 2"),
        ("test_a: test_torn", False, "no fixture"),
        ("test_a: test_gpu[bf16]", None, "Skipped: needs a CUDA device"),
    ]
    assert lines.counts == {"passed": 1, "failed": 2, "skipped": 1}
