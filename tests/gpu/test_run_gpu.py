"""Whole runs on one GPU: pinned loading, half precision, checkpoints, resume, processes' groups."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.support.training import bare, built, trained
from unimatch import config as config_io
from unimatch import scale
from unimatch.benchmarks import methods
from unimatch.engine import checkpoint
from unimatch.engine.batchnorm import synchronize_batchnorm
from unimatch.engine.replicas import Buffers
from unimatch.engine.restore import restore
from unimatch.engine.run_config import RunConfig
from unimatch.engine.runtime import Runtime
from unimatch.scaling.spawn import Job, places, run_all

STEPS = "schedule.steps=4"
HOSTS = """
import torch
from unimatch.engine.runtime import Runtime
runtime = Runtime(timeout_s=60)
runtime.await_all()
total = runtime.sum_on_host(torch.ones(2)).tolist()
print(runtime._host_group is not None, total, runtime.gather(runtime.rank))
runtime.close()
"""
EVERY = "checkpoint.every_steps=2"


def test_a_loader_pins_what_it_gives_to_a_gpu(tiny_run: Path, gpu: torch.device):
    _, micros = next(iter(built(bare(tiny_run, STEPS)).loader))
    halves = [micros[0]["labeled"], micros[0]["unlabeled"] or {}]
    assert all(value.is_pinned() for half in halves for value in half.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_resumes_from_what_it_saved(
    precision: str, tiny_run: Path, tmp_path: Path, request: pytest.FixtureRequest, record_property
):
    """What was saved is loaded to the last bit. The steps behind it agree within rounding: some kernels of a
    GPU add in an order of their own.
    """
    if precision != "fp32":
        request.getfixturevalue("gpu")
    settings = (STEPS, EVERY, f"precision={precision}", "optimizer.lr=0.001", "method.threshold=0")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ran = built(bare(tiny_run, *settings, f"out={whole}"), runtime=Runtime(precision))
    lines = trained(ran)
    shutil.copytree(whole, cut, symlinks=True)
    shutil.rmtree(cut / "checkpoints" / "step_00000004")  # as if the run had been killed before
    (cut / "last").unlink()
    (cut / "last").symlink_to("checkpoints/step_00000002")
    again = built(bare(tiny_run, *settings, f"out={cut}"), resume=True, runtime=Runtime(precision))
    assert again.state.step == 2
    saved = checkpoint.load_network(cut / "last", checkpoint.NETWORK)
    for name, value in again.net.state_dict().items():
        assert torch.equal(value.cpu(), saved[name]), name
    moments = [state["momentum_buffer"] for state in again.optimizer.state.values()]
    assert moments and all(moment.device == again.runtime.device for moment in moments)
    scaler = again.runtime.accelerator.scaler
    assert (scaler is not None) == (precision == "fp16")
    losses = [line["loss"] for line in trained(again, resume=True)], [line["loss"] for line in lines[2:]]
    record_property("equal_to_the_bit", losses[0] == losses[1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4 if precision == "fp32" else 3e-2)
    if scaler is not None:
        assert scaler.get_scale() == ran.runtime.accelerator.scaler.get_scale()


def test_a_trained_run_is_restored_on_the_device(tiny_run: Path, tmp_path: Path, device: torch.device):
    config = bare(tiny_run, "schedule.steps=1", f"out={tmp_path / 'run'}")
    trained(built(config))
    found = restore(tmp_path / "run", "last", None, Runtime())
    image = torch.randint(0, 256, (1, 48, 64, 3), dtype=torch.uint8).to(device)
    assert found.task.predict(found.net, image).device.type == device.type


@pytest.fixture
def alone(gpu: torch.device, monkeypatch: pytest.MonkeyPatch):
    """A process group of one process, over NCCL, and one over gloo beside it."""
    for name, value in places(1)[0].items():
        monkeypatch.setenv(name, value)
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", device_id=torch.device("cuda", 0))
    try:
        yield dist.new_group(backend="gloo")
    finally:
        dist.destroy_process_group()


def test_sums_travel_over_nccl_on_the_device_and_over_gloo_on_the_host(alone, gpu: torch.device):
    runtime = Runtime()
    runtime.world, runtime._host_group = 2, alone  # as if there were another one: the sum is over one
    assert runtime.sum_on_device(torch.ones(3, device=gpu)).tolist() == [1, 1, 1]
    assert runtime.sum_on_host(torch.ones(3)).tolist() == [1, 1, 1]
    asked = runtime.sum_later(torch.ones(2, dtype=torch.float64))
    assert asked().tolist() == [1, 1]
    buffers = [torch.rand(5, device=gpu), torch.rand(2, 3, device=gpu)]
    before = [buffer.clone() for buffer in buffers]
    sent = Buffers(buffers)
    sent.send()
    for buffer in buffers:
        buffer.zero_()  # what was sent is not what comes after
    sent.receive()
    assert all(torch.equal(*pair) for pair in zip(buffers, before, strict=True))
    assert os.environ["WORLD_SIZE"] == "1"


def test_synchronised_norms_of_a_gpu_are_torchs(alone, gpu: torch.device):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(gpu)
    plain = net(torch.ones(2, 3, 8, 8, device=gpu))
    net = synchronize_batchnorm(net, gpu)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in net.modules())
    assert torch.allclose(net(torch.ones(2, 3, 8, 8, device=gpu)), plain, atol=1e-5)


def test_counts_of_two_processes_travel_over_the_hosts_group(gpu: torch.device):
    """Both on one card, over which NCCL itself would refuse to send: nothing here asks it to."""
    (told,) = run_all([Job(2, ["-c", HOSTS], {})], timeout_s=120)
    assert told.splitlines()[-1] == "True [2.0, 2.0] [0, 1]"


def test_a_step_of_the_benchmark_of_methods_has_ended_when_it_is_timed(device: torch.device):
    text = methods.RUN.format(size=2, encoder="test_efficientnet", method="unimatch", crop=32)
    step = methods._step(config_io.from_text(text, RunConfig), Runtime())
    assert step() == 1
    assert device.type == "cpu" or torch.cuda.current_stream().query()


def test_the_machine_of_a_scaling_measurement_has_the_cards_name(device: torch.device):
    found = scale._machine()
    assert found["gpu"] == (torch.cuda.get_device_name(0) if device.type == "cuda" else None)
    assert found["slots"] == (torch.cuda.device_count() or len(os.sched_getaffinity(0)))
