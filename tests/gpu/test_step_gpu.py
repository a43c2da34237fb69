"""The trainer's step on a GPU: what it computes, that the host never waits in it, what it tells of memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gpu_check.cases import cases
from gpu_check.workload import Mode, build

from unimatch.data.training import RawMicro
from unimatch.engine.copies import Copies
from unimatch.engine.timing import StepClock, Timed
from unimatch.methods.base import Progress

CASES = cases(rehearsal=True)  # the published settings with tiny networks
FP32, BF16 = Mode("fp32"), Mode("bf16", precision="bf16")


@pytest.mark.parametrize("key", ["r101-321", "vit-b-518", "change", "medical"])
def test_gradients_are_those_of_the_cpu(key: str, gpu: torch.device, monkeypatch: pytest.MonkeyPatch):
    """One step of each kind of sample, with every pseudo-label counted."""
    found = []
    for place in (gpu, torch.device("cpu")):
        torch.manual_seed(0)
        work = build(CASES[key], FP32)
        work.trainer.method.config.threshold = 0.0
        net, method = work.trainer.net.to(place), work.trainer.method
        for other in method.eval_nets(net).values():
            other.to(place)
        batch = work.trainer.task.to_device(work.raw, place, work.shares)
        if key == "medical":  # its dropout draws from each device's own generator
            for module in net.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        loss, _ = method.step(net, batch, Progress(5, 10, 0))
        loss.backward()
        found.append([loss.item(), *(p.grad.double().norm().item() for p in net.parameters())])
    assert found[0] == pytest.approx(found[1], rel=2e-3, abs=1e-6)


@pytest.mark.parametrize("mode", [FP32, BF16, Mode("fp16", precision="fp16")], ids=lambda mode: mode.name)
@pytest.mark.parametrize("key", ["r101-321", "vit-b-518", "change", "medical"])
def test_the_host_never_waits_in_a_step(key: str, mode: Mode, request: pytest.FixtureRequest):
    if mode.precision != "fp32":  # on CPUs bf16 is emulated
        request.getfixturevalue("gpu")
    work = build(CASES[key], mode)
    work.step()  # what is made once may wait
    request.getfixturevalue("no_wait")
    for _ in range(2):
        work.step()


def test_a_step_with_clipped_gradients_does_not_wait_either(request: pytest.FixtureRequest):
    clipped = replace(CASES["r101-321"], optimizer="{name: sgd, lr: 1e-4, clip_norm: 1.0}")
    work = build(clipped, BF16)
    work.step()
    request.getfixturevalue("no_wait")
    told, _ = work.trainer.step(1, [work.raw], [work.shares])
    assert told[0]["grad_norm"].ndim == 0


def test_weights_lie_as_channels_last_and_gradients_reach_all_of_them(device: torch.device):
    """In bf16 too: weights that autocast had cast for the pass without a graph would get none."""
    work = build(CASES["r101-321"], BF16)
    kernels = [p for p in work.trainer.net.parameters() if p.ndim == 4 and p.shape[2] > 1 and p.shape[1] > 1]
    assert kernels and all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    before = [p.detach().clone() for p in work.trainer.net.parameters()]
    work.trainer.optimizer.param_groups[0]["weight_decay"] = 0.0
    for _ in range(3):
        work.step()
    moved = [not torch.equal(p, old) for p, old in zip(work.trainer.net.parameters(), before, strict=True)]
    assert sum(moved) > 0.9 * len(moved)
    assert next(work.trainer.net.parameters()).device.type == device.type


def test_the_seed_of_a_step_is_that_of_the_device_too(device: torch.device):
    runtime = build(CASES["medical"], FP32).trainer.runtime
    drawn = []
    for seed in (1, 2, 1):
        runtime.seed(seed)
        drawn.append((torch.rand(4, device=device), torch.rand(4)))
    for place in (0, 1):
        assert torch.equal(drawn[0][place], drawn[2][place])
        assert not torch.equal(drawn[0][place], drawn[1][place])


def test_copies_run_on_a_stream_of_their_own_and_are_there_when_they_are_used(
    gpu: torch.device, no_wait: None
):
    torch.cuda.set_sync_debug_mode("default")
    copies = Copies(gpu)
    assert copies.stream is not None and copies.stream != torch.cuda.current_stream()
    busy = torch.randn(4096, 4096, device=gpu)
    for number in range(20):
        values = torch.full((1 << 20,), number, dtype=torch.int32).pin_memory()
        raw: RawMicro = {"labeled": {"image": values}, "unlabeled": None, "skipped": 3, "counts": []}
        for _ in range(5):
            busy = busy @ busy * 1e-4  # the device is behind the host
        torch.cuda.set_sync_debug_mode("error")
        moved = copies.start(raw)
        total = moved["labeled"]["image"].long().sum()
        del moved  # its memory must not be given to the next copy before the sum is made
        torch.cuda.set_sync_debug_mode("default")
        raw["labeled"]["image"] = values = None  # type: ignore[assignment]
        assert total.item() == number << 20
    assert raw["skipped"] == 3


def test_a_clock_tells_the_devices_peak_and_waits_for_it_where_it_is_asked_to(gpu: torch.device):
    clock = StepClock(gpu)
    torch.cuda.reset_peak_memory_stats()
    block = torch.empty(1 << 28, dtype=torch.uint8, device=gpu)
    clock.data_ready()
    assert clock.figures(8)["memory_gib"] >= 0.25
    del block
    work = build(CASES["r101-321"], FP32)
    work.trainer._layout = timed = Timed(work.trainer._layout, gpu)
    work.step()
    figures = timed.figures()
    assert set(figures) == {"forward_s", "backward_s", "update_s"} and min(figures.values()) > 0
